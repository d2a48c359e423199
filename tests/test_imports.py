# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Imports go one way. The line is drawn from the source of all modules: imports inside functions count too, and so do
those that only type checkers follow.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flashsloth


ROOT = Path(flashsloth.__file__).parent
PACKAGE = "flashsloth"
NO_PART_OF_IT = {"build", "examples", "tests"}

# A saved model folder holds these files and no others. Each imports only these of the others, by one dot: that
# is what transformers follows when it loads the code of a folder.
REMOTE_CODE = {
    "configuration_flashsloth": set(),
    "image_reading_flashsloth": set(),
    "image_processing_flashsloth": {"image_reading_flashsloth"},
    "processing_flashsloth": {"image_processing_flashsloth"},
    "embedded_query_flashsloth": {"configuration_flashsloth"},
    "modeling_flashsloth": {"configuration_flashsloth", "embedded_query_flashsloth"},
}

# What else the names of `import flashsloth` stand for; it is imported when the name is used.
LOADED_BY_NAME = {"assistant.assistant"}

# Floors of the package, from the ground up: files at the root and packages. A room imports from the floors below, and
# from itself, but from no other room of its own floor.
FLOORS = [
    set(REMOTE_CODE),
    {"__init__"},
    {"folders", "arguments", "extras"},
    {"parts", "attention_maps"},
    {"loading"},
    {"assistant"},
    {"convert", "eval", "export", "train", "publish", "serve"},
    {"tiny"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules_of(root: Path) -> dict[str, Path]:
    """The modules of the package by their names in it, such as "parts" or "train.data.rows"; "cli.__init__" is one."""
    packages = (file.parent for file in root.glob("*/__init__.py") if file.parent.name not in NO_PART_OF_IT)
    files = [*root.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts): file for file in sorted(files)}


def imported_names(name: str, source: str) -> Iterator[str]:
    """
    What a module imports, by absolute names. `from a import b` is "a.b", as `b` may be a module.

    Args:
        name (`str`): of the module in the package, such as "train.data.rows".
        source (`str`): its code.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *name.split(".")][: -node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def imports_of(name: str, source: str, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports, by their names in it."""
    found = set()
    for imported in imported_names(name, source):
        package, *parts = imported.split(".")
        if package == PACKAGE:
            paths = (parts, [*parts, "__init__"], parts[:-1], [*parts[:-1], "__init__"])
            found.add(next(module for path in paths if (module := ".".join(path)) in modules))
    return found - {name}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def why_not(name: str, imported: str) -> str | None:
    """Why a module must not import another one; `None` if it may."""
    room, other = room_of(name), room_of(imported)
    if room in REMOTE_CODE:
        return None if imported in REMOTE_CODE[room] else "remote code stands alone in a saved folder"
    if room == "__init__":
        return (
            None if imported in {*REMOTE_CODE, *LOADED_BY_NAME} else "`import flashsloth` gives the remote code only"
        )
    if room == other:
        goes_up = name.startswith("train.data.") and not imported.startswith("train.data.")
        return "train/data is below the rest of train" if goes_up else None
    if FLOOR[other] == FLOOR[room]:
        return f"{room} and {other} are side by side"
    return f"{other} is above {room}" if FLOOR[other] > FLOOR[room] else None


def violations(imports: dict[str, set[str]]) -> list[str]:
    """Every import that does not go down, with the two modules and the reason."""
    pairs = ((name, imported) for name, others in imports.items() for imported in sorted(others))
    return [f"{name} imports {imported}: {reason}" for name, imported in pairs if (reason := why_not(name, imported))]


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    """Files by the names of their modules."""
    return modules_of(ROOT)


@pytest.fixture(scope="module")
def imports(modules) -> dict[str, set[str]]:
    """Imported modules by the names of the modules that import them."""
    return {name: imports_of(name, file.read_text(encoding="utf-8"), modules) for name, file in modules.items()}


def test_every_room_has_a_floor(modules):
    assert {room_of(name) for name in modules} == set(FLOOR)


def test_imports_go_down(imports):
    wrong = violations(imports)
    assert not wrong, "\n" + "\n".join(wrong)


def test_remote_code_imports_itself_by_one_dot(modules):
    for name in REMOTE_CODE:
        for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{name} imports from {node.level} folders up"
                assert (node.module in REMOTE_CODE) == (node.level == 1), f"{name} imports {node.module}"


def test_import_flashsloth_is_lazy(modules):
    """What `__init__` imports of the package stands in functions, or is for type checkers only."""
    for statement in ast.parse(modules["__init__"].read_text(encoding="utf-8")).body:
        is_guarded = isinstance(statement, ast.FunctionDef) or ast.unparse(statement).startswith("if TYPE_CHECKING:")
        imported = imports_of("__init__", ast.unparse(statement), modules)
        assert is_guarded or not imported, f"__init__ imports {sorted(imported)} at once"


def test_nothing_imports_tests(modules):
    """Nor their helpers, which tests find by their bare names."""
    helpers = {"tests", "conftest", *(file.stem for file in (ROOT / "tests" / "support").glob("*.py"))}
    for name, file in modules.items():
        for imported in imported_names(name, file.read_text(encoding="utf-8")):
            parts = imported.removeprefix(f"{PACKAGE}.").split(".")
            assert parts[0] not in helpers, f"{name} imports {imported}, which is a test's"


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("publish.card", "from flashsloth.train.record import RunRecord", "publish.card imports train.record"),
        ("convert.names", "def f():\n    from flashsloth.publish import hub", "convert.names imports publish.hub"),
        ("folders.tensors", "import flashsloth.loading", "folders.tensors imports loading: loading is above folders"),
        ("loading", "from . import cli", "loading imports cli.__init__: cli is above loading"),
        ("train.data.rows", "from ..config import StageConfig", "train.data.rows imports train.config"),
        ("tiny.data", "from flashsloth.bench import main", "tiny.data imports bench.__init__"),
        (
            "processing_flashsloth",
            "from .modeling_flashsloth import A",
            "processing_flashsloth imports modeling_flash",
        ),
        ("modeling_flashsloth", "from flashsloth import loading", "modeling_flashsloth imports loading"),
        ("__init__", "from flashsloth.loading import load", "__init__ imports loading: `import flashsloth`"),
    ],
)
def test_a_wrong_import_is_named(module, line, message, modules, imports):
    wrong = {**imports, module: imports[module] | imports_of(module, line, modules)}
    (found,) = set(violations(wrong)) - set(violations(imports))
    assert found.startswith(message)
