# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What a release holds, and which folders are refused before anything is sent."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import make_image

from flashsloth import FlashSlothConfig
from flashsloth.publish.card import card_files
from flashsloth.publish.release import read_release


TOKEN = "hf_" + "Ab1" * 10


@pytest.fixture(scope="module")
def release(saved):
    """The saved folder, read as a release."""
    return read_release(saved)


def test_what_a_release_holds(release, saved, model):
    assert release.folder == saved and isinstance(release.config, FlashSlothConfig)
    assert release.files == {path.name: path for path in saved.iterdir()}
    assert release.sizes == {path.name: path.stat().st_size for path in saved.iterdir()}
    assert release.num_parameters == model.num_parameters() and release.dtype == "float32"
    assert release.num_bytes == sum(path.stat().st_size for path in saved.glob("*.safetensors"))
    assert (release.hd, release.tile_grid, release.is_quantized, release.has_curves) == (False, 2, False, False)
    # The folder has no notes, and the code is that of this package.
    assert (release.lineage.entries, release.evaluations, release.record, release.foreign_code) == ([], [], {}, [])


def test_a_quantized_model(folder):
    edit_json("config.json", lambda config: config.update(quantization_config={"quant_method": "torchao"}))(folder)
    release = read_release(folder)
    assert release.is_quantized and release.dtype is None


def test_code_of_others_is_part_of_it_with_its_imports(folder):
    code = (folder / "modeling_flashsloth.py").read_text()
    (folder / "modeling_flashsloth.py").write_text(code + "\nfrom .rotary import turn\n")
    (folder / "rotary.py").write_text("turn = None\n")
    release = read_release(folder)
    assert "rotary.py" in release.files
    assert release.foreign_code == ["modeling_flashsloth.py", "rotary.py"]


def test_a_card_by_hand(folder):
    (folder / "README.md").write_text("# By hand\n")
    with pytest.raises(ValueError, match="README.md would be replaced by the generated model card: pass --keep-card"):
        read_release(folder)
    assert "README.md" in read_release(folder, keep_card=True).files


def test_the_record_beside_a_run_s_model_belongs_to_it(saved, tmp_path):
    """A run leaves OUTPUT_DIR/model, and its training.json and curves.png in OUTPUT_DIR."""
    (tmp_path / "training.json").write_text('{"processes": 3, "config": {"output_dir": "/home/ann/7"}}')
    make_image().save(tmp_path / "curves.png")
    folder = shutil.copytree(saved, tmp_path / "other")
    assert read_release(folder).record == {} and not read_release(folder).has_curves
    release = read_release(folder.rename(tmp_path / "model"))
    assert release.record == {"processes": 3, "config": {"output_dir": "7"}}
    assert json.loads(release.files["training.json"]) == release.record and "training.json" in release.sizes
    assert release.files["curves.png"] == tmp_path / "curves.png" and release.has_curves


def test_curves_beside_a_run_s_model_that_are_a_link_are_refused(saved, tmp_path):
    (tmp_path / "secret").mkdir()
    make_image().save(tmp_path / "secret" / "x.png")
    folder = shutil.copytree(saved, tmp_path / "run" / "model")
    (tmp_path / "run" / "curves.png").symlink_to(tmp_path / "secret" / "x.png")
    with pytest.raises(ValueError, match="curves.png is a link that points outside the folder"):
        read_release(folder)


