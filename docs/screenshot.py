# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Writes docs/demo.png: the demo in a headless Chromium, after two questions. In the root of the repository, after
`pip install -e '.[dev]'` and with Debian's package `chromium`,

    PYTHONPATH=tests/support python docs/screenshot.py
"""

import sys
from pathlib import Path

from browser_page import CHROMIUM, NO_CHROMIUM, chromium
from playwright.sync_api import Page

from flashsloth.serve.demo import load_models, running


ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "examples" / "scene.png"
QUESTIONS = ("What colour is the square?", "Which digit is written by hand? Answer briefly.")
SIZE = {"width": 1280, "height": 840}
# Nothing moves, and all images of the page are there.
STILL = "document.getAnimations().length == 0 && [...document.images].every((image) => image.complete)"


def ask(page: Page, question: str, number: int) -> None:
    """Asks, and waits until there are so many complete answers."""
    page.locator("#question textarea").fill(question)
    page.locator("#question .submit-button").click()
    page.wait_for_function(f"document.querySelectorAll('#chat .bot.message').length == {number}")
    page.locator("#question .submit-button").wait_for()
    page.locator("#facts").get_by_text("visual tokens;").wait_for()


def main() -> None:
    if CHROMIUM is None:
        sys.exit(f"error: {NO_CHROMIUM}")
    with running(load_models()) as demo, chromium(size=SIZE) as browser:
        page = browser.new_page()
        page.goto(demo.address)
        page.locator("#question input[type=file]").set_input_files(IMAGE)
        page.locator("#question .thumbnail-item").wait_for()
        for number, question in enumerate(QUESTIONS, start=1):
            ask(page, question, number)
        page.mouse.move(0, 0)
        page.wait_for_function(STILL)
        page.screenshot(path=ROOT / "docs" / "demo.png")


if __name__ == "__main__":
    main()
