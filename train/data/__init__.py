# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The data of a training run. What happens to it, in order:

    sources      opens files, folders and Hub datasets, and mixes them: `load_data`
    rows         sets of raw rows become sets of rows on disk, or streams of rows
    formats      one raw row of any form becomes a row: id, images, messages, num_images, length, problem
    keys         keys of a raw row that hold no conversation: honoured, refused, or passed over
    fingerprint  a hash of the data, which a resumed run is compared by
    validate     finds the rows that cannot be trained on: broken_rows lists them, images decodes what they hold
    sampling     the order of a set
    streams      the order of a stream, whose rows are validated as they come

`flashsloth.train.collator` makes batches of the rows.
"""

from flashsloth.train.data.sources import DataSource, load_data


__all__ = ["DataSource", "load_data"]
