# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Evaluation during training: what is held out, what is measured, and what is made of it."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from raw_rows import llava, write_json
from safetensors.torch import load_file
from samples import QUICK_RUN, make_image, prepare

import flashsloth
from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.tiny.data import make_dataset
from flashsloth.train import sft, trainer
from flashsloth.train.collator import Collator, with_decoded_images
from flashsloth.train.config import read_config
from flashsloth.train.data.sources import DataSource, load_data
from flashsloth.train.evaluation import hold_out, num_held_out, sample
from flashsloth.train.resume import checkpoints
from flashsloth.train.sft import train_stage


CONFIGS = Path(flashsloth.__file__).parent / "train" / "configs"


def settings(start, output, *overrides):
    """Stage 2 for five steps, with an evaluation after each."""
    defaults = (
        f"model={start / 'model'}",
        f"data={start / 'data'}",
        f"output_dir={output}",
        "max_steps=5",
        "save_steps=1",
        "save_total_limit=null",
        "learning_rate=1e-2",
    )
    return read_config(CONFIGS / "stage2.yaml", [*defaults, *QUICK_RUN, *overrides])


def run(start, output, *overrides):
    return train_stage(settings(start, output, *overrides))


def history(output, key):
    entries = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[key] for entry in entries if key in entry}


@pytest.fixture(scope="module")
def held_out(start):
    """The override that evaluates on seven rows of their own."""
    make_dataset("questions", "heldout", 7).save_to_disk(start / "held_out")
    return f"eval_data={start / 'held_out'}"


# What is held out


@pytest.mark.parametrize(
    ("share", "rows", "count"), [(0.25, 12, 3), (0.01, 12, 1), (5, 12, 5), (1, 2, 1), (1.0, 9, 1)]
)
def test_number_of_rows_that_are_held_out(share, rows, count):
    assert num_held_out(share, rows) == count


@pytest.mark.parametrize(("share", "rows"), [(0.99, 2), (12, 12), (1, 1)])
def test_rows_are_left_to_train_on(share, rows):
    with pytest.raises(
        ValueError, match=f"eval_split is {share}, which holds out .* but the data has {rows}: lower it"
    ):
        num_held_out(share, rows)


def test_held_out_rows_are_those_of_the_seed(start):
    dataset = load_data([DataSource(str(start / "data"))], 0)
    trained, held = hold_out(dataset, 0.25, seed=3)
    assert len(held) == 3 and sorted([*trained, *held]) == list(range(12))
    assert np.array_equal(hold_out(dataset, 3, seed=3)[1], held)
    assert any(not np.array_equal(hold_out(dataset, 3, seed=seed)[1], held) for seed in range(5))


def test_a_row_that_a_mixture_repeats_is_held_out_as_a_whole(tmp_path):
    sources = []
    for name, count in (("a", 5), ("b", 60)):
        rows = [llava("Hi?", id=f"{name}{index}") for index in range(count)]
        sources.append(DataSource(write_json(tmp_path / f"{name}.json", rows), weight=1))
    mixture = load_data(sources, 0)
    assert len(mixture) > 65
    trained, held = (mixture.select(part)["id"][:] for part in hold_out(mixture, 30, seed=0))
    assert len(set(held)) == len(held) == 30
    assert set(trained) | set(held) == set(mixture["id"][:]) and not set(trained) & set(held)
    assert any(trained.count(name) > 1 for name in trained)


def test_sample(start):
    dataset = load_data([DataSource(str(start / "data"))], 0)
    assert sample(dataset, None, 0) is dataset and sample(dataset, 12, 0) is dataset
    assert len(sample(dataset, 5, 0)) == 5 and sample(dataset, 5, 0)["id"][:] == sample(dataset, 5, 0)["id"][:]


