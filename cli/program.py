# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The program: runs one command, and makes of its end an exit status and at most one line."""

import argparse
import io
import os
import signal
import sys
import traceback

from flashsloth.cli.libraries import missing_package, quiet_imports
from flashsloth.cli.messages import PROG, describe, log
from flashsloth.cli.parser import parse
from flashsloth.cli.signals import SIGNALLED, Stopped, stop_signals


# Errors that the user's input causes. FileExistsError: the destination exists already.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
BROKEN_PIPE = 141  # exit status where nobody reads the output


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`list[str]`, *optional*): The arguments after the program's name; those of the process if unset.

    Returns:
        `int`: The exit status.
    """
    _prepare_streams()
    status = 0
    try:
        try:
            status = _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        _discard_output()
        if status == 0:  # else the same error is reported already
            log(f"{PROG}: error: the output cannot be written: {describe(error)}")
        return 1
    return status


def _run(argv: list[str] | None) -> int:
    """Parses and runs one command, and returns its exit status."""
    quiet_imports()
    try:
        args = parse(argv)
    except OSError:  # nobody reads the help
        raise
    except Exception as error:  # options are made from packages, any of which may be missing or broken
        return _report_fault(error, argparse.Namespace(prog=PROG, traceback=False))
    try:
        with stop_signals():
            status = args.run(args)  # where a command is done, but not all is well
    except KeyboardInterrupt:
        log("Interrupted.")
        return SIGNALLED + signal.SIGINT
    except Stopped as stopped:
        log("Terminated.")
        return SIGNALLED + stopped.signal_number
    except BrokenPipeError:
        raise
    except USER_ERRORS as error:
        return _report(error, args, status=2)
    except OSError as error:  # of the machine, not of the input: a full disk, a lost connection
        return _report(error, args, status=1)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, or Python's
            return _report(MemoryError(f"there is not enough memory: {error}"), args, status=1)
        return _report_fault(error, args)
    return status or 0


def _report(error: Exception, args: argparse.Namespace, status: int) -> int:
    """Writes an error as one line, and returns the exit status."""
    if args.traceback:
        traceback.print_exc()
    log(f"{args.prog}: error: {describe(error)}")
    return status


def _report_fault(error: Exception, args: argparse.Namespace) -> int:
    """Writes which package is missing, or the traceback of a fault of the program, and returns the exit status."""
    missing = missing_package(args.prog.removeprefix(f"{PROG} "), error)
    if missing is not None:
        return _report(missing, args, status=2)
    traceback.print_exc()
    return 1


def _prepare_streams() -> None:
    """Streams that were closed swallow what is written to them; a character that a terminal lacks is escaped."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Sends what is left of the output nowhere; else Python tries to write it again when it exits, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
