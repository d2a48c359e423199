# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The settings in a stage's YAML file, changed by `key=value` words of the command line. A value is YAML. A key with a
dot names one nested value; the others stay as the file says:

    learning_rate=1e-3                           in place of the file's value
    lora.r=8                                     one setting of the adapter
    lora={r: 8, alpha: 16}                       the same for two: a mapping adds to the file's mapping
    lora={}                                      an adapter with default settings, and none of the file's
    lora=null                                    no adapter
    learning_rates.model.query_tokens=1e-3       all that follows `learning_rates.` is the name of a module
    learning_rates={}                            no learning rates of modules
    data=rows.json                               in place of all sources of the file
    data.0.weight=2                              one setting of the first source
    data.0.weight=null                           its default, as for every nested value
"""

import logging
import re
from pathlib import Path
from typing import Any

import yaml

from flashsloth.train.data.wording import hide_secrets, quote, shorten


logger = logging.getLogger(__name__)

RENAMED = {"on_bad_rows": "on_broken_rows"}
SOURCES = ("data", "eval_data")
CHECKED = (*SOURCES, "lora")  # their keys are known: null is the default of one that exists
# Settings whose names are words of sentences about others.
NAMES_IN_SENTENCES = ("model", "data", "output_dir")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean the number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


def read_settings(path: Path, overrides: list[str]) -> dict[str, Any]:
    """
    Reads a YAML file and applies overrides. Sources of data become lists of mappings.

    Args:
        path (`Path`): The file.
        overrides (`list[str]`): `key=value` pairs, as the module's docstring shows.

    Raises:
        ValueError: If the file or a value is not YAML, the file holds no mapping, an override is no pair, or it names
            a nested value that cannot exist.
    """
    try:
        settings = _from_yaml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {path}: the first word is the YAML file of a stage") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{path} is a folder: the first word is the YAML file of a stage") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: the first word is the YAML file of a stage") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings: write `key: value` lines")
    for key in dict.fromkeys([*settings, *(override.partition("=")[0] for override in overrides)]):
        if key in RENAMED:
            logger.warning("The setting %s is now called %s: please rename it.", key, RENAMED[key])
    settings = {_current_name(key): value for key, value in settings.items()}
    for name in SOURCES:
        if name in settings:
            settings[name] = _sources(settings[name])
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"{hide_secrets(override)!r} is not an override: write key=value")
        _apply(override, settings, _current_name(key), _from_yaml(value, hide_secrets(override)))
    for key in settings:
        if str(key).endswith("_strategy") and settings[key] is False:
            settings[key] = "no"  # which YAML 1.1 reads as false
    return settings


class Origin:
    """
    Says where a setting comes from, for errors: from the file, or from an override.

    Args:
        path (`Path`): The file.
        overrides (`list[str]`): `key=value` pairs.
    """

    def __init__(self, path: Path, overrides: list[str]):
        self.path = path
        self.overrides = [(override, *override.partition("=")[::2]) for override in reversed(overrides)]

    def of(self, name: str, nested: str | None = None) -> str:
        """The last override of a setting, or the file; `nested` is a text that names what is nested in it."""
        for override, key, value in self.overrides:
            first, _, rest = key.partition(".")
            if _current_name(first) != name:
                continue
            if nested is None or any(re.search(rf"\b{word}\b", nested) for word in re.findall(r"\w+", rest or value)):
                return shorten(repr(f"{key}=..." if "token" in key else hide_secrets(override)))  # a secret
        return str(self.path)

    def of_all(self, name: str) -> str:
        """The file, with the last override of a setting if there is one."""
        override = self.of(name)
        return override if override == str(self.path) else f"{self.path} with {override}"

    def of_error(self, text: str) -> str:
        """Where the setting comes from that an error begins with; else the file, with an override that it mentions."""
        for _, key, _ in self.overrides:
            name = _current_name(key.partition(".")[0])
            if re.match(rf"{re.escape(name)}\b", text):
                return self.of(name)
        for _, key, _ in self.overrides:
            name = _current_name(key.partition(".")[0])
            if name not in NAMES_IN_SENTENCES and re.search(rf"\b{re.escape(name)}\b", text):
                return self.of_all(name)
        return str(self.path)


def as_list(value) -> list:
    """A list of one item may be written without brackets."""
    return value if isinstance(value, list) else [value]


def _from_yaml(text: str, where: Path | str):
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date that does not exist
        raise ValueError(f"{where} is not YAML: {hide_secrets(' '.join(str(error).split()))}") from error


def _current_name(key):
    return RENAMED.get(key, key)


def _sources(data) -> list | None:
    if data is None:
        return None
    return [{"path": source} if isinstance(source, str) else source for source in as_list(data)]


def _apply(override: str, settings: dict, key: str, value) -> None:
    name, _, nested = key.partition(".")
    if not nested:
        settings[name] = _merged(settings.get(name), value)
        if name in SOURCES:
            settings[name] = _sources(settings[name])
        return
    if name in SOURCES:
        index, _, nested = nested.partition(".")
        sources = settings.get(name) or []
        if not (index.isdecimal() and int(index) < len(sources) and nested):
            raise ValueError(
                f"{hide_secrets(override)!r} names no setting of a source: write {name}.N.setting=value, with N below "
                f"{len(sources)}, the number of sources"
            )
        mapping = sources[int(index)]
    else:
        if settings.get(name) is None:
            settings[name] = {}
        mapping = settings[name]
    if not isinstance(mapping, dict):
        raise ValueError(
            f"{hide_secrets(override)!r} sets a nested value, but {name} is {quote(mapping)}: write {name}=value"
        )
    if value is None and name not in CHECKED:
        mapping.pop(nested, None)
    else:
        mapping[nested] = _merged(mapping.get(nested), value)


def _merged(before, value):
    """A mapping adds to the one that it is given for, and an empty one empties it."""
    return before | value if isinstance(before, dict) and isinstance(value, dict) and value else value
