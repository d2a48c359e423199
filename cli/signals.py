# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Signals that stop a command, after it has tidied up."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


# Signals that end a command as an interruption does, after it has tidied up. The last is not on all systems.
STOP_SIGNALS = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
SIGNALLED = 128  # is added to a signal's number for an exit status


class Stopped(BaseException):
    """
    A signal to stop.

    Args:
        signal_number (`int`): The signal.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """
    Makes a signal to stop an exception, so that half-written folders are removed. A second one ends the process at
    once, and so does the first in a process that was forked from this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    process = os.getpid()

    def stop(number: int, frame) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), number)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number, handler in before.items() if handler is signal.SIG_DFL]  # nohup has it ignored
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
