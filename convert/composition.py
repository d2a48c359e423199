# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A new, untrained FlashSloth from a causal language model and a SigLIP."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from flashsloth import FlashSlothConfig
from flashsloth.convert.backbones import Backbone, read_language_model, read_vision_model
from flashsloth.convert.new_weights import grow_vocabulary, new_tensors
from flashsloth.folders.downloads import TOKENIZER_FILES, find_model, find_tokenizer
from flashsloth.folders.errors import config_errors
from flashsloth.folders.model_folder import (
    check_tensors,
    expected_shapes,
    main_dtype,
    new_generation_config,
    new_processor,
    write_model_folder,
)
from flashsloth.folders.new_folder import new_folder, quiet_transformers
from flashsloth.folders.provenance import describe_source, write_provenance
from flashsloth.folders.tensors import LazyTensor
from flashsloth.folders.tokenizer import add_special_tokens, base_vocabulary_size, load_tokenizer, token_id_fields


# The backbones of the published models. The commits are those at which public code pins these repositories; they were
# not compared with the Hub itself.
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
    module are new. As published, new query tokens are Kaiming-uniform with a = sqrt 5, linear layers normal, and
    biases zero. The backbones are copied one tensor at a time.

    Args:
        language_model (`str` or `os.PathLike`): causal language model with its tokenizer: a folder, or REPO or
            REPO@REVISION on the Hub. Only what is needed is downloaded.
        vision_model (`str` or `os.PathLike`): SigLIP, whole or its vision half: a folder or a name on the Hub.
        dst (`str` or `os.PathLike`): folder to write; must not exist, or be empty.
        tokenizer (`str` or `os.PathLike`, *optional*): the tokenizer, if it is not with the language model: a folder
            or a name on the Hub.
        pooling_mode (`str`, *optional*, defaults to `"attention"`): see [`FlashSlothConfig`].
        pooling_size (`int`, *optional*, defaults to 3): side of a pooled region, in patches.
        num_query_tokens (`int`, *optional*, defaults to 9): query tokens of a slot.
        query_layer (`int`, *optional*, defaults to 7): decoder layer before which they attend to the patches.
        query_hidden_size (`int`, *optional*): width of their attention, in channels; half the vision width by default.
        query_num_heads (`int`, *optional*): its heads; as many as the decoder's by default.
        query_base_token_id (`int`, *optional*): token whose embedding is added to each query vector; by default that
            of " ." if that is one token, and otherwise none.
        vision_feature_layer (`int`, *optional*, defaults to -2): hidden state of the tower that is used; -1 keeps all
            its layers, -2 all but the last.
        hd (`bool`, *optional*, defaults to `False`): whether images are processed in high definition by default.
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
        language = read_language_model(find_model(language_model, TOKENIZER_FILES))
        vision = read_vision_model(find_model(vision_model), vision_feature_layer)
        tokenizer_folder = language.folder if tokenizer is None else find_tokenizer(tokenizer)
        extended = extended_tokenizer(tokenizer_folder, language, num_query_tokens)
        config = joined_config(
            language,
            vision,
            extended,
            pooling_mode=pooling_mode,
            pooling_size=pooling_size,
            num_query_tokens=num_query_tokens,
            query_layer=query_layer,
            query_hidden_size=vision.config.hidden_size // 2 if query_hidden_size is None else query_hidden_size,
            query_num_heads=language.config.num_attention_heads if query_num_heads is None else query_num_heads,
            query_base_token_id=query_base_token_id,
        )
        config.dtype = main_dtype(language.tensors) if dtype is None else as_dtype(dtype)
        tensors = joined_tensors(language, vision, config, seed)
        processor, generation_config = new_processor(config, extended, hd), new_generation_config(config)
        write_model_folder(folder, config, tensors, processor, generation_config, max_shard_size=max_shard_size)
        folders = {"language_model": language.folder, "vision_model": vision.folder}
        if tokenizer_folder != language.folder:
            folders["tokenizer"] = tokenizer_folder
        sources = [describe_source(role, source) for role, source in folders.items()]
        write_provenance(folder, "compose", sources, before=[], seed=seed)
    return dst


