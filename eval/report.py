# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The report of a run, `report.json`: which model answered which questions how, its scores, and how far they can be
trusted. The judged answers are in `outcomes.json` beside it, from which two runs are compared. The same answers give
the same report, byte for byte, on the same day.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from flashsloth.eval.benchmark import Benchmark, Table, percent
from flashsloth.eval.files import check_fields, read_json_file, write_json, write_text
from flashsloth.eval.questions import Question
from flashsloth.folders.provenance import EVALUATION_FILE


logger = logging.getLogger(__name__)

REPORT, OUTCOMES = "report.json", "outcomes.json"
OWN_QUESTIONS = "questions of your own"  # in the place of a split
SAMPLES, SEED = 1000, 0  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles
EVALUATION = {"dataset": dict}  # what an entry of it must have, and may have
EVALUATION_OPTIONAL = {"origin": str}
PACKAGES = ("flashsloth", "numpy")
MODEL_PACKAGES = {  # by backend
    "torch": ("torch", "transformers", "accelerate", "pillow"),
    "onnxruntime": ("onnxruntime", "transformers", "pillow"),
}


def make_report(
    benchmark: Benchmark, table: Table | None, questions: list[Question], fingerprint: dict, run: dict
) -> dict:
    """
    The report of judged answers.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        table (`dict[str, np.ndarray]`, *optional*): The judged answers; `None` if there are no labels.
        questions (`list[Question]`): The questions.
        fingerprint (`dict`): Of questions, labels and images.
        run (`dict`): Model, settings and command.
    """
    report = {
        "task": benchmark.name,
        "date": date.today().isoformat(),
        **run,
        "versions": versions(run["settings"].get("backend", "torch") if run["model"] else None),
        "questions": len(questions),
        "images": len({question.image_name for question in questions}),
        "fingerprint": fingerprint,
        "scores": {},
    }
    if table is None:
        return report
    once = np.ones(len(questions))
    clusters = clusters_of(questions)
    scores = benchmark.scores(table, once)
    report["scores"] = scores
    report["interval_95"] = intervals(lambda weights: benchmark.scores(table, weights), clusters)
    drawn = "images" if report["images"] < len(questions) else "questions"
    report["bootstrap"] = {"over": drawn, "samples": SAMPLES, "seed": SEED}
    report["categories"] = {
        str(category): {
            "questions": int((table["counted"] & (table["category"] == category)).sum()),
            "percent": percent(table["value"], once * table["counted"] * (table["category"] == category)),
        }
        for category in np.unique(table["category"])
    }
    report["outcomes_sha256"] = hashlib.sha256(_outcomes(report, table, questions).encode()).hexdigest()
    other = benchmark.lmms_eval_scores(table, once)
    if other:
        report["scores_by_rule"] = {benchmark.rule: scores, "lmms_eval": other}
    return report


def versions(backend: str | None) -> dict[str, str]:
    """The versions that the scores depend on; of given answers, without a backend."""
    return {package: version(package) for package in (*PACKAGES, *MODEL_PACKAGES.get(backend, ()))}


# The bootstrap


def clusters_of(questions: list[Question]) -> np.ndarray:
    """The number of each question's image: questions about one image are drawn together."""
    return np.unique([question.image_name for question in questions], return_inverse=True)[1]


def samples(clusters: np.ndarray) -> Iterator[np.ndarray]:
    """
    Bootstrap samples of the images.

    Args:
        clusters (`np.ndarray` of shape `(questions,)`): The number of each question's image.

    Yields:
        `np.ndarray` of shape `(questions,)`: How often each question is in the sample.
    """
    generator, count = np.random.default_rng(SEED), clusters.max() + 1
    for _ in range(SAMPLES):
        yield np.bincount(generator.integers(count, size=count), minlength=count)[clusters].astype(float)


def intervals(scores: Callable[[np.ndarray], dict], clusters: np.ndarray) -> dict[str, list[float]]:
    """The 95 % interval of each score, from the samples that have it."""
    drawn = {}
    for weights in samples(clusters):
        for name, value in flatten(scores(weights)).items():
            drawn.setdefault(name, []).append(value)
    return {name: np.percentile(values, INTERVAL).tolist() for name, values in drawn.items()}


