# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A static Space of the Hub: the page of examples/browser and an exported model, which visitors' browsers run. Its
libraries come from a content delivery network (CDN), in the versions that the page is tested with.
"""

import json
import shutil
from pathlib import Path

from huggingface_hub import SpaceCardData
from huggingface_hub.constants import REPOCARD_NAME
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, PROCESSOR_NAME

import flashsloth
from flashsloth.folders.exported import EXPORT_FILE, check_settings, read_export
from flashsloth.folders.new_folder import new_folder


PAGE = Path(flashsloth.__file__).parent / "examples" / "browser"
PAGE_FILES = ("*.js", "*.css")
INDEX_FILE, LOCK_FILE, LICENSE_FILE = "index.html", "package-lock.json", "LICENSE"
LOCAL_LIBRARIES = "node_modules/"
CDN = "https://cdn.jsdelivr.net/npm/"
MODEL_FOLDER = "model"  # beside the page, where it looks for one
MODEL_FILES = (CONFIG_NAME, PROCESSOR_NAME, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OPTIONAL_FILES = (GENERATION_CONFIG_NAME,)
MAX_BYTES = 10**9  # https://huggingface.co/docs/hub/storage-limits gives a Space no more for free
TITLE = "FlashSloth in the browser"
DESCRIPTION = "Ask about images; everything runs in your browser"  # of at most 60 characters
# With them browsers let WebAssembly use several threads (https://huggingface.co/docs/hub/spaces-config-reference).
HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}

TEXT = """# FlashSloth in the browser

A chat about an image with `{name}`, and what the model looked at. The model runs in the visitor's browser, and no
image leaves it.

On a machine of your own, this command serves the page at http://127.0.0.1:8000:

    python -m http.server --bind 127.0.0.1
"""


def write_static_space(dst, model) -> Path:
    """
    Writes a Space of static files that runs an exported model in its visitors' browsers, whole or not at all.

    Args:
        dst (`str` or `os.PathLike`): A folder that does not exist yet, or is empty.
        model (`str` or `os.PathLike`): A folder that `flashsloth export --format onnx` wrote.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `model` is no exported model, incomplete or too large, or `dst` holds something.
    """
    model = Path(model)
    if not model.is_dir():
        raise ValueError(f"{model} is not a folder: name one that `flashsloth export MODEL DIR --format onnx` wrote.")
    files = _model_files(model)
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_BYTES:
        raise ValueError(
            f"The model has {size / 1e9:.1f} GB, and a Space holds {MAX_BYTES / 1e9:.0f} GB: export it with one kind "
            "of weights, of fewer bits (--weights int4)."
        )
    with new_folder(dst) as folder:
        (folder / INDEX_FILE).write_text(_index(), encoding="utf-8")
        (folder / REPOCARD_NAME).write_text(_readme(model.resolve().name), encoding="utf-8")
        shutil.copyfile(Path(flashsloth.__file__).parent / LICENSE_FILE, folder / LICENSE_FILE)
        for path in (path for pattern in PAGE_FILES for path in PAGE.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
        for name, path in files.items():
            target = folder / MODEL_FOLDER / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return Path(dst)


def _model_files(model: Path) -> dict[str, Path]:
    """What the page reads of a model, by its name in the folder."""
    record = read_export(model)
    check_settings(record, model)
    files = {name: model / name for name in (EXPORT_FILE, *MODEL_FILES, *record["files"])}
    for name, path in files.items():
        if not path.is_file():
            raise ValueError(f"{path} is missing, but the model needs it. Copy or export the model again.")
        if path.stat().st_size != record["files"].get(name, path.stat().st_size):
            raise ValueError(f"{path} is cut short or damaged. Copy or export the model again.")
    return files | {name: model / name for name in OPTIONAL_FILES if (model / name).is_file()}


def _index() -> str:
    """The page, with libraries from the CDN: without hashes, as those of an import map do not hold in a worker."""
    text = (PAGE / INDEX_FILE).read_text(encoding="utf-8")
    packages = json.loads((PAGE / LOCK_FILE).read_text(encoding="utf-8"))["packages"]
    for name in (name for name in packages if name.startswith(LOCAL_LIBRARIES)):
        library = f"{name.removeprefix(LOCAL_LIBRARIES)}@{packages[name]['version']}"
        text = text.replace(f"./{name}/", f"{CDN}{library}/")
    return text


def _readme(name: str) -> str:
    """The Space's card: what the Hub reads, and what people read."""
    data = SpaceCardData(
        title=TITLE,
        emoji="🦥",
        colorFrom="green",
        colorTo="yellow",
        sdk="static",
        app_file=INDEX_FILE,
        short_description=DESCRIPTION,
        license="apache-2.0",
        tags=["flashsloth", "vision-language-model", "onnx"],
        custom_headers=HEADERS,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{TEXT.format(name=name)}"
