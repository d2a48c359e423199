# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Notes go to the Hub without what is private; other files go as they are."""

import json

from flashsloth.publish.unwanted import leave_out_what_is_private


def test_only_what_is_private_is_left_out(tmp_path):
    notes = [{"command": "merge", "sources": [{"folder": "/home/anna/models/base"}]}]
    config = {"model_type": "flashsloth", "original_config": {"vision_tower": "/home/anna/siglip"}}
    (tmp_path / "provenance.json").write_text(json.dumps(notes))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "training.json").write_text("{}")
    files = {file.name: file for file in tmp_path.iterdir()}
    leave_out_what_is_private(files)
    assert json.loads(files["provenance.json"])[0]["sources"] == [{"folder": "base"}]
    assert json.loads(files["config.json"]) == config | {"original_config": {"vision_tower": "siglip"}}
    assert files["training.json"] == tmp_path / "training.json"