PRIVATE = f"/home/ann/data.json and https://ann:secret@host/data.json {TOKEN}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("provenance.json", [{"command": "train", "sources": [{"folder": "/home/ann/base"}], "data": [PRIVATE]}]),
        ("training.json", {"stage": {"model": PRIVATE}, "config": {"output_dir": "/home/ann/runs/7"}}),
        (
            "evaluation.json",
            [
                {
                    "task": "counting",
                    "dataset": {"name": "Exam"},
                    "metric": "exact_match",
                    "value": 95.0,
                    "origin": "measured",
                    "command": f"python /home/ann/exam.py --token {TOKEN}",
                }
            ],
        ),
    ],
)
def test_notes_are_uploaded_without_what_is_private(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    release = read_release(folder)
    sent = release.files[name].decode()
    card = b"".join(card_files(release, "ann/model", license="mit").values()).decode(errors="replace")
    for private in ("/home/ann", "secret", TOKEN):
        assert private not in sent and private not in card
    assert type(json.loads(sent)) is type(content)


def test_notes_without_anything_private_are_uploaded_as_they_are(folder):
    (folder / "provenance.json").write_text('[{"command": "train", "sources": [{"folder": "base"}]}]')
    assert read_release(folder).files["provenance.json"] == folder / "provenance.json"


def test_paths_in_the_config_of_a_published_checkpoint_are_left_out(folder):
    """Those of its authors: the config is kept as it was, for the way back."""
    original = {"mm_vision_tower": "/home/ann/siglip", "hidden_size": 64}
    edit_json("config.json", lambda config: config.update(original_config=original))(folder)
    sent = json.loads(read_release(folder).files["config.json"])
    assert sent == {
        **json.loads((folder / "config.json").read_text()),
        "original_config": {**original, "mm_vision_tower": "siglip"},
    }


def test_notes_are_checked(folder):
    (folder / "provenance.json").write_text('[{"command": "rm", "sources": []}]')
    with pytest.raises(ValueError, match="Entry 1 of provenance.json has the command 'rm'"):
        read_release(folder)
    (folder / "provenance.json").unlink()
    (folder / "evaluation.json").write_text('[{"task": "counting"}]')
    with pytest.raises(ValueError, match=r"evaluation.json, score 1: 'dataset' is None"):
        read_release(folder)


# Folders that are refused


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-8])


def lie(folder: Path, name: str) -> None:
    """Writes another shape than the data has into the file's header."""
    content = (folder / name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    next(entry for key, entry in header.items() if key != "__metadata__")["shape"] = [7, 7]
    changed = json.dumps(header).encode()
    (folder / name).write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])


def write(name: str, content: str = "x"):
    return lambda folder: (folder / name).write_text(content)


def edit_json(name: str, change):
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def set_metadata(folder: Path, **metadata: str) -> None:
    """Adds to the header of the first shard."""
    file = folder / shard_of(folder)
    save_file(load_file(file), file, {"format": "pt", **metadata})


def add_tensor(folder: Path, name: str) -> None:
    """Adds a tensor to the first shard and to the index."""
    file = folder / shard_of(folder)
    save_file(load_file(file) | {name: torch.zeros(1)}, file, {"format": "pt"})
    edit_json("model.safetensors.index.json", lambda index: index["weight_map"].update({name: file.name}))(folder)


def shard_of(folder: Path) -> str:
    return sorted(path.name for path in folder.glob("model-*"))[0]


# What is done to a complete folder, and a part of the message.
def space_in_its_place(folder):
    (folder / "config.json").unlink()
    (folder / "README.md").write_text("---\ntitle: FlashSloth\nsdk: gradio\n---\n")


