# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The hash of a model folder follows what answers depend on, and nothing else."""

from flashsloth.folders.digest import digest_of_model


def test_the_digest_follows_the_files_of_the_model(tmp_path):
    def digest(**files) -> str:
        for file in tmp_path.iterdir():
            file.unlink()
        for name, content in ({"config.json": "{}", "model.safetensors": "w"} | files).items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        return digest_of_model(tmp_path)

    same = digest()
    assert digest() == same
    assert digest(**{"README.md": "# Card", "evaluation.json": "[]", "training.json": "{}"}) == same
    changes = [{"config.json": "{ }"}, {"model.safetensors": "v"}, {"tokenizer.json": "{}"}, {"modeling_x.py": ""}]
    assert len({same, *(digest(**files) for files in changes)}) == 5
