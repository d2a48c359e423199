# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Small benchmarks in the published formats: questions, labels and images, and answers to them."""

import base64
import csv
import json
from dataclasses import dataclass
from pathlib import Path

from samples import encode_image, make_image


SUFFIX = "Answer the question using a single word or phrase."
TASKS = ("gqa", "mmbench", "mme", "pope", "textvqa")


@dataclass(frozen=True)
class Benchmark:
    """
    The files of a benchmark.

    Args:
        task (`str`): Its name.
        questions (`Path`), labels (`Path`, *optional*), images (`Path`, *optional*): What the command takes.
        right (`list[dict]`): The right answers, in the order of the questions: `question_id`, `prompt`, `text`.
    """

    task: str
    questions: Path
    labels: Path | None
    images: Path | None
    right: list[dict]

    @property
    def arguments(self) -> list[str]:
        """Of `flashsloth eval`, without a model or answers, and without an output."""
        words = ["--task", self.task, "--questions", str(self.questions)]
        words += ["--labels", str(self.labels)] if self.labels else []
        return words + (["--images", str(self.images)] if self.images else [])

    def write_answers(self, file: Path, **changed: str) -> Path:
        """A file of the right answers; `changed` are other texts by the numbers of questions, as in `q0="No"`."""
        rows = [{**row, "text": changed.get(f"q{number}", row["text"])} for number, row in enumerate(self.right)]
        return write_lines(rows, file)


def write_lines(rows: list[dict], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_image(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    make_image(seed).save(file)


def write_benchmark(task: str, folder: Path) -> Benchmark:
    """Writes a benchmark of a few questions into a folder."""
    return {"gqa": _gqa, "mmbench": _mmbench, "mme": _mme, "pope": _pope, "textvqa": _textvqa}[task](folder)


def _right(rows: list[dict], texts: list[str]) -> list[dict]:
    return [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text}
        for row, text in zip(rows, texts, strict=True)
    ]


def _gqa(folder: Path) -> Benchmark:
    asked = [
        ("201307251", "n161313", "Is it overcast?", "no", "verify"),
        ("201640614", "n336443", "Who is wearing the dress?", "woman", "query"),
        ("202225914", "n336443", "Which place is it?", "living room", "query"),
        ("20602949", "n235859", "Is the sky blue or grey?", "grey", "choose"),
    ]
    rows = [
        {"question_id": name, "image": f"{image}.jpg", "text": f"{question}\n{SUFFIX}", "category": "default"}
        for name, image, question, _, _ in asked
    ]
    for seed, image in enumerate(dict.fromkeys(row["image"] for row in rows)):
        write_image(folder / "images" / image, seed)
    labels = {
        name: {
            "question": question,
            "imageId": image,
            "answer": answer,
            "isBalanced": True,
            "types": {"structural": structure, "semantic": "attr", "detailed": "weatherVerify"},
        }
        for name, image, question, answer, structure in asked
    }
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(labels))
    return Benchmark(
        "gqa",
        write_lines(rows, folder / "llava_gqa_testdev_balanced.jsonl"),
        folder / "testdev_balanced_questions.json",
        folder / "images",
        _right(rows, [answer for *_, answer, _ in asked]),
    )


