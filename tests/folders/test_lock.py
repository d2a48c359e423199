# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A folder takes one run at a time, and a run that was killed does not keep it."""

import signal
import subprocess
import sys

import pytest

from flashsloth.folders.lock import locked


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(ValueError, match="Another run is writing into .*out: wait"), locked(tmp_path / "out"):
            pass
    with locked(tmp_path / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"), locked(tmp_path / "file"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_ends_the_lock(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom flashsloth.folders.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="Another run is writing into"), locked(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with locked(tmp_path):
        pass


def test_an_error_within_is_not_taken_for_a_lock(tmp_path):
    with pytest.raises(TimeoutError, match="of the server"), locked(tmp_path):
        raise TimeoutError("of the server")
