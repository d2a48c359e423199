// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** The three graphs of an exported model in onnxruntime-web: encodes images, and makes answers token by token. */

const VISION_ENCODER = "vision_encoder";
const EMBED_TOKENS = "embed_tokens";
const DECODER = "decoder_model_merged";
const PAST = "past_key_values.";
const PRESENT = "present.";
const EMBEDDED = ["inputs_embeds", "query_mask", "instruction_mask", "patch_mask"];
const MAX_NEW_TOKENS = 256; // if the generation config names no number
const NO_SCORE = -Infinity;
// Settings of a generation config that do not change a greedy answer, with these values or with any.
const NEUTRAL = {
    do_sample: false,
    early_stopping: false,
    length_penalty: 1,
    min_length: 0,
    no_repeat_ngram_size: 0,
    num_beams: 1,
    num_return_sequences: 1,
    output_attentions: false,
    output_hidden_states: false,
    output_logits: false,
    output_scores: false,
    remove_invalid_values: false,
    renormalize_logits: false,
    repetition_penalty: 1,
    return_dict_in_generate: false,
    typical_p: 1,
    use_cache: true,
};
const KNOWN = ["eos_token_id", "pad_token_id", "bos_token_id", "max_new_tokens", "min_new_tokens", "suppress_tokens"];
const IGNORED = ["max_length", "transformers_version", "_from_model_config"];
const OF_SAMPLING = ["temperature", "top_k", "top_p", "min_p"];

/**
 * How answers are decoded.
 *
 * @param {object} config The model's `config.json`.
 * @param {object} generationConfig Its `generation_config.json`.
 */
export function readGenerationConfig(config, generationConfig) {
    for (const [name, value] of Object.entries(generationConfig)) {
        const isOurs = [...KNOWN, ...IGNORED, ...OF_SAMPLING].includes(name) || NEUTRAL[name] === value;
        if (!isOurs && value !== null) {
            const what = `${name}=${JSON.stringify(value)}`;
            throw new Error(`generation_config.json sets ${what}, but this page decodes greedily: take it out.`);
        }
    }
    const queries = Array.from({ length: config.num_query_tokens }, (_, index) => config.first_query_token_id + index);
    const placeholders = [config.query_slot_token_id, config.image_token_id, config.pad_token_id, ...queries];
    const suppressed = generationConfig.suppress_tokens;
    return {
        eosTokenIds: [generationConfig.eos_token_id ?? config.eos_token_id].flat(),
        maxNewTokens: generationConfig.max_new_tokens ?? MAX_NEW_TOKENS,
        minNewTokens: generationConfig.min_new_tokens ?? 0,
        suppressTokens: suppressed ? [...new Set([...suppressed, ...placeholders])] : [],
    };
}

/** The graphs. Tensors that a call returns stay valid until `release` gets them. */
export class Model {
    /**
     * Opens the graphs.
     *
     * @param {object} ort onnxruntime-web.
     * @param {object} graphs By name, as `ModelFolder.readGraphs` gives them; they are emptied.
     * @param {object} config The model's.
     * @param {string} device "wasm" or "webgpu".
     */
    static async open(ort, graphs, config, device) {
        const sessions = {};
        for (const graph of [VISION_ENCODER, EMBED_TOKENS, DECODER]) {
            const { bytes, externalData } = graphs[graph];
            delete graphs[graph]; // so that the bytes can go
            const options = { executionProviders: [graph === EMBED_TOKENS ? "wasm" : device], externalData };
            options.logSeverityLevel = 3; // errors alone
            if (device === "webgpu" && graph === DECODER) {
                options.preferredOutputLocation = presentLocations(config);
            }
            try {
                sessions[graph] = await ort.InferenceSession.create(bytes, options);
            } catch (error) {
                const problem = `onnxruntime-web cannot load the graph ${graph} on ${device}: ${error.message ?? error}`;
                throw new Error(`${problem} Copy the model again, or export it with other weights.`);
            }
        }
        return new Model(ort, sessions, config);
    }

    constructor(ort, sessions, config) {
        this.ort = ort;
        this.sessions = sessions;
        this.config = config;
        this.width = config.text_config.hidden_size;
        this.patchWidth = config.vision_config.hidden_size;
        this.pastInputs = sessions[DECODER].inputMetadata.filter(({ name }) => name.startsWith(PAST));
    }

    /**
     * Encodes the views of an image, one at a time.
     *
     * @param {Float32Array[]} views Of shape (3, side, side).
     * @returns {Promise<{visualTokens: Float32Array, patches: Float32Array}[]>} Of each view.
     */
    async encode(views) {
        const side = this.config.vision_config.image_size;
        const encoded = [];
        for (const view of views) {
            const pixels = this.#tensor("float32", view, [1, 3, side, side]);
            const outputs = await this.sessions[VISION_ENCODER].run({ pixel_values: pixels });
            const [visualTokens, patches] = [outputs.image_features.data, outputs.patches.data];
            encoded.push({ visualTokens, patches });
        }
        return encoded;
    }

