# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A new, untrained FlashSloth from a causal language model and a SigLIP."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from flashsloth import FlashSlothConfig
from flashsloth.convert.backbones import language_tensors, read_text_config, read_vision_config, vision_tensors
from flashsloth.folders.config_file import config_errors
from flashsloth.folders.downloads import TOKENIZER_FILES, find_model, find_tokenizer
from flashsloth.folders.model_folder import check_tensors, expected_shapes, main_dtype, write_model_folder
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, write_provenance
from flashsloth.folders.tensors import Checkpoint, LazyTensor
from flashsloth.folders.tokenizer import add_special_tokens, base_vocabulary_size, load_tokenizer, token_id_fields


# The backbones of the published models. The commits are the ones under which public code pins and caches these
# repositories; the Hub itself could not be asked where this was written.
LANGUAGE_MODEL = "microsoft/phi-2@ef382358ec9e382308935a992d908de099b64c23"
VISION_MODEL = "google/siglip-so400m-patch14-384@9fdffc58afc957d1a03a25b10dba0329ab15c2a3"

VOCABULARY_MULTIPLE = 64  # a grown embedding table stays divisible for fast matrix products
QUERY_BASE_TEXT = " ."  # the published code adds this token's embedding to every query vector


def compose(
    language_model,
    vision_model,
    dst,
    *,
    tokenizer=None,
    pooling_mode: str = "attention",
    pooling_size: int = 3,
    num_query_tokens: int = 9,
    query_layer: int = 7,
    query_hidden_size: int | None = None,
    query_num_heads: int | None = None,
    query_base_token_id: int | None = None,
    vision_feature_layer: int = -2,
    hd: bool = False,
    dtype: torch.dtype | str | None = None,
    seed: int = 0,
    max_shard_size: int | str = "5GB",
) -> Path:
    """
    Writes a complete folder whose towers are trained and whose pooling, projector, query tokens and Embedded Query
    module are new: query tokens Kaiming-uniform with a = sqrt 5, linear layers normal, biases zero, as published. The
    backbones are copied one tensor at a time.

    Args:
        language_model (`str` or `os.PathLike`): causal language model with its tokenizer: a folder, or REPO or
            REPO@REVISION on the Hub. Only what is needed is downloaded.
        vision_model (`str` or `os.PathLike`): SigLIP, whole or its vision half, by the same kinds of names.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        tokenizer (`str` or `os.PathLike`, *optional*): the tokenizer, if it is not with the language model; named
            likewise.
        pooling_mode (`str`, *optional*, defaults to `"attention"`): see [`FlashSlothConfig`], as the next three.
        pooling_size (`int`, *optional*, defaults to 3): side of a pooled region, in patches.
        num_query_tokens (`int`, *optional*, defaults to 9): query tokens of a slot.
        query_layer (`int`, *optional*, defaults to 7): decoder layer before which they look at the patches.
        query_hidden_size (`int`, *optional*): width of their attention, in channels; half the vision width by default.
        query_num_heads (`int`, *optional*): its heads; as many as the decoder's by default.
        query_base_token_id (`int`, *optional*): token whose embedding each query vector builds on; by default the one
            of " .", if that is one token, and otherwise none.
        vision_feature_layer (`int`, *optional*, defaults to -2): hidden state of the tower that is used; -1 keeps all
            its layers, -2 all but the last.
        hd (`bool`, *optional*, defaults to `False`): whether images are seen in high definition by default.
        dtype (`torch.dtype` or `str`, *optional*): dtype of all weights; the language model's by default.
        seed (`int`, *optional*, defaults to 0): of the new weights.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): size limit of one weight file.

    Returns:
        `dst`.

    Raises:
        ValueError: If a backbone is missing, damaged or of the wrong kind, or the sizes do not fit; the message names
            both. Nothing is left at `dst` then.
        OSError: If the connection to the Hub is lost, or the disk is full. Nothing is left at `dst` then either.

    Example:

    ```python
    >>> from flashsloth.convert import composition

    >>> composition.compose(composition.LANGUAGE_MODEL, composition.VISION_MODEL, "flashsloth-untrained")
    ```
    """
    dst = Path(dst)
    with new_folder(dst) as folder, quiet_transformers():
        language_folder, vision_folder = find_model(language_model, TOKENIZER_FILES), find_model(vision_model)
        language_checkpoint, vision_checkpoint = Checkpoint(language_folder), Checkpoint(vision_folder)
        text_config = read_text_config(language_folder, language_checkpoint)
        vision_config = read_vision_config(vision_folder, vision_checkpoint, vision_feature_layer)

        tokenizer_folder = language_folder if tokenizer is None else find_tokenizer(tokenizer)
        tokenizer = load_tokenizer(tokenizer_folder, "Pass the tokenizer's folder with --tokenizer.")
        base_size = base_vocabulary_size(tokenizer, num_query_tokens)
        if base_size > text_config.vocab_size:
            raise ValueError(
                f"The tokenizer has {base_size} tokens, but the language model in {language_folder} embeds "
                f"{text_config.vocab_size}. Pass the tokenizer that belongs to it with --tokenizer."
            )
        tokenizer = add_special_tokens(tokenizer, num_query_tokens, text_config.max_position_embeddings)
        old_vocab_size = text_config.vocab_size
        if len(tokenizer) > old_vocab_size:
            text_config.vocab_size = math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        token_ids = token_id_fields(tokenizer, num_query_tokens)
        text_config.bos_token_id = tokenizer.bos_token_id
        text_config.eos_token_id, text_config.pad_token_id = token_ids["eos_token_id"], token_ids["pad_token_id"]
        if query_base_token_id is None:
            query_base_token_id = single_token_id(tokenizer, QUERY_BASE_TEXT)
        where = f"The pair of {language_folder} and {vision_folder}"
        with config_errors(where):
            config = FlashSlothConfig(
                vision_config=vision_config,
                text_config=text_config,
                pooling_mode=pooling_mode,
                pooling_size=pooling_size,
                num_query_tokens=num_query_tokens,
                query_layer=query_layer,
                query_hidden_size=query_hidden_size or vision_config.hidden_size // 2,
                query_num_heads=query_num_heads or text_config.num_attention_heads,
                query_base_token_id=query_base_token_id,
                image_suffix_length=num_tokens(tokenizer, "\n"),
                turn_prefix_length=num_tokens(tokenizer, "USER:"),
                lm_head_bias="lm_head.bias" in language_checkpoint,
                tie_word_embeddings=text_config.tie_word_embeddings,
                bos_token_id=tokenizer.bos_token_id,
                **token_ids,
            )
            shapes = expected_shapes(config)

        generator = torch.Generator().manual_seed(seed)
        tensors = language_tensors(language_checkpoint)
        dtype = main_dtype(tensors) if dtype is None else as_dtype(dtype)
        if config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)  # some checkpoints store it although it is the embedding
        if text_config.vocab_size > old_vocab_size:
            grow_vocabulary(tensors, old_vocab_size, text_config, generator)
        backbones = ("model.language_model.", "lm_head.")
        check_tensors(tensors, shapes_of(shapes, backbones), language_folder, "It must be a causal language model.")
        tower = vision_tensors(vision_checkpoint, vision_config.num_hidden_layers)
        tower_shapes = shapes_of(shapes, ("model.vision_tower.",))
        check_tensors(tower, tower_shapes, vision_folder, "It must be a SigLIP model.")
        tensors.update(tower)
        tensors.update(new_tensors(shapes, tensors, config.initializer_range, generator))
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        write_model_folder(folder, config, tensors, tokenizer, hd=hd, max_shard_size=max_shard_size)
        folders = {"language_model": language_folder, "vision_model": vision_folder}
        if tokenizer_folder != language_folder:
            folders["tokenizer"] = tokenizer_folder
        sources = [describe_source(role, source) for role, source in folders.items()]
        write_provenance(folder, "compose", sources, before=[], seed=seed)
    return dst


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point dtype by its name or itself."""
    known = {str(known).removeprefix("torch."): known for known in (torch.float32, torch.bfloat16, torch.float16)}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ValueError(f"dtype {name!r} must be one of {', '.join(known)}.")
    return known[name]


def single_token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The token that is exactly `text`, or `None` if it takes several."""
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    return token_ids[0] if len(token_ids) == 1 else None


