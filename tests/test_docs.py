# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The examples of README.md and docs/ print what they say, and their links and file names exist.

An example is a block of `sh` or `python` with a block of `text` behind it, its expected output; there `...` stands for
anything. The Python blocks of a page are one program, and print nothing else. Commands without expected output are not
run: they need the Hub, a GPU or hours.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from shell import run_script


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", flags=re.DOTALL | re.MULTILINE)
READ = ("checkpoints", "examples", "train")  # what the examples read of the checkout
NOT_RUN = ("make quickstart",)  # it would install an environment; the tests run in one
BOUNDARY = "-- next block --"
MAX_README_LINES = 150


@dataclass
class Block:
    """An example of a page: its language, what is run, and what it prints (`None`: it is not run)."""

    language: str
    source: str
    expected: str | None


def blocks(page: Path, language: str) -> list[Block]:
    found = [Block(*match.groups()) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[Block]:
    return [
        block for block in blocks(page, "sh") if block.expected is not None and block.source.strip() not in NOT_RUN
    ]


def matches(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), flags=re.DOTALL) is not None


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with what the examples read; what they write stays in it."""
    for name in READ:
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_prints_what_the_page_says(page, checkout):
    parts = blocks(page, "python")
    program = f"\nprint({BOUNDARY!r})\n".join(part.source for part in parts)
    done = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for part, output in zip(parts, done.stdout.split(f"{BOUNDARY}\n"), strict=True):
        assert matches(part.expected or "", output), f"{part.source}\nprinted\n{output}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_print_what_the_page_says(page, checkout):
    for block in commands(page):
        script = "\n".join(line for line in block.source.splitlines() if not line.startswith("source "))
        output, _ = run_script(script, checkout)
        assert matches(block.expected, output), f"{block.source}\nprinted\n{output}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_exist(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_of_the_architecture_page_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/*]+\.(?:py|md|yaml|json))`", text)) - {"training.json"}  # which a run writes
    assert len(names) > 20
    assert [name for name in sorted(names) if not any(ROOT.glob(name)) and not any(ROOT.glob(f"**/{name}"))] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
