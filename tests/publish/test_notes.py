# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The notes in a model folder: what it is made from, its scores, and the record of its run."""

import json
import re

import pytest

from flashsloth.publish.notes import published_evaluations, read_evaluations, read_lineage, read_record


PHI, SIGLIP = "microsoft/phi-2", "google/siglip-so400m-patch14-384"
COMPOSE = {
    "command": "compose",
    "sources": [{"role": "language_model", "repo": PHI}, {"role": "vision_model", "repo": SIGLIP}],
}
CONVERT = {"command": "convert", "sources": [{"repo": "a/b"}]}
TRAIN = {"command": "train", "sources": [{"role": "base", "folder": "composed"}]}
QUANTIZE = {"command": "quantize", "sources": [{"folder": "c"}]}
FROM_SCRATCH = {"command": "train", "sources": []}
SCORE = {
    "task": "questions about images",
    "dataset": {"name": "Exam"},
    "metric": "exact_match",
    "value": 95.0,
    "origin": "measured",
}


@pytest.fixture
def lineage_of(tmp_path):
    """The lineage of a folder with a provenance."""

    def read(provenance, base_models=()):
        (tmp_path / "provenance.json").write_text(json.dumps(provenance))
        return read_lineage(tmp_path, base_models)

    return read


@pytest.mark.parametrize(
    ("provenance", "base_models", "expected"),
    [
        ([COMPOSE], (), ((PHI, SIGLIP), "merge")),
        ([COMPOSE, TRAIN], (), ((PHI, SIGLIP), "merge")),
        ([CONVERT], (), (("a/b",), None)),
        ([CONVERT, TRAIN], (), (("a/b",), "finetune")),
        ([COMPOSE, {"command": "train", "sources": [{"repo": "me/composed"}]}], (), (("me/composed",), "finetune")),
        ([CONVERT, QUANTIZE], (), (("a/b",), "quantized")),
        (
            [
                {
                    "command": "merge",
                    "sources": [{"role": "base", "repo": "a/b"}, {"role": "adapter", "repo": "me/lora"}],
                }
            ],
            (),
            (("a/b",), "finetune"),
        ),
        ([TRAIN, QUANTIZE], ["me/model"], (("me/model",), "quantized")),
        ([TRAIN], (), ((), None)),
    ],
)
def test_base_models_and_relation(lineage_of, provenance, base_models, expected):
    lineage = lineage_of(provenance, base_models)
    assert (lineage.base_models, lineage.relation) == expected


def test_base_models_that_the_provenance_knows_are_not_renamed(lineage_of):
    with pytest.raises(ValueError, match="The base models are a/b, .* and not Tongbo/FlashSloth-3.2B"):
        lineage_of([CONVERT], ["Tongbo/FlashSloth-3.2B"])
    with pytest.raises(ValueError, match="is not an id on the Hub"):
        lineage_of([TRAIN], ["x\n---"])


def test_what_a_lineage_says(lineage_of):
    assert lineage_of([COMPOSE]).is_untrained and not lineage_of([COMPOSE, TRAIN]).is_untrained
    assert lineage_of([FROM_SCRATCH]).is_from_scratch and not lineage_of([TRAIN]).is_from_scratch
    local = {"command": "compose", "sources": [{"folder": "decoder"}, {"folder": "tower"}]}
    assert lineage_of([FROM_SCRATCH, FROM_SCRATCH, local]).is_from_scratch
    assert not lineage_of([FROM_SCRATCH, local]).is_from_scratch  # the other half came from somewhere
    half_known = {"command": "compose", "sources": [COMPOSE["sources"][0], {"folder": "siglip"}]}
    assert lineage_of([COMPOSE]).knows_all_bases and not lineage_of([half_known]).knows_all_bases


