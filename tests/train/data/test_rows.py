# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Sets of raw rows become sets of rows: JSON files, and tables whose images may have any type."""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, LargeList, List, Value
from raw_rows import IMAGE, chat, decoded, llava, load, text, write_json
from samples import make_image

from flashsloth.train.collator import Collator
from flashsloth.train.data import DataSource
from flashsloth.train.data.formats import FEATURES, MESSAGES


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_llava(name, tmp_path, image_folder):
    rows = [
        llava(id="a", image="0.png"),
        llava(id=7, image=["0.png", "1.png"], human="First <image> or second <image>?"),
        llava(human="Name a prime.", answer="Two."),
    ]
    dataset = load(DataSource(write_json(tmp_path / name, rows), image_folder=str(image_folder)))
    assert isinstance(dataset, Dataset) and dataset.features == FEATURES
    assert dataset["id"][:] == ["a", "7", "2"]
    assert dataset["num_images"][:] == [1, 2, 0]
    texts = ["What is it?A bird.", "First  or second ?A bird.", "Name a prime.Two."]
    assert dataset["length"][:] == list(map(len, texts))
    assert dataset["messages"][:] == [
        chat([IMAGE, text("What is it?")], "A bird."),
        chat([text("First "), IMAGE, text(" or second "), IMAGE, text("?")], "A bird."),
        chat("Name a prime.", "Two."),
    ]
    assert decoded(dataset[0])[0].tobytes() == make_image(0).tobytes()
    assert len(dataset[1]["images"]) == 2 and dataset[2]["images"] == []
    # Images stay where they are.
    assert dataset.with_format("arrow")[0]["images"].to_pylist() == [
        [{"bytes": None, "path": str(image_folder / "0.png")}],
    ]


def test_byte_order_marks_and_spaces(tmp_path):
    (tmp_path / "a.json").write_text("\n [" + json.dumps(llava(id="a")) + "]", encoding="utf-8-sig")
    assert load(str(tmp_path / "a.json"))["id"][:] == ["a"]


