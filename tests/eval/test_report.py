# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a report says of a run, how far its scores reach, and the scores of a model card."""

import json
import math
import shutil

import numpy as np
import pytest
from benchmark_files import write_benchmark

from flashsloth import cli, loading
from flashsloth.eval import report as evaluation_report
from flashsloth.eval.questions import Question
from flashsloth.eval.report import clusters_of, evaluations, flatten, intervals, samples, write_evaluations
from flashsloth.eval.run import BENCHMARKS, read_task, score_answers
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.publish.notes import read_evaluations


SCORE = {"dataset": {"name": "Exam"}, "origin": "measured"}


def questions_about(images: list[str]) -> list[Question]:
    return [Question(number, (str(number),), "", b"", image, "") for number, image in enumerate(images)]


def test_questions_about_one_image_are_drawn_together():
    clusters = clusters_of(questions_about(["b", "a", "b", "c"]))
    for weights, _ in zip(samples(clusters), range(50), strict=False):
        assert weights[0] == weights[2]
        assert weights[0] + weights[1] + weights[3] == 3  # as many images as there are


def test_interval_is_that_of_a_proportion():
    """400 independent questions, half of them right: the normal interval is 50 +- 1.96 * 2.5 percent."""
    right = np.arange(400) % 2
    clusters = np.arange(400)
    low, high = intervals(lambda weights: {"accuracy": float(100 * (weights @ right) / 400)}, clusters)["accuracy"]
    assert low == pytest.approx(45.1, abs=0.7) and high == pytest.approx(54.9, abs=0.7)


