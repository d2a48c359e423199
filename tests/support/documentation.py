# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The examples of a page of the documentation. An example is a block of `sh` or `python` with a block of `text` behind
it, its expected output; there `...` stands for anything.
"""

import re
from dataclasses import dataclass
from pathlib import Path


BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", flags=re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    """An example of a page: its language, what is run, and what it prints (`None`: the page does not show it)."""

    language: str
    source: str
    expected: str | None


def blocks(page: Path, language: str) -> list[Block]:
    """The examples of a page in a language, in their order."""
    found = [Block(*match.groups()) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language == language]


def matches(expected: str, printed: str) -> bool:
    """Whether an example printed what its page shows."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), flags=re.DOTALL) is not None
