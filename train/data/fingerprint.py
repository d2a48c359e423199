# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What identifies the data of a run: the same on every machine, wherever the files are."""

import glob
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from httpx2 import HTTPError
from huggingface_hub import HfApi

from flashsloth.folders.downloads import download_error
from flashsloth.train.data.sources import DataSource


ROWS_AT_A_TIME = 1000
PICTURES = set(ImageFolder.EXTENSIONS)


def fingerprint(dataset: Dataset | IterableDataset, sources: list[DataSource]) -> str:
    """
    A hash of what is learned from.

    Of rows on disk it covers ids and messages, names of image files or sizes of images within rows, and the order; not
    the pixels. Of a stream, which cannot be read twice, it covers the sources: names and sizes of local files, the
    commit of a dataset on the Hub.

    Args:
        dataset (`Dataset` or `IterableDataset`): All rows, as [`load_data`] returns them.
        sources (`list[DataSource]`): Where they come from.

    Raises:
        ConnectionError: If the Hub does not answer.
    """
    digest = hashlib.sha256()
    if isinstance(dataset, IterableDataset):
        for source in sources:
            digest.update(repr((replace(source, path="", image_folder=None), _version(source))).encode())
        return digest.hexdigest()
    table = dataset.data.table
    texts = table.select([name for name in table.column_names if name != "images"])
    for start in range(0, len(table), ROWS_AT_A_TIME):
        for batch in (
            *texts.slice(start, ROWS_AT_A_TIME).combine_chunks().to_batches(),
            _names_and_sizes(table.column("images").slice(start, ROWS_AT_A_TIME)),
        ):
            digest.update(batch.serialize())
    if dataset._indices is not None:  # the order of a mixture
        digest.update(np.ascontiguousarray(dataset._indices.column(0).to_numpy()))
    return digest.hexdigest()


def _names_and_sizes(images: pyarrow.ChunkedArray) -> pyarrow.RecordBatch:
    paths, contents = (pc.struct_field(pc.list_flatten(images), name) for name in ("path", "bytes"))
    names = pc.replace_substring_regex(paths, r"^.*[/\\]", "")
    columns = [names.combine_chunks(), pc.binary_length(contents).combine_chunks()]
    return pyarrow.RecordBatch.from_arrays(columns, ["name", "size"])


def _version(source: DataSource) -> str | list[tuple[str, int]]:
    path = os.path.expanduser(source.path)
    files = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    if os.path.isdir(path):
        files = [file for file in Path(path).rglob("*") if file.is_file() and file.suffix.lower() not in PICTURES]
    if os.path.exists(path) or files:
        return sorted((Path(file).name, os.path.getsize(file)) for file in files)
    try:
        return HfApi().dataset_info(source.path, revision=source.revision).sha
    except HTTPError as error:
        raise download_error(f"the dataset {source.path}", error) from error
