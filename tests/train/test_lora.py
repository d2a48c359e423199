# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Adapters: which layers they reach, and that base with adapter and merged model answer alike."""

import json
import shutil

import pytest
import torch
from peft import PeftModel, get_peft_model
from samples import make_config, make_image, make_model, prepare, user

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor
from flashsloth.cli import main
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.train import lora
from flashsloth.train.config import LoraSettings
from flashsloth.train.lora import lora_config, quantization_config


SETTINGS = LoraSettings(
    parts=["model.language_model", "model.vision_tower"],
    r=4,
    modules_to_save=["model.query_tokens", "model.pooling", "lm_head"],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, processor):
    """A base, and an adapter of random weights on it."""
    folder = tmp_path_factory.mktemp("lora")
    make_model().save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    model = FlashSlothForCausalLM.from_pretrained(folder / "base")
    adapted = get_peft_model(model, lora_config(SETTINGS, model))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "adapter")
    return folder


def adapted_layers(settings, model):
    adapted = get_peft_model(model, lora_config(settings, model))
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in adapted.named_parameters()
        if "lora_A" in name
    }


@pytest.mark.parametrize("part", ["model.language_model", "model.vision_tower", "model.multi_modal_projector"])
def test_adapter_reaches_every_linear_layer_of_a_part_and_no_other(model, part):
    expected = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name.startswith(part)
    }
    assert adapted_layers(LoraSettings([part]), model) == expected


def test_one_layer_may_be_a_part(model):
    name = "model.language_model.layers.1.mlp.fc1"
    assert adapted_layers(LoraSettings([name]), model) == {name}


def test_defaults(model):
    config = lora_config(LoraSettings(r=8), model)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.modules_to_save) == (8, 16, 0.05, None)
    assert all(name.startswith("model.language_model.") for name in adapted_layers(LoraSettings(r=8), model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ["language_model"]}, "no such module; the closest is 'model.language_model'"),
        ({"modules_to_save": ["query_token"]}, "modules_to_save names 'query_token'"),
        ({"parts": ["lm_head"]}, "put it into modules_to_save"),
        ({"parts": ["model.query_tokens"]}, "holds no linear layer"),
        ({"parts": ["model.pooling"], "modules_to_save": ["model.pooling.fc1"]}, "leave one of them out"),
    ],
)
def test_settings_that_make_no_sense(model, settings, message):
    with pytest.raises(ValueError, match=message):
        lora_config(LoraSettings(**settings), model)


def test_merged_model_answers_as_base_with_adapter(folders, tmp_path):
    assert main(["merge", str(folders / "adapter"), str(tmp_path / "merged")]) == 0
    base = FlashSlothForCausalLM.from_pretrained(folders / "base")
    merged = FlashSlothForCausalLM.from_pretrained(tmp_path / "merged")
    processor = FlashSlothProcessor.from_pretrained(tmp_path / "merged")
    inputs = prepare(processor, [[user(make_image(0), "What?")], [user("Name one.")]])

    def answer(model):
        with torch.no_grad():
            return model(**inputs).logits, model.generate(**inputs, max_new_tokens=12, do_sample=False)

    before, _ = answer(base)
    with_adapter, adapter_answer = answer(PeftModel.from_pretrained(base, folders / "adapter").eval())
    logits, merged_answer = answer(merged)
    assert (before - with_adapter).abs().max() > 0.1
    torch.testing.assert_close(logits, with_adapter, rtol=1e-4, atol=1e-4)
    assert torch.equal(adapter_answer, merged_answer)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"modeling_flashsloth.py", "processor_config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if "adapter" in name]
    text = (tmp_path / "merged" / "provenance.json").read_text()
    entry = json.loads(text)[-1]
    assert entry["command"] == "merge" and "/" not in text
    assert entry["sources"] == [{"role": "base", "folder": "base"}, {"role": "adapter", "folder": "adapter"}]


def test_processor_of_the_adapter_is_kept(folders, tmp_path):
    shutil.copytree(folders / "adapter", tmp_path / "adapter")
    processor = FlashSlothProcessor.from_pretrained(folders / "base")
    processor.image_processor.hd = True
    processor.save_pretrained(tmp_path / "adapter")
    lora.merge(tmp_path / "adapter", tmp_path / "merged")
    assert FlashSlothProcessor.from_pretrained(tmp_path / "merged").image_processor.hd


