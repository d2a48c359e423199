# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Programs that run as on a machine where the package is not installed."""

import json
import os
import subprocess
import sys
import textwrap


# The beginning of a program that runs as on a machine without the package: an import of it fails.
WITHOUT_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "flashsloth":
            raise ModuleNotFoundError("the package is not installed here")

sys.meta_path.insert(0, NoPackage())
"""


def run(script, *args, **env):
    """Runs a program in the folder that is its last argument, with `env`; returns the JSON of its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **env}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=args[-1],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
