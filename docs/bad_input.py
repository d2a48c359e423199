# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Writes docs/bad_input.md, a table of what bad input gets. Its rows are the `BAD_INPUT` of the tests, which give the
input and look for the message: in the root of the repository,

    PYTHONPATH=tests/support python docs/bad_input.py
"""

import importlib.util
import re
from pathlib import Path


ROOT = Path(__file__).parent.parent
MAX_LENGTH = 110  # characters of a cell

SECTIONS = {
    "Images": "test_image_reading",
    "Options of the image processor": "test_image_processing",
    "Prompts": "test_processing",
    "Model folders": "test_bad_folders",
    "Parts of a model folder that do not fit": "folders/test_fit",
    "Chat templates": "folders/test_chat_template",
    "The command line": "cli/test_program",
    "Settings of a training stage": "train/test_config",
    "Evaluation during training": "train/test_evaluation",
    "What a training stage is given": "train/test_sft",
    "Rows of training data": "train/data/test_rows",
    "Keys of training data": "train/data/test_keys",
    "Images and texts of training data": "train/data/test_validate",
    "Questions and labels of a benchmark": "eval/test_questions",
    "The folder of an evaluation": "eval/test_run_folder",
    "Reports to compare": "eval/test_compare",
    "Scores of a model folder, for --write": "eval/test_report",
    "Folders to publish": "publish/test_release",
    "Notes of a folder to publish": "publish/test_notes",
    "What a model card is given": "publish/test_card",
    "What a Space is made of": "serve/test_space",
    "What a static Space is made of": "serve/test_static_space",
    "Spaces to publish": "publish/test_space",
}

HEAD = (
    "# Bad input\n\n"
    "What bad input gets: an error that names the value and the remedy, before anything is lost. At the command line "
    "it is one line on standard error, with exit status 2. `PYTHONPATH=tests/support python docs/bad_input.py` writes "
    "this page from the tests, which give each input and look for this part of the message.\n"
)


def table(module: str) -> str:
    """The rows of a test module, as a table."""
    file = ROOT / "tests" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(module.replace("/", "."), file)
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    rows = ["| given | the message says |", "| --- | --- |"]
    for given, values in tests.BAD_INPUT.items():
        message = next(value for value in reversed(values) if isinstance(value, str))
        rows.append(f"| {cell(given)} | {cell(plain(message))} |")
    return "\n".join(rows)


def plain(pattern: str) -> str:
    """A regular expression of a test as text."""
    pattern = re.sub(r"(?<!\\)(\.\*|\[\^?[^\]]*\]\*?|\$$|^\^)", "...", pattern)
    return re.sub(r"\\(.)", r"\1", pattern).strip(". ") if pattern.strip(". ") else pattern


def cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 4] + " ..."


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(f"## {title}\n\n{table(module)}\n" for title, module in SECTIONS.items())])


if __name__ == "__main__":
    (ROOT / "docs" / "bad_input.md").write_text(page(), encoding="utf-8")
