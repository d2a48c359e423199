# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Checkpoints: written and read one tensor at a time; damaged and hostile ones are one clear error and run nothing."""

import json
import pickle
import zipfile

import pytest
import torch
from model_folders import DEEP, Hostile, error_of
from safetensors.torch import load_file, save_file

from flashsloth.folders.tensors import Checkpoint, LazyTensor, write_tensors


def lazy(tensor: torch.Tensor) -> LazyTensor:
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
        "turned": torch.randn(2, 3).t(),
    }
    write_tensors({name: lazy(tensor) for name, tensor in tensors.items()}, tmp_path, metadata={"note": "ours"})
    found = Checkpoint(tmp_path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].shape, found[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(found[name].read(), tensor)
    library = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(library[name], tensor) for name, tensor in tensors.items())


def test_a_cast_leaves_integers_alone():
    assert lazy(torch.ones(2)).to(torch.float16).read().dtype == torch.float16
    assert lazy(torch.ones(2, dtype=torch.int64)).to(torch.float16).read().dtype == torch.int64


def test_a_tensor_that_is_not_as_announced_is_refused(tmp_path):
    wrong = LazyTensor((2, 2), torch.float32, lambda: torch.zeros(3))
    assert "a was announced as torch.float32 (2, 2), but is torch.float32 (3,)" in error_of(
        write_tensors, {"a": wrong}, tmp_path
    )


def test_one_tensor_in_memory_at_a_time(tmp_path):
    alive, most = 0, 0

    class Counted(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def read():
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return torch.zeros(10, 10).as_subclass(Counted)

    write_tensors({str(i): LazyTensor((10, 10), torch.float32, read) for i in range(20)}, tmp_path, "2KB")
    assert len(Checkpoint(tmp_path)) == 20
    assert most <= 4  # views of one tensor count as well


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_indices_stay_in_their_folder(name, separator, tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    name = name.replace("/", separator)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "which is not a file name in its own folder" in error_of(Checkpoint, folder)


def test_the_cache_of_the_hub_is_made_of_links(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.ones(4)}, blobs / "abc")
    (blobs / "def").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    (snapshot / "model-00001-of-00001.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/def")
    assert Checkpoint(snapshot)["a"].read().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * DEEP, "index.json is not valid JSON"),
        ('{"weight_map": ' + "9" * 5000 + "}", "index.json is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"weight_map": []}', "has no 'weight_map'"),
        ('{"weight_map": {"a": 5}}', "puts a in 5"),
    ],
)
def test_damaged_indices(content, message, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert message in error_of(Checkpoint, tmp_path)


def test_json_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "model.safetensors.index.json", "wb") as stream:
        stream.truncate(10**12)  # a hole: it takes no room on the disk
    assert "has 1000000000000 bytes, too many" in error_of(Checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "/etc/passwd"}, "not a file name in its own folder"),
        ({"a": "config.json"}, "only .safetensors and .bin"),
        ({"a": "gone.safetensors"}, "gone.safetensors is missing"),
        ({"a": "part.safetensors", "b": "part.safetensors"}, "1 tensors that its files do not hold, such as b"),
    ],
)
def test_indices_that_do_not_fit_their_files(weight_map, message, tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert message in error_of(Checkpoint, tmp_path)


def test_a_folder_without_weights(tmp_path):
    assert "No weights in " in error_of(Checkpoint, tmp_path)


def test_damaged_safetensors(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:100], b"", (1 << 60).to_bytes(8, "little") + whole[8:]):
        file.write_bytes(content)
        assert "model.safetensors is damaged" in error_of(Checkpoint, tmp_path)


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    assert "must hold a dictionary of tensors" in error_of(Checkpoint, tmp_path)


@pytest.mark.parametrize("kind", ["in a dictionary", "alone", "legacy", "plain pickle"])
def test_nothing_is_unpickled(kind, tmp_path):
    executed, file = tmp_path / "executed", tmp_path / "pytorch_model.bin"
    content = {"a": torch.zeros(4), "b": Hostile(executed)}
    if kind == "plain pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        content = Hostile(executed) if kind == "alone" else content
        torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
    message = error_of(Checkpoint, tmp_path)
    assert f"{file} cannot be read as plain tensors" in message and "Use a safetensors version." in message
    assert "weights_only" not in message.partition("(")[0] and not executed.exists()
    # The payload works: it is not run because it is refused.
    torch.load(file, weights_only=False) if kind != "plain pickle" else pickle.loads(file.read_bytes())
    assert executed.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1).expand(10**12)}, "a of shape [1000000000000] has more elements than are stored"),
        ({"a": torch.zeros(4, device="meta")}, "a is a tensor of dtype torch.float32, layout torch.strided on meta"),
        ({"a": torch.zeros(4).to_sparse()}, "layout torch.sparse_coo"),
        ({"a": torch.zeros(4, dtype=torch.complex64)}, "a is a tensor of dtype torch.complex64"),
        ({1: torch.zeros(4)}, "it names a tensor 1"),
        ({"a": 5}, "must hold a dictionary of tensors"),
    ],
)
def test_pickles_of_unusual_tensors(content, message, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert message in error_of(Checkpoint, tmp_path)


def test_damaged_pickles(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4)}, file)
    assert not Checkpoint(tmp_path)["a"].read().any()
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-1], b"\x80\x02" + b"(" * DEEP):
        file.write_bytes(content)
        assert "cannot be read as plain tensors" in error_of(Checkpoint, tmp_path)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # as a bomb would be
        for name, content in members.items():
            archive.writestr(name, content)
    assert "is compressed, which torch.save does not do" in error_of(Checkpoint, tmp_path)
