# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The text of an answer while its tokens come: what can be sent at once, and what has to wait, because it may turn out to
be half a character, the beginning of a stop string, or white space at the end.
"""

from collections import deque
from collections.abc import Sequence

from tokenizers.decoders import DecodeStream


class AnswerText:
    """
    The text of one answer, without the white space around it and without special tokens, up to a stop string.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): The model's tokenizer.
        stop (`Sequence[str]`, *optional*): Strings that end the answer; they are no part of it.
    """

    def __init__(self, tokenizer, stop: Sequence[str] = ()):
        self.stop = tuple(stop)
        self.is_stopped = False  # by a stop string
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._token_ids: list[int] = []
        self._decoded = 0  # characters that the tokens so far have made
        self._held = ""  # the last of them, which are not released
        self._has_begun = False
        self._notes: deque[tuple[int, object]] = deque()  # with the number of characters before each

    def add(self, token_id: int, note=None) -> tuple[str, list]:
        """
        Adds a token.

        Args:
            token_id (`int`): The token.
            note (*optional*): Is released with the first text that is at or behind the token.

        Returns:
            `tuple[str, list]`: The text that can be sent now, and the notes of its tokens.
        """
        self._token_ids.append(token_id)
        if note is not None:
            self._notes.append((self._decoded, note))
        self._hold(self._stream.step(self._tokenizer.backend_tokenizer, token_id) or "")
        return self._stopped() or self._release(len(self._held) - self._num_uncertain())

    def finish(self) -> tuple[str, list]:
        """What is left, once the last token has come."""
        if self.is_stopped:
            return "", []
        text = self._tokenizer.decode(self._token_ids, skip_special_tokens=True)
        self._hold(text[self._decoded :])  # half a character at the end
        return self._stopped() or self._end(len(self._held))

    def _stopped(self) -> tuple[str, list] | None:
        """What comes before the first stop string; `None` if there is none."""
        starts = [self._held.find(stop) for stop in self.stop]
        found = [start for start in starts if start >= 0]
        if not found:
            return None
        self.is_stopped = True
        return self._end(min(found))

    def _hold(self, text: str) -> None:
        self._decoded += len(text)
        self._held += text
        if not self._has_begun:
            self._held = self._held.lstrip()
            self._has_begun = bool(self._held)

    def _num_uncertain(self) -> int:
        """Characters at the end that a stop string may begin with, or that are white space."""
        length = len(self._held)
        possible = max((len(stop) - 1 for stop in self.stop), default=0)
        for start in range(max(0, length - possible), length):
            if any(stop.startswith(self._held[start:]) for stop in self.stop):
                length = start
                break
        return len(self._held) - len(self._held[:length].rstrip())

    def _release(self, length: int) -> tuple[str, list]:
        text, self._held = self._held[:length], self._held[length:]
        before = self._decoded - len(self._held)
        notes = []
        while text and self._notes and self._notes[0][0] < before:
            notes.append(self._notes.popleft()[1])
        return text, notes

    def _end(self, length: int) -> tuple[str, list]:
        """The last text, of so many characters, with the notes of all tokens that begin in it."""
        end = self._decoded - len(self._held) + length
        notes = [note for start, note in self._notes if start < end or not self.is_stopped]
        return self._held[:length].rstrip(), notes