BAD_INPUT = {
    "pickle": (write("optimizer.pt"), "optimizer.pt may hold pickled objects"),
    "training arguments": (write("training_args.bin"), "training_args.bin may hold pickled objects"),
    "other file": (write("notes.txt"), "notes.txt is a file that save_pretrained did not write: remove it"),
    "hidden folder": (lambda folder: (folder / ".git").mkdir(), ".git is a folder"),
    "bytecode": (lambda folder: (folder / "__pycache__").mkdir(), "__pycache__ is a folder"),
    "code that nothing imports": (write("helpers.py"), "helpers.py is a file that save_pretrained did not write"),
    "leftover": (write("config.json.tmp"), "config.json.tmp is left over from an interrupted write"),
    "link out": (
        lambda folder: (folder / "vocab.json").symlink_to(folder.parent / "secret"),
        "vocab.json is a link that points outside the folder",
    ),
    "empty": (write("generation_config.json", ""), "generation_config.json is empty"),
    "no shard": (lambda folder: (folder / shard_of(folder)).unlink(), "00001-of-00003.safetensors, which model"),
    "cut shard": (lambda folder: cut(folder, shard_of(folder)), "00001-of-00003.safetensors is damaged"),
    "header that lies": (
        lambda folder: lie(folder, shard_of(folder)),
        "shape [7, 7] and dtype F32 takes 196 bytes",
    ),
    "shard that lacks a tensor": (
        lambda folder: save_file({"other": torch.zeros(1)}, folder / shard_of(folder), {"format": "pt"}),
        "tensors that model.safetensors.index.json lists, such as",
    ),
    "index that points out": (
        edit_json("model.safetensors.index.json", lambda index: index["weight_map"].update(x="../secret.safetensors")),
        "'../secret.safetensors', which is not a file name in its own folder",
    ),
    "two sets of weights": (
        lambda folder: save_file({"x": torch.zeros(1)}, folder / "model.safetensors"),
        "the weights are there twice",
    ),
    "no weights": (
        lambda folder: [path.unlink() for path in folder.glob("model*.safetensors*")],
        "the weights are missing",
    ),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "processor_config.json is missing"),
    "no code": (
        lambda folder: (folder / "modeling_flashsloth.py").unlink(),
        "modeling_flashsloth.py, which config.json names, is missing",
    ),
    "no imported code": (
        write("modeling_flashsloth.py", "from .rotary import turn\n"),
        "rotary.py, which modeling_flashsloth.py imports, is missing",
    ),
    "no auto_map": (edit_json("config.json", lambda config: config.pop("auto_map")), "names no code for AutoConfig"),
    "code elsewhere": (
        edit_json("config.json", lambda config: config["auto_map"].update(AutoConfig="someone/x--code.Config")),
        "takes AutoConfig from another repository",
    ),
    "other model": (edit_json("config.json", lambda config: config.update(model_type="phi")), "of type 'phi', not"),
    "config that cannot be built": (
        edit_json("config.json", lambda config: config["text_config"].update(hidden_size="wide")),
        "config.json is contradictory: Field 'hidden_size' expected int",
    ),
    "adapter": (write("adapter_config.json", "{}"), "is an adapter: merge it first"),
    "space": (space_in_its_place, "is a Space, not a model: add --space."),
    "exported": (write("export.json", "{}"), "an exported model. Publish a page that runs it (flashsloth demo "),
    "checkpoint": (write("trainer_state.json", "{}"), "is a checkpoint of a training run"),
    "evaluation": (write("evaluation.json", "{}"), "evaluation.json must hold a JSON array of objects"),
    "provenance": (write("provenance.json", "[1]"), "provenance.json must hold a JSON array of objects"),
    "no JSON": (write("config.json", "{"), "config.json is not valid JSON"),
    "half-written tokenizer": (lambda folder: cut(folder, "tokenizer.json"), "tokenizer.json is not valid JSON"),
    "half-written generation settings": (write("generation_config.json", "[]"), "must hold a JSON object"),
    "chat template that is no text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"),
        "chat_template.jinja is not valid text",
    ),
    "image processor of no sizes": (
        edit_json("processor_config.json", lambda config: config["image_processor"].update(size="wide")),
        "The image processor in",
    ),
    # What training leaves behind
    "optimizer of safetensors": (
        lambda folder: save_file({"x": torch.zeros(1)}, folder / "optimizer.safetensors"),
        "optimizer.safetensors is a file that save_pretrained did not write",
    ),
    "optimizer among the weights": (
        lambda folder: add_tensor(folder, "optimizer.exp_avg"),
        "1 unexpected: optimizer.exp_avg",
    ),
    "sharded optimizer": (lambda folder: (folder / "optimizer_0").mkdir(), "optimizer_0 is a folder"),
    "random state": (write("rng_state.pth"), "rng_state.pth may hold pickled objects"),
    "unfinished folder within": (
        lambda folder: (folder / "model.incomplete-0a1b2c3d").mkdir(),
        "model.incomplete-0a1b2c3d is a folder",
    ),
    "weights in a pickle": (
        edit_json("model.safetensors.index.json", lambda index: index["weight_map"].update(x="more.bin")),
        "more.bin, which model.safetensors.index.json names, is missing",
    ),
    # Links and files under a name that is allowed
    "curves that are no image": (write("curves.png", "key"), "curves.png is no PNG image"),
    "link to a folder outside": (
        lambda folder: (folder / "curves.png").symlink_to(folder.parent),
        "curves.png is a link that points outside the folder",
    ),
    "link to nothing": (
        lambda folder: (folder / "curves.png").symlink_to("none.png"),
        "curves.png is not a regular file",
    ),
    # Paths of this machine
    "path in config.json": (
        edit_json("config.json", lambda config: config["text_config"].update(_name_or_path="/home/ann/phi")),
        "config.json holds a path of this machine (text_config._name_or_path: /home/ann/phi): remove it there",
    ),
    "relative path in config.json": (
        edit_json("config.json", lambda config: config.update(_name_or_path="../ann/phi")),
        "config.json holds a path of this machine (_name_or_path: ../ann/phi)",
    ),
    "path in processor_config.json": (
        edit_json("processor_config.json", lambda config: config.update(source="C:\\Users\\ann\\phi")),
        "processor_config.json holds a path of this machine (source: C:\\Users\\ann\\phi)",
    ),
    "path in generation_config.json": (
        edit_json("generation_config.json", lambda config: config.update(cache="~/ann/phi")),
        "generation_config.json holds a path of this machine (cache: ~/ann/phi)",
    ),
    "path in tokenizer_config.json": (
        edit_json("tokenizer_config.json", lambda config: config.update(tokenizer_file="/data/ann/tokenizer.json")),
        "tokenizer_config.json holds a path of this machine (tokenizer_file: /data/ann/tokenizer.json)",
    ),
    "path in the weights' header": (
        lambda folder: set_metadata(folder, source="/home/ann/base"),
        "00001-of-00003.safetensors holds a path of this machine (source: /home/ann/base)",
    ),
    # Secrets
    "token in config.json": (
        edit_json("config.json", lambda config: config.update(note=TOKEN)),
        "config.json holds an access token or a password: remove it there, and revoke it",
    ),
    "token in code": (
        lambda folder: append(folder / "modeling_flashsloth.py", f"\n# {TOKEN}\n"),
        "modeling_flashsloth.py holds an access token or a password",
    ),
    "password in the chat template": (
        lambda folder: append(folder / "chat_template.jinja", "{# https://ann:secret@host/x #}"),
        "chat_template.jinja holds an access token or a password",
    ),
    "token in the weights' header": (
        lambda folder: set_metadata(folder, note=TOKEN),
        "00001-of-00003.safetensors holds an access token or a password",
    ),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_folder_is_refused(folder, given):
    hurt, says = BAD_INPUT[given]
    hurt(folder)
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        read_release(folder)
    assert "\n" not in str(raised.value) and TOKEN not in str(raised.value)


