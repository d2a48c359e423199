// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/**
 * Loads a model and answers questions, beside the page. Messages to it have the type "load", "ask", "stop" or "reset",
 * those from it "progress", "ready", "text", "answer" or "error".
 */

import { Chat } from "./chat.js";
import { ModelFolder } from "./folder.js";
import { decodeImage, ImageProcessor } from "./images.js";
import { Model, readGenerationConfig } from "./model.js";
import { Prompts } from "./prompts.js";

// A WebAssembly module with one SIMD instruction; onnxruntime-web has no build without SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

const DEVICES = ["wasm", "webgpu"];

const state = { chat: null, isStopped: false };

/** Lets messages in that wait. */
function pause() {
    return new Promise((resolve) => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => {
            port1.close();
            resolve();
        };
        port2.postMessage(null);
    });
}

async function importLibraries({ wasm, webgpu, tokenizers, jinja }, device) {
    try {
        const modules = [device === "webgpu" ? webgpu : wasm, tokenizers, jinja].map((address) => import(address));
        const [ort, { Tokenizer }, { Template }] = await Promise.all(modules);
        return { ort, Tokenizer, Template };
    } catch {
        throw new Error("The libraries of this page cannot be loaded: run npm ci in its folder, or check the connection.");
    }
}

async function findDevice(wanted) {
    if (wanted && !DEVICES.includes(wanted)) {
        throw new Error(`The address of this page asks for the device ${wanted}: take ${DEVICES.join(" or ")}.`);
    }
    if (!WebAssembly.validate(Uint8Array.from(SIMD))) {
        throw new Error("This browser has no WebAssembly SIMD, which onnxruntime-web needs: take a newer one.");
    }
    const adapter = wanted === "wasm" ? null : await navigator.gpu?.requestAdapter();
    if (wanted === "webgpu" && !adapter) {
        throw new Error("This browser has no WebGPU here: take the device wasm.");
    }
    // WebAssembly is faster than a WebGPU that computes in software.
    return adapter && (wanted || !adapter.info.isFallbackAdapter) ? "webgpu" : "wasm";
}

async function load({ libraries, address, weights: wanted, device: wantedDevice }) {
    const device = await findDevice(wantedDevice);
    const { ort, ...textLibraries } = await importLibraries(libraries, device);
    const folder = new ModelFolder(address);
    const files = await folder.readSettings();
    const { record, config, processorConfig } = files;
    const weights = wanted ?? record.default;
    if (!(weights in record.weights)) {
        const others = Object.keys(record.weights).join(" or ");
        throw new Error(`${folder.address} holds no weights in ${weights}: take ${others}.`);
    }
    const decoding = readGenerationConfig(config, files.generationConfig);
    const prompts = new Prompts(textLibraries, files);
    const imageProcessor = new ImageProcessor(processorConfig.image_processor);
    const onProgress = (loaded, total) => postMessage({ type: "progress", loaded, total });
    const graphs = await folder.readGraphs(record, weights, onProgress);
    const model = await Model.open(ort, graphs, config, device);
    state.chat = new Chat(model, prompts, imageProcessor, decoding);
    const { hd, tileGrid } = imageProcessor;
    const threads = device === "wasm" ? ort.env.wasm.numThreads : null;
    postMessage({ type: "ready", weights, allWeights: Object.keys(record.weights), device, threads, hd, tileGrid, config });
}

async function ask({ question, images, hd }) {
    state.isStopped = false;
    const decoded = await Promise.all(images.map(decodeImage));
    const answer = await state.chat.ask(question, decoded, {
        hd,
        onText: (text) => postMessage({ type: "text", text }),
        isStopped: async () => {
            await pause();
            return state.isStopped;
        },
    });
    postMessage({ type: "answer", ...answer });
}

const handlers = {
    load,
    ask,
    stop: () => (state.isStopped = true),
    reset: () => state.chat.reset(),
};

self.onmessage = async ({ data: { type, ...message } }) => {
    try {
        await handlers[type](message);
    } catch (error) {
        postMessage({ type: "error", during: type, message: String(error?.message ?? error).replace(/\s+/g, " ") });
    }
};
