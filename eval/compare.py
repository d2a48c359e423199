# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Whether two reports differ, on the same questions: the paired bootstrap draws the same images for both and looks at the
difference of each score; McNemar's exact test counts the questions that only one of them has right.
"""

import math
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, Table
from flashsloth.eval.questions import check_fields, read_json_file
from flashsloth.eval.report import INTERVAL, OUTCOMES, REPORT, flatten, samples


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
        ValueError: If the reports are of different benchmarks, questions, labels or images, or have no scores.
    """
    reports = [_read_report(path) for path in (first, second)]
    _check_same(reports, (first, second))
    (table, clusters), (other, _) = (_read_outcomes(path) for path in (first, second))
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


def _read_report(path: Path) -> dict:
    report = read_json_file(path / REPORT if path.is_dir() else path)
    check_fields(report, ("task", "questions", "fingerprint", "scores"), str(path))
    if not report["scores"]:
        raise ValueError(f"{path} has no scores: give the run its --labels.")
    return report


def _check_same(reports: list[dict], paths: tuple[Path, Path]) -> None:
    first, second = reports
    if first["task"] != second["task"]:
        raise ValueError(f"{paths[0]} is of {first['task']}, but {paths[1]} is of {second['task']}.")
    for what in ("questions", "labels", "images"):
        marks = [report["fingerprint"].get(what) for report in reports]
        if None not in marks and marks[0] != marks[1]:
            raise ValueError(f"{paths[0]} and {paths[1]} are about different {what}: only runs on the same compare.")


def _read_outcomes(path: Path) -> tuple[Table, np.ndarray]:
    """The judged answers and the numbers of their images, in the order of the keys of the questions."""
    file = (path if path.is_dir() else path.parent) / OUTCOMES
    outcomes = read_json_file(file)
    check_fields(outcomes, ("keys", "images", "columns"), str(file))
    order = sorted(range(len(outcomes["keys"])), key=outcomes["keys"].__getitem__)
    clusters = np.unique(outcomes["images"], return_inverse=True)[1][order]
    return {name: np.array(column)[order] for name, column in outcomes["columns"].items()}, clusters
