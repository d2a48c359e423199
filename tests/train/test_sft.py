# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Training: parameters that a stage changes, tokens in the loss, batches without images, and files of a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file, save_file
from samples import QUICK_RUN, assistant, make_config, make_image, make_model, user
from transformers import AutoModelForImageTextToText
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

import flashsloth
from flashsloth import FlashSlothProcessor
from flashsloth.tiny.data import make_dataset
from flashsloth.train import sft
from flashsloth.train.collator import Collator
from flashsloth.train.config import read_config
from flashsloth.train.data.broken_rows import BrokenRowError
from flashsloth.train.data.sources import load_data
from flashsloth.train.model import parameter_groups, select_trainable
from flashsloth.train.sft import train_stage
from flashsloth.train.trainer import FlashSlothTrainer


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"
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
VISION = ("vision_tower", "pooling", "multi_modal_projector", "embedded_query")


def settings(name, start, output, *overrides):
    """The settings of a shipped stage, for three steps of the random model."""
    return read_config(
        CONFIGS / f"{name}.yaml",
        [
            f"model={start / 'model'}",
            f"data={start / 'data'}",
            f"output_dir={output}",
            "max_steps=3",
            *QUICK_RUN,
            *overrides,
        ],
    )


def run(name, start, output, *overrides):
    return train_stage(settings(name, start, output, *overrides))


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


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """The output folder of a run of stage 2 with a checkpoint after each step."""
    output = tmp_path_factory.mktemp("finished")
    run("stage2", start, output, "save_steps=1", "learning_rates={model.pooling: 1e-3}")
    return output


def test_log_has_speed_memory_and_time_left(finished):
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    for entry in steps:
        assert 0 < entry["visual_tokens_per_second"] < entry["tokens_per_second"]
        assert 0.01 < entry["peak_memory_gb"] < 64
        assert entry["grad_norm"] > 0
        assert entry["learning_rate/model.pooling"] / entry["learning_rate"] == pytest.approx(1e-3 / 2e-5)
    assert steps[0]["time_left"] > steps[-1]["time_left"] == 0


def test_training_json_holds_what_repeats_the_run(finished, start):
    record = json.loads((finished / "training.json").read_text())
    assert record["stage"]["model"] == str(start / "model")
    assert record["stage"]["data"][0]["path"] == str(start / "data")
    assert record["config"]["gradient_accumulation_steps"] == 2
    assert record["seeds"]["seed"] == 42
    assert record["data"]["rows"] == 12 and record["data"]["fingerprint"]
    assert record["versions"]["torch"] == torch.__version__
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_says_what_it_was_trained_from_and_no_path_of_this_machine(finished):
    text = (finished / "model" / "provenance.json").read_text()
    entry = json.loads(text)[-1]
    assert entry["command"] == "train"
    assert entry["sources"] == [{"role": "base", "folder": "model"}]
    assert entry["data"] == ["data"]
    assert entry["trainable"] == sorted(STAGE2, key=entry["trainable"].index)
    assert (entry["steps"], entry["global_batch_size"], entry["hd"]) == (3, 4, False)
    assert "/" not in text


def test_checkpoints_are_complete_folders(finished, chats):
    folders = sorted(folder.name for folder in finished.glob("checkpoint-*"))
    assert folders == ["checkpoint-2", "checkpoint-3"]  # save_total_limit: 2
    last, model = (
        load_file(finished / "checkpoint-3/model.safetensors"),
        load_file(finished / "model/model.safetensors"),
    )
    assert all(torch.equal(last[key], model[key]) for key in model)
    # By the code in the folder, not by the installed package.
    model = AutoModelForImageTextToText.from_pretrained(finished / "checkpoint-2", trust_remote_code=True)
    processor = FlashSlothProcessor.from_pretrained(finished / "checkpoint-2")
    assert model.generation_config.suppress_tokens
    assert processor.chat_template
    assert (finished / "checkpoint-2" / "modeling_flashsloth.py").is_file()


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


