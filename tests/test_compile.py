# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""No shape of the forward depends on values: prefill and decode compile in one graph, and export."""

import pytest
import torch
from samples import make_image, make_model, prepare, user
from transformers import DynamicCache, StaticCache


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


def test_query_attentions_compile_without_a_graph_break(model, batch):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = model(**batch, output_query_attentions=True).query_attentions
        got = compiled(**batch, output_query_attentions=True).query_attentions
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_compiled_prefill_checks_images_too(model, processor, chats):
    inputs = dict(prepare(processor, chats["two images"]))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[0]] = 65
    with pytest.raises(RuntimeError), torch.no_grad():
        compiled(**inputs)


def test_prefill_exports(model, batch):
    program = torch.export.export(model, (), kwargs={**batch, "use_cache": False, "return_dict": True})
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(**batch, use_cache=False, return_dict=True).logits,
            model(**batch).logits,
            atol=1e-4,
            rtol=1e-4,
        )


class ImageEncoder(torch.nn.Module):
    """Views to patches, visual tokens and pooling weights."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        features = self.model.get_image_features(pixel_values)
        return features.last_hidden_state, features.pooler_output, features.pooling_weights


class Prefill(torch.nn.Module):
    """Tokens and images to logits and attentions of the query tokens."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, pixel_values, view_mask):
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            view_mask=view_mask,
            use_cache=False,
            output_query_attentions=True,
        )
        return output.logits, output.query_attentions


class Step(torch.nn.Module):
    """Tokens behind a cache of any length, given as the keys and values of every layer, to logits and a new cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache)
        return output.logits, [(layer.keys, layer.values) for layer in cache.layers]


def operators(program) -> set[str]:
    """Names of what an exported program calls, such as `aten.cumsum.default`."""
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def assert_plain(program):
    """ONNX has no operator for these."""
    missing = ("cummax", "isin", "assert_async", "is_all_true", "searchsorted")
    assert [name for name in operators(program) if any(word in name for word in missing)] == []


def test_the_image_encoder_exports_with_any_number_of_views(model):
    views = torch.export.Dim("views")
    program = torch.export.export(ImageEncoder(model), (torch.rand(3, 3, 24, 24),), dynamic_shapes=({0: views},))
    assert_plain(program)
    for num_views in (2, 5):
        pixel_values = torch.rand(num_views, 3, 24, 24)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(pixel_values), ImageEncoder(model)(pixel_values))


@pytest.mark.parametrize("hd", [False, True])
def test_prefill_exports_with_any_batch_and_length(model, processor, hd):
    def inputs(*questions):
        chats = [[user(make_image(index), question)] for index, question in enumerate(questions)]
        batch = prepare(processor, chats, hd=hd)
        return tuple(batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "view_mask"))

    rows, length = torch.export.Dim("rows"), torch.export.Dim("length")
    shapes = ({0: rows, 1: length}, {0: rows, 1: length}, {0: (5 if hd else 1) * rows}, {0: rows})
    program = torch.export.export(Prefill(model), inputs("What?", "Why not?", "Who is it?"), dynamic_shapes=shapes)
    assert_plain(program)
    for questions in (("Where?", "A longer question?"), ("a", "bc", "def", "ghij?", "What does it say?")):
        batch = inputs(*questions)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*batch), Prefill(model)(*batch), atol=1e-4, rtol=1e-4)


def test_a_decode_step_exports_with_any_batch_and_cached_length(model):
    def inputs(rows, cached):
        torch.manual_seed(rows)
        past = [(torch.randn(rows, 4, cached, 8), torch.randn(rows, 4, cached, 8)) for _ in range(3)]
        mask = torch.ones(rows, cached + 1, dtype=torch.long)
        mask[0, :3] = 0
        return torch.randint(60, 90, (rows, 1)), mask, mask.sum(-1, keepdim=True) - 1, past

    rows, cached = torch.export.Dim("rows"), torch.export.Dim("cached")
    shapes = ({0: rows}, {0: rows, 1: cached + 1}, {0: rows}, [({0: rows, 2: cached}, {0: rows, 2: cached})] * 3)
    program = torch.export.export(Step(model), inputs(3, 7), dynamic_shapes=shapes)
    assert_plain(program)
    for example in (inputs(2, 4), inputs(5, 30)):
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*example), Step(model)(*example), atol=1e-5, rtol=1e-5)


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