def num_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens `text` takes."""
    return len(tokenizer.encode(text, add_special_tokens=False))


def shapes_of(shapes: Mapping[str, tuple[int, ...]], prefixes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of some modules."""
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def grow_vocabulary(
    tensors: dict[str, LazyTensor], old_size: int, text_config: PreTrainedConfig, generator: torch.Generator
) -> None:
    """Appends rows for the special tokens, in place: normal in embeddings and head, zero in the head's bias."""
    num_rows = text_config.vocab_size - old_size
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        if name not in tensors:
            continue
        old = tensors[name]
        rows = torch.zeros(num_rows, *old.shape[1:])
        if name.endswith("weight"):
            rows.normal_(std=text_config.initializer_range, generator=generator)

        def read(old=old, rows=rows):
            return torch.cat([old.read(), rows.to(old.dtype)])

        tensors[name] = LazyTensor((old.shape[0] + num_rows, *old.shape[1:]), old.dtype, read)


def new_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    present: Mapping[str, LazyTensor],
    std: float,
    generator: torch.Generator,
) -> dict[str, LazyTensor]:
    """The parameters that no backbone has, made in the order of their names' appearance, so that a seed fixes them."""
    made = {}
    for name, shape in shapes.items():
        if name in present:
            continue
        tensor = torch.empty(shape)
        if name == "model.query_tokens.weight":
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        elif name.endswith("_norm.weight"):
            tensor.fill_(1.0)
        elif name.endswith(".bias"):
            tensor.zero_()
        else:
            tensor.normal_(std=std, generator=generator)
        made[name] = LazyTensor(shape, tensor.dtype, lambda tensor=tensor: tensor)
    return made
