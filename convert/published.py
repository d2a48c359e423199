# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Published FlashSloth checkpoints (https://huggingface.co/Tongbo) to this project's layout, and back."""

from pathlib import Path

from flashsloth import FlashSlothConfig, FlashSlothImageProcessor
from flashsloth.convert.published_config import (
    VISION,
    check_has_published_form,
    config_from_published,
    infer_vision_config,
    published_config,
    read_published_config,
    without_unused_layers,
)
from flashsloth.folders.config_file import check_depth, config_errors
from flashsloth.folders.downloads import TOKENIZER_FILES, find_model, find_tokenizer
from flashsloth.folders.json_files import read_json, write_json
from flashsloth.folders.model_folder import check_tensors, expected_shapes, main_dtype, read_model, write_model_folder
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, write_provenance
from flashsloth.folders.tensors import Checkpoint, write_tensors
from flashsloth.folders.tokenizer import (
    add_special_tokens,
    check_token_ids,
    load_own_tokenizer,
    load_tokenizer,
    published_tokenizer,
)


# How the names of tensors begin: published, ours. No beginning is that of another, so the table reads both ways.
RENAMES = (
    (f"{VISION}embeddings.", "model.vision_tower.embeddings."),
    (f"{VISION}encoder.", "model.vision_tower.encoder."),
    ("model.pooling.mlp.0.", "model.pooling.fc1."),
    ("model.pooling.mlp.3.", "model.pooling.fc2."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.learnable_tokens.token", "model.query_tokens.weight"),
    ("model.lqformer.down_projector_learnable_text.", "model.embedded_query.down_proj."),
    ("model.lqformer.down_projector_image.", "model.embedded_query.patch_proj."),
    ("model.lqformer.up_projector.", "model.embedded_query.up_proj."),
    ("model.lqformer.layers.0.t2q_attn.", "model.embedded_query.text_attention."),
    ("model.lqformer.layers.0.i2q_attn.", "model.embedded_query.patch_attention."),
    ("model.lqformer.layers.0.ln_q.", "model.embedded_query.query_norm."),
    ("model.lqformer.layers.0.ln_text.", "model.embedded_query.text_norm."),
    ("model.lqformer.layers.0.ln_kv.", "model.embedded_query.patch_norm."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.final_layernorm.", "model.language_model.final_layernorm."),
    ("lm_head.", "lm_head."),
)


def rename(name: str, *, to_original: bool = False) -> str | None:
    """A tensor's name in the other layout, or `None` if the table does not know it."""
    for published, ours in RENAMES:
        old, new = (ours, published) if to_original else (published, ours)
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def published_shapes(config: FlashSlothConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the published layout."""
    return {rename(name, to_original=True): shape for name, shape in expected_shapes(config).items()}


def convert_checkpoint(src, dst, *, tokenizer=None, vision_config=None, max_shard_size: int | str = "5GB") -> Path:
    """
    Converts a checkpoint in the published layout into a complete folder of this project. Weights keep their dtype and
    are copied one at a time.

    Args:
        src (`str` or `os.PathLike`): config.json (`model_type` "phi") and weights: a folder, or REPO or REPO@REVISION
            on the Hub. Only what is needed is downloaded.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        tokenizer (`str` or `os.PathLike`, *optional*): Phi-2's tokenizer, named likewise; `src` itself by default.
        vision_config (`str` or `os.PathLike`, *optional*): SigLIP's config.json, with or without the text half. Needed
            for a tower other than so400m, whose number of heads no tensor shows.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): size limit of one weight file.

    Returns:
        `dst`.

    Raises:
        ValueError: If a file is missing, damaged or does not fit the others; the message names it and the remedy.
            Nothing is left at `dst` then.
        OSError: If the connection to the Hub is lost, or the disk is full. Nothing is left at `dst` then either.

    Example:

    ```python
    >>> from flashsloth.convert import convert_checkpoint

    >>> convert_checkpoint("Tongbo/FlashSloth-3.2B", "flashsloth-3.2b", tokenizer="microsoft/phi-2")
    ```
    """
    dst = Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        src = find_model(src, TOKENIZER_FILES)
        published = read_published_config(src)
        checkpoint = Checkpoint(src)
        check_depth(published, checkpoint, "model.layers.", src / "config.json")
        with config_errors(src / "config.json"):
            vision = infer_vision_config(published, checkpoint, vision_config)
            tensors = without_unused_layers(published, checkpoint, vision)
            config = config_from_published(published, tensors, vision)
            shapes = published_shapes(config)
        check_tensors(
            tensors,
            shapes,
            src,
            "Download the checkpoint again; if its tower is not so400m, pass the SigLIP config with --vision-config.",
        )
        tokenizer_folder = src if tokenizer is None else find_tokenizer(tokenizer)
        loaded = load_tokenizer(tokenizer_folder, "Pass --tokenizer microsoft/phi-2, or a folder with it.")
        loaded = add_special_tokens(loaded, config.num_query_tokens, config.text_config.max_position_embeddings)
        check_token_ids(loaded, config, tokenizer_folder)
        renamed = {rename(name): tensor for name, tensor in tensors.items()}
        hd = bool(published.get("image_hd", False))
        write_model_folder(folder, config, renamed, loaded, hd=hd, max_shard_size=max_shard_size)
        write_provenance(folder, "convert", [describe_source("checkpoint", src)], before=[])
    return dst


def to_original(src, dst, *, max_shard_size: int | str = "5GB") -> Path:
    """
    Converts a folder of this project back into the published layout: every tensor bit for bit, the published config,
    and the tokenizer with the published special tokens.

    Args:
        src (`str` or `os.PathLike`): folder that `convert_checkpoint` wrote, or one fine-tuned from it.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): size limit of one weight file.

    Returns:
        `dst`.

    Raises:
        ValueError: If `src` is no such folder, or its architecture is one that the published code does not have.
    """
    src, dst = Path(src), Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        file = src / "config.json"
        config, checkpoint = read_model(src)
        with config_errors(file):
            check_has_published_form(config)
        processor_file = src / "processor_config.json"
        if not isinstance(read_json(processor_file).get("image_processor"), dict):
            raise ValueError(f"{processor_file} describes no image processor. Save the processor there again.")
        with config_errors(processor_file):
            hd = FlashSlothImageProcessor.from_pretrained(src).hd
        tokenizer = load_own_tokenizer(src)
        with config_errors(file):
            published = published_config(config, str(main_dtype(checkpoint)).removeprefix("torch."), hd)
            max_length = published["tokenizer_model_max_length"]
        write_json(published, folder / "config.json")
        published_tokenizer(tokenizer, max_length).save_pretrained(folder)
        renamed = {rename(name, to_original=True): tensor for name, tensor in checkpoint.items()}
        write_tensors(renamed, folder, max_shard_size)
    return dst
