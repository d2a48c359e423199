# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Model folders whose parts do not fit each other, are damaged or hostile: each command that reads one says so in one
line that names what is wrong and what to do, before it costs time or memory.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from model_folders import error_of, read_json, with_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import make_image, make_model

from flashsloth import cli
from flashsloth.convert.quantization import quantize
from flashsloth.folders import config_file
from flashsloth.folders.tensors import is_finite
from flashsloth.loading import load_model, load_model_and_processor


ASK = "flashsloth ask --model MODEL QUESTION"
# What is given: the command, a part of the message, and the exit status.
BAD_INPUT = {
    "fewer vision layers in the config than stored": (ASK, "unexpected: model.vision_tower.encoder.layers.1.", 2),
    "fewer decoder layers in the config than stored": (ASK, "unexpected: model.language_model.layers.2.", 2),
    "more layers in the config than stored": (ASK, "num_hidden_layers 9, but the weights beside it hold 3", 2),
    "a million layers in the config": (ASK, "num_hidden_layers 1000000; no model has more than 100000", 2),
    "a width of a billion in the config": (ASK, "do not fit its config", 2),
    "a vocabulary of a trillion in the config": (ASK, "do not fit its config", 2),
    "a billion query tokens in the config": (ASK, "num_query_tokens 1000000000; no model has more than 100000", 2),
    "other query tokens in the config": (ASK, "first_query_token_id 260, but the config has 270", 2),
    "another image token in the config": (ASK, "image_token_id 258, but the config has 300", 2),
    "another query slot in the config": (ASK, "query_slot_token_id 256, but the config has 300", 2),
    "another padding token in the config": (ASK, "pad_token_id 259, but the config has 300", 2),
    "another end token in the config": (ASK, "eos_token_id 257, but the config has 300", 2),
    "another end token in the generation config": (ASK, "answers would not end", 2),
    "no end token in the generation config": (ASK, "has no eos_token_id: answers would not end. Put that of", 2),
    "an end token of null in the generation config": (
        ASK,
        "has no eos_token_id: answers would not end. Put that of",
        2,
    ),
    "an empty list of end tokens in the generation config": (
        ASK,
        "has eos_token_id '[]': it must be the id of a token, or a list of ids of tokens, from 0 to 319",
        2,
    ),
    "a suppressed end token": (ASK, "suppresses 257, the end of an answer", 2),
    "a suppressed token beyond the vocabulary": (
        ASK,
        "has suppress_tokens '[320]': it must be a list of ids of tokens, from 0 to 319",
        2,
    ),
    "an unknown setting in the generation config": (ASK, "has penalty_alpha '0.6', which is no setting", 2),
    "a million beams in the generation config": (ASK, "has num_beams '1000000', which is no setting", 2),
    "another number of visual tokens in the processor": (ASK, "num_visual_tokens 5, but the config has 4", 2),
    "another number of query tokens in the processor": (ASK, "num_query_tokens 2, but the config has 3", 2),
    "a billion query tokens in the processor": (ASK, "which is not a count of tokens", 2),
    "another image size in the processor": (ASK, "but the vision tower takes 24 x 24 pixels", 2),
    "no tokenizer": (ASK, "MODEL holds no tokenizer (tokenizer.json). Save the processor there again", 2),
    "no settings of the tokenizer": (ASK, "MODEL lacks the settings of its tokenizer (tokenizer_config.json)", 2),
    "a longer tokenizer than the decoder": (ASK, "model_max_length 2048, but the decoder has 1024 positions", 2),
    "a token beyond the vocabulary": (ASK, "but the decoder embeds 320 tokens", 2),
    "an image_std of 0": (ASK, "image_std=(0.5, 0, 0.5) is not usable: pass one finite number or three", 2),
    "an image_mean of NaN": (ASK, "NaN is not a finite number", 2),
    "an image_mean beyond all numbers": (ASK, "1e999 is not a finite number", 2),
    "a million tiles": (ASK, "has tile_grid 1000000, which is not a whole number up to 16", 2),
    "a weight of NaN": (ASK, "model.pooling.fc1.weight of the model MODEL holds numbers that are not finite", 2),
    "an infinite weight": (ASK, "lm_head.bias of the model MODEL holds numbers that are not finite", 2),
    "a weight of another shape": (ASK, "1 wrongly shaped: lm_head.bias: [7] instead of [320]", 2),
    "a tensor too many": (ASK, "1 unexpected: something", 2),
    "a tensor too few": (ASK, "1 missing: lm_head.bias", 2),
    "an index with a file of another folder": (ASK, "which is not a file name in its own folder", 2),
    "an index with a file by its whole path": (ASK, "which is not a file name in its own folder", 2),
    "weights both whole and in parts": (ASK, "are there twice", 2),
    "a chat template without an end": (ASK, "takes more than 5 seconds for a short conversation", 2),
    "a chat template of much text": (ASK, "makes more than 100000 characters of a short conversation", 2),
    "a chat template of all memory": (ASK, "does not work (MemoryError", 2),
    "a chat template that counts for ever": (ASK, "takes more than 5 seconds for a short conversation", 2),
    "a chat template that is no template": (ASK, "does not work (TemplateSyntaxError", 2),
    "a chat template that refuses": (ASK, "does not work (TemplateError: no", 2),
    "a chat template without the image": (ASK, "writes 0 <image> for one image", 2),
    "a chat template without the question": (ASK, "leaves out the question", 2),
    "a chat template without query tokens": (ASK, "writes no <learnable>, the place of the query tokens", 2),
    "a chat template that is a number": (ASK, "is a int, not a text", 2),
    "an empty text to escape": (ASK, "which is not a list of texts that are not empty", 2),
    "a number to escape": (ASK, "which is not a list of texts that are not empty", 2),
    "a word in the place of the texts to escape": (ASK, "has escaped_tokens '<image>', which is not a list", 2),
    "a pattern in the tokenizer that takes for ever": (ASK, "does not work (PanicException: ", 2),
    "a pattern in the tokenizer's splits that takes for ever": (ASK, "does not work (PanicException: ", 2),
    "an auto_map that is a word": (ASK, "has auto_map 'x', which is no object", 2),
    "an image processor that is a list": (ASK, "image processor", 2),
    "an unknown activation in the config": (ASK, "has hidden_act 'gelo', an activation that transformers does not", 2),
    "a rotary embedding that is not finite": (ASK, "has rope_theta 0, which is not a number above 0", 2),
    "an image_std beyond reason": (ASK, "do not belong together", 2),
    "an adapter": (ASK, "is an adapter: merge it first (flashsloth merge MODEL DST)", 2),
    "a clone without Git LFS": (ASK, "model.safetensors is a pointer of Git LFS, not the file itself", 2),
    "an empty folder": (ASK, "config.json does not exist. Name the folder that was saved", 2),
    "the folder above an adapter": (
        ASK,
        "MODEL/model is an adapter: merge it first (flashsloth merge MODEL/model DST",
        2,
    ),
    "the folder above a model": (ASK, "config.json does not exist. Name the folder in it: MODEL/inner", 2),
    "another name of the weights in the config": (ASK, "names a file of weights (transformers_weights)", 2),
}


