# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A chat in the terminal. Answers go to standard output, everything else to standard error. Lines that come from a pipe
are a script: the first one that fails ends it.
"""

import difflib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from flashsloth.arguments import without_secrets
from flashsloth.assistant.answer import Answer
from flashsloth.assistant.chat import Chat, ConversationTooLong
from flashsloth.assistant.questions import read_images
from flashsloth.assistant.stream import Stream
from flashsloth.folders.downloads import IMAGE_SUFFIXES
from flashsloth.serve.terminal_completion import Completion
from flashsloth.serve.terminal_lines import Lines, is_dumb
from flashsloth.serve.terminal_paths import dropped_images, file_names, is_image_name
from flashsloth.serve.transcript import Turn, save


# What each command takes, and does.
COMMANDS = {
    "/image": ("FILE_OR_URL ...", "adds images to the next question; so does dropping a file into the terminal"),
    "/hd": ("[on|off]", "switches high definition for the images of the next questions"),
    "/reset": ("", "begins a new conversation"),
    "/save": ("FILE", "writes the conversation to a new file, which ends in .json or .md"),
    "/help": ("", "lists the commands"),
    "/exit": ("", "leaves the chat, as Ctrl-D does"),
}
COMPLETION = Completion(
    tuple(COMMANDS),
    suffixes={"/image": IMAGE_SUFFIXES, "/save": (".json", ".md")},
    words={"/hd": ("on", "off")},
)
KEYS = "A backslash at the end of a line continues it in the next one. Ctrl-C stops an answer, and Tab completes."
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # characters; tab and newline are harmless
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class TerminalChat:
    """
    A conversation in the terminal.

    Args:
        chat ([`Chat`]): The conversation, which has not begun.
        model (`str`): The model's name.
        history (`Path`, *optional*): File that keeps typed lines; see [`Lines`].
        options (`dict`): Generation options.
        has_seen_tiles (`bool`): Whether the model was trained with high definition.
    """

    def __init__(self, chat: Chat, model: str, history: Path | None, options: dict, has_seen_tiles: bool):
        self.chat, self.model, self.options, self.has_seen_tiles = chat, model, options, has_seen_tiles
        # https://no-color.org
        self.has_colours = sys.stderr.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")
        self.lines = Lines(COMPLETION, history, self._note)
        self.turns: list[Turn] = []
        self.images: list[tuple[str, Image.Image]] = []  # of the next question, with their names
        self.has_begun = False  # whether some of the last answer is on the screen

    def run(self, images: Iterable[tuple[str, Image.Image]] = ()) -> None:
        """
        Answers until the input ends or the user leaves.

        Args:
            images (`Iterable[tuple[str, PIL.Image.Image]]`, *optional*): Names and images of the first question.

        Raises:
            ValueError: If a line of a pipe fails.
            KeyboardInterrupt: If the lines of a pipe are interrupted.
        """
        self.images += images
        if self.lines.is_interactive:
            self._note("Ask something. /image FILE adds an image, /help lists the commands, Ctrl-D leaves.")
        while True:
            try:
                return self._take_entries()
            except KeyboardInterrupt:  # between an entry and its answer, or behind it
                if not self.lines.is_interactive:
                    raise
                sys.stderr.write("\n")

    def _take_entries(self) -> None:
        for entry in self._entries():
            try:
                if not self._take(entry.strip()):
                    return
            except ValueError as error:
                self._refuse(error)

    def _entries(self) -> Iterator[str]:
        """What is entered, until the input ends or Ctrl-C is pressed twice where one enters something."""
        interrupts = 0
        while interrupts < 2:
            try:
                entry = self.lines.read(self._prompt())
            except ValueError as error:
                self._refuse(error)
            except KeyboardInterrupt:
                if not self.lines.is_interactive:
                    raise
                interrupts += 1
                sys.stderr.write("\n")
                if interrupts == 1:
                    self._note("Ctrl-C once more leaves the chat, as Ctrl-D does.")
            else:
                if entry is None:
                    return
                interrupts = 0
                yield entry

    def _take(self, entry: str) -> bool:
        """Does what an entry says, and returns whether the chat goes on."""
        command, rest = (*entry.split(maxsplit=1), "", "")[:2]
        if command in COMMANDS:
            return self._do(command, rest)
        names, question = dropped_images(entry)
        if not names and command.startswith("/"):
            if "/" not in command[1:] and not is_image_name(command):
                near = difflib.get_close_matches(command, COMMANDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "/help lists all."
                raise ValueError(f"There is no command {command}: {hint}")
            if is_image_name(entry):  # of a file that does not exist, as the error will say
                names, question = file_names(entry), ""
        if names:
            self._add_images(names)
        if question:
            self._ask(question)
        return True

    def _do(self, command: str, rest: str) -> bool:
        if rest and not COMMANDS[command][0]:
            raise ValueError(f"{command} takes nothing behind it: leave out {rest!r}.")
        match command:
            case "/image":
                if not rest:
                    raise ValueError("/image takes the names or addresses of images: add one.")
                self._add_images(file_names(rest))
            case "/hd":
                self._switch_hd(rest)
            case "/reset":
                self.chat.reset()
                self.turns.clear()
                self.images.clear()
                self._note("A new conversation begins.")
            case "/save":
                self._save(rest)
            case "/help":
                self._help()
        return command != "/exit"

    def _add_images(self, names: list[str]) -> None:
        try:
            added = [(name, read_images(name)[0]) for name in names]
        except KeyboardInterrupt as interrupt:
            if not self.lines.is_interactive:
                raise
            raise ValueError("No image was added: Ctrl-C stopped it.") from interrupt
        self.images += added
        for name, image in added:
            self._note(f"{_shown(name)}: {image.width} x {image.height} pixels, for the next question")

    def _switch_hd(self, word: str) -> None:
        if word not in ("", "on", "off"):
            raise ValueError(f"/hd takes on, off or nothing, not {word!r}.")
        is_on = self.chat.assistant.uses_hd(self.chat.hd)
        self.chat.hd = word == "on" if word else not is_on
        tokens = self.chat.assistant.processor.num_image_tokens(self.chat.hd)
        self._note(f"High definition is {'on' if self.chat.hd else 'off'}: an image has {tokens} visual tokens.")
        if self.chat.hd and not self.has_seen_tiles:
            self._note("The model was trained without it, and may answer wrongly: /hd off is better.")

    def _save(self, rest: str) -> None:
        names = file_names(rest) if rest else []
        if len(names) != 1:
            raise ValueError("/save takes the name of one file, with quotes if it has spaces.")
        save(Path(names[0]), self.model, self.chat.system, self.turns)
        self._note(f"The conversation is in {names[0]}.")

    def _help(self) -> None:
        width = max(len(f"{command} {takes}") for command, (takes, _) in COMMANDS.items()) + 2
        columns = shutil.get_terminal_size().columns
        for command, (takes, does) in COMMANDS.items():
            start = f"{command} {takes}".ljust(width)
            self._note(textwrap.fill(does, columns, initial_indent=start, subsequent_indent=" " * width))
        self._note(textwrap.fill(KEYS, columns))

    def _ask(self, question: str) -> None:
        """Asks with the images that wait; if that fails, they wait for the next question."""
        hd = self.chat.assistant.uses_hd(self.chat.hd)
        names, images = [name for name, _ in self.images], [image for _, image in self.images]
        answer = self._answer(question, images)
        self.images.clear()
        self.turns.append(Turn(question, tuple(names), hd, answer))
        if answer.finish_reason == "length":
            self._note(f"The answer was cut after {answer.num_tokens} tokens: --max-new-tokens allows more.")
        elif self.lines.is_interactive:
            self._note(self._cost(answer))

    def _answer(self, question: str, images: list[Image.Image]) -> Answer:
        with self.lines.without_echo():
            return self._write_answer(question, images)

    def _write_answer(self, question: str, images: list[Image.Image]) -> Answer:
        """Writes an answer while it is made. One that Ctrl-C stops stays in the conversation as far as it went."""
        self.has_begun, stream = False, None
        try:
            stream = self.chat.stream(question, images, **self.options)
            self._write(stream)
        except KeyboardInterrupt as interrupt:
            if stream is None:
                if not self.lines.is_interactive:
                    raise
                raise ValueError("Nothing was asked: Ctrl-C stopped it.") from interrupt
            self._stop(stream)
            if not self.lines.is_interactive:
                raise
            self._write(stream)  # what was made in the meantime
        except ConversationTooLong as error:
            raise ValueError(f"{error} /reset does so.") from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's
                raise
            raise ValueError("There is not enough memory for this turn: /reset begins with less.") from error
        finally:
            if stream is not None:
                stream.close()  # a process that ends while torch computes in a thread is aborted
            if self.has_begun:
                sys.stdout.write("\n")
                sys.stdout.flush()
        return stream.answer

    def _stop(self, stream: Stream) -> None:
        """Stops an answer, and waits for the token that is being made: the first one may take long."""
        while True:
            try:
                if not self.has_begun:
                    self._note("\nStopping at the first token")
                return stream.close()
            except KeyboardInterrupt:  # once is enough
                continue

    def _write(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            self.has_begun = True
            sys.stdout.write(_without_control(piece) if sys.stdout.isatty() else piece)
            sys.stdout.flush()

    def _cost(self, answer: Answer) -> str:
        ended = "stopped, " if answer.finish_reason == "interrupted" else ""
        limit = self.chat.assistant.processor.tokenizer.model_max_length
        return (
            f"({ended}first token after {answer.seconds_to_first_token:.2f} s, {answer.tokens_per_second:.1f} tokens "
            f"a second, {answer.prompt_tokens + answer.num_tokens} of {limit} positions)"
        )

    def _prompt(self) -> str:
        names = [_shown(name) for name, _ in self.images]
        waiting = f"[{names[0] if len(names) == 1 else f'{len(names)} images'}] " if names else ""
        if not self.has_colours:
            return f"{waiting}> "
        # readline has to know what takes no place on the screen
        start, end = (f"\x01{code}\x02" if self.lines.can_edit else code for code in (BOLD, PLAIN))
        return f"{start}{waiting}>{end} "

    def _refuse(self, error: ValueError) -> None:
        """Names what is wrong with a line: to a user, who goes on, or as the end of a pipe."""
        message = " ".join(str(error).split())
        if not self.lines.is_interactive:
            raise ValueError(f"line {self.lines.number}: {message}") from error
        self._note(f"error: {message}", BOLD)

    def _note(self, text: str, style: str = DIM) -> None:
        text = _without_control(without_secrets(text))
        sys.stderr.write(f"{style}{text}{PLAIN}\n" if self.has_colours else f"{text}\n")
        sys.stderr.flush()


def _shown(name: str) -> str:
    """The last part of a path or an address."""
    return without_secrets(name).rstrip("/").rpartition("/")[2][-40:]


def _without_control(text: str) -> str:
    """A text in which characters that command a terminal are spelled out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
