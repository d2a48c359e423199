# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The page of examples/browser in a headless Chromium: it gives the tokens that Python gives, and says in one line what
is wrong. Its libraries are those of examples/browser/node_modules, which `npm ci --prefix examples/browser` makes.
"""

import base64
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_page import BROWSER, LONG, Visitor, chromium, make_site, serving, what_is_missing
from PIL import Image, ImageCms

import flashsloth
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.tiny.data import make_dataset


pytestmark = pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))
SCENE = Path(flashsloth.__file__).parent / "examples" / "scene.png"
COLOUR, DIGIT = "What colour is the square?", "Which digit is written by hand? Answer briefly."
MODEL, SLOW, SHORT, CUT, NO_PROCESSOR, SAMPLING = "model", "slow", "short", "cut", "no-processor", "sampling"
NO_GENERATION_CONFIG = "no-generation-config"
HALF_TEMPLATE = "half-template"
POSITIONS = 70  # of the decoder of the model SHORT


def change(model: Path, folder: Path, **generation_config) -> Path:
    """A copy of an exported model, with other settings of generation."""
    shutil.copytree(model, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation_config}))
    return folder


@pytest.fixture(scope="module")
def address(exported, tmp_path_factory):
    """The address of the page, with an exported model beside it, and others that do not work, or do not stop."""
    folder = tmp_path_factory.mktemp("browser")
    models = {MODEL: exported, SLOW: change(exported, folder / SLOW, min_new_tokens=200)}
    models |= {
        name: change(exported, folder / name) for name in (CUT, NO_PROCESSOR, NO_GENERATION_CONFIG, HALF_TEMPLATE)
    }
    models[SAMPLING] = change(exported, folder / SAMPLING, repetition_penalty=1.2)
    models[SHORT] = change(exported, folder / SHORT, min_new_tokens=200)
    config = json.loads((models[SHORT] / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = POSITIONS
    (models[SHORT] / "config.json").write_text(json.dumps(config))
    with open(folder / CUT / "onnx" / "decoder_model_merged.onnx", "r+b") as file:
        file.truncate(1000)
    (folder / NO_PROCESSOR / "processor_config.json").unlink()
    (folder / NO_GENERATION_CONFIG / "generation_config.json").unlink()
    template = folder / HALF_TEMPLATE / "chat_template.jinja"
    template.write_text(template.read_text()[:100])
    with serving(make_site(folder / "site", **models)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, address):
    """Opens the page."""
    visitors = []

    def open_page(query: str = "") -> Visitor:
        visitors.append(Visitor(browser, f"{address}/index.html{query}"))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.close()


@pytest.fixture(scope="module")
def model():
    return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")


def tokens_of(model, image, question: str, **options) -> list[int]:
    """The tokens of torch's answer."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **options,
    )
    with torch.inference_mode():
        sequence = model.model.generate(**inputs, max_new_tokens=256)[0]
    return sequence[inputs["input_ids"].shape[1] :].tolist()


