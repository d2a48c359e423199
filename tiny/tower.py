# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny vision tower: a SigLIP trained from scratch by its sigmoid loss, on whole pictures and on regions of them.

Contrasting whole pictures alone says too little about the patches at this scale. The same loss between the mean patch
feature of every object's box and the phrases that are true of the object ("red circle", "word cat", "at the top left")
teaches each patch what it shows.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from flashsloth.tiny.loop import precision, train
from flashsloth.tiny.questions import describe
from flashsloth.tiny.scenes import (
    CANVAS,
    COLORS,
    GRID,
    HELDOUT_PAIRS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    TILE,
    WORDS,
    Item,
    Scene,
    generator,
    make_scene,
    render,
)


IMAGE_SIZE = 96
PATCH_SIZE = 8
SIDE = IMAGE_SIZE // PATCH_SIZE  # patches along a side
POOLING_SIZE = SIDE // GRID  # patches along a side of what a visual token sees: one cell of a scene
BLOCK_SIZE = 3  # patches along a side of a block, whose mean is taught beside that of an object's whole box
PHRASE_LENGTH, CAPTION_LENGTH = 6, 16  # tokens


# ----------------------------------------------------------------------------------------------------
# Phrases
# ----------------------------------------------------------------------------------------------------

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
PHRASES: dict[str, tuple[str, ...]] = {
    "kind": ("shape", "word", "number", "digit"),
    "color": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "pair": tuple(f"{c} {s}" for c in COLORS for s in SHAPES if (c, s) not in HELDOUT_PAIRS),
    "word": tuple(f"word {word}" for word in WORDS),
    "number": tuple(f"number {number}" for number in NUMBERS),
    "digit": tuple(f"digit {digit}" for digit in range(10)),
    "start": tuple(f"starts {symbol}" for symbol in (*LETTERS, *"123456789")),
    "end": tuple(f"ends {symbol}" for symbol in (*LETTERS, *"0123456789")),
    "place": tuple(f"at the {place}" for place in PLACES),
}
PHRASE_LIST = tuple(phrase for group in PHRASES.values() for phrase in group)
PHRASE_INDEX = {phrase: index for index, phrase in enumerate(PHRASE_LIST)}


def phrases_of(item: Item, in_tile: bool) -> list[str]:
    """Everything that the phrases say about an object; a tile shows neither its place nor its true size."""
    phrases = [item.kind]
    if item.kind == "shape":
        phrases += [item.color, item.shape, f"{item.color} {item.shape}"] + ([] if in_tile else [item.size])
    else:
        phrases.append(f"{item.kind} {item.text}")
    if item.kind in ("word", "number"):
        phrases += [f"starts {item.text[0]}", f"ends {item.text[-1]}"]
    return phrases if in_tile else [*phrases, f"at the {item.place}"]


# ----------------------------------------------------------------------------------------------------
# Pictures with regions
# ----------------------------------------------------------------------------------------------------


def coverage(box: tuple[float, float, float, float]) -> np.ndarray:
    """The share of each patch that a box covers, (SIDE, SIDE); the box is given in pixels of the view."""
    edges = np.arange(SIDE) * PATCH_SIZE
    across, down = (
        np.clip(np.minimum(box[i + 2], edges + PATCH_SIZE) - np.maximum(box[i], edges), 0, None) / PATCH_SIZE
        for i in (0, 1)
    )
    return np.outer(down, across).astype(np.float32)


