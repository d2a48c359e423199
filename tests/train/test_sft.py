# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Runs: parameters that a stage changes, what is refused before a run, and what it leaves."""

import json
import shutil
import sys
import warnings

import pytest
import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file
from samples import make_config, make_image, make_model
from stages import run, settings

from flashsloth import FlashSlothProcessor
from flashsloth.tiny.data import make_dataset
from flashsloth.train import sft
from flashsloth.train.data.broken_rows import BrokenRowError
from flashsloth.train.sft import train_stage


STAGE2 = {
    "model.pooling",
    "model.multi_modal_projector",
    "model.query_tokens",
    "model.embedded_query",
    "model.language_model",
    "lm_head",
}
STAGES = {
    "stage1": {"model.pooling", "model.multi_modal_projector"},
    "stage2": STAGE2,
    "stage2_hd": STAGE2 | {"model.vision_tower"},
}


def part_of(name):
    return ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])


@pytest.mark.parametrize("name", STAGES)
def test_exactly_the_parameters_of_the_stage_change(name, start, tmp_path):
    before = load_file(start / "model" / "model.safetensors")
    after = load_file(run(name, start, tmp_path) / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {part_of(key) for key in changed} == STAGES[name]
    # A key bias adds the same to all scores, which cancels in the softmax; padding and unused tokens have no gradient.
    unmoved = {key for key in before if part_of(key) in STAGES[name]} - changed
    assert not [key for key in unmoved if not key.endswith("k_proj.bias")]


def test_the_model_says_what_it_was_trained_from_and_no_path_of_this_machine(finished):
    text = (finished / "model" / "provenance.json").read_text()
    entry = json.loads(text)[-1]
    assert entry["command"] == "train"
    assert entry["sources"] == [{"role": "base", "folder": "model"}]
    assert entry["data"] == ["data"]
    assert entry["trainable"] == sorted(STAGE2, key=entry["trainable"].index)
    assert (entry["steps"], entry["global_batch_size"], entry["hd"]) == (3, 4, False)
    assert "/" not in text


def test_no_card_of_a_library_is_left_in_a_run(finished, start, tmp_path):
    """They name paths of this machine, and nothing of what the model is; `push` writes the card."""
    assert not list(finished.rglob("README.md"))
    run("lora", start, tmp_path, "max_steps=1", "save_steps=1")
    assert not list(tmp_path.rglob("README.md"))
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()


def test_a_finished_stage_is_not_trained_again(finished, start):
    written = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    same = ("learning_rates={model.pooling: 1e-3}", "logging_steps=2")
    assert run("stage2", start, finished, *same) == finished / "model"
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="started with other settings: max_steps was 3 and is now 9. Choose another"):
        run("stage2", start, finished, *same, "max_steps=9")


def test_hd_stage_saves_an_hd_processor(start, tmp_path):
    folder = run("stage2_hd", start, tmp_path, "max_steps=1")
    assert FlashSlothProcessor.from_pretrained(folder).image_processor.hd


