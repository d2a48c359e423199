# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""An answer that can be read while it is made."""

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
from transformers import TextStreamer

from flashsloth.assistant.answer import Answer


_running: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends the answers that nobody read to their end: an interpreter that goes while torch computes is aborted."""
    for stream in list(_running):
        stream.close()


class Watch:
    """
    Follows a generation: keeps the time of each step, and says when to stop.

    Args:
        on_token (`Callable[[int], None]`, *optional*): Takes each token of the only row when it is there.
    """

    def __init__(self, on_token: Callable[[int], None] | None = None):
        self.on_token = on_token
        self.start = time.perf_counter()
        self.token_times: list[float] = []
        self.is_stopped = False

    def step(self, token: int | None) -> bool:
        """Notes a step, with its token if there is one row, and returns whether to stop."""
        self.token_times.append(time.perf_counter())
        if self.on_token is not None and token is not None:
            self.on_token(token)
        return self.is_stopped


class _Pieces(TextStreamer):
    """Makes text of tokens. Whitespace at either end of the answer is no part of it."""

    def __init__(self, tokenizer, write: Callable[[str], None]):
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write
        self.has_begun = False
        self.held_back = ""

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = self.held_back + text if self.has_begun else text.lstrip()
        piece = text.rstrip()
        self.held_back = text[len(piece) :]
        if piece:
            self.has_begun = True
            self.write(piece)


class Stream(Iterator[str]):
    """
    The pieces of an answer, as they are made in a thread. Together they are `answer.text`.

    ```python
    with model.stream("photo.jpg", "What is this?") as stream:
        for piece in stream:
            print(piece, end="", flush=True)
    print(stream.answer.tokens_per_second)
    ```

    Args:
        answer_with (`Callable[[Watch], Answer]`): Makes the answer.
        tokenizer: Turns tokens into text.
    """

    def __init__(self, answer_with: Callable[[Watch], Answer], tokenizer):
        self._items: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._pieces = _Pieces(tokenizer, self._items.put)
        self._watch = Watch(self._put_token)
        # a daemon, as an interpreter that ends does not wait for the last token
        self._thread = threading.Thread(target=self._run, args=(answer_with,), daemon=True)
        _running.add(self)
        self._thread.start()

    @property
    def answer(self) -> Answer:
        """The whole answer, for which this waits."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer

    def close(self) -> None:
        """Stops the answer after the token that is being made, and waits for that."""
        self._watch.is_stopped = True
        self._thread.join()

    def __next__(self) -> str:
        item = self._items.get()
        if item is not None:
            return item
        self._items.put(None)  # whoever asks again is told again
        if self._error is not None:
            raise self._error
        raise StopIteration

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _put_token(self, token: int) -> None:
        self._pieces.put(np.array([token]))

    def _run(self, answer_with: Callable[[Watch], Answer]) -> None:
        try:
            self._answer = answer_with(self._watch)
            self._pieces.end()
        except Exception as error:  # is raised in the reader's thread
            self._error = error
        finally:
            self._items.put(None)
