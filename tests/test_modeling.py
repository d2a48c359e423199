# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model computes what the architecture says, whatever the batch, the padding, the backend and the precision."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from samples import make_config, make_image, make_model, prepare, user
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from flashsloth import FlashSlothForCausalLM, FlashSlothModel
from flashsloth.modeling_flashsloth import SpatialPooling, query_context


@pytest.fixture
def batch(processor, chats):
    return prepare(processor, list(chats.values()))


def real_logits(model, inputs):
    """Logits of each row's real positions."""
    with torch.no_grad():
        logits = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"], strict=True)]


@pytest.mark.parametrize("mode", ["attention", "average"])
def test_pooling_equals_a_loop_over_regions(mode):
    pooling = SpatialPooling(make_config(pooling_mode=mode)).eval()
    patches = torch.randn(2, 36, 16)
    tokens, weights = pooling(patches)
    grid = patches.view(2, 6, 6, 16)
    for row in range(2):
        for column in range(2):
            region = grid[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].reshape(2, 9, 16)
            share = torch.full((2, 9), 1 / 9)
            if mode == "attention":
                share = pooling.fc2(F.relu(pooling.fc1(region))).squeeze(-1).softmax(-1)
            expected = torch.einsum("nr,nrc->nc", share, region)
            torch.testing.assert_close(tokens[:, 2 * row + column], expected)
            torch.testing.assert_close(weights[:, 2 * row + column], share)