def _pope(folder: Path) -> Benchmark:
    objects = [("snowboard", "yes"), ("car", "no"), ("person", "yes"), ("knife", "no")]
    rows, texts = [], []
    for split in ("adversarial", "popular", "random"):
        labels = []
        for number, (name, label) in enumerate(objects, 1):
            image = f"COCO_val2014_{number // 3:012}.jpg"
            question = f"Is there a {name} in the image?"
            labels.append({"question_id": number, "image": image, "text": question, "label": label})
            text = f"{question}\n{SUFFIX}"
            rows.append({"question_id": len(rows), "image": image, "text": text, "category": split})
            texts.append(label.capitalize())
            write_image(folder / "val2014" / image, number // 3)
        write_lines(labels, folder / "coco" / f"coco_pope_{split}.json")
    questions = write_lines(rows, folder / "llava_pope_test.jsonl")
    return Benchmark("pope", questions, folder / "coco", folder / "val2014", _right(rows, texts))


def _mme(folder: Path) -> Benchmark:
    release = folder / "MME_Benchmark_release_version"
    rows, texts = [], []
    for category, parts in (("existence", False), ("artwork", True), ("code_reasoning", False)):
        images, labels = ("images", "questions_answers_YN") if parts else ("", "")
        for number in (1, 2):
            image = Path(category, images, f"{number:04}.png").as_posix()
            write_image(release / image, number)
            lines = []
            for what, label in ((f"cat {number}", "Yes"), (f"dog {number}", "No")):
                lines.append(f"Is there a {what}? Please answer yes or no.\t{label}\n")
                text = f"Is there a {what}?\n{SUFFIX}"
                rows.append({"question_id": image, "image": image, "text": text, "category": category})
                texts.append(label)
            file = release / category / labels / f"{number:04}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines))
    questions = write_lines(rows, folder / "llava_mme.jsonl")
    return Benchmark("mme", questions, release, None, _right(rows, texts))


def _textvqa(folder: Path) -> Benchmark:
    asked = [
        ("003a8ae2ef43b901", "What is the brand of this camera?", ["dakota"] * 8 + ["Dakota Digital", "clos"]),
        ("831bcec304a17054", "What brand is on the right?", ["islay"] * 10),
        ("831bcec304a17054", "How many years is it aged?", ["10"] * 5 + ["ten"] * 5),
    ]
    rows = [
        {
            "question_id": image,
            "image": f"{image}.jpg",
            "text": f"{question}\nReference OCR token: DAKOTA, DIGITAL\n{SUFFIX}",
            "category": "default",
        }
        for image, question, _ in asked
    ]
    for seed, row in enumerate(rows):
        write_image(folder / "train_images" / row["image"], seed // 2)
    labels = [
        {"question": question, "image_id": image, "question_id": 34602 + number, "answers": answers}
        for number, (image, question, answers) in enumerate(asked)
    ]
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"dataset_type": "val", "data": labels}))
    return Benchmark(
        "textvqa",
        write_lines(rows, folder / "llava_textvqa_val_v051_ocr.jsonl"),
        folder / "TextVQA_0.5.1_val.json",
        folder / "train_images",
        _right(rows, [answers[0] for *_, answers in asked]),
    )


MMBENCH_COLUMNS = "index question hint A B C D answer category image source l2-category comment split".split()


def write_table(rows: list[dict], file: Path, columns=MMBENCH_COLUMNS) -> Path:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, columns, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file


def mmbench_rows() -> list[dict]:
    """Two questions: one with four options and a hint, the other with two options and the same image as the first."""
    image = base64.b64encode(encode_image(make_image(0))).decode()
    rows = []
    for index, hint, options, right, category in (
        (241, "Look closely.", ["a red cat", "a dog", "a bird", "a fish"], "a dog", "attribute_reasoning"),
        (252, "", ["left", "right"], "left", "relation_reasoning"),
    ):
        for rotation in range(len(options)):
            rotated = options[rotation:] + options[:rotation]
            row = {"index": index + rotation * 1_000_000, "question": "Which one?", "hint": hint}
            row |= dict(zip("ABCD", [*rotated, "", ""], strict=False)) | {"answer": "ABCD"[rotated.index(right)]}
            row |= {"category": "nature", "image": image if not rows else "241", "source": "web"}
            rows.append(row | {"l2-category": category, "comment": "", "split": "dev"})
    return rows


def _mmbench(folder: Path) -> Benchmark:
    rows = mmbench_rows()
    folder.mkdir(parents=True, exist_ok=True)
    right = [{"question_id": row["index"], "prompt": "", "text": row["answer"]} for row in rows]
    return Benchmark("mmbench", write_table(rows, folder / "mmbench_dev_20230712.tsv"), None, None, right)
