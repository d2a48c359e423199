# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Writes docs/demo.png: the demo in a headless Chromium, after two questions. In the root of the repository, after
`pip install -e '.[dev]'` and with Debian's package `chromium`,

    python docs/screenshot.py
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from flashsloth.serve.demo import load_models, running


ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "examples" / "scene.png"
QUESTIONS = ("What colour is the square?", "Which digit is written by hand? Answer briefly.")
SIZE = {"width": 1280, "height": 840}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]


def ask(page: Page, question: str, number: int) -> None:
    """Asks, and waits until there are so many complete answers."""
    page.locator("#question textarea").fill(question)
    page.locator("#question .submit-button").click()
    page.wait_for_function(f"document.querySelectorAll('#chat .bot.message').length == {number}")
    page.locator("#question .submit-button").wait_for()
    page.locator("#facts").get_by_text("visual tokens;").wait_for()


def take(address: str, chromium: str, file: Path) -> None:
    """Holds the conversation at an address, and saves what the page shows then."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport=SIZE
        )
        page = browser.pages[0]
        page.goto(address)
        page.locator("#question input[type=file]").set_input_files(IMAGE)
        page.locator("#question .thumbnail-item").wait_for()
        for number, question in enumerate(QUESTIONS, start=1):
            ask(page, question, number)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)  # until nothing moves any more
        page.screenshot(path=file)
        browser.close()


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: there is no chromium; on Debian: apt-get install chromium")
    with running(load_models()) as demo:
        take(demo.address, chromium, ROOT / "docs" / "demo.png")


if __name__ == "__main__":
    main()
