# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny decoder: a Phi trained from scratch on conversations about scenes that are told in words.

It meets the dialogue format and learns to find, compare and count things in a description, so that the later stages
only have to put what the tower sees in place of the words.
"""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from flashsloth.convert.composition import QUERY_BASE_TEXT, VOCABULARY_MULTIPLE
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, QUERY_SLOT_TOKEN
from flashsloth.train.tiny.data import told, told_row
from flashsloth.train.tiny.loop import precision, train
from flashsloth.train.tiny.questions import KINDS, ask
from flashsloth.train.tiny.scenes import generator, make_scene
from flashsloth.train.tiny.tokenizer import POSITIONS, QUERY_TOKENS


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict], context_weight: float) -> dict[str, torch.Tensor]:
    """Token ids of a conversation, (L,), and how much each counts: an answer with its `</s>` 1, all else less."""
    text = tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False)
    # A new query token starts as this token, shifted a little.
    text = text.replace(QUERY_SLOT_TOKEN, QUERY_BASE_TEXT * QUERY_TOKENS)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    weights = torch.full(ids.shape, context_weight)
    colon = tokenizer.convert_tokens_to_ids(":")
    for end in (ids == tokenizer.eos_token_id).nonzero()[:, 0].tolist():
        start = (ids[:end] == colon).nonzero()[-1, 0].item()  # of "ASSISTANT:"
        weights[start + 1 : end + 1] = 1
    return {"input_ids": ids, "weights": weights}


class Conversations(Dataset):
    """Encoded conversations `start` to `stop` about training scenes told in words."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, context_weight: float, start: int, stop: int):
        self.tokenizer, self.context_weight, self.start, self.stop = tokenizer, context_weight, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return encode(self.tokenizer, told_row("train", self.start + position)["messages"], self.context_weight)


class Collator:
    """Pads conversations on the right to (B, L); padding has no weight."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        ids, weights = ([row[key] for row in rows] for key in ("input_ids", "weights"))
        input_ids = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return {
            "input_ids": input_ids,
            "attention_mask": mask.long(),
            "weights": pad_sequence(weights, batch_first=True),
        }


def new_language_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int) -> PhiForCausalLM:
    """An untrained Phi of the given size."""
    config = PhiConfig(
        vocab_size=-(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=POSITIONS,
        partial_rotary_factor=0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return PhiForCausalLM._from_config(config, attn_implementation="eager")


def losses(model: PhiForCausalLM, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weighted mean of the tokens' cross entropies."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    entropy = F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    weights = batch["weights"][:, 1:].flatten()
    return {"loss": (entropy * weights).sum() / weights.sum()}


def examination(tokenizer: PreTrainedTokenizerFast, rows: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    """A batch of `rows` single questions about told validation scenes for every kind of question."""
    batches = {}
    for kind in KINDS:
        questions = []
        for index in itertools.count():
            rng = generator("validation", f"told {kind}", index)
            scene = make_scene("validation", "ordinary", index)
            turn = ask(kind, scene, rng)
            if turn is not None:
                questions.append(encode(tokenizer, told(scene, [turn], rng), context_weight=0.0))
            if len(questions) == rows:
                break
        batches[kind] = Collator(tokenizer.pad_token_id)(questions)
    return batches


@torch.no_grad()
def answer_accuracy(model: PhiForCausalLM, batches: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
    """Share of answers, by kind of question, of which every token is the most likely one."""
    model.eval()
    shares = {}
    for kind, batch in batches.items():
        with precision():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        hits = logits[:, :-1].argmax(-1) == batch["input_ids"][:, 1:]
        shares[kind] = round((hits | (batch["weights"][:, 1:] != 1)).all(-1).float().mean().item(), 3)
    model.train()
    return shares


def train_language_model(tokenizer: PreTrainedTokenizerFast, settings: dict, work: Path, folder: Path) -> None:
    """Trains the decoder and saves it with its tokenizer to `folder`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): Of the decoder.
        settings (`dict`): As of `train_tower`, and "context_weight": how much a token outside of answers counts.
        work (`Path`): Takes log and checkpoint.
        folder (`Path`): Takes the finished decoder.
    """
    model = new_language_model(tokenizer, settings["width"], settings["layers"], settings["heads"])
    size, steps = settings["batch_size"], settings["steps"]
    exam = examination(tokenizer)

    def batches_from(step: int) -> DataLoader:
        rows = Conversations(tokenizer, settings["context_weight"], step * size, steps * size)
        collate = Collator(tokenizer.pad_token_id)
        return DataLoader(rows, batch_size=size, collate_fn=collate, num_workers=1, prefetch_factor=4)

    train(
        model,
        lambda batch: losses(model, batch),
        batches_from,
        steps,
        settings["learning_rate"],
        work,
        measure=lambda: answer_accuracy(model, exam),
        measure_every=50,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
