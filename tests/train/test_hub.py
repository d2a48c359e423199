# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Training on datasets of a Hub, by name: validated and trained on, as sets and as streams, at a given revision."""

import json
import subprocess
import sys
from pathlib import Path

from loopback_hub import LoopbackHub
from samples import QUICK_RUN, make_model

import flashsloth
from flashsloth.tiny.data import make_dataset


CONFIG = Path(flashsloth.__file__).parent / "train" / "configs" / "stage2.yaml"
MODEL, DATA = "lab/flashsloth", "lab/conversations"

# Commands one after the other in one process, as importing the libraries takes longer than they do.
SCRIPT = """
import contextlib, io, json, sys
from flashsloth import cli

results = {}
for name, arguments in json.loads(sys.argv[1]).items():
    output, log = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(log):
        status = cli.main(arguments)
    results[name] = [status, output.getvalue(), log.getvalue()]
print(json.dumps(results))
"""


def parquet(folder: Path, rows: int) -> dict[str, bytes]:
    """The files of a dataset of conversations about images, as they are uploaded."""
    make_dataset("questions", "train", rows).to_parquet(folder / "rows.parquet")
    content = (folder / "rows.parquet").read_bytes()
    return {f"data/{split}-00000-of-00001.parquet": content for split in ("train", "test")}


def test_data_of_a_hub(processor, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with LoopbackHub() as hub:
        commit = hub.add_repo(MODEL, tmp_path / "model")
        old = hub.add_repo(DATA, parquet(tmp_path, 8), repo_type="dataset")
        hub.commit(DATA, parquet(tmp_path, 12), repo_type="dataset")
        hub.add_repo("lab/cut", parquet(tmp_path, 8), repo_type="dataset")
        hub.fail("GET", "lab/cut/.*parquet", 500, times=100)

        def train(name: str, data: str, *overrides: str) -> list[str]:
            output = f"output_dir={tmp_path / name}"
            return ["train", str(CONFIG), f"model={MODEL}", f"data={data}", output, *QUICK_RUN, *overrides]

        commands = {
            "check": ["data", "check", str(CONFIG), f"model={MODEL}", f"data={DATA}"],
            "old": train("old", f"{{path: {DATA}, revision: {old}}}", "max_steps=1"),
            "stream": train("stream", f"{{path: {DATA}, split: test, streaming: true}}", "max_steps=1"),
            "no dataset": train("none", "lab/nothing"),
            "no revision": train("none", f"{{path: {DATA}, revision: v9}}"),
            "no split": train("none", f"{{path: {DATA}, split: exam}}"),
            "no stream": train("none", f"{{path: {DATA}, split: exam, streaming: true}}", "max_steps=1"),
            "no configuration": train("none", f"{{path: {DATA}, name: exam}}"),
            "connection": train("none", "lab/cut"),
        }
        environment = hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for name in ("check", "old", "stream"):
        assert results[name][0] == 0, results[name][2][-3000:]
    assert f"{DATA}: 12 rows" in results["check"][2]
    for name, rows in (("old", 8), ("stream", None)):
        assert results[name][1].strip() == str(tmp_path / name / "model")
        assert json.loads((tmp_path / name / "training.json").read_text())["data"]["rows"] == rows
        (entry,) = json.loads((tmp_path / name / "model" / "provenance.json").read_text())
        assert entry["sources"] == [{"role": "base", "repo": MODEL, "revision": commit}]
        assert entry["data"] == [DATA]
    for name, status, words in (
        ("no dataset", 2, "There is no file or folder lab/nothing, and the Hub dataset of that name"),
        ("no revision", 2, "Revision 'v9' doesn't exist for dataset 'lab/conversations'"),
        ("no split", 2, 'lab/conversations: Unknown split "exam"'),
        ("no stream", 2, "lab/conversations: Bad split: exam"),
        ("no configuration", 2, "lab/conversations: BuilderConfig 'exam' not found"),
        ("connection", 1, "The download of the dataset lab/cut failed"),
    ):
        last = results[name][2].splitlines()[-1]
        assert results[name][0] == status and last.startswith("flashsloth train: error: ") and words in last, last
    assert not (tmp_path / "none").exists()
