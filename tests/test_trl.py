# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Trainers of TRL, as they are, train FlashSloth: by supervision, on preferences and by reinforcement, on rows with one
image, several images, none or a mix of these.
"""

import itertools
import math

import pytest
import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from samples import NUM_QUERY_TOKENS, make_image, make_model, make_tokenizer, prepare, user
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from flashsloth import FlashSlothForCausalLM, FlashSlothImageProcessor, FlashSlothProcessor


# TRL 1.16 uses the names of gradient checkpointing that transformers 6 drops.
pytestmark = pytest.mark.filterwarnings("ignore:.*`gradient_checkpointing:FutureWarning")

NUM_IMAGES = {"one": (1, 1, 1, 1), "several": (2, 2, 2, 2), "none": (0, 0, 0, 0), "mixed": (2, 0, 1, 0)}
DATA = [(kind, hd) for kind in NUM_IMAGES for hd in (False, True) if kind in ("several", "mixed") or not hd]
QUESTIONS = [f"What is in image {index}{'?' * index}" for index in range(4)]
CHOSEN = [f"A {'very ' * index}old cup." for index in range(4)]
REJECTED = ["Nothing.", "A dog.", "I do not know.", "No."]
ROLLOUTS = {"num_generations": 2, "max_completion_length": 6}
# Where samples are used again, the step is not that of the model that made them: the ratio of both has to be known.
REUSE = {"steps_per_generation": 2, "num_iterations": 2, "per_device_train_batch_size": 4}
TRAINERS = {
    "SFT": (SFTTrainer, SFTConfig, {"assistant_only_loss": True}),
    "DPO": (DPOTrainer, DPOConfig, {}),
    "KTO": (KTOTrainer, KTOConfig, {}),
    "GRPO": (GRPOTrainer, GRPOConfig, ROLLOUTS),
    "GRPO with a reference": (GRPOTrainer, GRPOConfig, {**ROLLOUTS, "beta": 0.1}),
    "GRPO using samples again": (GRPOTrainer, GRPOConfig, {**ROLLOUTS, **REUSE, "beta": 0.1}),
    "RLOO": (RLOOTrainer, RLOOConfig, {**ROLLOUTS, "beta": 0.0}),
    "RLOO with a reference": (RLOOTrainer, RLOOConfig, {**ROLLOUTS, "beta": 0.1}),
}
UNCHANGED = ("k_proj.bias", "pooling.fc2.bias")  # a softmax ignores what it adds to all scores
WITHOUT_IMAGES = ("model.vision_tower.", "model.pooling.", "model.multi_modal_projector.", "model.embedded_query.")
LORA = LoraConfig(target_modules=r".*language_model.*(q_proj|v_proj|dense)")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, from which TRL loads references."""
    path = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def processors():
    """The processor without and with tiles; of their own, since trainers change tokenizers."""
    image_processors = {hd: FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=hd) for hd in (False, True)}
    return {
        hd: FlashSlothProcessor(image_processor, make_tokenizer(), 4, NUM_QUERY_TOKENS)
        for hd, image_processor in image_processors.items()
    }


def images_of(kind):
    """The images of each row, all different."""
    seeds = itertools.count()
    return [[make_image(next(seeds)) for _ in range(count)] for count in NUM_IMAGES[kind]]


def make_data(trainer, kind):
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    chosen, rejected = ([[{"role": "assistant", "content": text}] for text in texts] for texts in (CHOSEN, REJECTED))
    columns = {"images": images_of(kind), "index": list(range(4))}
    if trainer is SFTTrainer:
        columns["messages"] = [prompt + answer for prompt, answer in zip(prompts, chosen, strict=True)]
    else:
        columns["prompt"] = prompts
    if trainer is DPOTrainer:
        columns |= {"chosen": chosen, "rejected": rejected}
    if trainer is KTOTrainer:
        columns |= {"completion": chosen[:2] + rejected[2:], "label": [True, True, False, False]}
    return Dataset.from_dict(columns).cast_column("images", List(Image()))


class Rewards:
    """A reward function: 0 and 1 in turn. It keeps what it was asked about."""

    __name__ = "rewards"

    def __call__(self, completion_ids, index, **kwargs):
        self.completion_ids, self.index = completion_ids, index
        self.values = [float(place % 2) for place in range(len(index))]
        return self.values


def train(name, kind, folder, processor, output, peft_config=None, **settings):
    """One step on all four rows; returns the trainer, and the rewards that it asked for."""
    trainer_class, config_class, own_settings = TRAINERS[name]
    rewards = Rewards()
    rows = 8 if "num_generations" in own_settings else 4
    defaults = {"per_device_train_batch_size": rows, "max_steps": 1, "logging_steps": 1, "learning_rate": 1e-2}
    defaults |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = trainer_class(
        FlashSlothForCausalLM.from_pretrained(folder),
        args=config_class(output_dir=output, **{**defaults, **own_settings, **settings}),
        train_dataset=make_data(trainer_class, kind),
        processing_class=processor,
        peft_config=peft_config,
        **({"reward_funcs": rewards} if "num_generations" in own_settings else {}),
    )
    trainer.train()
    return trainer, rewards


def logs(trainer):
    """What the trainer logged, over all its steps."""
    return {name: value for entry in trainer.state.log_history for name, value in entry.items()}


