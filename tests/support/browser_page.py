# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The page of examples/browser in a headless Chromium, and the hands and eyes of who is before it."""

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import BrowserContext, ViewportSize, sync_playwright

import flashsloth


BROWSER = Path(flashsloth.__file__).parent / "examples" / "browser"
LIBRARIES = BROWSER / "node_modules"
CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "there is no chromium: apt-get install chromium"
FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NO_GPU = ("--disable-gpu",)
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
LONG = 120  # seconds that a busy machine may take for a step; none of them is waited for in vain
SIZE = {"width": 1200, "height": 760}


def what_is_missing() -> str | None:
    """What the page needs and this machine lacks, and how to get it."""
    if CHROMIUM is None:
        return NO_CHROMIUM
    if not LIBRARIES.is_dir():
        return "the page's libraries are not there: npm ci --prefix examples/browser"
    return None


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder with further headers, and writes no log."""

    def __init__(self, *args, headers: Mapping[str, str], **options):
        self.further_headers = headers
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        for name, value in self.further_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a folder that is served."""
    handler = partial(Handler, directory=folder, headers=headers or {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def make_site(site: Path, **models: Path) -> Path:
    """A folder with the page, and with models beside it by their names."""
    site.mkdir()
    for path in (*BROWSER.glob("*.*"), LIBRARIES):
        (site / path.name).symlink_to(path)
    for name, model in models.items():
        (site / name).symlink_to(model)
    return site


@contextmanager
def chromium(graphics: Sequence[str] = NO_GPU, size: ViewportSize = SIZE) -> Iterator[BrowserContext]:
    """Chromium, with a profile of its own and a window of this size in pixels."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=[*FLAGS, *graphics], viewport=size
        )
        browser.set_default_timeout(LONG * 1000)
        yield browser
        browser.close()


class Visitor:
    """A visitor of the page at an address, who has waited until it is loaded, or says why not."""

    def __init__(self, browser: BrowserContext, address: str):
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(
            "window.answers = []; document.addEventListener('answer', ({ detail }) => answers.push("
            "{ ...detail, attention: detail.attention?.map((weights) => Array.from(weights)) }))"
        )
        self.page.goto(address)
        self.page.wait_for_function(
            "!document.querySelector('#ask').disabled || !document.querySelector('#error').hidden"
        )

    def pick(self, image) -> None:
        """Picks an image: a path, or a file's name, type and content."""
        before = self.page.locator("#image").evaluate("(image) => image.src")
        self.page.set_input_files("#file", image)
        self.page.wait_for_function("(before) => document.querySelector('#image').src !== before", arg=before)

    def ask(self, question: str) -> dict:
        """Asks, and waits for the answer with its tokens."""
        number = len(self.answers()) + 1
        self.send(question)
        self.page.wait_for_function(f"answers.length == {number} || !document.querySelector('#error').hidden")
        assert not self.error(), self.error()
        return self.answers()[-1]

    def send(self, question: str) -> None:
        self.page.fill("#question", question)
        self.page.click("#ask")

    def answers(self) -> list[dict]:
        return self.page.evaluate("answers")

    def error(self) -> str:
        return self.page.inner_text("#error") if self.page.locator("#error").is_visible() else ""

    def shown(self) -> list[str]:
        """The questions and answers that stand on the page."""
        return self.page.locator("#chat li").all_inner_texts()

    def close(self) -> None:
        self.page.close()
        assert self.problems == []
