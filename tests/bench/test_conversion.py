# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of `compose` and `convert`, at a tiny size."""

import json
import shutil

import pytest

from flashsloth import cli
from flashsloth.bench import conversion, main


SIZES = {"text-width": 32, "text-layers": 8, "text-heads": 4, "vision-width": 64, "vision-layers": 2}


def arguments(folder) -> list[str]:
    sizes = {**SIZES, "vision-heads": 4, "folder": folder}
    return ["convert", *(word for name, value in sizes.items() for word in (f"--{name}", str(value)))]


def test_a_model_has_the_same_bytes_after_both_conversions(tmp_path, capsys, monkeypatch):
    def run(dst, *words):  # in this process: a new one takes seconds to start
        assert cli.main([*map(str, words), str(dst)]) == 0
        return {"peak_memory_gb": 1.5, "wall_s": 2.0, "written_gb": 0.1}

    monkeypatch.setattr(conversion, "run_cli", run)
    main(arguments(tmp_path))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["results"]) == ["compose", "convert --to-original", "convert"]
    assert report["same_bytes_after_return"] is True and report["peak_memory_gb"] == 1.5
    assert list(tmp_path.iterdir()) == []


def test_free_disk_space_is_checked_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    with pytest.raises(ValueError, match="has 0.0 GB free, but the benchmark needs 1.0 GB. .* --folder"):
        main(arguments(tmp_path))
    assert list(tmp_path.iterdir()) == []
