# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A release: what a model folder puts on the Hub, read once. It holds the files that `save_pretrained` of model and
processor write, and the notes that this library leaves beside them. A folder that lacks a file, or holds any other
file, is refused: what is uploaded by mistake stays in the repository's history.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import REPOCARD_NAME
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    TOKENIZER_CONFIG_FILE,
)
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

import flashsloth
from flashsloth import FlashSlothConfig, FlashSlothImageProcessor
from flashsloth.folders.errors import config_errors, one_line, reading_errors
from flashsloth.folders.exported import is_exported
from flashsloth.folders.json_files import read_json
from flashsloth.folders.kind import RUN_RESULT, check_is_flashsloth
from flashsloth.folders.model_folder import (
    check_tensors,
    expected_shapes,
    main_dtype,
    model_on_meta,
    run_notes,
)
from flashsloth.folders.new_folder import UNFINISHED_NAME
from flashsloth.folders.provenance import CURVES_FILE, EVALUATION_FILE, PROVENANCE_FILE, TRAINING_FILE
from flashsloth.folders.tensors import LazyTensor, open_safetensors, read_weight_map
from flashsloth.publish.notes import (
    Evaluation,
    Lineage,
    published_evaluations,
    read_evaluations,
    read_lineage,
    read_record,
)
from flashsloth.publish.private import has_secret, local_paths
from flashsloth.publish.unwanted import (
    AUTO_MAP_FILES,
    CLEANED,
    LEFTOVERS,
    ORIGINAL_CONFIG,
    PICKLES,
    SETTINGS,
    leave_out_what_is_private,
)


TRAINER_STATE_FILE = "trainer_state.json"

REQUIRED = (CONFIG_NAME, PROCESSOR_NAME, FULL_TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE)
OPTIONAL = (GENERATION_CONFIG_NAME, IMAGE_PROCESSOR_NAME, SPECIAL_TOKENS_MAP_FILE, ADDED_TOKENS_FILE)
NOTES = (PROVENANCE_FILE, EVALUATION_FILE, TRAINING_FILE, CURVES_FILE)
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
OWN_CODE = {path.name: path for path in Path(flashsloth.__file__).parent.glob("*_flashsloth.py")}

# The classes that load the model without this package, and the file whose auto_map names their code.
AUTO_CLASSES = {
    "AutoConfig": CONFIG_NAME,
    "AutoModelForCausalLM": CONFIG_NAME,
    "AutoModelForImageTextToText": CONFIG_NAME,
    "AutoProcessor": PROCESSOR_NAME,
}

TEXTS = (".json", ".py", ".jinja", ".md", ".txt")
PNG = b"\x89PNG\r\n\x1a\n"
CHECKPOINT_FOLDER = re.compile(r"checkpoint-\d+$")


@dataclass(frozen=True)
class Release:
    """
    What a model folder puts on the Hub.

    Args:
        folder (`Path`): The model folder.
        files (`dict[str, Path | bytes]`): By name in the repository, the file, or its content where it differs from
            the folder's.
        foreign_code (`list[str]`): Names of code files that differ from the code of this package.
        config (`FlashSlothConfig`): The architecture.
        hd (`bool`): Whether images are processed in high definition by default.
        tile_grid (`int`): Tiles along each side of an image in high definition.
        num_parameters (`int`): Number of parameters.
        num_bytes (`int`): Size of the weight files, in bytes.
        dtype (`str`, *optional*): What most of the weights are stored as; `None` if they are quantized.
        lineage ([`Lineage`]): What the model is made from.
        evaluations (`list[Evaluation]`): Scores, of the folder and of the published checkpoint that it holds.
        record (`dict`): `training.json` of the run that made the model, without local paths; empty if there is none.
    """

    folder: Path
    files: dict[str, Path | bytes]
    foreign_code: list[str]
    config: FlashSlothConfig
    hd: bool
    tile_grid: int
    num_parameters: int
    num_bytes: int
    dtype: str | None
    lineage: Lineage
    evaluations: list[Evaluation]
    record: dict

    @property
    def is_quantized(self) -> bool:
        return self.dtype is None

    @property
    def has_curves(self) -> bool:
        return CURVES_FILE in self.files

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


