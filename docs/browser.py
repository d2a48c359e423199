# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Writes docs/browser.png: the page of examples/browser in a headless Chromium, after two questions; prints how long a
token takes there. In the root of the repository, after `pip install -e '.[dev]'` and
`npm ci --prefix examples/browser`, and with Debian's package `chromium`,

    PYTHONPATH=tests/support python docs/browser.py
"""

import statistics
import sys
import tempfile
from pathlib import Path

from browser_page import Visitor, chromium, make_site, serving, what_is_missing

from flashsloth.export.onnx import export_onnx
from flashsloth.loading import SHIPPED_CHECKPOINT


ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "examples" / "scene.png"
QUESTIONS = ("What colour is the square?", "Which digit is written by hand? Answer briefly.")
WEIGHTS = ("float32", "int4")
REPEATS = 5  # of a question whose tokens are timed


def milliseconds_per_token(visitor: Visitor) -> float:
    """The median over answers to one question."""
    visitor.pick(IMAGE)
    visitor.ask(QUESTIONS[0])  # warms up
    times = []
    for _ in range(REPEATS):
        visitor.page.click("#reset")
        times.append(visitor.ask(QUESTIONS[0])["millisecondsPerToken"])
    return statistics.median(times)


def main() -> None:
    missing = what_is_missing()
    if missing:
        sys.exit(f"error: {missing}")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        model = export_onnx(SHIPPED_CHECKPOINT, Path(folder) / SHIPPED_CHECKPOINT.name, WEIGHTS)
        with serving(make_site(Path(folder) / "site", **{model.name: model})) as address:
            for weights in WEIGHTS:
                visitor = Visitor(browser, f"{address}/index.html?model={model.name}&device=wasm&weights={weights}")
                print(f"{weights} in WebAssembly: {milliseconds_per_token(visitor):.1f} ms per token")
                visitor.page.click("#reset")
                for question in QUESTIONS:
                    visitor.ask(question)
                visitor.page.check("#show")  # what the model looked at
                visitor.page.screenshot(path=ROOT / "docs" / "browser.png")
                visitor.close()


if __name__ == "__main__":
    main()
