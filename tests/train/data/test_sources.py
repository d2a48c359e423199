# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The data of a stage: every form it may have, mixtures, streams, and memory that does not grow with rows."""

import base64
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, LargeList, List, Value
from samples import make_image

from flashsloth.train.collator import Collator
from flashsloth.train.config import DataSource
from flashsloth.train.data.fingerprint import fingerprint
from flashsloth.train.data.formats import conversation
from flashsloth.train.data.rows import FEATURES, MESSAGES
from flashsloth.train.data.sources import STREAM_FEATURES, load_data


IMAGE = {"type": "image", "text": None}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def llava(human="<image>\nWhat is it?", answer="A bird.", **columns) -> dict:
    return columns | {"conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]}


def chat(*contents) -> list[dict]:
    """Turns of user and assistant, in turn, as `load_data` has them."""
    parts = [[text(content)] if isinstance(content, str) else content for content in contents]
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(parts)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        make_image(index).save(folder / f"{index}.png")
    return folder


def decoded(row: dict) -> list:
    """Its pictures."""
    return [Image().decode_example(image) for image in row["images"]]


def write_json(path: Path, rows: list) -> str:
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return str(path)


def load(*sources, seed=0):
    return load_data([DataSource(source) if isinstance(source, str) else source for source in sources], seed)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_llava(name, tmp_path, pictures):
    rows = [
        llava(id="a", image="0.png"),
        llava(id=7, image=["0.png", "1.png"], human="First <image> or second <image>?"),
        llava(human="Name a prime.", answer="Two."),
    ]
    dataset = load(DataSource(write_json(tmp_path / name, rows), image_folder=str(pictures)))
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
        [{"bytes": None, "path": str(pictures / "0.png")}],
    ]


def test_patterns_and_byte_order_marks(tmp_path):
    (tmp_path / "a.json").write_text("\n [" + json.dumps(llava(id="a")) + "]", encoding="utf-8-sig")
    write_json(tmp_path / "b.jsonl", [llava(id="b")])
    assert load(str(tmp_path / "*.json*"))["id"][:] == ["a", "b"]


def test_images_as_file_urls(tmp_path, pictures):
    rows = write_json(tmp_path / "rows.json", [llava(image=(pictures / "1.png").as_uri())])
    assert decoded(load(rows)[0])[0].tobytes() == make_image(1).tobytes()


def test_image_paths_start_at_the_file_if_no_folder_is_given(tmp_path, pictures):
    dataset = load(write_json(tmp_path / "rows.json", [llava(image="pictures/1.png")]))
    assert decoded(dataset[0])[0].size == make_image(1).size


@pytest.mark.parametrize(
    ("record", "num_images", "expected"),
    [
        # The published training moves a lone image to the front, whatever surrounds it.
        (llava("What is it?\n<image>"), 1, chat([IMAGE, text("What is it?")], "A bird.")),
        (llava("<image>\n<image>\nWhich?"), 2, chat([IMAGE, IMAGE, text("Which?")], "A bird.")),
        (llava("<image>"), 1, chat([IMAGE], "A bird.")),
        # What looks like a token but is none of the form's placeholders stays text.
        (llava("Say </s>", "<image> and </s>"), 0, chat("Say </s>", "<image> and </s>")),
        ({"messages": chat([text("Is <image> a tag?")], "Yes.")}, 0, chat("Is <image> a tag?", "Yes.")),
        ({"messages": [{"role": "user", "content": "An <image> tag"}]}, 0, chat("An <image> tag")),
        # Strings with images: at their placeholders, or in front of the first.
        ({"messages": [{"role": "user", "content": "It?<image>"}]}, 1, chat([IMAGE, text("It?")])),
        ({"messages": [{"role": "user", "content": "It?"}]}, 2, chat([IMAGE, IMAGE, text("It?")])),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 1, chat([IMAGE])),
        ({"prompt": "One?", "completion": "Two."}, 1, chat([IMAGE, text("One?")], "Two.")),
        ({"prompt": chat("One?"), "completion": chat("One?", "Two.")[1:]}, 0, chat("One?", "Two.")),
        (
            {"texts": [{"user": "A?", "assistant": "B.", "source": "s"}, {"user": "C?", "assistant": "D."}]},
            1,
            chat([IMAGE, text("A?")], "B.", "C?", "D."),
        ),
        # Broken rows are for the check to name.
        (llava(""), 1, chat([], "A bird.")),
    ],
)
def test_conversation(record, num_images, expected):
    assert conversation(record, num_images) == expected


def test_captions_leave_the_image_alone():
    assert conversation(llava("<image>\nDescribe it."), 1, captions=True) == chat([IMAGE], "A bird.")


