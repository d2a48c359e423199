# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Published FlashSloth checkpoints (https://huggingface.co/Tongbo) to this project's layout, and back."""

from pathlib import Path

from flashsloth import FlashSlothConfig
from flashsloth.convert.names import PUBLISHED, backwards, rename, renamed
from flashsloth.convert.published_config import (
    check_has_published_form,
    config_from_published,
    published_config,
    read_published_config,
)
from flashsloth.convert.published_tokenizer import check_token_ids, published_tokenizer
from flashsloth.convert.published_tower import infer_vision_config, without_unused_layers
from flashsloth.folders.config_file import check_depth
from flashsloth.folders.downloads import TOKENIZER_FILES, find_model, find_tokenizer
from flashsloth.folders.errors import config_errors
from flashsloth.folders.json_files import write_json
from flashsloth.folders.model_folder import (
    check_tensors,
    expected_shapes,
    main_dtype,
    new_generation_config,
    new_processor,
    read_model,
    write_model_folder,
)
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, write_provenance
from flashsloth.folders.tensors import Checkpoint, LazyTensor, write_tensors
from flashsloth.folders.tokenizer import add_special_tokens, load_tokenizer
from flashsloth.loading import load_processor


def convert_checkpoint(src, dst, *, tokenizer=None, vision_config=None, max_shard_size: int | str = "5GB") -> Path:
    """
    Converts a checkpoint in the published layout into a complete folder of this project. Weights keep their dtype and
    are copied one at a time.

    Args:
        src (`str` or `os.PathLike`): config.json (`model_type` "phi") and weights: a folder, or REPO or REPO@REVISION
            on the Hub. Only what is needed is downloaded.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        tokenizer (`str` or `os.PathLike`, *optional*): Phi-2's tokenizer: a folder or a name on the Hub, as `src`; by
            default the tokenizer in `src`.
        vision_config (`str` or `os.PathLike`, *optional*): SigLIP's config.json, with or without the text half. A
            tower other than so400m needs it, as no tensor shows its number of heads.
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
        fields = read_published_config(src)
        config, tensors = read_published_weights(src, fields, vision_config)
        tokenizer_folder = src if tokenizer is None else find_tokenizer(tokenizer)
        loaded = load_tokenizer(tokenizer_folder, "Pass --tokenizer microsoft/phi-2, or a folder with it.")
        loaded = add_special_tokens(loaded, config.num_query_tokens, config.text_config.max_position_embeddings)
        check_token_ids(loaded, config, tokenizer_folder)
        processor = new_processor(config, loaded, hd=bool(fields.get("image_hd", False)))
        write_model_folder(
            folder, config, tensors, processor, new_generation_config(config), max_shard_size=max_shard_size
        )
        write_provenance(folder, "convert", [describe_source("checkpoint", src)], before=[])
    return dst


def read_published_weights(src: Path, fields: dict, vision_config) -> tuple[FlashSlothConfig, dict[str, LazyTensor]]:
    """
    Our config of a published checkpoint, and its weights under our names.

    Args:
        src (`Path`): its folder.
        fields (`dict`): of its config.json, by [`read_published_config`].
        vision_config (`str` or `os.PathLike`, *optional*): see [`convert_checkpoint`].

    Raises:
        ValueError: If the weights are damaged or do not fit the config; each tensor that does not is listed.
    """
    file = src / "config.json"
    checkpoint = Checkpoint(src)
    check_depth(fields, checkpoint, "model.layers.", file)
    with config_errors(file):
        tower = infer_vision_config(fields, checkpoint, vision_config)
        tensors = without_unused_layers(checkpoint, tower)
        config = config_from_published(fields, tensors, tower)
        shapes = {rename(name, backwards(PUBLISHED)): shape for name, shape in expected_shapes(config).items()}
    check_tensors(
        tensors,
        shapes,
        src,
        "Download the checkpoint again; if its tower is not so400m, pass the SigLIP config with --vision-config.",
    )
    config.dtype = main_dtype(tensors)
    return config, renamed(tensors, PUBLISHED)


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
            Nothing is left at `dst` then.
    """
    src, dst = Path(src), Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        config, checkpoint = read_model(src)
        processor = load_processor(src)
        with config_errors(src / "config.json"):
            check_has_published_form(config)
            dtype = str(main_dtype(checkpoint)).removeprefix("torch.")
            fields = published_config(config, dtype, processor.image_processor.hd)
            max_length = fields["tokenizer_model_max_length"]
        write_json(fields, folder / "config.json")
        published_tokenizer(processor.tokenizer, max_length).save_pretrained(folder)
        write_tensors(renamed(checkpoint, backwards(PUBLISHED)), folder, max_shard_size)
    return dst
