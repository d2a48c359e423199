# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The model card of a release, and the files that go with it. The card states facts only: what the release holds, and
what the caller says. It leaves out what is not known.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import requires
from io import BytesIO
from pathlib import Path

import numpy as np
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.utils import yaml_dump
from packaging.requirements import Requirement
from PIL import Image

from flashsloth.image_reading_flashsloth import read_image
from flashsloth.publish.notes import Evaluation, Lineage, published
from flashsloth.publish.release import Release
from flashsloth.publish.upload import NO_REVISION
from flashsloth.publish.values import (
    check_commit,
    check_hub_id,
    check_language,
    check_license,
    check_repo_id,
    code,
    link,
    markdown,
)


logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "card_template.md"
WIDGET = Path(__file__).parent / "widget"  # images that come with this library
HUB = "https://huggingface.co"
# "conversational" shows the chat widget (https://huggingface.co/docs/hub/models-widgets), "custom_code" that loading
# needs trust_remote_code.
TAGS = ["flashsloth", "vision-language-model", "conversational", "custom_code"]
MAX_IMAGE_SIZE = 1024  # pixels along each side of an example's image

ROLES = {
    "language_model": "language model",
    "vision_model": "vision model",
    "tokenizer": "tokenizer",
    "adapter": "adapter",
    "checkpoint": "checkpoint",
}
# Settings in the record of a run that the card lists, and their names there.
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
# Settings in the entry of a command that its sentence gives in brackets.
COMMAND_SETTINGS = {"learning_rate": "learning rate", "group_size": "group size", "seed": "seed"}
UNSET = (None, "None", -1, "", {}, [])  # how the trainer says that a setting is not set, as in `max_steps=-1`


@dataclass(frozen=True)
class Example:
    """
    A question about an image, which a model is asked before it is published. The card shows its answer.

    Args:
        question (`str`): The question.
        image (`bytes`): The image, as a PNG file.
        is_own (`bool`, *optional*, defaults to `True`): Whether the publisher chose it, instead of this library.
    """

    question: str
    image: bytes
    is_own: bool = True

    @property
    def path(self) -> str:
        """Of the image in the repository."""
        return "widget/example.png"


SHIPPED_EXAMPLE = Example(
    "What color is the cross? Answer briefly.", (WIDGET / "colors.png").read_bytes(), is_own=False
)


def read_example(image, question: str) -> Example:
    """
    An example of the publisher's own. The image is published without its name and its metadata, such as a position.

    Args:
        image (`str` or `os.PathLike`): A file or URL.
        question (`str`): The question about it.

    Raises:
        ValueError: If the image cannot be read, or the question is empty.
    """
    if not question.strip():
        raise ValueError("The question of the example is empty.")
    picture = read_image(image, f"The image of the example ({image})")
    picture.thumbnail((MAX_IMAGE_SIZE, MAX_IMAGE_SIZE))
    file = BytesIO()
    Image.fromarray(np.asarray(picture)).save(file, "PNG")  # pixels only
    return Example(question, file.getvalue())


def card_files(
    release: Release,
    repo_id: str,
    revision: str = NO_REVISION,
    *,
    license: str | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
    example: Example | None = None,
    answer: str | None = None,
) -> dict[str, bytes]:
    """
    Makes the model card of a release, its evaluation results in the Hub's format, and the image of its example.

    Args:
        release ([`Release`]): The release.
        repo_id (`str`): The repository that it goes to, `owner/name`.
        revision (`str`, *optional*): The commit there that holds the model's code. All examples are pinned to it.
        license (`str`, *optional*): Id of the model's license on the Hub; by default the license of its base models,
            if it is known and the same for all of them.
        languages (`Sequence[str]`, *optional*): Codes of the languages that the model speaks.
        datasets (`Sequence[str]`, *optional*): Ids of the datasets on the Hub that it was trained on.
        example ([`Example`], *optional*): The question that the card asks; the one of this library if unset.
        answer (`str`, *optional*): The model's answer to it. Without it the card shows none, nor does it for a model
            that is untrained.

    Returns:
        `dict[str, bytes]`: Content by path in the repository: `README.md`, `.eval_results/*.yaml`, the image.

    Raises:
        ValueError: If a value is malformed.
    """
    check_repo_id(repo_id)
    check_commit(revision, "The revision")
    for language in languages:
        check_language(language)
    for dataset in datasets:
        check_hub_id(dataset, "The dataset")
    example = example or SHIPPED_EXAMPLE
    answer = None if release.lineage.is_untrained else answer
    data = ModelCardData(
        license=check_license(license) if license else known_license(release.lineage),
        language=list(languages) or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=list(release.lineage.base_models) or None,
        base_model_relation=release.lineage.relation,
        datasets=list(datasets) or None,
        tags=TAGS,
        metrics=sorted({e.metric for e in release.evaluations if e.origin == "measured"}) or None,
        model_name=repo_id.split("/")[1],
        eval_results=[_eval_result(evaluation) for evaluation in release.evaluations] or None,
        widget=[_widget(repo_id, example, answer)],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        title=markdown(repo_id.split("/")[1]),
        revision=revision,
        dataset_links=[link(name, "datasets/") for name in datasets],
        example=example,
        question=markdown(example.question),
        question_code=json.dumps(example.question, ensure_ascii=False),
        answer=markdown(answer) if answer else "",
        **_facts(release),
    )
    _check_metadata(card, data)
    return {
        REPOCARD_NAME: str(card).encode(),
        **_eval_result_files(release.evaluations),
        example.path: example.image,
    }


