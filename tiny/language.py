# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny decoder: a Phi trained from scratch on texts about images whose regions are given as words.

It learns the chat format, and to find, compare and count items. The later stages only have to put the features of the
vision tower in place of the words.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from flashsloth.convert.composition import VOCABULARY_MULTIPLE
from flashsloth.processing_flashsloth import IMAGE_TOKEN
from flashsloth.tiny.language_data import WORD_LENGTH, Lessons, examination
from flashsloth.tiny.loop import precision, train
from flashsloth.tiny.tokenizer import POSITIONS


def new_language_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int) -> PhiForCausalLM:
    """An untrained Phi of the given size."""
    config = PhiConfig(
        vocab_size=-(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act="gelu_pytorch_tanh",  # Phi's gelu_new in one operation instead of eight
        max_position_embeddings=POSITIONS,
        partial_rotary_factor=0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return PhiForCausalLM._from_config(config, attn_implementation="eager")


def logits_of(model: PhiForCausalLM, batch: dict[str, torch.Tensor], image_token_id: int) -> torch.Tensor:
    """Logits of shape `(B, L, V)`. The words of the regions replace the visual tokens, which come with the tower."""
    table = model.get_input_embeddings().weight
    embeds = model.get_input_embeddings()(batch["input_ids"])
    half = table.shape[1] // WORD_LENGTH
    known = table[: batch["regions"].shape[-1]]
    sums = sum(batch["regions"][:, :, place] @ known.roll(place * half, dims=1) for place in range(WORD_LENGTH))
    here = batch["input_ids"] == image_token_id
    embeds = embeds.masked_scatter(here[..., None], embeds[here] + sums.flatten(0, 1))
    mask, positions = batch["attention_mask"], batch["position_ids"]
    return model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits


def losses(model: PhiForCausalLM, batch: dict[str, torch.Tensor], image_token_id: int) -> dict[str, torch.Tensor]:
    """The mean of the tokens' cross entropies by their weights."""
    logits = logits_of(model, batch, image_token_id)[:, :-1].float()
    entropy = F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    weights = batch["weights"][:, 1:].flatten()
    return {"loss": (entropy * weights).sum() / weights.sum()}


@torch.no_grad()
def answer_accuracy(
    model: PhiForCausalLM, batches: dict[str, dict[str, torch.Tensor]], image_token_id: int
) -> dict[str, float]:
    """The share of right answers by kind of question. An answer is right if each of its tokens is the most likely."""
    model.eval()
    shares = {}
    for kind, batch in batches.items():
        with precision():
            logits = logits_of(model, batch, image_token_id)
        hits = logits[:, :-1].argmax(-1) == batch["input_ids"][:, 1:]
        shares[kind] = round((hits | (batch["weights"][:, 1:] != 1)).all(-1).float().mean().item(), 3)
    model.train()
    return shares


def train_language_model(tokenizer: PreTrainedTokenizerFast, settings: dict, work: Path, folder: Path) -> None:
    """
    Trains the decoder and saves it with its tokenizer. A run that was stopped resumes from its checkpoint in `work`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): The decoder's tokenizer.
        settings (`dict`): Those of [`train_tower`], and "context_weight" (weight of a token outside of answers),
            "listing_steps" (steps with lists) and "listing_batch_size" (rows in each of them).
        work (`Path`): The folder of log and checkpoint.
        folder (`Path`): The folder of the finished decoder.
    """
    model = new_language_model(tokenizer, settings["width"], settings["layers"], settings["heads"])
    exam = examination(tokenizer)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def batches_from(step: int) -> DataLoader:
        return DataLoader(Lessons(tokenizer, settings, step), batch_size=None, num_workers=1, prefetch_factor=4)

    train(
        model,
        lambda batch: losses(model, batch, image_token_id),
        batches_from,
        settings["steps"],
        settings["learning_rate"],
        work,
        measure=lambda: answer_accuracy(model, exam, image_token_id),
        measure_every=50,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
