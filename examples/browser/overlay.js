// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** Lays what the query tokens attend to over an image, as `ImageAttention.overlay` does. */

// From low to high: dark blue, violet, orange, light yellow.
const COLOURS = [
    [13, 8, 135],
    [156, 23, 158],
    [237, 121, 83],
    [240, 249, 33],
];
const OPACITY = 0.85; // of the colours where the weight is highest
const LONGEST_SIDE = 1024; // of the drawing, in pixels
const GREY = [0.299, 0.587, 0.114]; // shares of red, green and blue

/**
 * Draws an image in grey under the weights of its patches in colour.
 *
 * @param {HTMLCanvasElement} canvas To draw on; it gets the image's shape.
 * @param {HTMLImageElement} image
 * @param {Float32Array} weights Of the patches of the standard view, and of the tiles behind it if there are any.
 * @param {object} config The model's.
 * @param {number} tileGrid Tiles along each side.
 */
export function drawOverlay(canvas, image, weights, config, tileGrid) {
    const shrink = Math.min(1, LONGEST_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
    canvas.width = Math.max(1, Math.round(image.naturalWidth * shrink));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * shrink));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const drawing = context.getImageData(0, 0, canvas.width, canvas.height);
    const density = overImage(weights, canvas.width, canvas.height, config, tileGrid);
    const highest = density.reduce((a, b) => Math.max(a, b), Number.MIN_VALUE);
    density.forEach((value, index) => colour(drawing.data, 4 * index, value / highest));
    context.putImageData(drawing, 0, 0);
}

/** Colours one pixel; `share` is its weight as a part of the highest one. */
function colour(data, place, share) {
    const position = share * (COLOURS.length - 1);
    const below = Math.min(Math.floor(position), COLOURS.length - 2);
    const grey = GREY.reduce((sum, part, channel) => sum + part * data[place + channel], 0);
    for (let channel = 0; channel < 3; channel++) {
        const [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
        const shade = low + (high - low) * (position - below);
        data[place + channel] = grey + (shade - grey) * share * OPACITY;
    }
    data[place + 3] = 255;
}

/** The weight of each pixel of an image, row by row, as `over_image` in attention_maps.py gives it. */
export function overImage(weights, width, height, config, tileGrid) {
    const side = Math.max(width, height);
    const numPatches = gridSize(config) ** 2;
    const standard = { weights: weights.subarray(0, numPatches), grid: 1, factor: 1 / (width * height) };
    standard.x = positions(width, width, 0);
    standard.y = positions(height, height, 0);
    const layers = [standard];
    if (weights.length > numPatches) {
        const tiles = { weights: weights.subarray(numPatches), grid: tileGrid, factor: (tileGrid / side) ** 2 };
        tiles.x = positions(width, side, Math.floor((side - width) / 2));
        tiles.y = positions(height, side, Math.floor((side - height) / 2));
        layers.push(tiles);
    }
    const total = new Float64Array(width * height);
    layers.forEach((layer) => addLayer(total, layer, config));
    return total;
}

function gridSize(config) {
    return Math.floor(config.vision_config.image_size / config.vision_config.patch_size);
}

/** Where the centres of pixels are on a line of a canvas, from 0 to 1. */
function positions(length, side, offset) {
    return Array.from({ length }, (_, index) => (index + 0.5 + offset) / side);
}

function addLayer(total, { weights, grid, factor, x, y }, config) {
    const columns = x.map((position) => locate(position, grid, config));
    const rows = y.map((position) => locate(position, grid, config));
    const { image_size: imageSize, patch_size: patchSize } = config.vision_config;
    const scale = factor * (imageSize / patchSize) ** 2;
    const size = gridSize(config);
    const patch = (row, column) => {
        const tile = Math.floor(row / size) * grid + Math.floor(column / size);
        return weights[tile * size ** 2 + (row % size) * size + (column % size)];
    };
    rows.forEach((row, index) => {
        columns.forEach((column, place) => {
            if (row.isCovered && column.isCovered) {
                const above = mix(patch(row.before, column.before), patch(row.before, column.after), column.share);
                const below = mix(patch(row.after, column.before), patch(row.after, column.after), column.share);
                total[index * columns.length + place] += scale * mix(above, below, row.share);
            }
        });
    });
}

function mix(first, second, share) {
    return first + (second - first) * share;
}

/** Between which rows or columns of patches a position is, and whether a patch is there. */
function locate(position, grid, config) {
    const { image_size: imageSize, patch_size: patchSize } = config.vision_config;
    const size = gridSize(config);
    const pixel = position * grid * imageSize;
    const tile = Math.floor(pixel / imageSize);
    const patch = (pixel - tile * imageSize) / patchSize;
    const last = grid * size - 1;
    const centred = Math.min(last, Math.max(0, tile * size + patch - 0.5));
    const before = Math.floor(centred);
    return { before, after: Math.min(before + 1, last), share: centred - before, isCovered: patch < size };
}
