// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/** A conversation that computes each image and each turn once, as `flashsloth.load(...).chat()` does. */

import { choose } from "./model.js";

const HALF_CHARACTER = /\ufffd+$/; // at the end of the text so far: its other half is in the next token

export class Chat {
    /**
     * @param {Model} model
     * @param {Prompts} prompts
     * @param {ImageProcessor} imageProcessor
     * @param {object} decoding How answers are decoded, by `readGenerationConfig`.
     */
    constructor(model, prompts, imageProcessor, decoding) {
        Object.assign(this, { model, prompts, imageProcessor, decoding });
        this.#forget();
    }

    /** Begins a new conversation. */
    reset() {
        this.model.release(this.past);
        this.#forget();
    }

    #forget() {
        this.ids = []; // of the whole sequence, answers included
        this.features = []; // encoded views of all images in it
        this.views = []; // how many each image has
        this.past = this.model.emptyPast(); // keys and values of its first positions
        this.pastLength = 0;
    }

    /**
     * Answers the next question. If that fails, the chat is as it was before.
     *
     * @param {string} question
     * @param {object[]} images Decoded; earlier ones stay in view.
     * @param {object} options `hd`, and `onText`, which is told the text so far, and `isStopped`, which is asked after
     *     each token.
     * @returns {Promise<object>} The answer.
     */
    async ask(question, images, { hd, onText, isStopped }) {
        const start = performance.now();
        const newViews = images.map(() => this.imageProcessor.numViews(hd));
        const newIds = this.prompts.encode(question, newViews, this.ids.length > 0);
        const ids = [...this.ids, ...newIds];
        const positions = this.model.config.text_config.max_position_embeddings;
        if (ids.length >= positions) {
            throw new Error(
                `The conversation has ${ids.length} tokens with this question, but the decoder has ${positions} ` +
                    "positions: begin a new one.",
            );
        }
        const features = [...this.features];
        for (const image of images) {
            features.push(...(await this.model.encode(this.imageProcessor.views(image, hd))));
        }
        const mostTokens = Math.min(this.decoding.maxNewTokens, positions - ids.length);
        const turn = { ids, features, views: [...this.views, ...newViews], mostTokens, start };
        return this.#answer(turn, onText, isStopped);
    }

    async #answer({ ids, features, views, mostTokens, start }, onText, isStopped) {
        const { eosTokenIds } = this.decoding;
        const [tokens, times] = [[], []];
        let [past, pastLength, newIds] = [this.past, this.pastLength, ids.slice(this.pastLength)];
        let attention = null;
        let stopped = false;
        try {
            do {
                const isFirst = tokens.length === 0; // later positions hold no images and no query tokens
                const withAttention = isFirst && features.length > 0 && this.prompts.queryTokenIds.length > 0;
                const given = isFirst ? features : [];
                const step = await this.model.decode(newIds, given, past, pastLength, withAttention);
                if (past !== this.past) {
                    this.model.release(past);
                }
                if (withAttention) {
                    attention = this.#meanOverQueries(step.attention, newIds, views);
                }
                pastLength += newIds.length;
                past = step.past;
                newIds = [choose(step.logits, this.decoding, tokens.length)];
                tokens.push(...newIds);
                times.push(performance.now());
                onText(this.prompts.decode(tokens).replace(HALF_CHARACTER, ""));
                stopped = await isStopped();
            } while (!stopped && !eosTokenIds.includes(tokens.at(-1)) && tokens.length < mostTokens);
        } catch (error) {
            if (past !== this.past) {
                this.model.release(past);
            }
            throw error;
        }
        const hasEnded = eosTokenIds.includes(tokens.at(-1));
        this.model.release(this.past);
        const end = hasEnded ? [] : [this.prompts.endTokenId];
        Object.assign(this, { ids: [...ids, ...tokens, ...end], features, views, past, pastLength });
        return {
            text: this.prompts.decode(tokens),
            tokens,
            finishReason: hasEnded ? "stop" : stopped ? "interrupted" : "length",
            promptTokens: ids.length,
            visualTokens: ids.filter((id) => id === this.prompts.imageTokenId).length,
            millisecondsToFirstToken: times[0] - start,
            millisecondsPerToken: tokens.length > 1 ? (times.at(-1) - times[0]) / (tokens.length - 1) : null,
            attention,
        };
    }

    /** The mean over the query tokens of the question of what they attend to: (views, patches) of each image. */
    #meanOverQueries(attention, newIds, views) {
        const { queryTokenIds } = this.prompts;
        const queries = newIds.flatMap((id, place) => (queryTokenIds.includes(id) ? [place] : []));
        const numPatches = attention.length / newIds.length;
        const mean = new Float32Array(numPatches);
        for (const query of queries.slice(-queryTokenIds.length)) {
            for (let patch = 0; patch < numPatches; patch++) {
                mean[patch] += attention[query * numPatches + patch] / queryTokenIds.length;
            }
        }
        const perView = numPatches / views.reduce((sum, count) => sum + count, 0);
        let first = 0;
        return views.map((count) => mean.slice(first, (first += count * perView)));
    }
}
