# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Rows that come and go get the answers that each gets alone. The model is random, and a token is a byte."""

import queue
import time

import pytest
from samples import make_model
from scheduler_clients import SECONDS, Client, answer_alone, prompt_of

from flashsloth import FlashSlothForCausalLM
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.serve.row import Piece, Prompt, Row
from flashsloth.serve.sampling import Sampling
from flashsloth.serve.scheduler import Scheduler
from flashsloth.serve.torch_engine import TorchBatch, TorchEngine


LENGTHS = [3, 40, 8, 1, 60, 5, 25]


@pytest.fixture(scope="module")
def model() -> FlashSlothForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def prompts(processor, chats) -> list[Prompt]:
    return [prompt_of(processor, chat) for chat in chats.values()]


@pytest.mark.parametrize("max_batch_size", [1, 2, 4, 8])
def test_rows_that_come_one_by_one_are_answered_as_alone(model, processor, prompts, max_batch_size):
    expected = [
        answer_alone(model, processor, prompt, length) for prompt, length in zip(prompts, LENGTHS, strict=True)
    ]
    assert len(set(expected)) > 4, "answers that are the same could not be told apart"
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), max_batch_size) as scheduler:
        clients = []
        for prompt, length in zip(prompts, LENGTHS, strict=True):
            clients.append(Client(scheduler, prompt, length, is_streamed=True))
            time.sleep(0.01)  # so that most of them come while others are being answered
        answers = [client.answer() for client in clients]
    assert [text for text, _ in answers] == expected
    for (_, last), length in zip(answers, LENGTHS, strict=True):
        assert last.num_tokens == length if last.finish_reason == "length" else last.num_tokens <= length


def test_late_short_request_overtakes_a_long_one(model, processor, prompts):
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 4) as scheduler:
        long = Client(scheduler, prompts[0], 900, is_streamed=True)
        long.wait_for_tokens(3)
        short = Client(scheduler, prompts[1], 4)
        text, last = short.answer()
        assert last.num_tokens == 4 and text == answer_alone(model, processor, prompts[1], 4)
        assert not long.row.is_done
        long.row.cancel()


def test_full_batch_has_no_room_until_a_row_is_complete(model, processor, prompts):
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 1) as scheduler:
        first = Client(scheduler, prompts[0], 30)
        second = Client(scheduler, prompts[1], 2)
        second.answer()
        assert first.row.is_done


def test_row_whose_client_goes_away_frees_its_place(model, processor, prompts):
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 1) as scheduler:
        first = Client(scheduler, prompts[0], 900, is_streamed=True)
        first.wait_for_tokens(2)
        waiting = Client(scheduler, prompts[2], 900)
        waiting.row.cancel()  # before it began
        first.row.cancel()
        assert Client(scheduler, prompts[1], 3).answer()[1].num_tokens == 3
        assert first.row.num_tokens < 900 and waiting.row.num_tokens == 0


def test_sampled_rows_do_not_depend_on_their_batch(model, processor, prompts):
    settings = [Sampling(1.5, 0.9, seed=3, index=index) for index in range(3)]

    def answers(max_batch_size: int) -> list[str]:
        with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), max_batch_size) as scheduler:
            clients = [Client(scheduler, prompts[1], 12, sampling=setting) for setting in settings]
            greedy = Client(scheduler, prompts[0], 12)
            return [client.answer()[0] for client in [*clients, greedy]]

    together = answers(4)
    assert together == answers(1)
    assert len(set(together)) == 4 and together[-1] == answer_alone(model, processor, prompts[0], 12)


def test_stop_string_ends_a_row_only(model, processor, prompts):
    whole = answer_alone(model, processor, prompts[0], 40)
    stop = whole[5:7]
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 2) as scheduler:
        stopped = Client(scheduler, prompts[0], 40, stop=[stop])
        other = Client(scheduler, prompts[0], 40)
        text, last = stopped.answer()
        assert (text, last.finish_reason) == (whole[: whole.index(stop)].rstrip(), "stop")
        assert other.answer()[0] == whole


