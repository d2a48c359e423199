// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** What image files say of themselves: their type, by their first bytes, and how they are turned, by their EXIF data. */

const ORIENTATION = 0x0112; // the number of EXIF's tag
const UPRIGHT = 1;
const TYPES = { "image/png": /^\x89PNG\r\n\x1a\n/, "image/webp": /^RIFF[^]{4}WEBP/, "image/gif": /^GIF8/ };

const textAt = (bytes, start, length) => String.fromCharCode(...bytes.subarray(start, start + length));

/** The type of a PNG, WebP or GIF, whatever its name says; that of its name for other files. */
export function typeOf(bytes, named) {
    const start = textAt(bytes, 0, 12);
    return Object.keys(TYPES).find((type) => TYPES[type].test(start)) ?? named;
}

/** Whether a PNG or WebP is to be turned or mirrored before it is shown. */
export function isTurned(bytes, type) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const exif = { "image/png": exifInPng, "image/webp": exifInWebp }[type]?.(bytes, view) ?? null;
    return exif !== null && orientationIn(bytes, view, exif) !== UPRIGHT;
}

/** Where the EXIF data of a PNG begin; `null` if there are none. */
function exifInPng(bytes, view) {
    for (let place = 8; place + 12 <= bytes.length; place += 12 + view.getUint32(place)) {
        if (textAt(bytes, place + 4, 4) === "eXIf") {
            return place + 8;
        }
    }
    return null;
}

/** Where the EXIF data of a WebP begin; `null` if there are none. */
function exifInWebp(bytes, view) {
    for (let place = 12; place + 8 <= bytes.length; place += 8 + 2 * Math.ceil(view.getUint32(place + 4, true) / 2)) {
        if (textAt(bytes, place, 4) === "EXIF") {
            return place + 8;
        }
    }
    return null;
}

/** The orientation in EXIF data: a TIFF header, behind which the first directory has the tag. */
function orientationIn(bytes, view, start) {
    const header = textAt(bytes, start, 6) === "Exif\0\0" ? start + 6 : start; // which some programs write before it
    const isLittle = textAt(bytes, header, 2) === "II";
    try {
        const directory = header + view.getUint32(header + 4, isLittle);
        const number = view.getUint16(directory, isLittle);
        for (let place = directory + 2; place < directory + 2 + 12 * number; place += 12) {
            if (view.getUint16(place, isLittle) === ORIENTATION) {
                return view.getUint16(place + 8, isLittle);
            }
        }
    } catch (error) {
        if (!(error instanceof RangeError)) {
            throw error;
        }
    }
    return UPRIGHT; // damaged EXIF data turns nothing
}