def parameters(model):
    """The parameters of a model, also of one with an adapter, by the names that they have without."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
    }


def changed_parameters(trainer, folder):
    """The names of those that changed, or were added and are not zero."""
    before, after = parameters(FlashSlothForCausalLM.from_pretrained(folder)), parameters(trainer.model)
    return {
        name
        for name, parameter in after.items()
        if not name.endswith(UNCHANGED) and not torch.equal(parameter, before.get(name, torch.zeros_like(parameter)))
    }


@pytest.mark.parametrize(("kind", "hd"), DATA)
@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_changes_every_parameter_that_has_a_part_in_it(name, kind, hd, folder, processors, tmp_path):
    trainer, _ = train(name, kind, folder, processors[hd], tmp_path)
    logged = logs(trainer)
    assert math.isfinite(logged["loss"]) and math.isfinite(logged["train_loss"])
    if "kl" in logged:  # the reference is the model before its first step, if both see the same images
        assert abs(logged["kl"]) < 1e-5
    expected = {name for name in parameters(trainer.model) if not name.endswith(UNCHANGED)}
    if kind == "none":
        expected = {name for name in expected if not name.startswith(WITHOUT_IMAGES)}
    assert changed_parameters(trainer, folder) == expected


@pytest.mark.parametrize("name", TRAINERS)
def test_with_an_adapter_nothing_else_changes(name, folder, processors, tmp_path):
    trainer, _ = train(name, "mixed", folder, processors[True], tmp_path, peft_config=LORA)
    logged = logs(trainer)
    assert math.isfinite(logged["loss"]) and abs(logged.get("kl", 0.0)) < 1e-5
    assert changed_parameters(trainer, folder) == {name for name in parameters(trainer.model) if "lora_" in name}


def answer_logps(model, processor, images, question, answer_ids):
    """Log-probabilities of an answer's tokens, for one row alone."""
    inputs = dict(prepare(processor, [user(*images, question)], return_view_mask=False))
    answer_ids = torch.tensor([answer_ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer_ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logps = model(**inputs).logits[:, -answer_ids.shape[1] - 1 : -1].log_softmax(dim=-1)
    return logps.gather(-1, answer_ids.unsqueeze(-1)).flatten()


def logps_of_texts(folder, processor, kind, texts):
    """Those of each row's answer and of its `</s>`."""
    model = FlashSlothForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return [
            answer_logps(model, processor, images, question, processor.tokenizer(f" {text}</s>")["input_ids"])
            for images, question, text in zip(images_of(kind), QUESTIONS, texts, strict=True)
        ]


@pytest.mark.parametrize(("kind", "hd"), DATA)
def test_supervised_loss_is_that_of_each_row_alone(kind, hd, folder, processors, tmp_path):
    trainer, _ = train("SFT", kind, folder, processors[hd], tmp_path)
    logps = torch.cat(logps_of_texts(folder, processors[hd], kind, CHOSEN))
    assert logs(trainer)["loss"] == pytest.approx(-logps.mean().item(), rel=1e-4)


@pytest.mark.parametrize(("kind", "hd"), DATA)
@pytest.mark.parametrize("name", ["DPO", "KTO"])
def test_preferences_are_those_of_each_row_alone(name, kind, hd, folder, processors, tmp_path):
    trainer, _ = train(name, kind, folder, processors[hd], tmp_path)
    chosen, rejected = (
        [logps.sum().item() for logps in logps_of_texts(folder, processors[hd], kind, texts)]
        for texts in (CHOSEN, REJECTED)
    )
    if name == "KTO":
        chosen, rejected = chosen[:2], rejected[2:]
    logged = logs(trainer)
    assert logged["logps/chosen"] == pytest.approx(sum(chosen) / len(chosen), rel=1e-4)
    assert logged["logps/rejected"] == pytest.approx(sum(rejected) / len(rejected), rel=1e-4)
    # before its first step the model prefers what its reference prefers
    assert logged["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("kind", "hd"), DATA)
@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_a_step_of_reinforcement_is_that_of_each_row_alone(name, kind, hd, folder, processors, tmp_path):
    """With plain gradient descent and a rate of 1 the step is the gradient, here computed row by row."""
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    settings |= {"scale_rewards": "none"} if name == "GRPO" else {}
    trainer, rewards = train(name, kind, folder, processors[hd], tmp_path, **settings)
    model = FlashSlothForCausalLM.from_pretrained(folder)
    images = images_of(kind)
    loss = 0
    for index, ids, reward in zip(rewards.index, rewards.completion_ids, rewards.values, strict=True):
        logps = answer_logps(model, processors[hd], images[index], QUESTIONS[index], ids)
        # of two answers GRPO compares each with their mean and RLOO with the other one
        advantage = reward - 0.5 if name == "GRPO" else 2 * reward - 1
        weight = sum(map(len, rewards.completion_ids)) if name == "GRPO" else len(rewards.index)
        loss = loss - advantage * logps.sum() / weight
    loss.backward()
    assert sorted(set(rewards.index)) == [0, 1, 2, 3]
    for (parameter_name, after), before in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        gradient = torch.zeros_like(before) if before.grad is None else before.grad
        torch.testing.assert_close(before - after, gradient, **CLOSE, msg=parameter_name)


def test_no_placeholder_is_sampled(folder, processors, tmp_path):
    """A placeholder in a completion would stand for an image that is not there. TRL names only the image token."""
    model = FlashSlothForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.bias[model.config.placeholder_token_ids] += 100
    model.save_pretrained(tmp_path / "model")
    _, rewards = train("GRPO", "mixed", tmp_path / "model", processors[False], tmp_path)
    assert not set(sum(rewards.completion_ids, [])) & set(model.config.placeholder_token_ids)
