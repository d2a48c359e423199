# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Where a folder comes from, as the next command and the model card read it."""

import json

from model_folders import error_of

from flashsloth.folders.provenance import describe_source, read_provenance, write_provenance


def test_each_command_adds_an_entry(tmp_path):
    composed, trained = tmp_path / "composed", tmp_path / "trained"
    composed.mkdir()
    trained.mkdir()
    sources = [describe_source("language_model", "microsoft/phi-2")]
    write_provenance(composed, "compose", sources, before=read_provenance(tmp_path), seed=3)
    write_provenance(trained, "train", [describe_source("base", composed)], before=read_provenance(composed))
    first, second = read_provenance(trained)
    assert [first] == read_provenance(composed) and (first["command"], first["seed"]) == ("compose", 3)
    assert first["sources"] == [{"role": "language_model", "repo": "microsoft/phi-2"}]
    assert second["sources"] == [{"role": "base", "folder": "composed"}]
    assert set(second["versions"]) == {"flashsloth", "torch", "transformers"}


def test_no_path_of_the_machine_is_written(tmp_path):
    write_provenance(tmp_path, "merge", [describe_source("base", tmp_path)], before=[])
    assert str(tmp_path.parent) not in (tmp_path / "provenance.json").read_text()


def test_a_snapshot_of_the_hub_is_named_by_its_repository(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--language" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    assert describe_source("base", snapshot) == {"role": "base", "repo": "someone/language", "revision": commit}


def test_a_damaged_file(tmp_path):
    for content, message in (("{", "is not valid JSON"), ("{}", "JSON array of objects"), ("[1]", "array of objects")):
        (tmp_path / "provenance.json").write_text(content)
        assert message in error_of(read_provenance, tmp_path)
    assert json.loads((tmp_path / "provenance.json").read_text()) == [1]
