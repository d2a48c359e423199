# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`make tiny` from scratch to the exported checkpoints, with a few steps at each stage, and again after a stop."""

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file

from flashsloth import load
from flashsloth.tiny.__main__ import main
from flashsloth.train import record


# In place of train/configs/tiny.yaml: two steps of a few rows at each stage.
SETTINGS = {
    "seed": 0,
    "tokenizer": {"vocabulary": 600, "scenes": 60},
    "rows": {"items": 4, "captions": 4, "questions": 4, "comparisons": 2, "hd": 4},
    "tower": {"width": 24, "layers": 1, "heads": 2, "batch_size": 4, "steps": 2, "learning_rate": 0.002},
    "language_model": {
        "width": 24,
        "layers": 2,
        "heads": 2,
        "listing_steps": 1,
        "listing_batch_size": 4,
        "batch_size": 4,
        "steps": 2,
        "learning_rate": 0.002,
        "context_weight": 0.1,
    },
    "compose": {
        "num_query_tokens": 4,
        "query_layer": 1,
        "query_hidden_size": 12,
        "query_num_heads": 2,
    },
    "stage_overrides": [
        "max_steps=2",
        "per_device_train_batch_size=2",
        "dataloader_num_workers=0",
        "lr_scheduler_type=constant",
        "lr_scheduler_kwargs=null",
        "warmup_steps=0",
        "disable_tqdm=true",
    ],
    "exam": {"questions": 9, "small": 2},
}
CHECKPOINTS = ("flashsloth-tiny", "flashsloth-tiny-hd")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of `work` and the exported `checkpoints`, and the arguments that made them."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    arguments = ["--work", str(root / "work"), "--export", str(root / "checkpoints")]
    arguments += ["--config", str(root / "tiny.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "draw", lambda *args: None)  # of a stage: it takes longer than two steps
        main(arguments)
        yield root, arguments


def test_the_exported_checkpoints_answer_and_say_how_they_were_made(made):
    root, _ = made
    for name in CHECKPOINTS:
        folder = root / "checkpoints" / name
        model = load(str(folder))
        is_hd = model.processor.image_processor.hd
        assert is_hd == (name == "flashsloth-tiny-hd")
        answer = model.ask("examples/scene.png", "Which shape is red?", max_new_tokens=4)
        assert answer.visual_tokens == 9 * (5 if is_hd else 1)
        commands = [entry["command"] for entry in json.loads((folder / "provenance.json").read_text())]
        stages = ["train"] * (4 if is_hd else 3)
        assert commands == ["train", "train", "compose", *stages]
        assert json.loads((folder / "evaluation.json").read_text())
    assert (root / "work" / "curves.png").stat().st_size > 0
    assert "| all |" in (root / "work" / "result.md").read_text()


def test_only_what_is_missing_is_made_again_and_comes_out_the_same(made):
    root, arguments = made
    before = {name: load_file(root / "checkpoints" / name / "model.safetensors") for name in CHECKPOINTS}
    kept = (root / "work" / "tower" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(root / "work" / "hd")
    shutil.rmtree(root / "checkpoints" / "flashsloth-tiny")
    main(arguments)
    assert (root / "work" / "tower" / "model.safetensors").stat().st_mtime_ns == kept
    for name, tensors in before.items():
        again = load_file(root / "checkpoints" / name / "model.safetensors")
        assert tensors.keys() == again.keys()
        assert all((tensors[key] == again[key]).all() for key in tensors), name
