# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The golden cases: what the published code computed (tests/data/golden) with the converted checkpoint."""

import hashlib

import golden_checkpoint
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, register_auto_classes
from flashsloth.convert.names import PUBLISHED, rename


ACTIVATION_TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
GRADIENT_TOLERANCE = 1e-3
STORED_IMAGE, STORED_SLOT = -200, 50295  # one entry each in the stored input_ids

CASES = golden_checkpoint.read("cases.json")


@pytest.fixture(scope="module")
def golden():
    """The recorded tensors of the published code, by case and name."""
    return load_file(golden_checkpoint.GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def model(converted):
    """The golden checkpoint as our model."""
    return FlashSlothForCausalLM.from_pretrained(converted).eval()


@pytest.fixture(scope="module")
def processor(converted):
    """The processor of the golden checkpoint."""
    register_auto_classes()
    return FlashSlothProcessor.from_pretrained(converted)


def stored_form(input_ids: torch.Tensor, config, num_views: int) -> list[int]:
    """Our ids with an image and a query slot as one entry each, as the golden cases store them."""
    ids, position = [], 0
    while position < len(input_ids):
        token_id, length = int(input_ids[position]), 1
        if token_id == config.image_token_id:
            token_id, length = STORED_IMAGE, config.num_visual_tokens * num_views
            assert (input_ids[position : position + length] == config.image_token_id).all()
        elif token_id == config.first_query_token_id:
            token_id, length = STORED_SLOT, config.num_query_tokens
            assert input_ids[position : position + length].tolist() == config.query_token_ids
        ids.append(token_id)
        position += length
    return ids


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_golden_inference(name, model, processor, golden):
    case = CASES[name]
    image = golden_checkpoint.image(**case["image"])
    inputs = processor(images=image, text=case["prompt"], hd=case["hd"], return_tensors="pt")
    num_views = len(inputs["pixel_values"])
    assert stored_form(inputs["input_ids"][0], model.config, num_views) == golden[f"{name}.input_ids"].tolist()

    with torch.no_grad():
        outputs = model(**inputs)
        features = model.get_image_features(inputs["pixel_values"])
        pooled, _ = model.model.pooling(features.last_hidden_state[0])
    found = {
        "logits": outputs.logits[0, :, ::97],
        "vision_features": features.last_hidden_state[0, :, ::9, ::16],
        "pooled": pooled[..., ::16],
        "projected": features.pooler_output[0],
    }
    for what, tensor in found.items():
        torch.testing.assert_close(tensor, golden[f"{name}.{what}"], **ACTIVATION_TOLERANCE)

    generated = model.generate(**inputs, max_new_tokens=case["max_new_tokens"])
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == golden[f"{name}.generated"].tolist()


def test_golden_training(model, processor, golden):
    rows = CASES["v3"]["rows"]
    conversations = []
    for row in rows:
        messages = []
        for question, answer in row["turns"]:
            content = [{"type": "text", "text": question}]
            if "image" in row and not messages:
                content.insert(0, {"type": "image", "image": golden_checkpoint.image(**row["image"])})
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        conversations.append(messages)
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    supervised = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    is_text = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~supervised, -100)
    for row in range(len(rows)):
        stored = golden["v3.attention_mask"][row].bool()
        ids = stored_form(inputs["input_ids"][row][is_text[row]], model.config, 1)
        assert ids == golden["v3.input_ids"][row][stored].tolist()
        stored_labels = golden["v3.labels"][row]
        assert labels[row][labels[row] != -100].tolist() == stored_labels[stored_labels != -100].tolist()

    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.loss.detach(), golden["v3.loss"][0], **ACTIVATION_TOLERANCE)
    # at padding the published code computes something else, which nothing reads
    logits = outputs.logits.detach()[..., ::97][is_text]
    torch.testing.assert_close(logits, golden["v3.logits"][is_text], **ACTIVATION_TOLERANCE)

    outputs.loss.backward()
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("v3.grad_norm.") for key in golden if key.startswith("v3.grad_norm.")]
    assert len(names) == 12
    for name in names:
        gradient = parameters[rename(name, PUBLISHED)].grad
        sample = gradient.flatten()[:: max(1, gradient.numel() // 512)]
        expected = golden[f"v3.grad.{name}"]
        assert (sample - expected).norm() <= GRADIENT_TOLERANCE * expected.norm(), name
        assert (sample - expected).abs().max() <= GRADIENT_TOLERANCE * expected.abs().max(), name
        assert abs(gradient.norm() / golden[f"v3.grad_norm.{name}"] - 1) <= GRADIENT_TOLERANCE, name
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kind"] == "preprocess"])
def test_golden_preprocessing(name, processor, golden):
    case = CASES[name]
    image = golden_checkpoint.image(**case["image"])
    inputs = processor.image_processor(image, hd=case["hd"], do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = np.ascontiguousarray(inputs["pixel_values"])
    assert pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256"]
    if f"{name}.pixels_uint8" in golden:
        stored = golden[f"{name}.pixels_uint8"].numpy()
        assert (pixels == stored.reshape(pixels.shape)).all()
    normalized = processor.image_processor(image, hd=case["hd"], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalized, (pixels / 255 - 0.5) / 0.5, atol=1e-6)
