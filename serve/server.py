# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
An OpenAI-compatible server: `/v1/models`, `/v1/chat/completions` and `/health`.

It is not built on transformers' own server (`transformers serve`, 5.24): that one finds classes in transformers only,
reads its own machine's files for any client, answers errors of users with a traceback and status 500, drops `n` and
`logprobs` without a word, and answers several requests about images one after the other.
"""

import asyncio
import contextlib
import hmac
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flashsloth.serve.preparation import Limits, check_limits, is_web, prepare
from flashsloth.serve.protocol import ChatRequest, RequestError, parse_json, parse_request
from flashsloth.serve.responses import DONE, Completion, error_event
from flashsloth.serve.row import Piece, Prompt, Row
from flashsloth.serve.sampling import Sampling
from flashsloth.serve.scheduler import Scheduler


logger = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
HEALTH = "/health"
PREPARING_THREADS = 2  # images are decoded without Python's lock, so that two keep the model busy
FETCHING_THREADS = 16  # of requests that wait for other servers
BODY_SECONDS = 60  # for a whole body to arrive
BODY_PAUSE_SECONDS = 10  # for the next part of a body: a client that sends none keeps a place from others
SEND_SECONDS = 60  # for a client to read on
CLIENT_GONE = 499  # status in the log where there was no one to answer, as nginx has it
SERVER_ERROR = "server_error"
OVERLOADED = "overloaded"
COST = "flashsloth.cost"  # key of a request's scope
EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


@dataclass
class Cost:
    """What a request took, for the log."""

    start: float
    status: int | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds_to_first_token: float | None = None


class Places:
    """
    Places for requests that are answered or wait. A request takes one before its body is read.

    Args:
        number (`int`): How many there are.
    """

    def __init__(self, number: int):
        self.number = self.free = number
        self.last_seconds = 1.0

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """
        Raises:
            RequestError: If no place is free; the answer says when to try again.
        """
        if not self.free:
            raise overloaded("The server is overloaded: try again later.", math.ceil(self.last_seconds))
        self.free -= 1
        start = time.perf_counter()
        try:
            yield
            self.last_seconds = time.perf_counter() - start
        finally:
            self.free += 1


def overloaded(message: str, seconds: int = 1) -> RequestError:
    return RequestError(message, None, OVERLOADED, 429, OVERLOADED, {"Retry-After": str(seconds)})


class Mail:
    """
    Hands the pieces of answers from the model's thread to the event loop, which is woken once for the pieces of all
    rows of a step.
    """

    def __init__(self):
        self._sent: deque[tuple[asyncio.Queue, int, Piece]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_waking = False

    def open(self) -> None:
        """Makes the running event loop the one that is woken."""
        self._loop = asyncio.get_running_loop()

    def send(self, pieces: asyncio.Queue, index: int, piece: Piece) -> None:
        """Puts a piece into the queue of its request, with the number of the answer. Any thread may call."""
        self._sent.append((pieces, index, piece))
        if not self._is_waking:
            self._is_waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server was ended by force
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_waking = False  # before the queue is emptied: what is sent from now on wakes the loop again
        while self._sent:
            pieces, index, piece = self._sent.popleft()
            pieces.put_nowait((index, piece))


class ChatCompletions:
    """
    The endpoint that answers, an ASGI application.

    Args:
        name (`str`): The model's name for clients.
        config ([`FlashSlothConfig`]): The config of the model.
        processor: Its processor.
        scheduler ([`Scheduler`]): Answers with the model.
        limits ([`Limits`]): Those of a request.
    """

    def __init__(self, name: str, config, processor, scheduler: Scheduler, limits: Limits):
        self.name, self.processor, self.scheduler, self.limits = name, processor, scheduler, limits
        self.max_positions = config.text_config.max_position_embeddings
        self.mail = Mail()
        self.places = Places(scheduler.max_batch_size + limits.waiting)
        self.preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self.fetching = ThreadPoolExecutor(FETCHING_THREADS, "fetch")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, send = Request(scope, receive), _in_time(send)
        with self.places.take(), _noting_that_the_client_has_gone(scope[COST]):
            chat = parse_request(parse_json(await self._read_body(request)))
            if chat.model != self.name:
                message = f"The model {chat.model[:100]!r} does not exist: this server has {self.name!r}."
                raise RequestError(message, "model", "model_not_found", 404)
            check_limits(chat, self.limits)
            await _while_connected(receive, self._answer(chat, scope, receive, send))

    async def _read_body(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("Send the request as Content-Type: application/json.", None, None, 415)
        too_large = RequestError(f"The body has more than {self.limits.body_bytes} bytes.", None, "too_large", 413)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limits.body_bytes:
            raise too_large
        body, stream = bytearray(), request.stream()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while (chunk := await asyncio.wait_for(anext(stream, None), BODY_PAUSE_SECONDS)) is not None:
                    body += chunk
                    if len(body) > self.limits.body_bytes:
                        raise too_large
        except TimeoutError as error:
            message = f"A body has to come within {BODY_SECONDS} seconds, without pauses of {BODY_PAUSE_SECONDS}."
            raise RequestError(message, None, None, 408) from error
        return bytes(body)

    async def _answer(self, chat: ChatRequest, scope: Scope, receive: Receive, send: Send) -> None:
        cost = scope[COST]
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.mail.open()
        # A batch waits for an image that is decoded, but not for one that is fetched.
        is_fetched = any(map(is_web, chat.images))
        pool = self.fetching if is_fetched else self.preparing
        with contextlib.nullcontext() if is_fetched else self.scheduler.preparing():
            prompt, max_new_tokens = await asyncio.get_running_loop().run_in_executor(
                pool, prepare, chat, self.processor, self.limits, self.max_positions
            )
            cost.prompt_tokens = len(prompt.input_ids)
            rows = self._rows(chat, prompt, max_new_tokens, pieces)
            self.scheduler.submit(rows)
        completion = Completion(
            self.name,
            self.processor.tokenizer,
            cost.prompt_tokens,
            chat.top_logprobs is not None,
            chat.include_usage,
        )
        try:
            if chat.stream:
                await self._stream(completion, chat.n, pieces, cost, send)
            else:
                last = dict([await pieces.get() for _ in rows])
                for piece in last.values():
                    _check(piece)
                    cost.new_tokens += piece.num_tokens
                await JSONResponse(completion.body([last[index] for index in range(chat.n)]))(scope, receive, send)
        finally:
            for row in rows:
                row.cancel()

    def _rows(self, chat: ChatRequest, prompt: Prompt, max_new_tokens: int, pieces: asyncio.Queue) -> list[Row]:
        return [
            Row(
                prompt,
                max_new_tokens,
                partial(self.mail.send, pieces, index),
                Sampling(chat.temperature, chat.top_p, chat.seed, index, chat.top_logprobs),
                chat.stop,
                chat.stream,
            )
            for index in range(chat.n)
        ]

    async def _stream(self, completion: Completion, n: int, pieces: asyncio.Queue, cost: Cost, send: Send) -> None:
        begun, last, is_open = set(), {}, False
        try:
            while len(last) < n:
                events = b""
                for index, piece in await _next_pieces(pieces):
                    _check(piece)
                    if cost.seconds_to_first_token is None:
                        cost.seconds_to_first_token = time.perf_counter() - cost.start
                    events += b"" if index in begun else completion.first_event(index)
                    begun.add(index)
                    events += completion.events(index, piece)
                    if piece.finish_reason:
                        last[index] = piece
                        cost.new_tokens += piece.num_tokens
                if not is_open:
                    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
                    is_open = True
                if len(last) == n:
                    events += completion.usage_event(list(last.values())) + DONE
                await send({"type": "http.response.body", "body": events, "more_body": len(last) < n})
        except RequestError as error:
            if not is_open:
                raise
            await send({"type": "http.response.body", "body": error_event(error), "more_body": False})


class Gate:
    """
    What all requests pass: the check of the API key, and a line in the log that says nothing of their content.

    Args:
        app (`ASGIApp`): What is behind it.
        api_key (`str`, *optional*): The key that clients must send, except for the server's health.
    """

    def __init__(self, app: ASGIApp, api_key: str | None):
        self.app, self.api_key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cost = scope[COST] = Cost(time.perf_counter())

        async def send_and_note(message) -> None:
            if message["type"] == "http.response.start" and cost.status is None:
                cost.status = message["status"]
            await send(message)

        try:
            error = None if scope["path"] == HEALTH else self._refusal(Request(scope))
            app = self.app if error is None else error_response(error)
            await app(scope, receive, send_and_note)
        finally:
            _log_request(scope, cost)

    def _refusal(self, request: Request) -> RequestError | None:
        if self.api_key is None:
            return None
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            message = "You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY."
        elif not hmac.compare_digest(key.strip().encode(), self.api_key.encode()):
            message = "Incorrect API key provided."
        else:
            return None
        return RequestError(message, None, "invalid_api_key", 401, headers={"WWW-Authenticate": "Bearer"})


def make_app(
    name: str, config, processor, scheduler: Scheduler, limits: Limits, api_key: str | None = None
) -> ASGIApp:
    """
    The server as an ASGI application.

    Args:
        name (`str`): The model's name for clients.
        config ([`FlashSlothConfig`]): The config of the model.
        processor: Its processor.
        scheduler ([`Scheduler`]): Answers with the model; is started and closed by the caller.
        limits ([`Limits`]): Those of a request.
        api_key (`str`, *optional*): The key that clients must send.
    """
    description = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "flashsloth"}

    async def list_models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [description]})

    async def describe_model(request: Request) -> Response:
        if request.path_params["name"] != name:
            raise RequestError(f"This server has the model {name!r} only.", "model", "model_not_found", 404)
        return JSONResponse(description)

    async def health(request: Request) -> Response:
        status = "ok" if scheduler.is_alive else "failed"
        return JSONResponse({"status": status}, 200 if scheduler.is_alive else 503)

    routes = [
        Route(CHAT, ChatCompletions(name, config, processor, scheduler, limits), methods=["POST"]),
        Route(MODELS, list_models),
        Route(f"{MODELS}/{{name:path}}", describe_model),
        Route(HEALTH, health),
    ]
    handlers = {RequestError: _answer_error, HTTPException: _answer_http_error, Exception: _answer_fault}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Gate(app, api_key)


def error_response(error: RequestError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _answer_error(request: Request, error: RequestError) -> Response:
    return error_response(error)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        message = f"{request.method} is not allowed here."
    else:
        message = f"Unknown request URL. There are {CHAT}, {MODELS} and {HEALTH}."
    return error_response(RequestError(message, None, None, error.status_code, headers=dict(error.headers or {})))


async def _answer_fault(request: Request, error: Exception) -> Response:
    return error_response(_fault())


def _fault() -> RequestError:
    return RequestError("The server failed; its log says why.", None, None, 500, SERVER_ERROR)


def _check(piece: Piece) -> None:
    """Raises a [`RequestError`] if there is no answer."""
    if isinstance(piece.error, MemoryError):
        raise overloaded("The server has too little memory for this request now.") from piece.error
    if piece.error is not None:
        raise _fault() from piece.error


async def _next_pieces(pieces: asyncio.Queue) -> list[tuple[int, Piece]]:
    """All pieces that are there; waits for the first."""
    found = [await pieces.get()]
    while not pieces.empty():
        found.append(pieces.get_nowait())
    return found


def _in_time(send: Send) -> Send:
    """`send` for clients that may stop reading without going away, which would keep their places for ever."""

    async def send_in_time(message) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)
        except TimeoutError as error:
            raise ClientDisconnect from error

    return send_in_time


@contextlib.contextmanager
def _noting_that_the_client_has_gone(cost: Cost) -> Iterator[None]:
    try:
        yield
    except ClientDisconnect:
        cost.status = CLIENT_GONE


async def _while_connected(receive: Receive, work: Coroutine) -> None:
    """
    Does the work, but no longer than the client stays.

    Raises:
        ClientDisconnect: If it goes away.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_disconnection(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _log_request(scope: Scope, cost: Cost) -> None:
    path = scope["path"] if scope["path"] in (CHAT, MODELS, HEALTH) else "(another path)"
    line = f"{scope['method']} {path} {cost.status} {time.perf_counter() - cost.start:.3f} s"
    if cost.prompt_tokens:
        line += f", {cost.prompt_tokens} tokens in, {cost.new_tokens} tokens out"
    if cost.seconds_to_first_token is not None:
        line += f", the first after {cost.seconds_to_first_token:.3f} s"
    logger.info(line)
