# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Every kind of source that a stage may have, mixtures, shards, and memory that does not grow with rows."""

import json
import logging
import shutil
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value, load_dataset_builder
from raw_rows import IMAGE, chat, decoded, llava, load, text, write_json
from samples import make_image

from flashsloth.train.data import DataSource, load_data
from flashsloth.train.data.fingerprint import fingerprint
from flashsloth.train.data.formats import FEATURES
from flashsloth.train.data.sources import STREAM_FEATURES, check_sources


@pytest.mark.parametrize("setting", ["path", "image_folder"])
def test_an_address_that_is_no_data_is_named_without_its_secrets(setting):
    settings = {"path": "tests", setting: "https://user:PASSWORD@host/rows.json?sig=SIGN"}
    for function in (check_sources, load_data):
        with pytest.raises(FileNotFoundError, match="https://host/rows.json") as error:
            function([DataSource(**settings)], *([0] if function is load_data else []))
        assert "PASSWORD" not in str(error.value) and "SIGN" not in str(error.value)


def test_a_readme_without_metadata_is_no_news(tmp_path, caplog):
    pq.write_table(pa.table({"question": ["Hi?"], "answer": ["Hello."]}), tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text("# Rows")
    cards = logging.getLogger("huggingface_hub.repocard")  # which passes nothing on
    cards.addHandler(caplog.handler)
    try:
        assert len(load(str(tmp_path))) == 1
        assert "Repo card" not in caplog.text
        load_dataset_builder(str(tmp_path))
        assert "Repo card" in caplog.text
    finally:
        cards.removeHandler(caplog.handler)


def test_patterns(tmp_path):
    write_json(tmp_path / "a.json", [llava(id="a")])
    write_json(tmp_path / "b.jsonl", [llava(id="b")])
    assert load(str(tmp_path / "*.json*"))["id"][:] == ["a", "b"]


def encoded(*indices: int) -> list[dict]:
    """Images as the bytes of their files."""
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
def test_parquet(features, streaming, tmp_path):
    """With the columns of FineVision, written by `datasets` or by anybody else."""
    if features:
        Dataset.from_dict(COLUMNS, features=features).to_parquet(tmp_path / "0.parquet")
    else:
        pq.write_table(pa.table(COLUMNS), tmp_path / "0.parquet")
    dataset = load(DataSource(str(tmp_path / "*.parquet"), streaming=streaming))
    assert isinstance(dataset, IterableDataset) == streaming
    assert dataset.features == (STREAM_FEATURES if streaming else FEATURES)
    check_columns(dataset)


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


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["set[1]", "set{a,b}", "set*", "set?", "set[!x]"])
def test_names_that_are_patterns(name, streaming, tmp_path):
    """Of folders and files: what exists is meant by its whole name."""
    for folder in (tmp_path / name, tmp_path / "set1", tmp_path / name / name):
        folder.mkdir(exist_ok=True)
    good = Dataset.from_list([llava("Hi?", id="a")])
    Dataset.from_list([llava("Hi?", id="b")]).to_parquet(tmp_path / "set1" / "rows.parquet")
    files = [
        tmp_path / name / "rows.parquet",
        tmp_path / name / f"{name}.parquet",
        tmp_path / name / name / "rows.jsonl",
    ]
    good.to_parquet(files[0])
    good.to_parquet(tmp_path / name / f"{name}.parquet")
    write_json(files[2], [llava("Hi?", id="a")])
    good.save_to_disk(tmp_path / name / "saved")
    paths = [*files, tmp_path / name / name, tmp_path / name / name / "*.jsonl", tmp_path / name / "saved"]
    for path in paths:
        rows = list(load(DataSource(str(path), streaming=streaming)))
        assert [row["id"] for row in rows] == ["a"], path
    shutil.rmtree(tmp_path / name / name)
    shutil.rmtree(tmp_path / name / "saved")
    (tmp_path / name / f"{name}.parquet").unlink()
    assert [row["id"] for row in load(DataSource(str(tmp_path / name), streaming=streaming))] == ["a"]


def test_a_saved_folder_in_a_stream_stays_as_it_is(tmp_path):
    """Its fingerprint covers its files."""
    Dataset.from_list([llava("Hi?", id=f"{index}") for index in range(50)]).save_to_disk(tmp_path / "saved")
    write_json(tmp_path / "rows.jsonl", [llava("Hi?")])
    source = DataSource(str(tmp_path / "saved"), streaming=True)
    written = sorted(path.name for path in (tmp_path / "saved").iterdir())
    before = fingerprint(load(source), [source])
    assert len(list(load(source, DataSource(str(tmp_path / "rows.jsonl"), streaming=True)))) == 51
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == written
    assert fingerprint(load(source), [source]) == before


def test_folders_of_json_are_read_like_their_files(tmp_path, cache):
    """Row by row: `load_dataset` would hold a whole array in memory."""
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


@pytest.mark.parametrize("num_files", [1, 3, 4])
def test_each_row_of_a_stream_is_of_one_process(num_files, tmp_path):
    """Each process reads files of its own if their number allows it; otherwise every second row."""
    for index in range(num_files):
        rows = [llava("Hi?", id=f"{row}") for row in range(index, 12, num_files)]
        write_json(tmp_path / f"{index}.jsonl", rows)
    sources = [DataSource(str(tmp_path / "*.jsonl"), streaming=True)]
    shards = [[row["id"] for row in load_data(sources, 0, index, num_processes=2)] for index in range(2)]
    assert sorted([*shards[0], *shards[1]], key=int) == [f"{row}" for row in range(12)]
    assert min(map(len, shards)) >= 5


def test_what_does_not_exist(tmp_path):
    path = write_json(tmp_path / "rows.json", [llava()])
    with pytest.raises(FileNotFoundError, match="image_folder of .*rows.json does not exist: nowhere"):
        load(DataSource(path, image_folder="nowhere"))
    with pytest.raises(FileNotFoundError, match="no file, folder or pattern"):
        load("./nowhere.json")
    with pytest.raises(ValueError, match="no file or folder nobody/nothing, and the Hub dataset"):
        load("nobody/nothing")


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="b.json has no weight but others have"):
        load(*sources(tmp_path, weight=[1, None]))
    with pytest.raises(ValueError, match="is local, and has no split: leave out split .validation"):
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
from flashsloth.train.data import DataSource
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
    make_image(0).save(tmp_path / "image.png")
    with (tmp_path / "rows.json").open("w") as file:
        for index in range(200_000):
            row = llava(f"<image>\nWhat is number {index}?", "word " * 60, id=index, image="image.png")
            file.write(("," if index else "[") + json.dumps(row))
        file.write("]")
    arguments = [str(tmp_path / "rows.json"), str(cache), str(tmp_path / "processor")]
    result = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows, images, kibibytes = result.stdout.split()
    assert (rows, images) == ("200000", "16")
    assert int(kibibytes) < 1024 * 1024
