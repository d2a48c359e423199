# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Parquet keeps values and types; what it cannot hold is named by column and row, whether written or checked."""

import datetime

import pyarrow
import pytest
from model_folders import error_of
from pyarrow import parquet

from flashsloth.serve.answer_table import check_rows, write_parquet


def test_the_types_of_all_rows_are_kept(tmp_path):
    last = [{"n": 1.5, "o": {"a": [1]}, "late": "x"}, {"day": datetime.date(2026, 1, 2)}]
    rows = [{"n": 1, "o": {}}] * 1500 + last
    check_rows(rows, None)
    write_parquet(rows, None, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema][:1] == ["double"]
    names = ("n", "o", "late", "day")
    assert table.to_pylist()[1500:] == [{name: row.get(name) for name in names} for row in last]


# The other values of the column, the one that does not fit, and a part of the reason.
WRONG = {
    "too large": (0.5, 10**30, "too large"),
    "too precise beside fractions": (0.5, 2**60 + 1, "outside of the range"),
    "another type": (0.5, "a", "double"),
    "half a character": ("a", "\ud800", "surrogates not allowed"),
    "a truth value": (1, True, "bool"),
    "a list": ("a", [1], "list"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("row", [2, 1024, 2000])
def test_the_first_row_that_does_not_fit_is_named(kind, row, tmp_path):
    usual, value, reason = WRONG[kind]
    rows = [{"id": index, "n": usual} for index in range(row - 1)] + [{"n": value}, {"n": usual}, {"n": value}]
    message = error_of(write_parquet, rows, None, tmp_path / "a.parquet")
    assert f"Parquet cannot hold column 'n', row {row} (" in message and reason in message
    assert message.endswith("give --format jsonl, which can; it asks no row again.")
    assert error_of(check_rows, rows, None) == message


def test_values_of_another_type_than_in_all_groups_before_are_named():
    assert "column 'n', row 1025 (" in error_of(check_rows, [{"n": 1}] * 1024 + [{"n": "a"}] * 9, None)


@pytest.mark.parametrize("value", [{}, [{}], {"a": {}}])
def test_objects_without_names_are_named(value):
    rows = [{"x": None}] * 1100 + [{"x": value}]
    assert "column 'x', row 1101 (" in error_of(check_rows, rows, None)


def test_names_that_are_no_text_are_named():
    assert r"column '\ud800', row 2 (" in error_of(check_rows, [{"a": 1}, {"\ud800": 1}], None)


def test_values_of_another_type_than_the_schema_are_named():
    schema = pyarrow.schema({"n": pyarrow.int8()})
    check_rows([{"n": 127}], schema)
    assert "column 'n', row 3 (" in error_of(check_rows, [{"n": 1}, {"n": 2}, {"n": 128}], schema)