SPACE = "\nsdk: "  # in the card of a Space


def read_release(folder, keep_card: bool = False, base_models: Sequence[str] = ()) -> Release:
    """
    Checks and reads a model folder, without running its code.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        keep_card (`bool`, *optional*, defaults to `False`): Whether the release has the folder's own README.md.
        base_models (`Sequence[str]`, *optional*): Ids on the Hub of the models that the last command started from, if
            the provenance names a local folder only.

    Returns:
        [`Release`]

    Raises:
        ValueError: If the folder is incomplete or damaged, or holds a file that must not be uploaded. The message
            names all of these problems at once.
    """
    folder = Path(folder)
    _check_kind(folder)
    reader = _Reader(folder)
    tensors = reader.read_weights()
    reader.read_code()
    reader.read_tokenizer()
    files = reader.read_files(keep_card)
    reader.read_contents(files)
    if reader.problems:
        raise ValueError(f"{folder} cannot be uploaded: {'; '.join(dict.fromkeys(reader.problems))}.")

    fields = reader.configs[CONFIG_NAME]
    with config_errors(folder / CONFIG_NAME):
        config = FlashSlothConfig.from_pretrained(folder)
        num_parameters = model_on_meta(config).num_parameters()
    with reading_errors("image processor", folder):
        image_processor = FlashSlothImageProcessor.from_pretrained(folder)
    foreign_code = [name for name in files if name.endswith(".py") and not _is_own_code(folder / name)]
    if not foreign_code and "quantization_config" not in fields:  # otherwise the names of tensors are not ours
        check_tensors(tensors, expected_shapes(config), folder, "Save the model again.")
    record = read_record(files[TRAINING_FILE]) if TRAINING_FILE in files else {}
    lineage = read_lineage(folder, base_models)
    evaluations = [*read_evaluations(folder), *published_evaluations(lineage)]
    leave_out_what_is_private(files)
    return Release(
        folder=folder,
        files=files,
        foreign_code=foreign_code,
        config=config,
        hd=image_processor.hd,
        tile_grid=image_processor.tile_grid,
        num_parameters=num_parameters,
        num_bytes=sum(path.stat().st_size for name, path in files.items() if name.endswith(".safetensors")),
        dtype=None if "quantization_config" in fields else str(main_dtype(tensors)).removeprefix("torch."),
        lineage=lineage,
        evaluations=evaluations,
        record=record,
    )


def is_release_file(name: str) -> bool:
    """Whether a file of a repository has a name that releases use, so that a release without it removes it."""
    return WEIGHTS.fullmatch(name) is not None or name in {*REQUIRED, *OPTIONAL, *NOTES, *OWN_CODE}


def _is_own_code(path: Path) -> bool:
    return path.name in OWN_CODE and path.read_bytes() == OWN_CODE[path.name].read_bytes()


