# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Quantized models: which weights are, how close they stay, and that the folder works by itself and is whole."""

import json
import shutil
import sys
from pathlib import Path

import int4_kernel
import pytest
import torch
from safetensors import safe_open
from samples import make_config, make_image, make_model, prepare, user
from torch import nn
from torchao.quantization import Int4Tensor, Int8Tensor
from without_package import WITHOUT_PACKAGE, run

from flashsloth import FlashSlothForCausalLM, cli, loading
from flashsloth.convert import to_original
from flashsloth.convert.quantization import quantize
from flashsloth.folders.provenance import read_provenance, write_provenance
from flashsloth.folders.tensors import Checkpoint
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.tiny.data import make_dataset
from flashsloth.tiny.evaluate import accuracy, examine, load
from flashsloth.train.config import StageConfig
from flashsloth.train.model import load_stage_model


KINDS = {"int8": Int8Tensor, "int4": Int4Tensor}
GROUP_SIZE = 64  # the largest that divides both widths
NOTES = {"training.json": b'{"processes": 3}\n', "curves.png": b"\x89PNG\r\n\x1a\n"}
WIDTHS = {"hidden_size": 64, "intermediate_size": 128}

# What a stranger's process does with a quantized folder; it has torchao, but not the package.
SCRIPT = (
    WITHOUT_PACKAGE
    + """
import json, os, sys
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

*folders, work = sys.argv[1:]
image = Image.open(os.path.join(work, "image.png"))
chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]}]
results = {}
for folder in folders:
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    ids = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1]:]
    backbone = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        hidden = backbone(**inputs).last_hidden_state
    torch.testing.assert_close(model.lm_head(hidden), logits)
    again = os.path.join(work, os.path.basename(folder))
    model.save_pretrained(again)
    processor.save_pretrained(again)
    pipe = pipeline("image-text-to-text", model=again, trust_remote_code=True)
    text = pipe(text=chat, max_new_tokens=6, return_full_text=False)[0]["generated_text"]
    assert text == processor.decode(ids, skip_special_tokens=True)
    results[os.path.basename(folder)] = {"logits": logits[0, -1].tolist(), "files": sorted(os.listdir(again))}
print(json.dumps(results))
"""
)


@pytest.fixture(scope="module")
def source(processor, tmp_path_factory) -> Path:
    """A model with a history, the notes of its run, and scores."""
    folder = tmp_path_factory.mktemp("quantize") / "source"
    model = make_model(make_config(text_config=WIDTHS))
    model.generation_config.max_new_tokens = 77
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_provenance(folder, "compose", [{"role": "language_model", "repo": "owner/name"}], before=[], seed=0)
    (folder / "evaluation.json").write_text("[]")
    for name, content in NOTES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def quantized(source) -> dict[str, Path]:
    """The quantized folders, by kind of weights."""
    return {weights: quantize(source, source.with_name(weights), weights) for weights in KINDS}


def logits(model, processor) -> torch.Tensor:
    inputs = prepare(processor, [user(make_image(0), "What is this?")])
    with torch.no_grad():
        return model.eval()(**inputs).logits