    /** Keys and values of no positions. */
    emptyPast() {
        return Object.fromEntries(
            this.pastInputs.map(({ name, shape, type }) => {
                const array = type === "float16" ? new Uint16Array(0) : new Float32Array(0);
                return [name, this.#tensor(type, array, [1, shape[1], 0, shape[3]])];
            }),
        );
    }

    /**
     * Runs the decoder over new positions.
     *
     * @param {number[]} ids Their tokens.
     * @param {object[]} features Encoded views of all images of the chat; empty where no image and no question is.
     * @param {object} past Keys and values before them.
     * @param {number} pastLength Their number.
     * @param {boolean} withAttention Whether to give what the positions attend to.
     * @returns {Promise<object>} `logits` of the last position, the new `past`, and `attention` (positions, patches).
     */
    async decode(ids, features, past, pastLength, withAttention) {
        const embedded = await this.#embed(ids, features, pastLength);
        const positions = Array.from(ids, (_, index) => pastLength + index);
        const total = pastLength + ids.length;
        const feeds = {
            ...embedded,
            ...past,
            attention_mask: this.#integers(new Array(total).fill(1), [1, total]),
            position_ids: this.#integers(positions, [1, ids.length]),
        };
        const presents = this.pastInputs.map(({ name }) => name.replace(PAST, PRESENT));
        const fetches = ["logits", ...presents, ...(withAttention ? ["query_attentions"] : [])];
        const outputs = await this.sessions[DECODER].run(feeds, fetches);
        const next = this.pastInputs.map(({ name }) => [name, outputs[name.replace(PAST, PRESENT)]]);
        return {
            logits: outputs.logits.data,
            past: Object.fromEntries(next),
            attention: withAttention ? outputs.query_attentions.data : null,
        };
    }

    /** Frees keys and values, which a GPU holds. */
    release(past) {
        Object.values(past).forEach((tensor) => tensor.dispose());
    }

    /** The decoder's inputs that follow from tokens and features; see `assistant/onnx_model.py`. */
    async #embed(ids, features, pastLength) {
        const { config, width, patchWidth } = this;
        const views = Math.max(1, features.length); // one view that the row does not have, or one patch, stands for none
        const numPatches = features.length ? features[0].patches.length / patchWidth : 1;
        const numTokens = numVisualTokens(config);
        const visualTokens = new Float32Array(views * numTokens * width);
        const patches = new Float32Array(views * numPatches * patchWidth);
        features.forEach((view, index) => {
            visualTokens.set(view.visualTokens, index * numTokens * width);
            patches.set(view.patches, index * numPatches * patchWidth);
        });
        const outputs = await this.sessions[EMBED_TOKENS].run({
            input_ids: this.#integers(ids, [1, ids.length]),
            image_features: this.#tensor("float32", visualTokens, [1, views, numTokens, width]),
            view_mask: this.#integers(new Array(views).fill(features.length ? 1 : 0), [1, views]),
            past_length: this.#integers([pastLength], []),
        });
        const inputs = Object.fromEntries(EMBEDDED.map((name) => [name, outputs[name]]));
        inputs.patches = this.#tensor("float32", patches, [1, views * numPatches, patchWidth]);
        if (!features.length) {
            inputs.patch_mask = this.#tensor("bool", new Uint8Array(ids.length), [1, ids.length, 1]);
        }
        return inputs;
    }

    #tensor(type, data, shape) {
        return new this.ort.Tensor(type, data, shape);
    }

    #integers(values, shape) {
        return this.#tensor("int64", BigInt64Array.from(values, BigInt), shape);
    }
}

function numVisualTokens(config) {
    const side = Math.floor(config.vision_config.image_size / config.vision_config.patch_size);
    return config.pooling_mode === "none" ? side ** 2 : Math.floor(side / config.pooling_size) ** 2;
}

function presentLocations(config) {
    const layers = Array.from({ length: config.text_config.num_hidden_layers }, (_, index) => index);
    const names = layers.flatMap((layer) => [`${PRESENT}${layer}.key`, `${PRESENT}${layer}.value`]);
    return Object.fromEntries(names.map((name) => [name, "gpu-buffer"]));
}

/** The token with the highest score, as `generate` chooses it. */
export function choose(logits, { suppressTokens, eosTokenIds, minNewTokens }, length) {
    const scores = Float32Array.from(logits);
    const forbidden = length < minNewTokens ? [...suppressTokens, ...eosTokenIds] : suppressTokens;
    forbidden.forEach((id) => (scores[id] = NO_SCORE));
    return scores.reduce((best, score, id) => (score > scores[best] ? id : best), 0);
}
