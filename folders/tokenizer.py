# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A decoder's tokenizer, and the special tokens that FlashSloth adds to it."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from flashsloth.folders.config_file import read_config_file
from flashsloth.folders.errors import reading_errors
from flashsloth.folders.trial import run_trial
from flashsloth.processing_flashsloth import (
    END_TOKEN,
    ESCAPE,
    IMAGE_TOKEN,
    PAD_TOKEN,
    QUERY_SLOT_TOKEN,
    QUERY_TOKEN,
)


TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = (TOKENIZER_FILE, "vocab.json")  # one of them makes a fast tokenizer
TRIAL_SECONDS = 30  # to read the largest file and to tokenize the texts, which takes a second
LONG = 200  # characters of the same kind in a row, on which a bad pattern takes for ever
TRIAL_TEXTS = [
    "A chat between a curious user and an assistant who gives detailed answers USER: <image>\nWhat is it? ASSISTANT:",
    *(character * LONG for character in ("a", "A", "1", " ", "\n", ".", "ü", "日")),
    "a word and another " * (LONG // 19),
]
# A file that cannot be read is left to the library that reads it next, whose error says more.
TRIAL = """
from tokenizers import Tokenizer

def trial(file, texts):
    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception:  # damaged: whoever loads it next says what is wrong, and only an abort matters here
        return {}
    for text in texts:
        tokenizer.decode(tokenizer.encode(text).ids)
    return {}
"""


def query_tokens(num_query_tokens: int) -> list[str]:
    """The placeholders of the query tokens of a slot."""
    return [QUERY_TOKEN.format(index) for index in range(num_query_tokens)]


def special_tokens(num_query_tokens: int) -> list[str]:
    """All added tokens, in the order of their ids."""
    return [QUERY_SLOT_TOKEN, END_TOKEN, IMAGE_TOKEN, PAD_TOKEN, *query_tokens(num_query_tokens)]


def try_tokenizer(folder: Path) -> None:
    """
    Tries the tokenizer.json of a folder, if it has one, on short texts. Its patterns may fail in the library, which
    then aborts in place of raising an error, or take for ever.

    Raises:
        ValueError: If it does not work.
    """
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return
    result = run_trial(TRIAL, {"file": str(file), "texts": TRIAL_TEXTS}, TRIAL_SECONDS, "short texts")
    if "error" in result:
        raise ValueError(f"{file} {result['error']}. Save the tokenizer there again.")


def check_tokenizer_files(folder: Path) -> None:
    """
    Raises:
        ValueError: If a folder lacks a file of the processor's tokenizer.
    """
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise ValueError(f"{folder} holds no tokenizer ({TOKENIZER_FILE}). Save the processor there again.")
    if not (folder / TOKENIZER_CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} lacks the settings of its tokenizer ({TOKENIZER_CONFIG_FILE}). Save the processor there again."
        )


def load_tokenizer(folder, remedy: str) -> PreTrainedTokenizerFast:
    """
    The tokenizer of a local folder. No code of the folder is run.

    Raises:
        ValueError: If there is none, with `remedy` in the message, or its files are damaged.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        sentencepiece = sorted(file.name for file in folder.glob("*.model"))
        if sentencepiece:
            raise ValueError(
                f"{folder} holds only a sentencepiece model ({sentencepiece[0]}). Load it with AutoTokenizer and save "
                "it: that writes the tokenizer.json which is needed here."
            )
        raise ValueError(f"{folder} holds no tokenizer (neither {' nor '.join(VOCABULARY_FILES)}). {remedy}")
    if (folder / "config.json").is_file():
        read_config_file(folder / "config.json")  # AutoTokenizer reads it too
    try_tokenizer(folder)
    with reading_errors("tokenizer", folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"The tokenizer in {folder} is a {type(tokenizer).__name__}, not a fast one. {remedy}")
    return tokenizer


def base_vocabulary_size(tokenizer: PreTrainedTokenizerBase, num_query_tokens: int) -> int:
    """Rows of the embeddings that a tokenizer needs, without those of our special tokens that it has already."""
    added = set(special_tokens(num_query_tokens))
    return 1 + max((index for token, index in tokenizer.get_vocab().items() if token not in added), default=-1)


def add_special_tokens(
    tokenizer: PreTrainedTokenizerBase, num_query_tokens: int = 9, max_length: int = 2048
) -> PreTrainedTokenizerBase:
    """
    Makes a decoder's tokenizer one for `FlashSlothProcessor`. It gets the special tokens, `</s>` as the end, `<pad>`
    as the padding, on the left as generation needs it, and a normalizer that removes the character with which the
    processor escapes special tokens in a user's text.

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
        ValueError: If the ids of the query tokens are not consecutive.
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
