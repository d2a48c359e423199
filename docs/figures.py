# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Draws the figures of the README: the architecture of the published model, and what the shipped model attends to.

    python docs/figures.py

writes `docs/architecture.svg` and `docs/attention.png`. All numbers come from the configuration; matplotlib comes with
`pip install -e '.[train]'`.
"""

from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from flashsloth import FlashSlothConfig
from flashsloth.attention_maps import over_image
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor


DOCS = Path(__file__).parent
SCENE = DOCS.parent / "examples" / "scene.png"
QUESTIONS = ("What colour is the square?", "What word is written here?", "Where is the star?")

FROZEN, NEW, DECODER, TOKENS = "#dfe7f2", "#f6d9c3", "#dcecd9", "#f2f2f2"
# The text of an SVG as text, and the same bytes each time.
SVG_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "flashsloth", "font.family": "sans-serif"}


def draw_architecture(config: FlashSlothConfig) -> Figure:
    """Boxes are modules and tokens; arrows are what flows between them."""
    figure = Figure(figsize=(9.6, 3.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 96), ylim=(2, 36))
    axes.axis("off")
    grid, side = config.grid_size, config.grid_size // config.pooling_size
    layers, query_layer = config.text_config.num_hidden_layers, config.query_layer

    image = _box(axes, 2, 24, 11, 8, "image", TOKENS)
    tower = _box(axes, 18, 24, 14, 8, "vision tower\n(SigLIP)", FROZEN)
    pooling = _box(
        axes, 42, 24, 15, 8, f"Spatial Attention\nPooling, {config.pooling_size} x {config.pooling_size}", NEW
    )
    projector = _box(axes, 68, 24, 12, 8, "projector", NEW)
    _arrow(axes, image, tower)
    _arrow(axes, tower, pooling, f"{config.num_patches} patches\n({grid} x {grid})")
    _arrow(axes, pooling, projector, f"{config.num_visual_tokens} tokens\n({side} x {side})")

    first = _box(axes, 22, 5, 20, 7, f"decoder layers\n0 to {query_layer - 1}", DECODER)
    query = _box(axes, 48, 5, 15, 7, "Embedded\nQuery", NEW)
    last = _box(axes, 69, 5, 15, 7, f"decoder layers\n{query_layer} to {layers - 1}", DECODER)
    answer = _box(axes, 88, 5, 7, 7, "answer", TOKENS)
    tokens = _box(axes, 2, 5, 14, 7, f"visual tokens,\nquestion,\n{config.num_query_tokens} query tokens", TOKENS)
    _arrow(axes, tokens, first)
    _arrow(axes, first, query)
    _arrow(axes, query, last)
    _arrow(axes, last, answer)
    # from the projector down to the sequence, and from the patches down to the query tokens
    path = {"arrowstyle": "-|>", "color": "black", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.plot([74, 74, 9], [24, 18, 18], color="black", linewidth=1)
    axes.annotate("", (9, 12), (9, 18), arrowprops=path)
    axes.plot([37, 37, 55.5], [28, 15, 15], color="#b4501e", linewidth=1.4)
    axes.annotate("", (55.5, 12), (55.5, 15), arrowprops=path | {"color": "#b4501e", "linewidth": 1.4})
    axes.text(38, 20.2, "un-pooled patches", fontsize=8, color="#b4501e")
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> tuple[float, ...]:
    style = {"boxstyle": "round,pad=0,rounding_size=0.8", "facecolor": color, "edgecolor": "#555555", "linewidth": 0.8}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)
    return x, y, width, height


def _arrow(axes: Axes, start: tuple[float, ...], end: tuple[float, ...], text: str = "") -> None:
    x, y = start[0] + start[2], start[1] + start[3] / 2
    axes.annotate("", (end[0], y), (x, y), arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0})
    axes.text((x + end[0]) / 2, y + 0.8, text, ha="center", va="bottom", fontsize=8)


@torch.inference_mode()
def draw_attention(model: PreTrainedModel, processor: ProcessorMixin, image: Image.Image) -> Figure:
    """The image, and for each question where its query tokens attend to, with the model's answer."""
    figure = Figure(figsize=(2.4 * (len(QUESTIONS) + 1), 2.9), layout="constrained")
    first, *others = figure.subplots(1, len(QUESTIONS) + 1)
    first.imshow(image)
    first.set_title("image", fontsize=9)
    first.axis("off")
    for axes, question in zip(others, QUESTIONS, strict=True):
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        attentions = model(**inputs, output_query_attentions=True).query_attentions[0]  # (heads, L, V, P)
        is_query = torch.isin(inputs["input_ids"][0], torch.tensor(model.config.query_token_ids))
        weights = over_image(attentions[:, is_query].mean((0, 1)), image.size, model.config)
        output = model.generate(**inputs, do_sample=False)
        answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        axes.imshow(image.convert("L"), cmap="gray", vmin=-100, vmax=255)
        axes.imshow(weights, cmap="plasma", alpha=(0.9 * weights / weights.max()).numpy())
        axes.set_title(f"{question}\n{answer}", fontsize=9)
        axes.axis("off")
    return figure


def main() -> None:
    with matplotlib.rc_context(SVG_STYLE):
        draw_architecture(FlashSlothConfig()).savefig(DOCS / "architecture.svg", metadata={"Date": None})
    model, processor = load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype="float32")
    image = Image.open(SCENE).convert("RGB")
    draw_attention(model.cpu(), processor, image).savefig(DOCS / "attention.png", dpi=110)


if __name__ == "__main__":
    main()