def flatten(scores: dict, prefix: str = "") -> dict[str, float]:
    """The scores by their full names, such as "random.f1", without counts and without scores of no questions."""
    flat = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            flat[prefix + name] = value
    return flat


# Files


def write_report(folder: Path, report: dict, table: Table | None, questions: list[Question]) -> None:
    """Writes the report and, if there are labels, the judged answers."""
    if table is not None:
        write_text(_outcomes(report, table, questions), folder / OUTCOMES)
    else:  # of an earlier run
        (folder / OUTCOMES).unlink(missing_ok=True)
    write_json(report, folder / REPORT)


def _outcomes(report: dict, table: Table, questions: list[Question]) -> str:
    """The judged answers as the text of a file. The report has its hash, so that none beside it is taken for it."""
    outcomes = {
        "task": report["task"],
        "fingerprint": report["fingerprint"],
        "keys": [question.key for question in questions],
        "images": [question.image_name for question in questions],
        "columns": {name: column.tolist() for name, column in table.items()},
    }
    return json.dumps(outcomes, ensure_ascii=False) + "\n"


def markdown(report: dict) -> str:
    """The scores as a table."""
    lines = ["| score | value | 95 % interval |", "| --- | ---: | ---: |"]
    for name, value in flatten(report["scores"]).items():
        low, high = report["interval_95"][name]
        digits = 3 if name.endswith("ratio") else 1
        lines.append(f"| {name} | {value:.{digits}f} | {low:.{digits}f} to {high:.{digits}f} |")
    return "\n".join(lines)


def evaluations(benchmark: Benchmark, report: dict) -> list[dict]:
    """The scores as entries of a model folder's `evaluation.json`."""
    return [
        {
            "task": "visual question answering",
            "dataset": {
                "name": benchmark.title,
                "repo": None,
                "config": "LLaVA-1.5 protocol",
                "split": benchmark.split if benchmark.is_published(report["questions"]) else OWN_QUESTIONS,
                "revision": None,
            },
            "metric": name,
            "value": round(value, 2),
            "unit": benchmark.unit,
            "n": report["questions"],
            "origin": "measured",
            "source": None,
            "command": report["command"],
            "date": report["date"],
        }
        for name, value in report["scores"].items()
        if isinstance(value, float)
    ]


def read_evaluations(folder: Path) -> list[dict]:
    """
    The entries of a model folder's `evaluation.json`, to which scores are to be added.

    Raises:
        ValueError: If the file or an entry is malformed, or cannot be written.
    """
    file = folder / EVALUATION_FILE
    if not os.access(file if file.is_file() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        raise ValueError(f"{file} cannot be written: change its permissions, or leave out --write.")
    if not os.path.lexists(file):
        return []
    try:
        entries = read_json_file(file)
        if not isinstance(entries, list):
            raise ValueError(f"{file} must hold a list of objects.")
        for number, entry in enumerate(entries, 1):
            where = f"{file}, score {number}"
            check_fields(entry, EVALUATION, where, EVALUATION_OPTIONAL)
            check_fields(entry["dataset"], {"name": str}, f"{where}: its 'dataset'", {"config": (str, type(None))})
    except ValueError as error:
        raise ValueError(f"{error} Correct the file or remove it, or leave out --write.") from error
    return entries


def write_evaluations(folder: Path, benchmark: Benchmark, report: dict) -> None:
    """
    Puts the scores into a model folder's `evaluation.json`, in the place of earlier ones of the same benchmark.

    Args:
        folder (`Path`): The model folder.
        benchmark ([`Benchmark`]), report (`dict`): The run.

    Raises:
        ValueError: If the file that is there is malformed.
    """
    before, new = read_evaluations(folder), evaluations(benchmark, report)
    if not new:
        logger.warning("No score of %s is a number, so %s stays as it is.", benchmark.title, folder / EVALUATION_FILE)
        return
    replaced = {(entry["dataset"]["name"], entry["dataset"]["config"]) for entry in new}
    kept = [
        entry
        for entry in before
        if entry.get("origin") != "measured"
        or (entry["dataset"]["name"], entry["dataset"].get("config")) not in replaced
    ]
    write_json([*kept, *new], folder / EVALUATION_FILE)
