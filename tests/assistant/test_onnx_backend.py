# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""An exported model answers as the model of torch that it was made from, however it is asked."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from model_folders import error_of
from samples import make_image

import flashsloth
from flashsloth.assistant.assistant import Assistant
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.tiny.data import make_dataset


SCENE, WORDS = "examples/scene.png", "examples/small_text.png"
QUESTION = "What colour is the square?"
# Of an answer to a batch of rows of all kinds.
ROWS = [
    (SCENE, QUESTION),
    (None, "What is your name?"),
    ([SCENE, WORDS], "Which words do you see in these images, and where are they?"),
    (WORDS, "Read the word."),
]

# What `flashsloth.load(backend="onnxruntime")` does in a process where torch cannot be imported.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import flashsloth

model = flashsloth.load(sys.argv[1], backend="onnxruntime")
chat = model.chat()
print(chat.ask(sys.argv[3], sys.argv[2], explain=True).attention[0].query_tokens.shape)
print(model.ask(sys.argv[2], sys.argv[3]))
try:
    flashsloth.load(sys.argv[4])
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def by_torch() -> Assistant:
    return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def by_onnx(exported) -> Assistant:
    return flashsloth.load(exported, backend="onnxruntime", dtype="float32")


def fields(answer) -> tuple:
    """An answer without its times."""
    return answer.text, answer.finish_reason, answer.num_tokens, answer.prompt_tokens, answer.visual_tokens


@pytest.fixture(scope="module")
def exam() -> tuple[list, list]:
    """Held-out images, and a question about each."""
    rows = make_dataset("exam", "heldout", 60)
    return [row["images"][0] for row in rows], [row["messages"][0]["content"][1]["text"] for row in rows]


def test_answers_are_those_of_torch(by_torch, by_onnx, exam):
    assert list(map(fields, by_onnx.ask(*exam))) == list(map(fields, by_torch.ask(*exam)))


@pytest.mark.parametrize("hd", [False, True])
def test_a_batch_of_mixed_rows_is_answered_as_one_by_one(by_torch, by_onnx, hd):
    images, questions = zip(*ROWS, strict=True)
    options = {"hd": hd, "max_new_tokens": 24}
    expected = list(map(fields, by_torch.ask(list(images), list(questions), **options)))
    assert list(map(fields, by_onnx.ask(list(images), list(questions), **options))) == expected
    assert [fields(by_onnx.ask(*row, **options)) for row in ROWS] == expected
    assert len({text for text, *_ in expected}) == len(ROWS)  # rows that could be told apart


def test_logits_are_those_of_torch(by_torch, by_onnx):
    images, questions = zip(*ROWS, strict=True)
    rows = [(assistant_images(one), question) for one, question in zip(images, questions, strict=True)]
    inputs = by_torch._prepare(rows, None, False)
    with torch.inference_mode():
        expected = by_torch.model(**inputs, logits_to_keep=1).logits[:, -1].numpy()
    input_ids, mask, features = by_onnx.backend._whole(
        by_onnx._prepare(rows, None, False), by_onnx.backend.new_memory()
    )
    model = by_onnx.model
    logits, _ = model.decode(model.decoder_inputs(input_ids, mask, features, 0), model.empty_past(len(rows)))
    np.testing.assert_allclose(logits[:, -1], expected, atol=1e-4)


def assistant_images(images) -> list:
    from flashsloth.assistant.questions import read_images

    return read_images(images)


TURNS = [
    (QUESTION, SCENE),
    ("What colour is the star?", None),
    ("Which word do you see?", [WORDS, SCENE]),
    ("And in the first image?", []),
]


def test_turns_of_a_chat_are_those_of_torch(by_torch, by_onnx):
    chats = [assistant.chat() for assistant in (by_torch, by_onnx)]
    for index, (question, images) in enumerate(TURNS):
        options = {"max_new_tokens": 3} if index == 1 else {}  # an answer that is cut off
        expected, answer = (chat.ask(question, images, explain=True, **options) for chat in chats)
        assert fields(answer) == fields(expected)
        for found, wanted in zip(answer.attention, expected.attention, strict=True):
            assert found.query_tokens.sum() > 0
            np.testing.assert_allclose(found.query_tokens, wanted.query_tokens, atol=1e-4 * wanted.query_tokens.max())
            np.testing.assert_allclose(found.pooling, wanted.pooling, atol=1e-4 * wanted.pooling.max())


def test_a_turn_computes_only_what_is_new(by_onnx, monkeypatch):
    model, calls = by_onnx.model, []
    encode, embed = model.encode, model.embed
    monkeypatch.setattr(
        model, "encode", lambda views, *args: calls.append(("views", len(views))) or encode(views, *args)
    )
    monkeypatch.setattr(model, "embed", lambda ids, *args: calls.append(("ids", ids.shape[1])) or embed(ids, *args))
    chat = by_onnx.chat()
    first = chat.ask(QUESTION, SCENE)
    assert calls[:2] == [("views", 1), ("ids", first.prompt_tokens)]
    calls.clear()
    second = chat.ask("What colour is the star?")
    # of the first answer only its end was not computed
    assert calls[0] == ("ids", second.prompt_tokens - first.prompt_tokens - first.num_tokens + 1)
    assert ("views", 1) not in calls


def test_a_failed_turn_leaves_a_chat_as_it_was(by_onnx, monkeypatch):
    chat = by_onnx.chat()
    chat.ask(QUESTION, SCENE)
    before = chat.messages

    def fail(*_):
        raise MemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(by_onnx.model, "decode", fail)
        with pytest.raises(MemoryError):
            chat.ask("What colour is the star?")
    assert chat.messages == before
    again = by_onnx.chat()
    again.ask(QUESTION, SCENE)
    assert fields(chat.ask("What colour is the star?")) == fields(again.ask("What colour is the star?"))