def test_batch_that_fails_is_reported_and_the_next_is_answered(model, processor, prompts, monkeypatch):
    generate = type(model).generate

    def fail_for_images(self, *args, pixel_values=None, **kwargs):
        if pixel_values is not None:
            raise RuntimeError("a fault")
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", fail_for_images)
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 4) as scheduler:
        running = Client(scheduler, prompts[1], 900, is_streamed=True)
        running.wait_for_tokens(2)
        _, last = Client(scheduler, prompts[0], 5).answer()
        assert str(last.error) == "a fault"
        running.wait_for_tokens(running.row.num_tokens + 3)  # it goes on
        running.row.cancel()
        assert Client(scheduler, prompts[1], 5).answer()[1].num_tokens == 5
        assert scheduler.is_alive


def test_a_receiver_that_fails_fails_alone(model, processor, prompts, caplog):
    """At a piece, and again when it gets the error."""
    calls = []

    def fail(piece: Piece) -> None:
        calls.append(piece)
        raise RuntimeError("nobody listens")

    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 2) as scheduler:
        broken = Row(prompts[0], 40, fail, is_streamed=True)
        other = Row(prompts[1], 40, (pieces := queue.Queue()).put)
        scheduler.submit([broken, other])
        piece = pieces.get(timeout=SECONDS)
        assert piece.error is None and piece.text == answer_alone(model, processor, prompts[1], 40)
        assert broken.is_done and broken.num_tokens < 40 and calls[-1].error is not None
        assert Client(scheduler, prompts[2], 3).answer()[1].num_tokens == 3 and scheduler.is_alive
    assert "nobody listens" in caplog.text


def test_rows_that_are_cancelled_between_two_batches_leave_the_others(model, processor, prompts, monkeypatch):
    """While others are taken, no call of `generate` looks at what is cancelled."""
    take = Scheduler._take
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 2) as scheduler:
        running = Client(scheduler, prompts[0], 900, is_streamed=True)
        running.wait_for_tokens(2)

        def cancel_and_take(self, batch):
            running.row.cancel()
            return take(self, batch)

        monkeypatch.setattr(Scheduler, "_take", cancel_and_take)
        assert Client(scheduler, prompts[1], 3).answer()[1].num_tokens == 3
        assert running.row.num_tokens < 900 and scheduler.is_alive


def test_a_batch_that_cannot_be_made_smaller_fails_alone(model, processor, prompts, monkeypatch):
    without_done = TorchBatch.without_done

    def fail_once(self):
        monkeypatch.setattr(TorchBatch, "without_done", without_done)
        raise RuntimeError("a fault")

    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 2) as scheduler:
        running = Client(scheduler, prompts[0], 900, is_streamed=True)
        running.wait_for_tokens(2)
        monkeypatch.setattr(TorchBatch, "without_done", fail_once)
        assert Client(scheduler, prompts[1], 3).answer()[1].num_tokens == 3  # its coming ends a call of `generate`
        assert str(running.answer()[1].error) == "a fault" and scheduler.is_alive


@pytest.mark.parametrize("part", ["_take", "_try"])
def test_nobody_waits_for_a_scheduler_that_has_failed(model, processor, prompts, monkeypatch, part):
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 2) as scheduler:
        running = Client(scheduler, prompts[0], 900, is_streamed=True)
        running.wait_for_tokens(2)

        def fail(self, *args, **options):
            raise RuntimeError("a fault of the program")

        monkeypatch.setattr(Scheduler, part, fail)
        waiting = [Client(scheduler, prompt, 5) for prompt in prompts[:4]]
        for client in (running, *waiting):
            assert str(client.answer()[1].error) == "a fault of the program"
        assert not scheduler.is_alive
        with pytest.raises(RuntimeError, match="closed"):
            Client(scheduler, prompts[1], 3)


def test_closing_fails_what_is_not_complete(model, processor, prompts):
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 1) as scheduler:
        clients = [Client(scheduler, prompt, 900) for prompt in prompts[:2]]
    assert all(client.answer()[1].error is not None for client in clients)
    with pytest.raises(RuntimeError, match="closed"):
        Client(scheduler, prompts[0], 5)
