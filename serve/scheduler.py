# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Answers the requests that wait together. One thread owns the model.

A batch runs until all its answers are complete, or until others wait and there is room for them. Then its engine
pauses; rows that are complete leave, the new rows get their first token by a call of their own, and both batches
become one. So an answer waits for no other one to end.

Decoding gets at least as much time as reading prompts: what comes while a batch runs is gathered for as long as the
last prompts took. Where an engine cannot join batches, a batch runs to its end, and what waits is answered after it.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

from flashsloth.serve.row import Row


logger = logging.getLogger(__name__)

MIN_STEPS = 16  # before rows that are complete are taken out only because they are half of the batch
MAX_GATHERING = 0.5  # seconds that a request waits at most for others that are being prepared


class Batch(Protocol):
    """Rows that are being answered, with what the model keeps of them."""

    rows: list[Row]

    def without_done(self) -> "Batch | None":
        """The rows that are not complete; `None` if there is none."""

    def join(self, other: "Batch") -> "Batch":
        """Both batches as one."""


# Whether to end a call, by the number of steps in it and of rows that are not complete.
ShouldPause = Callable[[int, int], bool]


class Engine(Protocol):
    """
    A model that answers batches. Its methods are called by one thread, and raise a `MemoryError` where the memory of
    the device is too little.

    Attributes:
        backend: What computes, of an assistant.
        tokenizer: The model's tokenizer.
        joins (`bool`): Whether batches that run can become one.
    """

    backend: object
    tokenizer: object
    joins: bool

    def begin(self, rows: list[Row], should_pause: ShouldPause) -> Batch:
        """A batch of new rows, which get one token at least."""

    def go_on(self, batch: Batch, should_pause: ShouldPause) -> Batch:
        """Further tokens for the rows of a batch."""


class Scheduler:
    """
    Answers rows in batches, in a thread of its own; a context manager, which begins when the model is loaded.

    Args:
        load_engine (`Callable[[], Engine]`): Loads the model. It is called by the thread that computes with it: the
            threads that torch starts belong to the one that first computes, and others have to share the cores with
            them, which takes a third of a small model's speed.
        max_batch_size (`int`): Most rows that are answered at once. It becomes less if the memory is too little.
    """

    def __init__(self, load_engine: Callable[[], Engine], max_batch_size: int):
        self.max_batch_size = max_batch_size
        self._loading: Future[Engine] = Future()
        self._load_engine = load_engine
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._num_preparing = 0
        self._is_closed = False
        self._prefill_seconds = self._decoding_since = 0.0
        self._in_hand: list[Row] = []  # no longer waiting, and not complete
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def __enter__(self):
        self._thread.start()
        self.engine = self._loading.result()
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether rows are answered."""
        return self._thread.is_alive() and not self._is_closed

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """While a prompt is being prepared, a batch may wait for it."""
        with self._changed:
            self._num_preparing += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_preparing -= 1
                self._changed.notify()

    def submit(self, rows: Sequence[Row]) -> None:
        """Has rows answered; their pieces are delivered to them."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The scheduler is closed.")
            now = time.perf_counter()
            for row in rows:
                row.submitted = now
            self._waiting.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the step that it is in. Rows that are not complete fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loading.set_result(self._load_engine())
        except BaseException as error:
            self._loading.set_exception(error)
            return
        failure = RuntimeError("The server is stopped.")
        try:
            self._answer_rows()
        except Exception as error:  # a fault of this program: nobody is to wait for ever
            logger.exception("The scheduler failed: no request is answered any more")
            failure = error
        with self._changed:
            self._is_closed = True
            rows = [*self._in_hand, *self._waiting]
        for row in rows:
            row.fail(failure)

    def _answer_rows(self) -> None:
        batch: Batch | None = None
        while not self._is_closed:
            rows = self._take(batch)
            batch = batch and self._try(batch.rows, lambda kept: kept, batch)  # others may have been cancelled since
            num_running = len(batch.rows) if batch else 0
            new = self._try(rows, self._prefill, rows, batch is None, num_running=num_running) if rows else None
            if batch and new:
                batch = self._try(batch.rows + new.rows, batch.join, new)
            batch = batch or new
            if batch and (not new or batch is not new):
                batch = self._try(batch.rows, self._go_on, batch)

    def _take(self, batch: Batch | None) -> list[Row]:
        """The rows that begin now. Without a batch to go on with, waits until there are some."""
        running = batch.rows if batch else []
        self._in_hand = [*running]
        with self._changed:
            while not self._is_closed:
                seconds = self._seconds_to_start(len(running))
                if seconds is not None and seconds <= 0:
                    room = self.max_batch_size - len(running)
                    rows = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                    rows = [row for row in rows if not row.is_done]
                    self._in_hand += rows
                    return rows
                if batch:
                    break
                self._changed.wait(seconds)
        return []

    def _seconds_to_start(self, num_running: int) -> float | None:
        """How long the rows that wait have to wait on for others; `None` if there are none, or no room for them."""
        while self._waiting and self._waiting[0].is_done:
            self._waiting.popleft()
        room = self.max_batch_size - num_running
        if not self._waiting or room <= 0 or (num_running and not self.engine.joins):
            return None
        now = time.perf_counter()
        share = self._decoding_since + self._prefill_seconds - now if num_running else 0
        if not self._num_preparing or len(self._waiting) >= room:
            return share
        return max(share, self._waiting[0].submitted + min(self._prefill_seconds, MAX_GATHERING) - now)

    def _should_pause(self, num_steps: int, num_left: int, num_rows: int) -> bool:
        if self._is_closed or (self.engine.joins and num_steps >= MIN_STEPS and num_left <= num_rows / 2):
            return True
        if not self._waiting:  # most steps take no lock
            return False
        with self._changed:
            seconds = self._seconds_to_start(num_left)
        return seconds is not None and seconds <= 0

    def _try(self, rows: list[Row], function: Callable, *args, num_running: int = 0) -> Batch | None:
        """What is left of the batch that a function gives. If it fails, so do the rows, and the next may go well."""
        try:
            return function(*args).without_done()
        except MemoryError as error:
            logger.warning("There is too little memory for %d answers at once", num_running + len(rows))
            if self._is_smaller(rows, num_running):
                return None
            failure = error
        except Exception as error:  # of the model or the device
            logger.exception("A batch of %d answers failed", len(rows))
            failure = error
        for row in rows:
            row.fail(failure)
        return None

    def _is_smaller(self, rows: list[Row], num_running: int) -> bool:
        """Makes the next batches half as large; whether rows for which memory was too little can be tried again."""
        num_rows = num_running + len(rows)
        if num_rows == 1:
            return False
        self.max_batch_size = num_rows // 2
        if any(row.num_tokens for row in rows):  # which a client may have
            return False
        with self._changed:
            self._waiting.extendleft(reversed(rows))
        return True

    def _prefill(self, rows: list[Row], is_alone: bool) -> Batch:
        """New rows with their first token; if they are alone, with all until something else is to be done."""
        for row in rows:
            row.begin(self.engine.tokenizer)
        start = time.perf_counter()

        def should_pause(num_steps: int, num_left: int) -> bool:
            if num_steps == 1:
                self._decoding_since = time.perf_counter()
                self._prefill_seconds = self._decoding_since - start
            return not is_alone or self._should_pause(num_steps, num_left, len(rows))

        return self.engine.begin(rows, should_pause)

    def _go_on(self, batch: Batch) -> Batch:
        num_rows = len(batch.rows)
        return self.engine.go_on(batch, lambda num_steps, num_left: self._should_pause(num_steps, num_left, num_rows))
