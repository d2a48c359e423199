# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tiny vision tower: a SigLIP trained from scratch with its sigmoid loss, on whole images and on their regions.

At this scale, contrasting whole images teaches too little about single patches. The same loss between the mean patch
feature of an item's box and the phrases that are true of the item ("red circle", "word cat", "at the top left")
teaches each patch what it shows.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from flashsloth.tiny.loop import precision, train
from flashsloth.tiny.tower_data import (
    CAPTION_LENGTH,
    IMAGE_SIZE,
    PATCH_SIZE,
    PHRASE_LENGTH,
    PHRASE_LIST,
    PHRASES,
    Views,
    collate,
    encode,
)


class TowerTraining(nn.Module):
    """
    A SigLIP and the two sigmoid losses that it learns from.

    Args:
        siglip (`SiglipModel`): Both encoders.
        phrase_ids (`torch.Tensor` of shape `(P, PHRASE_LENGTH)`): The token ids of all phrases.
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
        """The features that FlashSloth uses, of shape `(B, SIDE * SIDE, width)`: those before the final norm."""
        vision = self.siglip.vision_model
        embedded = vision.embeddings((pixels.float() / 255 - 0.5) / 0.5)
        return vision.encoder(inputs_embeds=embedded).last_hidden_state

    def region_scores(self, features: torch.Tensor, weights: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The cosine of every region with every phrase, of shape `(regions, P)`."""
        means = torch.einsum("brn,bnd->brd", weights, features.float())[valid]
        regions = F.normalize(self.region_projection(self.region_norm(means)), dim=-1)
        phrases = F.normalize(self.siglip.text_model(self.phrase_ids).pooler_output.float(), dim=-1)
        return regions.float() @ phrases.T

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sigmoid losses of whole images and of regions, each summed over texts and averaged."""
        features = self.patch_features(batch["pixels"])
        vision = self.siglip.vision_model
        images = F.normalize(vision.head(vision.post_layernorm(features)).float(), dim=-1)
        texts = F.normalize(self.siglip.text_model(batch["caption"]).pooler_output.float(), dim=-1)
        logits = images @ texts.T * self.siglip.logit_scale.exp() + self.siglip.logit_bias
        image_loss = -F.logsigmoid(logits * (2 * torch.eye(len(logits)) - 1)).sum(-1).mean()
        scores = self.region_scores(features, batch["weights"], batch["valid"])
        logits = scores * self.region_scale.exp() + self.region_bias
        region_loss = -F.logsigmoid(logits * (2 * batch["truths"][batch["valid"]] - 1)).sum(-1).mean()
        return image_loss, region_loss


def new_tower(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int) -> TowerTraining:
    """An untrained tower of the given size, with a text encoder of one layer."""
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
    # On a CPU the backward pass of eager attention takes two thirds of the time of a fused one.
    siglip = SiglipModel._from_config(config, attn_implementation="eager")
    nn.init.constant_(siglip.logit_scale, np.log(10.0))
    nn.init.constant_(siglip.logit_bias, -10.0)
    return TowerTraining(siglip, encode(tokenizer, list(PHRASE_LIST), PHRASE_LENGTH))


@torch.no_grad()
def probe(model: TowerTraining, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The share of regions whose true phrase has the highest score of its group."""
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
    """
    Trains the tower and saves it. A run that was stopped resumes from its checkpoint in `work`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): The tokenizer of the text encoder.
        settings (`dict`): "width", "layers", "heads", "batch_size", "steps" and "learning_rate".
        work (`Path`): The folder of log and checkpoint.
        folder (`Path`): The folder of the finished SigLIP, with both encoders.
    """
    model = new_tower(tokenizer, settings["width"], settings["layers"], settings["heads"])
    size, steps = settings["batch_size"], settings["steps"]
    validation = [
        collate([views[i] for i in range(64)])
        for views in (Views(tokenizer, "validation", start, start + 64) for start in range(0, 256, 64))
    ]

    def losses(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        image_loss, region_loss = model(batch)
        return {"picture": image_loss, "region": region_loss}  # the keys of the log, also of earlier runs

    def batches_from(step: int) -> DataLoader:
        views = Views(tokenizer, "train", step * size, steps * size)
        return DataLoader(views, batch_size=size, collate_fn=collate, num_workers=1, prefetch_factor=4)

    train(
        model, losses, batches_from, steps, settings["learning_rate"], work, measure=lambda: probe(model, validation)
    )
    model.siglip.save_pretrained(folder)
