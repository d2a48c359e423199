# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Tasks for lmms-eval on this machine: its own task files, so with its own prompts and metrics, over small parquet files
of questions that the shipped checkpoint was trained for.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import lmms_eval
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage


ROOT = Path(__file__).parent.parent.parent
SCENES = ROOT / "examples" / "scenes"
BUILT_IN = Path(lmms_eval.__file__).parent / "tasks"
SUFFIX = " Answer briefly."
PROMPT = {"default": {"pre_prompt": "", "post_prompt": SUFFIX}}
NOT_INHERITED = {"dataset_path": "parquet", "dataset_name": None}

YES_NO = [
    (0, "Is the number 58 below the purple circle?", "no"),
    (1, "Is the blue circle left of the yellow star?", "yes"),
    (1, "Is the blue circle right of the number 52?", "no"),
    (2, "Is the pink triangle above the red ring?", "yes"),
    (3, "Is there a purple circle?", "no"),
    (0, "Is there a purple circle?", "yes"),
]
WORDS = [
    (0, "Where is the purple circle?", "center"),
    (1, "What shape is the blue object?", "circle"),
    (2, "Which word is at the bottom left?", "cat"),
    (2, "Which shape is at the top left?", "triangle"),
    (1, "Which number is in the image?", "52"),
    (0, "Which number is in the image?", "58"),
    (3, "What is in the image? Describe it in one sentence, and name all that you see.", "a scene"),
]
IMAGE = {"image": Image()}
TEXTS = {"question": Value("string"), "answer": Value("string"), "question_id": Value("string")}


def scene(index: int) -> PilImage.Image:
    """One of the images of examples/scenes."""
    return PilImage.open(SCENES / f"{index}.png")


def write_task(folder: Path, name: str, file: str, rows: Iterable[dict], features: dict, **changes) -> None:
    """
    Writes a task.

    Args:
        folder (`Path`): Of the tasks, for `--include_path`.
        name (`str`): The task's name.
        file (`str`): The built-in task that it is, as a path in lmms-eval's folder of tasks.
        rows (`Iterable[dict]`): The questions.
        features (`dict`): Their columns.
        changes: Of the built-in task's settings.
    """
    place = folder / name
    place.mkdir(parents=True)
    split = yaml.load((BUILT_IN / file).read_text(), _Loader)["test_split"]
    Dataset.from_list(list(rows), features=Features(features)).to_parquet(place / "questions.parquet")
    data = {"dataset_kwargs": {"data_files": {split: str(place / "questions.parquet")}}}
    settings = {"include": str(BUILT_IN / file), "task": name, **NOT_INHERITED, **data, **changes}
    (place / f"{name}.yaml").write_text(yaml.safe_dump(settings))


class _Loader(yaml.SafeLoader):
    """Reads a task's file without its functions."""


_Loader.add_constructor("!function", lambda loader, node: None)


def encoded(index: int) -> dict:
    """An image as a parquet file holds it."""
    buffer = io.BytesIO()
    scene(index).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_tasks(folder: Path) -> list[str]:
    """Writes seven tasks, and returns their names."""
    prompt = {"lmms_eval_specific_kwargs": PROMPT}

    def rows(questions, **more):
        for number, (image, question, answer) in enumerate(questions):
            row = {"image": encoded(image), "question": question, "answer": answer, "question_id": str(number)}
            yield row | {name: make(answer, number) for name, make in more.items()}

    write_task(folder, "local_pope", "pope/pope.yaml", rows(YES_NO), IMAGE | TEXTS, **prompt)
    # MME asks two questions about an image.
    pairs = rows(YES_NO, question_id=lambda answer, number: f"count/{number // 2}", category=lambda *_: "count")
    write_task(folder, "local_mme", "mme/mme.yaml", pairs, IMAGE | TEXTS | {"category": Value("string")}, **prompt)
    ten = {"answers": List(Value("string"))}
    words = rows(WORDS, answers=lambda answer, number: [answer] * 9 + ["other"])
    write_task(folder, "local_textvqa", "textvqa/textvqa_val.yaml", words, IMAGE | TEXTS | ten, **prompt)
    words = rows(WORDS, type=lambda answer, number: "human_test" if number % 2 else "augmented_test")
    write_task(
        folder, "local_chartqa", "chartqa/chartqa.yaml", words, IMAGE | TEXTS | {"type": Value("string")}, **prompt
    )
    words = rows(WORDS, answers=lambda answer, number: [answer])
    write_task(folder, "local_docvqa", "docvqa/docvqa_val.yaml", words, IMAGE | TEXTS | ten, **prompt)
    options = {"options": List(Value("string"))}
    choices = rows(WORDS, options=lambda answer, number: [answer, "none"], answer=lambda *_: "0")
    prompt_of_choices = {"lmms_eval_specific_kwargs": {"default": PROMPT["default"] | {"prompt_format": "mcq"}}}
    write_task(folder, "local_ai2d", "ai2d/ai2d.yaml", choices, IMAGE | TEXTS | options, **prompt_of_choices)
    columns = ("hint", "source", "split", "category", "L2-category", "A", "B", "C", "D", "E")
    constant = dict.fromkeys(("hint", "C", "D", "E"), "nan") | {"B": "none", "source": "s", "split": "dev"}
    constant |= {"category": "c", "L2-category": "l"}
    fill = {name: (lambda *_, value=value: value) for name, value in constant.items()}
    fill |= {"index": lambda answer, number: number, "A": lambda answer, number: answer, "answer": lambda *_: "A"}
    features = IMAGE | TEXTS | {name: Value("string") for name in columns} | {"index": Value("int64")}
    write_task(folder, "local_mmbench", "mmbench/mmbench_en_dev_static.yaml", rows(WORDS, **fill), features, **prompt)
    return sorted(path.name for path in folder.iterdir())


def run(folder: Path, model_args: str, tasks: list[str], output: Path, *arguments: str, processes: int = 1):
    """Runs lmms-eval as a user does, without the network; returns the finished process."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "lmms_eval", "--model", "flashsloth", "--model_args", model_args]
    command += [
        "--include_path",
        str(folder),
        "--tasks",
        ",".join(tasks),
        "--log_samples",
        "--output_path",
        str(output),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder.parent / "home")}
    environment = {**os.environ, **offline, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, cwd=folder.parent)
