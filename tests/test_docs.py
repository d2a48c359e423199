# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The examples of the documentation print what it says (see `documentation`), and its links and file names exist.

The Python blocks of a page are one program, and print nothing else. Commands without a block of expected output are
not run: they need the network, a GPU or hours. A sentence says what they print. In the place of the large checkpoints
that the pages name, the Hub's local cache holds tiny ones.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import golden_checkpoint
import pytest
from backbones import save_language_model, save_siglip
from documentation import Block, blocks, matches
from huggingface_hub import constants
from shell import run_script

from flashsloth import FlashSlothConfig
from flashsloth.convert.composition import LANGUAGE_MODEL, VISION_MODEL


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# tests/test_examples.py runs the commands of examples/, and .ci/run those of CONTRIBUTING.md.
OTHER_PAGES = [*sorted((ROOT / "examples").glob("*.md")), ROOT / "notebooks" / "README.md", ROOT / "CONTRIBUTING.md"]
NO_EXAMPLES = [ROOT / "CHANGELOG.md", ROOT / "checkpoints" / "README.md", ROOT / "bench" / "results.md"]
# What the blocks of indented commands begin with.
PROGRAMS = ("flashsloth", "make", "pip", "python", "torchrun", "accelerate", "jupyter", "PYTHONPATH=tests/support")
INDENTED_COMMANDS = tuple(f"    {program} " for program in PROGRAMS)
READ = ("checkpoints", "examples", "train")  # what the examples read of the checkout
NOT_RUN = ("make quickstart",)  # it would install an environment; the tests run in one
BOUNDARY = "-- next block --"
MAX_README_LINES = 150
PUBLISHED = "Tongbo/FlashSloth-3.2B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def commands(page: Path) -> list[Block]:
    return [
        block for block in blocks(page, "sh") if block.expected is not None and block.source.strip() not in NOT_RUN
    ]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with what the examples read; what they write stays in it."""
    for name in READ:
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def put_in_cache(cache: Path, model: str) -> Path:
    """The place of a model on the Hub (`owner/name[@commit]`) in the Hub's local cache."""
    repo, _, commit = model.partition("@")
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit or COMMIT)
    (folder / "snapshots").mkdir()
    return folder / "snapshots" / (commit or COMMIT)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory) -> Path:
    """A cache of the Hub, with a tiny model in the place of each large one that the pages convert or compose."""
    cache = tmp_path_factory.mktemp("cache")
    golden_checkpoint.write(put_in_cache(cache, PUBLISHED), golden_checkpoint.weights())
    save_language_model(put_in_cache(cache, LANGUAGE_MODEL), num_hidden_layers=8)  # the default query layer is the 8th
    save_siglip(put_in_cache(cache, VISION_MODEL))
    return cache


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
def test_commands_print_what_the_page_says(page, checkout, tiny_models, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tiny_models))
    for block in commands(page):
        script = "\n".join(line for line in block.source.splitlines() if not line.startswith("source "))
        output, _ = run_script(script, checkout)
        assert matches(block.expected, output), f"{block.source}\nprinted\n{output}"


def without_output(page: Path) -> list[str]:
    """The blocks of commands of a page for which neither a block of output nor a sentence says what they print."""
    parts = re.split(r"\n\n+", page.read_text(encoding="utf-8"))
    missing = []
    for before, part, after in zip(["", *parts], parts, [*parts[1:], ""], strict=False):
        is_fenced, is_indented = part.startswith("```sh"), part.startswith(INDENTED_COMMANDS)
        has_output = after.startswith("```text") or "print" in after or (is_indented and "print" in before)
        if (is_fenced or is_indented) and not has_output:
            missing.append(part)
    return missing


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=name_of)
def test_every_command_has_its_output(page):
    assert without_output(page) == []


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES, *NO_EXAMPLES], ids=name_of)
def test_links_exist(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_of_the_architecture_page_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/*]+\.(?:py|md|yaml|json))`", text)) - {"training.json"}  # which a run writes
    assert len(names) > 20
    assert [name for name in sorted(names) if not any(ROOT.glob(name)) and not any(ROOT.glob(f"**/{name}"))] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_readme_has_the_sizes_of_the_published_model_and_of_the_shipped_ones():
    words = {4: "four", 9: "nine"}
    published = FlashSlothConfig()
    [shipped] = {
        (config.pooling_size, config.num_query_tokens)
        for config in map(FlashSlothConfig.from_pretrained, (ROOT / "checkpoints").glob("flashsloth-tiny*"))
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    side, small_side = published.pooling_size, shipped[0]
    assert f"{side} x {side} patches ({small_side} x {small_side} in the shipped pair)" in text
    numbers = words[published.num_query_tokens], words[shipped[1]]
    assert "{} learnable query tokens ({} in the shipped pair)".format(*numbers) in text


def test_the_table_of_bad_input_is_that_of_the_tests():
    spec = importlib.util.spec_from_file_location("bad_input", ROOT / "docs" / "bad_input.py")
    bad_input = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bad_input)
    page = (ROOT / "docs" / "bad_input.md").read_text(encoding="utf-8")
    assert page == bad_input.page(), "PYTHONPATH=tests/support python docs/bad_input.py writes it again"
    assert page.count("\n| ") > 300
