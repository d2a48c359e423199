# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The model card of a folder, and what goes with it, from facts: the folder's own files and what the caller says. What is
not known is left out.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import requires
from pathlib import Path

from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.utils import yaml_dump

from flashsloth.folders.json_files import read_json_list
from flashsloth.publish.facts import (
    Evaluation,
    ModelFacts,
    has_curves,
    published_evaluations,
    read_evaluations,
    read_model,
    read_training,
)
from flashsloth.publish.lineage import Lineage, describe, published, read_lineage
from flashsloth.publish.tables import score_rows, training_rows
from flashsloth.publish.values import (
    check_commit,
    check_hub_id,
    check_language,
    check_license,
    check_repo_id,
    code,
    link,
    listed,
    markdown,
)


logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "card_template.md"
WIDGET = Path(__file__).parent / "widget"
HUB = "https://huggingface.co"
# "conversational" shows the chat widget (https://huggingface.co/docs/hub/models-widgets), "custom_code" that loading
# needs trust_remote_code.
TAGS = ["flashsloth", "vision-language-model", "conversational", "custom_code"]
PIN = re.compile(r'^revision = "([0-9a-f]{40})"$', flags=re.MULTILINE)


def card_files(
    folder: Path,
    repo_id: str,
    code_revision: str | None,
    *,
    license: str | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
    base_models: Sequence[str] = (),
) -> dict[str, bytes]:
    """
    Makes the model card of a folder, its evaluation results in the Hub's format, and the pictures of its widget.

    Args:
        folder (`Path`): A complete model folder.
        repo_id (`str`): The repository that it goes to, `owner/name`.
        code_revision (`str`, *optional*): The commit there that holds the model's code, to which every example is
            pinned; the examples name none if it is `None`.
        license (`str`, *optional*): Id of the model's license on the Hub; by default that of its base models, where
            it is known and the same for all.
        languages (`Sequence[str]`, *optional*): Codes of the languages that it speaks.
        datasets (`Sequence[str]`, *optional*): Ids of the datasets on the Hub that it was trained on.
        base_models (`Sequence[str]`, *optional*): Ids of what its last step started from, where the provenance knows
            a local folder only.

    Returns:
        `dict[str, bytes]`: Content by path in the repository: `README.md`, `.eval_results/*.yaml`, `widget/*`.

    Raises:
        ValueError: If a value cannot stand where it belongs, or a file of the folder is damaged.
    """
    check_repo_id(repo_id)
    if code_revision is not None:
        check_commit(code_revision, "The revision")
    for language in languages:
        check_language(language)
    for dataset in datasets:
        check_hub_id(dataset, "The dataset")
    lineage = read_lineage(folder, base_models)
    model = read_model(folder)
    evaluations = read_evaluations(folder)
    if lineage.published:
        evaluations += published_evaluations(lineage.published)
    widget = read_json_list(WIDGET / "examples.json")
    data = ModelCardData(
        license=check_license(license) if license else _license_of(lineage),
        language=list(languages) or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=list(lineage.base_models) or None,
        base_model_relation=lineage.relation,
        datasets=list(datasets) or None,
        tags=TAGS,
        metrics=sorted({e.metric for e in evaluations if e.origin == "measured"}) or None,
        model_name=repo_id.split("/")[1],
        eval_results=[_eval_result(evaluation) for evaluation in evaluations] or None,
        widget=[_widget_example(example, repo_id) for example in widget],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        training=training_rows(read_training(folder)),
        has_curves=has_curves(folder),
        **_template_values(repo_id, code_revision, model, lineage, evaluations, datasets, widget),
    )
    _check_round_trip(card, data)
    files = {"README.md": str(card).encode()}
    files |= _eval_result_files(evaluations)
    return files | {f"widget/{example['file']}": (WIDGET / example["file"]).read_bytes() for example in widget}


def pinned_revision(card: str) -> str | None:
    """The commit that the examples of a card are pinned to, or `None` if they are not."""
    found = PIN.search(card)
    return found[1] if found else None


def _license_of(lineage: Lineage) -> str | None:
    """The license of what a model is made of, where it is known and the same for all; it is never guessed."""
    known = {name: published()["licenses"].get(name, {}).get("id") for name in lineage.base_models}
    licenses = set(known.values())
    if lineage.knows_all_bases and len(licenses) == 1 and None not in licenses:
        return licenses.pop()
    reason = ", ".join(f"{name}: {license or 'not known here'}" for name, license in known.items())
    logger.warning(
        "The card names no license%s. Say with --license which one the model has.", f" ({reason})" if reason else ""
    )
    return None


