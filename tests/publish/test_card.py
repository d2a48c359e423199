# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The model card: it states what is known and nothing else, and no text breaks out of its place. That its examples run is
tested with the whole command, in test_hub.py.
"""

import ast
import configparser
import json
import re
import shlex
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from packaging.requirements import Requirement
from PIL import Image
from samples import make_config, make_image

from flashsloth.publish import card as card_module
from flashsloth.publish.card import (
    SHIPPED_EXAMPLE,
    card_files,
    read_example,
    warn_of_no_license,
)
from flashsloth.publish.notes import (
    published,
    published_evaluations,
    read_evaluations,
    read_lineage,
    read_record,
)
from flashsloth.publish.release import Release, read_release
from flashsloth.publish.upload import NO_REVISION, pinned_revision


ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "checkpoints" / "flashsloth-tiny"
REPO = "some-one/my_model.v2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PHI, SIGLIP = "microsoft/phi-2", "google/siglip-so400m-patch14-384"
COMPOSE = {
    "command": "compose",
    "sources": [{"role": "language_model", "repo": PHI}, {"role": "vision_model", "repo": SIGLIP}],
}
TRAIN = {
    "command": "train",
    "date": "2026-11-24",
    "sources": [{"role": "base", "folder": "composed"}],
    "data": ["captions.json"],
    "trainable": ["model.pooling"],
    "steps": 140,
    "global_batch_size": 64,
    "learning_rate": 0.002,
}
SCORE = {
    "task": "questions about images",
    "dataset": {"name": "Exam", "repo": None, "config": "all", "split": "heldout", "revision": None},
    "metric": "exact_match",
    "value": 95.0,
    "unit": "percent",
    "n": 1000,
    "origin": "measured",
    "source": None,
    "command": "python -m exam",
    "date": "2026-11-24",
}
# Text that would end a metadata block, a code block, a table cell, a template or a tag if it were let.
HOSTILE = [
    "name\n---\nlicense: mit\n---\n# Owned",
    "```\nrm -rf ~\n```",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "<script>alert('x')</script><!-- -->",
    "a | b | c\n| --- |",
    "[x](javascript:alert(1)) ![y](z) `code` **bold** $$\\LaTeX$$",
    "\"quoted': [list, {map: 1}] & *anchor !!python/object:os.system #",
    "\u2028\u0085\u202e\x07\ttab",
    "no",
    "2026-11-24",
    "0x10",
]


@pytest.fixture(scope="module")
def release(saved) -> Release:
    """A release without any notes."""
    return read_release(saved)


@pytest.fixture
def noted(release, tmp_path):
    """Makes the release of a folder with notes; only the notes are read again."""

    def read(provenance=(), evaluation=(), record=None, base_models=()) -> Release:
        for name, content in (("provenance", provenance), ("evaluation", evaluation), ("training", record or {})):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        lineage = read_lineage(tmp_path, base_models)
        return replace(
            release,
            lineage=lineage,
            evaluations=[*read_evaluations(tmp_path), *published_evaluations(lineage)],
            record=read_record(tmp_path / "training.json"),
        )

    return read


def card_of(release: Release, **options) -> ModelCard:
    return ModelCard(card_files(release, REPO, **options)["README.md"].decode())


def test_metadata(noted, tmp_path):
    release = noted([COMPOSE, TRAIN], [SCORE])
    files = card_files(release, REPO, license="apache-2.0", languages=["en", "no"], datasets=["who/captions"])
    (tmp_path / "README.md").write_bytes(files["README.md"])
    data = metadata_load(tmp_path / "README.md")
    assert data["license"] == "apache-2.0" and data["language"] == ["en", "no"]
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "image-text-to-text")
    assert data["base_model"] == [PHI, SIGLIP] and data["base_model_relation"] == "merge"
    assert data["datasets"] == ["who/captions"] and data["metrics"] == ["exact_match"]
    assert {"custom_code", "flashsloth"} <= set(data["tags"])
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "my_model.v2" and [(r.metric_type, r.metric_value) for r in results] == [("exact_match", 95.0)]
    assert results[0].metric_name == "exact_match in percent, measured"


def test_the_models_own_answer_is_shown_with_its_image(noted):
    files = card_files(noted([COMPOSE, TRAIN]), REPO, license="mit", answer="pink | *red*")
    card = ModelCard(files["README.md"].decode())
    (widget,) = card.data.widget
    path = widget["src"].removeprefix(f"https://huggingface.co/{REPO}/resolve/main/")
    assert files[path].startswith(b"\x89PNG") and f"]({path})" in card.text
    assert widget["text"] == SHIPPED_EXAMPLE.question and widget["output"] == {"text": "pink | *red*"}
    shown = card.text.split("## An answer of this model")[1].split("##")[0]
    assert (
        f"| question | {SHIPPED_EXAMPLE.question} |" in shown and "| **answer** | pink &#124; &#42;red&#42; |" in shown
    )
    assert "come with the FlashSloth library, and not from the data of this model" in shown


@pytest.mark.parametrize("options", [{"answer": None}, {"answer": "noise", "provenance": [COMPOSE]}])
def test_without_an_answer_that_means_something_none_is_shown(noted, options):
    """Before a push there is none, and an untrained model has none."""
    card = card_of(noted(options.pop("provenance", [])), license="mit", **options)
    assert "An answer of this model" not in card.text and "output" not in card.data.widget[0]


def test_an_example_of_the_publisher_takes_the_place_of_ours(release, tmp_path):
    """Without the name, the position and the comment that a camera wrote into the file."""
    exif = Image.Exif()
    exif[0x010E] = "at home"
    make_image(width=3000).save(tmp_path / "ann.jpg", exif=exif, comment=b"by ann")
    example = read_example(tmp_path / "ann.jpg", 'What is "this"? {{ 7 * 7 }}\n```')
    files = card_files(release, REPO, license="mit", example=example, answer="a receipt")
    card = ModelCard(files["README.md"].decode())
    image = files["widget/example.png"]
    assert b"at home" not in image and b"ann" not in image and len(Image.open(BytesIO(image)).getexif()) == 0
    assert max(Image.open(BytesIO(image)).size) == 1024
    assert "chosen by the publisher" in card.text and "with the FlashSloth library" not in card.text
    assert card.data.widget[0]["text"] == example.question and SHIPPED_EXAMPLE.question not in str(card)
    block = re.search(r"```python\n(.*?)\n```", card.text, flags=re.DOTALL)[1]
    texts = [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
    assert example.question in texts


@pytest.mark.parametrize(("image", "question", "says"), [("none.png", "What?", "none.png"), (None, " ", "is empty")])
def test_an_example_that_cannot_be_asked_is_refused(tmp_path, image, question, says):
    with pytest.raises(ValueError, match=says):
        read_example(image or tmp_path, question)


def test_purpose_and_limits_come_first(noted):
    text = card_of(noted([COMPOSE, TRAIN], [SCORE]), license="mit", answer="pink").text
    headings = re.findall(r"^## (.+)", text, flags=re.MULTILINE)
    assert headings[:3] == ["What it is for", "Limits and bias", "An answer of this model"]
    assert "last trained on captions.json" in text


def test_what_is_not_known_is_left_out(release, caplog):
    card = card_of(release)
    warn_of_no_license(release.lineage)
    data = card.data.to_dict()
    absent = {"license", "language", "base_model", "base_model_relation", "datasets", "metrics", "model-index"}
    assert not absent & set(data)
    assert "--license" in caplog.text
    headings = re.findall(r"^#+ (.+)", card.text, flags=re.MULTILINE)
    assert "How it was made" not in headings and "Evaluation" not in headings and "Limits and bias" in headings
    assert not re.search(r"unknown|TBD|None|More Information", card.text.replace("max_length=None", ""))


def test_license_follows_from_the_base_models(noted, caplog):
    convert = {"command": "convert", "sources": [{"role": "checkpoint", "repo": "Tongbo/FlashSloth-3.2B"}]}
    release = noted([convert])
    warn_of_no_license(release.lineage)
    assert card_of(release).data.license == "apache-2.0" and not caplog.text
    release = noted([COMPOSE])
    warn_of_no_license(release.lineage)
    assert card_of(release).data.get("license") is None
    assert f"{PHI}: mit, {SIGLIP}: apache-2.0" in caplog.text and "--license" in caplog.text
    half_known = {
        "command": "compose",
        "sources": [COMPOSE["sources"][0], {"role": "vision_model", "folder": "siglip"}],
    }
    assert card_of(noted([half_known])).data.get("license") is None


def test_an_untrained_model_says_so(noted):
    assert "**This model is untrained.**" in card_of(noted([COMPOSE]), license="mit").text
    assert "untrained" not in card_of(noted([COMPOSE, TRAIN]), license="mit").text


def test_training(noted):
    record = {
        "stage": {"optimizer": "muon", "learning_rates": {"model.pooling": 0.001}, "model": "/home/someone/composed"},
        "config": {"learning_rate": 2e-3, "max_steps": -1, "num_train_epochs": 3, "bf16": False, "output_dir": "/x/y"},
        "processes": 8,
        "data": {"rows": 665298, "fingerprint": "f", "skipped": []},
        "versions": {"trl": "1.16.0"},
    }
    release = noted([COMPOSE, TRAIN], record=record)
    text = card_of(release, license="mit").text
    assert f"1. Composed of the language model [{PHI}](https://huggingface.co/{PHI}) and the vision model" in text
    assert (
        "2026-11-24: trained `model.pooling` on captions.json, for 140 steps of 64 rows (learning rate 0.002)." in text
    )
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE))
    assert rows["optimizer"] == "muon" and rows["epochs"] == "3" and rows["processes"] == "8"
    assert rows["bfloat16"] == "no" and rows["trl version"] == "1.16.0" and "steps" not in rows
    assert "/home" not in text and "/x/y" not in text and "curves.png" not in text
    with_curves = replace(release, files={**release.files, "curves.png": b"an image"})
    assert "](curves.png)" in card_of(with_curves, license="mit").text
    with pytest.raises(ValueError, match="'stage' in training.json is 7, and must be an object"):
        card_of(noted(record={"stage": 7}), license="mit")


def test_published_scores(noted):
    """Which weights they belong to is tested in test_notes.py."""
    repo = "Tongbo/FlashSloth_HD-3.2B"
    convert = {"command": "convert", "sources": [{"role": "checkpoint", "folder": "download"}]}
    card = card_of(noted([convert], base_models=[repo]))
    scores = dict(zip(published()["benchmarks"], published()["checkpoints"][repo]["scores"], strict=True))
    assert {result.dataset_name: result.metric_value for result in card.data.eval_results} == scores
    assert all(result.metric_name == "score, published" and result.source_url for result in card.data.eval_results)
    assert card.data.get("metrics") is None and "**Published** elsewhere" in card.text
    stage1 = card_of(noted([convert], base_models=["Tongbo/FlashSloth-3.2B-Stage1"]), license="mit")
    assert stage1.data.get("eval_results") is None and "after the first stage only" in stage1.text


def test_scores_on_benchmarks_of_the_hub_get_files(noted):
    dataset = {"name": "POPE", "repo": "lmms-lab/POPE", "split": "test", "task_id": "pope", "revision": COMMIT}
    score = {**SCORE, "dataset": dataset, "source": {"name": "log", "url": "https://example.org/log"}}
    files = card_files(noted([], [score, SCORE]), REPO, license="mit")
    assert [name for name in files if name.startswith(".eval_results")] == [".eval_results/lmms-lab--POPE.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/lmms-lab--POPE.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value, entry.dataset_revision) == (
        "lmms-lab/POPE",
        "pope",
        95.0,
        COMMIT,
    )
    assert (entry.date, entry.source_url, entry.notes) == (
        "2026-11-24",
        "https://example.org/log",
        "measured, 1000 questions",
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_place(noted, text):
    plain = card_of(noted([TRAIN], [SCORE]), license="mit", answer="pink")
    score = {**SCORE, "task": text, "metric": text, "unit": text, "command": text}
    score["dataset"] = {"name": text, "config": text, "split": text, "revision": text}
    score["source"] = {"name": text, "url": "https://example.org"}
    train = {**TRAIN, "date": text, "data": [text], "trainable": [text], "steps": text, "learning_rate": text}
    train["sources"] = [{"role": text, "folder": text}]
    record = {"stage": {"optimizer": text}, "versions": {text: text}}
    card = card_of(noted([{**train, "note": text}], [score], record), license="mit", answer=text)
    (result,) = card.data.eval_results
    assert (result.task_name, result.dataset_name, result.dataset_config, result.dataset_split) == (text,) * 4
    assert (result.dataset_revision, result.metric_type, result.source_name) == (text,) * 3
    assert card.data.license == "mit"

    def structure(card):
        return re.findall(
            r"^(?:#+ .*|```.*|---|> .*|- It was last trained on|- .*|\d+\. )", card.text, flags=re.MULTILINE
        )

    assert structure(card) == structure(plain)
    outside = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL).replace("> [!WARNING]", "")
    assert not re.search(r"<[a-z!/]|\]\(javascript|\$\$|\{\{|\{%|\*\*bold|`code`", outside)
    columns = [line.count("|") for line in card.text.splitlines() if line.startswith("|")]
    assert set(columns) <= {3, 8}


# Options, and a part of the message.
BAD_INPUT = {
    "unknown license": ({"license": "apache2"}, "'apache2' is not a license id of the Hub; the nearest is apache-2.0"),
    "license in capitals": ({"license": "MIT"}, "'MIT' is not a license id"),
    "license with metadata": ({"license": "mit\ntags: [x]"}, "is not a license id"),
    "name of a language": ({"languages": ["English"]}, "'English' is not a language code"),
    "dataset of three parts": ({"datasets": ["a/b/c"]}, "The dataset 'a/b/c' is not an id on the Hub"),
    "branch as revision": ({"revision": "main"}, "'main' is not a full commit hash"),
    "repository without owner": ({"repo_id": "model"}, "lacks its owner"),
    "repository with code": ({"repo_id": '"); import os; ("/x'}, "is not an id on the Hub"),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_values_that_cannot_be_ids_are_refused(release, given):
    options, message = BAD_INPUT[given]
    with pytest.raises(ValueError, match=re.escape(message)):
        card_files(release, **{"repo_id": REPO, **options})


def test_scores_that_the_metadata_cannot_tell_apart_are_refused(noted):
    with pytest.raises(ValueError, match="Give it a config of its own"):
        card_of(noted(evaluation=[SCORE, {**SCORE, "task": "another task"}]), license="mit")


def test_examples_are_pinned(release):
    assert pinned_revision(str(card_of(release, license="mit"))) == NO_REVISION
    card = str(card_of(release, revision=COMMIT, license="mit"))
    assert pinned_revision(card) == COMMIT and NO_REVISION not in card and card.count(f'revision = "{COMMIT}"') == 3
    assert pinned_revision("# x") is None


def test_the_shipped_checkpoints_have_cards():
    """From their own files: they know what they were trained on, and how well they answer."""
    for name, value in (("flashsloth-tiny", 93.2), ("flashsloth-tiny-hd", 92.3)):
        card = card_of(read_release(TINY.parent / name), license="apache-2.0")
        scores = {(r.dataset_name, r.dataset_config): r.metric_value for r in card.data.eval_results}
        assert scores["generated images", "all"] == value and len(scores) == 11
        assert "grey" not in str(card)  # a control, and no result
        assert card.data.metrics == ["exact_match"] and card.data.get("base_model") is None
        assert "All of it was trained from random weights on generated images" in card.text
        assert ("in high definition" in card.text) == name.endswith("hd")


def test_the_documentation_has_the_published_scores():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    table = {name: cells for name, *cells in rows if len(cells) == len(published()["benchmarks"])}
    assert table.pop("published") == published()["benchmarks"] and table.pop("---")
    checkpoints = published()["checkpoints"]
    assert {name: [float(cell) for cell in cells] for name, cells in table.items()} == {
        checkpoint["name"]: checkpoint["scores"] for checkpoint in checkpoints.values() if checkpoint["scores"]
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for repo in checkpoints:
        assert f"(https://huggingface.co/{repo})" in readme and f"`flashsloth convert {repo} " in readme


def test_the_hub_accepts_the_card(hub, noted, tmp_path):
    files = card_files(noted([COMPOSE, TRAIN], [SCORE]), REPO, license="mit", languages=["en"])
    (tmp_path / "README.md").write_bytes(files["README.md"])
    ModelCard.load(tmp_path / "README.md").validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard("---\nlicense: [1]\nmodel-index: 3\n---\n", ignore_metadata_errors=True).validate()


def test_variants_say_what_they_are(release):
    variant = replace(release, config=make_config(pooling_mode="average", num_query_tokens=0))
    text = card_of(variant, license="mit").text
    assert "averages of 3 x 3 patches" in text and "Embedded Query" not in text


def pip_requirements(release: Release) -> list[str]:
    """What the card's `pip install` line asks for, as a shell reads it: without quotes, `<6` would be a file."""
    command = re.search(r"^pip install (.+)$", card_of(release, license="mit").text, flags=re.MULTILINE)[1]
    assert command.count('"') == 2 * len(shlex.split(command))
    return shlex.split(command)