def extended_tokenizer(folder: Path, language: Backbone, num_query_tokens: int) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a folder with our special tokens.

    Raises:
        ValueError: If it has more tokens than the language model embeds.
    """
    tokenizer = load_tokenizer(folder, "Pass the tokenizer's folder with --tokenizer.")
    base_size = base_vocabulary_size(tokenizer, num_query_tokens)
    if base_size > language.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {base_size} tokens, but the language model in {language.folder} embeds "
            f"{language.config.vocab_size}. Pass the tokenizer that belongs to it with --tokenizer."
        )
    return add_special_tokens(tokenizer, num_query_tokens, language.config.max_position_embeddings)


def joined_config(
    language: Backbone,
    vision: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    num_query_tokens: int,
    query_base_token_id: int | None,
    **sizes,
) -> FlashSlothConfig:
    """
    The config of the new model. The vocabulary of its decoder has room for the special tokens.

    Args:
        language (`Backbone`), vision (`Backbone`): the two trained parts.
        tokenizer (`PreTrainedTokenizerBase`): with the special tokens.
        num_query_tokens (`int`), query_base_token_id (`int`, *optional*): see [`compose`].
        sizes: further fields of [`FlashSlothConfig`].

    Raises:
        ValueError: If the sizes do not fit.
    """
    token_ids = token_id_fields(tokenizer, num_query_tokens)
    text_config = copy.deepcopy(language.config)
    if len(tokenizer) > text_config.vocab_size:
        text_config.vocab_size = math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text_config.bos_token_id = tokenizer.bos_token_id
    text_config.eos_token_id, text_config.pad_token_id = token_ids["eos_token_id"], token_ids["pad_token_id"]
    if query_base_token_id is None:
        query_base_token_id = single_token_id(tokenizer, QUERY_BASE_TEXT)
    with config_errors(f"The pair of {language.folder} and {vision.folder}"):
        return FlashSlothConfig(
            vision_config=vision.config,
            text_config=text_config,
            num_query_tokens=num_query_tokens,
            query_base_token_id=query_base_token_id,
            image_suffix_length=num_tokens(tokenizer, "\n"),
            turn_prefix_length=num_tokens(tokenizer, "USER:"),
            lm_head_bias="lm_head.bias" in language.tensors,
            tie_word_embeddings=text_config.tie_word_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            **token_ids,
            **sizes,
        )


def joined_tensors(language: Backbone, vision: Backbone, config: FlashSlothConfig, seed: int) -> dict[str, LazyTensor]:
    """
    All weights of the new model, in the config's dtype: those of the two parts, with rows for the special tokens, and
    new ones for the rest.

    Raises:
        ValueError: If the weights of a part do not fit its config; each tensor that does not is listed.
    """
    generator = torch.Generator().manual_seed(seed)
    with config_errors(f"The pair of {language.folder} and {vision.folder}"):
        shapes = expected_shapes(config)
    tensors = dict(language.tensors)
    if config.text_config.vocab_size > language.config.vocab_size:
        grow_vocabulary(tensors, language.config.vocab_size, config.text_config, generator)
    decoder_shapes = shapes_of(shapes, ("model.language_model.", "lm_head."))
    check_tensors(tensors, decoder_shapes, language.folder, "It must be a causal language model.")
    tower_shapes = shapes_of(shapes, ("model.vision_tower.",))
    check_tensors(vision.tensors, tower_shapes, vision.folder, "It must be a SigLIP model.")
    tensors.update(vision.tensors)
    tensors.update(new_tensors(shapes, tensors, config.initializer_range, generator))
    return {name: tensor.to(config.dtype) for name, tensor in tensors.items()}


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
