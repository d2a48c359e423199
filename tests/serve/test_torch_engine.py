# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Models of transformers under the scheduler: those that rows cannot join, and too little memory."""

import pytest
import torch
from samples import make_config, make_model
from scheduler_clients import Client, answer_alone, prompt_of

from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.serve.row import Prompt
from flashsloth.serve.scheduler import Scheduler
from flashsloth.serve.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def prompts(processor, chats) -> list[Prompt]:
    return [prompt_of(processor, chat) for chat in chats.values()]


def test_too_little_memory_makes_batches_smaller(processor, prompts, monkeypatch):
    model = make_model()
    generate = type(model).generate

    def fail_for_many(self, input_ids=None, **kwargs):
        if input_ids.shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(self, input_ids=input_ids, **kwargs)

    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 8) as scheduler:
        expected = [Client(scheduler, prompt, 8).answer()[0] for prompt in prompts]
        monkeypatch.setattr(type(model), "generate", fail_for_many)
        with scheduler.preparing():  # so that they begin together
            clients = [Client(scheduler, prompt, 8) for prompt in prompts]
        assert [client.answer()[0] for client in clients] == expected
        assert scheduler.max_batch_size <= 3
        monkeypatch.setattr(type(model), "generate", lambda *args, **kwargs: fail_for_many(model, torch.zeros(3, 1)))
        _, last = Client(scheduler, prompts[0], 5).answer()
        assert isinstance(last.error, MemoryError)


@pytest.mark.parametrize("change", ["sliding window", "min_new_tokens"])
def test_models_that_rows_cannot_join_answer_in_batches(processor, prompts, change):
    if change == "sliding window":
        mistral = {"model_type": "mistral", "sliding_window": 16, "num_key_value_heads": 2}
        model = make_model(make_config(text_config=mistral))
    else:
        model = make_model()
        model.generation_config.min_new_tokens = 12
    expected = [answer_alone(model, processor, prompt, 20) for prompt in prompts]
    with Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 4) as scheduler:
        assert not scheduler.engine.joins
        clients = [Client(scheduler, prompt, 20) for prompt in prompts]
        assert [client.answer()[0] for client in clients] == expected
