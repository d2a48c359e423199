# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Each notebook runs as written, shows what it promises, leaves no file behind, and is committed with its outputs.

    PYTHONPATH=tests/support python tests/test_notebooks.py [NAME.ipynb ...]

runs them in the same way and saves their outputs in the notebooks, without those on standard error.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from loopback_hub import LoopbackHub
from nbclient import NotebookClient


ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
NAMES = ("quickstart.ipynb", "finetune_lora.ipynb", "convert_and_publish.ipynb")
# The files of the repository that the notebooks read.
READ = ("checkpoints", "examples", "train/configs", "tests/data/phi2-tokenizer")
REPO_ID = "lab/flashsloth-tiny"
LIMIT = 600  # seconds for a cell
MAX_BYTES = 600_000
# Paths and addresses of the machine that ran a notebook.
OF_A_MACHINE = re.compile(
    r"/(home|root|Users|tmp|var|opt|usr|work|private)/|[A-Z]:\\|site-packages|localhost|127\.0\."
)


def run(name: str, folder: Path, hub: LoopbackHub) -> nbformat.NotebookNode:
    """Runs a notebook in a copy of the files that it reads, so that the repository stays as it is."""
    for path in READ:
        shutil.copytree(ROOT / path, folder / "checkout" / path)
    (folder / "checkout" / "notebooks").mkdir()
    (folder / "temporary").mkdir()
    environment = {
        **hub.environment(folder / "home", hub.token),
        "REPO_ID": REPO_ID,
        "TMPDIR": str(folder / "temporary"),
        "OMP_NUM_THREADS": "1",  # on a busy machine, threads that wait for each other are many times slower
        "DS_ACCELERATOR": "cpu",  # otherwise DeepSpeed, if installed, writes to standard output
    }
    notebook = nbformat.read(NOTEBOOKS / name, nbformat.NO_CONVERT)
    client = NotebookClient(
        notebook,
        timeout=LIMIT,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder / "checkout" / "notebooks")}},
    )
    client.execute(env=environment)
    return notebook


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs(notebook) -> list:
    """All outputs but those on standard error, which are progress and warnings of libraries."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs if output.get("name") != "stderr"]


def text(notebook) -> str:
    """All that was printed, and the values of cells."""
    return "".join(output.get("text") or output.data.get("text/plain", "") for output in outputs(notebook))


def figures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.fixture
def executed(request, tmp_path, hub):
    """The notebook named by the test's parameter, after it was run; nothing was added to the files that it reads."""
    notebook = run(request.param, tmp_path, hub)
    there = {f"{path}/{name}" for path in READ for name in files(ROOT / path) if "__pycache__" not in name}
    left = {name for name in files(tmp_path / "checkout") if "__pycache__" not in name}
    assert left == there
    return notebook


@pytest.mark.parametrize("executed", ["quickstart.ipynb"], indirect=True)
def test_quickstart(executed):
    printed = text(executed)
    assert "['The square is red.']" in printed
    assert "['The word is dog.', '4', 'The star is at the bottom left.', 'blue']" in printed
    assert "hd=False: The word is jar." not in printed
    assert "hd=True: The word is jar. The number is 94." in printed
    assert re.search(
        r"Where is the square\? The square is at the top\. \(14 new tokens, \d+ from the cache\)", printed
    )
    assert figures(executed) == 6  # two images, four figures
    committed = nbformat.read(NOTEBOOKS / "quickstart.ipynb", nbformat.NO_CONVERT)
    assert printed == text(committed)


@pytest.mark.parametrize("executed", ["finetune_lora.ipynb"], indirect=True)
def test_finetune_lora(executed):
    printed = text(executed)
    learned = re.search(r"before: +(\d+) % right and brief\nafter: +(\d+) %", printed)
    assert float(learned[1]) < 5 and float(learned[2]) > 70
    kept = re.search(r"before: (\d+) % with 'Answer briefly.'\nafter: (\d+) %", printed)
    assert float(kept[2]) > float(kept[1]) - 15
    adapter, merged = (float(re.search(rf"{name}: +([\d.]+) MB", printed)[1]) for name in ("adapter", "merged"))
    assert adapter < merged
    assert figures(executed) == 2  # the run's curves, and images with both answers


@pytest.mark.parametrize("executed", ["convert_and_publish.ipynb"], indirect=True)
def test_convert_and_publish(executed, hub):
    printed = text(executed)
    assert re.search(r"\d+ tensors, all equal", printed)
    assert "task image-text-to-text" in printed
    assert f"published to {REPO_ID}" in printed
    assert hub.repos["model", REPO_ID].private
    published = set(hub.files(REPO_ID))
    assert {"README.md", "config.json", "model.safetensors", "modeling_flashsloth.py"} <= published
    listed = printed.split("widget/example.png")[0]
    assert all(name in listed for name in published if name not in (".gitattributes", "widget/example.png"))
    assert printed.rstrip().endswith("The square is red.")  # loaded by its name


@pytest.mark.parametrize("name", NAMES)
def test_committed_with_outputs_and_nothing_of_a_machine(name):
    notebook = nbformat.read(NOTEBOOKS / name, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert (NOTEBOOKS / name).stat().st_size <= MAX_BYTES
    shown = [cell.source for cell in notebook.cells] + [text(notebook)]
    shown += [output.data.get("text/html", "") for output in outputs(notebook) if "data" in output]
    assert not [found[0] for part in shown if (found := OF_A_MACHINE.search(part))]


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder, LoopbackHub() as hub:
            notebook = run(name, Path(folder), hub)
        for cell in notebook.cells:
            cell.metadata = {}  # the times of the run
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
        unfinished = NOTEBOOKS / f"{name}.new"
        nbformat.write(notebook, unfinished)
        os.replace(unfinished, NOTEBOOKS / name)


if __name__ == "__main__":
    main()
