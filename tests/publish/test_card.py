# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model card: it says what is known and nothing else, nothing in it breaks out of its place, its examples run."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from loopback_hub import USER
from packaging.requirements import Requirement
from samples import make_config, make_model

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.publish.card import card_files, pinned_revision
from flashsloth.publish.lineage import published


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
    "task": "questions about pictures",
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
def saved(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def note(folder: Path, provenance=None, evaluation=None) -> Path:
    for name, content in (("provenance", provenance), ("evaluation", evaluation)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def card_of(folder, code_revision=None, **options) -> ModelCard:
    return ModelCard(card_files(folder, REPO, code_revision, **options)["README.md"].decode())


def test_metadata(folder, tmp_path):
    note(folder, [COMPOSE, TRAIN], [SCORE])
    files = card_files(folder, REPO, COMMIT, license="apache-2.0", languages=["en", "no"], datasets=["who/captions"])
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


def test_widget_pictures_come_along(folder):
    files = card_files(folder, REPO, None, license="mit")
    widget = ModelCard(files["README.md"].decode()).data.widget
    assert len(widget) == 3 and all(example["text"].endswith("Answer briefly.") for example in widget)
    for example in widget:
        path = example["src"].removeprefix(f"https://huggingface.co/{REPO}/resolve/main/")
        assert files[path].startswith(b"\x89PNG")


def test_what_is_not_known_is_left_out(folder, caplog):
    card = card_of(folder)
    data = card.data.to_dict()
    absent = {"license", "language", "base_model", "base_model_relation", "datasets", "metrics", "model-index"}
    assert not absent & set(data)
    assert "--license" in caplog.text
    headings = re.findall(r"^#+ (.+)", card.text, flags=re.MULTILINE)
    assert "How it was made" not in headings and "Evaluation" not in headings and "Limits and bias" in headings
    assert not re.search(r"unknown|TBD|None|More Information", card.text.replace("max_length=None", ""))


def test_license_follows_from_what_the_model_is_made_of(folder, caplog):
    note(folder, [{"command": "convert", "sources": [{"role": "checkpoint", "repo": "Tongbo/FlashSloth-3.2B"}]}])
    assert card_of(folder).data.license == "apache-2.0" and not caplog.text
    note(folder, [COMPOSE])
    assert card_of(folder).data.get("license") is None
    assert f"{PHI}: mit, {SIGLIP}: apache-2.0" in caplog.text and "--license" in caplog.text
    half_known = {
        "command": "compose",
        "sources": [COMPOSE["sources"][0], {"role": "vision_model", "folder": "siglip"}],
    }
    assert card_of(note(folder, [half_known])).data.get("license") is None


@pytest.mark.parametrize(
    ("provenance", "base_models", "expected"),
    [
        ([COMPOSE], (), ([PHI, SIGLIP], "merge")),
        ([COMPOSE, TRAIN], (), ([PHI, SIGLIP], "merge")),
        ([{"command": "convert", "sources": [{"repo": "a/b"}]}], (), (["a/b"], None)),
        ([{"command": "convert", "sources": [{"repo": "a/b"}]}, TRAIN], (), (["a/b"], "finetune")),
        ([COMPOSE, {"command": "train", "sources": [{"repo": "me/composed"}]}], (), (["me/composed"], "finetune")),
        (
            [
                {"command": "convert", "sources": [{"repo": "a/b"}]},
                {"command": "quantize", "sources": [{"folder": "c"}]},
            ],
            (),
            (["a/b"], "quantized"),
        ),
        (
            [
                {
                    "command": "merge",
                    "sources": [{"role": "base", "repo": "a/b"}, {"role": "adapter", "repo": "me/lora"}],
                }
            ],
            (),
            (["a/b"], "finetune"),
        ),
        ([TRAIN, {"command": "quantize", "sources": [{"folder": "c"}]}], ["me/model"], (["me/model"], "quantized")),
        ([TRAIN], (), (None, None)),
    ],
)
def test_base_models_and_relation(folder, provenance, base_models, expected):
    data = card_of(note(folder, provenance), license="mit", base_models=base_models).data
    assert (data.get("base_model"), data.get("base_model_relation")) == expected


def test_base_models_that_the_provenance_knows_are_not_renamed(folder):
    note(folder, [{"command": "convert", "sources": [{"repo": "a/b"}]}])
    with pytest.raises(ValueError, match="The base models are a/b, .* and not Tongbo/FlashSloth-3.2B"):
        card_of(folder, base_models=["Tongbo/FlashSloth-3.2B"])


def test_an_untrained_model_says_so(folder):
    assert "**This model is untrained.**" in card_of(note(folder, [COMPOSE]), license="mit").text
    assert "untrained" not in card_of(note(folder, [COMPOSE, TRAIN]), license="mit").text


def test_training(folder):
    note(folder, [COMPOSE, TRAIN])
    record = {
        "stage": {"optimizer": "muon", "learning_rates": {"model.pooling": 0.001}, "model": "/home/someone/composed"},
        "config": {"learning_rate": 2e-3, "max_steps": -1, "num_train_epochs": 3, "bf16": False, "output_dir": "/x/y"},
        "processes": 8,
        "data": {"rows": 665298, "fingerprint": "f", "skipped": []},
        "versions": {"trl": "1.16.0"},
    }
    (folder / "training.json").write_text(json.dumps(record))
    text = card_of(folder, license="mit").text
    assert f"1. Composed of the language model [{PHI}](https://huggingface.co/{PHI}) and the vision model" in text
    assert (
        "2026-11-24: trained `model.pooling` on captions.json, for 140 steps of 64 rows (learning rate 0.002)." in text
    )
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE))
    assert rows["optimizer"] == "muon" and rows["epochs"] == "3" and rows["processes"] == "8"
    assert rows["bfloat16"] == "no" and rows["trl version"] == "1.16.0" and "steps" not in rows
    assert "/home" not in text and "/x/y" not in text and "curves.png" not in text


