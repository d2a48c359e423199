# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What `flashsloth serve` does: takes the port, loads the model, lets it answer once, and serves until a signal."""

import logging
import os
import queue
import socket
import warnings
from pathlib import Path

import uvicorn
from PIL import Image

from flashsloth.assistant.assistant import Assistant, load
from flashsloth.folders.downloads import is_folder
from flashsloth.serve.preparation import Limits
from flashsloth.serve.row import Piece, Prompt, Row
from flashsloth.serve.scheduler import Engine, Scheduler
from flashsloth.serve.server import make_app


logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "FLASHSLOTH_API_KEY"
KEEP_ALIVE_SECONDS = 30  # longer than clients of the field keep an idle connection
WARM_UP_TOKENS = 2


def serve(
    model_id: str,
    host: str,
    port: int,
    limits: Limits,
    max_batch_size: int,
    hd: bool | None = None,
    name: str | None = None,
    api_key: str | None = None,
    **loading,
) -> None:
    """
    Serves a model until a signal stops the process. Requests that run are then finished.

    Args:
        model_id (`str`): A folder, or `owner/name` on the Hub.
        host (`str`): Address to listen at.
        port (`int`): Its port; 0 for a free one.
        limits ([`Limits`]): Those of a request.
        max_batch_size (`int`): Most answers that are made at once.
        hd (`bool`, *optional*): High definition for requests that do not say; the checkpoint's default if unset.
        name (`str`, *optional*): The model's name for clients; by default that of its folder or repository.
        api_key (`str`, *optional*): Key that clients must send; by default that of the environment, if it has one.
        loading: Of [`~flashsloth.assistant.assistant.load`].

    Raises:
        ValueError: If the address cannot be listened at, or the model cannot be loaded.
    """
    api_key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ValueError(f"The API key (--api-key or {API_KEY_VARIABLE}) must be printable ASCII without spaces.")
    name = name or default_name(model_id)
    # Pillow's own limit, which is Pillow's for all images of a process, is not to be the lower one.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limits.image_pixels)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the client gets an error, by the server's limit
    with listen_at(host, port) as listener:
        with Scheduler(lambda: new_engine(load(model_id, **loading)), max_batch_size) as scheduler:
            backend = scheduler.engine.backend
            processor = backend.processor
            processor.image_processor.local_sources = False
            if hd is not None:
                processor.image_processor.hd = hd
            warm_up(scheduler, processor)
            app = make_app(name, backend.model.config, processor, scheduler, limits, api_key)
            logger.info("Serving %s at %s, on %s", name, url_of(listener), backend.describe())
            make_server(app).run(sockets=[listener])


def default_name(model_id: str) -> str:
    """The name of a model for clients: that of its folder, without the folders above it, or of its repository."""
    return Path(model_id).resolve().name if is_folder(model_id) else model_id


def listen_at(host: str, port: int) -> socket.socket:
    """
    A socket at an address, which does not take connections yet.

    Raises:
        ValueError: If the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)  # without its protocol, asyncio would leave Nagle's delay on
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ValueError(
            f"Cannot listen at {host}, port {port} ({reason}): choose others by --host and --port."
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients find the API."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def new_engine(assistant: Assistant) -> Engine:
    """What answers batches with the model of an assistant."""
    if assistant.backend.tensor_type == "np":
        from flashsloth.serve.onnx_engine import OnnxEngine

        return OnnxEngine(assistant.backend)
    from flashsloth.serve.torch_engine import TorchEngine

    return TorchEngine(assistant.backend)


def warm_up(scheduler: Scheduler, processor) -> None:
    """
    Answers one question, so that the first client does not wait for what is done once, and a model that cannot
    answer is not served.

    Raises:
        Exception: Whatever the model fails with.
    """
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}, {"type": "text", "text": "What is this?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
    )
    pieces: queue.Queue[Piece] = queue.Queue()
    scheduler.submit([Row(Prompt(inputs["input_ids"][0], inputs["pixel_values"]), WARM_UP_TOKENS, pieces.put)])
    piece = pieces.get()
    if piece.error is not None:
        raise piece.error


def make_server(app) -> uvicorn.Server:
    """uvicorn with an application, without messages and checks of its own."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    return uvicorn.Server(config)