def reference_query_module(model, hidden_states, input_ids, patches_of_row):
    """The query module as the architecture words it: slot by slot, head by head."""
    config, module = model.config, model.model.embedded_query
    out = hidden_states.clone()
    for row, ids in enumerate(input_ids.tolist()):
        for slot in [p for p, i in enumerate(ids) if i == config.first_query_token_id]:
            images = [p for p in range(slot) if ids[p] == config.image_token_id]
            if not images:
                continue
            start = images[-1] + 1 + config.image_suffix_length
            ends = [p for p in range(slot) if ids[p] == config.eos_token_id]
            turn = ends[-1] + 1 + config.turn_prefix_length if ends else 0
            start = max(start, turn)
            others = {config.image_token_id, config.pad_token_id, *config.query_token_ids}
            text = [p for p in range(start, slot) if ids[p] not in others]
            if not text:
                text = [p for p in range(turn, slot) if ids[p] not in others]
            patches = patches_of_row[row][: len(images) // config.num_visual_tokens].flatten(0, 1)

            def attend(attention, query, key, value):
                heads = []
                projected = [attention.q_proj(query), attention.k_proj(key), attention.v_proj(value)]
                for q, k, v in zip(*(tensor.chunk(attention.num_heads, -1) for tensor in projected), strict=True):
                    heads.append((q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v)
                return torch.cat(heads, -1)

            query = hidden_states[row, slot : slot + config.num_query_tokens]
            q = module.query_norm(module.down_proj(query))
            t = module.text_norm(module.down_proj(hidden_states[row, text]))
            a = attend(module.text_attention, q, t, t)
            v = module.patch_norm(module.patch_proj(patches))
            out[row, slot : slot + config.num_query_tokens] = query + module.up_proj(
                attend(module.patch_attention, a, v, patches)
            )
    return out


@pytest.mark.parametrize("hd", [False, True])
def test_query_module_equals_a_loop_over_slots(model, processor, chats, hd):
    batch = prepare(processor, list(chats.values()), hd=hd)
    states = {}

    def spy(module, args, kwargs):
        states["in"] = args[0]

    layer = model.model.language_model.layers[model.config.query_layer]
    before = layer.register_forward_pre_hook(spy, with_kwargs=True, prepend=True)
    after = layer.input_layernorm.register_forward_pre_hook(lambda module, args: states.update(out=args[0]))
    with torch.no_grad():
        model(**batch)
        features = model.get_image_features(batch["pixel_values"], batch["view_mask"])
        expected = reference_query_module(model, states["in"], batch["input_ids"], features.last_hidden_state)
    before.remove(), after.remove()
    torch.testing.assert_close(states["out"], expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(states["in"], states["out"])


def test_padding_side_does_not_matter(model, processor, chats, batch):
    left = real_logits(model, batch)
    right = real_logits(model, prepare(processor, list(chats.values()), padding_side="right"))
    singles = [real_logits(model, prepare(processor, chat))[0] for chat in chats.values()]
    for one, other, single in zip(left, right, singles, strict=True):
        torch.testing.assert_close(one, single, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other, single, atol=1e-4, rtol=1e-4)


def test_a_row_does_not_depend_on_another_rows_images(model, processor, batch):
    logits = real_logits(model, batch)
    rows = torch.arange(batch["view_mask"].shape[0]).repeat_interleave(batch["view_mask"].sum(-1))
    changed = dict(batch)
    changed["pixel_values"] = torch.where((rows == 2)[:, None, None, None], 0.5, batch["pixel_values"])
    for index, (before, after) in enumerate(zip(logits, real_logits(model, changed), strict=True)):
        assert ((before - after).abs().max() < 1e-5) == (index != 2)


def test_headless_backbone_gives_the_hidden_states(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    backbone = FlashSlothModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        hidden_states = backbone(**batch).last_hidden_state
        assert hidden_states.shape == (*batch["input_ids"].shape, model.config.text_config.hidden_size)
        torch.testing.assert_close(model.lm_head(hidden_states), model(**batch).logits)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flex_attention"])
def test_attention_backends_agree(processor, batch, tmp_path, backend):
    model = make_model()
    model.save_pretrained(tmp_path)
    other = FlashSlothForCausalLM.from_pretrained(tmp_path, attn_implementation=backend).eval()
    assert other.config.text_config._attn_implementation == backend
    for one, two in zip(real_logits(model, batch), real_logits(other, batch), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_flash_attention_is_imported_only_if_asked_for(tmp_path):
    make_model().save_pretrained(tmp_path)
    if torch.cuda.is_available():
        pytest.skip("asks for the error of a machine without flash-attn")
    with pytest.raises(ImportError, match="FlashAttention2"):
        FlashSlothForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2", dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_float32(model, batch, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    half = FlashSlothForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    for one, two in zip(real_logits(model, batch), real_logits(half, batch), strict=True):
        assert two.dtype == dtype
        assert F.cosine_similarity(one.flatten(), two.float().flatten(), dim=0) > 0.99


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(batch, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert gradient is not None, name
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_query_attentions_with_gradient_checkpointing(model, batch, use_reentrant):
    with torch.no_grad():
        expected = model(**batch, output_query_attentions=True).query_attentions
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    output = model(**batch, labels=batch["input_ids"], output_query_attentions=True)
    torch.testing.assert_close(output.query_attentions, expected)
    output.loss.backward()
    torch.testing.assert_close(output.query_attentions, expected)


def test_query_attentions_of_several_threads(model, processor, chats):
    batches = [prepare(processor, chats[name]) for name in ("one image", "two images", "turns", "image last")]

    def attentions(batch):
        with torch.no_grad():
            return model(**batch, output_query_attentions=True).query_attentions

    expected = [attentions(batch) for batch in batches]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for got, one in zip(pool.map(attentions, batches * 3), expected * 3, strict=True):
            torch.testing.assert_close(got, one)


def test_the_query_context_is_immutable_and_a_pytree(model, batch):
    context = query_context(
        model.config, batch["input_ids"], torch.zeros(7, 2, 36, 16), torch.ones_like(batch["input_ids"]), 0
    )
    with pytest.raises(AttributeError):
        context.query_mask = None
    leaves = pytree.tree_leaves(context)
    assert len(leaves) == 4 and all(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_every_parameter_gets_a_gradient_also_from_a_left_padded_batch(model, batch):
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_deep_copy_is_independent(model, batch):
    copied = copy.deepcopy(model)
    expected = real_logits(model, batch)
    with torch.no_grad():
        model.model.embedded_query.up_proj.weight.zero_()
    for one, two in zip(real_logits(copied, batch), expected, strict=True):
        torch.testing.assert_close(one, two)


def test_sharded_checkpoint(model, batch, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = FlashSlothForCausalLM.from_pretrained(tmp_path, device_map="cpu").eval()
    for one, two in zip(real_logits(model, batch), real_logits(loaded, batch), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_disk_offload(model, batch, tmp_path):
    model.save_pretrained(tmp_path / "model")
    device_map = {
        "model.vision_tower": "disk",
        "model.pooling": "cpu",
        "model.multi_modal_projector": "cpu",
        "model.query_tokens": "cpu",
        "model.embedded_query": "disk",
        "model.language_model": "cpu",
        "lm_head": "disk",
    }
    loaded = FlashSlothForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    for one, two in zip(real_logits(model, batch), real_logits(loaded.eval(), batch), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_attention_implementation_can_be_changed():
    model = make_model()
    model.set_attn_implementation("eager")
    configs = model.config, model.config.text_config, model.model.vision_tower.config
    assert [config._attn_implementation for config in configs] == ["eager"] * 3
    with pytest.raises(ValueError, match="no_such_attention"):
        model.set_attn_implementation("no_such_attention")
    assert model.config._attn_implementation == "eager"


def test_hidden_states_and_attentions(batch):
    model = make_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**batch, output_attentions=True, output_hidden_states=True)
    rows, length = batch["input_ids"].shape
    assert [tuple(a.shape) for a in out.attentions] == [(rows, 4, length, length)] * 3
    assert [tuple(h.shape) for h in out.hidden_states] == [(rows, length, 32)] * 4


def test_pooling_weights_and_query_attentions(model, processor, chats):
    batch = prepare(processor, list(chats.values()), hd=True)
    with torch.no_grad():
        out = model(**batch, output_query_attentions=True)
        assert model(**batch).query_attentions is None
    rows, length = batch["input_ids"].shape
    views = batch["view_mask"].shape[1]
    assert out.pooling_weights.shape == (rows, views, 4, 9)
    expected = batch["view_mask"].unsqueeze(-1).expand(-1, -1, 4).float()  # of a view that pads a row: zero
    torch.testing.assert_close(out.pooling_weights.sum(-1), expected)
    assert out.query_attentions.shape == (rows, 2, length, views, 36)
    total = out.query_attentions.sum((-1, -2))[:, 0]
    is_query = torch.isin(batch["input_ids"], torch.tensor(model.config.query_token_ids))
    has_image = (batch["input_ids"] == model.config.image_token_id).cumsum(-1) > 0
    torch.testing.assert_close(total, (is_query & has_image).float())
    torch.testing.assert_close(out.logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_query_tokens_start_as_published():
    weight = make_model().model.query_tokens.weight
    bound = 1 / math.sqrt(weight.shape[1])
    assert weight.abs().max() <= bound and weight.std() > 0.4 * bound


@pytest.mark.parametrize("change", ["fewer images", "truncated", "no images", "wrong count"])
def test_images_that_do_not_fit_the_prompt(model, processor, chats, change):
    inputs = dict(prepare(processor, chats["two images"]))
    if change == "fewer images":
        inputs["pixel_values"], inputs["view_mask"] = inputs["pixel_values"][:1], inputs["view_mask"][:, :1]
    elif change == "truncated":
        first_image = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[2].item()
        inputs["input_ids"] = inputs["input_ids"][:, :first_image]
        inputs["attention_mask"] = inputs["attention_mask"][:, :first_image]
    elif change == "no images":
        del inputs["pixel_values"], inputs["view_mask"]
    else:
        inputs["pixel_values"] = inputs["pixel_values"][:1]
    message = "view_mask counts 2 views" if change == "wrong count" else "Image features and image tokens do not match"
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_exactly_one_of_ids_and_embeddings(model):
    for inputs in ({}, {"input_ids": torch.zeros(1, 4).long(), "inputs_embeds": torch.zeros(1, 4, 32)}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**inputs)


@pytest.mark.parametrize("hd", [False, True])
def test_embeddings_of_placeholders_are_as_good_as_their_ids(model, processor, chats, hd):
    """Also without `view_mask`: the placeholders in the embeddings say which images are whose."""
    batch = dict(prepare(processor, list(chats.values()), hd=hd))
    expected = real_logits(model, batch)
    del batch["view_mask"]
    batch["inputs_embeds"] = model.get_input_embeddings()(batch["input_ids"])
    input_ids = batch.pop("input_ids")
    with torch.no_grad():
        logits = model(**batch).logits
    for row, one in enumerate(expected):
        torch.testing.assert_close(logits[row][batch["attention_mask"][row].bool()], one, atol=1e-5, rtol=1e-5)
    # other vectors in place of text leave the placeholders where they are
    is_text = (input_ids < 256).unsqueeze(-1)
    batch["inputs_embeds"] = torch.where(is_text, batch["inputs_embeds"] + 1, batch["inputs_embeds"])
    assert torch.equal(
        model.model.find_special_tokens(batch["inputs_embeds"]), input_ids.masked_fill(input_ids < 256, -1)
    )


def test_special_tokens_with_the_same_embedding(model):
    model = copy.deepcopy(model)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[model.config.image_token_id] = weight[model.config.first_query_token_id]
    embeddings = model.get_input_embeddings()(torch.tensor([[70, 71, 72]]))
    model(inputs_embeds=embeddings)
    embeddings[0, 1] = weight[model.config.image_token_id]
    with pytest.raises(ValueError, match="pass input_ids in place of inputs_embeds"):
        model(inputs_embeds=embeddings)


@pytest.mark.parametrize("hd", [False, True])
def test_placeholders_say_which_images_are_whose(model, processor, chats, hd):
    batch = dict(prepare(processor, list(chats.values()), hd=hd))
    expected = real_logits(model, batch)
    del batch["view_mask"]
    for one, two in zip(real_logits(model, batch), expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    batch["pixel_values"] = batch["pixel_values"][:-1]
    with pytest.raises(ValueError, match=r"the rows' image tokens are those of \[.*\] views, but pixel_values holds"):
        model(**batch)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_rows_never_touch_each_other(model, processor, value):
    """Whatever one row's image holds, the other rows' logits stay as they are, to the bit."""
    chats = [[user(make_image(i), "Hue?")] if i else [user("Hue?")] for i in range(3)]
    chats.append([user(make_image(3), make_image(4), "Hue?")])
    batch = dict(prepare(processor, chats))
    with torch.no_grad():
        expected = model(**batch).logits
        batch["pixel_values"][0] = value  # row 1's only image
        logits = model(**batch).logits
    assert torch.equal(logits[[0, 2, 3]], expected[[0, 2, 3]])
    assert not torch.equal(logits[1], expected[1])


@pytest.mark.parametrize("source", ["pixel_values", "mm_encoder_outputs"])
def test_images_of_another_number_of_rows(model, processor, source):
    inputs = dict(prepare(processor, [user(make_image(), "Hue?")]))
    pixel_values, view_mask = inputs.pop("pixel_values").repeat(2, 1, 1, 1), torch.ones(2, 1, dtype=torch.long)
    if source == "pixel_values":
        inputs |= {"pixel_values": pixel_values, "view_mask": view_mask}
    else:
        del inputs["view_mask"]
        inputs |= {"mm_encoder_outputs": {"image": model.get_image_features(pixel_values, view_mask)}}
    with pytest.raises(ValueError, match="of 2 rows, but the prompts are 1"):
        model(**inputs)


def test_image_features_honour_their_arguments(batch):
    model = make_model()
    model.set_attn_implementation("eager")
    features = model.get_image_features(
        batch["pixel_values"], batch["view_mask"], output_hidden_states=True, output_attentions=True
    )
    layers = model.config.vision_config.num_hidden_layers
    assert len(features.hidden_states) == layers + 1 and len(features.attentions) == layers
    plain = model.get_image_features(batch["pixel_values"], batch["view_mask"])
    assert plain.hidden_states is None and plain.attentions is None
    as_tuple = model.get_image_features(batch["pixel_values"], batch["view_mask"], return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], plain.pooler_output)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        model.get_image_features(batch["pixel_values"], foo=1)


def test_query_slot_that_was_not_expanded(model, processor):
    """A tokenizer alone leaves `<learnable>` one token, of which the model knows nothing."""
    inputs = processor.tokenizer("Hue?<learnable> ASSISTANT:", return_tensors="pt")
    with pytest.raises(ValueError, match="holds the query slot token 256, which the processor replaces"):
        model(**inputs)
    with pytest.raises(ValueError, match="holds the query slot token 256"):
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
    with pytest.raises(ValueError, match="holds the query slot token 256"):
        model(input_ids=torch.tensor([[256]]))


@pytest.mark.parametrize(
    ("view_mask", "message"),
    [
        ([[1]], "no tensor of integers"),
        (torch.ones(1, 1), "no tensor of integers"),
        (torch.ones(1, dtype=torch.long), "no tensor of integers"),
        (torch.ones(1, 1, 1, dtype=torch.long), "no tensor of integers"),
        (torch.tensor([[2, -1]]), "view_mask counts 1 views"),
    ],
)
def test_view_masks_that_are_none(model, processor, view_mask, message):
    inputs = {**prepare(processor, [user(make_image(), "Hue?")])}
    with pytest.raises(ValueError, match=message):
        model(**inputs | {"view_mask": view_mask})
