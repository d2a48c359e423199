# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Makes the tiny checkpoints from nothing: tokenizer, vision tower, language model, composition, data, query stage,
stage 1, stage 2, HD, evaluation. A stage whose output is there is skipped, and one that was stopped goes on from its
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
from flashsloth.convert import compose
from flashsloth.folders.new_folder import new_folder
from flashsloth.folders.provenance import PROVENANCE_FILE, read_provenance, write_provenance
from flashsloth.tiny.curves import read_curves
from flashsloth.tiny.data import in_batches_of_similar_length, make_dataset
from flashsloth.tiny.evaluate import (
    answers_table,
    checkpoint_folders,
    command_line,
    evaluate,
    write_evaluation,
)
from flashsloth.tiny.language import train_language_model
from flashsloth.tiny.tokenizer import train_tokenizer
from flashsloth.tiny.tower import POOLING_SIZE, train_tower
from flashsloth.train.config import DataSource, read_config
from flashsloth.train.record import draw
from flashsloth.train.sft import train_stage


logger = logging.getLogger("flashsloth.tiny")

CONFIGS = Path(__file__).parent.parent / "train" / "configs"
# Each with the sets that it learns from, in this order.
STAGES = {
    "query": ("items",),
    "stage1": ("captions",),
    "stage2": ("questions", "comparisons"),
    "hd": ("hd",),
}
# What the backbones learn from, in words: their pictures and texts are drawn up while they train.
BACKBONE_DATA = {
    "tower": "generated pictures with handwritten digits of scikit-learn in them",
    "language_model": "generated scenes whose regions are given as words",
}
EXAM = {"split": "heldout", "questions": 1000, "small": 300}


def make_backbones(settings: dict, work: Path) -> None:
    """Tokenizer, tower and language model, each into its own folder."""
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


def join_provenance(work: Path) -> None:
    """Puts before the composition how its two backbones were made, which `compose` does not ask of backbones."""
    (composed,) = read_provenance(work / "composed")
    before = [*read_provenance(work / "tower"), *read_provenance(work / "language_model")]
    write_provenance(work / "composed", "compose", composed["sources"], before, seed=composed["seed"])


def make_data(settings: dict, work: Path) -> None:
    """What the stages read: one set after the other."""
    for stage, names in STAGES.items():
        if not (work / "data" / stage).exists():
            logger.info("data of %s", stage)
            _, config = read_config(CONFIGS / f"tiny_{stage}.yaml", settings["stage_overrides"])
            size = config.per_device_train_batch_size
            sets = [make_dataset(name, "train", settings["rows"][name]) for name in names]
            ordered = [in_batches_of_similar_length(rows, size, settings["seed"]) for rows in sets]
            with new_folder(work / "data" / stage) as folder:
                concatenate_datasets(ordered).save_to_disk(folder)


def export(source: Path, destination: Path) -> None:
    """Saves a stage's model in bfloat16 as a complete folder, in place of an earlier one."""
    model = FlashSlothForCausalLM.from_pretrained(source, dtype="bfloat16")
    processor = FlashSlothProcessor.from_pretrained(source)
    unfinished = destination.with_name(destination.name + ".new")
    with new_folder(unfinished) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if (source / PROVENANCE_FILE).is_file():
            shutil.copy(source / PROVENANCE_FILE, folder)
    if destination.exists():
        shutil.rmtree(destination)
    unfinished.rename(destination)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="folder for everything in between")
    parser.add_argument("--export", type=Path, default=Path("checkpoints"), help="folder for the two checkpoints")
    parser.add_argument("--config", type=Path, default=CONFIGS / "tiny.yaml", help="sizes and steps")
    parsed = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_flush_denormal(True)  # denormal numbers slow a CPU down
    register_auto_classes()
    settings = yaml.safe_load(parsed.config.read_text())
    work = parsed.work

    make_backbones(settings, work)
    if not (work / "composed").exists():
        compose(
            work / "language_model",
            work / "tower",
            work / "composed",
            vision_feature_layer=-1,
            pooling_size=POOLING_SIZE,
            **settings["compose"],
        )
        join_provenance(work)
    make_data(settings, work)
    start = work / "composed"
    for name in STAGES:
        logger.info("%s", name)
        stage, config = read_config(CONFIGS / f"tiny_{name}.yaml", settings["stage_overrides"])
        stage.model, config.output_dir = str(start), str(work / name)
        stage.data = [DataSource(str(work / "data" / name))]
        start = train_stage(stage, config)
    draw(read_curves(work), work / "curves.png")
    checkpoints = checkpoint_folders(parsed.export)
    export(work / "stage2" / "model", checkpoints["standard"])
    export(work / "hd" / "model", checkpoints["HD"])
    exam = EXAM | settings["exam"]
    answers = evaluate(checkpoints, **exam)
    for name, folder in checkpoints.items():
        write_evaluation(folder, answers[name], exam["split"], command_line(**exam))
    result = answers_table(answers)
    (work / "result.md").write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