def edit(name: str, **changes) -> Callable[[Path], None]:
    """Overwrites values of a JSON file; a dict changes some values of the dict that is there."""

    def merged(old: dict, new: dict) -> dict:
        return old | {
            key: merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
            for key, value in new.items()
        }

    def change(folder: Path) -> None:
        fields = read_json(folder / name) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps(merged(fields, changes)))

    return change


def weights(**changes) -> Callable[[Path], None]:
    """Replaces tensors, by functions of the old ones; `None` removes one."""

    def change(folder: Path) -> None:
        with safe_open(folder / "model.safetensors", "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / "model.safetensors")
        for name, function in changes.items():
            tensors[name.replace("__", ".")] = function(tensors.get(name.replace("__", "."))) if function else None
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(tensors, folder / "model.safetensors", metadata=metadata)

    return change


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A tensor whose first number is `value`."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return change


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replaces text in a file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def with_token(folder: Path) -> None:
    tokenizer = read_json(folder / "tokenizer.json")
    last = max(tokenizer["added_tokens"], key=lambda token: token["id"])
    tokenizer["added_tokens"] += [{**last, "id": last["id"] + n, "content": f"<{n}>"} for n in range(1, 99)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def indexed(file_name: str) -> Callable[[Path], None]:
    """Puts an index in the place of the weights, which move to the folder above."""

    def change(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        place = file_name.replace("ABOVE", str(folder.parent))
        (folder / "model.safetensors").rename(folder.parent / "weights.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def twice(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.bias": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}<image>"


def template(text: str) -> Callable[[Path], None]:
    """Another chat template."""
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def number_as_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit("processor_config.json", chat_template=5)(folder)


def pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(text)


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def moved_down(folder: Path, name: str = "inner") -> None:
    files = list(folder.iterdir())
    (folder / name).mkdir()
    for file in files:
        file.rename(folder / name / file.name)


def run_with_adapter(folder: Path) -> None:
    """What a run with LoRA leaves: the adapter, and a checkpoint."""
    emptied(folder)
    for name in ("checkpoint-1", "model"):
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text("{}")


def without(name: str, field: str) -> Callable[[Path], None]:
    """Takes a field out of a JSON file."""

    def change(folder: Path) -> None:
        fields = read_json(folder / name)
        del fields[field]
        (folder / name).write_text(json.dumps(fields))

    return change


BOMB = {"Regex": "(([a-zA-Z ]+)+)+[0-9]{9}"}
SPLIT = {"type": "Split", "pattern": BOMB, "behavior": "Isolated", "invert": False}


CHANGES = {
    "fewer vision layers in the config than stored": edit("config.json", vision_config={"num_hidden_layers": 1}),
    "fewer decoder layers in the config than stored": edit("config.json", text_config={"num_hidden_layers": 2}),
    "more layers in the config than stored": edit("config.json", text_config={"num_hidden_layers": 9}),
    "a million layers in the config": edit("config.json", text_config={"num_hidden_layers": 10**6}),
    "a width of a billion in the config": edit(
        "config.json", text_config={"hidden_size": 10**9, "intermediate_size": 10**9}
    ),
    "a vocabulary of a trillion in the config": edit("config.json", text_config={"vocab_size": 10**12}),
    "a billion query tokens in the config": edit(
        "config.json", num_query_tokens=10**9, text_config={"vocab_size": 10**12}
    ),
    "other query tokens in the config": edit("config.json", first_query_token_id=270),
    "another image token in the config": edit("config.json", image_token_id=300),
    "another query slot in the config": edit("config.json", query_slot_token_id=300),
    "another padding token in the config": edit("config.json", pad_token_id=300),
    "another end token in the config": edit("config.json", eos_token_id=300),
    "another end token in the generation config": edit("generation_config.json", eos_token_id=65),
    "no end token in the generation config": without("generation_config.json", "eos_token_id"),
    "an end token of null in the generation config": edit("generation_config.json", eos_token_id=None),
    "an empty list of end tokens in the generation config": edit("generation_config.json", eos_token_id=[]),
    "a suppressed end token": edit("generation_config.json", suppress_tokens=[1, 257]),
    "a suppressed token beyond the vocabulary": edit("generation_config.json", suppress_tokens=[320]),
    "an unknown setting in the generation config": edit("generation_config.json", penalty_alpha=0.6),
    "a million beams in the generation config": edit("generation_config.json", num_beams=10**6),
    "another number of visual tokens in the processor": edit("processor_config.json", num_visual_tokens=5),
    "another number of query tokens in the processor": edit("processor_config.json", num_query_tokens=2),
    "a billion query tokens in the processor": edit("processor_config.json", num_query_tokens=10**9),
    "another image size in the processor": edit(
        "processor_config.json", image_processor={"size": {"height": 32, "width": 24}}
    ),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no settings of the tokenizer": lambda folder: (folder / "tokenizer_config.json").unlink(),
    "a longer tokenizer than the decoder": edit("tokenizer_config.json", model_max_length=2048),
    "a token beyond the vocabulary": with_token,
    "an image_std of 0": edit("processor_config.json", image_processor={"image_std": [0.5, 0, 0.5]}),
    "an image_mean of NaN": edit("processor_config.json", image_processor={"image_mean": [0.5, float("nan"), 0.5]}),
    "an image_mean beyond all numbers": replaced("processor_config.json", "0.00392156862745098", "1e999"),
    "a million tiles": edit("processor_config.json", image_processor={"tile_grid": 10**6}),
    "a weight of NaN": weights(model__pooling__fc1__weight=filled(float("nan"))),
    "an infinite weight": weights(lm_head__bias=filled(float("-inf"))),
    "a weight of another shape": weights(lm_head__bias=lambda tensor: tensor[:7].clone()),
    "a tensor too many": weights(something=lambda _: torch.zeros(1)),
    "a tensor too few": weights(lm_head__bias=None),
    "an index with a file of another folder": indexed("../weights.safetensors"),
    "an index with a file by its whole path": indexed("ABOVE/weights.safetensors"),
    "weights both whole and in parts": twice,
    "a chat template without an end": template(LOOPS),
    "a chat template of much text": template("{% for i in range(9999) %}{{ messages }}{% endfor %}"),
    "a chat template of all memory": template("{{ 'a' * 10 ** 10 }}"),
    "a chat template that counts for ever": template("{{ 10 ** (10 ** 10) }}"),
    "a chat template that is no template": template("{% for %}"),
    "a chat template that refuses": template("{{ raise_exception('no') }}"),
    "a chat template without the image": template("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"),
    "a chat template without the question": template("<image><learnable>"),
    "a chat template without query tokens": replaced("chat_template.jinja", "<query_0><query_1><query_2>", ""),
    "a chat template that is a number": number_as_template,
    "an empty text to escape": edit("processor_config.json", escaped_tokens=[""]),
    "a number to escape": edit("processor_config.json", escaped_tokens=["<image>", 5]),
    "a word in the place of the texts to escape": edit("processor_config.json", escaped_tokens="<image>"),
    "a pattern in the tokenizer that takes for ever": edit(
        "tokenizer.json", normalizer={"type": "Replace", "pattern": BOMB, "content": "", "normalizers": None}
    ),
    "a pattern in the tokenizer's splits that takes for ever": edit(
        "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT]}
    ),
    "an auto_map that is a word": edit("config.json", auto_map="x"),
    "an image processor that is a list": edit("processor_config.json", image_processor=[]),
    "an unknown activation in the config": edit("config.json", text_config={"hidden_act": "gelo"}),
    "a rotary embedding that is not finite": edit(
        "config.json", text_config={"rope_parameters": {"rope_type": "default", "rope_theta": 0}}
    ),
    "an image_std beyond reason": edit("processor_config.json", image_processor={"image_std": [1e30, 0.5, 0.5]}),
    "an adapter": edit("adapter_config.json", peft_type="LORA"),
    "a clone without Git LFS": pointer,
    "an empty folder": emptied,
    "the folder above an adapter": run_with_adapter,
    "the folder above a model": moved_down,
    "another name of the weights in the config": edit("config.json", transformers_weights="model.safetensors"),
}


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    """A saved model folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(folder, tmp_path, given) -> Path:
    """A folder with one thing wrong."""
    broken = with_config(folder, tmp_path / "model")
    CHANGES[given](broken)
    return broken


def run(capsys, *arguments) -> tuple[int, str]:
    """The exit status of a command, and its last line on standard error."""
    status = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert output.out == "" and "Traceback" not in output.err
    return status, output.err.splitlines()[-1]


@pytest.mark.parametrize("given", BAD_INPUT)
def test_ask(given, broken, capsys):
    _, message, status = BAD_INPUT[given]
    found, error = run(capsys, "ask", "--model", broken, "What?")
    assert found == status
    assert error.startswith("flashsloth ask: error: ")
    assert message.replace("MODEL", str(broken)) in error


@pytest.mark.parametrize("given", [given for given in BAD_INPUT if "template" not in given])
def test_quantize_writes_nothing(given, broken, tmp_path, capsys):
    status, error = run(capsys, "quantize", broken, tmp_path / "dst", "--weights", "int8")
    assert status == 2 and error.startswith("flashsloth quantize: error: ")
    assert [file.name for file in tmp_path.iterdir() if "dst" in file.name] == []


# For each command that reads a model folder, what it says of one whose parts do not fit.
OTHER_COMMANDS = {
    "train --plan": ["train", "STAGE", "--plan"],
    "convert back": ["convert", "--to-original", "MODEL", "DST"],
    "data check": ["data", "check", "STAGE"],
    "train": ["train", "STAGE", "max_steps=1", "use_cpu=true", "bf16=false"],
    "merge": ["merge", "ADAPTER", "DST", "--base", "MODEL"],
    "push": ["push", "--dry-run", "--license", "mit", "MODEL", "lab/model"],
    "bench": ["bench", "--model", "MODEL", "--no-peer", "--repeats", "1", "--new-tokens", "1"],
}
WRONG_PROCESSOR = "another number of visual tokens in the processor"
WRONG_WEIGHTS = "fewer vision layers in the config than stored"


@pytest.mark.parametrize(
    ("command", "given"),
    [
        *((command, WRONG_WEIGHTS) for command in OTHER_COMMANDS if command != "data check"),
        *((command, WRONG_PROCESSOR) for command in OTHER_COMMANDS if command not in ("bench", "train --plan")),
        *((command, "a clone without Git LFS") for command in OTHER_COMMANDS),
        ("push", "an image processor that is a list"),
    ],
)
def test_other_commands(command, given, broken, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    stage = {"model": broken, "data": tmp_path / "rows.json", "output_dir": tmp_path / "out", "trainable": ["lm_head"]}
    (tmp_path / "stage.yaml").write_text(json.dumps(stage, default=str))
    places = {"MODEL": broken, "ADAPTER": adapter, "DST": tmp_path / "dst", "STAGE": tmp_path / "stage.yaml"}
    words = [places.get(word, word) for word in OTHER_COMMANDS[command]]
    status, error = run(capsys, *words)
    assert status == 2
    assert error.startswith(f"flashsloth {command.removesuffix(' back').removesuffix(' --plan')}: error: ")
    assert BAD_INPUT[given][1].replace("MODEL", str(broken)) in error


# Values of the wrong type, or far from any that a model has.
WRONG = [None, [], {}, "x", 10**30, -1, [[{"a": []}]], True, 1.5, 0]
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
# Fields whose other values make another model, which is not to be told from the right one.
OTHER_MODELS = {
    "query_base_token_id",
    "query_layer",
    "layer_norm_eps",
    "rope_theta",
    "hd",
    "image_mean",
    "image_std",
    "resample",
    "pre_tokenizer",
    "add_prefix_space",
    "decoder",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    # of the special tokens: whether they take the spaces beside them
    "lstrip",
    "rstrip",
    "single_word",
    "normalized",
}
SAMPLES = 40  # of the wrong values of each file


def places(value, place: tuple = ()) -> Iterator[tuple]:
    """Where a JSON value has values in it, as keys and indices from the outside; long lists are not followed."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in itertools.islice(items, 20):
        yield from places(item, (*place, key))


def with_value(content, place: tuple, value):
    """A JSON value with another one at a place of it."""
    if not place:
        return value
    content = content.copy()
    content[place[0]] = with_value(content[place[0]], place[1:], value)
    return content


@pytest.mark.parametrize("name", JSON_FILES)
def test_wrong_values_anywhere(name, folder, tmp_path, capsys):
    """A wrong value is an error of one line, or it does not matter."""
    model = with_config(folder, tmp_path / "model")
    make_image(0).save(tmp_path / "image.png")
    question = ["ask", "--model", str(model), "--image", str(tmp_path / "image.png"), "--max-new-tokens", "4", "What?"]
    assert cli.main(question) == 0
    right = capsys.readouterr().out
    content = read_json(folder / name)
    cases = list(itertools.product(places(content), WRONG))
    for place, value in random.Random(0).sample(cases, min(SAMPLES, len(cases))):
        (model / name).write_text(json.dumps(with_value(content, place, value)))
        status = cli.main(question)
        output = capsys.readouterr()
        case = f"{name} {place} {value!r}: {output.err}"
        if status:
            assert status == 2 and output.out == "", case
            assert [line for line in output.err.splitlines() if not line.startswith(("Loading ", "Loaded "))] == [
                output.err.splitlines()[-1]
            ], case
            assert output.err.splitlines()[-1].startswith("flashsloth ask: error: "), case
        else:
            assert output.out == right or OTHER_MODELS.intersection(place), case


RAW = {
    "nothing": b"",
    "no text": b"\xff\xfe",
    "zeros": bytes(50),
    "a list": b"[]",
    "null": b"null",
    "a string": b'"x"',
    "an open bracket": b"{",
    "depth": b'{"a":' * 100_000,
    "many digits": b"1" * 10_000,
}


@pytest.mark.parametrize("raw", RAW)
def test_files_that_hold_something_else(raw, folder, tmp_path, capsys):
    names = [*JSON_FILES, "model.safetensors", "chat_template.jinja"]
    for name in names:
        model = with_config(folder, tmp_path / name)
        (model / name).write_bytes(RAW[raw])
        status = cli.main(["ask", "--model", str(model), "--max-new-tokens", "1", "What?"])
        output = capsys.readouterr()
        # an empty template is none, and the package has one
        assert status == (0 if (name, raw) == ("chat_template.jinja", "nothing") else 2), name
        if status:
            (error,) = [line for line in output.err.splitlines() if not line.startswith("Loading ")]
            assert error.startswith("flashsloth ask: error: ") and str(model) in error


@pytest.mark.parametrize("given", ["fewer vision layers in the config than stored", "an infinite weight"])
def test_what_a_quantized_base_of_training_is_made_of(given, broken):
    options = {"quantization_config": "nf4"}  # refused before bitsandbytes is asked
    message = BAD_INPUT[given][1].replace("MODEL", str(broken))
    assert message in error_of(load_model, broken, **options)


def test_settings_that_a_folder_may_have(folder, tmp_path):
    """Another template that makes room for all, and every usual way to generate."""
    model = with_config(folder, tmp_path / "model")
    replaced("chat_template.jinja", "USER: ", "HUMAN: {% for i in range(3) %}.{% endfor %}")(model)
    edit("generation_config.json", do_sample=True, temperature=0.7, top_p=0.9, num_beams=4, eos_token_id=[257, 10])(
        model
    )
    edit("processor_config.json", image_processor={"image_mean": 0.48, "image_std": 0.27, "tile_grid": 3})(model)
    loaded, processor = load_model_and_processor(str(model))
    assert loaded.generation_config.num_beams == 4 and processor.image_processor.tile_grid == 3


def test_numbers_that_the_config_makes_not_finite(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "ROTARY", {})
    edit("config.json", text_config={"rope_parameters": {"rope_theta": 0}})(with_config(folder, tmp_path / "model"))
    assert "config.json makes model.language_model.rotary_emb.inv_freq hold numbers that are not finite" in error_of(
        load_model_and_processor, str(tmp_path / "model")
    )


def test_a_quantized_model_is_compared_with_its_config_too(folder, tmp_path):
    quantize(folder, tmp_path / "int8", "int8")
    load_model_and_processor(str(tmp_path / "int8"))
    CHANGES["fewer decoder layers in the config than stored"](tmp_path / "int8")
    assert "unexpected: model.language_model.layers.2." in error_of(load_model_and_processor, str(tmp_path / "int8"))
    edit("config.json", text_config={"num_hidden_layers": 3, "intermediate_size": 10**12})(tmp_path / "int8")
    assert "do not fit its config" in error_of(load_model_and_processor, str(tmp_path / "int8"))
    edit("config.json", text_config={"intermediate_size": 64})(tmp_path / "int8")
    weights(**{"model__language_model__layers__0__mlp__fc1___weight_scale": filled(float("nan"))})(tmp_path / "int8")
    assert "layers.0.mlp.fc1.weight of the model" in error_of(load_model_and_processor, str(tmp_path / "int8"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found(dtype, value):
    largest = torch.full((3, 5), torch.finfo(dtype).max, dtype=torch.float64).to(dtype)  # whose sum overflows
    assert is_finite(largest)
    wrong = largest.double()
    wrong[2, 3] = value
    if torch.isfinite(wrong.to(dtype).float()).all():
        pytest.skip("this dtype has no such number")
    assert not is_finite(wrong.to(dtype))


def test_tensors_that_are_always_finite():
    assert is_finite(torch.zeros(0)) and is_finite(torch.ones(3, dtype=torch.int8))
    assert is_finite(torch.empty(10**12, device="meta"))
