# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Whether the parts of a model folder belong together: processor, tokenizer and generation config to the config. Parts
that do not fit would load without a word, and answer wrongly.
"""

from pathlib import Path

from PIL import Image
from transformers.utils import GENERATION_CONFIG_NAME

from flashsloth import FlashSlothConfig, FlashSlothImageProcessor, FlashSlothProcessor
from flashsloth.folders.config_file import MAX_COUNT
from flashsloth.folders.generation_settings import KNOWN, OF_A_CALL, SMALLEST, expectation, is_whole
from flashsloth.folders.json_files import read_settings
from flashsloth.folders.tokenizer import token_id_fields


REMEDY = "Save the processor that belongs to the model there again."
SIZES = ("num_query_tokens", "num_visual_tokens")  # that a processor has from the config
MAX_TILE_GRID = 16  # tiles along a side of an image; the published model has 2
NUM_CHANNELS = 3  # of an RGB image
GREY_LEVELS = 256
# Of processed pixels, whose values usually lie within 3 of 0, with about 2 between black and white.
MAX_PIXEL = 255
MIN_CONTRAST = 0.1

NOTES = ("transformers_version", "_from_model_config")


def check_processor_sizes(fields: dict, config: FlashSlothConfig | None, where) -> None:
    """
    Compares the sizes in a processor_config.json with the config, before a processor makes lists of such lengths.

    Args:
        fields (`dict`): those of the file.
        config (`FlashSlothConfig`, *optional*): the model's, if it is known.
        where: the file, for the message.

    Raises:
        ValueError: If a size differs, or is beyond reason.
    """
    sizes = {} if config is None else {"num_query_tokens": config.num_query_tokens}
    if config is not None:
        sizes["num_visual_tokens"] = config.num_visual_tokens
    for name in SIZES:
        if name not in fields:
            continue
        found = fields[name]
        if not is_whole(found) or not 0 <= found <= MAX_COUNT:
            raise ValueError(f"{where} has {name} {found!r}, which is not a count of tokens. {REMEDY}")
        if name in sizes and found != sizes[name]:
            raise ValueError(f"{where} has {name} {found}, but the config has {sizes[name]}. {REMEDY}")


def check_escaped_tokens(fields: dict, where) -> None:
    """
    Checks the texts that a processor escapes in a conversation.

    Args:
        fields (`dict`): those of a processor_config.json.
        where: the file, for the message.

    Raises:
        ValueError: If they are not a list of texts, or if one is empty.
    """
    tokens = fields.get("escaped_tokens")
    is_list = isinstance(tokens, list) and all(isinstance(token, str) and token for token in tokens)
    if tokens is not None and not is_list:
        raise ValueError(
            f"{where} has escaped_tokens {str(tokens)[:80]!r}, which is not a list of texts that are not empty. "
            f"{REMEDY}"
        )


def check_image_processor(image_processor: FlashSlothImageProcessor, where) -> None:
    """
    What the image processor itself does not refuse when it is made.

    Raises:
        ValueError: If images cannot be processed with its settings, or would become a single colour.
    """
    settings = image_processor.to_dict()

    def refuse(name: str, needed: str):
        raise ValueError(f"The image processor in {where} has {name} {settings[name]!r}, which is not {needed}.")

    if settings["resample"] not in list(Image.Resampling):
        refuse("resample", f"one of Pillow's filters, 0 to {max(Image.Resampling)}")
    if settings["tile_grid"] > MAX_TILE_GRID:
        refuse("tile_grid", f"a whole number up to {MAX_TILE_GRID}")
    for name in ("hd", "do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if not isinstance(settings[name], bool):
            refuse(name, "true or false")
    for black, white in _extremes(settings):
        if max(abs(black), abs(white)) > MAX_PIXEL or white - black < MIN_CONTRAST:
            raise ValueError(
                f"The image processor in {where} turns black into {black:g} and white into {white:g}: its "
                "rescale_factor, image_mean and image_std do not belong together."
            )


def _extremes(settings: dict) -> list[tuple[float, float]]:
    """What an image processor makes of the darkest and of the brightest pixel, for each channel."""
    white = (GREY_LEVELS - 1) * (settings["rescale_factor"] if settings["do_rescale"] else 1)
    if not settings["do_normalize"]:
        return [(0, white)]
    pairs = zip(_channels(settings["image_mean"]), _channels(settings["image_std"]), strict=True)
    return [((0 - mean) / std, (white - mean) / std) for mean, std in pairs]


def _channels(value) -> list:
    """A value for each channel; a single one is that of all."""
    return list(value) if isinstance(value, list | tuple) else [value] * NUM_CHANNELS


def check_processor(processor: FlashSlothProcessor, config: FlashSlothConfig, where) -> None:
    """
    Compares a processor and its tokenizer with a model's config.

    Args:
        processor (`FlashSlothProcessor`): the processor.
        config (`FlashSlothConfig`): the model's.
        where: the processor's folder, for the message.

    Raises:
        ValueError: If sizes, token ids or image sizes differ; the message names both values.
    """
    found = {name: vars(processor)[name] for name in SIZES}
    check_processor_sizes(found, config, where)
    side = config.vision_config.image_size
    size = dict(processor.image_processor.size or {})
    if (size.get("height"), size.get("width")) != (side, side):
        raise ValueError(
            f"The image processor in {where} makes views of {size}, but the vision tower takes {side} x {side} "
            f"pixels. {REMEDY}"
        )
    tokenizer = processor.tokenizer
    for name, token_id in token_id_fields(tokenizer, config.num_query_tokens).items():
        expected = config.to_dict()[name]
        if token_id not in _as_list(expected):
            raise ValueError(
                f"The tokenizer in {where} has {name} {token_id}, but the config has {expected}. {REMEDY}"
            )
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer in {where} has a token of id {largest}, but the decoder embeds "
            f"{config.text_config.vocab_size} tokens. {REMEDY}"
        )
    positions = config.text_config.max_position_embeddings
    if not is_whole(tokenizer.model_max_length) or not 1 <= tokenizer.model_max_length <= positions:
        raise ValueError(
            f"The tokenizer in {where} has model_max_length {tokenizer.model_max_length!r}, but the decoder has "
            f"{positions} positions. {REMEDY}"
        )


def check_generation_config(folder: Path, config: FlashSlothConfig) -> None:
    """
    Checks the generation config of a folder, if it has one.

    Raises:
        ValueError: If it is damaged, a setting has the wrong type or is not one for this model, or its token ids are
            not those of the model.
    """
    file = folder / GENERATION_CONFIG_NAME
    if not file.is_file():
        return
    fields = {name: value for name, value in read_settings(file).items() if value is not None and name not in NOTES}
    for name, value in fields.items():
        expected = expectation(name, value, config.text_config.vocab_size)
        if expected is not None:
            raise ValueError(f"{file} has {name} {str(value)[:80]!r}: it must be {expected}.")
        is_known = name in KNOWN and name not in OF_A_CALL
        if not is_known or name in SMALLEST and value > MAX_COUNT:
            raise ValueError(f"{file} has {name} {str(value)[:80]!r}, which is no setting of this model. Remove it.")
    if "eos_token_id" not in fields:  # `generate` does not look it up in the config
        raise ValueError(
            f"{file} has no eos_token_id: answers would not end. Put that of the config there: {config.eos_token_id}."
        )
    ends = _as_list(fields["eos_token_id"])
    if not set(config.eos_token_ids).intersection(ends):
        raise ValueError(
            f"{file} has eos_token_id {fields['eos_token_id']}, but the config has {config.eos_token_id}: answers "
            "would not end. Make them the same."
        )
    suppressed = set(ends).intersection(fields.get("suppress_tokens", []))
    if suppressed:
        raise ValueError(f"{file} suppresses {min(suppressed)}, the end of an answer. Take it out of suppress_tokens.")


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]
