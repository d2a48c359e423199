# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The hash of a model folder follows what answers depend on, and nothing else."""

from flashsloth.folders.digest import digest_of_config, digest_of_model


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


def test_the_digest_of_a_config_follows_what_the_model_computes():
    config = {"query_layer": 1, "dtype": "bfloat16", "text_config": {"hidden_size": 8, "dtype": "float32"}}
    same = digest_of_config(config)
    assert digest_of_config(dict(reversed(config.items()))) == same
    notes = {"dtype": "float16", "text_config": {"hidden_size": 8}, "auto_map": {}, "transformers_version": "6"}
    assert digest_of_config(config | notes) == same
    changes = [{"query_layer": 2}, {"text_config": {"hidden_size": 9}}, {"pooling_mode": "none"}]
    assert len({same, *(digest_of_config(config | change) for change in changes)}) == 4