def test_pieces_of_a_stream_are_the_answer(by_torch, by_onnx):
    with by_onnx.stream(WORDS, "What do you see here, and where?") as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    assert fields(stream.answer) == fields(by_torch.ask(WORDS, "What do you see here, and where?"))


def test_a_stream_can_be_stopped(by_onnx):
    stream = by_onnx.stream(SCENE, "What is here?", min_new_tokens=200)
    next(stream)
    stream.close()
    assert stream.answer.finish_reason == "interrupted"
    assert stream.answer.num_tokens < 200


OPTIONS = {
    "a penalty": {"repetition_penalty": 1.4, "min_new_tokens": 20},
    "a stop string": {"stop_strings": ["is", "never"]},
    "a stop string that begins in the prompt": {"stop_strings": ["ASSISTANT: The"]},
    "a limit": {"max_new_tokens": 2},
    "suppressed tokens": {"suppress_tokens": [300, 301, 302, 400, 425], "min_new_tokens": 6},
    "another end": {"eos_token_id": [300, 641, 425]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_do_what_they_do_in_torch(by_torch, by_onnx, options):
    options = {"max_new_tokens": 24, **options}
    for image, question in (ROWS[0], ROWS[3]):
        answer, expected = (assistant.ask(image, question, **options) for assistant in (by_onnx, by_torch))
        assert answer.text == expected.text and answer.num_tokens == expected.num_tokens
    batch = by_onnx.ask([SCENE, WORDS], [QUESTION, "Read the word."], **options)
    assert [answer.text for answer in batch] == [
        by_onnx.ask(SCENE, QUESTION, **options).text,
        by_onnx.ask(WORDS, "Read the word.", **options).text,
    ]


def test_samples_vary_and_are_repeated_by_a_seed(by_onnx):
    from transformers import set_seed

    options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12}
    texts = []
    for seed in (0, 0, 1):
        set_seed(seed)
        texts.append(by_onnx.ask(SCENE, QUESTION, **options).text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(("dtype", "least"), [("int8", 0.95), ("int4", 0.8)])
def test_quantized_models_mostly_agree(by_onnx, exported, exam, dtype, least):
    quantized = flashsloth.load(exported, backend="onnxruntime", dtype=dtype)
    answers, expected = quantized.ask(*exam), by_onnx.ask(*exam)
    assert np.mean([one.text == other.text for one, other in zip(answers, expected, strict=True)]) >= least
    chat = quantized.chat()
    assert [str(chat.ask(question, images, max_new_tokens=8)) for question, images in TURNS[:2]]


def test_images_of_any_kind_and_size_are_taken(by_torch, by_onnx):
    for image in (make_image(0, 500, 20), np.zeros((30, 30, 3), np.uint8)):
        assert fields(by_onnx.ask(image, QUESTION, hd=True)) == fields(by_torch.ask(image, QUESTION, hd=True))


def test_it_runs_without_torch(exported, by_torch):
    command = [sys.executable, "-c", WITHOUT_TORCH, exported, SCENE, QUESTION, SHIPPED_CHECKPOINT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shape, answer, error = done.stdout.splitlines()
    assert answer == str(by_torch.ask(SCENE, QUESTION))
    width, height = by_torch.ask(SCENE, QUESTION, explain=True).attention[0].image.size
    assert shape == str((height, width))
    assert error.startswith("The backend torch needs torch; install it with: pip install 'torch")


def test_what_is_not_for_a_backend_is_refused(exported):
    assert "threads=2 is for the backend onnxruntime" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, threads=2)
    assert "dtype='int4' is for the backend onnxruntime" in error_of(flashsloth.load, SHIPPED_CHECKPOINT, dtype="int4")
    assert "flashsloth.load with backend='onnxruntime'" in error_of(flashsloth.load, exported)


def test_a_long_neighbour_does_not_shorten_an_answer(by_torch, by_onnx):
    """Each row has the positions behind its own prompt, whatever padding stands before it."""
    long = f"{QUESTION} " * 161
    for assistant in (by_torch, by_onnx):
        fits = next(text for words in range(20) if _fits(assistant, text := long + "the " * words))
        short, other = assistant.ask([SCENE, SCENE], [QUESTION, fits], min_new_tokens=6)
        assert fields(short) == fields(assistant.ask(SCENE, QUESTION, min_new_tokens=6))
        assert fields(other) == fields(assistant.ask(SCENE, fits, min_new_tokens=6))
        assert other.finish_reason == "length" and other.num_tokens < 6 < short.num_tokens
        message = error_of(assistant.ask, [SCENE, SCENE], [QUESTION, fits + "the " * 10])
        assert "rompt 1 has" in message and "1024 positions" in message


def _fits(assistant: Assistant, question: str) -> bool:
    """Whether a question leaves room for few tokens."""
    [row] = assistant._prepare([(assistant_images(SCENE), question)], None, False)["input_ids"]
    return 0 < assistant.model.config.text_config.max_position_embeddings - len(row) < 6


def test_another_end_ends_an_answer_by_itself(by_torch, by_onnx):
    end = by_torch.processor.tokenizer.encode(" square", add_special_tokens=False)
    expected, answer = (one.ask(SCENE, QUESTION, eos_token_id=end) for one in (by_torch, by_onnx))
    assert fields(answer) == fields(expected)
    assert (str(answer), answer.finish_reason) == ("The square", "stop")
    for wrong in ([], -1, 10**6, "a"):
        for assistant in (by_torch, by_onnx):
            assert "eos_token_id is" in error_of(assistant.ask, SCENE, QUESTION, eos_token_id=wrong)
