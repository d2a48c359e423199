# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""No shape of the forward depends on values: prefill and decode compile in one graph, and export."""

import pytest
import torch
from samples import make_model, prepare
from transformers import StaticCache


@pytest.fixture
def batch(processor, chats):
    return dict(prepare(processor, list(chats.values())))


def test_prefill_compiles_without_a_graph_break(model, batch):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-4)


def test_decode_compiles_without_a_graph_break(model, processor, chats):
    inputs = prepare(processor, list(chats.values()))
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    cache = StaticCache(config=model.config.text_config, max_cache_len=inputs["input_ids"].shape[1] + 6)
    with torch.no_grad():
        position_ids = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        out = model(**inputs, position_ids=position_ids, past_key_values=cache, use_cache=True)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        mask = inputs["attention_mask"]
        ids = []
        for _ in range(6):
            logits = out.logits[:, -1]
            logits[:, model.config.placeholder_token_ids] = -torch.inf
            ids.append(logits.argmax(-1, keepdim=True))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            position_ids = mask.cumsum(-1)[:, -1:] - 1
            out = compiled(
                input_ids=ids[-1],
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
    ids = torch.cat(ids, dim=1)
    for row, reference in zip(ids.tolist(), expected[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        end = reference.index(257) if 257 in reference else len(reference)
        assert row[:end] == reference[:end]


def test_prefill_exports(model, batch):
    program = torch.export.export(model, (), kwargs={**batch, "use_cache": False, "return_dict": True})
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(**batch, use_cache=False, return_dict=True).logits,
            model(**batch).logits,
            atol=1e-4,
            rtol=1e-4,
        )


class DecodeStep(torch.nn.Module):
    """One token with a static cache, whose tensors are buffers as an exported program needs them."""

    def __init__(self, model, cache):
        super().__init__()
        self.model, self.cache = model, cache
        for index, layer in enumerate(cache.layers):
            self.register_buffer(f"keys_{index}", layer.keys)
            self.register_buffer(f"values_{index}", layer.values)
            self.register_buffer(f"length_{index}", layer.cumulative_length)

    def forward(self, input_ids, position_ids):
        return self.model(input_ids=input_ids, position_ids=position_ids, past_key_values=self.cache).logits


def test_decode_step_exports(processor, chats):
    model = make_model()
    inputs = prepare(processor, chats["one image"])
    length = inputs["input_ids"].shape[1]
    step = (torch.tensor([[65]]), torch.tensor([[length]]))
    with torch.no_grad():
        caches = [StaticCache(config=model.config.text_config, max_cache_len=length + 4) for _ in range(2)]
        for cache in caches:
            model(**inputs, past_key_values=cache)
        expected = model(input_ids=step[0], position_ids=step[1], past_key_values=caches[0]).logits
        exported = torch.export.export(DecodeStep(model, caches[1]), step).module()
        for name, buffer in exported.named_buffers():
            if name.startswith("length"):
                buffer.fill_(length)  # tracing has counted its own step
        torch.testing.assert_close(exported(*step), expected, atol=1e-5, rtol=1e-5)