ROWS = [llava("Hi?", id="a", info=[{"messages": 1}]), llava("Hi?", id="b", images=[{"path": "0.png", "bytes": None}])]
OBJECTS = {
    "a list in an object": json.dumps({"data": ROWS}),
    "the same, indented": json.dumps({"info": {"messages": [{"a": 1}]}, "n": [{"b": 1}], "rows": ROWS}, indent=2),
    "indented objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects on one line": "".join(map(json.dumps, ROWS)),
    "lines": "\n\n".join(map(json.dumps, ROWS)),
    "lines whose first has another list": "\n".join(map(json.dumps, ROWS)),
    "questions in an object": json.dumps(
        {"v": 1, "data": [{"id": name, "question": "Hi?", "answer": "A bird."} for name in "ab"]}
    ),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_json_that_is_no_array(name, streaming, tmp_path):
    (tmp_path / "rows.json").write_text(OBJECTS[name])
    rows = list(load(DataSource(str(tmp_path / "rows.json"), streaming=streaming)))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert all(row["messages"] == chat("Hi?", "A bird.") for row in rows)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_numbers_of_json_are_marks_too(name, tmp_path):
    """Those of an array are no floats."""
    row = llava("Hi?")
    row["conversations"][1]["weight"] = 0.5
    dataset = load(write_json(tmp_path / name, [row, llava("Hi?", weight=1.0)]))
    assert "'weight'" in dataset["problem"][0] and dataset["problem"][1] is None


def test_images_as_file_urls(tmp_path, image_folder):
    rows = write_json(tmp_path / "rows.json", [llava(image=(image_folder / "1.png").as_uri())])
    assert decoded(load(rows)[0])[0].tobytes() == make_image(1).tobytes()


def test_image_paths_start_at_the_file_if_no_folder_is_given(tmp_path, image_folder):
    dataset = load(write_json(tmp_path / "rows.json", [llava(image="images/1.png")]))
    assert decoded(dataset[0])[0].size == make_image(1).size


def test_rows_are_what_trl_and_the_processor_take(tmp_path, image_folder, processor):
    rows = [llava(image="0.png"), llava(human="Say </s> <query_0>", answer="No."), llava(image="1.png", answer="B.")]
    dataset = load(DataSource(write_json(tmp_path / "rows.json", rows), image_folder=str(image_folder)))
    batch = Collator(processor, assistant_only_loss=True)([dataset[i] for i in range(3)])
    labels = batch["labels"]
    assert processor.tokenizer.decode(labels[labels != -100]) == " A bird.</s> No.</s> B.</s>"
    assert "USER: <image>" not in processor.tokenizer.decode(batch["input_ids"][1])
    assert len(batch["pixel_values"]) == 2


def test_same_file_same_cache_and_fingerprint(tmp_path, cache):
    path = write_json(tmp_path / "rows.json", [llava(human="One?", answer="1")] * 3)
    first = load(path)
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")}
    assert load(path)._fingerprint == first._fingerprint
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")} == files
    write_json(tmp_path / "rows.json", [llava(human="Two?", answer="2")])
    assert load(path)._fingerprint != first._fingerprint
    assert load(path)["messages"][:] == [chat("Two?", "2")]


UNREADABLE = [
    (
        '[{"id": 1, "image": "a.jpg", "captoin": "A bird"}]',
        "Row 0: it has the columns id, image, captoin; it needs",
    ),
    (
        '{"conversations": [{"from": "human"}]}',
        "Row 0: an entry of its 'conversations' has the keys from; it needs",
    ),
    ('{"messages": "Hello?"}', "Row 0: its 'messages' is 'Hello.'; it has to be a list"),
    ('{"prompt": "1+1?", "completion": 2}', "Row 0: its 'prompt and completion' is 2;"),
    (
        '[{"messages": []}, {"messages": [',
        "no valid JSON after 1 rows: .*A file holds an array of rows, or one row",
    ),
    ('{"data": {"train": [{"messages": []}]}}', "Row 0: it has the columns data"),
    ('{"data": [{"messages": []}', "no valid JSON after 1 rows"),
    ('{"data": [{"caption": "A bird."}]}', "Row 0: it has the columns data; it needs messages"),
    ('{"messages": []}\n{"messages"', "no valid JSON after 1 rows"),
    ("[3]", "Row 0: it is 3; a row is a mapping of names"),
    ('{"image": 3, "messages": []}', "Row 0: an image is 3"),
    ("[]", "has no rows"),
]
BAD_INPUT = {content: (content, message) for content, message in UNREADABLE}


@pytest.mark.parametrize(("content", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_unreadable_json(content, message, tmp_path):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=f"rows.json.*{message}"):
        load(str(tmp_path / "rows.json"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["no paths", "bytes alone", "file names"])
def test_parquet_that_others_write(form, streaming, tmp_path, image_folder):
    content = (image_folder / "0.png").read_bytes()
    image = {"no paths": {"bytes": content, "path": None}, "bytes alone": {"bytes": content}, "file names": "0.png"}
    rows = [{"images": [image[form]], "texts": [{"user": "A?", "assistant": "B."}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = DataSource(str(tmp_path / "rows.parquet"), image_folder=str(image_folder), streaming=streaming)
    [row] = load(source)
    assert decoded(row)[0].tobytes() == make_image(0).tobytes()
    assert row["messages"] == chat([IMAGE, text("A?")], "B.")


ENCODED = Image().encode_example(make_image(0))
CONTENT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = [{"role": "user", "content": "<image>A?"}, {"role": "assistant", "content": "B."}]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "columns",
    [
        {"images": ([ENCODED], pa.large_list(CONTENT))},
        {"images": ([ENCODED], pa.list_(CONTENT, 1))},
        {"images": (ENCODED, CONTENT)},
        {"image": ([ENCODED], pa.list_(CONTENT))},
        {"image": (ENCODED["bytes"], pa.binary())},
        {"image": ("data:image/png;base64," + base64.b64encode(ENCODED["bytes"]).decode(), None)},
        {"images": ([ENCODED["bytes"]], pa.list_(pa.large_binary()))},
        {"images": ([ENCODED | {"width": 40}], None)},
        {"images": (None, pa.list_(CONTENT)), "image": (ENCODED, CONTENT)},
        {"images": ([], pa.list_(CONTENT)), "image": (ENCODED, CONTENT)},
        {"image": ({"bytes": None, "path": "0.png"}, CONTENT)},
        {"images": ([{"bytes": None, "path": "0.png"}], pa.list_(CONTENT))},
        {"images": (["0.png"], pa.large_list(pa.large_string()))},
        {"images": ([ENCODED], None), "_num_images": (5, None), "conversations": (None, pa.string())},
    ],
    ids=lambda columns: " ".join(f"{name}-{kind}"[:40] for name, (_, kind) in columns.items()),
)
def test_columns_of_images_as_they_come(columns, streaming, tmp_path, image_folder):
    arrays = {name: pa.array([value], kind) for name, (value, kind) in columns.items()}
    pq.write_table(pa.table(arrays | {"messages": [TURNS]}), tmp_path / "rows.parquet")
    source = DataSource(str(tmp_path / "rows.parquet"), image_folder=str(image_folder), streaming=streaming)
    [row] = load(source)
    assert row["problem"] is None and row["num_images"] == 1
    assert decoded(row)[0].tobytes() == make_image(0).tobytes()


@pytest.mark.parametrize("feature", [Image(), List(Image()), LargeList(Image())])
def test_folders_with_images_and_columns_of_no_use(feature, tmp_path):
    image = make_image(0)
    rows = {"images": [image if isinstance(feature, Image) else [image]], "thumb": [image], "messages": [TURNS]}
    features = Features(
        {"images": feature, "thumb": Image(), "messages": List({key: Value("string") for key in TURNS[0]})}
    )
    dataset = Dataset.from_dict(rows, features=features)
    broken = {"thumb": {"bytes": b"no image", "path": None}}
    dataset.cast_column("thumb", Image(decode=False)).map(lambda row: broken).cast_column(
        "thumb", Image()
    ).save_to_disk(tmp_path / "saved")
    [row] = load(str(tmp_path / "saved"))
    assert decoded(row)[0].tobytes() == image.tobytes()


def test_forms_take_turns_in_united_sets(tmp_path, image_folder):
    rows = [
        llava(image="0.png", messages=None, images=None),
        {"messages": TURNS, "images": ["1.png"], "conversations": None, "image": None},
        llava(images=["0.png"], image="1.png"),
    ]
    dataset = load(DataSource(write_json(tmp_path / "rows.jsonl", rows), image_folder=str(image_folder)))
    assert dataset["num_images"][:] == [1, 1, 0]
    assert dataset["messages"][:][:2] == [
        chat([IMAGE, text("What is it?")], "A bird."),
        chat([IMAGE, text("A?")], "B."),
    ]
    assert dataset["problem"][:][:2] == [None, None] and "in both images and image" in dataset["problem"][2]


def test_image_bytes_are_not_copied(tmp_path, cache):
    noise = make_image(0, 400, 400)
    rows = {"images": [[noise]] * 20, "messages": [chat([IMAGE], "Noise.")] * 20}
    Dataset.from_dict(rows, features=Features({"images": List(Image()), "messages": MESSAGES})).save_to_disk(
        tmp_path / "saved"
    )
    dataset = load(str(tmp_path / "saved"))
    assert decoded(dataset[19])[0].size == (400, 400)
    assert sum(file.stat().st_size for file in cache.rglob("*.arrow")) < 50_000


@pytest.mark.parametrize("column", [Image(), Value("string")])
def test_single_images_and_rows_without(column, tmp_path, image_folder):
    images = [str(image_folder / "0.png"), None]
    rows = {"image": images, "conversations": [llava()["conversations"], llava("Hello?")["conversations"]]}
    turns = List({"from": Value("string"), "value": Value("string")})
    Dataset.from_dict(rows, features=Features({"image": column, "conversations": turns})).save_to_disk(tmp_path / "s")
    dataset = load(str(tmp_path / "s"))
    assert [len(images) for images in dataset["images"][:]] == dataset["num_images"][:] == [1, 0]
