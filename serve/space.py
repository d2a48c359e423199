# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A Space of the Hub that runs the demo: a folder that needs nothing but the package index. It holds the code of the demo
itself, as a Space installs its requirements before its own files are there. Small models are in it too.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path

import gradio
from huggingface_hub import SpaceCardData
from huggingface_hub.constants import REPOCARD_NAME
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.utils import CONFIG_NAME

import flashsloth
from flashsloth import FlashSlothConfig
from flashsloth.folders.config_file import read_config_file
from flashsloth.folders.downloads import CONFIG_FILES, SAFETENSORS_FILES, find_files, is_folder
from flashsloth.folders.errors import config_errors
from flashsloth.folders.model_folder import (
    check_is_flashsloth,
    model_on_meta,
)
from flashsloth.folders.new_folder import new_folder
from flashsloth.folders.provenance import CURVES_FILE, EVALUATION_FILE, PROVENANCE_FILE, TRAINING_FILE
from flashsloth.loading import check_folder
from flashsloth.parts import MODEL_FILES
from flashsloth.serve.demo import EXAMPLES, QUESTIONS, model_names


TITLE = "FlashSloth"
DESCRIPTION = "Ask about images, and see what the model looks at"  # of at most 60 characters
APP_FILE = "app.py"
REQUIREMENTS_FILE = "requirements.txt"
LICENSE_FILE = "LICENSE"
MODELS_FOLDER = "models"
# The code of the demo, by patterns in this package; it imports nothing else of it (tests/test_imports.py).
PACKAGE_FILES = (
    "__init__.py",
    "*_flashsloth.py",
    "loading.py",
    "parts.py",
    "attention_maps.py",
    "extras.py",
    "assistant/*.py",
    "folders/*.py",
)
PACKAGE_FILES += ("serve/__init__.py", "serve/demo.py", "serve/demo_chats.py", "serve/demo_requests.py")
NOTES = (CURVES_FILE, EVALUATION_FILE, PROVENANCE_FILE, TRAINING_FILE)  # which no program needs to load a model
MAX_BYTES = 10**9  # of copied models; https://huggingface.co/docs/hub/storage-limits gives a Space no more for free
# https://huggingface.co/docs/hub/spaces-gpus: the free one, and the smallest GPU that computes in bfloat16.
CPU, GPU = "cpu-basic", "l4x1"
MAX_CPU_PARAMETERS = 500_000_000  # above, an answer takes a free CPU minutes

APP = '''# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The FlashSloth demo. `flashsloth demo --space` wrote this folder; flashsloth/ is the part of it that runs here."""

import contextlib
import os
import signal
from pathlib import Path

from flashsloth.serve.demo import load_models, run


HERE = Path(__file__).parent
MODELS = [
{models}
]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C ends it, and leaves no files
    with contextlib.suppress(KeyboardInterrupt):
        models = load_models(MODELS, dtype={dtype}, trust_remote_code={trust_remote_code!r})
        run(models, host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
'''

TEXT = """# FlashSloth

A chat about images with {names}, and beside the answer what the model looked at.

On a machine of your own, these commands run it and print its address:

    pip install -r requirements.txt
    python app.py
"""


@dataclass(frozen=True)
class SpaceModel:
    """
    A model of a Space.

    Args:
        name (`str`): What the page calls it.
        source (`str`): The folder, or `owner/name` or `owner/name@revision` on the Hub.
        num_parameters (`int`): Its size.
    """

    name: str
    source: str
    num_parameters: int

    @property
    def is_copied(self) -> bool:
        return is_folder(self.source)

    @property
    def reference(self) -> str:
        """The Python expression by which the Space names it."""
        if self.is_copied:
            return f"str(HERE / {f'{MODELS_FOLDER}/{self.name}'!r})"
        return repr(self.source)

    def files(self) -> list[Path]:
        """What is copied of its folder: all that it is loaded from."""
        folder = Path(self.source)
        found = {path for pattern in (*MODEL_FILES, *SAFETENSORS_FILES) for path in folder.glob(pattern)}
        return sorted(path for path in found if path.name not in NOTES)