# Metadata


def known_license(lineage: Lineage) -> str | None:
    """The license of the base models, if it is known and the same for all; it is never guessed."""
    licenses = set(_base_licenses(lineage).values())
    is_known = lineage.knows_all_bases and len(licenses) == 1 and None not in licenses
    return licenses.pop() if is_known else None


def warn_of_no_license(lineage: Lineage) -> None:
    """Says why a card without `license` names none, if it does not."""
    if known_license(lineage):
        return
    reason = ", ".join(f"{name}: {license or 'not known here'}" for name, license in _base_licenses(lineage).items())
    logger.warning(
        "The model card names no license%s. Give the license of the model with --license.",
        f" ({reason})" if reason else "",
    )


def _base_licenses(lineage: Lineage) -> dict[str, str | None]:
    return {name: published()["licenses"].get(name, {}).get("id") for name in lineage.base_models}


def _widget(repo_id: str, example: Example, answer: str | None) -> dict:
    """As https://huggingface.co/docs/hub/models-widgets-examples has it for visual question answering."""
    source = f"{HUB}/{repo_id}/resolve/main/{example.path}"
    output = {"output": {"text": answer}} if answer else {}
    return {"text": example.question, "src": source, "example_title": "A question about an image", **output}


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
    """The scores on benchmarks of the Hub, one file for each benchmark."""
    by_dataset: dict[str, list[EvalResultEntry]] = {}
    for evaluation in evaluations:
        if evaluation.dataset_repo and evaluation.task_id:
            entry = EvalResultEntry(
                dataset_id=evaluation.dataset_repo,
                task_id=evaluation.task_id,
                value=evaluation.value,
                dataset_revision=evaluation.dataset_revision,
                date=evaluation.date,
                source_url=evaluation.source_url,
                source_name=evaluation.source_name,
                notes=evaluation.origin + (f", {evaluation.n} questions" if evaluation.n else ""),
            )
            by_dataset.setdefault(evaluation.dataset_repo, []).append(entry)
    return {
        f".eval_results/{repo.replace('/', '--')}.yaml": yaml_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False
        ).encode()
        for repo, entries in by_dataset.items()
    }


def _check_metadata(card: ModelCard, data: ModelCardData) -> None:
    """
    Raises:
        ValueError: If the Hub would read other metadata in the card than what was put in.
    """
    read = ModelCard(str(card)).data
    if read.to_dict() != data.to_dict():
        raise ValueError(f"The card's metadata would read {read.to_dict()!r} instead of {data.to_dict()!r}.")
    # `model-index` keeps task, name and source once for all scores on a part of a dataset.
    kept = [asdict(result) for result in read.eval_results or []]
    for result in data.eval_results or []:
        if asdict(result) not in kept:
            raise ValueError(
                f"The score {result.metric_value} on {result.dataset_name!r} has another task, name or source than "
                "others on the same dataset, config and split. Give it a config of its own."
            )


# Text


def _facts(release: Release) -> dict:
    """What the template says about a release. All text is escaped for Markdown."""
    lineage, config = release.lineage, release.config
    data = dict.fromkeys(name for entry in lineage.entries for name in entry.get("data", []))
    return {
        "release": release,
        "config": config,
        "is_untrained": lineage.is_untrained,
        "parameters": _with_unit(release.num_parameters, "billion", "million"),
        "size": _with_unit(release.num_bytes, "GB", "MB"),
        "language_model": markdown(config.text_config.model_type),
        "vision_model": markdown(config.vision_config.model_type),
        "base_models": [link(name) for name in lineage.base_models],
        "requirements": _requirements(release.is_quantized),
        "history": [_sentence(entry, is_first=number == 0) for number, entry in enumerate(lineage.entries)],
        "settings": _setting_rows(release.record),
        "scores": {origin: _score_rows(release.evaluations, origin) for origin in ("measured", "published")},
        "commands": sorted({code(e.command) for e in release.evaluations if e.command}),
        "last_data": _listed(_last_data(lineage)),
        "all_data": _listed(data) if lineage.is_from_scratch else "",
        "published_state": lineage.published["what"] if lineage.published else "",
    }


