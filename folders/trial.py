# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Parts of a model folder that are programs, such as chat templates and the patterns of tokenizers, are tried in a
process of its own with bounds on time and memory, before this process uses them.
"""

import json
import subprocess
import sys


MEMORY_BYTES = 4 << 30

# What follows the program, which defines `trial`.
RUNNER = """
import json, sys

print("ready", flush=True)
task = json.loads(sys.stdin.readline())
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (task["memory"], task["memory"]))
except (ImportError, OSError, ValueError):
    pass  # not on every system; the bound on time holds on all
try:
    result = trial(**task["arguments"])
except BaseException as error:
    result = {"error": f"{type(error).__name__}: {error}"[:1000]}
print(json.dumps(result))
"""


def run_trial(program: str, arguments: dict, seconds: float, what: str) -> dict:
    """
    Runs a program in a process of its own.

    Args:
        program (`str`): Python that defines a function `trial`, which returns a JSON object.
        arguments (`dict`): of that function; JSON.
        seconds (`float`): its longest time, in which imports of the program do not count.
        what (`str`): what it is tried on, for the message.

    Returns:
        `dict`: What the function returns, or `{"error": ...}`, whose text follows the name of what was tried.
    """
    task = json.dumps({"arguments": arguments, "memory": MEMORY_BYTES})
    # -P keeps the working folder out of the import path
    command = [sys.executable, "-P", "-c", program + RUNNER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, encoding="utf-8", **pipes) as process:
        try:
            process.stdout.readline()  # the libraries are imported, and the time begins
            output, _ = process.communicate(task + "\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"takes more than {seconds} seconds for {what}"}
        finally:
            process.kill()
    if process.returncode or not output:
        return {"error": f"ends the process that tries it (status {process.returncode})"}
    result = json.loads(output)
    return {"error": f"does not work ({' '.join(result['error'].split())})"} if "error" in result else result
