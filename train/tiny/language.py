# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny decoder: a Phi trained from scratch on conversations about scenes that are told in words.

It meets the dialogue format and learns to find, compare and count things in a description, so that the later stages
only have to put what the tower sees in place of the words.
"""

from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from flashsloth.convert.composition import QUERY_BASE_TEXT, VOCABULARY_MULTIPLE
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, QUERY_SLOT_TOKEN
from flashsloth.train.tiny.data import told_row
from flashsloth.train.tiny.loop import train
from flashsloth.train.tiny.tokenizer import POSITIONS, QUERY_TOKENS


class Conversations(Dataset):
    """Token ids of conversations `start` to `stop` about scenes told in words."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split: str, start: int, stop: int):
        self.tokenizer, self.split, self.start, self.stop = tokenizer, split, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> torch.Tensor:
        messages = told_row(self.split, self.start + position)["messages"]
        text = self.tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False)
        # A new query token starts as this token, shifted a little.
        text = text.replace(QUERY_SLOT_TOKEN, QUERY_BASE_TEXT * QUERY_TOKENS)
        return torch.tensor(self.tokenizer(text)["input_ids"])


class Collator:
    """Pads conversations on the right to (B, L) and leaves the padding out of the loss."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id)
        mask = input_ids != self.pad_token_id
        return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": input_ids.masked_fill(~mask, -100)}


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


@torch.no_grad()
def answer_accuracy(model: PhiForCausalLM, batches: list[dict[str, torch.Tensor]], colon: int, end: int) -> float:
    """Share of answers of which every token is the most likely one; an answer runs from "ASSISTANT:" to `</s>`."""
    model.eval()
    right = answers = 0
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for ids, hits in zip(batch["input_ids"], logits[:, :-1].argmax(-1) == batch["input_ids"][:, 1:], strict=True):
            for stop in (ids == end).nonzero()[:, 0].tolist():
                start = (ids[:stop] == colon).nonzero()[-1, 0].item()
                right += hits[start:stop].all().item()
                answers += 1
    model.train()
    return right / answers


def train_language_model(tokenizer: PreTrainedTokenizerFast, settings: dict, work: Path, folder: Path) -> None:
    """Trains the decoder and saves it with its tokenizer to `folder`; the arguments are those of `train_tower`."""
    model = new_language_model(tokenizer, settings["width"], settings["layers"], settings["heads"])
    size, steps = settings["batch_size"], settings["steps"]
    collate = Collator(tokenizer.pad_token_id)
    rows = Conversations(tokenizer, "validation", 0, 128)
    validation = [collate([rows[i] for i in range(start, start + 32)]) for start in range(0, len(rows), 32)]
    colon = tokenizer.convert_tokens_to_ids(":")

    def measure() -> dict[str, float]:
        return {"answers": round(answer_accuracy(model, validation, colon, tokenizer.eos_token_id), 3)}

    def batches_from(step: int) -> DataLoader:
        conversations = Conversations(tokenizer, "train", step * size, steps * size)
        return DataLoader(conversations, batch_size=size, collate_fn=collate, num_workers=1, prefetch_factor=4)

    train(
        model,
        lambda batch: {"loss": model(**batch).loss},
        batches_from,
        steps,
        settings["learning_rate"],
        work,
        measure,
        measure_every=50,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
