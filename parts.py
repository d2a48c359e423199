# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The parts of a model that need no torch: its folder, its config and its processor. Whatever is wrong with them is one
`ValueError` that says what and what to do.
"""

from pathlib import Path

from transformers import AutoConfig, AutoProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from flashsloth import FlashSlothProcessor, register_auto_classes
from flashsloth.folders.chat_template import check_chat_template
from flashsloth.folders.config_file import read_config_file
from flashsloth.folders.downloads import TOKENIZER_FILES, check_is_repo_id, find_files, find_model, is_folder
from flashsloth.folders.errors import config_errors, reading_errors
from flashsloth.folders.exported import check_settings, chosen_dtype, files_of, read_export
from flashsloth.folders.fit import (
    REMEDY,
    check_escaped_tokens,
    check_image_processor,
    check_processor,
    check_processor_sizes,
)
from flashsloth.folders.json_files import read_settings
from flashsloth.folders.kind import check_is_flashsloth
from flashsloth.folders.new_folder import quiet_transformers
from flashsloth.folders.tokenizer import check_tokenizer_files, try_tokenizer


SHIPPED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "flashsloth-tiny"

# What a model is loaded from, beside its weights.
MODEL_FILES = (*TOKENIZER_FILES, "*.jinja", "*.py")


def find_flashsloth(name, revision: str | None = None) -> Path:
    """
    The folder of a FlashSloth with all its files: `name` itself if it is a folder, else the local copy of a Hub
    repository. Weights are downloaded only once the config is known to be a FlashSloth's.

    Args:
        name (`str` or `os.PathLike`): A folder, or `owner/name` or `owner/name@revision` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository. All files are of one commit.

    Raises:
        ValueError: If there is no such repository or revision, or if it is no FlashSloth.
        FileNotFoundError: If `name` can only be a folder, and there is none.
        OSError: If the Hub cannot be reached, or the connection is lost.
    """
    folder = Path(name)
    if is_folder(name):
        if revision:
            raise ValueError(f"'{name}' is a folder, which has no revision {revision}; a Hub repository may have one.")
        check_is_flashsloth(folder)
        return folder
    repo_id = str(name)
    check_is_repo_id(repo_id)
    folder = find_files(f"{repo_id}@{revision}" if revision else repo_id, MODEL_FILES)
    check_is_flashsloth(folder)
    commit = folder.name
    return find_model(f"{repo_id.partition('@')[0]}@{commit}", MODEL_FILES)


def find_for_backend(backend: str, name, revision: str | None = None, dtype: str = "auto") -> Path:
    """
    The folder of a FlashSloth that a backend runs: for "torch" see [`find_flashsloth`]; for "onnxruntime" it is an
    exported one, and of a Hub repository only the graphs with the wanted weights are downloaded.

    Args:
        backend (`str`): "torch" or "onnxruntime".
        name (`str` or `os.PathLike`), revision (`str`, *optional*): See [`find_flashsloth`].
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights that onnxruntime runs; "auto" and "fast" are
            the default of the export.

    Raises:
        ValueError: If it is no exported FlashSloth, or there are no such weights; see [`find_flashsloth`] for others.
    """
    folder = find_flashsloth(name, revision)
    if backend == "torch":
        return folder
    record = read_export(folder)
    check_settings(record, folder)
    files = files_of(record, chosen_dtype(record, dtype, name))
    if not is_folder(name):
        find_files(f"{str(name).partition('@')[0]}@{folder.name}", tuple(files), ignored=())
    return folder


def load_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """
    The config of a FlashSloth.

    Args:
        folder (`Path`): See [`find_flashsloth`].
        trust_remote_code (`bool`, *optional*, defaults to `False`): See
            [`~flashsloth.loading.load_model_and_processor`].

    Raises:
        ValueError: If it contradicts itself.
    """
    file = folder / CONFIG_NAME
    read_config_file(file)
    with config_errors(file):
        if trust_remote_code:
            return class_in(folder, file, "AutoConfig").from_pretrained(folder)
        register_auto_classes()
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_processor(folder: Path, trust_remote_code: bool = False):
    """
    The processor of a FlashSloth; `folder` and `trust_remote_code` as in [`load_config`].

    Raises:
        ValueError: If there is none, its files are damaged, or it does not belong to the model in the folder, if there
            is one.
    """
    file = folder / PROCESSOR_NAME
    if not file.is_file():
        raise ValueError(f"{folder} holds no processor ({PROCESSOR_NAME}). Save the processor there too.")
    # transformers before version 5 keeps the image processor in a file of its own
    has_own_file = (folder / IMAGE_PROCESSOR_NAME).is_file()
    if not has_own_file and not isinstance(read_settings(file).get("image_processor"), dict):
        raise ValueError(f"{file} describes no image processor. Save the processor there again.")
    check_tokenizer_files(folder)
    if trust_remote_code:
        with reading_errors("processor", folder):
            return _processor_by_its_own_code(folder, file)
    config = load_config(folder) if (folder / CONFIG_NAME).is_file() else None
    check_processor_sizes(read_settings(file), config, file)
    check_escaped_tokens(read_settings(file), file)
    try_tokenizer(folder)
    register_auto_classes()
    with reading_errors("processor", folder), quiet_transformers():
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    if not isinstance(processor, FlashSlothProcessor):
        raise ValueError(f"The processor in {folder} is a {type(processor).__name__}, not a FlashSloth's. {REMEDY}")
    check_image_processor(processor.image_processor, folder)
    check_chat_template(processor.chat_template, folder, processor.query_slot)
    if config is not None:
        check_processor(processor, config, folder)
    return processor


def _processor_by_its_own_code(folder: Path, file: Path):
    """The processor and the image processor of a folder, by the code in it."""
    processor = class_in(folder, file, "AutoProcessor").from_pretrained(folder, trust_remote_code=True)
    # The processor makes its parts by Auto classes, which prefer this package's image processor once it is registered.
    image_file = folder / IMAGE_PROCESSOR_NAME if (folder / IMAGE_PROCESSOR_NAME).is_file() else file
    fields = read_settings(image_file)
    image_processor_class = class_in(folder, image_file, "AutoImageProcessor", fields.get("image_processor", fields))
    processor.image_processor = image_processor_class.from_pretrained(folder)
    return processor


def class_in(folder: Path, file: Path, auto_class: str, fields: dict | None = None) -> type:
    """
    A class of the code in a folder, which is run. The Auto classes of transformers do not give it once this package
    has registered its own for the same model type.

    Args:
        folder (`Path`): the model folder.
        file (`Path`): its JSON file with an `auto_map`.
        auto_class (`str`): name of the Auto class.
        fields (`dict`, *optional*): the part of the file that has the `auto_map`; the whole file if unset.

    Raises:
        ValueError: If the file names no such class.
    """
    auto_map = (read_settings(file) if fields is None else fields).get("auto_map")
    reference = auto_map.get(auto_class) if isinstance(auto_map, dict) else None
    if not isinstance(reference, str):
        raise ValueError(f"{file} names no code for {auto_class} (auto_map). Leave out --trust-remote-code.")
    return get_class_from_dynamic_module(reference, folder)
