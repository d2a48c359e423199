# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The rows of a model card's tables: scores, and the settings of the last training run."""

from flashsloth.publish.facts import Evaluation
from flashsloth.publish.values import link, markdown


# Settings that a reader wants to see, and what the card calls them.
STAGE_SETTINGS = {"optimizer": "optimizer", "hd": "high definition", "learning_rates": "learning rates by module"}
RUN_SETTINGS = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "rows per device",
    "gradient_accumulation_steps": "gradient accumulation steps",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient norm, at most",
    "max_length": "tokens per row, at most",
    "bf16": "bfloat16",
    "seed": "seed",
}
# How the trainer's settings say that one is not set; -1 steps are as many as the epochs take.
UNSET = (None, -1, "", {}, [])


def score_rows(evaluations: list[Evaluation], origin: str) -> list[dict[str, str]]:
    """The scores of one origin, as Markdown by column."""
    return [
        {
            "task": markdown(score.task),
            "dataset": link(score.dataset_repo, "datasets/") if score.dataset_repo else markdown(score.dataset_name),
            "part": markdown(", ".join(part for part in (score.dataset_config, score.dataset_split) if part)),
            "metric": markdown(score.metric) + (f" in {markdown(score.unit)}" if score.unit else ""),
            "value": markdown(score.value),
            "n": "" if score.n is None else f"{score.n:,}",
            "date": score.date or "",
            "source": f"[{markdown(score.source_name)}]({score.source_url})" if score.source_url else "",
        }
        for score in evaluations
        if score.origin == origin
    ]


def training_rows(training: dict) -> list[tuple[str, str]]:
    """
    Name and value of what `training.json` says of the run, as Markdown, without what it leaves unset.

    Raises:
        ValueError: If a part of it is no object.
    """
    stage, run = _part(training, "stage"), _part(training, "config")
    rows = [(name, stage.get(key)) for key, name in STAGE_SETTINGS.items()]
    rows += [(name, run.get(key)) for key, name in RUN_SETTINGS.items()]
    rows += [("processes", training.get("processes")), ("rows of data", _part(training, "data").get("rows"))]
    rows += [(f"{name} version", version) for name, version in _part(training, "versions").items()]
    return [(markdown(name), _setting(value)) for name, value in rows if value not in UNSET]


def _setting(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{markdown(name)} {markdown(item)}" for name, item in value.items())
    return markdown(value)


def _part(training: dict, key: str) -> dict:
    part = training.get(key, {})
    if not isinstance(part, dict):
        raise ValueError(f"{key!r} in training.json is {part!r}, and must be an object.")
    return part