def test_held_out_rows_are_not_trained_on(start, tmp_path):
    """Exactly the others are, in each of three epochs; a broken row is in neither set."""
    rows = [llava(f"{index}?", "" if index == 4 else "Yes.", id=f"r{index}") for index in range(13)]
    data = f"data={write_json(tmp_path / 'rows.json', rows)}"
    seen = []
    collate = Collator.torch_call
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            Collator, "torch_call", lambda self, rows: seen.append([row["id"] for row in rows]) or collate(self, rows)
        )
        overrides = (data, "eval_split=4", "max_steps=-1", "num_train_epochs=3", "save_strategy=epoch")
        run(start, tmp_path / "out", *overrides, "on_broken_rows=skip", "per_device_eval_batch_size=64")
    stage = settings(start, tmp_path / "out", *overrides)
    trained, held = hold_out(load_data(stage.data, stage.seed), 4, stage.seed)
    expected = [{f"r{index}" for index in part if index != 4} for part in (trained, held)]
    evaluated = [set(ids) for ids in seen if set(ids) == expected[1]]
    learned = [name for ids in seen if set(ids) != expected[1] for name in ids]
    assert len(evaluated) == 3
    assert set(learned) == expected[0] and all(learned.count(name) == 3 for name in expected[0])
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["data"]["rows"] == len(expected[0]) and record["data"]["evaluation"]["rows"] == len(expected[1])
    assert [row["id"] for row in record["data"]["skipped"]] == ["r4"]
    assert record["stage"]["eval_split"] == 4


# What is measured


@torch.no_grad()
def loss_by_hand(folder, rows):
    """The mean over the tokens of all answers of the negative log likelihood, row by row."""
    model = FlashSlothForCausalLM.from_pretrained(folder).eval()
    collator = Collator(FlashSlothProcessor.from_pretrained(folder), assistant_only_loss=True)
    losses = []
    for row in rows:
        batch = collator([row])
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1].float()
        losses.append(
            torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")
        )
    return torch.cat(losses).mean().item()


def matches_by_hand(folder, rows):
    """Whether the model gives the only answer of each row, one by one."""
    model, processor = (
        FlashSlothForCausalLM.from_pretrained(folder).eval(),
        FlashSlothProcessor.from_pretrained(folder),
    )
    found = []
    for row in map(with_decoded_images, rows):
        question, answer = (message["content"] for message in row["messages"])
        images = [{"type": "image", "image": image} for image in row["images"]]
        inputs = prepare(processor, [{"role": "user", "content": [*images, question[-1]]}])
        ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found.append(processor.decode(ids, skip_special_tokens=True).strip() == answer[0]["text"])
    return found


@pytest.fixture(scope="module")
def evaluated(start, held_out, tmp_path_factory):
    """The output folder of a run with an evaluation before and after each step."""
    output = tmp_path_factory.mktemp("evaluated")
    run(start, output, held_out, "eval_exact_match=true", "eval_on_start=true", "per_device_eval_batch_size=3")
    return output


def test_the_loss_is_that_of_the_held_out_answers(start, evaluated):
    """However the rows are batched: the mean over all tokens of answers, of the model of that step."""
    rows = list(load_data([DataSource(str(start / "held_out"))], 0))
    losses = history(evaluated, "eval_loss")
    assert list(losses) == [0, 1, 2, 3, 4, 5]
    assert losses[0] == pytest.approx(loss_by_hand(start / "model", rows), rel=1e-4)
    assert losses[3] == pytest.approx(loss_by_hand(evaluated / "checkpoint-3", rows), rel=1e-4)
    assert losses[5] == pytest.approx(loss_by_hand(evaluated / "model", rows), rel=1e-4)


@pytest.mark.parametrize("overrides", [["dataloader_drop_last=true"], ["dataloader_num_workers=1"]])
def test_all_held_out_rows_are_measured(overrides, start, held_out, evaluated, tmp_path):
    """Also those of a batch that is not full, and by workers that stay."""
    persistent = f"dataloader_persistent_workers={str('num_workers' in overrides[0]).lower()}"
    run(start, tmp_path, held_out, *overrides, persistent, "max_steps=2", "save_steps=1", "learning_rate=0")
    first, second = history(tmp_path, "eval_loss").values()
    assert first == second == pytest.approx(history(evaluated, "eval_loss")[0], rel=1e-4)


def test_exact_matches_are_greedy_answers_word_for_word(start, tmp_path):
    """Of a model that has learned two of the four answers by heart, one of them about an image."""
    make_image(0).save(tmp_path / "a.png")
    rows = [llava("<image>a?", "Answer a.", id="a", image="a.png"), llava("b?", "Answer b.", id="b")]
    learned = write_json(tmp_path / "learned.json", rows)
    others = [llava("c?", "Something else.", id="c"), llava("b?", "Answer", id="d")]  # the beginning of an answer
    held = write_json(tmp_path / "held.json", [*rows, *others])
    overrides = (f"data={learned}", f"eval_data={held}", "eval_exact_match=true", "max_steps=60", "save_steps=60")
    folder = run(start, tmp_path / "out", *overrides, "per_device_eval_batch_size=3", "lr_scheduler_type=constant")
    found = matches_by_hand(folder, list(load_data([DataSource(held)], 0)))
    assert found == [True, True, False, False]
    assert history(tmp_path / "out", "eval_exact_match") == {60: 0.5}