def test_loss_covers_answers_and_their_end_only(processor):
    rows = [dict(row) for row in make_dataset("questions", "train", 4)]
    expected = [[m["content"][-1]["text"] for m in row["messages"] if m["role"] == "assistant"] for row in rows]
    collator = Collator(processor, assistant_only_loss=True)
    for labels, answers in zip(collator(rows)["labels"], expected, strict=True):
        assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for answer in answers)


def text_row(question, answer):
    return {"images": [], "messages": [user(question), assistant(answer)]}


@pytest.mark.parametrize("hd", [False, True])
@pytest.mark.parametrize("answers", [["One.", "A much longer answer. " * 10], ["The only one."]])
def test_batch_without_images_trains_alike_and_gives_every_module_a_gradient(model, processor, answers, hd):
    rows = [text_row("How many?", answer) for answer in answers]
    plain = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)(rows)
    hd_before, processor.image_processor.hd = processor.image_processor.hd, hd
    batch = Collator(processor, assistant_only_loss=True, pad_to_multiple_of=8)(rows)
    processor.image_processor.hd = hd_before
    assert batch["input_ids"].shape[1] % 8 == 0
    torch.testing.assert_close(model(**batch).loss, model(**plain).loss, rtol=0, atol=1e-6)
    model(**batch).loss.backward()
    for name, parameter in model.model.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(VISION):
            assert not parameter.grad.any(), name


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


def test_batch_with_an_image_stays_as_it_is(processor):
    rows = [
        text_row("How many?", "One."),
        {"images": [make_image()], "messages": [user({"type": "image"}), assistant("It.")]},
    ]
    rows[1]["messages"][0]["content"] = [{"type": "image"}, {"type": "text", "text": "What?"}]
    plain = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)(rows)
    batch = Collator(processor, assistant_only_loss=True)(rows)
    assert all(torch.equal(batch[key], plain[key]) for key in plain)


def make_trainer(start, output, learning_rates, *overrides):
    stage = settings("stage2", start, output, "weight_decay=0.1", *overrides)
    model = make_model()
    select_trainable(model, stage.trainable)
    return FlashSlothTrainer(
        model,
        stage,
        train_dataset=load_data(stage.data, 0),
        processing_class=FlashSlothProcessor.from_pretrained(start / "model"),
        learning_rates=learning_rates,
    )


def test_optimizer_groups(start, tmp_path):
    rates = {"model.language_model": 1e-5, "model.language_model.embed_tokens": 1e-6}
    trainer = make_trainer(start, tmp_path, rates)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    group_of = {names[id(p)]: g for g in trainer.create_optimizer().param_groups for p in g["params"]}
    assert group_of.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert group_of["model.pooling.fc1.weight"]["lr"] == 2e-5
    assert group_of["model.language_model.layers.0.mlp.fc1.weight"]["lr"] == 1e-5
    assert group_of["model.language_model.embed_tokens.weight"]["lr"] == 1e-6
    undecayed = {name for name, group in group_of.items() if group["weight_decay"] == 0}
    assert "model.query_tokens.weight" in undecayed
    assert all(name in undecayed for name in group_of if name.endswith("bias") or "norm" in name)
    assert group_of["lm_head.weight"]["weight_decay"] == 0.1


def test_query_tokens_are_not_decayed_without_own_rates_either(start, tmp_path):
    trainer = make_trainer(start, tmp_path, {})
    undecayed = [p for g in trainer.create_optimizer().param_groups if g["weight_decay"] == 0 for p in g["params"]]
    assert any(p is trainer.model.model.query_tokens.weight for p in undecayed)