def as_file(image: Image.Image, name: str = "image.png", kind: str = "PNG", **options) -> dict:
    """A file that a visitor picks."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return {"name": name, "mimeType": Image.MIME[kind], "buffer": content.getvalue()}


@pytest.fixture(scope="module")
def questions() -> list[tuple[Image.Image, str]]:
    """Ten images that the model was not trained on, and a question about each."""
    rows = make_dataset("exam", "heldout", 10)
    return [(row["images"][0].convert("RGB"), row["messages"][0]["content"][1]["text"]) for row in rows]


def test_ten_questions_get_the_tokens_of_python(visit, model, exported, questions):
    visitor = visit()
    runtime = flashsloth.load(exported, backend="onnxruntime")
    for image, question in questions:
        visitor.pick(as_file(image))
        answer = visitor.ask(question)
        assert answer["tokens"] == tokens_of(model, image, question), question
        same = runtime.ask(image, question)
        assert (answer["text"], len(answer["tokens"])) == (same.text, same.num_tokens)
        assert (answer["promptTokens"], answer["visualTokens"]) == (same.prompt_tokens, same.visual_tokens)
        assert visitor.shown() == [question, same.text]
    outside = [
        address for address in visitor.requests if not address.startswith(("http://127.0.0.1", "blob:", "data:"))
    ]
    assert outside == []


def test_weights_of_4_bits(visit, exported, questions):
    visitor = visit("?weights=int4&device=wasm")
    assert visitor.page.inner_text("#state") == "model · int4 · WebAssembly"
    runtime = flashsloth.load(exported, backend="onnxruntime", dtype="int4")
    same = 0
    for image, question in questions:
        visitor.pick(as_file(image))
        same += visitor.ask(question)["text"] == runtime.ask(image, question).text
    assert same >= 8  # each processor rounds to few bits in its own way, which decides close answers


def test_a_chat_computes_each_turn_once(visit, model):
    visitor = visit()
    visitor.pick(SCENE)
    chat = model.chat()
    for images, question in ((SCENE, COLOUR), (None, DIGIT), (None, "Is there a </s> <image> here?")):
        same = chat.ask(question, images)
        answer = visitor.ask(question)
        assert (answer["text"], answer["promptTokens"]) == (same.text, same.prompt_tokens)
        assert answer["visualTokens"] == same.visual_tokens == model.processor.num_visual_tokens
    assert visitor.shown()[2] == DIGIT

    visitor.page.click("#reset")
    assert visitor.shown() == []
    assert visitor.ask(COLOUR)["tokens"] == tokens_of(model, str(SCENE), COLOUR)  # the image stays


def test_without_an_image_and_in_high_definition(visit, model):
    visitor = visit()
    assert visitor.ask(DIGIT)["text"] == model.ask(None, DIGIT).text
    assert visitor.page.locator("#overlay").is_hidden()
    visitor.pick(SCENE)
    assert visitor.ask(DIGIT)["visualTokens"] == model.processor.num_visual_tokens
    visitor.page.check("#hd")
    assert visitor.shown() == []  # the image is encoded anew
    assert visitor.ask(DIGIT)["tokens"] == tokens_of(model, str(SCENE), DIGIT, hd=True)
    assert overlay_error(visitor, model.ask(SCENE, DIGIT, hd=True, explain=True)) < 1


def overlay_error(visitor: Visitor, answer) -> float:
    """By how much of 255 the overlay on the page differs from Python's."""
    url = visitor.page.evaluate("document.querySelector('#overlay').toDataURL()")
    shown = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    expected = answer.attention[-1].overlay()
    return np.abs(np.asarray(shown, float) - np.asarray(expected, float)).mean()


def test_the_overlay_shows_what_the_question_looked_at(visit, model):
    visitor = visit()
    assert visitor.page.locator("#show").is_disabled()
    visitor.pick(SCENE)
    chat = model.chat()
    for images, question in ((SCENE, COLOUR), (None, DIGIT)):
        same = chat.ask(question, images, explain=True)
        (weights,) = visitor.ask(question)["attention"]
        assert overlay_error(visitor, same) < 1
        assert len(weights) == model.model.config.num_patches
        assert visitor.page.locator("#overlay").is_visible() == (question != COLOUR)  # once it was asked for
        visitor.page.check("#show")
        assert visitor.page.locator("#overlay").is_visible()
    visitor.page.uncheck("#show")
    assert visitor.page.locator("#overlay").is_hidden()


def test_an_answer_streams_and_can_be_stopped(visit):
    visitor = visit(f"?model={SLOW}")
    visitor.pick(SCENE)
    visitor.send(COLOUR)
    visitor.page.wait_for_function("document.querySelector('#chat .is-growing')?.textContent.length > 20")
    visitor.page.click("#stop")
    visitor.page.wait_for_function("answers.length == 1")
    answer = visitor.answers()[0]
    assert answer["finishReason"] == "interrupted" and 1 < len(answer["tokens"]) < 200
    assert visitor.shown()[1] == answer["text"]

    visitor.send(DIGIT)  # a stopped answer stays in the chat
    visitor.page.wait_for_function("document.querySelector('#chat .is-growing')?.textContent.length > 5")
    visitor.page.click("#reset")  # stops too
    visitor.page.wait_for_function("answers.length == 2 && document.querySelectorAll('#chat li').length == 0")
    assert visitor.answers()[1]["promptTokens"] > answer["promptTokens"] + len(answer["tokens"])