def test_text_alone_is_trained_and_evaluated(start, tmp_path):
    """All rows without an image, answers among them that are generated."""
    rows = [{"question": f"{index} + 1?", "answer": f"{index + 1}"} for index in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    overrides = (f"data={tmp_path / 'rows.json'}", "eval_split=2", "eval_exact_match=true", "save_steps=1")
    assert (run("stage2", start, tmp_path / "out", *overrides, "max_steps=1") / "model.safetensors").is_file()


def test_an_image_that_breaks_after_the_check_names_row_and_file(start, tmp_path):
    make_image(0, 60, 60).save(tmp_path / "a.jpg")
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Noise."}]
    rows = [{"id": "x7", "images": [{"path": "a.jpg"}], "messages": messages}] * 4
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    overrides = (f"data={tmp_path / 'rows.json'}", "dataloader_num_workers=1", "save_steps=1")
    run("stage1", start, tmp_path / "out", *overrides, "max_steps=1")
    shutil.rmtree(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-1")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(bytes(len(content)))  # only reading the file shows it
    with pytest.raises(BrokenRowError, match="^row 'x7' cannot be read any more: .*a.jpg is not in a format"):
        run("stage1", start, tmp_path / "out", *overrides, "max_steps=1")
    # The size of the file has changed again, so it is validated anew before the first step.
    (tmp_path / "a.jpg").write_bytes(content[:-1000])
    with pytest.raises(ValueError, match="4 of 4 rows are broken, the first is row 0, id 'x7' .truncated image"):
        run("stage1", start, tmp_path / "out", *overrides, "max_steps=1")


@pytest.fixture
def unread_data(monkeypatch):
    """Fails a test that reads data."""
    monkeypatch.setattr(sft, "load_data", lambda *others: pytest.fail("the data is read"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_head_that_is_tied_to_the_embeddings_trains_both(optimizer, start, tmp_path):
    make_model(make_config(tie_word_embeddings=True)).save_pretrained(tmp_path / "model")
    FlashSlothProcessor.from_pretrained(start / "model").save_pretrained(tmp_path / "model")
    before = load_file(tmp_path / "model" / "model.safetensors")
    overrides = (f"model={tmp_path / 'model'}", f"optimizer={optimizer}", "learning_rate=1e-2")
    overrides += ("trainable=[model.multi_modal_projector, lm_head]", "max_steps=1")
    after = load_file(run("stage1", start, tmp_path / "out", *overrides) / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "model.language_model.embed_tokens.weight" in changed
    parts = {"model.multi_modal_projector", "model.language_model", "lm_head"}  # of the last one, its bias
    assert {part_of(key) for key in changed} == parts


def test_what_is_missing_here_is_reported_before_anything_is_read(start, tmp_path, monkeypatch, unread_data):
    def need_it():
        raise RuntimeError("TensorBoardCallback requires tensorboard to be installed")

    monkeypatch.setattr(sft, "get_reporting_integration_callbacks", lambda names: [need_it] if names else [])
    with pytest.raises(ValueError, match="report_to is tensorboard: TensorBoardCallback requires tensorboard"):
        run("stage2", start, tmp_path, "report_to=tensorboard", f"model={tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="needs a package that is not installed: .*[Ff]lash"):
        run("stage2", start, tmp_path, "attn_implementation=flash_attention_2")
    with pytest.raises(ValueError, match="trainable names '', but the model has no such module"):
        run("stage2", start, tmp_path, "trainable=['']")


@pytest.fixture
def unread(unread_data, monkeypatch):
    """Fails a test that loads a model, or reads data."""
    monkeypatch.setattr(sft, "load_stage_model", lambda *others: pytest.fail("the model is loaded"))


BAD_INPUT = {
    "data that does not exist": (
        ["data=./missing.json"],
        "No such data: ./missing.json is no file, folder or pattern",
    ),
    "data by a name without a slash": (["data=missing"], "There is no file or folder missing, and the Hub dataset"),
    "data of another type": (["data=FOLDER/file.png"], r"is of the type .png: it has to be .json, .jsonl or .parquet"),
    "a missing image_folder": (["data.0.image_folder=./images"], "The image_folder of .* does not exist: ./images"),
    "weights for some sources": (
        ["data=[{path: FOLDER/data, weight: 1}, {path: FOLDER/data}]"],
        "has no weight but others have",
    ),
    "an output_dir that is a file": (
        ["output_dir=FOLDER/file.png"],
        "output_dir is .*file.png, but .*file.png is a file",
    ),
    "an output_dir in a file": (
        ["output_dir=FOLDER/file.png/run/1"],
        "but .*file.png is a file: choose another folder",
    ),
    "an output_dir that cannot be written": (
        ["output_dir=/proc/run"],
        "but /proc cannot be written .*: choose another",
    ),
    "a file named model in the output_dir": (["output_dir=FOLDER/out"], "but .*out/model is a file"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="writes into /proc")
@pytest.mark.parametrize(("overrides", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_named_before_anything_is_loaded(overrides, message, start, tmp_path, unread):
    (tmp_path / "file.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").write_bytes(b"")
    (tmp_path / "data").symlink_to(start / "data")
    overrides = [override.replace("FOLDER", str(tmp_path)) for override in overrides]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("stage2", start, tmp_path / "run", *overrides)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sft.validate_data(settings("stage2", start, tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_folders_may_have_names_that_are_patterns(start, tmp_path):
    """Of the model, of the data and of the run."""
    folder = tmp_path / "set[1] {a,b} *?"
    shutil.copytree(start, folder)
    overrides = (f"model={json.dumps(str(folder / 'model'))}", f"data={json.dumps(str(folder / 'data'))}")
    run("stage1", start, folder / "out", *overrides, f"output_dir={json.dumps(str(folder / 'out'))}", "save_steps=1")
    shutil.rmtree(folder / "out" / "model")
    run("stage1", start, folder / "out", *overrides, f"output_dir={json.dumps(str(folder / 'out'))}", "save_steps=1")
    assert len(list((folder / "out").iterdir())) > 3


def test_several_gpus_of_one_process_are_refused(start, tmp_path):
    stage = settings("stage2", start, tmp_path)
    stage._n_gpu = 8
    with pytest.raises(ValueError, match="8 GPUs are visible to one process: .* --nproc_per_node 8"):
        train_stage(stage)


def test_a_run_without_a_step_is_no_finished_stage(start, tmp_path):
    with pytest.raises(ValueError, match="no step was trained"):
        overrides = ("max_steps=2", "dataloader_drop_last=true", "global_batch_size=64")
        run("stage2", start, tmp_path, *overrides, "per_device_train_batch_size=64")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("is_fast", [False, True])
def test_bf16_on_a_cpu_that_is_slow_at_it_is_reported_before_anything_else(
    start, tmp_path, is_fast, monkeypatch, caplog
):
    monkeypatch.setattr(sft, "has_fast_bfloat16", lambda: is_fast)
    with pytest.raises(FileNotFoundError, match="No model folder"):
        run("stage2", start, tmp_path, "bf16=true", f"model={tmp_path / 'nothing'}")
    assert ("than with bf16=false" in " ".join(caplog.text.split())) != is_fast


def test_broken_rows_stop_the_run_or_are_skipped_and_listed(start, tmp_path):
    rows = load_from_disk(start / "data")
    question_alone = {**rows[0], "messages": rows[0]["messages"][:1]}
    Dataset.from_list([*rows, question_alone], features=rows.features).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match="broken"):
        run("stage1", start, tmp_path / "out", f"data={tmp_path / 'data'}")
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    run("stage1", start, tmp_path / "out", f"data={tmp_path / 'data'}", "on_broken_rows=skip", "max_steps=1")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["data"]["rows"] == 12
    assert [row["index"] for row in record["data"]["skipped"]] == [12]


def test_no_warning_of_libraries_about_each_other_reaches_the_user(start, tmp_path):
    """Of more workers than processors, of pinned memory without a GPU, and PEFT's of a name of transformers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run("lora", start, tmp_path, "max_steps=1", "dataloader_num_workers=7", "save_steps=1")
    noise = ("DataLoader", "pin_memory", "is_gradient_checkpointing")
    assert not [str(warning.message) for warning in caught if any(word in str(warning.message) for word in noise)]


def test_adapter_trains_alone_and_goes_on_from_its_checkpoint(start, tmp_path):
    lora = ["trainable=[]", "lora={parts: [model.language_model], r: 2, modules_to_save: [model.query_tokens]}"]
    folder = run("stage2", start, tmp_path, *lora, "save_steps=1")
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved and all("lora_" in name or "query_tokens" in name for name in saved)
    assert FlashSlothProcessor.from_pretrained(folder).chat_template
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "checkpoint-3")
    run("stage2", start, tmp_path, *lora, "save_steps=1")
    again = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    with pytest.raises(ValueError, match="is an adapter: merge it first"):
        run("stage2", start, tmp_path / "next", f"model={folder}")


@pytest.fixture
def stream(tmp_path):
    """The override that trains on a stream of eight rows."""
    make_dataset("questions", "train", 8).to_parquet(tmp_path / "rows.parquet")
    return f"data={{path: {tmp_path / 'rows.parquet'}, streaming: true}}"


def test_streams_need_a_number_of_steps(start, tmp_path, stream):
    with pytest.raises(ValueError, match="max_steps"):
        run("stage1", start, tmp_path / "out", stream, "max_steps=-1")


def test_streams_are_trained_on(start, tmp_path, stream):
    assert run("stage1", start, tmp_path / "out", stream, "max_steps=1").is_dir()
