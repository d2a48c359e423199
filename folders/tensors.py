# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Reading and writing checkpoints of any size with the memory of one tensor."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from tqdm import tqdm

from flashsloth.folders.downloads import WEIGHT_FILES
from flashsloth.folders.errors import one_line
from flashsloth.folders.json_files import read_json, write_json
from flashsloth.folders.safetensors_header import SAFETENSORS_DTYPES, check_header


NOT_FINITE = "Train or save the model again, or choose a dtype of a wider range, such as bfloat16."


@dataclass(frozen=True)
class LazyTensor:
    """
    A tensor that is read, or made, when it is needed.

    Args:
        shape (`tuple[int, ...]`): its shape.
        dtype (`torch.dtype`): its dtype.
        read (`Callable`): returns the tensor.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def to(self, dtype: torch.dtype | None) -> "LazyTensor":
        """The same tensor, cast to `dtype` when it is read; `None`, and a tensor of integers, stay as they are."""
        if dtype is None or not self.dtype.is_floating_point:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read().to(dtype))


def is_finite(tensor: torch.Tensor) -> bool:
    """
    Whether a tensor holds neither NaN nor infinity. It is read once, and nothing of its size is allocated.

    Args:
        tensor (`torch.Tensor`): of any dtype; the parts of a quantized weight are looked at one by one. One without
            data, on the meta device, is finite.
    """
    if is_traceable_wrapper_subclass(tensor):
        return all(
            is_finite(part) for name in tensor.__tensor_flatten__()[0] if (part := vars(tensor)[name]) is not None
        )
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize == 1:
        tensor = tensor.float()  # no extremes of 8-bit numbers are computed
    return all(extreme.isfinite().item() for extreme in tensor.detach().aminmax())


class Checkpoint(Mapping[str, LazyTensor]):
    """
    The weights of a folder, by name, in the order of their files: sharded or single, safetensors or PyTorch (.bin).
    Only the headers are read; a tensor is mapped from its file when it is needed.

    Args:
        folder (`str` or `os.PathLike`): a folder as `save_pretrained` writes it.

    Raises:
        ValueError: If there are no weights, a file is missing or damaged, or the index contradicts its files. Nothing
            but plain tensors is ever unpickled.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._tensors: dict[str, LazyTensor] = {}
        index_name = next((name for name in WEIGHT_FILES if (self.folder / name).is_file()), None)
        if index_name is None:
            raise ValueError(f"No weights in {self.folder}: expected one of {', '.join(WEIGHT_FILES)}.")
        whole_name = index_name.replace(".index.json", "")
        if whole_name != index_name and (self.folder / whole_name).is_file():
            raise ValueError(
                f"The weights in {self.folder} are there twice, as {whole_name} and as {index_name}. Remove one."
            )
        weight_map = None
        file_names = [index_name]
        if index_name.endswith(".index.json"):
            weight_map = read_weight_map(self.folder / index_name)
            file_names = list(dict.fromkeys(weight_map.values()))
        for file_name in file_names:
            file = self.folder / file_name
            if not file.is_file():
                raise ValueError(f"{file} is missing, but {index_name} names it. Download the checkpoint again.")
            open_file = open_safetensors if file.suffix == ".safetensors" else _open_pytorch
            for name, tensor in open_file(file):
                # A shard may hold what the index does not list, or lists elsewhere: the index decides.
                if weight_map is None or weight_map.get(name) == file_name:
                    self._tensors[name] = tensor
        absent = [name for name in weight_map or () if name not in self._tensors]
        if absent:
            raise ValueError(
                f"{self.folder / index_name} lists {len(absent)} tensors that its files do not hold, such as "
                f"{absent[0]} in {weight_map[absent[0]]}. Download the checkpoint again."
            )

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_weight_map(index_file: Path) -> dict[str, str]:
    """The `weight_map` of an index file, its file names checked to lie in the index's own folder."""
    weight_map = read_json(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_file} has no 'weight_map' from tensor names to files.")
    for name, file_name in weight_map.items():
        # as a Windows path, in which slashes, backslashes and drives separate parts
        if not isinstance(file_name, str) or PureWindowsPath(file_name).name != file_name:
            raise ValueError(f"{index_file} puts {name} in {file_name!r}, which is not a file name in its own folder.")
        if Path(file_name).suffix not in (".safetensors", ".bin"):
            raise ValueError(f"{index_file} puts {name} in {file_name!r}; only .safetensors and .bin files are read.")
    return weight_map