def region_weights(box: tuple[float, float, float, float]) -> np.ndarray:
    """Two means over patches for an object, (2, SIDE * SIDE): its whole box, and the block it fills most."""
    cover = coverage(box)
    blocks = cover.reshape(SIDE // BLOCK_SIZE, BLOCK_SIZE, SIDE // BLOCK_SIZE, BLOCK_SIZE).sum((1, 3))
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    fullest = np.zeros_like(cover)
    block = np.s_[row * BLOCK_SIZE : (row + 1) * BLOCK_SIZE, column * BLOCK_SIZE : (column + 1) * BLOCK_SIZE]
    fullest[block] = cover[block]
    return np.stack([weights.ravel() / weights.sum() for weights in (cover, fullest)])


@dataclass
class View:
    """A picture as the tower sees it, its objects, and where they are in it."""

    pixels: np.ndarray
    items: list[Item]
    boxes: list[tuple[float, float, float, float]]
    in_tile: bool


def whole_view(scene: Scene) -> View:
    """The standard view: the canvas squashed to the tower's size."""
    image = render(scene).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    scale = IMAGE_SIZE / CANVAS
    boxes = [tuple(edge * scale for edge in item.box) for item in scene.items]
    return View(np.asarray(image), list(scene.items), boxes, in_tile=False)


def tile_view(scene: Scene, column: int, row: int) -> View:
    """A quadrant at its own resolution, with the objects of which enough is visible to name them."""
    left, top = column * TILE, row * TILE
    image = render(scene).crop((left, top, left + TILE, top + TILE))
    view = View(np.asarray(image), [], [], in_tile=True)
    for item in scene.items:
        x0, y0, x1, y1 = item.box
        box = (max(x0 - left, 0), max(y0 - top, 0), min(x1 - left, TILE), min(y1 - top, TILE))
        visible = max(box[2] - box[0], 0) * max(box[3] - box[1], 0) / ((x1 - x0) * (y1 - y0))
        if visible >= (0.75 if item.kind == "shape" else 0.97):
            view.items.append(item)
            view.boxes.append(box)
    return view


def draw_view(split: str, index: int) -> tuple[View, random.Random]:
    """Picture `index` of the tower's training: 30 % ordinary, 45 % full of text, 25 % tiles as HD shows them."""
    rng = generator(split, "tower", index)
    share = rng.random()
    if share < 0.30:
        view = whole_view(make_scene(split, "ordinary", index))
    elif share < 0.75:
        view = whole_view(make_scene(split, "dense", index))
    else:
        style = "small_dense" if share < 0.93 else "dense"
        view = tile_view(make_scene(split, style, index), rng.randrange(2), rng.randrange(2))
    return view, rng


class Views(Dataset):
    """Pictures `start` to `stop` of a split with captions and regions, encoded for `TowerTraining`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split: str, start: int, stop: int):
        self.tokenizer, self.split, self.start, self.stop = tokenizer, split, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, position: int) -> dict:
        view, rng = draw_view(self.split, self.start + position)
        told = rng.sample(view.items, min(2, len(view.items)))
        place = (lambda item: "") if view.in_tile else (lambda item: f" at the {item.place}")
        text = ", ".join(describe(item) + place(item) for item in told) or "nothing"
        truths = np.zeros((len(view.items), len(PHRASE_LIST)), dtype=np.float32)
        for number, item in enumerate(view.items):
            truths[number, [PHRASE_INDEX[phrase] for phrase in phrases_of(item, view.in_tile)]] = 1
        weights = [region_weights(box) for box in view.boxes] or [np.zeros((0, SIDE * SIDE), dtype=np.float32)]
        return {
            "pixels": torch.from_numpy(view.pixels.copy()).permute(2, 0, 1),
            "caption": encode(self.tokenizer, [text], CAPTION_LENGTH)[0],
            "weights": torch.from_numpy(np.concatenate(weights)),
            "truths": torch.from_numpy(truths.repeat(2, axis=0)),
        }


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> torch.Tensor:
    """Token ids (len(texts), length), padded on the right as SigLIP's text encoder expects them."""
    ids = [tokenizer(text)["input_ids"][:length] for text in texts]
    return torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in ids])


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Batches pictures; their regions are padded with empty ones, which `valid` (B, R) leaves out."""
    most = max(len(example["weights"]) for example in examples)
    batch = {key: torch.stack([example[key] for example in examples]) for key in ("pixels", "caption")}
    for key in ("weights", "truths"):
        batch[key] = torch.stack([F.pad(e[key], (0, 0, 0, most - len(e[key]))) for e in examples])
    counts = torch.tensor([len(example["weights"]) for example in examples])
    batch["valid"] = torch.arange(most) < counts[:, None]
    return batch


# ----------------------------------------------------------------------------------------------------
# Model
# ----------------------------------------------------------------------------------------------------


class TowerTraining(nn.Module):
    """A SigLIP and the two sigmoid losses it learns from.

    Args:
        siglip (`SiglipModel`): Both encoders.
        phrase_ids (`torch.Tensor`): Token ids of all phrases, (P, PHRASE_LENGTH).
    """

    def __init__(self, siglip: SiglipModel, phrase_ids: torch.Tensor):
        super().__init__()
        self.siglip = siglip
        width = siglip.config.vision_config.hidden_size
        self.region_norm = nn.LayerNorm(width)
        self.region_projection = nn.Linear(width, siglip.config.text_config.projection_size)
        self.region_scale = nn.Parameter(torch.tensor(10.0).log())
        self.region_bias = nn.Parameter(torch.tensor(-6.0))
        self.register_buffer("phrase_ids", phrase_ids, persistent=False)

    def patch_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What FlashSloth reads: the last hidden state ahead of the post-layernorm, (B, SIDE * SIDE, width)."""
        vision = self.siglip.vision_model
        embedded = vision.embeddings((pixels.float() / 255 - 0.5) / 0.5)
        return vision.encoder(inputs_embeds=embedded).last_hidden_state

    def region_scores(self, features: torch.Tensor, weights: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Cosine of every region with every phrase, (regions, P)."""
        means = torch.einsum("brn,bnd->brd", weights, features.float())[valid]
        regions = F.normalize(self.region_projection(self.region_norm(means)), dim=-1)
        phrases = F.normalize(self.siglip.text_model(self.phrase_ids).pooler_output.float(), dim=-1)
        return regions.float() @ phrases.T

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sigmoid losses on whole pictures and on regions, each summed over texts and averaged over images."""
        features = self.patch_features(batch["pixels"])
        vision = self.siglip.vision_model
        images = F.normalize(vision.head(vision.post_layernorm(features)).float(), dim=-1)
        texts = F.normalize(self.siglip.text_model(batch["caption"]).pooler_output.float(), dim=-1)
        logits = images @ texts.T * self.siglip.logit_scale.exp() + self.siglip.logit_bias
        picture_loss = -F.logsigmoid(logits * (2 * torch.eye(len(logits)) - 1)).sum(-1).mean()
        scores = self.region_scores(features, batch["weights"], batch["valid"])
        logits = scores * self.region_scale.exp() + self.region_bias
        region_loss = -F.logsigmoid(logits * (2 * batch["truths"][batch["valid"]] - 1)).sum(-1).mean()
        return picture_loss, region_loss


def new_tower(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int) -> TowerTraining:
    """An untrained tower of the given size with a text encoder of one layer."""
    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    config = SiglipConfig(
        text_config={
            **size,
            "num_hidden_layers": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CAPTION_LENGTH,
            "projection_size": width,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**size, "num_hidden_layers": layers, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
    )
    # On a CPU the backward pass of eager attention takes two thirds of the time of the fused one.
    siglip = SiglipModel._from_config(config, attn_implementation="eager")
    nn.init.constant_(siglip.logit_scale, np.log(10.0))
    nn.init.constant_(siglip.logit_bias, -10.0)
    return TowerTraining(siglip, encode(tokenizer, list(PHRASE_LIST), PHRASE_LENGTH))


@torch.no_grad()
def probe(model: TowerTraining, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Share of regions whose true phrase scores highest in its group, on pictures drawn for validation."""
    model.eval()
    hits: dict[str, list[torch.Tensor]] = {group: [] for group in PHRASES}
    for batch in batches:
        with precision():
            features = model.patch_features(batch["pixels"])
        scores = model.region_scores(features, batch["weights"], batch["valid"])
        truths = batch["truths"][batch["valid"]]
        start = 0
        for group, phrases in PHRASES.items():
            truth = truths[:, start : start + len(phrases)]
            asked = truth.sum(-1) > 0
            best = scores[asked, start : start + len(phrases)].argmax(-1)
            hits[group].append(truth[asked].gather(1, best[:, None])[:, 0])
            start += len(phrases)
    model.train()
    return {group: round(torch.cat(hit).mean().item(), 3) for group, hit in hits.items()}


def train_tower(tokenizer: PreTrainedTokenizerFast, settings: dict, work: Path, folder: Path) -> None:
    """Trains the tower and saves it to `folder`; a run that was stopped goes on from its checkpoint in `work`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): For the text encoder.
        settings (`dict`): "width", "layers", "heads", "batch_size", "steps" and "learning_rate".
        work (`Path`): Takes log and checkpoint.
        folder (`Path`): Takes the finished SigLIP, both encoders.
    """
    model = new_tower(tokenizer, settings["width"], settings["layers"], settings["heads"])
    size, steps = settings["batch_size"], settings["steps"]
    validation = [
        collate([views[i] for i in range(64)])
        for views in (Views(tokenizer, "validation", start, start + 64) for start in range(0, 256, 64))
    ]

    def losses(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        picture_loss, region_loss = model(batch)
        return {"picture": picture_loss, "region": region_loss}

    def batches_from(step: int) -> DataLoader:
        views = Views(tokenizer, "train", step * size, steps * size)
        return DataLoader(views, batch_size=size, collate_fn=collate, num_workers=1, prefetch_factor=4)

    train(
        model, losses, batches_from, steps, settings["learning_rate"], work, measure=lambda: probe(model, validation)
    )
    model.siglip.save_pretrained(folder)