def test_some_rows_are_answered(start, held_out, tmp_path, monkeypatch):
    answered = []
    monkeypatch.setattr(trainer, "num_exact_matches", lambda m, p, dataset, rows, size: answered.append(rows) or 1)
    run(start, tmp_path, held_out, "eval_exact_match=4", "max_steps=1")
    assert answered == [[0, 1, 2, 3]] and history(tmp_path, "eval_exact_match") == {1: 0.25}


def test_training_is_the_same_with_an_evaluation(start, held_out, evaluated, tmp_path):
    """But for random numbers, of which there are none without dropout."""
    run(start, tmp_path)
    assert history(tmp_path, "loss") == history(evaluated, "loss")


def test_settings_and_data_of_the_evaluation_are_recorded(start, evaluated):
    record = json.loads((evaluated / "training.json").read_text())
    assert record["stage"]["eval_data"][0]["path"] == str(start / "held_out")
    assert record["stage"]["eval_exact_match"] is True
    assert record["data"]["evaluation"]["rows"] == 7 and record["data"]["evaluation"]["fingerprint"]


def test_the_last_step_is_evaluated_too(start, held_out, tmp_path):
    run(start, tmp_path, held_out, "max_steps=3", "save_steps=2")
    assert list(history(tmp_path, "eval_loss")) == [2, 3]


