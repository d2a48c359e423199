# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The special tokens that FlashSloth adds to its decoder's tokenizer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from flashsloth import FlashSlothConfig
from flashsloth.folders.config_file import read_config
from flashsloth.folders.json_files import one_line
from flashsloth.processing_flashsloth import (
    END_TOKEN,
    ESCAPE,
    IMAGE_TOKEN,
    PAD_TOKEN,
    QUERY_SLOT_TOKEN,
    QUERY_TOKEN,
)


# What the published tokenizer has of the special tokens, and what it pads with.
PUBLISHED_TOKENS = (QUERY_SLOT_TOKEN, END_TOKEN, IMAGE_TOKEN)
PUBLISHED_PAD_TOKEN = "<|endoftext|>"

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def query_tokens(num_query_tokens: int) -> list[str]:
    """The placeholders of the query tokens of a slot."""
    return [QUERY_TOKEN.format(index) for index in range(num_query_tokens)]


def special_tokens(num_query_tokens: int) -> list[str]:
    """All added tokens, in the order of their ids."""
    return [QUERY_SLOT_TOKEN, END_TOKEN, IMAGE_TOKEN, PAD_TOKEN, *query_tokens(num_query_tokens)]


def load_tokenizer(folder, remedy: str) -> PreTrainedTokenizerFast:
    """
    The tokenizer of a local folder.

    Raises:
        ValueError: If there is none, with `remedy` in the message, or its files are damaged.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        sentencepiece = sorted(file.name for file in folder.glob("*.model"))
        if sentencepiece:
            raise ValueError(
                f"{folder} holds only a sentencepiece model ({sentencepiece[0]}). Load it with AutoTokenizer and save "
                "it: that writes the tokenizer.json which is needed here."
            )
        raise ValueError(f"{folder} holds no tokenizer (neither {' nor '.join(TOKENIZER_FILES)}). {remedy}")
    if (folder / "config.json").is_file():
        read_config(folder / "config.json")  # which AutoTokenizer reads too
    with tokenizer_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"The tokenizer in {folder} is a {type(tokenizer).__name__}, not a fast one. {remedy}")
    return tokenizer


def load_own_tokenizer(folder) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder of this project. For its config `AutoTokenizer` would run the folder's code."""
    if not (Path(folder) / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json. Save the processor there too.")
    with tokenizer_errors(folder):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


@contextmanager
def tokenizer_errors(folder) -> Iterator[None]:
    """Makes whatever a damaged tokenizer raises one `ValueError` that names its folder."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises plain ones
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"The tokenizer in {folder} cannot be read: {reason}") from error


def base_vocabulary_size(tokenizer: PreTrainedTokenizerBase, num_query_tokens: int) -> int:
    """Rows that a tokenizer's vocabulary needs in the embeddings, without those special tokens that it has already."""
    added = set(special_tokens(num_query_tokens))
    return 1 + max((index for token, index in tokenizer.get_vocab().items() if token not in added), default=-1)


def add_special_tokens(
    tokenizer: PreTrainedTokenizerBase, num_query_tokens: int = 9, max_length: int = 2048
) -> PreTrainedTokenizerBase:
    """
    Makes a decoder's tokenizer one for `FlashSlothProcessor`: with the special tokens, `</s>` as the end, `<pad>` as
    the padding, on the left as generation needs it, and a normalizer that takes out the character by which the
    processor keeps special tokens out of a user's text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer; it may have some of the tokens already.
        num_query_tokens (`int`, *optional*, defaults to 9): query tokens of a slot.
        max_length (`int`, *optional*, defaults to 2048): positions of the decoder, in tokens.

    Returns:
        `PreTrainedTokenizerBase`: a new tokenizer.

    Example:

    ```python
    >>> from flashsloth.convert import add_special_tokens
    >>> from transformers import AutoTokenizer

    >>> tokenizer = add_special_tokens(AutoTokenizer.from_pretrained("microsoft/phi-2"))
    >>> tokenizer.convert_tokens_to_ids(["<learnable>", "</s>", "<image>", "<pad>", "<query_0>"])
    [50295, 50296, 50297, 50298, 50299]
    ```
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens(num_query_tokens)]
    )
    steps = [normalizers.Replace(ESCAPE, "")]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = normalizers.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        unk_token=tokenizer.unk_token,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        model_max_length=max_length,
    )


def token_id_fields(tokenizer: PreTrainedTokenizerBase, num_query_tokens: int) -> dict[str, int]:
    """
    The ids of the special tokens, by the name of their field in `FlashSlothConfig`.

    Raises:
        ValueError: If the query tokens do not follow each other.
    """
    fields = {
        "query_slot_token_id": QUERY_SLOT_TOKEN,
        "eos_token_id": END_TOKEN,
        "image_token_id": IMAGE_TOKEN,
        "pad_token_id": PAD_TOKEN,
    }
    token_ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in fields.items()}
    query_ids = tokenizer.convert_tokens_to_ids(query_tokens(num_query_tokens))
    if query_ids:
        if query_ids != list(range(query_ids[0], query_ids[0] + num_query_tokens)):
            raise ValueError(f"The tokenizer's query tokens must have consecutive ids, but have {query_ids}.")
        token_ids["first_query_token_id"] = query_ids[0]
    return token_ids


def check_token_ids(tokenizer: PreTrainedTokenizerBase, config: FlashSlothConfig, where) -> None:
    """
    Compares a tokenizer with the ids that a published checkpoint was trained with.

    Raises:
        ValueError: If they differ.
    """
    found = token_id_fields(tokenizer, config.num_query_tokens)
    expected = {name: config.to_dict()[name] for name in found}
    if found != expected:
        differing = ", ".join(
            f"{name} {found[name]} instead of {expected[name]}" for name in found if found[name] != expected[name]
        )
        raise ValueError(
            f"The tokenizer in {where} does not fit the checkpoint: {differing}. Its vocabulary has "
            f"{base_vocabulary_size(tokenizer, config.num_query_tokens)} entries without the "
            f"special tokens, Phi-2's has {config.query_slot_token_id}. Pass --tokenizer microsoft/phi-2, or a folder "
            "with it."
        )


def published_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PreTrainedTokenizerBase:
    """A tokenizer with the special tokens of the published checkpoints only, padding on the right."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = set(special_tokens(len(content["added_tokens"]))) - set(PUBLISHED_TOKENS)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in ours]
    content["padding"] = content["truncation"] = None
    content["normalizer"] = without_escape(content["normalizer"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=PUBLISHED_PAD_TOKEN,
        unk_token=PUBLISHED_PAD_TOKEN,
        pad_token=PUBLISHED_PAD_TOKEN,
        eos_token=END_TOKEN,
        padding_side="right",
        model_max_length=max_length,
    )


def without_escape(normalizer: dict) -> dict | None:
    """The normalizer that the tokenizer had before `add_special_tokens`, in the form of tokenizer.json."""
    steps = [step for step in normalizer["normalizers"] if step.get("pattern") != {"String": ESCAPE}]
    return steps[0] if steps else None
