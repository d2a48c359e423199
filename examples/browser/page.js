// Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
/**
 * The page: what is picked, asked and shown. The model runs in worker.js.
 *
 * Its address may end with `?model=FOLDER` (an exported model; "model" beside the page if unset), `&weights=int4` (one
 * of those that were exported; the first if unset) and `&device=wasm` or `webgpu` (WebGPU where there is one if unset).
 * Programs find each answer as the `detail` of an event "answer" of the document.
 */

import { decodeImage } from "./images.js";
import { drawOverlay } from "./overlay.js";

// A worker knows no import map: the page tells it where the libraries are.
const LIBRARIES = {
    wasm: import.meta.resolve("onnxruntime-web/wasm"),
    webgpu: import.meta.resolve("onnxruntime-web/webgpu"),
    tokenizers: import.meta.resolve("@huggingface/tokenizers"),
    jinja: import.meta.resolve("@huggingface/jinja"),
};
const DEFAULT_MODEL = "model";
const DEVICES = { wasm: "WebAssembly", webgpu: "WebGPU" };

const options = new URLSearchParams(location.search);
const address = new URL(options.get("model") || DEFAULT_MODEL, location.href).href;
const element = (id) => document.getElementById(id);
const [stage, file, image, overlay, show] = ["stage", "file", "image", "overlay", "show"].map(element);
const [chat, form, question, askButton, stopButton] = ["chat", "form", "question", "ask", "stop"].map(element);

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const state = {
    model: null, // what the worker said when it was ready
    loadError: "", // why there is no model
    blob: null, // the image
    picking: Promise.resolve(), // ends when all that was picked is shown or refused
    isSent: false, // whether the model has seen the image
    isBusy: false,
    afterwards: [], // what waits for the end of an answer
    asked: "", // the question that is being answered
    growing: null, // the element of its answer
};

function say(text) {
    element("state").textContent = text;
}

function showError(message) {
    element("error").textContent = message;
    element("error").hidden = message === "";
}

function setBusy(isBusy) {
    state.isBusy = isBusy;
    askButton.hidden = isBusy;
    stopButton.hidden = !isBusy;
    askButton.disabled = state.model === null;
    element("hd").disabled = isBusy || !state.model?.tileGrid;
    if (!isBusy) {
        state.afterwards.splice(0).forEach((act) => act());
    }
}

/** Acts at once, or when the answer that is being made has stopped. */
function whenIdle(act) {
    if (!state.isBusy) {
        act();
        return;
    }
    state.afterwards.push(act);
    worker.postMessage({ type: "stop" });
}

function addMessage(kind, text) {
    const message = document.createElement("li");
    message.className = kind;
    message.textContent = text;
    chat.append(message);
    message.scrollIntoView({ block: "nearest" });
    return message;
}

function beginChat() {
    chat.replaceChildren();
    element("facts").textContent = "";
    overlay.hidden = true;
    show.disabled = true;
    state.isSent = false;
    showError(state.loadError);
    if (state.model) {
        worker.postMessage({ type: "reset" });
    }
}

/** Shows a file that was picked; one that is no image leaves all as it was. */
function pick(picked) {
    state.picking = state.picking.then(async () => {
        try {
            const blob = new Blob([await picked.arrayBuffer()], { type: picked.type }); // the file may change or go
            await decodeImage(blob);
            whenIdle(() => showImage(blob));
        } catch (error) {
            showError(`${picked.name}: ${error.message}`);
        }
    });
}

function showImage(blob) {
    URL.revokeObjectURL(image.src);
    state.blob = blob;
    image.src = URL.createObjectURL(blob);
    image.hidden = false;
    stage.classList.remove("is-empty");
    beginChat();
    question.focus();
}

async function ask() {
    await state.picking;
    if (!state.model || state.isBusy || !question.value.trim()) {
        return;
    }
    showError("");
    state.asked = question.value;
    question.value = "";
    addMessage("question", state.asked);
    state.growing = addMessage("answer is-growing", "");
    const images = state.blob && !state.isSent ? [state.blob] : [];
    setBusy(true);
    worker.postMessage({ type: "ask", question: state.asked, images, hd: element("hd").checked });
}

