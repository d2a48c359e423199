# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Whether two reports differ: by the paired bootstrap, and by McNemar's test, worked by hand."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from benchmark_files import read_lines, write_benchmark, write_lines

from flashsloth import cli
from flashsloth.eval.compare import compare, mcnemar
from flashsloth.eval.run import BENCHMARKS, read_task, score_answers


@pytest.fixture
def report_of(tmp_path):
    """The folder of a report on a benchmark, with some of its answers changed."""

    def run(name, task="gqa", files=None, **changed):
        files = files or write_benchmark(task, tmp_path / task)
        read = read_task(task, [files.questions], files.labels)
        score_answers(read, files.write_answers(tmp_path / f"{name}.jsonl", **changed), tmp_path / name)
        return tmp_path / name

    return run


def table_of(values) -> dict:
    return {"value": np.array(values, dtype=float), "counted": np.ones(len(values), dtype=bool)}


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # 1 against 5: 2 * (C(6, 0) + C(6, 1)) / 64
        ([1] + [0] * 5 + [1] * 9, [0] + [1] * 5 + [1] * 9, 14 / 64),
        # 0 against 6: 2 / 64
        ([0] * 6, [1] * 6, 2 / 64),
        # 3 against 3: more than 1 is 1
        ([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], 1.0),
        ([1, 0], [1, 0], 1.0),
        # 1000 against 1200: the sum of a tail of a long binomial; by the normal approximation, with its correction,
        # z = 199 / sqrt(2200) = 4.2427
        ([1] * 1000 + [0] * 1200, [0] * 1000 + [1] * 1200, 2.2e-5),
    ],
)
def test_mcnemar(first, second, p):
    assert mcnemar(table_of(first), table_of(second))["p"] == pytest.approx(p, rel=0.02)


def test_mcnemar_needs_right_or_wrong():
    assert mcnemar(table_of([0.3, 1]), table_of([0, 1])) is None


def test_mcnemar_counts_only_what_counts():
    table, other = table_of([1, 1, 0]), table_of([0, 0, 1])
    table["counted"] = np.array([True, False, True])
    assert mcnemar(table, other) == {"only_first_right": 1, "only_second_right": 1, "p": 1.0}


def test_a_report_does_not_differ_from_itself(report_of):
    folder = report_of("a", q0="yes")
    comparison = compare(BENCHMARKS, folder, folder)
    for entry in comparison["scores"].values():
        assert entry == {"difference": 0, "interval_95": [0, 0], "differs": False}
    assert comparison["mcnemar"]["p"] == 1


