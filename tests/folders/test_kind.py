# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What kind of model a folder holds, and where the model is if the folder holds none."""

import pytest
from model_folders import error_of

from flashsloth.folders.kind import check_is_flashsloth


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["checkpoint-9/config.json", "model/config.json"], "Name the folder in it: RUN/model"),
        (["checkpoint-9/config.json"], "Name the folder in it: RUN/checkpoint-9"),
        (
            ["checkpoint-9/adapter_config.json", "model/adapter_config.json"],
            "merge it first (flashsloth merge RUN/model DST",
        ),
        (["checkpoint-9/adapter_config.json"], "RUN/checkpoint-9 is an adapter: merge it first"),
        (["model/other.json"], "Name the folder that was saved."),
    ],
)
def test_the_folder_of_a_run(files, hint, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    assert hint.replace("RUN", str(tmp_path)) in error_of(check_is_flashsloth, tmp_path)


def test_other_folders(tmp_path):
    assert "config.json does not exist" in error_of(check_is_flashsloth, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert f"is an adapter: merge it first (flashsloth merge {tmp_path} DST)" in error_of(
        check_is_flashsloth, tmp_path
    )