def test_all_that_is_wrong_is_named(folder):
    shards = sorted(folder.glob("model-*"))
    shards[0].unlink()
    cut(folder, shards[1].name)
    write("a.txt")(folder)
    write("b.ckpt")(folder)
    with pytest.raises(ValueError, match="folder cannot be uploaded: ") as raised:
        read_release(folder)
    said = str(raised.value).split(": ", 1)[1]
    for problem in (
        "00001-of-00003.safetensors, which",
        "00002-of-00003.safetensors is damaged",
        "a.txt is",
        "b.ckpt",
    ):
        assert problem in said


def test_an_adapter_is_to_be_merged_first(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: merge it first .flashsloth merge."):
        read_release(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.incomplete-0a1b2c3d", "is left over from an interrupted command"),
        ("checkpoint-7", "is a checkpoint of a training run"),
        ("model", "holds no model: config.json is missing"),
    ],
)
def test_unfinished_folders_are_refused(tmp_path, name, says):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=says):
        read_release(tmp_path / name)


def test_the_folder_of_a_run_leads_to_its_model(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run" / "model")
    with pytest.raises(ValueError, match=r"run holds no model: config.json is missing; name .*run/model\."):
        read_release(tmp_path / "run")


def test_a_token_in_a_card_by_hand_is_refused(folder):
    (folder / "README.md").write_text(f"# By hand\n\nhf download --token {TOKEN}\n")
    with pytest.raises(ValueError, match="README.md holds an access token or a password"):
        read_release(folder, keep_card=True)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none is not a folder: name one that compose"):
        read_release(tmp_path / "none")
