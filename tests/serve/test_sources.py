# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Rows come from JSON lines, Parquet, folders and the Hub in one order, and wrong input is named first."""

import json
import subprocess
import sys
from hashlib import sha256

import pyarrow
import pytest
from datasets import Dataset, Features, Image, Value
from loopback_hub import LoopbackHub
from pyarrow import parquet
from samples import encode_image, make_image

from flashsloth.serve.sources import open_source


def write_lines(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def write_table(file, numbers, **columns):
    table = {"question": [f"Question {n}?" for n in numbers], "number": list(numbers), **columns}
    parquet.write_table(pyarrow.table(table), file, row_group_size=2)
    return str(file)


def test_json_lines_of_several_files_follow_each_other(tmp_path):
    first = tmp_path / "b.jsonl"
    first.write_bytes(b'\xef\xbb\xbf{"question": "a", "id": 1}\n\n{"question": "b"}\n')
    second = write_lines(tmp_path / "a.jsonl", {"question": "c", "other": None})
    source = open_source([str(first), second])
    assert (source.num_rows, source.columns) == (3, ("question", "id", "other"))
    assert [row["question"] for row in source.rows([])] == ["a", "b", "c"]
    assert list(source.rows([], 2)) == [{"question": "c", "other": None}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "a"}\n{"question"', "line 2 is not JSON"),
        (b'{"question": "a"}\n\n[1]\n', "line 3 holds a list: each line must be one JSON object"),
        (b'{"question": "\xff"}\n', "line 1 is not JSON"),
        (b"\n\n", "holds no rows"),
    ],
)
def test_damaged_json_lines_are_named(content, message, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source([str(file)])


@pytest.mark.parametrize("start", range(8))
def test_parquet_begins_at_any_row(start, tmp_path):
    names = [write_table(tmp_path / "1.parquet", range(5)), write_table(tmp_path / "2.parquet", range(5, 7))]
    source = open_source(names)
    assert source.num_rows == 7 and source.columns == ("question", "number")
    assert list(source.rows(["number"], start)) == [{"number": n} for n in range(start, 7)]


def test_columns_of_bytes_are_known(tmp_path):
    images = [[{"bytes": b"x", "path": None}], None]
    source = open_source([write_table(tmp_path / "a.parquet", range(2), images=images, thumb=[b"1", b"2"])])
    assert source.byte_columns == ["images", "thumb"]


def test_parquet_files_have_one_schema(tmp_path):
    names = [write_table(tmp_path / "1.parquet", range(2)), write_table(tmp_path / "2.parquet", range(2), more=[1, 2])]
    with pytest.raises(ValueError, match="2.parquet has other columns or types than .*1.parquet"):
        open_source(names)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match="a.parquet cannot be read as Parquet"):
        open_source([str(tmp_path)])


def test_a_folder_holds_tables_with_their_images_or_images(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(name.encode())
    source = open_source([str(tmp_path)])
    assert list(source.rows([])) == [{"image": "b.png"}, {"image": "deep/a.JPG"}]
    assert (source.num_rows, source.folder) == (2, tmp_path)

    write_lines(tmp_path / "deep" / "q.jsonl", {"question": "What?", "image": "b.png"})
    source = open_source([str(tmp_path)])
    assert (source.num_rows, source.folder) == (1, tmp_path)

    write_table(tmp_path / "q.parquet", range(2))
    with pytest.raises(ValueError, match="holds Parquet files and JSON lines"):
        open_source([str(tmp_path)])


def test_a_folder_of_images_has_all_that_are_read_and_tells_what_is_skipped(tmp_path, caplog):
    names = ["a.avif", "b.jp2", "c.PPM", "d.ico", "e.qoi", "f.jfif", "g.webp"]
    for name in (*names, "notes.txt", "more.txt", "photo.heic", "Makefile"):
        (tmp_path / name).touch()
    with caplog.at_level("INFO"):
        source = open_source([str(tmp_path)])
    assert [row["image"] for row in source.rows([])] == names
    (message,) = caplog.messages
    assert "skipped" in message and "2 of .txt" in message and "1 of .heic" in message and "1 of no ending" in message


def test_columns_of_one_name_are_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["What?"])] * 2, names=["question", "question"])
    parquet.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(ValueError, match="q.parquet has 2 columns 'question': rename all but one"):
        open_source([str(tmp_path / "q.parquet")])