def test_the_record_and_the_curves_of_the_adapters_run_are_kept(folders, tmp_path):
    """A run leaves the adapter as OUTPUT_DIR/model, and its notes in OUTPUT_DIR; a merged folder has them within."""
    shutil.copytree(folders / "adapter", tmp_path / "run" / "model")
    notes = {"training.json": b'{"processes": 3}\n', "curves.png": b"an image"}
    for name, content in notes.items():
        (tmp_path / "run" / name).write_bytes(content)
    lora.merge(tmp_path / "run" / "model", tmp_path / "merged")
    assert {name: (tmp_path / "merged" / name).read_bytes() for name in notes} == notes
    lora.merge(folders / "adapter", tmp_path / "without")
    assert not {path.name for path in (tmp_path / "without").iterdir()} & set(notes)


def test_wrong_base_is_refused(folders, tmp_path, capsys):
    for layers in (2, 4):  # tensors without a counterpart: in the adapter, and in the model
        make_model(make_config(text_config={"num_hidden_layers": layers})).save_pretrained(tmp_path / f"of {layers}")
        FlashSlothProcessor.from_pretrained(folders / "base").save_pretrained(tmp_path / f"of {layers}")
        arguments = [
            "merge",
            str(folders / "adapter"),
            str(tmp_path / "merged"),
            "--base",
            str(tmp_path / f"of {layers}"),
        ]
        assert main(arguments) == 2
        assert "does not fit the model" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_missing_adapter_and_missing_base(folders, tmp_path, capsys):
    assert main(["merge", str(tmp_path), str(tmp_path / "merged")]) == 2
    assert "adapter_model.safetensors" in capsys.readouterr().err
    shutil.copytree(folders / "adapter", tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/moved/away"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 2
    assert "was trained on '/moved/away': name that model with --base" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged"), "--base", str(folders / "base")]) == 0


def test_a_runs_folder_is_refused_with_the_place_of_its_adapter(folders, tmp_path, capsys):
    run = tmp_path / "run"
    for name in ("checkpoint-2", "checkpoint-10"):
        shutil.copytree(folders / "adapter", run / name)
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 2
    assert f"No adapter at '{run}': name the folder in it, '{run / 'checkpoint-10'}'." in capsys.readouterr().err
    shutil.copytree(folders / "adapter", run / "model")
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 2
    assert f"name the folder in it, '{run / 'model'}'." in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_quantization_needs_bitsandbytes(monkeypatch):
    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        quantization_config("nf4", LoraSettings())


def test_quantization_reaches_the_decoder_only(model, monkeypatch):
    from transformers.quantizers.quantizers_utils import should_convert_module

    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: True)
    config = quantization_config("nf4", LoraSettings(modules_to_save=["model.language_model.layers.0"]))
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    quantized = {name for name in linear if should_convert_module(name, config.llm_int8_skip_modules)}
    assert quantized == {
        name for name in linear if name.startswith(("model.language_model.layers.1", "model.language_model.layers.2"))
    }


def test_adapter_learns_on_a_quantized_base_and_merges_into_the_unquantized_one(tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which the dev extra installs on Linux")
    settings = LoraSettings(r=8, modules_to_save=["model.query_tokens"])
    model = FlashSlothForCausalLM.from_pretrained(
        SHIPPED_CHECKPOINT, quantization_config=quantization_config("nf4", settings), dtype=torch.bfloat16
    )
    assert type(model.model.language_model.layers[0].mlp.fc1).__name__ == "Linear4bit"
    assert type(model.lm_head) is torch.nn.Linear
    adapted = get_peft_model(model, lora_config(settings, model))
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    inputs = {"input_ids": torch.arange(100, 120)[None], "labels": torch.arange(100, 120)[None]}
    losses = []
    for _ in range(5):
        loss = adapted(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
    adapted.save_pretrained(tmp_path / "adapter")
    lora.merge(tmp_path / "adapter", tmp_path / "merged")
    merged = FlashSlothForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():  # the unquantized weights are near the quantized ones
        assert merged(**inputs).loss.item() == pytest.approx(adapted.eval()(**inputs).loss.item(), rel=0.2)
