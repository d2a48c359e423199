# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What all benchmarks share: clocks, memory, the machine's name, and the table of results."""

import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flashsloth.loading import has_fast_bfloat16


SAMPLE_SECONDS = 0.005  # between two readings of a command's memory
SPARE_BYTES = 1_000_000_000  # of the disk, for tokenizers and for what other programs write


class Clock:
    """Times a call. On an accelerator it waits for all queued work before it reads the time."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, function: Callable, *args) -> tuple:
        start = self.now()
        result = function(*args)
        return result, self.now() - start

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def default_dtype() -> str:
    """bfloat16, but float32 on a CPU without bfloat16 instructions, where bfloat16 is far slower."""
    return "bfloat16" if torch.accelerator.is_available() or has_fast_bfloat16() else "float32"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the peak of its allocator, on a CPU that of the whole process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """Bytes of this process that are in memory now, pages of files included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def own_memory(pid: int) -> int:
    """Bytes of a process that belong to no file; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Rss(?:Anon|Shmem):\s*(\d+) kB", status, re.M))


def run_cli(dst: Path, *words) -> dict[str, float]:
    """
    Runs a `flashsloth` command in a process of its own.

    Args:
        dst (`Path`): The folder that the command writes; its last argument.
        *words: The other arguments.

    Returns:
        `dict[str, float]`: The peak of its own memory and the size of the folder in GB, and its seconds.
    """
    command = [sys.executable, "-m", "flashsloth", *map(str, words), str(dst)]
    log(f"flashsloth {' '.join(command[3:])}")
    peak, start = 0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{words[0]} failed with status {process.returncode}; its messages are above")
    return {
        "peak_memory_gb": round(peak / 1e9, 3),
        "wall_s": round(seconds, 1),
        "written_gb": round(sum(file.stat().st_size for file in dst.iterdir()) / 1e9, 3),
    }


def check_free_disk(folder: Path, weights: float) -> None:
    """Raises a `ValueError` if the disk of a folder has no room for so many bytes of weights, and a little more."""
    needed = weights + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    log(f"This needs {needed / 1e9:.1f} GB of disk in {folder}, which has {free / 1e9:.1f} GB free")
    if needed > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB free, but the benchmark needs {needed / 1e9:.1f} GB. Name another "
            "place with --folder."
        )


def print_table(results: dict[str, dict], rows: list[str]) -> None:
    """Prints a Markdown table with a column for each result and a row for each of the given keys."""
    print(f"| | {' | '.join(results)} |\n| --- |{' ---: |' * len(results)}")
    for key in rows:
        print(f"| {key} | {' | '.join(str(result.get(key, '')) for result in results.values())} |")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
