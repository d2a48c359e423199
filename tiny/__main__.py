# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Makes the tiny checkpoints from scratch: tokenizer, vision tower, language model, composition, data, query stage,
stage 1, stage 2, HD, evaluation. It skips steps whose output exists, and resumes a stage that was stopped from its
last checkpoint.

    python -m flashsloth.tiny [--work build/tiny] [--export checkpoints]
"""

import argparse
import logging
import shutil
import sys
from pathlib import Path

import torch
import yaml
from datasets import concatenate_datasets
from transformers import PreTrainedTokenizerFast

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.arguments import OneLineParser
from flashsloth.convert import compose
from flashsloth.folders.new_folder import new_folder
from flashsloth.folders.provenance import PROVENANCE_FILE, read_provenance, write_provenance
from flashsloth.tiny.curves import read_curves
from flashsloth.tiny.data import in_batches_of_similar_length, make_dataset
from flashsloth.tiny.evaluate import (
    QUESTIONS,
    SMALL_TEXT_QUESTIONS,
    answers_table,
    checkpoint_folders,
    command_line,
    evaluate,
    write_evaluation,
)
from flashsloth.tiny.language import train_language_model
from flashsloth.tiny.tokenizer import train_tokenizer
from flashsloth.tiny.tower import train_tower
from flashsloth.tiny.tower_data import POOLING_SIZE
from flashsloth.train.config import DataSource, read_config
from flashsloth.train.record import draw
from flashsloth.train.sft import train_stage


logger = logging.getLogger("flashsloth.tiny")

CONFIGS = Path(__file__).parent.parent / "train" / "configs"
# The stages in order, each with the sets that it learns from.
STAGES = {
    "query": ("items",),
    "stage1": ("captions",),
    "stage2": ("questions", "comparisons"),
    "hd": ("hd",),
}
# The data of the backbones in words: it is generated while they train.
BACKBONE_DATA = {
    "tower": "generated images with handwritten digits of scikit-learn in them",
    "language_model": "generated scenes whose regions are given as words",
}
EXAM = {"split": "heldout", "questions": QUESTIONS, "small": SMALL_TEXT_QUESTIONS}


def make_backbones(settings: dict, work: Path) -> None:
    """Trains tokenizer, tower and language model, each in a folder of its own."""
    if not (work / "tokenizer").exists():
        with new_folder(work / "tokenizer") as folder:
            train_tokenizer(**settings["tokenizer"]).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    for name, make in (("tower", train_tower), ("language_model", train_language_model)):
        if not (work / name).exists():
            logger.info("%s", name)
            torch.manual_seed(settings["seed"])
            with new_folder(work / name) as folder:
                make(tokenizer, settings[name], work / f"{name}_training", folder)
                write_provenance(
                    folder,
                    "train",
                    sources=[],
                    before=[],
                    data=[BACKBONE_DATA[name]],
                    trainable=[name],
                    steps=settings[name]["steps"],
                    global_batch_size=settings[name]["batch_size"],
                    learning_rate=settings[name]["learning_rate"],
                    seed=settings["seed"],
                )


def compose_model(settings: dict, work: Path) -> None:
    """Composes the untrained model."""
    if not (work / "composed").exists():
        compose(
            work / "language_model",
            work / "tower",
            work / "composed",
            vision_feature_layer=-1,
            pooling_size=POOLING_SIZE,
            **settings["compose"],
        )
        # `compose` knows nothing of how its backbones were made
        (composed,) = read_provenance(work / "composed")
        before = [*read_provenance(work / "tower"), *read_provenance(work / "language_model")]
        write_provenance(work / "composed", "compose", composed["sources"], before, seed=composed["seed"])


def make_data(settings: dict, work: Path) -> None:
    """Makes the data of the stages: their sets, one after the other."""
    for name, set_names in STAGES.items():
        if not (work / "data" / name).exists():
            logger.info("data of %s", name)
            stage = read_config(CONFIGS / f"tiny_{name}.yaml", settings["stage_overrides"])
            size = stage.per_device_train_batch_size
            sets = [make_dataset(set_name, "train", settings["rows"][set_name]) for set_name in set_names]
            ordered = [in_batches_of_similar_length(rows, size, settings["seed"]) for rows in sets]
            with new_folder(work / "data" / name) as folder:
                concatenate_datasets(ordered).save_to_disk(folder)


def train_stages(settings: dict, work: Path) -> None:
    """Trains the stages, each from the model of the one before."""
    start = work / "composed"
    for name in STAGES:
        logger.info("%s", name)
        stage = read_config(CONFIGS / f"tiny_{name}.yaml", settings["stage_overrides"])
        stage.model, stage.output_dir = str(start), str(work / name)
        stage.data = [DataSource(str(work / "data" / name))]
        start = train_stage(stage)


def export(source: Path, destination: Path) -> None:
    """Saves a stage's model in bfloat16 as a complete model folder, which replaces an earlier one."""
    model = FlashSlothForCausalLM.from_pretrained(source, dtype="bfloat16")
    processor = FlashSlothProcessor.from_pretrained(source, trust_remote_code=False)
    unfinished = destination.with_name(destination.name + ".new")
    with new_folder(unfinished) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if (source / PROVENANCE_FILE).is_file():
            shutil.copy(source / PROVENANCE_FILE, folder)
    if destination.exists():
        shutil.rmtree(destination)
    unfinished.rename(destination)


def measure(checkpoints: dict[str, Path], split: str, questions: int, small: int) -> str:
    """Evaluates the checkpoints, saves their scores in them, and returns the table of all."""
    answers = evaluate(checkpoints, split, questions, small)
    for name, folder in checkpoints.items():
        write_evaluation(folder, answers[name], split, command_line(split, questions, small))
    return answers_table(answers)


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny"), help="folder of all intermediate results (%(default)s)"
    )
    parser.add_argument(
        "--export", type=Path, default=Path("checkpoints"), help="folder of the two checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "tiny.yaml", help="YAML file with sizes and numbers of steps"
    )
    parsed = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_flush_denormal(True)  # denormal numbers are slow on a CPU
    register_auto_classes()
    settings = yaml.safe_load(parsed.config.read_text())
    work = parsed.work

    make_backbones(settings, work)
    compose_model(settings, work)
    make_data(settings, work)
    train_stages(settings, work)
    draw(read_curves(work), work / "curves.png")
    checkpoints = checkpoint_folders(parsed.export)
    export(work / "stage2" / "model", checkpoints["standard"])
    export(work / "hd" / "model", checkpoints["HD"])
    result = measure(checkpoints, **(EXAM | settings["exam"]))
    (work / "result.md").write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