def test_rows_are_what_trl_and_the_processor_take(tmp_path, pictures, processor):
    rows = [llava(image="0.png"), llava(human="Say </s> <query_0>", answer="No."), llava(image="1.png", answer="B.")]
    dataset = load(DataSource(write_json(tmp_path / "rows.json", rows), image_folder=str(pictures)))
    batch = Collator(processor, assistant_only_loss=True)([dataset[i] for i in range(3)])
    labels = batch["labels"]
    assert processor.tokenizer.decode(labels[labels != -100]) == " A bird.</s> No.</s> B.</s>"
    assert "USER: <image>" not in processor.tokenizer.decode(batch["input_ids"][1])
    assert len(batch["pixel_values"]) == 2


def encoded(*indices: int) -> list[dict]:
    """Pictures as the bytes of their files."""
    return [Image().encode_example(make_image(index)) for index in indices]


COLUMNS = {
    "images": [encoded(0), encoded(0, 1), []],
    "texts": [[{"user": user, "assistant": assistant}] for user, assistant in ("AB", "CD", "EF")],
}
TEXTS = List({"user": Value("string"), "assistant": Value("string")})
EXPECTED = [chat([IMAGE, text("A")], "B"), chat([IMAGE, IMAGE, text("C")], "D"), chat("E", "F")]


def check_columns(dataset):
    rows = sorted(dataset, key=lambda row: EXPECTED.index(row["messages"]))
    assert [row["messages"] for row in rows] == EXPECTED
    assert [row["num_images"] for row in rows] == [1, 2, 0]
    assert len({row["id"] for row in rows}) == 3
    assert [[image.size for image in decoded(row)] for row in rows] == [[(40, 30)], [(40, 30)] * 2, []]


