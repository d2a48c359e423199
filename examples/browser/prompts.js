// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
function parsed(Template, text) {
    try {
        return new Template(text);
    } catch (error) {
        throw new Error(`chat_template.jinja is damaged (${error.message}): copy or export the model again.`);
    }
}

/** Turns questions into token ids, and token ids into text, as `FlashSlothProcessor` does. */

const IMAGE_TOKEN = "<image>";
const QUERY_SLOT_TOKEN = "<learnable>";
const END_TOKEN = "</s>";
// In the middle of text that only looks like a special token; the tokenizer's normalizer takes it out again.
const ESCAPE = "\u{f0000}";
// A turn before the new one, whatever it was: what a template writes between turns does not depend on their words.
const EARLIER = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
];

export class Prompts {
    /**
     * @param {object} libraries `Tokenizer` of @huggingface/tokenizers and `Template` of @huggingface/jinja.
     * @param {object} files `tokenizer.json`, `tokenizer_config.json`, `processor_config.json`, parsed, and the text of
     *     `chat_template.jinja`.
     */
    constructor({ Tokenizer, Template }, { tokenizer, tokenizerConfig, processorConfig, chatTemplate }) {
        this.tokenizer = new Tokenizer(tokenizer, tokenizerConfig);
        this.template = parsed(Template, chatTemplate);
        this.cleansUp = tokenizerConfig.clean_up_tokenization_spaces ?? false;
        this.numVisualTokens = processorConfig.num_visual_tokens;
        const queries = Array.from({ length: processorConfig.num_query_tokens }, (_, index) => `<query_${index}>`);
        this.querySlot = queries.join("");
        this.queryTokenIds = queries.map((token) => this.#idOf(token));
        this.imageTokenId = this.#idOf(IMAGE_TOKEN);
        this.endTokenId = this.#idOf(END_TOKEN);
        const escaped = [...processorConfig.escaped_tokens].sort((a, b) => b.length - a.length);
        const pattern = escaped.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
        this.escapedToken = new RegExp(pattern, "gu");
    }

    /**
     * The token ids of a turn alone; of the first one, with what is before it.
     *
     * @param {string} question
     * @param {number[]} views Views of each of its images.
     * @param {boolean} hasBegun Whether there are turns before it.
     */
    encode(question, views, hasBegun) {
        if (!question.trim()) {
            throw new Error("The question is empty: ask something.");
        }
        if (!question.isWellFormed()) {
            throw new Error("The question holds half a character: take it out.");
        }
        const images = views.map(() => ({ type: "image" }));
        const message = { role: "user", content: [...images, { type: "text", text: this.#escape(question) }] };
        const before = hasBegun ? EARLIER : [];
        let text = this.template.render({ messages: [...before, message], add_generation_prompt: true });
        if (hasBegun) {
            const earlier = this.template.render({ messages: before, add_generation_prompt: false });
            if (!text.startsWith(earlier)) {
                throw new Error("The model's chat template changes earlier turns: begin a new chat for each question.");
            }
            text = text.slice(earlier.length);
        }
        let image = 0;
        text = text.replaceAll(QUERY_SLOT_TOKEN, this.querySlot);
        text = text.replaceAll(IMAGE_TOKEN, () => IMAGE_TOKEN.repeat(this.numVisualTokens * views[image++]));
        return this.tokenizer.encode(text, { add_special_tokens: !hasBegun }).ids;
    }

    /** The text of an answer's tokens. */
    decode(ids) {
        const settings = { skip_special_tokens: true, clean_up_tokenization_spaces: this.cleansUp };
        return ids.length ? this.tokenizer.decode(ids, settings).trim() : "";
    }

    #idOf(token) {
        const id = this.tokenizer.token_to_id(token);
        if (id === undefined) {
            throw new Error(`The tokenizer has no token ${token}: export the model again.`);
        }
        return id;
    }

    #escape(text) {
        return text.replaceAll(ESCAPE, "").replace(this.escapedToken, ([first, ...rest]) => first + ESCAPE + rest.join(""));
    }
}
