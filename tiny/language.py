# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny decoder: a Phi trained from scratch on texts about pictures whose regions are given as words.

In place of a visual token stands the sum of the embeddings of the words that are true of its region. The decoder
meets the dialogue format and learns to find, compare and count things in such a picture, so that the later stages only
have to put what the tower sees in place of the words.
"""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from flashsloth.convert.composition import QUERY_BASE_TEXT, VOCABULARY_MULTIPLE
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, IMAGE_TOKEN, QUERY_SLOT_TOKEN
from flashsloth.tiny.data import listing, messages_of, quiz, sketched_row
from flashsloth.tiny.loop import precision, train
from flashsloth.tiny.questions import BRIEFLY, KINDS, ask, describe
from flashsloth.tiny.scenes import GRID, Scene, generator, make_scene
from flashsloth.tiny.tokenizer import POSITIONS, QUERY_TOKENS


FRAMED_SHARE = (0.3, 0.8)  # of the rows with questions are in the dialogue's format, from the first step to the last
FORM_STARTS = {"which first": 0.0, "which": 0.5, "any": 0.65}  # of the steps are done when a form of comparison begins
VISUAL_TOKENS = GRID**2  # of a picture: the pooling makes one of each cell
WORD_LENGTH = 2  # tokens of a word that a region keeps


def encode_regions(tokenizer: PreTrainedTokenizerFast, scene: Scene) -> torch.Tensor:
    """
    Which tokens are true of each region, (visual tokens, WORD_LENGTH, vocabulary) of 0 and 1: what stands there, and
    where that is. The second of a word's tokens has a place of its own, so that 47 is not 74.
    """
    space = tokenizer.convert_tokens_to_ids("Ġ")
    weights = torch.zeros(VISUAL_TOKENS, WORD_LENGTH, len(tokenizer))
    for item in scene.items:
        for word in f"{describe(item)} {item.place}".split():
            ids = [token for token in tokenizer(f" {word}")["input_ids"] if token != space]
            for place, token in enumerate(ids[:WORD_LENGTH]):
                weights[item.row * GRID + item.column, place, token] = 1
    return weights


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict], context_weight: float) -> dict[str, torch.Tensor]:
    """A conversation's columns, each (L,). Answers with their `</s>` have weight 1, all else less."""
    text = tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False)
    text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * VISUAL_TOKENS)
    # A new query token starts as this token, shifted a little.
    text = text.replace(QUERY_SLOT_TOKEN, QUERY_BASE_TEXT * QUERY_TOKENS)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    weights = torch.full(ids.shape, context_weight)
    colon = tokenizer.convert_tokens_to_ids(":")
    for end in (ids == tokenizer.eos_token_id).nonzero()[:, 0].tolist():
        start = (ids[:end] == colon).nonzero()[-1, 0].item()  # of "ASSISTANT:"
        weights[start + 1 : end + 1] = 1
    return {
        "input_ids": ids,
        "weights": weights,
        "text_ids": torch.zeros_like(ids),
        "position_ids": torch.arange(len(ids)),
    }


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[list[tuple[str, float]]]) -> dict[str, torch.Tensor]:
    """A picture and texts about it, each in parts with their weights; a text sees the picture and itself only."""
    ids, weights = [tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * VISUAL_TOKENS, [0.0] * VISUAL_TOKENS
    text_ids, positions = [0] * VISUAL_TOKENS, list(range(VISUAL_TOKENS))
    for number, parts in enumerate(texts, 1):
        start = len(ids)
        for text, weight in parts:
            tokens = tokenizer(text)["input_ids"]
            ids += tokens
            weights += [weight] * len(tokens)
        text_ids += [number] * (len(ids) - start)
        positions += range(VISUAL_TOKENS, VISUAL_TOKENS + len(ids) - start)
    columns = {"input_ids": ids, "weights": weights, "text_ids": text_ids, "position_ids": positions}
    return {name: torch.tensor(values) for name, values in columns.items()}


class Lessons(Dataset):
    """
    The batches of all steps. The first `listing_steps` are lists of what stands where, in random order: whatever is
    named next has to be looked up in the picture. Then come questions and answers, in lines that see no other line,
    and more and more of them in the dialogue's format. What is searched is learned from dense and short texts first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: dict, start: int = 0):
        self.tokenizer, self.settings, self.start = tokenizer, settings, start
        self.collate = Collator(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return self.settings["steps"] - self.start

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        step = self.start + position
        if step < self.settings["listing_steps"]:
            size = self.settings["listing_batch_size"]
            return self.collate([self.listing(index) for index in range(step * size, (step + 1) * size)])
        form = [form for form, share in FORM_STARTS.items() if step >= share * self.settings["steps"]][-1]
        framed_share = FRAMED_SHARE[0] + (FRAMED_SHARE[1] - FRAMED_SHARE[0]) * step / self.settings["steps"]
        rows = []
        for index in range(step * self.settings["batch_size"], (step + 1) * self.settings["batch_size"]):
            framed = generator("train", "framed", index).random() < framed_share
            rows.append(self.dialogue(index, form) if framed else self.quiz(index, form))
        return self.collate(rows)

    def listing(self, index: int) -> dict[str, torch.Tensor]:
        scene, text = listing("train", index)
        return encode_texts(self.tokenizer, [[(text, 1.0)]]) | {"regions": encode_regions(self.tokenizer, scene)}

    def quiz(self, index: int, form: str) -> dict[str, torch.Tensor]:
        scene, turns = quiz("train", index, form)
        texts = [
            [
                (f" {turn.question.removesuffix(f' {BRIEFLY}')}", self.settings["context_weight"]),
                (f" {turn.answer}{self.tokenizer.eos_token}", 1.0),
            ]
            for turn in turns
        ]
        return encode_texts(self.tokenizer, texts) | {"regions": encode_regions(self.tokenizer, scene)}

    def dialogue(self, index: int, form: str) -> dict[str, torch.Tensor]:
        scene, messages = sketched_row("train", index, form)
        row = encode(self.tokenizer, messages, self.settings["context_weight"])
        return row | {"regions": encode_regions(self.tokenizer, scene)}


class Collator:
    """Pads rows on the right to (B, L). Tokens see those before them of the same text and of text 0, no padding."""

    def __init__(self, pad_token_id: int):
        self.padding = {"input_ids": pad_token_id, "weights": 0.0, "text_ids": -1, "position_ids": 0}

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding)
            for name, padding in self.padding.items()
        }
        texts = batch.pop("text_ids")
        seen = (texts[:, :, None] == texts[:, None, :]) | (texts[:, None, :] == 0)
        hidden = torch.zeros(seen.shape).masked_fill(~seen.tril(), torch.finfo(torch.float32).min)
        return batch | {"attention_mask": hidden[:, None], "regions": torch.stack([row["regions"] for row in rows])}


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
    """Logits (B, L, V); regions stand where a picture's visual tokens will stand later."""
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
    """The weighted mean of the tokens' cross entropies."""
    logits = logits_of(model, batch, image_token_id)[:, :-1].float()
    entropy = F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    weights = batch["weights"][:, 1:].flatten()
    return {"loss": (entropy * weights).sum() / weights.sum()}


def examination(tokenizer: PreTrainedTokenizerFast, rows: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    """A batch of `rows` single questions about validation scenes for every kind of question."""
    batches = {}
    for kind in KINDS:
        questions = []
        for index in itertools.count():
            rng = generator("validation", f"told {kind}", index)
            scene = make_scene("validation", "ordinary", index)
            turn = ask(kind, scene, rng)
            if turn is not None:
                row = encode(tokenizer, messages_of([turn], with_image=True), context_weight=0.0)
                questions.append(row | {"regions": encode_regions(tokenizer, scene)})
            if len(questions) == rows:
                break
        batches[kind] = Collator(tokenizer.pad_token_id)(questions)
    return batches


@torch.no_grad()
def answer_accuracy(
    model: PhiForCausalLM, batches: dict[str, dict[str, torch.Tensor]], image_token_id: int
) -> dict[str, float]:
    """Share of answers, by kind of question, of which every token is the most likely one."""
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
    """Trains the decoder and saves it with its tokenizer to `folder`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): Of the decoder.
        settings (`dict`): As of `train_tower`, "context_weight": how much a token outside of answers counts,
            "listing_steps" and "listing_batch_size": how many of the steps are lists, and rows in each of them.
        work (`Path`): Takes log and checkpoint.
        folder (`Path`): Takes the finished decoder.
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
