# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The demo in a headless Chromium: what a visitor sees and does. Then what a hostile one sends, by plain HTTP: nothing of
this machine can be read through the page.
"""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
import torch
from gradio import processing_utils
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from loopback_server import LoopbackServer, json_answer
from model_folders import error_of
from PIL import Image

import flashsloth
from flashsloth import cli
from flashsloth.serve.demo import Demo, load_models, model_names, running
from flashsloth.serve.demo_chats import Limits


ROOT = Path(flashsloth.__file__).parent
SCENE, SMALL_TEXT = (str(ROOT / "examples" / name) for name in ("scene.png", "small_text.png"))
COLOUR, DIGIT = "What colour is the square?", "Which digit is written by hand? Answer briefly."
WORD = "Which word do you see?"
ICONS = ("scene.png", "small_text.png")  # of the examples
STANDARD, HD, SLOW = "flashsloth-tiny", "flashsloth-tiny-hd", "slow"
SETTINGS = ["Query tokens", 0, 1, 32]  # kind of overlay, temperature, top-p, longest answer
SLOW_SETTINGS = ["Query tokens", 0, 1, 900]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
# The model's words. Gradio shows three dots, "Loading content", like a message until the first of them are there.
ANSWERS = "#chat .bot.message:not(:has([role=status]))"
# All at once: between a question and its first words, the page shows the buttons and the facts of the answer before.
IS_ANSWERED = """([answers, number, numAsked]) =>
    document.querySelectorAll("#chat .user.message").length > numAsked
    && document.querySelectorAll(answers).length == number
    && !document.querySelector("#chat [role=status]")
    && document.querySelector("#question .submit-button")?.checkVisibility()
    && document.querySelector("#facts")?.innerText.includes("visual tokens;")
"""
LONG = 60  # seconds that a busy machine may take for a step; none of them is waited for in vain


@pytest.fixture(scope="module")
def models() -> dict:
    """The shipped models, and one that does not stop by itself."""
    models = load_models(dtype="float32")
    slow = load_models([ROOT / "checkpoints" / STANDARD], dtype="float32")[STANDARD]
    slow.model.generation_config.min_new_tokens = 900
    return {**models, SLOW: slow}


@pytest.fixture(scope="module")
def served(models) -> Demo:
    """A demo that is served."""
    with running(models, limits=Limits(waiting=1, file_size="1mb")) as demo:
        yield demo


# What a visitor sees


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS)
        browser.set_default_timeout(LONG * 1000)
        yield browser
        browser.close()


class Visitor:
    """A page of the demo, and the hands and eyes of who is before it."""

    def __init__(self, browser, address: str):
        self.requests: list[str] = []
        self.num_asked = 0  # messages of the visitor before the last one
        self.page = browser.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.question = self.page.locator("#question textarea")
        self.question.wait_for()

    def attach(self, *images: str) -> None:
        self.page.locator("#question input[type=file]").set_input_files(list(images))
        self.page.locator("#question .thumbnail-item").nth(len(images) - 1).wait_for()

    def ask(self, question: str) -> None:
        self.num_asked = self.page.locator("#chat .user.message").count()
        self.question.fill(question)
        self.page.locator("#question .submit-button").click()

    def choose(self, model: str) -> None:
        self.page.locator("#model input").click()
        self.page.get_by_role("option", name=model, exact=True).click()

    def answer(self, number: int = 1) -> str:
        """The last answer, once it is complete and there are so many. What it cost is shown with its last words."""
        self.page.wait_for_function(IS_ANSWERED, arg=[ANSWERS, number, self.num_asked])
        return self.said()

    def said(self) -> str:
        """The model's last words so far."""
        return self.page.locator(ANSWERS).last.inner_text().strip()

    def overlay(self) -> Image.Image:
        """The first image beside the chat."""
        source = self.page.locator("#overlays img").first.get_attribute("src")
        return Image.open(io.BytesIO(self.page.request.get(source).body())).convert("RGB")


@pytest.fixture
def visitor(browser, served):
    visitor = Visitor(browser, served.address)
    yield visitor
    visitor.page.close()