def _last_data(lineage: Lineage) -> list[str]:
    return next((entry["data"] for entry in reversed(lineage.entries) if entry.get("data")), [])


def _with_unit(number: int, billions: str, millions: str) -> str:
    return f"{number / 1e9:.1f} {billions}" if number >= 1e9 else f"{number / 1e6:.1f} {millions}"


def _requirements(is_quantized: bool) -> str:
    """The packages that load the model, with this package's bounds of their versions, for a shell."""
    names = ["torch", "transformers", "pillow", *(["torchao"] if is_quantized else [])]
    # What is always needed stands before the extras, which may repeat it.
    bounds = {needed.name: needed.specifier for needed in map(Requirement, reversed(requires("flashsloth")))}
    # Lower bounds first, as they are read.
    return " ".join(f'"{name}{",".join(sorted(map(str, bounds[name]), reverse=True))}"' for name in names)


def _sentence(entry: dict, is_first: bool) -> str:
    """What one command did to the model."""
    # What a later command started from in a local folder is the result of the command before.
    shown = [source for source in entry["sources"] if "repo" in source or is_first or entry["command"] == "compose"]
    sources = " and ".join(_source(source) for source in shown)
    of, from_ = (f" of {sources}", f" from {sources}") if sources else ("", "")
    match entry["command"]:
        case "compose":
            text = f"composed{of}, with random weights everywhere else"
        case "convert":
            text = f"converted{from_}, with unchanged weights"
        case "train":
            text = _training(entry, from_ if entry["sources"] else " from random weights")
        case "merge":
            text = f"an adapter merged{from_}"
        case "quantize":
            kind = f" to {markdown(entry['weights'])}" if "weights" in entry else ""
            text = f"weights of the decoder's layers quantized{kind}{from_}"
    details = [f"{name} {markdown(entry[key])}" for key, name in COMMAND_SETTINGS.items() if key in entry]
    text += f" ({', '.join(details)})." if details else "."
    if "note" in entry:
        text += f" {markdown(entry['note'])}"
    return f"{markdown(entry['date'])}: {text}" if "date" in entry else text[0].upper() + text[1:]


def _source(source: dict) -> str:
    role = ROLES.get(source.get("role"), "model")
    if "repo" not in source:
        # Only the last part of a path, of any system: the rest concerns nobody else.
        name = re.split(r"[/\\]", source["folder"].rstrip("/\\"))[-1]
        return f"the local {role} {markdown(name)}"
    revision = f" at revision {source['revision'][:7]}" if "revision" in source else ""
    return f"the {role} {link(source['repo'])}{revision}"


def _training(entry: dict, from_: str) -> str:
    trainable = entry.get("trainable", [])
    text = "trained " + ("an adapter" if isinstance(trainable, dict) else ", ".join(map(code, trainable)))
    text = text.rstrip() + (" in high definition" if entry.get("hd") else "") + from_
    if entry.get("data"):
        text += f" on {_listed(entry['data'])}"
    if "steps" in entry:
        text += f", for {_count(entry['steps'])} steps"
        text += f" of {_count(entry['global_batch_size'])} rows" if "global_batch_size" in entry else ""
    return text


def _setting_rows(record: dict) -> list[tuple[str, str]]:
    """
    Name and value of the settings in the record of a run, as Markdown.

    Raises:
        ValueError: If a part of the record is not an object.
    """
    parts = {key: record.get(key, {}) for key in ("stage", "config", "data", "versions")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"{key!r} in training.json is {part!r}, and must be an object.")
    rows = [(name, parts["stage"].get(key)) for key, name in STAGE_SETTINGS.items()]
    rows += [(name, parts["config"].get(key)) for key, name in RUN_SETTINGS.items()]
    rows += [("processes", record.get("processes")), ("rows of data", parts["data"].get("rows"))]
    rows += [(f"{name} version", version) for name, version in parts["versions"].items()]
    return [(markdown(name), _setting(value)) for name, value in rows if value not in UNSET]


def _setting(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{markdown(name)} {markdown(item)}" for name, item in value.items())
    return markdown(value)


def _score_rows(evaluations: list[Evaluation], origin: str) -> list[dict[str, str]]:
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


def _listed(names) -> str:
    return ", ".join(map(markdown, names))


def _count(value) -> str:
    return f"{value:,}" if isinstance(value, int) else markdown(value)