def test_a_value_that_cannot_be_read_is_named_by_its_column_and_row(tmp_path):
    late = pyarrow.array([None, 0, None], pyarrow.timestamp("us", tz="Europe/Nowhere"))
    table = {"question": ["What?"] * 3, "taken": late}
    parquet.write_table(pyarrow.table(table), tmp_path / "q.parquet", row_group_size=1)
    source = open_source([str(tmp_path / "q.parquet")])
    assert len(list(source.rows(["question"]))) == 3
    for start in (0, 1):
        with pytest.raises(ValueError, match=r"q.parquet, column 'taken', row 2 cannot be read \(.*Europe/Nowhere"):
            list(source.rows(["question", "taken"], start))


def test_the_digest_follows_rows_and_their_order(tmp_path):
    def digest(*rows):
        return open_source([write_lines(tmp_path / "q.jsonl", *rows)]).digest

    rows = {"question": "a"}, {"question": "b"}
    assert digest(*rows) == digest(*rows)
    assert len({digest(*rows), digest(*rows[::-1]), digest(rows[0])}) == 3


@pytest.mark.parametrize(
    ("questions", "options", "message"),
    [
        (["nowhere.jsonl"], {}, "No questions at 'nowhere.jsonl'"),
        (["a/b/c"], {}, "No questions at 'a/b/c'"),
        (["q.csv"], {}, "files of the type .csv"),
        (["q.csv", "q.jsonl"], {}, "files of the type .csv and .jsonl"),
        (["empty", "q.jsonl"], {}, "a folder among them"),
        (["empty"], {}, "holds neither Parquet files, nor JSON lines, nor images"),
        (["q.jsonl"], {"split": "test"}, "is local, and has no split: leave out --split"),
    ],
)
def test_what_is_no_source(questions, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "q.csv").write_text("question\nWhat?\n", encoding="utf-8")
    write_lines(tmp_path / "q.jsonl", {"question": "What?"})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(questions, **options)


HUB_TEST = """
import hashlib, json
from flashsloth.serve.questions import select_columns
from flashsloth.serve.sources import open_source

for name in ("lab/tables", "lab/pictures", "lab/tables@old"):
    source = open_source([name])
    rows = list(select_columns(source).rows([]))
    told = [[row.question, [hashlib.sha256(image).hexdigest() for image in row.images], row.error] for row in rows]
    later = [row["question"] for row in source.rows(["question"], 1)]
    print(json.dumps([source.name, source.byte_columns, told, later]))
for words in (["lab/splits"], ["lab/nothing"], ["lab/tables", None, "train"]):
    try:
        open_source(words[:1], *words[1:])
    except ValueError as error:
        print(error)
"""


def test_a_data_set_on_the_hub_is_streamed(tmp_path):
    """In a process of its own: `datasets` reads the address of the Hub when it is imported."""
    pictures = [encode_image(make_image(n)) for n in range(3)]
    features = Features({"question": Value("string"), "image": Image()})
    rows = [{"question": f"Question {n}?", "image": {"bytes": pictures[n], "path": "x.png"}} for n in range(3)]
    Dataset.from_list(rows, features).to_parquet(tmp_path / "x.parquet")
    lines = b'{"file_name": "a.png", "question": "What?"}\n{"file_name": "b.png", "question": "Who?"}\n'
    folder = {"p/a.png": pictures[0], "p/b.png": pictures[1], "p/metadata.jsonl": lines}
    with LoopbackHub() as hub:
        hub.add_repo("lab/tables", {"old.jsonl": b'{"question": "Old?"}\n'}, repo_type="dataset")
        hub.commit("lab/tables", {}, revision="old", repo_type="dataset")
        table = {"data/test-0.parquet": (tmp_path / "x.parquet").read_bytes()}
        hub.commit("lab/tables", table, delete=["old.jsonl"], repo_type="dataset")
        hub.add_repo("lab/pictures", folder, repo_type="dataset")
        questions = {f"{split}.jsonl": b'{"question": "What?"}\n' for split in ("train", "test")}
        hub.add_repo("lab/splits", questions, repo_type="dataset")
        command, environment = [sys.executable, "-c", HUB_TEST], hub.environment(tmp_path / "home")
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    tables, folder, old, *errors = output.splitlines()
    texts, digests = [f"Question {n}?" for n in range(3)], [sha256(picture).hexdigest() for picture in pictures]
    told = [[text, [digest], None] for text, digest in zip(texts, digests, strict=True)]
    assert json.loads(tables) == ["lab/tables, test", ["image"], told, texts[1:]]
    assert json.loads(folder)[2:] == [[["What?", digests[:1], None], ["Who?", digests[1:2], None]], ["Who?"]]
    assert json.loads(old)[2] == [["Old?", [], None]]
    assert errors[0] == "lab/splits has the splits train, test: name one of them by --split."
    assert errors[1].startswith("lab/nothing is neither here nor a data set on the Hub")
    assert errors[2] == "lab/tables has the splits test: name one of them by --split."
