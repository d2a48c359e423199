# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The tokenizer of the tiny checkpoints: byte-level BPE, which encodes any text without loss, with single digits."""

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flashsloth.convert import add_special_tokens
from flashsloth.convert.composition import QUERY_BASE_TEXT
from flashsloth.tiny.conversations import conversation
from flashsloth.tiny.questions import DESCRIBE, caption
from flashsloth.tiny.scenes import STYLES, generator, make_scene


QUERY_TOKENS = 4
POSITIONS = 1024  # the longest sequence of the decoder, in tokens


def corpus(scenes: int) -> Iterator[str]:
    """The text from which the vocabulary is learned: captions and conversations about training scenes."""
    for index in range(scenes):
        scene = make_scene("train", STYLES[index % 3], index)
        rng = generator("train", "corpus", index)
        yield caption(scene, rng)
        yield f"A chat between a curious user and an artificial intelligence assistant. {QUERY_BASE_TEXT}"
        yield "The assistant gives helpful, detailed, and polite answers to the user's questions."
        yield from (DESCRIBE, "USER", "USER:", " USER:", " ASSISTANT:")
        for turn in conversation(scene, rng):
            yield f" {turn.question}"
            yield turn.question
            yield f" {turn.answer}"


def train_tokenizer(vocabulary: int, scenes: int) -> PreTrainedTokenizerFast:
    """
    Trains the tokenizer.

    Args:
        vocabulary (`int`): The number of byte-level tokens; the special tokens follow them.
        scenes (`int`): The number of training scenes whose text is counted.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(scenes), trainer)
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer), QUERY_TOKENS, POSITIONS)