def test_curves_show_the_evaluation(start, held_out, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("flashsloth.train.record.draw", lambda curves, file: drawn.append(curves))
    run(start, tmp_path, held_out, "max_steps=2", "eval_exact_match=1")
    losses = drawn[-1]["loss (nats)"]
    assert [step for step, _ in losses["loss"]] == [step for step, _ in losses["eval_loss"]] == [1, 2]
    assert [step for step, _ in drawn[-1]["exact match"]["eval_exact_match"]] == [1, 2]
    run(start, tmp_path / "without", "max_steps=1")
    assert "exact match" not in drawn[-1] and drawn[-1]["loss (nats)"]["eval_loss"] == []


def test_speed_leaves_evaluations_out(start, held_out, tmp_path, monkeypatch):
    """The time of a step, and with it the time that is left."""
    original = trainer.SFTTrainer.evaluate

    def slow(self, *args, **kwargs):
        if self.state.global_step == 1:
            trainer.time.sleep(3)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(trainer.SFTTrainer, "evaluate", slow)
    run(start, tmp_path, held_out, "max_steps=3")
    assert history(tmp_path, "time_left")[2] < 3


def test_broken_rows_of_eval_data_stop_the_run_or_are_skipped(start, tmp_path):
    rows = [llava("Hi?", "Hello.", id="a"), llava("Hi?", "", id="b")]
    held = f"eval_data={write_json(tmp_path / 'held.json', rows)}"
    with pytest.raises(ValueError, match="1 of 2 rows are broken, the first is row 1, id 'b' .empty turn"):
        run(start, tmp_path / "out", held, "max_steps=1")
    [broken] = sft.validate_data(settings(start, tmp_path / "out", held))
    assert broken.id == "b" and broken.detail.startswith("of eval_data: ")
    run(start, tmp_path / "out", held, "max_steps=1", "on_broken_rows=skip")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["data"]["evaluation"]["rows"] == 1 and record["data"]["rows"] == 12
    assert [row["id"] for row in record["data"]["evaluation"]["skipped"]] == ["b"]


def test_a_stream_is_evaluated_on_a_set(start, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # 5 seconds at the end of a stream
    make_dataset("questions", "train", 8).to_parquet(tmp_path / "rows.parquet")
    stream = f"data={{path: {tmp_path / 'rows.parquet'}, streaming: true}}"
    run(start, tmp_path / "out", stream, held_out, "max_steps=2", "load_best_model_at_end=true")
    assert list(history(tmp_path / "out", "eval_loss")) == [1, 2]


# The best checkpoint


@pytest.fixture
def losses(monkeypatch):
    """Sets the losses of the evaluations, by step."""
    scripted, original = {}, trainer.SFTTrainer.evaluation_loop

    def scripted_loop(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        self._eval_losses = [(scripted[self.state.global_step], 1)]
        return output

    monkeypatch.setattr(trainer.SFTTrainer, "evaluation_loop", scripted_loop)
    return scripted


def same(first, second, name="model.safetensors"):
    first, second = load_file(first / name), load_file(second / name)
    return all(torch.equal(first[key], second[key]) for key in first)


BEST = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.6, 5: 2.7}


@pytest.mark.parametrize("limit", ["null", "1"])
def test_the_finished_model_is_the_best_one(limit, start, held_out, tmp_path, losses):
    losses |= BEST
    overrides = (held_out, "load_best_model_at_end=true", f"save_total_limit={limit}")
    folder = run(start, tmp_path, *overrides)
    assert same(folder, tmp_path / "checkpoint-2")
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["best"] == {"step": 2, "metric": "loss", "value": 2.0}
    assert json.loads((folder / "provenance.json").read_text())[-1]["steps"] == 2


def test_the_last_model_is_the_finished_one_otherwise(start, held_out, tmp_path, losses):
    losses |= BEST
    folder = run(start, tmp_path, held_out)
    assert same(folder, tmp_path / "checkpoint-5") and not same(folder, tmp_path / "checkpoint-2")


def test_the_best_adapter(start, held_out, tmp_path, losses):
    losses |= BEST
    lora = ("trainable=[]", "lora={parts: [model.language_model], r: 2, modules_to_save: [model.query_tokens]}")
    folder = run(start, tmp_path, held_out, *lora, "load_best_model_at_end=true", "eval_exact_match=2")
    assert same(folder, tmp_path / "checkpoint-2", "adapter_model.safetensors")
    assert not same(folder, tmp_path / "checkpoint-5", "adapter_model.safetensors")


def test_only_better_checkpoints_are_saved(start, held_out, tmp_path, losses):
    losses |= {1: 3.0, 2: 3.5, 3: 2.0, 4: 2.5, 5: 1.0}
    run(start, tmp_path, held_out, "save_strategy=best", "save_steps=1")
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-3", "checkpoint-5"]


def test_the_best_by_exact_match(start, held_out, tmp_path, monkeypatch):
    counts = iter([1, 3, 2, 3, 0])
    monkeypatch.setattr(trainer, "num_exact_matches", lambda *others: next(counts))
    overrides = ("eval_exact_match=true", "metric_for_best_model=exact_match", "load_best_model_at_end=true")
    folder = run(start, tmp_path, held_out, *overrides)
    assert same(folder, tmp_path / "checkpoint-2")


def test_a_run_that_ends_before_its_first_evaluation_says_so(start, tmp_path, caplog):
    overrides = ("eval_split=2", "load_best_model_at_end=true", "max_steps=-1", "num_train_epochs=1", "save_steps=50")
    folder = run(start, tmp_path, *overrides, "eval_delay=9")
    assert "There was no evaluation in 3 steps: the last model is saved." in caplog.text and folder.is_dir()


# Early stopping and resuming


def test_a_run_stops_when_it_gets_no_better(start, held_out, tmp_path, losses):
    losses |= BEST
    overrides = (held_out, "early_stopping_patience=2", "load_best_model_at_end=true")
    folder = run(start, tmp_path, *overrides)
    assert list(history(tmp_path, "eval_loss")) == [1, 2, 3, 4]
    assert same(folder, tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-5").exists()
    # The model is gone, the last checkpoint is there: no other step is taken.
    first = load_file(folder / "model.safetensors")
    shutil.rmtree(folder)
    run(start, tmp_path, *overrides)
    assert list(history(tmp_path, "eval_loss")) == [1, 2, 3, 4]
    assert all(torch.equal(value, first[key]) for key, value in load_file(folder / "model.safetensors").items())


def test_a_threshold_is_how_much_better_it_has_to_be(start, held_out, tmp_path, losses):
    losses |= {1: 3.0, 2: 2.99, 3: 2.98, 4: 1.0, 5: 0.5}
    run(start, tmp_path, held_out, "early_stopping_patience=2", "early_stopping_threshold=0.1")
    assert list(history(tmp_path, "eval_loss")) == [1, 2, 3]


@pytest.mark.parametrize("step", [2, 3])
def test_a_stopped_run_waits_as_long_as_it_would_have(step, start, held_out, tmp_path, losses):
    losses |= BEST | {0: 9.0}
    overrides = (held_out, "early_stopping_patience=2", "load_best_model_at_end=true", "eval_on_start=true")
    whole = run(start, tmp_path / "whole", *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for later in range(step + 1, 5):
        shutil.rmtree(tmp_path / "stopped" / f"checkpoint-{later}")
    shutil.rmtree(tmp_path / "stopped" / "model")
    shutil.move(tmp_path / "whole", tmp_path / "moved")  # the best checkpoint is not where it was
    stopped = run(start, tmp_path / "stopped", *overrides)
    assert history(tmp_path / "stopped", "eval_loss") == history(tmp_path / "moved", "eval_loss")
    assert history(tmp_path / "stopped", "loss") == history(tmp_path / "moved", "loss")
    assert same(stopped, tmp_path / "moved" / whole.name)


def test_a_run_with_a_split_is_resumed_with_the_same_rows(start, tmp_path):
    overrides = ("eval_split=3", "load_best_model_at_end=true", "eval_on_start=true")
    whole = run(start, tmp_path / "whole", *overrides)
    for name in ("checkpoint-1", "checkpoint-2", "training.json"):
        source, target = tmp_path / "whole" / name, tmp_path / "stopped" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    with pytest.raises(ValueError, match="other settings: eval_split was 3 and is now 4"):
        run(start, tmp_path / "stopped", *overrides, "eval_split=4")
    stopped = run(start, tmp_path / "stopped", *overrides)
    assert same(stopped, whole)
    assert history(tmp_path / "stopped", "eval_loss") == history(tmp_path / "whole", "eval_loss")


def test_a_run_on_other_eval_data_is_not_resumed(start, held_out, tmp_path):
    run(start, tmp_path / "out", held_out, "max_steps=2")
    shutil.rmtree(tmp_path / "out" / "model")
    make_dataset("questions", "heldout", 6).save_to_disk(tmp_path / "held_out")
    with pytest.raises(ValueError, match="was started with other eval_data under these names"):
        run(start, tmp_path / "out", f"eval_data={tmp_path / 'held_out'}", "max_steps=2")
    with pytest.raises(ValueError, match="sources of eval_data was 1 and is now 0"):
        run(start, tmp_path / "out", "max_steps=2")


# Settings


def test_an_evaluation_before_each_checkpoint_is_the_default(start, tmp_path):
    def strategy(*overrides):
        stage = settings(start, tmp_path, *overrides)
        return stage.eval_strategy, stage.eval_steps, stage.metric_for_best_model

    assert strategy() == ("no", None, None)
    assert strategy("eval_split=2") == ("steps", 1, None)
    assert strategy("eval_split=2", "save_steps=4", "eval_steps=2") == ("steps", 2, None)
    assert strategy("eval_split=2", "save_strategy=epoch") == ("epoch", None, None)
    assert strategy("eval_split=2", "save_strategy=no") == ("epoch", None, None)
    assert strategy("eval_split=2", "save_strategy=best", "save_steps=2") == ("steps", 2, "loss")
    assert strategy("eval_split=2", "eval_strategy=epoch")[0] == "epoch"
    assert strategy("eval_split=2", "early_stopping_patience=1")[2] == "loss"


NO_DATA = "but the stage has no data to evaluate on: name some by eval_data, or hold rows out by eval_split"
SPLIT = "eval_split=2"
BAD_INPUT = {
    "save_strategy=best without data": (["save_strategy=best"], f"save_strategy is 'best', {NO_DATA}"),
    "eval_strategy without data": (["eval_strategy=steps"], f"eval_strategy is 'steps', {NO_DATA}"),
    "eval_on_start without data": (["eval_on_start=true"], f"eval_on_start is True, {NO_DATA}"),
    "do_eval without data": (["do_eval=true"], f"do_eval is True, {NO_DATA}"),
    "eval_steps without data": (["eval_steps=2"], f"eval_steps is 2, {NO_DATA}"),
    "load_best_model_at_end without data": (["load_best_model_at_end=true"], NO_DATA),
    "early_stopping_patience without data": (["early_stopping_patience=2"], NO_DATA),
    "eval_exact_match without data": (["eval_exact_match=true"], NO_DATA),
    "metric_for_best_model without data": (["metric_for_best_model=loss"], NO_DATA),
    "eval_strategy=no with data": ([SPLIT, "eval_strategy=no"], "eval_strategy is 'no', but there is data to"),
    "both kinds of data": ([SPLIT, "eval_data=a.json"], "both eval_data and eval_split: leave one of them out"),
    "eval_split: 0": (["eval_split=0"], "eval_split is 0: it has to be a share of the rows"),
    "eval_split: 1.5": (["eval_split=1.5"], "eval_split is 1.5: it has to be a share of the rows"),
    "eval_split: -1": (["eval_split=-1"], "eval_split is -1"),
    "eval_split: true": (["eval_split=true"], "eval_split is True"),
    "eval_split: a text": (["eval_split=a.json"], "eval_split is 'a.json': it must be of type"),
    "eval_split of a stream": (
        [SPLIT, "data={path: a.json, streaming: true}"],
        "but the data is a stream: name others",
    ),
    "a stream of eval_data": (["eval_data={path: a.json, streaming: true}"], "the stream a.json, which has no end"),
    "an unknown key of eval_data": (["eval_data={pth: a}"], "eval_data in 'eval_data=.*' has the unknown key 'pth'"),
    "an unknown metric": (
        [SPLIT, "metric_for_best_model=accuracy"],
        "an evaluation has loss, mean_token_accuracy, exac",
    ),
    "exact match that is not measured": (
        [SPLIT, "metric_for_best_model=eval_exact_match"],
        "with eval_exact_match=true",
    ),
    "patience 0": ([SPLIT, "early_stopping_patience=0"], "early_stopping_patience is 0: it has to be 1 or more"),
    "a threshold alone": ([SPLIT, "early_stopping_threshold=0.1"], "needs early_stopping_patience"),
    "exact matches that are no number": ([SPLIT, "eval_exact_match=all"], "eval_exact_match is 'all': it has to be"),
    "exact matches of -1 rows": ([SPLIT, "eval_exact_match=-1"], "eval_exact_match is -1"),
    "batches of 0 rows": ([SPLIT, "per_device_eval_batch_size=0"], "per_device_eval_batch_size is 0"),
    "evaluations after the end": ([SPLIT, "eval_delay=50"], "eval_delay is 50, but the run ends after max_steps 5"),
    "checkpoints between evaluations": (
        [SPLIT, "load_best_model_at_end=true", "eval_steps=2", "save_steps=3"],
        "saving steps to be a round multiple of the evaluation steps, but found 3",
    ),
    "checkpoints by epoch, evaluations by steps": (
        [SPLIT, "load_best_model_at_end=true", "save_strategy=epoch", "eval_strategy=steps"],
        "requires the save and eval strategy to match",
    ),
    "fp16_full_eval": ([SPLIT, "fp16_full_eval=true"], "fp16_full_eval is set, but it has no effect"),
    "do_predict": (["do_predict=true"], "do_predict is set, but it has no effect"),
    "an infinite eval_steps": ([SPLIT, "eval_steps=.inf"], "eval_steps is inf"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_what_is_not_possible_is_refused_at_the_start(overrides, message, start, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        settings(start, tmp_path, *overrides)
    assert "\n" not in str(error.value)


def test_fp16_on_a_cpu_is_refused_before_anything_is_loaded(start, tmp_path):
    stage = settings(start, tmp_path, f"model={tmp_path / 'nothing'}", "fp16=true")
    with pytest.raises(ValueError, match="a CPU cannot train in float16: leave it out, or set bf16=true"):
        train_stage(stage)


def test_more_rows_than_there_are_cannot_be_held_out(start, tmp_path):
    with pytest.raises(ValueError, match="eval_split is 12, which holds out 12 rows, but the data has 12: lower it"):
        run(start, tmp_path, "eval_split=12")


@pytest.mark.parametrize("override", ["eval_exact_match=true", "load_best_model_at_end=true"])
def test_what_a_sharded_model_cannot_do_is_refused(override, start, tmp_path, monkeypatch):
    stage = settings(start, tmp_path, SPLIT, override)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="does not work on parameters that FSDP shards: leave it out, or run without"):
        train_stage(stage)