def test_an_answer_ends_with_the_decoder(visit):
    visitor = visit(f"?model={SHORT}")
    visitor.pick(SCENE)
    answer = visitor.ask(COLOUR)
    assert answer["finishReason"] == "length"
    assert answer["promptTokens"] + len(answer["tokens"]) == POSITIONS
    visitor.send(DIGIT)
    visitor.page.get_by_text(f"but the decoder has {POSITIONS} positions: begin a new one.").wait_for()


@pytest.mark.parametrize("place", ["#stage", "#chat"])
def test_an_image_is_dropped(visit, place):
    visitor = visit()
    visitor.page.evaluate(
        """async ([content, place]) => {
            const files = new DataTransfer();
            const blob = await (await fetch(`data:image/png;base64,${content}`)).blob();
            files.items.add(new File([blob], "scene.png", { type: "image/png" }));
            const drop = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
            document.querySelector(place).dispatchEvent(drop);
        }""",
        [base64.b64encode(SCENE.read_bytes()).decode(), place],
    )
    assert visitor.ask(COLOUR)["text"] == "The square is red."


def test_what_is_no_image_is_refused_at_once(visit):
    visitor = visit()
    visitor.pick(SCENE)
    for name in ("notes.txt", "broken.png"):
        visitor.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": b"no image"})
        visitor.page.get_by_text(f"{name}: The browser cannot decode it. Pick a PNG, JPEG, WebP or GIF.").wait_for()
    assert visitor.ask(COLOUR)["text"] == "The square is red."  # the image before it stays
    assert not visitor.error()
    visitor.page.evaluate("document.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() }))")
    assert visitor.error() == "What was dropped is no file: save the image, and drop its file."
    visitor.pick(SCENE)  # the same file once more
    assert visitor.shown() == [] and not visitor.error()


