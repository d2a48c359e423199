# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The memory of a process, and the figures of a command."""

import os
import shutil
import subprocess
import sys

import pytest

from flashsloth.bench.measure import own_memory, run_cli


def test_pages_of_files_are_no_memory_of_a_process(tmp_path):
    """A process that maps a file of 300 MB has little memory of its own; one that copies the file has more."""
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
            memory = own_memory(process.pid)
            process.stdin.close()
        assert most - 100_000_000 < memory < most
    assert own_memory(process.pid) == 0 < own_memory(os.getpid())


def test_a_command_that_fails_ends_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="convert failed with status 1"):
        run_cli(tmp_path / "dst", "convert")
