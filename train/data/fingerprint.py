# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A hash that identifies the data of a run: the same on every machine, wherever the files are."""

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


def fingerprint(dataset: Dataset | IterableDataset, sources: list[DataSource]) -> str:
    """
    A hash of the rows and their order. A resumed run is compared with it, so that it must not change.

    For rows on disk it covers ids and messages, the names of image files or the sizes of images within rows, and the
    order; not the pixels. For a stream, which cannot be read twice, it covers the sources: names and sizes of local
    files, the commit of a dataset on the Hub.

    Args:
        dataset (`Dataset` or `IterableDataset`): All rows, as [`load_data`] returns them.
        sources (`list[DataSource]`): Where they come from.

    Raises:
        ConnectionError: If the Hub does not answer.
    """
    digest = hashlib.sha256()
    if isinstance(dataset, IterableDataset):
        for source in sources:
            # All fields of a source as text: a new field of `DataSource` would change the hash of every stream.
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
    files = source.local_files
    if not files:
        try:
            return HfApi().dataset_info(source.path, revision=source.revision).sha
        except HTTPError as error:
            raise download_error(f"the dataset {source.shown}", error) from error
    if os.path.isdir(source.local_path):
        files = [file for file in Path(source.local_path).rglob("*") if file.is_file() and not _is_image(file)]
    return sorted((Path(file).name, os.path.getsize(file)) for file in files)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ImageFolder.EXTENSIONS