def test_requirements_have_the_bounds_of_setup_cfg(release):
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg")
    lines = setup_cfg["options"]["install_requires"].split("\n")
    bounds = {needed.name: needed for needed in map(Requirement, filter(None, lines))}
    shown = [Requirement(text) for text in pip_requirements(release)]
    assert shown == [bounds[name] for name in ("torch", "transformers", "pillow")]


def test_requirements_have_both_bounds(release, monkeypatch):
    """As the metadata of a package have them: sorted by their signs, and extras last."""
    metadata = ["torch>=2.13", "transformers!=5.25.0,<6,>=5.23", "pillow<13,>=12", 'pillow<12; extra == "demo"']
    monkeypatch.setattr(card_module, "requires", lambda name: [*metadata, 'torchao>=0.18; extra == "quantize"'])
    needed = ["torch>=2.13", "transformers>=5.23,<6,!=5.25.0", "pillow>=12,<13"]
    assert pip_requirements(release) == needed
    assert pip_requirements(replace(release, dtype=None)) == [*needed, "torchao>=0.18"]


def test_a_quantized_model_says_so(noted):
    quantize = {"command": "quantize", "sources": [{"role": "base", "repo": "me/model"}], "weights": "int4"}
    release = replace(noted([{**quantize, "group_size": 32}]), dtype=None)
    card = card_of(release, license="mit")
    assert (card.data.base_model, card.data.base_model_relation) == (["me/model"], "quantized")
    assert "quantized to int4 from the model [me/model](https://huggingface.co/me/model) (group size 32)" in card.text
    assert re.search(r'pip install .*"torchao', card.text) and "### Fine-tuning" not in card.text
