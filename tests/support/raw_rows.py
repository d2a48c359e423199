# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Raw rows of training data, what becomes of them, and how to write and load them."""

import json
from pathlib import Path

from datasets import Dataset, Image, IterableDataset

from flashsloth.train.data import DataSource, load_data


IMAGE = {"type": "image", "text": None}


def text(words: str) -> dict:
    """The part of a message that is text."""
    return {"type": "text", "text": words}


def llava(human="<image>\nWhat is it?", answer="A bird.", **columns) -> dict:
    """A raw row in LLaVA's form."""
    return columns | {"conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]}


def chat(*contents) -> list[dict]:
    """The messages of a row: strings, or lists of `IMAGE` and `text(...)`, of user and assistant by turns."""
    parts = [[text(content)] if isinstance(content, str) else content for content in contents]
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(parts)]


def decoded(row: dict) -> list:
    """The images of a row."""
    return [Image().decode_example(image) for image in row["images"]]


def write_json(path: Path, raw_rows: list) -> str:
    """Writes a JSON array, or JSON lines if the file is named so."""
    lines = "\n".join(map(json.dumps, raw_rows)) + "\n"
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(raw_rows))
    return str(path)


def load(*sources: DataSource | str, seed: int = 0) -> Dataset | IterableDataset:
    """Opens sources; a string is the path of one."""
    return load_data([DataSource(source) if isinstance(source, str) else source for source in sources], seed)