function endAnswer(answer) {
    const { text, attention, millisecondsToFirstToken, millisecondsPerToken, visualTokens, promptTokens } = answer;
    state.growing.textContent = text;
    state.growing.classList.remove("is-growing");
    state.isSent = state.blob !== null;
    const perToken = millisecondsPerToken === null ? "" : `, then ${millisecondsPerToken.toFixed(1)} ms per token`;
    element("facts").textContent =
        `${promptTokens} tokens before the answer, ${visualTokens} of them visual; ` +
        `${(millisecondsToFirstToken / 1000).toFixed(2)} s to the first token${perToken}`;
    if (attention?.length && image.complete) {
        drawOverlay(overlay, image, attention.at(-1), state.model.config, state.model.tileGrid);
        show.disabled = false;
        overlay.hidden = !show.checked;
    }
    setBusy(false);
    document.dispatchEvent(new CustomEvent("answer", { detail: answer }));
}

function beReady(model) {
    const { weights, allWeights, device, threads, hd } = model;
    state.model = model;
    element("progress").hidden = true;
    const where = threads > 1 ? `${DEVICES[device]}, ${threads} threads` : DEVICES[device];
    say(`${decodeURIComponent(address.split("/").filter(Boolean).at(-1))} · ${weights} · ${where}`);
    element("hd").checked = hd;
    const names = allWeights.map((name) => new Option(name, name, name === weights, name === weights));
    element("weights").replaceChildren(...names);
    element("weights-option").hidden = allWeights.length < 2;
    setBusy(false);
}

function fail({ during, message }) {
    showError(message);
    if (during === "load") {
        state.loadError = message;
        element("progress").hidden = true;
        say("No model");
        return;
    }
    state.growing?.previousElementSibling.remove();
    state.growing?.remove();
    question.value ||= state.asked;
    setBusy(false);
}

const handlers = {
    progress({ loaded, total }) {
        element("progress").value = loaded / total;
        say(loaded < total ? `Loading ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` : "Starting …");
    },
    ready: beReady,
    text({ text }) {
        state.growing.textContent = text;
        state.growing.scrollIntoView({ block: "nearest" });
    },
    answer: endAnswer,
    error: fail,
};
worker.onmessage = ({ data: { type, ...message } }) => handlers[type](message);
worker.onerror = () => fail({ during: "load", message: "The page's worker cannot start: serve all files of its folder." });

file.onchange = () => {
    [...file.files].forEach(pick);
    file.value = ""; // so that the same file can be picked again
};
// Anywhere on the page: beside the stage, the browser would leave the page for the image.
document.ondragover = (event) => {
    event.preventDefault();
    stage.classList.add("is-over");
};
document.ondragleave = () => stage.classList.remove("is-over");
document.ondrop = (event) => {
    event.preventDefault();
    stage.classList.remove("is-over");
    const [dropped] = event.dataTransfer.files;
    if (dropped) {
        pick(dropped);
    } else {
        showError("What was dropped is no file: save the image, and drop its file.");
    }
};
document.onpaste = (event) => [...event.clipboardData.files].slice(0, 1).forEach(pick);
show.onchange = () => (overlay.hidden = !show.checked);
form.onsubmit = (event) => {
    event.preventDefault();
    ask();
};
question.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        ask();
    }
};
// An image is encoded once, when it is first asked about.
element("hd").onchange = () => state.isSent && whenIdle(beginChat);
stopButton.onclick = () => worker.postMessage({ type: "stop" });
element("reset").onclick = () => whenIdle(beginChat);
element("weights").onchange = ({ target }) => {
    options.set("weights", target.value);
    location.search = options;
};

worker.postMessage({
    type: "load",
    libraries: LIBRARIES,
    address,
    weights: options.get("weights"),
    device: options.get("device"),
});