def write_space(
    dst,
    model_ids: Sequence[str],
    *,
    dtype: str = "fast",
    trust_remote_code: bool = False,
) -> Path:
    """
    Writes a Space that runs the demo, whole or not at all.

    Args:
        dst (`str` or `os.PathLike`): A folder that does not exist yet, or is empty.
        model_ids (`Sequence[str]`): Folders, which are copied into it, and `owner/name` or `owner/name@revision` on
            the Hub, which the Space downloads when it starts.
        dtype (`str`, *optional*), trust_remote_code (`bool`, *optional*): See
            [`~flashsloth.serve.demo.load_models`].

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If a model cannot be used, the folders to copy are too large, or `dst` holds something.
        OSError: If the Hub cannot be reached for the config of a model there.
    """
    names = model_names(model_ids)
    models = [_read_model(name, model_id) for name, model_id in zip(names, model_ids, strict=True)]
    copied = {model.name: model.files() for model in models if model.is_copied}
    size = sum(path.stat().st_size for files in copied.values() for path in files)
    if size > MAX_BYTES:
        raise ValueError(
            f"The models have {size / 1e9:.1f} GB, and a Space holds {MAX_BYTES / 1e9:.0f} GB: push them to the Hub "
            "(flashsloth push), and give their ids as --model."
        )
    with new_folder(dst) as folder:
        app = APP.format(
            models="\n".join(f"    {model.reference}," for model in models),
            dtype=repr(dtype),
            trust_remote_code=trust_remote_code,
        )
        texts = {APP_FILE: app, REQUIREMENTS_FILE: _requirements(), REPOCARD_NAME: _readme(models)}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _copy(Path(flashsloth.__file__).parent / LICENSE_FILE, folder / LICENSE_FILE)
        for source, target in _package_files():
            _copy(source, folder / flashsloth.__name__ / target)
        for name, files in copied.items():
            for file in files:
                _copy(file, folder / MODELS_FOLDER / name / file.name)
    return Path(dst)


def _read_model(name: str, source: str) -> SpaceModel:
    """A model whose config, and if it is a folder whose files, are all right."""
    if is_folder(source):
        folder = Path(source)
        check_folder(folder)
    else:
        folder = find_files(source, CONFIG_FILES)
        check_is_flashsloth(folder)
    read_config_file(folder / CONFIG_NAME)
    with config_errors(folder / CONFIG_NAME):
        config = FlashSlothConfig.from_pretrained(folder)
        return SpaceModel(name, source, model_on_meta(config).num_parameters())


def _package_files() -> Iterator[tuple[Path, Path]]:
    """The files of this package that the Space needs, and their paths in it."""
    root = Path(flashsloth.__file__).parent
    for pattern in PACKAGE_FILES:
        for path in sorted(root.glob(pattern)):
            yield path, path.relative_to(root)
    for name in {name for name, *_ in QUESTIONS}:
        yield EXAMPLES / name, Path(EXAMPLES.name) / name


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _requirements() -> str:
    """The packages that the demo needs, at the versions that are installed here."""
    needed = [Requirement(line) for line in requires(flashsloth.__name__)]
    lines = [_pinned(requirement) for requirement in needed if requirement.marker is None]
    return "\n".join([*lines, f"gradio=={gradio.__version__}"]) + "\n"


def _pinned(requirement: Requirement) -> str:
    """A requirement at the installed version; as it is if no index has that version."""
    installed = Version(version(requirement.name))
    return str(requirement) if installed.is_devrelease else f"{requirement.name}=={installed.public}"


def _readme(models: Sequence[SpaceModel]) -> str:
    """The Space's card: what the Hub reads, and what people read."""
    on_hub = [model.source.partition("@")[0] for model in models if not model.is_copied]
    largest = max(model.num_parameters for model in models)
    data = SpaceCardData(
        title=TITLE,
        emoji="🦥",
        colorFrom="green",
        colorTo="yellow",
        sdk="gradio",
        sdk_version=gradio.__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=APP_FILE,
        suggested_hardware=CPU if largest <= MAX_CPU_PARAMETERS else GPU,
        short_description=DESCRIPTION,
        license="apache-2.0",
        models=on_hub or None,
        tags=["flashsloth", "vision-language-model"],
    )
    names = " and ".join(f"`{model.name}`" for model in models)
    return f"---\n{data.to_yaml()}\n---\n\n{TEXT.format(names=names)}"