def test_a_record_beside_the_model_belongs_to_it(folder, tmp_path):
    """As a run leaves it: OUTPUT_DIR/model, with training.json and curves.png in OUTPUT_DIR."""
    (tmp_path / "training.json").write_text('{"processes": 3}')
    (tmp_path / "curves.png").write_bytes(b"a picture")
    assert "| processes | 3 |" not in card_of(folder, license="mit").text
    text = card_of(folder.rename(tmp_path / "model"), license="mit").text
    assert "| processes | 3 |" in text and "](curves.png)" in text


def test_published_scores_belong_to_the_published_weights_only(folder):
    repo = "Tongbo/FlashSloth_HD-3.2B"
    convert = {"command": "convert", "sources": [{"role": "checkpoint", "folder": "download"}]}
    card = card_of(note(folder, [convert]), base_models=[repo])
    scores = dict(zip(published()["benchmarks"], published()["checkpoints"][repo]["scores"], strict=True))
    assert {result.dataset_name: result.metric_value for result in card.data.eval_results} == scores
    assert all(result.metric_name == "score, published" and result.source_url for result in card.data.eval_results)
    assert card.data.get("metrics") is None and "**Published** elsewhere" in card.text
    assert card_of(note(folder, [convert]), license="mit").data.get("eval_results") is None
    assert card_of(note(folder, [convert, TRAIN]), license="mit", base_models=[repo]).data.get("eval_results") is None
    stage1 = card_of(note(folder, [convert]), base_models=["Tongbo/FlashSloth-3.2B-Stage1"], license="mit")
    assert stage1.data.get("eval_results") is None and "after the first stage only" in stage1.text


