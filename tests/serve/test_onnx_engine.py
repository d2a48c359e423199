# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The scheduler with an exported model: rows get the answers of torch, and sampled ones have noise of their own."""

import time

import numpy as np
import pytest
from openai_server import NAME, question, running_server_of
from samples import make_image
from scheduler_clients import Client, answer_alone, prompt_of

import flashsloth
from flashsloth.assistant.assistant import Assistant
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve import onnx_engine
from flashsloth.serve.onnx_engine import OnnxEngine, draw, log_probabilities
from flashsloth.serve.row import Prompt
from flashsloth.serve.sampling import Sampling
from flashsloth.serve.scheduler import Scheduler


SCENE = SHIPPED_CHECKPOINT.parent.parent / "examples" / "scene.png"
LENGTHS = [3, 24, 8, 1, 30, 5]
SCORES = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -np.inf], np.float32)


@pytest.fixture(scope="module")
def by_onnx(exported) -> Assistant:
    return flashsloth.load(exported, backend="onnxruntime", dtype="float32")


@pytest.fixture(scope="module")
def by_torch() -> Assistant:
    return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(by_onnx) -> list[Prompt]:
    """Prompts with no, one or two images, standard and in high definition."""
    scene, noise = {"type": "image", "path": str(SCENE)}, {"type": "image", "image": make_image(3, 90, 70)}
    contents = [
        ([scene], "What colour is the square?", False),
        ([], "What is your name? Tell a long story about it.", False),
        ([noise, scene], "Describe both images, and everything in them, in many words.", False),
        ([scene], "How many shapes are there?", True),
        ([noise], "Write down all words.", True),
        ([], "Hello", False),
    ]
    return [
        prompt_of(
            by_onnx.processor,
            [{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
            **({"hd": hd} if images else {}),
        )
        for images, text, hd in contents
    ]


@pytest.mark.parametrize("max_batch_size", [1, 3, 6])
def test_rows_that_come_one_by_one_are_answered_as_by_torch_alone(by_onnx, by_torch, prompts, max_batch_size):
    expected = [
        answer_alone(by_torch.model, by_torch.processor, prompt, length)
        for prompt, length in zip(prompts, LENGTHS, strict=True)
    ]
    assert len(set(expected)) > 4, "answers that are the same could not be told apart"
    with Scheduler(lambda: OnnxEngine(by_onnx.backend), max_batch_size) as scheduler:
        clients = []
        for prompt, length in zip(prompts, LENGTHS, strict=True):
            clients.append(Client(scheduler, prompt, length, is_streamed=True))
            time.sleep(0.005)  # so that most of them come while others are being answered
        assert [client.answer()[0] for client in clients] == expected


def test_sampled_rows_do_not_depend_on_their_batch(by_onnx, prompts):
    settings = [Sampling(2.0, 0.95, seed=3, index=index) for index in range(3)]

    def answers(max_batch_size: int) -> list[str]:
        with Scheduler(lambda: OnnxEngine(by_onnx.backend), max_batch_size) as scheduler:
            clients = [Client(scheduler, prompts[2], 12, sampling=setting) for setting in settings]
            greedy = Client(scheduler, prompts[0], 12)
            return [client.answer()[0] for client in [*clients, greedy]]

    together = answers(4)
    assert together == answers(1)
    assert len(set(together)) == 4


def test_too_little_memory_makes_batches_smaller(by_onnx, prompts, monkeypatch):
    decode = by_onnx.model.decode

    def fail_for_many(inputs, past, *args):
        if len(inputs["attention_mask"]) > 2:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")
        return decode(inputs, past, *args)

    with Scheduler(lambda: OnnxEngine(by_onnx.backend), 8) as scheduler:
        expected = [Client(scheduler, prompt, 6).answer()[0] for prompt in prompts]
        monkeypatch.setattr(by_onnx.model, "decode", fail_for_many)
        with scheduler.preparing():  # so that they begin together
            clients = [Client(scheduler, prompt, 6) for prompt in prompts]
        assert [client.answer()[0] for client in clients] == expected
        assert scheduler.max_batch_size <= 3


def test_other_faults_are_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="a fault"), onnx_engine.memory_errors():
        raise RuntimeError("a fault")


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_samples_have_the_probabilities_of_the_softmax(temperature, top_p):
    generator = np.random.default_rng(0)
    drawn = [draw(SCORES, Sampling(temperature, top_p), generator) for _ in range(10_000)]
    odds = np.exp(SCORES.astype(np.float64) / temperature)
    expected = odds / odds.sum()  # the scores are in descending order
    expected[int((expected.cumsum() < top_p).sum()) + 1 :] = 0
    counts = np.bincount(drawn, minlength=len(SCORES)) / len(drawn)
    np.testing.assert_allclose(counts, expected / expected.sum(), atol=0.02)
    assert counts[-1] == 0, "a suppressed token was sampled"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-30, 1e-46, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest_token(temperature):
    for top_p in (1.0, 0.5):
        for scores in (SCORES * 100, SCORES[::-1]):
            assert draw(scores, Sampling(temperature, top_p), np.random.default_rng(0)) == scores.argmax()


def test_log_probabilities_add_up_to_one():
    found = log_probabilities(SCORES, 3, 2)
    whole = log_probabilities(SCORES, 0, len(SCORES)).top
    assert [token for token, _ in found.top] == [0, 1]
    assert sum(np.exp(value) for _, value in whole) == pytest.approx(1)
    assert found.chosen == dict(whole)[3]


def test_openai_clients_get_the_answers_of_the_model(by_onnx):
    text = "What colour is the square?"
    with running_server_of(by_onnx) as server:
        completion = server.client().chat.completions.create(
            model=NAME, messages=[question(text, SCENE)], logprobs=True, top_logprobs=2, n=2
        )
    assert [choice.message.content for choice in completion.choices] == [str(by_onnx.ask(SCENE, text))] * 2
    assert all(one.logprob == one.top_logprobs[0].logprob for one in completion.choices[0].logprobs.content)
