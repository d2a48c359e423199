# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Whether two reports differ, on the same questions: the paired bootstrap draws the same images for both and looks at the
difference of each score; McNemar's exact test counts the questions that only one of them has right.
"""

import hashlib
import math
import os
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, Table
from flashsloth.eval.files import check_fields, is_file, parse, read_json_file, shown
from flashsloth.eval.report import INTERVAL, OUTCOMES, REPORT, flatten, samples


REPORT_FIELDS = {"task": str, "questions": int, "fingerprint": dict, "scores": dict}
FINGERPRINT = {"questions": str}
FINGERPRINT_OPTIONAL = dict.fromkeys(("labels", "images"), (str, type(None)))  # not all runs have them
AGAIN = "evaluate again, by --answers if they are there"


def compare(benchmarks: dict[str, Benchmark], first: Path, second: Path) -> dict:
    """
    Compares two reports.

    Args:
        benchmarks (`dict[str, Benchmark]`): All benchmarks by name.
        first (`Path`), second (`Path`): Two folders with a report, or the reports themselves.

    Returns:
        `dict`: For each score the difference (second minus first), its 95 % interval, and whether they differ: whether
        the interval leaves out 0. Then McNemar's test, where every answer is right or wrong.

    Raises:
        ValueError: If there is no report, if one is damaged or not that of the outcomes beside it, or if the reports
            are of different benchmarks, questions, labels or images, or have no scores.
    """
    files = [_find_report(path) for path in (first, second)]
    reports = [_read_report(file, benchmarks) for file in files]
    _check_same(reports, (first, second))
    (table, clusters), (other, _) = (_read_outcomes(*pair) for pair in zip(files, reports, strict=True))
    if table.keys() != other.keys():
        raise ValueError(f"{first} and {second} were made by different versions of flashsloth: {AGAIN}.")
    benchmark = benchmarks[reports[0]["task"]]
    return {
        "task": benchmark.name,
        "questions": reports[0]["questions"],
        "scores": _differences(benchmark, table, other, clusters),
        "mcnemar": mcnemar(table, other),
    }


def mcnemar(table: Table, other: Table) -> dict | None:
    """
    McNemar's exact test. It takes the questions as independent, which those about one image are not.

    Returns:
        `dict` with the number of questions that only the first or only the second has right, and the p-value of a
        difference so large or larger if both were equally good; `None` if answers can be right in part.
    """
    counted = table["counted"]
    right, other_right = table["value"][counted], other["value"][counted]
    if not np.isin([*right, *other_right], (0, 1)).all():
        return None
    only_first = int(((right == 1) & (other_right == 0)).sum())
    only_second = int(((right == 0) & (other_right == 1)).sum())
    return {"only_first_right": only_first, "only_second_right": only_second, "p": _p_value(only_first, only_second)}


def _p_value(only_first: int, only_second: int) -> float:
    """Of a fair coin that shows heads `only_first` times and tails `only_second` times, both tails of it."""
    count = only_first + only_second
    tail = sum(math.comb(count, heads) for heads in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**count)


def _differences(benchmark: Benchmark, table: Table, other: Table, clusters: np.ndarray) -> dict:
    def difference(weights: np.ndarray) -> dict[str, float]:
        scores, others = (flatten(benchmark.scores(one, weights)) for one in (table, other))
        return {name: others[name] - scores[name] for name in scores.keys() & others.keys()}

    measured, drawn = difference(np.ones(len(clusters))), {}
    for weights in samples(clusters):
        for name, value in difference(weights).items():
            drawn.setdefault(name, []).append(value)
    result = {}
    for name in flatten(benchmark.scores(table, np.ones(len(clusters)))):
        low, high = np.percentile(drawn[name], INTERVAL).tolist()
        result[name] = {
            "difference": measured[name],
            "interval_95": [low, high],
            "differs": low > 0 or high < 0,
        }
    return result


def markdown(comparison: dict) -> str:
    """The differences as a table."""
    lines = ["| score | second - first | 95 % interval | differs |", "| --- | ---: | ---: | --- |"]
    for name, entry in comparison["scores"].items():
        low, high = entry["interval_95"]
        differs = "yes" if entry["differs"] else "no"
        lines.append(f"| {name} | {entry['difference']:+.2f} | {low:+.2f} to {high:+.2f} | {differs} |")
    return "\n".join(lines)


# Reading


def _find_report(path: Path) -> Path:
    """The file of a report."""
    is_folder = os.path.isdir(path)
    file = path / REPORT if is_folder else path
    if not is_file(file):
        what = f"holds no {REPORT}" if is_folder else "is not there"
        raise ValueError(f"{path} {what}: --compare takes the --output folders of two runs that have ended.")
    return file


def _read_report(file: Path, benchmarks: dict[str, Benchmark]) -> dict:
    try:
        report = read_json_file(file)
        check_fields(report, REPORT_FIELDS, str(file))
        check_fields(report["fingerprint"], FINGERPRINT, f"{file}: its 'fingerprint'", FINGERPRINT_OPTIONAL)
        if report["scores"]:
            check_fields(report, {"outcomes_sha256": str}, str(file))
        if report["task"] not in benchmarks:
            raise ValueError(f"{file} is of the unknown benchmark {shown(report['task'])}.")
    except ValueError as error:
        raise ValueError(f"{error} It is no report of a run, or damaged: {AGAIN}.") from error
    if not report["scores"]:
        raise ValueError(f"{file} has no scores: give the run its --labels.")
    return report


def _check_same(reports: list[dict], paths: tuple[Path, Path]) -> None:
    first, second = reports
    if first["task"] != second["task"]:
        raise ValueError(f"{paths[0]} is of {first['task']}, but {paths[1]} is of {second['task']}.")
    for what in ("questions", "labels", "images"):
        marks = [report["fingerprint"].get(what) for report in reports]
        if None not in marks and marks[0] != marks[1]:
            raise ValueError(f"{paths[0]} and {paths[1]} are about different {what}: only runs on the same compare.")


def _read_outcomes(report_file: Path, report: dict) -> tuple[Table, np.ndarray]:
    """The judged answers and the numbers of their images, in the order of the keys of the questions."""
    file = report_file.with_name(OUTCOMES)
    if not is_file(file):
        raise ValueError(f"{file} is not there, which is written with {REPORT}: {AGAIN}.")
    content = file.read_bytes()
    # What has the hash is as it was written, and so need not be checked further.
    belongs = hashlib.sha256(content).hexdigest() == report["outcomes_sha256"]
    outcomes = parse(content.decode(), str(file)) if belongs else {}
    belongs = belongs and all(outcomes[name] == report[name] for name in ("task", "fingerprint"))
    if not belongs or len(outcomes["keys"]) != report["questions"]:
        raise ValueError(f"{file} does not belong to the {REPORT} beside it, or is damaged: {AGAIN}.")
    order = sorted(range(len(outcomes["keys"])), key=outcomes["keys"].__getitem__)
    clusters = np.unique(outcomes["images"], return_inverse=True)[1][order]
    return {name: np.array(column)[order] for name, column in outcomes["columns"].items()}, clusters