def decoder_layers(model) -> dict[str, nn.Linear]:
    modules = model.model.language_model.named_modules()
    return {f"model.language_model.{name}": module for name, module in modules if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("weights", KINDS)
def test_the_decoders_linear_layers_are_quantized_and_nothing_else(source, quantized, weights):
    base = FlashSlothForCausalLM.from_pretrained(source)
    model = FlashSlothForCausalLM.from_pretrained(quantized[weights])
    expected = {f"{name}.weight" for name in decoder_layers(base)}
    assert len(expected) == 3 * 6  # layers; q, k, v, dense, fc1, fc2
    changed = {name for name, weight in model.named_parameters() if isinstance(weight, KINDS[weights])}
    assert changed == expected
    same = dict(base.named_parameters())
    for name, weight in model.named_parameters():
        assert name in changed or torch.equal(weight, same[name]), name


@pytest.mark.parametrize(("weights", "levels", "closeness"), [("int8", 255, 0.05), ("int4", 15, 0.5)])
def test_answers_stay_close(source, quantized, processor, weights, levels, closeness):
    base = FlashSlothForCausalLM.from_pretrained(source)
    model = FlashSlothForCausalLM.from_pretrained(quantized[weights])
    expected, got = logits(base, processor), logits(model, processor)
    assert 0 < (got - expected).norm() / expected.norm() < closeness
    # The product with quantized weights is the product with the weights that their layers stand for.
    for name, layer in decoder_layers(model).items():
        meant = nn.functional.linear(torch.eye(layer.in_features), layer.weight).t()
        weight = base.get_submodule(name).weight
        span = weight.amax() - weight.amin()
        assert (meant - weight).abs().max() <= span / levels, name
        base.get_submodule(name).weight.data = meant
    torch.testing.assert_close(logits(base, processor), got, atol=1e-3, rtol=1e-3)


def test_int4_values_are_those_of_the_file(quantized):
    """Against the format as torchao describes it: two values of -8 to 7 in a byte, value * scale + zero point."""
    name = "model.language_model.layers.0.mlp.fc2"
    with safe_open(quantized["int4"] / "model.safetensors", "pt") as file:
        packed, scale, zero_point = (
            file.get_tensor(f"{name}._weight_{part}").tolist() for part in ("qdata", "scale", "zero_point")
        )
    layer = FlashSlothForCausalLM.from_pretrained(quantized["int4"]).get_submodule(name)
    columns = nn.functional.linear(torch.eye(layer.in_features), layer.weight)
    for column in (0, 1, GROUP_SIZE - 1, GROUP_SIZE, layer.in_features - 1):
        for row in (0, layer.out_features - 1):
            value = packed[row][column // 2] >> 4 if column % 2 else packed[row][column // 2] & 15
            value = value - 16 if value > 7 else value
            group = column // GROUP_SIZE
            expected = value * scale[group][row] + zero_point[group][row]
            assert columns[column, row].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weights", KINDS)
def test_weights_shrink_to_their_bits(source, quantized, weights):
    before, after = Checkpoint(source), Checkpoint(quantized[weights])
    names = [f"{name}.weight" for name in decoder_layers(make_model(make_config(text_config=WIDTHS)))]
    num_weights = sum(before[name].num_bytes for name in names) // torch.float32.itemsize
    kept = sum(tensor.num_bytes for name, tensor in before.items() if name not in names)
    rest = sum(tensor.num_bytes for tensor in after.values()) - kept
    if weights == "int8":
        rows = sum(before[name].shape[0] for name in names)
        assert rest == num_weights + rows * (torch.float32.itemsize + 1)  # scale and zero point
    else:
        assert rest == num_weights / 2 + num_weights / GROUP_SIZE * 2 * torch.float32.itemsize


@pytest.mark.parametrize("weights", KINDS)
def test_the_folder_says_what_it_is(source, quantized, weights):
    folder = quantized[weights]
    files = {file.name for file in folder.iterdir()}
    assert {file.name for file in source.iterdir()} - files == {"evaluation.json"}  # scores of other weights
    assert all(Path(name).suffix in (".py", ".json", ".jinja", ".safetensors") for name in files - {"curves.png"})
    assert json.loads((folder / "generation_config.json").read_text())["max_new_tokens"] == 77
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    first, second = read_provenance(folder)
    assert first == read_provenance(source)[0]
    assert (second["command"], second["weights"]) == ("quantize", weights)
    assert second["sources"] == [{"role": "base", "folder": "source"}]
    assert second.get("group_size") == (GROUP_SIZE if weights == "int4" else None)


def test_the_notes_of_the_run_go_along_and_scores_are_said_to_stay(source, quantized, tmp_path, caplog):
    """A run leaves its model as OUTPUT_DIR/model, and its notes in OUTPUT_DIR; a quantized folder has them within."""
    assert {name: (quantized["int8"] / name).read_bytes() for name in NOTES} == NOTES
    run = tmp_path / "run"
    shutil.copytree(source, run / "model")
    (run / "model" / "evaluation.json").unlink()
    for name in NOTES:
        (run / "model" / name).rename(run / name)
    folder = quantize(run / "model", tmp_path / "int8", "int8")
    assert {name: (folder / name).read_bytes() for name in NOTES} == NOTES and not caplog.text
    other = quantize(source, tmp_path / "other", "int8")
    assert "evaluation.json is not copied: its scores are of the weights before;" in caplog.text
    assert f"`flashsloth eval --model {other} --write` adds new." in caplog.text


def test_works_without_the_package_and_after_another_save(quantized, processor, tmp_path):
    make_image(0).save(tmp_path / "image.png")
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    script = Path(int4_kernel.__file__).read_text() + SCRIPT
    results = run(script, *quantized.values(), tmp_path, **environment)
    for weights, folder in quantized.items():
        expected = logits(FlashSlothForCausalLM.from_pretrained(folder), processor)[0, -1]
        torch.testing.assert_close(torch.tensor(results[weights]["logits"]), expected, atol=1e-4, rtol=1e-4)
        assert "model.safetensors" in results[weights]["files"]
        assert not any(name.endswith(".bin") for name in results[weights]["files"])


def test_shards(source, quantized, processor, tmp_path):
    folder = quantize(source, tmp_path / "shards", "int4", max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    one, several = (FlashSlothForCausalLM.from_pretrained(name) for name in (quantized["int4"], folder))
    torch.testing.assert_close(logits(one, processor), logits(several, processor), atol=0, rtol=0)


def test_tied_embeddings_and_bfloat16(processor, tmp_path):
    base = make_model(make_config(text_config=WIDTHS, tie_word_embeddings=True)).bfloat16()
    base.save_pretrained(tmp_path / "tied")
    processor.save_pretrained(tmp_path / "tied")
    model = FlashSlothForCausalLM.from_pretrained(quantize(tmp_path / "tied", tmp_path / "int4", "int4"))
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model = FlashSlothForCausalLM.from_pretrained(tmp_path / "int4", dtype="float32")  # activations, not the file
    expected, got = logits(base.float(), processor), logits(model, processor)
    assert got.dtype == torch.float32 and (got - expected).norm() / expected.norm() < 0.5


def test_what_needs_the_original_says_so(source, quantized, tmp_path):
    with pytest.raises(ValueError, match="int8 is quantized and cannot be trained: start from the model"):
        load_stage_model(
            StageConfig(model=str(quantized["int8"]), data=[], output_dir="out", trainable=["lm_head"], use_cpu=True)
        )
    with pytest.raises(ValueError, match="int4 is quantized already. Name the model"):
        to_original(quantized["int4"], tmp_path / "original")
    assert not (tmp_path / "original").exists()


def test_gradients_pass_through(quantized):
    """An adapter on a quantized model needs them."""
    layer = FlashSlothForCausalLM.from_pretrained(quantized["int8"]).model.language_model.layers[0].mlp.fc1
    inputs = torch.randn(2, 3, layer.in_features, requires_grad=True)
    layer(inputs).sum().backward()
    weight = nn.functional.linear(torch.eye(layer.in_features), layer.weight)
    torch.testing.assert_close(inputs.grad, weight.sum(1).expand_as(inputs), atol=1e-4, rtol=1e-4)


def test_command(source, tmp_path, capsys, caplog):
    assert cli.main(["quantize", str(source), str(tmp_path / "new"), "--weights", "int4", "--group-size", "32"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new'}\n"
    assert "needs an NVIDIA GPU with mslk to run. For a CPU use flashsloth export." in caplog.text
    assert read_provenance(tmp_path / "new")[-1]["group_size"] == 32


def test_int4_is_refused_where_it_cannot_run(quantized, capsys, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    assert cli.main(["ask", "--model", str(quantized["int4"]), "Hello?"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(quantized["int4"]) in message and "need an NVIDIA GPU with mslk" in message
    assert "take an int8 model" in message and "the model that it was made from" in message
    assert cli.main(["ask", "--model", str(quantized["int8"]), "--max-new-tokens", "1", "Hello?"]) == 0


@pytest.mark.parametrize(("gpu", "mslk"), [(True, True), (True, False), (False, True)])
def test_int4_runs_on_a_gpu_with_mslk(gpu, mslk, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(loading, "find_spec", lambda name: name if mslk else None)
    assert loading.runs_int4() == (gpu and mslk)


def edited(source: Path, folder: Path, **fields) -> Path:
    """A copy of a model with other fields in its config."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantized", "--weights", "int8"], "is quantized already"),
        (["llama", "--weights", "int8"], "is a model of type 'llama', not a FlashSloth"),
        (["nowhere", "--weights", "int8"], "No model folder at 'nowhere'"),
        (["bare", "--weights", "int8"], "holds no processor"),
        (["deeper", "--weights", "int8"], "num_hidden_layers 4, but the weights beside it hold 3 layers"),
        (["source", "--weights", "int4", "--group-size", "128"], "has 64 inputs, which the group size 128 does not"),
        (["odd", "--weights", "int4"], "has 48 inputs, which the group size 32 does not divide"),
        (["source", "--weights", "int4", "--group-size", "48"], "group size 48 must be one of 128, 64, 32"),
        (["source", "--weights", "int8", "--group-size", "64"], "A group size belongs to int4"),
        (["source", "--weights", "int2"], "invalid choice: 'int2'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    source, quantized, processor, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    name, *options = arguments
    match name:
        case "source" | "quantized":
            name = str(source if name == "source" else quantized["int8"])
        case "llama":
            edited(source, tmp_path / name, model_type="llama")
        case "bare":
            (edited(source, tmp_path / name) / "processor_config.json").unlink()
        case "deeper":
            fields = json.loads((source / "config.json").read_text())["text_config"]
            edited(source, tmp_path / name, text_config={**fields, "num_hidden_layers": 4})
        case "odd":
            make_model(make_config(text_config={"hidden_size": 48})).save_pretrained(name)
            processor.save_pretrained(name)
    try:
        status = cli.main(["quantize", name, "new/model", *options])
    except SystemExit as stopped:  # argparse
        status = stopped.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert not list(tmp_path.glob("new/*"))


def test_without_torchao(source, tmp_path, monkeypatch, capsys):
    for name in ("flashsloth.convert.quantization", "torchao.core.config", "torchao.core"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert cli.main(["quantize", str(source), str(tmp_path / "new"), "--weights", "int8"]) == 2
    assert "pip install 'flashsloth[quantize]'" in capsys.readouterr().err


def test_the_tiny_checkpoint_keeps_its_accuracy(tmp_path, monkeypatch):
    """On a sample, with a margin of two questions; bench/results.md has the figures on all 1,000."""
    monkeypatch.setattr(loading, "runs_int4", lambda: True)  # by the kernel of tests/support
    exam = make_dataset("exam", "heldout", 27)
    expected = accuracy(examine(*load(SHIPPED_CHECKPOINT), exam))
    for weights in KINDS:
        got = accuracy(examine(*load(quantize(SHIPPED_CHECKPOINT, tmp_path / weights, weights)), exam))
        assert got >= expected - 100 * 2 / len(exam), weights


def test_push_says_where_int4_cannot_be_tried(quantized, hub, capsys, monkeypatch):
    monkeypatch.setattr(loading, "runs_int4", lambda: False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cli.main(["push", "--license", "mit", str(quantized["int4"]), "sloth/model"]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "need an NVIDIA GPU with mslk" in message


def test_an_adapter_is_not_merged_into_a_quantized_base(quantized, tmp_path, capsys):
    config = {"peft_type": "LORA", "base_model_name_or_path": "lab/base", "r": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    base = str(quantized["int8"])
    assert cli.main(["merge", str(tmp_path), str(tmp_path / "merged"), "--base", base]) == 2
    assert f"{base} is quantized, which would round the adapter away" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