VIEWS = """async ([content, type, settings]) => {
    const { decodeImage, ImageProcessor } = await import(`${location.origin}/images.js`);
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const views = new ImageProcessor(settings).views(await decodeImage(new Blob([bytes], { type })), true);
    const digests = await Promise.all(views.map((view) => crypto.subtle.digest("SHA-256", view)));
    return digests.map((digest) => Array.from(new Uint8Array(digest)));
}"""


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth random image."""
    shape = (max(2, height // 7), max(2, width // 7), len(mode))
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(array.squeeze(), mode).resize((width, height), Image.Resampling.BILINEAR)


ROTATED = Image.Exif()
ROTATED[274] = 6
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FILES = {
    "a photo": as_file(noise(640, 427), kind="JPEG", quality=85),
    "a photo of an odd size, upside": as_file(noise(333, 251), kind="JPEG", quality=75, exif=ROTATED),
    "a small image": as_file(noise(30, 50)),
    "a tall image": as_file(noise(70, 500)),
    "a wide image with a profile": as_file(noise(900, 40), icc_profile=SRGB),
    "a transparent image": as_file(noise(200, 150, "RGBA")),
    "a grey transparent image": as_file(noise(100, 80, "LA")),
    "a palette": as_file(noise(120, 90).quantize(64), kind="GIF"),
    "WebP": as_file(noise(200, 100), kind="WEBP", quality=80),
    "a transparent WebP": as_file(noise(90, 60, "RGBA"), kind="WEBP", lossless=True, exact=True),
    "a transparent PNG with another ending": {**as_file(noise(80, 60, "RGBA")), "mimeType": "image/jpeg"},
    "a transparent PNG without an ending": {**as_file(noise(80, 60, "RGBA")), "mimeType": ""},
    "an opaque PNG, upside": as_file(noise(50, 70), exif=ROTATED),
}
SEE_THROUGH = noise(60, 60).quantize(16)
SEE_THROUGH.info["transparency"] = SEE_THROUGH.getpixel((0, 0))
REFUSED = {
    "a transparent GIF": (as_file(SEE_THROUGH, kind="GIF"), "forgets the colours of its transparent pixels"),
    "WebP, upside": (as_file(noise(50, 50), kind="WEBP", exif=ROTATED), "as its EXIF data says: save it upright."),
    "a transparent PNG, upside": (as_file(noise(50, 50, "RGBA"), exif=ROTATED), "as its EXIF data says: save it"),
    "a transparent WebP, upside": (
        as_file(noise(50, 40, "RGBA"), kind="WEBP", lossless=True, exif=ROTATED),
        "as its EXIF data says: save it upright.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_browser_would_decode_otherwise_is_refused_at_once(visit, name):
    visitor, (file, says) = visit("?model=none"), REFUSED[name]
    visitor.page.set_input_files("#file", file)
    visitor.page.get_by_text(f"{file['name']}: The browser ").wait_for()
    assert says in visitor.error() and not visitor.page.locator("#image").is_visible()


def test_pixels_are_those_of_pillow_to_the_bit(visit, model):
    visitor = visit("?model=none")
    image_processor = model.processor.image_processor
    settings = json.loads(image_processor.to_json_string())
    filters = dict.fromkeys(FILES, Image.Resampling.BICUBIC)
    cases = [*filters.items(), *(("a photo", other) for other in Image.Resampling)]
    for name, resample in cases:
        file = FILES[name]
        content = base64.b64encode(file["buffer"]).decode()
        given = [content, file["mimeType"], {**settings, "resample": int(resample)}]
        views = image_processor(file["buffer"], hd=True, resample=resample, return_tensors="np")["pixel_values"]
        expected = [list(hashlib.sha256(view.tobytes()).digest()) for view in views]
        assert visitor.page.evaluate(VIEWS, given) == expected, (name, resample)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?model=nothing", "/nothing/ is no exported model (it has no usable export.json): write one there"),
        (f"?model={CUT}", "decoder_model_merged.onnx has 1000 bytes, but had"),
        (f"?model={NO_PROCESSOR}", "processor_config.json is missing (404): copy or export the model again."),
        (f"?model={NO_GENERATION_CONFIG}", "generation_config.json is missing (404): copy or export the model again."),
        (f"?model={HALF_TEMPLATE}", "chat_template.jinja is damaged ("),
        (f"?model={SAMPLING}", "generation_config.json sets repetition_penalty=1.2, but this page decodes greedily"),
        ("?weights=float16", "holds no weights in float16: take float32 or int4 or int8."),
        ("?device=gpu", "The address of this page asks for the device gpu: take wasm or webgpu."),
        ("?device=webgpu", "This browser has no WebGPU here: take the device wasm."),
        ("?model=http://127.0.0.1:1/", "cannot be fetched: check the address, and whether its server runs."),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(visit, query, says):
    visitor = visit(query)
    assert says in visitor.error() and "\n" not in visitor.error()
    visitor.pick(SCENE)
    assert says in visitor.error()  # until there is a model
    assert visitor.page.inner_text("#state") == "No model" and visitor.page.locator("#ask").is_disabled()


def test_missing_libraries_are_said(browser, exported, tmp_path):
    site = make_site(tmp_path / "site", model=exported)
    (site / "node_modules").unlink()
    with serving(site) as address:
        visitor = Visitor(browser, f"{address}/index.html")
        assert "The libraries of this page cannot be loaded: run npm ci in its folder" in visitor.error()
        visitor.close()


def test_a_page_that_is_not_served_says_so(browser):
    visitor = Visitor(browser, (BROWSER / "index.html").as_uri())
    assert visitor.error() == "The page cannot start from files: serve its folder, as python -m http.server does."
    visitor.close()


def test_a_question_that_fails_leaves_the_chat_as_it_was(visit, model):
    visitor = visit()
    visitor.pick(SCENE)
    first = visitor.ask(COLOUR)
    visitor.send("word " * 1100)
    visitor.page.get_by_text("but the decoder has 1024 positions: begin a new one.").wait_for(timeout=LONG * 1000)
    assert visitor.shown() == [COLOUR, first["text"]]
    chat = model.chat()
    chat.ask(COLOUR, SCENE)
    assert visitor.ask(DIGIT)["promptTokens"] == chat.ask(DIGIT).prompt_tokens