def test_interval_is_wider_where_questions_share_images():
    """Ten questions about each of 40 images, all right or all wrong: as few as 40 questions."""
    right = (np.arange(400) // 10) % 2
    low, high = intervals(lambda weights: {"a": float(100 * (weights @ right) / 400)}, np.arange(400) // 10)["a"]
    assert high - low == pytest.approx(2 * 196 * math.sqrt(0.25 / 40), rel=0.1)


def test_scores_of_nothing_and_counts_have_no_interval():
    assert flatten({"a": 1.5, "b": {"c": 2.5, "TP": 3}, "d": None}) == {"a": 1.5, "b.c": 2.5}


def test_report_says_what_was_measured(any_benchmark, tmp_path):
    task = read_task(any_benchmark.task, [any_benchmark.questions], any_benchmark.labels, any_benchmark.images)
    report = score_answers(task, any_benchmark.write_answers(tmp_path / "a.jsonl"), tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["task"] == any_benchmark.task
    assert report["questions"] == len(any_benchmark.right)
    assert sum(part["questions"] for part in report["categories"].values()) == (
        2 if any_benchmark.task == "mmbench" else len(any_benchmark.right)
    )
    assert all(part["percent"] == 100 for part in report["categories"].values())
    assert set(report["fingerprint"]) == {"questions", "labels", "images"} and all(report["fingerprint"].values())
    assert report["interval_95"].keys() == flatten(report["scores"]).keys()
    assert report["bootstrap"]["over"] == "images"
    assert str(tmp_path) not in json.dumps(report)


def test_scores_become_those_of_a_model_card(any_benchmark, tmp_path):
    task = read_task(any_benchmark.task, [any_benchmark.questions], any_benchmark.labels)
    report = score_answers(task, any_benchmark.write_answers(tmp_path / "a.jsonl"), tmp_path / "out")
    benchmark = BENCHMARKS[any_benchmark.task]
    folder = tmp_path / "model"
    folder.mkdir()
    published = {"task": "t", "dataset": {"name": "POPE"}, "metric": "score", "value": 86.3, "origin": "published"}
    published |= {"source": {"name": "the paper", "url": "https://example.org"}}
    measured = published | {"dataset": {"name": "Exam"}, "origin": "measured", "source": None}
    (folder / "evaluation.json").write_text(json.dumps([published, measured]))
    write_evaluations(folder, benchmark, report)
    write_evaluations(folder, benchmark, report)
    read = read_evaluations(folder)
    assert [(score.dataset_name, score.origin) for score in read[:2]] == [("POPE", "published"), ("Exam", "measured")]
    assert len(read) == 2 + len(evaluations(benchmark, report))  # the second time replaces the first
    assert {score.metric for score in read[2:]} >= set(benchmark.main_scores)
    assert all(score.n == report["questions"] and score.command.startswith("flashsloth eval") for score in read[2:])


# What a model folder's evaluation.json holds, as a value or as text, and a part of the message.
BAD_INPUT = {
    "no list": (
        {},
        "evaluation.json must hold a list of objects. Correct the file or remove it, or leave out --write",
    ),
    "a score that is no object": ([5], "evaluation.json, score 1 is a whole number, not an object"),
    "a score without its data set": ([SCORE, {"origin": "measured"}], "evaluation.json, score 2 has no 'dataset'"),
    "a data set that is text": ([SCORE | {"dataset": "POPE"}], "score 1: its 'dataset' is 'POPE', not an object"),
    "a data set without a name": ([SCORE | {"dataset": {}}], "score 1: its 'dataset' has no 'name'"),
    "a data set whose name is a list": (
        [SCORE | {"dataset": {"name": []}}],
        "its 'dataset': its 'name' is [], not text",
    ),
    "an origin of null": ([SCORE | {"origin": None}], "score 1: its 'origin' is None, not text"),
    "half a file": ('[{"dataset": ', "evaluation.json is not JSON"),
    "a value of NaN": ('[{"value": NaN}]', "evaluation.json is not JSON: it holds NaN"),
    "half of a surrogate pair": ([SCORE | {"metric": "\ud83d"}], "half of a surrogate pair"),
    "a list of lists, 100,000 deep": ("[" * 100_000, "holds lists or objects that are nested too deeply"),
}


@pytest.mark.parametrize(("content", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_scores_that_cannot_be_added_to_are_refused_before_anything_is_asked(
    tmp_path, capsys, monkeypatch, content, message
):
    files, model = write_benchmark("gqa", tmp_path / "gqa"), shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "model")
    text = content if isinstance(content, str) else json.dumps(content)
    (model / "evaluation.json").write_text(text)
    monkeypatch.setattr(loading, "load_model_and_processor", None)  # the model is not loaded
    command = ["eval", *files.arguments, "--model", str(model), "--output", str(tmp_path / "out")]
    assert cli.main([*command, "--write"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("flashsloth eval: error: ") and message in line and captured.out == ""
    assert (model / "evaluation.json").read_text() == text and not (tmp_path / "out").exists()


def test_scores_of_another_run_in_the_meantime_are_kept(tmp_path):
    """A run takes hours, in which another benchmark may end."""
    reports = []
    for name in ("gqa", "pope"):
        files = write_benchmark(name, tmp_path / name)
        task = read_task(name, [files.questions], files.labels)
        reports.append(
            (task.benchmark, score_answers(task, files.write_answers(tmp_path / "a.jsonl"), tmp_path / name))
        )
    assert evaluation_report.read_evaluations(tmp_path) == []
    for benchmark, report in reports:
        write_evaluations(tmp_path, benchmark, report)
    assert {score.dataset_name for score in read_evaluations(tmp_path)} == {"GQA", "POPE"}


def test_no_score_that_is_a_number_is_said(tmp_path, caplog):
    write_evaluations(tmp_path, BENCHMARKS["gqa"], {"scores": {"accuracy": None}})
    assert "No score of GQA is a number" in caplog.text and not list(tmp_path.iterdir())


def test_without_labels_there_is_no_score(tmp_path, caplog):
    files = write_benchmark("gqa", tmp_path)
    task = read_task("gqa", [files.questions])
    report = score_answers(task, files.write_answers(tmp_path / "a.jsonl"), tmp_path / "out")
    assert report["scores"] == {} and "interval_95" not in report
    assert "Without labels there is no score" in caplog.text
    assert (tmp_path / "out" / "submission" / "testdev_balanced_predictions.json").is_file()