def test_scores_on_benchmarks_of_the_hub_get_files(folder):
    dataset = {"name": "POPE", "repo": "lmms-lab/POPE", "split": "test", "task_id": "pope", "revision": COMMIT}
    score = {**SCORE, "dataset": dataset, "source": {"name": "log", "url": "https://example.org/log"}}
    files = card_files(note(folder, [], [score, SCORE]), REPO, None, license="mit")
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
def test_hostile_text_stays_in_its_place(folder, text):
    plain = card_of(note(folder, [TRAIN], [SCORE]), license="mit")
    score = {**SCORE, "task": text, "metric": text, "unit": text, "command": text}
    score["dataset"] = {"name": text, "config": text, "split": text, "revision": text}
    score["source"] = {"name": text, "url": "https://example.org"}
    train = {**TRAIN, "date": text, "data": [text], "trainable": [text], "steps": text, "learning_rate": text}
    train["sources"] = [{"role": text, "folder": text}]
    (folder / "training.json").write_text(json.dumps({"stage": {"optimizer": text}, "versions": {text: text}}))
    card = card_of(note(folder, [{**train, "note": text}], [score]), license="mit")
    (result,) = card.data.eval_results
    assert (result.task_name, result.dataset_name, result.dataset_config, result.dataset_split) == (text,) * 4
    assert (result.dataset_revision, result.metric_type, result.source_name) == (text,) * 3
    assert card.data.license == "mit"

    def structure(card):
        return re.findall(r"^(?:#+ .*|```.*|---|> .*|- .*|\d+\. )", card.text, flags=re.MULTILINE)

    assert structure(card) == structure(plain)
    outside = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL).replace("> [!WARNING]", "")
    assert not re.search(r"<[a-z!/]|\]\(javascript|\$\$|\{\{|\{%|\*\*bold|`code`", outside)
    columns = [line.count("|") for line in card.text.splitlines() if line.startswith("|")]
    assert set(columns) <= {3, 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"license": "MIT"}, "'MIT' is no license id"),
        ({"license": "mit\ntags: [x]"}, "is no license id"),
        ({"languages": ["English"]}, "'English' is no language code"),
        ({"datasets": ["a/b/c"]}, "The dataset 'a/b/c' is no id on the Hub"),
        ({"base_models": ["x\n---"]}, "is no id on the Hub"),
        ({"code_revision": "main"}, "'main' is no full commit hash"),
        ({"repo_id": "model"}, "lacks its owner"),
        ({"repo_id": '"); import os; ("/x'}, "is no id on the Hub"),
    ],
)
def test_values_that_cannot_be_ids_are_refused(folder, options, message):
    arguments = {"repo_id": REPO, "code_revision": None, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        card_files(folder, arguments.pop("repo_id"), arguments.pop("code_revision"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "95"}, "'value' is '95'"),
        ({"value": True}, "'value' is True"),
        ({"value": float("nan")}, "is no number"),
        ({"origin": "heard"}, "origin 'heard' must be one of"),
        ({"origin": "published"}, "a published score needs its source"),
        ({"date": "yesterday"}, "'yesterday' is no date"),
        ({"task": None}, "'task' is None"),
        ({"task": "\ud800"}, "'task' is"),
        ({"dataset": {"name": "x", "repo": "../x"}}, "is no id on the Hub"),
        ({"source": {"name": "x", "url": "javascript:alert(1)"}}, "is no plain http(s) address"),
        ({"source": {"name": "x", "url": "https://x.org/) [y](z"}}, "is no plain http(s) address"),
    ],
)
def test_malformed_scores_are_refused(folder, change, message):
    with pytest.raises(ValueError, match=rf"evaluation\.json, score 2: .*{re.escape(message)}"):
        card_of(note(folder, evaluation=[SCORE, {**SCORE, **change}]), license="mit")


def test_scores_that_the_metadata_cannot_tell_apart_are_refused(folder):
    with pytest.raises(ValueError, match="Give it a config of its own"):
        card_of(note(folder, evaluation=[SCORE, {**SCORE, "task": "another task"}]), license="mit")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"command": "rm", "sources": []}, "command 'rm'"),
        ({"command": "train"}, "the sources None"),
        ({"command": "train", "sources": [{}]}, "names neither 'repo' nor 'folder'"),
        ({"command": "train", "sources": [{"repo": "a b"}]}, "is no id on the Hub"),
        ({"command": "train", "sources": [{"repo": "a/b", "role": []}]}, "the role []"),
        ({"command": "train", "sources": [], "data": "captions"}, "must be a list of names"),
        ({"command": "train", "sources": [{"repo": "a/b", "revision": "x](y"}]}, "is no full commit hash"),
    ],
)
def test_malformed_provenance_is_refused(folder, entry, message):
    with pytest.raises(ValueError, match=f"Entry 1 of provenance.json.*{re.escape(message)}"):
        card_of(note(folder, [entry]), license="mit")


