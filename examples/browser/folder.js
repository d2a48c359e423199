// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** The folder of an exported model: reads its files, and refuses those that are missing, damaged or of another kind. */

const EXPORT_FILE = "export.json";
const GENERATION_CONFIG = "generation_config.json"; // not every model has one; its record says which files it has
const NOT_FOUND = 404;
const DATA_SUFFIX = "_data"; // of the file of weights beside a graph that is too large to hold them

/** The folder at an address. */
export class ModelFolder {
    /** @param {string} address Absolute. */
    constructor(address) {
        this.address = address.endsWith("/") ? address : `${address}/`;
    }

    /** Reads what is no graph. */
    async readSettings() {
        const record = await this.#readRecord();
        const names = ["config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"];
        const files = await Promise.all(names.map((name) => this.#readJson(name)));
        const [config, processorConfig, tokenizer, tokenizerConfig] = files;
        const otherwise = record.settings?.includes(GENERATION_CONFIG) ? undefined : {};
        const generationConfig = await this.#readJson(GENERATION_CONFIG, otherwise);
        const chatTemplate = await (await this.#find("chat_template.jinja")).text();
        return { record, config, processorConfig, generationConfig, tokenizer, tokenizerConfig, chatTemplate };
    }

    /**
     * Reads the graphs of one kind of weights.
     *
     * @param {object} record What `export.json` holds.
     * @param {string} weights One of its `weights`.
     * @param {(loaded: number, total: number) => void} onProgress Is told the bytes that are there.
     * @returns {Promise<object>} By the name of a graph its bytes, and the `externalData` beside it.
     */
    async readGraphs(record, weights, onProgress) {
        const filesOf = (name) => [name, `${name}${DATA_SUFFIX}`].filter((file) => file in record.files);
        const names = Object.values(record.weights[weights]);
        const total = names.flatMap(filesOf).reduce((sum, file) => sum + record.files[file], 0);
        let loaded = 0;
        const read = (name) =>
            this.#readBytes(name, record.files[name], (count) => onProgress((loaded += count), total));
        const graphs = {};
        for (const [graph, name] of Object.entries(record.weights[weights])) {
            const bytes = await read(name);
            const externalData = [];
            for (const file of filesOf(name).slice(1)) {
                externalData.push({ path: file.split("/").at(-1), data: await read(file) });
            }
            graphs[graph] = { bytes, externalData };
        }
        return graphs;
    }

    async #readRecord() {
        const remedy = "write one there: flashsloth export MODEL FOLDER --format onnx";
        const response = await this.#fetch(EXPORT_FILE);
        const record = response.ok ? await response.json().catch(() => null) : null;
        if (!record?.weights || !record?.files) {
            throw new Error(`${this.address} is no exported model (it has no usable ${EXPORT_FILE}): ${remedy}.`);
        }
        return record;
    }

    async #fetch(name) {
        try {
            return await fetch(this.address + name);
        } catch {
            throw new Error(`${this.address}${name} cannot be fetched: check the address, and whether its server runs.`);
        }
    }

    async #find(name) {
        const response = await this.#fetch(name);
        if (!response.ok) {
            throw new Error(`${this.address}${name} is missing (${response.status}): copy or export the model again.`);
        }
        return response;
    }

    /** What a file of JSON holds; `otherwise`, if it is given, stands for a file that is not there. */
    async #readJson(name, otherwise) {
        const response = otherwise === undefined ? await this.#find(name) : await this.#fetch(name);
        if (response.status === NOT_FOUND) {
            return otherwise;
        }
        return response.json().catch(() => {
            throw new Error(`${this.address}${name} is no JSON: copy or export the model again.`);
        });
    }

    async #readBytes(name, size, onBytes) {
        const response = await this.#find(name);
        const bytes = new Uint8Array(size);
        let count = 0;
        for await (const chunk of chunksOf(response.body)) {
            if (count + chunk.length <= size) {
                bytes.set(chunk, count);
            }
            count += chunk.length;
            onBytes(chunk.length);
        }
        if (count !== size) {
            throw new Error(
                `${this.address}${name} has ${count} bytes, but had ${size} when it was exported: it is cut short or ` +
                    "damaged. Copy or export the model again.",
            );
        }
        return bytes;
    }
}

/** What a stream brings; not all browsers can iterate over one. */
async function* chunksOf(stream) {
    const reader = stream.getReader();
    for (;;) {
        const { done, value } = await reader.read();
        if (done) {
            return;
        }
        yield value;
    }
}
