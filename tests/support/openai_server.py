# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The OpenAI-compatible server on the loopback, in a thread of the test, and what its clients send."""

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai

from flashsloth.assistant.assistant import Assistant
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.serve.listen import listen_at, make_server, new_engine, url_of
from flashsloth.serve.preparation import Limits
from flashsloth.serve.scheduler import Scheduler
from flashsloth.serve.server import make_app


NAME = "flashsloth-tiny"
LIMITS = Limits(body_bytes=1 << 20, images=4, image_pixels=10**6, new_tokens=500, answers=4, waiting=8)


@dataclass
class RunningServer:
    """A server, and the scheduler behind it."""

    url: str
    scheduler: Scheduler

    def client(self, api_key: str = "none") -> openai.OpenAI:
        """A client that tries nothing twice."""
        return openai.OpenAI(base_url=self.url, api_key=api_key, max_retries=0, timeout=60)


@contextlib.contextmanager
def running_server(
    model, processor, limits: Limits = LIMITS, max_batch_size: int = 4, api_key: str | None = None
) -> Iterator[RunningServer]:
    """Serves a model of transformers until the context ends."""
    assistant = Assistant(TorchBackend(model, processor), processor)
    with running_server_of(assistant, limits, max_batch_size, api_key) as server:
        yield server


@contextlib.contextmanager
def running_server_of(
    assistant: Assistant, limits: Limits = LIMITS, max_batch_size: int = 4, api_key: str | None = None
) -> Iterator[RunningServer]:
    """Serves the model of an assistant until the context ends."""
    listener = listen_at("127.0.0.1", 0)
    url = url_of(listener)
    with Scheduler(lambda: new_engine(assistant), max_batch_size) as scheduler:
        app = make_app(NAME, assistant.model.config, assistant.processor, scheduler, limits, api_key)
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield RunningServer(url, scheduler)
        finally:
            server.should_exit = True
            thread.join()


def data_url(image: bytes | Path) -> str:
    """The URL that holds an image file."""
    content = image.read_bytes() if isinstance(image, Path) else image
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def question(text: str, *images: bytes | Path | str) -> dict:
    """A message of the user, with images or their URLs before the text."""
    urls = [image if isinstance(image, str) else data_url(image) for image in images]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