def test_examples_run_as_they_stand(tmp_path, hub):
    """As they are read on the page of a private repository, by someone who has a token but not this package."""
    folder = tmp_path / "model"
    # Not in bfloat16, which some CPUs multiply very slowly.
    FlashSlothForCausalLM.from_pretrained(TINY, dtype="float32").save_pretrained(folder)
    FlashSlothProcessor.from_pretrained(TINY).save_pretrained(folder)
    repo = f"{USER}/my_model.v2"
    commit = hub.add_repo(repo, folder, private=True)
    files = card_files(folder, repo, commit, license="apache-2.0")
    hub.commit(repo, files)
    readme = files["README.md"].decode()
    assert pinned_revision(readme) == commit and pinned_revision("# x") is None
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 5
    loads = re.findall(r"(?:from_pretrained|pipeline)\([^)]*trust_remote_code=True[^)]*\)", "".join(blocks))
    assert len(loads) == 5 and all("revision=revision" in load for load in loads)

    (tmp_path / "flashsloth").mkdir()
    (tmp_path / "flashsloth" / "__init__.py").write_text("raise ImportError('no example may need the package')")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home", hub.token),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [line.strip() for line in done.stdout.splitlines() if not line.startswith("{")]
    assert answers[:4] == ["pink", "pink", "[' pink', ' 2']", "pink"]
    assert (tmp_path / "fine-tuned" / "modeling_flashsloth.py").is_file()


def test_the_shipped_checkpoints_have_cards():
    """From their own files: they know what they were trained on, and how well they answer."""
    for name, value in (("flashsloth-tiny", 93.2), ("flashsloth-tiny-hd", 92.3)):
        card = card_of(TINY.parent / name, license="apache-2.0")
        scores = {(r.dataset_name, r.dataset_config): r.metric_value for r in card.data.eval_results}
        assert scores["generated images", "all"] == value and len(scores) == 21
        assert card.data.metrics == ["exact_match"] and card.data.get("base_model") is None
        assert "All of it was trained from random weights on generated images" in card.text
        assert ("in high definition" in card.text) == name.endswith("hd")


def test_the_readme_has_the_published_scores():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Model zoo")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("|")]
    table = {name: cells for name, *cells in rows if len(cells) == len(published()["benchmarks"])}
    assert table.pop("published") == published()["benchmarks"] and table.pop("---")
    checkpoints = published()["checkpoints"]
    assert {name: [float(cell) for cell in cells] for name, cells in table.items()} == {
        checkpoint["name"]: checkpoint["scores"] for checkpoint in checkpoints.values() if checkpoint["scores"]
    }
    for repo in checkpoints:
        assert f"(https://huggingface.co/{repo})" in readme and f"`flashsloth convert {repo} " in readme


def test_the_hub_accepts_the_card(hub, folder, tmp_path):
    files = card_files(note(folder, [COMPOSE, TRAIN], [SCORE]), REPO, COMMIT, license="mit", languages=["en"])
    (tmp_path / "README.md").write_bytes(files["README.md"])
    ModelCard.load(tmp_path / "README.md").validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard("---\nlicense: [1]\nmodel-index: 3\n---\n", ignore_metadata_errors=True).validate()


def test_variants_say_what_they_are(tmp_path, processor):
    folder = tmp_path / "plain"
    make_model(make_config(pooling_mode="average", num_query_tokens=0)).save_pretrained(folder)
    processor.save_pretrained(folder)
    text = card_of(folder, license="mit").text
    assert "averages of 3 x 3 patches" in text and "Embedded Query" not in text


def test_requirements_have_the_bounds_of_setup_cfg(folder):
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg")
    lines = setup_cfg["options"]["install_requires"].split()
    bounds = {requirement.name: requirement for requirement in map(Requirement, lines)}
    command = re.search(r"^pip install (.+)$", card_of(folder, license="mit").text, flags=re.MULTILINE)[1]
    # Quoted, or a shell would read `<6` as a file.
    assert [Requirement(word) for word in shlex.split(command)] == [
        bounds[n] for n in ("torch", "transformers", "pillow")
    ]
    assert '"transformers<6,>=' in command


def test_a_quantized_model_says_so(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "torchao"}}))
    quantize = {"command": "quantize", "sources": [{"role": "base", "repo": "me/model"}], "weights": "int4"}
    card = card_of(note(folder, [{**quantize, "group_size": 32}]), license="mit")
    assert (card.data.base_model, card.data.base_model_relation) == (["me/model"], "quantized")
    assert "quantized to int4 from the model [me/model](https://huggingface.co/me/model) (group size 32)" in card.text
    assert re.search(r'pip install .*"torchao', card.text) and "### Fine-tuning" not in card.text