def _eval_result(evaluation: Evaluation) -> EvalResult:
    unit = f" in {evaluation.unit}" if evaluation.unit else ""
    return EvalResult(
        task_type="image-text-to-text",
        task_name=evaluation.task,
        dataset_type=evaluation.dataset_repo or re.sub(r"\W+", "-", evaluation.dataset_name.lower()).strip("-"),
        dataset_name=evaluation.dataset_name,
        dataset_config=evaluation.dataset_config,
        dataset_split=evaluation.dataset_split,
        dataset_revision=evaluation.dataset_revision,
        metric_type=evaluation.metric,
        metric_name=f"{evaluation.metric}{unit}, {evaluation.origin}",
        metric_value=evaluation.value,
        source_name=evaluation.source_name,
        source_url=evaluation.source_url,
    )


def _eval_result_files(evaluations: list[Evaluation]) -> dict[str, bytes]:
    """The scores on benchmarks of the Hub, a file for each benchmark."""
    by_dataset: dict[str, list[EvalResultEntry]] = {}
    for evaluation in evaluations:
        if evaluation.dataset_repo and evaluation.task_id:
            notes = evaluation.origin + (f", {evaluation.n} questions" if evaluation.n else "")
            entry = EvalResultEntry(
                dataset_id=evaluation.dataset_repo,
                task_id=evaluation.task_id,
                value=evaluation.value,
                dataset_revision=evaluation.dataset_revision,
                date=evaluation.date,
                source_url=evaluation.source_url,
                source_name=evaluation.source_name,
                notes=notes,
            )
            by_dataset.setdefault(evaluation.dataset_repo, []).append(entry)
    return {
        f".eval_results/{repo.replace('/', '--')}.yaml": yaml_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False
        ).encode()
        for repo, entries in by_dataset.items()
    }


def _widget_example(example: dict, repo_id: str) -> dict[str, str]:
    # A picture with a question, as https://huggingface.co/docs/hub/models-widgets-examples has it for visual question
    # answering.
    return {
        "text": example["text"],
        "src": f"{HUB}/{repo_id}/resolve/main/widget/{example['file']}",
        "example_title": example["example_title"],
    }


def _check_round_trip(card: ModelCard, data: ModelCardData) -> None:
    """What the Hub will read in the card is what was put in."""
    read = ModelCard(str(card)).data.to_dict()
    wanted = data.to_dict()
    if read != wanted:
        raise ValueError(f"The card's metadata would read {read!r} instead of {wanted!r}.")
    # `model-index` keeps task, name and source once for all scores of a part of a dataset.
    kept = {tuple(asdict(result).items()) for result in ModelCard(str(card)).data.eval_results or []}
    for result in data.eval_results or []:
        if tuple(asdict(result).items()) not in kept:
            raise ValueError(
                f"The score {result.metric_value} on {result.dataset_name!r} has another task, name or source than "
                "others on the same dataset, config and split. Give it a config of its own."
            )


def _template_values(
    repo_id: str,
    code_revision: str | None,
    model: ModelFacts,
    lineage: Lineage,
    evaluations: list[Evaluation],
    datasets: Sequence[str],
    widget: list[dict],
) -> dict:
    """What the template needs; every text is harmless in Markdown."""
    config = model.config
    return {
        "repo_id": repo_id,
        "title": markdown(repo_id.split("/")[1]),
        "code_revision": code_revision,
        "model": model,
        "config": config,
        "parameters": f"{model.num_parameters / 1e9:.1f} billion"
        if model.num_parameters >= 1e9
        else f"{model.num_parameters / 1e6:.1f} million",
        "size": f"{model.num_bytes / 1e9:.1f} GB" if model.num_bytes >= 1e9 else f"{model.num_bytes / 1e6:.1f} MB",
        "hd_views": 1 + model.tile_grid**2,
        "language_model": markdown(config.text_config.model_type),
        "vision_model": markdown(config.vision_config.model_type),
        "lineage": lineage,
        "bases": [link(name) for name in lineage.base_models],
        "history": describe(lineage),
        "only_data": listed(_all_data(lineage)) if lineage.is_from_nothing else "",
        "what_published": lineage.published["what"] if lineage.published else "",
        "dataset_links": [link(name, "datasets/") for name in datasets],
        "measured": score_rows(evaluations, "measured"),
        "published": score_rows(evaluations, "published"),
        "commands": sorted({code(e.command) for e in evaluations if e.command}),
        "question": widget[0]["text"],
        "picture": f"widget/{widget[0]['file']}",
        "other_question": widget[1]["text"],
        "other_picture": f"widget/{widget[1]['file']}",
        "requirements": _requirements(model),
    }


def _requirements(model: ModelFacts) -> str:
    """What loads the model, with the lower bounds of this package."""
    needed = ["torch", "transformers", "pillow", *(["torchao"] if model.is_quantized else [])]
    bounds = dict(re.match(r"([\w-]+)([^;]*)", line).groups() for line in requires("flashsloth"))
    return " ".join(f'"{name}{bounds.get(name, "").strip()}"' for name in needed)


def _all_data(lineage: Lineage) -> list[str]:
    """All data that a model was trained on, in the order of its training."""
    return list(dict.fromkeys(name for entry in lineage.entries for name in entry.get("data", [])))
