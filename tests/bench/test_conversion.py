# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of compose and convert: there and back, at a tiny size, and what it measures."""

import json
import os
import subprocess
import sys

import pytest

from flashsloth import cli
from flashsloth.bench import conversion, main


SIZES = {"text-width": 32, "text-layers": 8, "text-heads": 4, "vision-width": 64, "vision-layers": 2}


def arguments(folder) -> list[str]:
    sizes = {**SIZES, "vision-heads": 4, "folder": folder}
    return ["convert", *(word for name, value in sizes.items() for word in (f"--{name}", str(value)))]


def test_a_model_is_the_same_after_the_way_there_and_back(tmp_path, capsys, monkeypatch):
    def run(dst, *words):  # in this process: each of its own takes seconds to start
        assert cli.main([*map(str, words), str(dst)]) == 0
        return {"peak_memory_gb": 1.5, "wall_s": 2.0, "written_gb": 0.1}

    monkeypatch.setattr(conversion, "run_cli", run)
    main(arguments(tmp_path))
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["results"]) == ["compose", "convert --to-original", "convert"]
    assert report["same_bytes_after_return"] is True and report["peak_memory_gb"] == 1.5
    assert list(tmp_path.iterdir()) == []


def test_room_on_the_disk_is_looked_at_first(tmp_path, monkeypatch):
    usage = conversion.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    with pytest.raises(ValueError, match="has 0.0 GB free, but the benchmark needs 1.0 GB. .* --folder"):
        main(arguments(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_memory_of_files_does_not_count(tmp_path):
    """A process that maps a file of 300 MB and reads it all has less of its own; one that copies it has more."""
    script = """
import mmap, sys
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 0)
total = sum(mapped[i] for i in range(0, len(mapped), 4096))
copy = bytearray(mapped) if sys.argv[2] == "copy" else None
print("ready", flush=True)
sys.stdin.read()
"""
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000_000))
    for what, most in (("map", 100_000_000), ("copy", 400_000_000)):
        command = [sys.executable, "-c", script, file, what]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            memory = conversion._own_memory(process.pid)
            process.stdin.close()
        assert most - 100_000_000 < memory < most
    assert conversion._own_memory(process.pid) == 0 < conversion._own_memory(os.getpid())
