# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Rows as a Parquet file. A value that Parquet cannot hold is named by its column and row, which a check can do before
anything is asked.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow
from pyarrow.parquet import ParquetWriter

from flashsloth.folders.errors import one_line


GROUP_ROWS = 1024  # that are held at once
# What pyarrow raises for values: its own errors, and those of Python's that it lets through.
VALUE_ERRORS = (pyarrow.ArrowException, ValueError, TypeError, OverflowError)


def check_rows(rows: Iterable[dict], schema: pyarrow.Schema | None, texts: Sequence[str] = ()) -> None:
    """
    Does all that [`write_parquet`] does, but writes nothing.

    Raises:
        ValueError: As there.
    """
    write_parquet(rows, schema, Path(os.devnull), texts)


def write_parquet(rows: Iterable[dict], schema: pyarrow.Schema | None, file: Path, texts: Sequence[str] = ()) -> None:
    """
    Writes rows to a Parquet file.

    Args:
        rows (`Iterable[dict]`): The rows, which are gone through twice without a schema.
        schema (`pyarrow.Schema`, *optional*): The types of the columns; those that all values have in common if unset.
        file (`Path`): The file.
        texts (`Sequence[str]`, *optional*): Columns of texts, also where no row has one.

    Raises:
        ValueError: If Parquet cannot hold a value, or the values of a column have no type in common. The message names
            column and row.
    """
    schema = schema or schema_of(rows, texts)
    with ParquetWriter(file, schema) as writer:
        for first, group in _groups(rows):
            columns = [_array(field, [row.get(field.name) for row in group], first) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def schema_of(rows: Iterable[dict], texts: Sequence[str] = ()) -> pyarrow.Schema:
    """
    The types that the values of all rows have in common; `texts` as in [`write_parquet`].

    Raises:
        ValueError: If there is none, or none that Parquet knows. The message names column and row.
    """
    types, begins, empty = {}, {}, {}
    for first, group in _groups(rows):
        for name in dict.fromkeys(name for row in group for name in row):
            values = [row.get(name) for row in group]
            begins.setdefault(name, first + next((index for index, row in enumerate(group) if name in row), 0))
            types[name] = _wider_type(name, types.get(name, pyarrow.null()), values, first)
            if name not in empty and any(map(_has_empty_object, values)):
                empty[name] = first + next(index for index, value in enumerate(values) if _has_empty_object(value))
    types |= {name: pyarrow.string() for name in texts if pyarrow.types.is_null(types.get(name, pyarrow.null()))}
    for name, kind in types.items():
        try:
            ParquetWriter(os.devnull, pyarrow.schema([(name, kind)])).close()
        except VALUE_ERRORS as error:  # of an object that is empty in all rows, or of the name of the column
            raise _unfit(name, empty.get(name, begins[name]), error) from error
    return pyarrow.schema(list(types.items()))


def _groups(rows: Iterable[dict]) -> Iterator[tuple[int, list[dict]]]:
    """Rows in groups, with the number of the first row of each."""
    rows, first = iter(rows), 0
    while group := list(islice(rows, GROUP_ROWS)):
        yield first, group
        first += len(group)


def _wider_type(name: str, known: pyarrow.DataType, values: list, first: int) -> pyarrow.DataType:
    """A type for values and for all those before them."""

    def widen(values: list) -> pyarrow.DataType:
        schemas = [pyarrow.schema([("it", kind)]) for kind in (known, pyarrow.array(values).type)]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type

    try:
        return widen(values)
    except VALUE_ERRORS as error:
        raise _unfit(name, first + _first_unfit(values, widen), error) from error


def _array(field: pyarrow.Field, values: list, first: int) -> pyarrow.Array:
    try:
        return pyarrow.array(values, field.type)
    except VALUE_ERRORS as error:
        row = first + _first_unfit(values, lambda values: pyarrow.array(values, field.type))
        raise _unfit(field.name, row, error) from error


def _first_unfit(values: Sequence, convert: Callable) -> int:
    """The index of the first value that cannot be converted together with those before it."""

    def fails(count: int) -> bool:
        try:
            convert(values[:count])
        except VALUE_ERRORS:
            return True
        return False

    return bisect_left(range(1, len(values)), True, key=fails)


def _has_empty_object(value) -> bool:
    if isinstance(value, dict):
        return not value or any(map(_has_empty_object, value.values()))
    return isinstance(value, list) and any(map(_has_empty_object, value))


def _unfit(name: str, row: int, error: Exception) -> ValueError:
    shown = name.encode(errors="backslashreplace").decode()
    return ValueError(
        f"Parquet cannot hold column '{shown}', row {row + 1} ({one_line(error)}): give --format jsonl, which can; it "
        "asks no row again."
    )
