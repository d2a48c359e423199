# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What a user enters, entry by entry: edited by readline at a terminal, where earlier lines can be called up again, and
read as it is from a pipe, from a terminal that cannot move its cursor (`TERM=dumb`), or where readline is missing.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from flashsloth.serve.terminal_completion import Completion


try:
    import readline
    import termios
except ModuleNotFoundError:  # Python on Windows
    readline = termios = None


CONTINUED = "... "  # the prompt behind a line that ends in a backslash
BYTE_ORDER_MARK = "\ufeff"  # which some editors write at the beginning of a file
LOCAL_MODES = 3  # their index in the attributes of a terminal
MAX_HISTORY = 1000  # lines that are kept


def is_dumb() -> bool:
    """Whether the terminal can do nothing but write, as far as is known."""
    return os.environ.get("TERM", "") in ("", "dumb")


def history_file() -> Path:
    """Where lines are kept (https://specifications.freedesktop.org/basedir-spec: a file that is state)."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "flashsloth" / "chat_history"


class Lines:
    """
    Reads entries. An entry is a line; a backslash at its end continues it in the next one.

    Args:
        completion ([`Completion`]): What the Tab key completes.
        history (`Path`, *optional*): File that keeps lines for the next time; they are not kept without one.
        on_problem (`Callable[[str], None]`): Is told of a history that cannot be read or written.

    Raises:
        ValueError: If standard input is closed.
    """

    def __init__(self, completion: Completion, history: Path | None, on_problem: Callable[[str], None]):
        if sys.stdin is None:
            raise ValueError("Standard input is closed: give questions there, one a line.")
        self.completion, self.history, self.on_problem = completion, history, on_problem
        self.candidates: list[str] = []  # of the line that is being completed
        self.is_interactive = sys.stdin.isatty()
        self.can_edit = self.is_interactive and sys.stdout.isatty() and not is_dumb() and readline is not None
        self.number = 0  # of the last line that was read
        if self.can_edit:
            self._set_up()

    def read(self, prompt: str) -> str | None:
        """
        The next entry, or `None` at the end of the input.

        Args:
            prompt (`str`): Is shown to a user, and not in a pipe.

        Raises:
            ValueError: If the input is not valid UTF-8.
            KeyboardInterrupt: If the user presses Ctrl-C.
        """
        lines = []
        while (line := self._line(CONTINUED if lines else prompt)) is not None:
            is_continued = (len(line) - len(line.rstrip("\\"))) % 2 == 1
            lines.append(line[:-1] if is_continued else line)
            if not is_continued:
                break
        return "\n".join(lines) if lines else None

    def _line(self, prompt: str) -> str | None:
        self.number += 1
        try:
            line = self._edited(prompt) if self.can_edit else self._plain(prompt)
        except UnicodeDecodeError as error:
            raise ValueError(f"The line is not valid UTF-8 ({error.reason}): save the input as UTF-8.") from error
        return line

    def _edited(self, prompt: str) -> str | None:
        try:
            line = input(prompt)
        except EOFError:
            sys.stdout.write("\n")
            return None
        if line.strip():
            self._keep(line)
        return line

    def _plain(self, prompt: str) -> str | None:
        if self.is_interactive:
            screen = sys.stdout if sys.stdout.isatty() else sys.stderr
            screen.write(prompt)
            screen.flush()
            line = sys.stdin.readline()
            if not line:
                screen.write("\n")
        else:
            line = self._piped()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    def _piped(self) -> str:
        """A line of a pipe alone: a text file would decode those behind it too, and fail at the wrong one."""
        content = getattr(sys.stdin, "buffer", None)  # a program may have put text in the place of the pipe
        line = sys.stdin.readline() if content is None else content.readline().decode("utf-8")
        return line.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else line

    @contextlib.contextmanager
    def without_echo(self) -> Iterator[None]:
        """What is typed meanwhile stays off the screen. The next prompt shows it."""
        if not self.is_interactive or termios is None or sys.stdin is not sys.__stdin__:
            yield
            return
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        silent = [*before]
        silent[LOCAL_MODES] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _set_up(self) -> None:
        is_editline = "libedit" in (readline.__doc__ or "")  # of macOS
        readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n")
        readline.clear_history()
        if self.history is None:
            return
        with self._told_problems():
            for line in _kept(self.history):
                readline.add_history(line)

    def _complete(self, text: str, state: int) -> str | None:
        """Readline's function: what can stand in place of `text`, the part behind the last space, one at a time."""
        line = readline.get_line_buffer()[: readline.get_endidx()]
        start = len(line) - len(text)
        if state == 0:
            found = self.completion.candidates(line)
            self.candidates = [candidate for candidate in found if candidate.startswith(line[:start])]
        return self.candidates[state][start:] if state < len(self.candidates) else None

    def _keep(self, line: str) -> None:
        if self.history is None:
            return
        with self._told_problems():
            self.history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self.history, "a", encoding="utf-8", opener=_open_private) as file:
                file.writelines(f"{part}\n" for part in line.splitlines())

    @contextlib.contextmanager
    def _told_problems(self):
        """Goes on without a history if there is something wrong with its file."""
        try:
            yield
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.on_problem(f"Lines are not kept in '{self.history}' ({reason}); --no-history keeps none.")
            self.history = None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _kept(file: Path) -> list[str]:
    """The last lines of a history, whose file is cut where it has grown long."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    if len(lines) > 2 * MAX_HISTORY:
        shorter = file.with_name(f"{file.name}.{os.getpid()}")
        with open(shorter, "w", encoding="utf-8", opener=_open_private) as new:
            new.writelines(f"{line}\n" for line in lines[-MAX_HISTORY:])
        shorter.replace(file)
    return lines[-MAX_HISTORY:]
