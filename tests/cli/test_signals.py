# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Signals that stop a command."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from flashsloth import cli
from flashsloth.cli import making
from flashsloth.folders.new_folder import new_folder


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_to_stop_removes_what_is_half_written(name, status, monkeypatch, tmp_path, capsys):
    number = signal.Signals[name]

    def compose(args):
        with new_folder(tmp_path / "dst") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setattr(making, "run_compose", compose)
    before = signal.getsignal(number)
    assert cli.main(["compose", "dst"]) == status
    assert capsys.readouterr().err == ("Interrupted.\n" if name == "SIGINT" else "Terminated.\n")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) == before


def test_a_worker_ends_by_the_signal_at_once(monkeypatch, capfd):
    def compose(args):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(10,))
        worker.start()
        time.sleep(0.5)  # a signal that comes before the fork is complete is lost
        worker.terminate()
        worker.join()
        sys.stdout.write(str(worker.exitcode))

    monkeypatch.setattr(making, "run_compose", compose)
    assert cli.main(["compose", "dst"]) == 0
    output = capfd.readouterr()
    assert output.out == str(-signal.SIGTERM) and output.err == ""