def test_published_scores_belong_to_the_published_weights_only(lineage_of):
    repo = "Tongbo/FlashSloth_HD-3.2B"
    convert = {"command": "convert", "sources": [{"role": "checkpoint", "folder": "download"}]}
    scores = published_evaluations(lineage_of([convert], [repo]))
    assert len(scores) == 14 and scores[0].dataset_name == "POPE" and scores[0].value == 87.2
    assert all(score.origin == "published" and score.source_url for score in scores)
    assert published_evaluations(lineage_of([convert])) == []
    assert published_evaluations(lineage_of([convert, TRAIN], [repo])) == []
    stage1 = lineage_of([convert], ["Tongbo/FlashSloth-3.2B-Stage1"])
    assert stage1.published and published_evaluations(stage1) == []


# An entry of provenance.json or a change to a score, and a part of the message.
BAD_INPUT = {
    "unknown command": ({"command": "rm", "sources": []}, "command 'rm'"),
    "no sources": ({"command": "train"}, "the sources None"),
    "source without a name": ({"command": "train", "sources": [{}]}, "names neither 'repo' nor 'folder'"),
    "source that is no id": ({"command": "train", "sources": [{"repo": "a b"}]}, "is not an id on the Hub"),
    "role that is no text": ({"command": "train", "sources": [{"repo": "a/b", "role": []}]}, "the role []"),
    "data that is no list": ({"command": "train", "sources": [], "data": "captions"}, "must be a list of names"),
    "trainable numbers": ({"command": "train", "sources": [], "trainable": [1]}, "must be a list of names"),
    "revision that is no commit": (
        {"command": "train", "sources": [{"repo": "a/b", "revision": "x](y"}]},
        "is not a full commit hash",
    ),
}
BAD_SCORES = {
    "value in quotes": ({"value": "95"}, "'value' is '95'"),
    "value of yes or no": ({"value": True}, "'value' is True"),
    "value that is no number": ({"value": float("nan")}, "is not a finite number"),
    "unknown origin": ({"origin": "heard"}, "origin 'heard' must be one of"),
    "published by nobody": ({"origin": "published"}, "a published score needs its source"),
    "date in words": ({"date": "yesterday"}, "'yesterday' is not a date"),
    "no task": ({"task": None}, "'task' is None"),
    "half a character": ({"task": "\ud800"}, "'task' is"),
    "dataset that is no id": ({"dataset": {"name": "x", "repo": "../x"}}, "is not an id on the Hub"),
    "address of code": ({"source": {"name": "x", "url": "javascript:alert(1)"}}, "is not a plain http(s) address"),
    "address with Markdown": (
        {"source": {"name": "x", "url": "https://x.org/) [y](z"}},
        "is not a plain http(s) address",
    ),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_malformed_provenance_is_refused(lineage_of, given):
    entry, message = BAD_INPUT[given]
    with pytest.raises(ValueError, match=f"Entry 2 of provenance.json.*{re.escape(message)}"):
        lineage_of([TRAIN, entry])


@pytest.mark.parametrize("given", BAD_SCORES)
def test_malformed_scores_are_refused(tmp_path, given):
    change, message = BAD_SCORES[given]
    (tmp_path / "evaluation.json").write_text(json.dumps([SCORE, {**SCORE, **change}]))
    with pytest.raises(ValueError, match=rf"evaluation\.json, score 2: .*{re.escape(message)}"):
        read_evaluations(tmp_path)


def test_record_without_paths(tmp_path):
    """The machine that a model was trained on is nobody else's business."""
    record = {
        "stage": {"model": "/home/ann/base", "data": [{"path": "sets/a b.json"}], "lora": None},
        "config": {"output_dir": "/home/ann/my runs/7", "learning_rate": 1e-3, "logging": "C:\\logs\\7"},
        "data": {"skipped": [{"id": 3, "reason": "cannot open /data/ann/x.png: no such file"}]},
        "source": "https://huggingface.co/datasets/owner/name",
    }
    (tmp_path / "training.json").write_text(json.dumps(record))
    read = read_record(tmp_path / "training.json")
    assert read["stage"] == {"model": "base", "data": [{"path": "sets/a b.json"}], "lora": None}
    assert read["config"] == {"output_dir": "7", "learning_rate": 1e-3, "logging": "7"}
    assert read["data"]["skipped"][0]["reason"] == "cannot open x.png: no such file"
    assert read["source"] == record["source"]
