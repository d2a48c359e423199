# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The fingerprint of a run's data."""

import pytest
from datasets import Dataset, Features, Image, List, Value
from raw_rows import llava, load, write_json
from samples import make_image

from flashsloth.train.data import DataSource
from flashsloth.train.data.fingerprint import fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_fingerprint_covers_rows_and_not_where_they_are(streaming, tmp_path, image_folder):
    def of(name, *rows, **settings):
        folder = tmp_path / name
        folder.mkdir()
        source = DataSource(write_json(folder / "rows.json", list(rows)), streaming=streaming, **settings)
        return fingerprint(load(source), [source])

    row = llava(image="0.png")
    first = of("a", row, llava("Hi?"), image_folder=str(image_folder))
    assert first == of("b", row, llava("Hi?"))  # without an image_folder, paths start from the file
    others = [
        of("text", row, llava("Ho? ")),
        of("captions", row, llava("Hi?"), captions=True),
        of("another row", row, llava("Hi?"), llava("Hi?")),
    ]
    if not streaming:
        others += [of("image name", llava(image="1.png"), llava("Hi?")), of("order", llava("Hi?"), row)]
    assert len({first, *others}) == 1 + len(others)


def test_fingerprint_of_mixtures(tmp_path):
    """The seed decides the order, and with it the fingerprint."""
    sources = []
    for name in "ab":
        rows = [llava("Hi?", id=f"{name}{row}") for row in range(20)]
        sources.append(DataSource(write_json(tmp_path / f"{name}.json", rows), weight=1))
    assert len({fingerprint(load(*sources, seed=seed), sources) for seed in (0, 1, 1)}) == 2


def test_fingerprint_of_images_in_rows(tmp_path):
    """Their sizes count, not their pixels."""
    rows = {"id": ["a"], "texts": [[{"user": "A", "assistant": "B"}]]}
    texts = List({"user": Value("string"), "assistant": Value("string")})
    features = Features({"images": List(Image()), "id": Value("string"), "texts": texts})
    found = set()
    for name, width in (("a", 40), ("b", 50), ("c", 50)):
        images = [[make_image(0, width), make_image(1)]]
        Dataset.from_dict({"images": images} | rows, features=features).save_to_disk(tmp_path / name)
        found.add(fingerprint(load(str(tmp_path / name)), []))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("streaming", "expected"),
    [
        (False, "c18ebaf09c83acce3688449a78d770f1afd7a7d49ae15e6cd0e95f51a5ea0d4c"),
        (True, "17278784d9912d66bc6684f765f64271081bc08932630d5b3d0a0005b385fbcc"),
    ],
    ids=["set", "stream"],
)
def test_fingerprint_of_earlier_versions(streaming, expected, tmp_path, image_folder):
    """A run is resumed if its data has the fingerprint of its start, so that the same rows always have the same."""
    rows = [llava(id=7, image="0.png"), llava("Hi?"), {"caption": "no conversation"}]
    source = DataSource(
        write_json(tmp_path / "rows.json", rows), image_folder=str(image_folder), weight=2, streaming=streaming
    )
    assert fingerprint(load(source), [source]) == expected
