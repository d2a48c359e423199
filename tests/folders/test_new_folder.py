# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Folders that are written whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import error_of

from flashsloth.folders.new_folder import new_folder


def fill(dst) -> None:
    with new_folder(dst) as folder:
        (folder / "file").write_text("whole")


def test_the_folder_appears_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "deep" / "new") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "deep" / "new").exists()
    assert os.listdir(tmp_path / "deep") == ["new"]
    assert (tmp_path / "deep" / "new" / "file").read_text() == "whole"


def test_the_destination_must_be_new(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "full is not empty" in error_of(fill, tmp_path / "full")
    assert "file is a file" in error_of(fill, tmp_path / "full" / "file")
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    assert (tmp_path / "empty" / "file").is_file()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_error_leaves_nothing(error, tmp_path):
    with pytest.raises(type(error)), new_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_folder_that_the_user_named(tmp_path):
    """Not the temporary one, which is gone."""
    new = tmp_path / "new"
    with pytest.raises(OSError) as full, new_folder(new):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name
    with pytest.raises(PermissionError) as hidden, new_folder(new) as folder:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / "file"))
    with pytest.raises(OSError) as copied, new_folder(new) as folder:  # as shutil.copyfile says it
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "source"), None, str(folder / "file"))
    with pytest.raises(OSError) as other, new_folder(new):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    with pytest.raises(FileNotFoundError) as source, new_folder(new):
        open(tmp_path / "source")
    names = [caught.value.filename for caught in (full, hidden, copied, other, source)]
    assert names == [str(new), str(new), str(new), None, str(tmp_path / "source")]
    assert copied.value.filename2 is None


def test_a_place_where_nothing_can_be_written_is_named(tmp_path, monkeypatch):
    def refuse(folder, *args, **options):
        if folder.exists():  # as the parent does
            return
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError) as caught:
        fill(tmp_path / "new")
    assert caught.value.filename == str(tmp_path / "new")


def test_a_kill_leaves_nothing_that_looks_finished(tmp_path):
    script = """
import os, signal, sys
from flashsloth.folders.new_folder import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "new")]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("new.incomplete-") and (left / "file").read_text() == "half"
    fill(tmp_path / "new")  # what is left is not in the way
    assert (tmp_path / "new" / "file").read_text() == "whole"
