// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** Decodes images, and makes the views that the vision encoder takes, as `FlashSlothImageProcessor` does. */

import { isTurned, typeOf } from "./exif.js";
import { resize } from "./resizing.js";

/** An image as the browser decodes it: upright, and without its colour profile. */
async function openImage(blob) {
    try {
        return await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    } catch {
        throw new Error("The browser cannot decode it. Pick a PNG, JPEG, WebP or GIF.");
    }
}

/**
 * Decodes an image, upright, without its colour profile and without transparency, as Pillow does. What a browser decodes
 * in another way is refused.
 *
 * @param {Blob} blob
 * @returns {Promise<{data: Uint8Array, width: number, height: number}>} Red, green and blue of each pixel, row by row.
 */
export async function decodeImage(blob) {
    const bitmap = await openImage(blob);
    const { width, height } = bitmap;
    let pixels;
    try {
        const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        context.drawImage(bitmap, 0, 0);
        pixels = context.getImageData(0, 0, width, height).data;
    } catch {
        throw new Error(`The image has ${width} x ${height} pixels, too many for this browser: make it smaller.`);
    } finally {
        bitmap.close();
    }
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const type = typeOf(bytes, blob.type);
    const isSeeThrough = isTransparent(pixels);
    if ((isSeeThrough || type === "image/webp") && isTurned(bytes, type)) {
        throw new Error("The browser does not turn it as its EXIF data says: save it upright.");
    }
    if (isSeeThrough) {
        pixels = await decodeTransparent(bytes, type, width, height);
    }
    const data = new Uint8Array(3 * width * height);
    for (let from = 0, to = 0; from < pixels.length; from += 4) {
        data[to++] = pixels[from];
        data[to++] = pixels[from + 1];
        data[to++] = pixels[from + 2];
    }
    return { data, width, height };
}

function isTransparent(pixels) {
    for (let place = 3; place < pixels.length; place += 4) {
        if (pixels[place] !== 255) {
            return true;
        }
    }
    return false;
}

/** The pixels of a transparent image: a canvas forgets their colours, an `ImageDecoder`, where there is one, does not. */
async function decodeTransparent(bytes, type, width, height) {
    const refusal = new Error("The browser forgets the colours of its transparent pixels: save it without transparency.");
    // Of a GIF no decoder keeps them.
    if (type === "image/gif" || !("ImageDecoder" in self) || !(await ImageDecoder.isTypeSupported(type))) {
        throw refusal;
    }
    const decoder = new ImageDecoder({ data: bytes, type, premultiplyAlpha: "none", colorSpaceConversion: "none" });
    const { image } = await decoder.decode();
    const { format, codedWidth, codedHeight } = image;
    const pixels = new Uint8Array(image.allocationSize());
    await image.copyTo(pixels); // as they are: a conversion to RGBA would round them
    image.close();
    decoder.close();
    if (codedWidth !== width || codedHeight !== height || !["RGBA", "BGRA"].includes(format)) {
        throw refusal;
    }
    if (format === "BGRA") {
        for (let place = 0; place < pixels.length; place += 4) {
            [pixels[place], pixels[place + 2]] = [pixels[place + 2], pixels[place]];
        }
    }
    return pixels;
}

/** An image resized to a view. Pixels are rounded after each pass: which comes first is as in `FlashSlothImageProcessor`. */
function squash(image, { width, height }, resample) {
    const isTall = image.height - height > Math.max(0, 2 * (image.width - width));
    const shortened = isTall ? resize(image, image.width, height, resample) : image;
    return resize(shortened, width, height, resample);
}

/** Makes views by the settings in a folder's `processor_config.json`. */
export class ImageProcessor {
    /** @param {object} settings Its `image_processor`. */
    constructor(settings) {
        this.settings = settings;
        this.hd = Boolean(settings.hd);
        this.tileGrid = settings.tile_grid;
    }

    /** How many views an image makes. */
    numViews(hd) {
        return hd ? 1 + this.tileGrid ** 2 : 1;
    }

    /**
     * @param {{data: Uint8Array, width: number, height: number}} image
     * @param {boolean} hd Whether to add tiles.
     * @returns {Float32Array[]} Views of shape (3, height, width): the squashed image, then tiles row by row.
     */
    views(image, hd) {
        const { size, resample, fill_color: fill } = this.settings;
        const views = [this.#normalize(squash(image, size, resample))];
        if (hd) {
            const side = Math.max(image.width, image.height);
            const [left, top] = [image.width, image.height].map((length) => Math.floor((side - length) / 2));
            const square = { width: side, height: side, left, top, fill };
            const grid = this.tileGrid;
            const canvas = resize(image, grid * size.width, grid * size.height, resample, square);
            for (let tile = 0; tile < grid ** 2; tile++) {
                const corner = { x: (tile % grid) * size.width, y: Math.floor(tile / grid) * size.height };
                views.push(this.#normalize(canvas, corner));
            }
        }
        return views;
    }

    /** The floats of a view, which is cut out of a canvas, channel by channel. */
    #normalize(canvas, corner = { x: 0, y: 0 }) {
        const { width, height } = this.settings.size;
        const view = new Float32Array(3 * width * height);
        for (let channel = 0; channel < 3; channel++) {
            const values = this.#valuesOf(channel);
            let place = channel * width * height;
            for (let y = corner.y; y < corner.y + height; y++) {
                for (let x = corner.x; x < corner.x + width; x++) {
                    view[place++] = values[canvas.data[3 * (y * canvas.width + x) + channel]];
                }
            }
        }
        return view;
    }

    /** What becomes of each of the 256 levels of a channel, in 32-bit floats as NumPy has them. */
    #valuesOf(channel) {
        const settings = this.settings;
        const ofChannel = (values) => Math.fround([values].flat().at([values].flat().length > 1 ? channel : 0));
        return Float32Array.from({ length: 256 }, (_, level) => {
            const value = settings.do_rescale ? Math.fround(level * Math.fround(settings.rescale_factor)) : level;
            if (!settings.do_normalize) {
                return value;
            }
            return Math.fround(value - ofChannel(settings.image_mean)) / ofChannel(settings.image_std);
        });
    }
}