@pytest.mark.parametrize("features", [None, Features({"images": List(Image()), "texts": TEXTS})])
@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(features, streaming, tmp_path, monkeypatch):
    """With the columns of FineVision, written by `datasets` or by anybody else."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # 5 seconds at the end of a stream
    if features:
        Dataset.from_dict(COLUMNS, features=features).to_parquet(tmp_path / "0.parquet")
    else:
        pq.write_table(pa.table(COLUMNS), tmp_path / "0.parquet")
    dataset = load(DataSource(str(tmp_path / "*.parquet"), streaming=streaming))
    assert isinstance(dataset, IterableDataset) == streaming
    assert dataset.features == (STREAM_FEATURES if streaming else FEATURES)
    check_columns(dataset)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["no paths", "bytes alone", "file names"])
def test_parquet_that_others_write(form, streaming, tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    picture = (pictures / "0.png").read_bytes()
    image = {"no paths": {"bytes": picture, "path": None}, "bytes alone": {"bytes": picture}, "file names": "0.png"}
    rows = [{"images": [image[form]], "texts": [{"user": "A?", "assistant": "B."}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = DataSource(str(tmp_path / "rows.parquet"), image_folder=str(pictures), streaming=streaming)
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
def test_columns_of_images_as_they_come(columns, streaming, tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    arrays = {name: pa.array([value], kind) for name, (value, kind) in columns.items()}
    pq.write_table(pa.table(arrays | {"messages": [TURNS]}), tmp_path / "rows.parquet")
    source = DataSource(str(tmp_path / "rows.parquet"), image_folder=str(pictures), streaming=streaming)
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
    broken = {"thumb": {"bytes": b"no picture", "path": None}}
    dataset.cast_column("thumb", Image(decode=False)).map(lambda row: broken).cast_column(
        "thumb", Image()
    ).save_to_disk(tmp_path / "saved")
    [row] = load(str(tmp_path / "saved"))
    assert decoded(row)[0].tobytes() == image.tobytes()


def test_forms_take_turns_in_united_sets(tmp_path, pictures):
    rows = [
        llava(image="0.png", messages=None, images=None),
        {"messages": TURNS, "images": ["1.png"], "conversations": None, "image": None},
        llava(images=["0.png"], image="1.png"),
    ]
    dataset = load(DataSource(write_json(tmp_path / "rows.jsonl", rows), image_folder=str(pictures)))
    assert dataset["num_images"][:] == [1, 1, 0]
    assert dataset["messages"][:][:2] == [
        chat([IMAGE, text("What is it?")], "A bird."),
        chat([IMAGE, text("A?")], "B."),
    ]
    assert dataset["problem"][:][:2] == [None, None] and "in both images and image" in dataset["problem"][2]


def test_folders(tmp_path, cache):
    dataset = Dataset.from_dict(COLUMNS, features=Features({"images": List(Image()), "texts": TEXTS}))
    dataset.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": dataset.select([0]), "test": dataset}).save_to_disk(tmp_path / "splits")
    (tmp_path / "folder").mkdir()
    dataset.to_parquet(tmp_path / "folder" / "train.parquet")
    written = sorted((tmp_path / "saved").iterdir())
    check_columns(load(str(tmp_path / "saved")))
    assert sorted((tmp_path / "saved").iterdir()) == written
    check_columns(load(DataSource(str(tmp_path / "splits"), split="test")))
    check_columns(load(str(tmp_path / "folder")))
    with pytest.raises(ValueError, match="no split 'validation': it has train, test"):
        load(DataSource(str(tmp_path / "splits"), split="validation"))


def test_folders_of_json_are_read_like_their_files(tmp_path, cache):
    """Record by record: `load_dataset` would hold a whole array in memory."""
    folder = tmp_path / "folder"
    (folder / "images").mkdir(parents=True)
    make_image(0).save(folder / "images" / "0.png")
    file = write_json(folder / "rows.json", [llava(id="a", image="images/0.png"), llava("Hi?", id="b")])
    assert load(str(folder))._fingerprint == load(file)._fingerprint  # of the file and of what reads it
    assert decoded(load(str(folder))[0])[0].size == (40, 30)
    write_json(folder / "more.jsonl", [llava("Hi?", id="c")])
    assert load(str(folder))["id"][:] == ["c", "a", "b"]
    stream = load(DataSource(str(folder), streaming=True))
    assert sorted(row["id"] for row in stream) == ["a", "b", "c"]
    write_json(folder / "test.json", [llava("Hi?", id="d")])
    assert load(DataSource(str(folder), split="test"))["id"][:] == ["d"]
    with pytest.raises(ValueError, match="folder has no split 'validation': it has"):
        load(DataSource(str(folder), split="validation"))


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
def test_single_images_and_rows_without(column, tmp_path, pictures):
    images = [str(pictures / "0.png"), None]
    rows = {"image": images, "conversations": [llava()["conversations"], llava("Hello?")["conversations"]]}
    turns = List({"from": Value("string"), "value": Value("string")})
    Dataset.from_dict(rows, features=Features({"image": column, "conversations": turns})).save_to_disk(tmp_path / "s")
    dataset = load(str(tmp_path / "s"))
    assert [len(images) for images in dataset["images"][:]] == dataset["num_images"][:] == [1, 0]


def test_same_file_same_cache_and_fingerprint(tmp_path, cache):
    path = write_json(tmp_path / "rows.json", [llava(human="One?", answer="1")] * 3)
    first = load(path)
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")}
    assert load(path)._fingerprint == first._fingerprint
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")} == files
    write_json(tmp_path / "rows.json", [llava(human="Two?", answer="2")])
    assert load(path)._fingerprint != first._fingerprint
    assert load(path)["messages"][:] == [chat("Two?", "2")]


def sources(tmp_path, **settings) -> list[DataSource]:
    """60 rows with ids that start with "a", 20 with "b"."""
    result = []
    for name, count in (("a", 60), ("b", 20)):
        rows = [llava(id=f"{name}{index}", human="Hi?") for index in range(count)]
        path = write_json(tmp_path / f"{name}.json", rows)
        result.append(DataSource(path, **{key: values[len(result)] for key, values in settings.items()}))
    return result


def test_sources_without_weights_follow_each_other(tmp_path):
    ids = load(*sources(tmp_path))["id"][:]
    assert ids == [f"a{index}" for index in range(60)] + [f"b{index}" for index in range(20)]


def test_weighted_sources(tmp_path):
    ids = load(*sources(tmp_path, weight=[1, 1]))["id"][:]
    assert len(set(ids)) == 80  # every source is used up
    counts = Counter(name[0] for name in ids)
    assert 0.35 < counts["b"] / len(ids) < 0.65
    assert load(*sources(tmp_path, weight=[1, 1]))["id"][:] == ids
    assert load(*sources(tmp_path, weight=[1, 1]), seed=1)["id"][:] != ids


def test_a_stream_in_a_mixture_makes_it_a_stream(tmp_path):
    mixture = load(*sources(tmp_path, streaming=[True, False]))
    ids = [row["id"] for row in mixture]
    assert isinstance(mixture, IterableDataset) and len(set(ids)) == len(ids) == 80
    assert ids == [row["id"] for row in load(*sources(tmp_path, streaming=[True, False]))] != sorted(ids)


@pytest.mark.parametrize("streaming", [False, True])
def test_fingerprint_is_of_what_is_learned_and_not_of_where_it_is(streaming, tmp_path, pictures):
    def of(name, *rows, **settings):
        folder = tmp_path / name
        folder.mkdir()
        source = DataSource(write_json(folder / "rows.json", list(rows)), streaming=streaming, **settings)
        return fingerprint(load(source), [source])

    row = llava(image="0.png")
    first = of("a", row, llava("Hi?"), image_folder=str(pictures))
    assert first == of("b", row, llava("Hi?"))  # without an image_folder, paths start from the file
    others = [
        of("text", row, llava("Ho? ")),
        of("captions", row, llava("Hi?"), captions=True),
        of("another row", row, llava("Hi?"), llava("Hi?")),
    ]
    if not streaming:
        others += [of("picture", llava(image="1.png"), llava("Hi?")), of("order", llava("Hi?"), row)]
    assert len({first, *others}) == 1 + len(others)


def test_fingerprint_of_mixtures_and_of_images_in_rows(tmp_path):
    assert len({fingerprint(load_data(sources(tmp_path, weight=[1, 1]), seed), []) for seed in (0, 1, 1)}) == 2
    features = Features({"images": List(Image()), "texts": TEXTS})
    found = set()
    for name, width in (("a", 40), ("b", 50), ("c", 50)):
        rows = COLUMNS | {"images": [[make_image(0, width)], [make_image(0), make_image(1)], []]}
        Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / name)
        found.add(fingerprint(load(str(tmp_path / name)), []))
    assert len(found) == 2


def test_what_does_not_exist(tmp_path):
    path = write_json(tmp_path / "rows.json", [llava()])
    with pytest.raises(FileNotFoundError, match="image_folder of .*rows.json does not exist: nowhere"):
        load(DataSource(path, image_folder="nowhere"))
    with pytest.raises(FileNotFoundError, match="no file, folder or pattern"):
        load("./nowhere.json")
    with pytest.raises(ValueError, match="no file or folder nobody/nothing, and the Hub dataset"):
        load("nobody/nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
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
        ('[{"messages": []}, {"messages": [', "no valid JSON after 1 rows"),
        ('{"messages": []}\n{"messages"', "no valid JSON after 1 rows"),
        ("[3]", "Row 0: it is 3; a row is a mapping of names"),
        ('{"image": 3, "messages": []}', "Row 0: an image is 3"),
        ("[]", "has no rows"),
    ],
)
def test_unreadable_json(content, message, tmp_path):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=f"rows.json.*{message}"):
        load(str(tmp_path / "rows.json"))


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="b.json has no weight but others have"):
        load(*sources(tmp_path, weight=[1, None]))
    with pytest.raises(ValueError, match="is a file, which has no split: leave out split .validation"):
        load(*sources(tmp_path, split=["validation", "train"]))
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(ValueError, match="of the type .csv: it has to be .json, .jsonl or .parquet"):
        load(str(tmp_path / "rows.csv"))
    (tmp_path / "rows.parquet").write_text("a,b")
    with pytest.raises(ValueError, match="rows.parquet cannot be read: Parquet file size is 3 bytes"):
        load(str(tmp_path / "rows.parquet"))
    Dataset.from_dict({"question": ["A?"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved has the columns question; it needs messages, prompt and completion, "):
        load(str(tmp_path / "saved"))
    Dataset.from_dict({"question": ["A?"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="rows.parquet has the columns question; it needs messages"):
        load(DataSource(str(tmp_path / "rows.parquet"), streaming=True))
    Dataset.from_dict({"messages": [[]], "texts": [None]}).select([]).to_parquet(tmp_path / "rows.parquet")
    for streaming, message in (
        (False, 'cannot be read: Instruction "train" corresponds to no data'),
        (True, "has no rows"),
    ):
        with pytest.raises(ValueError, match=f"rows.parquet {message}"):
            load(DataSource(str(tmp_path / "rows.parquet"), streaming=streaming))


MEMORY = """
import re, sys
import datasets
datasets.config.HF_DATASETS_CACHE = sys.argv[2]
from torch.utils.data import DataLoader
from flashsloth import FlashSlothProcessor, register_auto_classes
from flashsloth.train.collator import Collator
from flashsloth.train.config import DataSource
from flashsloth.train.data.sources import STREAM_FEATURES, load_data

register_auto_classes()
dataset = load_data([DataSource(sys.argv[1])], seed=0)
collator = Collator(FlashSlothProcessor.from_pretrained(sys.argv[3]))
batch = next(iter(DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collator)))
# Not ru_maxrss, which starts from that of the process that started this one.
kibibytes = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(len(dataset), len(batch["pixel_values"]), kibibytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200000_rows_are_opened_in_less_than_a_gigabyte(tmp_path, cache, processor):
    processor.save_pretrained(tmp_path / "processor")
    make_image(0).save(tmp_path / "picture.png")
    with (tmp_path / "rows.json").open("w") as file:
        for index in range(200_000):
            row = llava(f"<image>\nWhat is number {index}?", "word " * 60, id=index, image="picture.png")
            file.write(("," if index else "[") + json.dumps(row))
        file.write("]")
    arguments = [str(tmp_path / "rows.json"), str(cache), str(tmp_path / "processor")]
    result = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows, images, kibibytes = result.stdout.split()
    assert (rows, images) == ("200000", "16")
    assert int(kibibytes) < 1024 * 1024