def open_safetensors(file: Path) -> Iterator[tuple[str, LazyTensor]]:
    """Name and tensor of each entry of a safetensors file; its header is checked, and nothing else is read."""
    check_header(file)
    try:
        opened = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged or no safetensors file ({one_line(error)}). Download it again."
        ) from error
    # `keys()` is sorted by name; the order in the file is faster to read.
    for name in opened.offset_keys():
        header = opened.get_slice(name)
        dtype = SAFETENSORS_DTYPES[header.get_dtype()]
        yield name, LazyTensor(tuple(header.get_shape()), dtype, lambda name=name: opened.get_tensor(name))


def _open_pytorch(file: Path) -> Iterator[tuple[str, LazyTensor]]:
    def unreadable(reason: str) -> ValueError:
        return ValueError(f"{file} cannot be read as plain tensors ({reason}). Use a safetensors version.")

    try:
        with zipfile.ZipFile(file) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile as error:
        raise unreadable("torch.save writes zip archives since version 1.6, and this is not one") from error
    if packed:
        raise unreadable(f"its {packed[0]} is compressed, which torch.save does not do")
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a pickle is a program, and a crafted one may raise anything
        # after its first sentence the message advises to load the file unsafely
        raise unreadable(one_line(error).partition(". ")[0] or type(error).__name__) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{file} must hold a dictionary of tensors.")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise unreadable(f"it names a tensor {name!r}")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in SAFETENSORS_DTYPES.values():
            raise unreadable(f"{name} is a tensor of dtype {tensor.dtype}, layout {tensor.layout} on {tensor.device}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise unreadable(f"{name} of shape {list(tensor.shape)} has more elements than are stored")
        yield name, LazyTensor(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)


def write_tensors(
    tensors: Mapping[str, LazyTensor],
    folder,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """
    Writes `model.safetensors`, or shards and their index, as `save_pretrained` does, but one tensor at a time: the
    memory needed is that of the largest tensor.

    Args:
        tensors (`Mapping[str, LazyTensor]`): what to write; each is read once.
        folder (`str` or `os.PathLike`): an existing folder.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`): size limit of a file, in bytes or like
            `"500MB"`. A single larger tensor gets a file of its own.
        metadata (`Mapping[str, str]`, *optional*): for the header of every file. `save_pretrained` writes there what a
            quantization method needs to know.
    """
    folder = Path(folder)
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="Writing weights") as progress:
        for file_name, names in split.filename_to_tensors.items():
            shard = {name: tensors[name] for name in names}
            _write_safetensors(shard, folder / file_name, progress, metadata or {})
    if split.is_sharded:
        num_parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
        index = {
            "metadata": {"total_parameters": num_parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        write_json(index, folder / "model.safetensors.index.json")


def _write_safetensors(
    tensors: dict[str, LazyTensor], file: Path, progress: tqdm, metadata: Mapping[str, str]
) -> None:
    """
    The safetensors format (https://huggingface.co/docs/safetensors): header length, JSON header, data. The library's
    own writer needs all tensors of a file at once.
    """
    dtype_names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    # With the wide dtypes first every tensor is aligned to its dtype; the library does the same.
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header, offset = {"__metadata__": {**metadata, "format": "pt"}}, 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": dtype_names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(file, "wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little"))
        stream.write(encoded)
        for name in names:
            data = tensors[name].read().detach().contiguous()
            if not is_finite(data):
                raise ValueError(f"{name} holds numbers that are not finite in {data.dtype}. {NOT_FINITE}")
            if tuple(data.shape) != tensors[name].shape or data.dtype != tensors[name].dtype:
                raise ValueError(
                    f"{name} was announced as {tensors[name].dtype} {tensors[name].shape}, but is {data.dtype} "
                    f"{tuple(data.shape)}."
                )
            stream.write(memoryview(data.reshape(-1).view(torch.uint8).numpy()))
            progress.update(tensors[name].num_bytes)
