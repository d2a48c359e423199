# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Shell scripts of the documentation. Their `flashsloth` commands run in this process, which has imported the libraries
already: as processes of their own, each of them would spend most of its time on that.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from flashsloth import cli


# `python` and what other packages install are those of this environment.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# A command is its number of words, the words, and what a pipe gives it, each with a zero byte behind it.
RECORD = """flashsloth() {
  local input=
  if [ -p /dev/stdin ]; then input=$(cat); fi
  printf "%s\\0" $# "$@" "$input" >> "$COMMANDS"
}
"""


def run_script(script: str, folder: Path) -> tuple[str, str]:
    """
    Runs a script with bash: first all that is not a `flashsloth` command, then these, with the words that bash made of
    them. The first failure is an error.

    Returns:
        What was written to standard output, and to standard error.
    """
    with tempfile.NamedTemporaryFile() as commands:
        environment = {**os.environ, "PATH": PATH, "COMMANDS": commands.name}
        bash = ["bash", "-euc", RECORD + script]
        done = subprocess.run(
            bash, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        words = iter(commands.read().decode().split("\0")[:-1])
    output, log = io.StringIO(done.stdout), io.StringIO(done.stderr)
    output.seek(0, os.SEEK_END)
    log.seek(0, os.SEEK_END)
    for count in words:
        command = [next(words) for _ in range(int(count))]
        piped = mock.patch.object(sys, "stdin", io.StringIO(next(words)))
        with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(log), piped:
            status = cli.main(command)
        assert status == 0, f"{command}\n{log.getvalue()[-3000:]}"
    return output.getvalue(), log.getvalue()