def test_a_clear_difference(report_of, capsys):
    """Every answer of the second is wrong, in every sample of the images."""
    first, second = report_of("a"), report_of("b", **{f"q{number}": "?" for number in range(4)})
    assert cli.main(["eval", "--compare", str(first), str(second / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| accuracy | -100.00 | -100.00 to -100.00 | yes |" in lines
    comparison = json.loads(lines[-1])
    assert comparison["mcnemar"] == {"only_first_right": 4, "only_second_right": 0, "p": 0.125}
    assert comparison["scores"]["binary"]["differs"]


def test_answers_in_another_order_are_paired(report_of, tmp_path):
    files = write_benchmark("gqa", tmp_path / "gqa")
    first = report_of("a", files=files, q0="yes")
    write_lines(read_lines(files.questions)[::-1], files.questions)
    assert compare(BENCHMARKS, first, report_of("b", files=files, q0="yes"))["mcnemar"]["p"] == 1


def other_questions(files):
    write_lines(read_lines(files.questions)[1:], files.questions)


def other_labels(files):
    files.labels.write_text(files.labels.read_text().replace("woman", "girl"))


def other_images(files):
    (files.questions.parent / "n161313.jpg").write_bytes(b"2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_questions, "are about different questions"),
        (other_labels, "are about different labels"),
        (other_images, "are about different images"),
    ],
)
def test_reports_on_something_else_are_refused(report_of, tmp_path, change, message, capsys):
    files = write_benchmark("gqa", tmp_path / "gqa")
    for image in ("n161313", "n336443", "n235859"):
        (files.questions.parent / f"{image}.jpg").write_bytes(b"1")
    first = report_of("a", files=files)
    change(files)
    rows = [row for row in files.right if row["question_id"] in files.questions.read_text()]
    object.__setattr__(files, "right", rows)
    assert cli.main(["eval", "--compare", str(first), str(report_of("b", files=files))]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


def test_reports_of_different_benchmarks_are_refused(report_of):
    with pytest.raises(ValueError, match="is of gqa, but .* is of pope"):
        compare(BENCHMARKS, report_of("a"), report_of("b", task="pope"))


def test_a_report_without_scores_is_refused(report_of, tmp_path):
    first = report_of("a")
    (tmp_path / "none").mkdir()
    report = json.loads((first / "report.json").read_text()) | {"scores": {}}
    (tmp_path / "none" / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="has no scores"):
        compare(BENCHMARKS, first, tmp_path / "none")


def change(name, **fields):
    """Changes fields of a file beside the report; "gone" takes one out."""

    def edit(folder):
        content = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))

    return edit


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def remove(name):
    return lambda folder: (folder / name).unlink()


def with_hash(name, **fields):
    """Changes `outcomes.json`, and its hash in the report: as if another version had written them."""

    def edit(folder):
        change(name, **fields)(folder)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        change("report.json", outcomes_sha256=digest)(folder)

    return edit


NOT_ITS = "outcomes.json does not belong to the report.json beside it, or is damaged: evaluate again"
# What became of a folder that is compared, and a part of the message.
BAD_INPUT = {
    "a folder that does not exist": (shutil.rmtree, "is not there: --compare takes the --output folders of two runs"),
    "a folder without a report": (remove("report.json"), "holds no report.json: --compare takes the --output folders"),
    "a report that is cut": (write("report.json", b'{"task": "gqa", '), "report.json is not JSON"),
    "a report that is a list": (write("report.json", b"[]"), "report.json is a list, not an object. It is no report"),
    "a report without its task": (change("report.json", task="gone"), "report.json has no 'task'"),
    "a report of an unknown benchmark": (change("report.json", task="vqa"), "is of the unknown benchmark 'vqa'"),
    "a report without its questions": (change("report.json", questions=None), "its 'questions' is None, not a whole"),
    "a report whose fingerprint is null": (
        change("report.json", fingerprint=None),
        "its 'fingerprint' is None, not an",
    ),
    "a report whose fingerprint is empty": (
        change("report.json", fingerprint={}),
        "its 'fingerprint' has no 'questions'",
    ),
    "a report without scores": (
        change("report.json", scores={}),
        "report.json has no scores: give the run its --labels",
    ),
    "a report of other outcomes": (change("report.json", outcomes_sha256="0"), NOT_ITS),
    "a report without a hash of its outcomes": (
        change("report.json", outcomes_sha256="gone"),
        "report.json has no 'outcomes_sha256'",
    ),
    "no outcomes": (remove("outcomes.json"), "outcomes.json is not there, which is written with report.json"),
    "outcomes that are cut": (write("outcomes.json", b'{"keys": '), NOT_ITS),
    "outcomes without columns": (change("outcomes.json", columns={}), NOT_ITS),
    "outcomes whose keys are no list": (change("outcomes.json", keys=5), NOT_ITS),
    "outcomes of more questions": (with_hash("outcomes.json", keys=[[str(n)] for n in range(9)]), NOT_ITS),
    "outcomes of other questions": (with_hash("outcomes.json", fingerprint={"questions": "0"}), NOT_ITS),
    "outcomes of another benchmark": (with_hash("outcomes.json", task="pope"), NOT_ITS),
    "outcomes of another version": (
        with_hash("outcomes.json", columns={"value": [1.0] * 4}),
        "were made by different versions of flashsloth: evaluate again, by --answers",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_a_damaged_report_is_one_line(report_of, capsys, spoil, message):
    first, second = report_of("a"), report_of("b")
    spoil(second)
    for folders in ((first, second), (second, first)):
        assert cli.main(["eval", "--compare", *map(str, folders)]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("flashsloth eval: error: ") and message in line and captured.out == ""


def test_outcomes_of_other_answers_to_the_same_questions_are_refused(report_of, tmp_path):
    """As after a run that was stopped between its two files."""
    first, second = report_of("a"), report_of("b", q0="yes")
    shutil.copy(first / "outcomes.json", second / "outcomes.json")
    with pytest.raises(ValueError, match="does not belong to the report.json beside it"):
        compare(BENCHMARKS, first, second)


def test_a_run_without_labels_leaves_no_outcomes_of_an_earlier_one(report_of, tmp_path):
    files = write_benchmark("gqa", tmp_path / "gqa")
    folder = report_of("a", files=files)
    assert (folder / "outcomes.json").is_file()
    score_answers(read_task("gqa", [files.questions]), tmp_path / "a.jsonl", folder)
    assert not (folder / "outcomes.json").exists()