def test_learning_rate_of_a_module_that_does_not_train(start, tmp_path):
    with pytest.raises(ValueError, match="'model.vision_tower', but no parameter of such a module is trained"):
        make_trainer(start, tmp_path, {"model.vision_tower": 1e-5}).create_optimizer()
    with pytest.raises(ValueError, match="'model.poling', but .*; the closest trained module is 'model.pooling'"):
        # before the data is opened, which does not exist
        run("stage2", start, tmp_path, "learning_rates={model.poling: 1e-5}", "data=./nowhere.json")
    lora = ("trainable=[]", "lora={modules_to_save: [model.pooling]}", "data=./nowhere.json")
    with pytest.raises(
        ValueError, match="'model.vision_tower', but .*; the closest trained module is 'model.pooling'"
    ):
        run("stage2", start, tmp_path, *lora, "learning_rates={model.vision_tower: 1e-5}")


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


def test_what_is_missing_here_is_reported_before_anything_is_read(start, tmp_path, monkeypatch):
    def need_it():
        raise RuntimeError("TensorBoardCallback requires tensorboard to be installed")

    monkeypatch.setattr(sft, "get_reporting_integration_callbacks", lambda names: [need_it] if names else [])
    with pytest.raises(ValueError, match="report_to is tensorboard: TensorBoardCallback requires tensorboard"):
        run("stage2", start, tmp_path, "report_to=tensorboard", f"model={tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="needs a package that is not installed: .*[Ff]lash"):
        run("stage2", start, tmp_path, "attn_implementation=flash_attention_2", "data=./nowhere.json")
    with pytest.raises(ValueError, match="trainable names '', but the model has no such module"):
        run("stage2", start, tmp_path, "trainable=['']", "data=./nowhere.json")


def test_unsuitable_checkpoints(start, tmp_path):
    make_model().model.language_model.save_pretrained(tmp_path / "phi")
    with pytest.raises(ValueError, match="is a model of type 'phi', not a FlashSloth.* compose"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'phi'}")
    make_model().save_pretrained(tmp_path / "holes")
    weights = load_file(tmp_path / "holes" / "model.safetensors")
    del weights["model.pooling.fc1.weight"]
    save_file(weights, tmp_path / "holes" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing: model.pooling.fc1.weight\)"):
        run("stage2", start, tmp_path, f"model={tmp_path / 'holes'}")
    content = (start / "model" / "model.safetensors").read_bytes()
    for name, weights in (("cut", content[:1000]), ("empty", b""), ("gone", None)):
        shutil.copytree(start / "model", tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        if weights is not None:
            (tmp_path / name / "model.safetensors").write_bytes(weights)
        with pytest.raises(ValueError, match=f"{name}.model.safetensors is damaged|No weights in .*{name}"):
            run("stage2", start, tmp_path, f"model={tmp_path / name}")


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


@pytest.mark.parametrize("sharding", ["FSDP", "DeepSpeed"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer=muon"], "optimizer muon does not work on parameters that {} shards: take adamw, or"),
        (
            ["trainable=[]", "lora={r: 2}", "quantization=nf4"],
            "quantization nf4 does not work on parameters that {} shards",
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_anything_is_loaded(
    start, tmp_path, monkeypatch, sharding, overrides, message
):
    stage = settings("stage2", start, tmp_path, f"model={tmp_path / 'nothing'}", *overrides)
    monkeypatch.setenv(f"ACCELERATE_USE_{sharding.upper()}", "true")
    with pytest.raises(ValueError, match=message.format(sharding)):
        train_stage(stage)


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


def test_unknown_module_names_the_closest(model):
    with pytest.raises(ValueError, match="no such module; the closest is 'model.pooling'"):
        select_trainable(model, ["model.poolin"])


def test_parameter_groups_count_what_trains(model):
    select_trainable(model, ["model.pooling"])
    groups = {part: (trainable, total) for part, trainable, total in parameter_groups(model)}
    assert groups["model.pooling"][0] == groups["model.pooling"][1] > 0
    assert groups["lm_head"][0] == 0 < groups["lm_head"][1]
    assert sum(total for _, total in groups.values()) == sum(p.numel() for p in model.parameters())
