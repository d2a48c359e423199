// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/**
 * Resizes images as Pillow does, to the bit: a canvas of the browser smooths otherwise, and other pixels may become
 * other answers. Filters, their numbers and the arithmetic in whole numbers are those of Pillow's `Image.resize`.
 */

const PRECISION_BITS = 32 - 8 - 2; // of the weights of pixels, which are whole numbers
const NEAREST = 0;

function sinc(x) {
    return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Filters by Pillow's numbers: how far each reaches, and the weight at a distance. */
const FILTERS = new Map([
    [1, { reach: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) }], // Lanczos
    [2, { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) }], // bilinear
    [3, { reach: 2, weight: bicubic }],
    [4, { reach: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) }], // box
    [5, { reach: 1, weight: (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)) : 0) }], // Hamming
]);

function bicubic(distance) {
    const a = -0.5;
    const x = Math.abs(distance);
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * Resizes an image, or a canvas on which it lies.
 *
 * @param {{data: Uint8Array, width: number, height: number}} image Red, green and blue of each pixel, row by row.
 * @param {number} width Of the result, in pixels.
 * @param {number} height Of the result, in pixels.
 * @param {number} filter Pillow's number of it.
 * @param {{width: number, height: number, left: number, top: number, fill: number}} [canvas] Its size, where the image
 *     lies on it, and the grey level around it.
 * @returns {{data: Uint8Array, width: number, height: number}}
 */
export function resize(image, width, height, filter, canvas) {
    const around = canvas ?? { width: image.width, height: image.height, left: 0, top: 0, fill: 0 };
    const columns = sources(around.width, width, filter);
    const narrow = resizeRows(image, columns, around);
    return resizeColumns(narrow, sources(around.height, height, filter), around);
}

/** For each pixel of a resized line the first pixel that it is made of, and the weights of that and the next ones. */
function sources(length, newLength, filter) {
    const scale = length / newLength;
    if (filter === NEAREST) {
        const weights = Int32Array.of(1 << PRECISION_BITS);
        let position = scale * 0.5; // Pillow adds, where a product would be rounded otherwise
        return Array.from({ length: newLength }, () => {
            const first = Math.min(length - 1, Math.floor(position));
            position += scale;
            return { first, weights };
        });
    }
    if (!FILTERS.has(filter)) {
        throw new Error(`The image processor has resample=${filter}, which is no filter of Pillow.`);
    }
    const { reach, weight } = FILTERS.get(filter);
    const stretch = Math.max(scale, 1);
    return Array.from({ length: newLength }, (_, index) => {
        const centre = (index + 0.5) * scale;
        const first = Math.max(0, Math.trunc(centre - reach * stretch + 0.5));
        const end = Math.min(length, Math.trunc(centre + reach * stretch + 0.5));
        const raw = Array.from({ length: end - first }, (_, x) => weight((x + first - centre + 0.5) * (1 / stretch)));
        const sum = raw.reduce((a, b) => a + b, 0);
        return { first, weights: Int32Array.from(raw, (value) => toWhole(sum === 0 ? value : value / sum)) };
    });
}

function toWhole(weight) {
    return Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * (1 << PRECISION_BITS));
}

function toByte(sum) {
    return Math.min(255, Math.max(0, sum >> PRECISION_BITS));
}

/** Narrows or widens the rows in which the image lies. */
function resizeRows({ data, width, height }, columns, { left, fill }) {
    const result = new Uint8Array(3 * columns.length * height);
    let place = 0;
    for (let y = 0; y < height; y++) {
        for (const { first, weights } of columns) {
            for (let channel = 0; channel < 3; channel++) {
                let sum = 1 << (PRECISION_BITS - 1);
                for (let index = 0; index < weights.length; index++) {
                    const x = first + index - left;
                    const isInside = x >= 0 && x < width;
                    sum += weights[index] * (isInside ? data[3 * (y * width + x) + channel] : fill);
                }
                result[place++] = toByte(sum);
            }
        }
    }
    return { data: result, width: columns.length, height };
}

/** Shortens or lengthens the columns; above and below the image they are filled. */
function resizeColumns({ data, width, height }, rows, { top, fill }) {
    const result = new Uint8Array(3 * width * rows.length);
    const sums = new Float64Array(3 * width);
    rows.forEach(({ first, weights }, row) => {
        sums.fill(1 << (PRECISION_BITS - 1));
        weights.forEach((weight, index) => {
            const y = first + index - top;
            const isInside = y >= 0 && y < height;
            for (let x = 0; x < sums.length; x++) {
                sums[x] += weight * (isInside ? data[3 * y * width + x] : fill);
            }
        });
        for (let x = 0; x < sums.length; x++) {
            result[row * sums.length + x] = toByte(sums[x]);
        }
    });
    return { data: result, width, height: rows.length };
}