@needs_chromium
def test_a_chat_with_what_the_model_looked_at(visitor, models, capsys):
    assert cli.main(["ask", "--dtype", "float32", "--image", SCENE, COLOUR]) == 0
    alone = capsys.readouterr().out.strip()
    visitor.attach(SCENE)
    visitor.ask(COLOUR)
    assert visitor.answer() == alone == "The square is red."
    assert visitor.page.locator("#chat .user img").count() == 1
    attention = models[STANDARD].ask(SCENE, COLOUR, explain=True).attention[0]
    assert visitor.overlay().tobytes() == attention.overlay("query_tokens").tobytes()

    before = visitor.page.locator("#overlays img").first.get_attribute("src")
    visitor.page.get_by_label("Pooling").click()
    visitor.page.wait_for_function(f"document.querySelector('#overlays img').getAttribute('src') != '{before}'")
    assert visitor.overlay().tobytes() == attention.overlay("pooling").tobytes()

    visitor.ask(DIGIT)  # about the image before
    assert visitor.answer(2) == "4"
    visitor.page.get_by_role("button", name="New chat").click()
    visitor.page.locator("#chat .message").first.wait_for(state="detached")
    visitor.ask(DIGIT)  # about nothing
    assert visitor.answer() == str(models[STANDARD].ask(None, DIGIT))
    assert {url.split("/")[2] for url in visitor.requests if not url.startswith(("data:", "blob:"))} == {
        visitor.page.url.split("/")[2]
    }  # no fonts, scripts or counters from elsewhere


@needs_chromium
def test_several_images_and_the_other_checkpoint(visitor, models):
    visitor.choose(HD)
    visitor.attach(SMALL_TEXT, SCENE)
    visitor.ask(COLOUR)
    expected = models[HD].ask([SMALL_TEXT, SCENE], COLOUR)
    assert visitor.answer() == str(expected)
    assert f"{expected.visual_tokens} visual tokens" in visitor.page.locator("#facts").inner_text()
    assert expected.visual_tokens == 2 * 45
    sources = visitor.page.eval_on_selector_all("#overlays img", "images => images.map(image => image.src)")
    assert len(set(sources)) == 2
    visitor.choose(STANDARD)  # which was told nothing
    visitor.page.locator("#chat .message").first.wait_for(state="detached")


@needs_chromium
def test_an_example_asks_itself(visitor, models):
    visitor.page.locator("#chat").get_by_text(WORD).click()
    assert visitor.answer() == str(models[HD].ask(SMALL_TEXT, WORD)) == "The word is jar."
    assert visitor.page.locator("#model input").input_value() == HD


@needs_chromium
def test_words_appear_one_by_one_until_they_are_stopped(visitor, served):
    visitor.choose(SLOW)
    visitor.page.get_by_text("Settings").click()
    visitor.page.get_by_label("number input for Longest answer").fill("900")
    visitor.attach(SCENE)
    visitor.ask(COLOUR)
    visitor.page.wait_for_function(f"document.querySelector('{ANSWERS}')?.innerText.trim().length > 20")
    early = visitor.said()
    visitor.question.fill("I write on")
    visitor.page.wait_for_function(
        f"document.querySelector('#chat .bot.message').innerText.length > {len(early)} + 20"
    )
    visitor.page.locator("#question .stop-button").click()
    assert visitor.answer().startswith(early)
    assert "; stopped" in visitor.page.locator("#facts").inner_text()
    assert visitor.question.input_value() == "I write on"