def _check_kind(folder: Path) -> None:
    """
    Raises:
        ValueError: If the folder is not a FlashSloth at all.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name one that compose, convert, train, merge or quantize wrote.")
    name = folder.resolve().name
    if UNFINISHED_NAME.search(name):
        raise ValueError(f"{folder} is left over from an interrupted command: remove it and run the command again.")
    if is_exported(folder):
        raise ValueError(
            f"{folder} is an exported model. Publish a page that runs it (flashsloth demo {folder} --space DIR "
            f"--static, then push --space DIR), or upload the folder as it is (hf upload OWNER/NAME {folder})."
        )
    has_config = (folder / CONFIG_NAME).is_file()
    if not has_config and (folder / REPOCARD_NAME).is_file() and SPACE in (folder / REPOCARD_NAME).read_text("utf-8"):
        raise ValueError(f"{folder} is a Space, not a model: add --space.")
    if (folder / TRAINER_STATE_FILE).is_file() or (CHECKPOINT_FOLDER.match(name) and not has_config):
        raise ValueError(
            f"{folder} is a checkpoint of a training run. Its optimizer state and settings are not part of a model: "
            "push the finished OUTPUT_DIR/model, or load the checkpoint and save model and processor to a new folder."
        )
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(f"{folder} is an adapter: merge it first (flashsloth merge).")
    if not has_config:
        result = folder / RUN_RESULT
        remedy = f"name {result}" if (result / CONFIG_NAME).is_file() else "name a folder that a command wrote"
        raise ValueError(f"{folder} holds no model: {CONFIG_NAME} is missing; {remedy}.")
    check_is_flashsloth(folder)


class _Reader:
    """
    Reads the files of a model folder. It collects all `problems`, so that the user gets them in one message.

    Args:
        folder (`Path`): The folder, which holds a config.json.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems = [f"{name} is missing: save the processor too" for name in REQUIRED if not self._has(name)]
        self.expected = {*REQUIRED, *OPTIONAL, *NOTES, REPOCARD_NAME}
        self.configs = {name: read_json(folder / name) for name in AUTO_MAP_FILES if self._has(name)}

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def read_weights(self) -> dict[str, LazyTensor]:
        """The tensors by name; only the headers of their files are read."""
        if self._has(SAFE_WEIGHTS_NAME) and self._has(SAFE_WEIGHTS_INDEX_NAME):
            self.expected |= {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}
            self.problems.append(
                f"the weights are there twice, as {SAFE_WEIGHTS_NAME} and as {SAFE_WEIGHTS_INDEX_NAME}: remove one"
            )
            return {}
        weight_map, shards = {}, [SAFE_WEIGHTS_NAME]
        if self._has(SAFE_WEIGHTS_INDEX_NAME):
            weight_map = read_weight_map(self.folder / SAFE_WEIGHTS_INDEX_NAME)
            shards = sorted(set(weight_map.values()))
            self.expected.add(SAFE_WEIGHTS_INDEX_NAME)
        elif not self._has(SAFE_WEIGHTS_NAME):
            self.problems.append(
                f"the weights are missing: there is neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}"
            )
            return {}
        self.expected.update(shards)
        tensors = {}
        for shard in shards:
            if not self._has(shard):
                self.problems.append(
                    f"{shard}, which {SAFE_WEIGHTS_INDEX_NAME} names, is missing: save the model again"
                )
                continue
            try:
                held = dict(open_safetensors(self.folder / shard))
            except ValueError as error:
                self.problems.append(f"{one_line(error).rstrip('.')}, or save the model again")
                continue
            absent = [name for name, file_name in weight_map.items() if file_name == shard and name not in held]
            if absent:
                self.problems.append(
                    f"{shard} lacks {len(absent)} tensors that {SAFE_WEIGHTS_INDEX_NAME} lists, such as {absent[0]}: "
                    "save the model again"
                )
            tensors |= held
            with safe_open(self.folder / shard, framework="pt") as file:
                metadata = file.metadata() or {}
            self._check_secrets(shard, json.dumps(metadata))
            self._check_paths(shard, metadata)
        return tensors

    def read_code(self) -> None:
        """Adds all code that the auto_maps need to the expected files."""
        named_by, unnamed = {}, dict(AUTO_CLASSES)
        for file_name, config in self.configs.items():
            for auto_class, reference in _auto_map_entries(config):
                if "--" in reference:
                    self.problems.append(
                        f"{file_name} takes {auto_class} from another repository ({reference}): put the code into "
                        "the folder"
                    )
                    continue
                named_by[f"{reference.rpartition('.')[0]}.py"] = file_name
                if unnamed.get(auto_class) == file_name:
                    del unnamed[auto_class]
        self.problems += [
            f"{file_name} names no code for {auto_class} in its auto_map: save the model again with this library"
            for auto_class, file_name in unnamed.items()
        ]
        for module, file_name in named_by.items():
            if Path(module).name != module or not self._has(module):
                self.problems.append(f"{module}, which {file_name} names, is missing: save the model again")
                continue
            self.expected.add(module)
            try:
                self.expected.update(Path(file).name for file in get_relative_import_files(self.folder / module))
            except FileNotFoundError as error:
                missing = Path(error.filename).name
                self.problems.append(f"{missing}, which {module} imports, is missing: save the model again")
            except UnicodeDecodeError as error:
                self.problems.append(f"{module} is not a text file ({error})")

    def read_tokenizer(self) -> None:
        """Adds what the tokenizer's class saves beside tokenizer.json, such as vocab.json, to the expected files."""
        class_name = self.configs.get(TOKENIZER_CONFIG_FILE, {}).get("tokenizer_class")
        tokenizer_class = tokenizer_class_from_name(class_name) if isinstance(class_name, str) else None
        if tokenizer_class:
            self.expected.update(tokenizer_class.vocab_files_names.values())

    def read_files(self, keep_card: bool) -> dict[str, Path | bytes]:
        """The files to upload, by name, once the expected ones are known."""
        files: dict[str, Path | bytes] = {}
        for path in sorted(self.folder.iterdir()):
            problem = _what_is_wrong(path, self.expected)
            if problem:
                self.problems.append(f"{path.name} {problem}")
            elif path.name == REPOCARD_NAME and not keep_card:
                self.problems.append(
                    f"{REPOCARD_NAME} would be replaced by the generated model card: pass --keep-card to upload it "
                    "as it is, or remove it"
                )
            else:
                files[path.name] = path
        beside = [path for path in run_notes(self.folder) if not self._has(path.name)]
        for path in beside:
            problem = _what_is_wrong(path, self.expected)
            if problem:
                self.problems.append(f"{path} {problem}")
            else:
                files[path.name] = path
        return files

    def read_contents(self, files: dict[str, Path | bytes]) -> None:
        """Looks into the files other than weights for what no release may hold."""
        for name, path in files.items():
            if path.suffix == ".png" and not path.read_bytes().startswith(PNG):
                self.problems.append(f"{name} is no PNG image: remove it")
            elif path.suffix in TEXTS:
                self._read_text(name, path)

    def _read_text(self, name: str, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else None
        except (ValueError, RecursionError) as error:
            kind = "JSON" if path.suffix == ".json" else "text"
            self.problems.append(f"{name} is not valid {kind} ({one_line(error)}): save the model again")
            return
        if name not in CLEANED:
            self._check_secrets(name, text)
        if name in SETTINGS and isinstance(content, dict):
            self._check_paths(name, {key: value for key, value in content.items() if key != ORIGINAL_CONFIG})
        elif name in SETTINGS:
            self.problems.append(f"{name} must hold a JSON object: save the model again")

    def _check_secrets(self, name: str, text: str) -> None:
        if has_secret(text):
            self.problems.append(
                f"{name} holds an access token or a password: remove it there, and revoke it where it was made"
            )

    def _check_paths(self, name: str, content: dict) -> None:
        self.problems += [
            f"{name} holds a path of this machine ({place}: {path}): remove it there"
            for place, path in local_paths(content)
        ]


def _what_is_wrong(path: Path, expected: set[str]) -> str | None:
    """Why an entry of the folder must not be uploaded; `None` if it may."""
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "is a link that points outside the folder: put the file itself there"
    if path.is_dir():
        return "is a folder, which save_pretrained does not write: remove it"
    if not path.is_file():
        return "is not a regular file: remove it"
    if path.suffix in PICKLES:
        return "may hold pickled objects, which can run code when they are loaded: remove it (weights are safetensors)"
    if path.name.endswith(LEFTOVERS):
        return "is left over from an interrupted write: save the model again, or remove it"
    if path.name not in expected:
        return "is a file that save_pretrained did not write: remove it"
    if path.stat().st_size == 0:
        return "is empty: save the model again"
    return None


def _auto_map_entries(config) -> Iterator[tuple[str, str]]:
    """Auto class and `module.Class` of every auto_map, at any depth: a processor's config holds those of its parts."""
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key == "auto_map" and isinstance(value, dict):
            for auto_class, references in value.items():
                # A tokenizer has two, either of which may be missing.
                for reference in references if isinstance(references, list) else [references]:
                    if reference is not None:
                        yield auto_class, str(reference)
        else:
            yield from _auto_map_entries(value)