@needs_chromium
def test_what_is_wrong_with_an_image_is_said_in_the_chat(visitor, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    visitor.page.locator("#question input[type=file]").set_input_files(tmp_path / "notes.png")
    visitor.ask("<b>What</b> is\n  *it* &amp; &?")
    visitor.page.locator(ANSWERS).wait_for()
    assert visitor.page.locator("#chat .user.message").inner_text().strip() == "<b>What</b> is\n  *it* &amp; &?"
    assert re.match("⚠️? ?The image 'notes.png' is not in a format that Pillow knows", visitor.said())
    visitor.attach(SCENE)
    visitor.ask(COLOUR)
    assert visitor.answer(2) == "The square is red."


@needs_chromium
def test_a_closed_page_is_forgotten(browser, served):
    visitor = Visitor(browser, served.address)
    before = len(served.conversations)
    visitor.attach(SCENE)
    visitor.ask(COLOUR)
    visitor.answer()
    assert len(served.conversations) == before + 1
    visitor.page.close()
    wait_until(lambda: len(served.conversations) == before)


# What programs send


def wait_until(condition) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def said(messages: list[dict]) -> str:
    """The last words of a chat."""
    return messages[-1]["content"][-1]["text"]


@pytest.fixture
def client(served):
    client = Client(served.address, verbose=False)
    yield client
    client.close()


def test_one_answer_at_a_time_and_a_queue_with_an_end(served, client):
    slow = client.submit({"text": COLOUR, "files": [handle_file(SCENE)]}, SLOW, *SLOW_SETTINGS, api_name="/ask")
    wait_until(lambda: slow.status().code == Status.ITERATING)
    others = [Client(served.address, verbose=False) for _ in range(2)]
    jobs = [other.submit({"text": COLOUR, "files": []}, STANDARD, *SETTINGS, api_name="/ask") for other in others]
    wait_until(lambda: sum(job.status().code == Status.IN_QUEUE for job in jobs) == 1)
    served.conversations.of(client.session_hash).stop()
    results = [job.exception(LONG) for job in jobs]
    assert sum(result is None for result in results) == 1
    assert all("full" in str(result) for result in results if result is not None)
    assert "; stopped" in slow.result()[-1]
    for other in others:
        other.close()


def test_settings_reach_the_model(client, models):
    def answer(*settings) -> str:
        message = {"text": "Describe the image.", "files": [handle_file(SCENE)]}
        client.reset_session()
        return said(client.predict(message, STANDARD, "Query tokens", *settings, api_name="/ask")[0])

    greedy = answer(0, 1, 32)
    assert greedy == str(models[STANDARD].ask(SCENE, "Describe the image.", max_new_tokens=32))
    assert greedy.removeprefix(answer(0, 1, 3)) not in (greedy, "")
    torch.manual_seed(0)
    assert answer(2, 1, 32) != greedy  # drawn by chance
    assert answer(2, 0.05, 32) == greedy  # from the likeliest only


def test_old_files_are_removed_and_the_chat_goes_on(served, client):
    message = {"text": COLOUR, "files": [handle_file(SCENE)]}
    client.predict(message, STANDARD, *SETTINGS, api_name="/ask")
    assert list(served.uploads.rglob("scene.png"))
    delete_files_created_by_app(served.blocks, age=None)  # which Gradio does in intervals
    assert [path.name for path in served.uploads.rglob("*.png") if path.name not in ICONS] == []
    messages, *_ = client.predict({"text": DIGIT, "files": []}, STANDARD, *SETTINGS, api_name="/ask")
    assert said(messages) == "4"
    assert Path(messages[0]["content"][0]["file"]).is_file()  # the client has fetched it


def test_questions_have_limits(client):
    def answer(text: str) -> str:
        return said(client.predict({"text": text, "files": []}, STANDARD, *SETTINGS, api_name="/ask")[0])

    assert answer("  ") == "⚠️ The question is empty: ask something."
    assert answer("a" * 5000) == "⚠️ The question has 5000 characters: shorten it to 4000."
    with pytest.raises(Exception, match="1025"):
        client.predict({"text": COLOUR, "files": []}, STANDARD, "Query tokens", 0, 1, 1025, api_name="/ask")


class Secret(LoopbackServer):
    """What only this machine may reach."""

    def act(self, request, raw_path):
        return json_answer({"secret": "of this machine"})


@pytest.fixture
def secret():
    with Secret() as server:
        yield server


@pytest.fixture
def http(served):
    with httpx2.Client(base_url=f"{served.address}gradio_api/", timeout=LONG) as http:
        yield http


def result_of(served, http, files: list, session: str = "hostile", name: str = "ask", **sent) -> dict:
    """What the page's function answers to a message with these files, however they are named."""
    number = next(number for number, fn in served.blocks.fns.items() if fn.name == name)
    message = sent.pop("message", {"text": COLOUR, "files": files})
    settings = sent.pop("settings", [STANDARD, *SETTINGS])
    data = [message, *settings] if name == "ask" else []
    body = json.dumps({"data": data, "fn_index": number, "session_hash": session, **sent})  # in ASCII
    asked = http.post("queue/join", content=body, headers={"Content-Type": "application/json"})
    assert asked.status_code == 200, asked.text
    with http.stream("GET", "queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def named(path: str, **fields) -> dict:
    """A file as a page names it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


def test_no_file_and_no_private_address_is_served(http, secret, tmp_path):
    (tmp_path / "own.txt").write_text("of this machine")
    paths = ["/etc/passwd", str(tmp_path / "own.txt"), f"{ROOT}/setup.cfg", "setup.cfg", "../../etc/passwd"]
    paths += [f"{ROOT}/checkpoints/{STANDARD}/config.json", "%2e%2e/%2e%2e/etc/passwd", f"{secret.url}/file"]
    for path in paths:
        for route in ("file=", "proxy=", "file/"):
            answer = http.get(f"{route}{path}", follow_redirects=True)
            assert answer.status_code >= 400 and "root:" not in answer.text, path
    assert secret.requests == []


def test_a_message_names_uploads_only(served, http, secret, tmp_path, monkeypatch):
    image = tmp_path / "own.png"
    Image.new("RGB", (8, 8)).save(image)
    monkeypatch.chdir(tmp_path)  # Gradio trusts this folder and the temporary one
    hostile = ["/etc/passwd", str(image), "own.png", f"{ROOT}/examples/scene.png", f"{secret.url}/a.png"]
    for path in hostile:
        for file in (named(path), {"path": path}, named("a.png", url=path), path):
            answer = result_of(served, http, [file])
            shown = json.dumps(answer)
            assert "root:" not in shown and "/file=" not in shown, file
            assert not answer["success"] or "⚠" in shown, file
    assert secret.requests == []


def test_nothing_that_is_sent_prints_a_traceback_or_is_fetched(served, http, monkeypatch, capfd):
    fetched = []
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", lambda *args: fetched.append(args))
    upload = http.post("upload", files={"files": ("a.png", b"no image")}).json()[0]
    files = [None, {"path": None}, named("\0"), named(str(Path(upload).parent)), "http://example.com/a.png"]
    files += [named("http://example.com/a.png"), named("HTTP://example.com/a.png"), named(upload)]
    messages = [{"text": COLOUR, "files": [file]} for file in files]
    messages += [None, {}, [], "text", 7, {"text": None, "files": None}, {"text": COLOUR, "files": None}]
    for message in messages:
        answer = result_of(served, http, [], message=message)
        assert not answer["success"] or "⚠" in json.dumps(answer, ensure_ascii=False), message
    half = {"text": "half a character: \ud800", "files": []}
    assert not result_of(served, http, [], message=half)["success"]
    wrong_models = [[model, *SETTINGS] for model in ("no such model", [STANDARD], None)]
    for settings in (*wrong_models, [STANDARD, None, 0, 1, 32], [STANDARD]):
        assert not result_of(served, http, [], settings=settings)["success"]
    for index in (-1, 99, None, "0"):
        event = {"index": index, "value": ""}
        assert not result_of(served, http, [], name="take_example", event_data=event)["success"]
    scene = http.post("upload", files={"files": ("scene.png", Path(SCENE).read_bytes())}).json()[0]
    assert "The square is red." in json.dumps(result_of(served, http, [named(scene)]))  # the session goes on
    output = capfd.readouterr()
    assert "Traceback" not in output.err + output.out and not fetched


def test_an_example_is_chosen_by_its_number_only(served, http):
    event = {"index": 0, "value": {"text": "?", "files": ["/etc/passwd"]}}
    answer = json.dumps(result_of(served, http, [], name="take_example", event_data=event))
    assert COLOUR in answer and "scene.png" in answer and "passwd" not in answer


def test_the_queue_cannot_be_passed_by(http):
    data = [{"text": COLOUR, "files": []}, STANDARD, *SETTINGS]
    assert http.post("run/ask", json={"data": data, "session_hash": "direct"}).status_code >= 400


def test_uploads_have_a_size(http):
    small, large = (http.post("upload", files={"files": ("a.png", b"0" * size)}) for size in (1000, 2_000_000))
    assert small.status_code == 200 and large.status_code == 413


# Around it


def test_a_missing_extra_is_named():
    program = "import sys; sys.modules['gradio'] = None; from flashsloth.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "flashsloth demo: error: demo needs gradio; install it with: pip install 'flashsloth[demo]'\n"
    )


def test_models_have_names():
    folder = ROOT / "checkpoints" / STANDARD
    assert model_names([folder, "owner/name@abc"]) == [STANDARD, "owner/name@abc"]
    assert "Two models are called flashsloth-tiny" in error_of(model_names, [folder, f"{folder}/"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "203.0.113.1"], "The demo cannot listen at 203.0.113.1"),
        (["--host", "no such host"], "The demo cannot listen at no such host"),
        (["--port", "65536"], "'65536' is not a port: a number from 0 to 65535"),
        (["--port", "PORT"], "Address already in use): give another --host or --port"),
        (["--model", "no-such-folder"], "No model folder at 'no-such-folder'"),
        (["--model", "FOLDER", "--model", "FOLDER"], "Two models are called flashsloth-tiny"),
    ],
)
def test_wrong_options_are_one_line(options, says, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"PORT": str(taken.getsockname()[1]), "FOLDER": str(ROOT / "checkpoints" / STANDARD)}
        try:
            status = cli.main(["demo", *(values.get(option, option) for option in options)])
        except SystemExit as error:
            status = error.code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Loading ")]
    assert status == 2 and len(lines) == 1 and says in lines[0]


def test_the_command_serves_until_it_is_told_to_stop(capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answers = []

    def visit() -> None:
        try:
            wait_until(lambda: is_open(port))
            client = Client(f"http://127.0.0.1:{port}", verbose=False)
            message = {"text": COLOUR, "files": [handle_file(SCENE)]}
            answers.append(said(client.predict(message, STANDARD, *SETTINGS, api_name="/ask")[0]))
            client.close()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    visiting = threading.Thread(target=visit)
    visiting.start()
    status = cli.main(["demo", "--model", str(ROOT / "checkpoints" / STANDARD), "--port", str(port)])
    visiting.join()
    output = capsys.readouterr()
    assert (status, answers) == (128 + signal.SIGTERM, ["The square is red."])
    assert output.out == f"http://127.0.0.1:{port}/\n"
    assert output.err.splitlines()[-1] == "Terminated." and "Traceback" not in output.err
    assert not is_open(port)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
