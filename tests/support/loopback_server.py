# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""An HTTP server in this process that logs each request, and fails where a test asks it to."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Request:
    """
    A request as the log keeps it.

    Args:
        method (`str`): "GET", "HEAD", "POST", "PUT" or "DELETE".
        path (`str`): Path of the URL, with escapes resolved.
        query (`dict[str, list[str]]`): What follows the question mark.
        token (`str`, *optional*): What the client sent to be let in.
        content_range (`str`, *optional*): The part of a file that is asked for.
        body (`bytes`): What the client sent, as far as it arrived.
        status (`int`, *optional*): Of the answer; `None` if the connection was dropped.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    token: str | None = field(default=None, repr=False)
    content_range: str | None = None
    body: bytes = field(default=b"", repr=False)
    status: int | None = None

    @property
    def authorized(self) -> bool:
        """Whether the client sent a token at all."""
        return self.token is not None

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Answer:
    """An answer to a request."""

    status: int
    body: bytes
    headers: dict[str, str]


class Refusal(Exception):
    """An answer that is an error, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, **fields):
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        headers.update({"X-Repo-Commit": fields.pop("commit")} if "commit" in fields else {})
        self.answer = json_answer({"error": message, **fields}, status, headers)


@dataclass
class Fault:
    """A fault to answer requests with; `LoopbackServer.fail` explains its fields."""

    method: str
    path: re.Pattern
    skip: int
    times: int
    status: int | None
    headers: dict[str, str]
    body_bytes: int | None
    answer_bytes: int | None
    seconds: float

    @property
    def drops(self) -> bool:
        """Whether the connection ends before anything is done."""
        return self.status is None and self.answer_bytes is None and (self.body_bytes is not None or not self.seconds)


class LoopbackServer:
    """
    The server; use it as a context manager. A subclass says what is answered.

    Attributes:
        url (`str`): Where it is reached.
        requests (`list[Request]`): The log, the oldest first.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def act(self, request: Request, raw_path: str) -> Answer:
        """
        Carries a request out; one at a time.

        Args:
            request ([`Request`]): The request.
            raw_path (`str`): Its path as it came, with escapes.

        Raises:
            Refusal: If the answer is an error.
        """
        raise NotImplementedError

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = None,
        *,
        skip: int = 0,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body_bytes: int | None = None,
        answer_bytes: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        """
        Has requests go wrong; the connection is dropped if nothing else is asked for.

        Args:
            method (`str`): Of the requests.
            path (`str`): A regular expression that is found in the path of their URLs.
            status (`int`, *optional*): Answer with this status.
            skip (`int`, *optional*, defaults to 0): How many of them go well first.
            times (`int`, *optional*, defaults to 1): How many go wrong then.
            headers (`Mapping[str, str]`, *optional*): Go with `status`, such as Retry-After.
            body_bytes (`int`, *optional*): Drop the connection when so much of the request's body has come.
            answer_bytes (`int`, *optional*): Do what is asked, then drop the connection when so much of the answer's
                body is sent. With 0, the client never learns that the request was carried out.
            seconds (`float`, *optional*): Wait before anything else; alone, this is all that goes wrong.
        """
        pattern, headers = re.compile(path), dict(headers or {})
        with self._lock:
            self._faults.append(
                Fault(method, pattern, skip, times, status, headers, body_bytes, answer_bytes, seconds)
            )

    def count(self, method: str, path: str = "") -> int:
        """How many requests of a method came so far for paths in which a regular expression is found."""
        return sum(request.method == method and bool(re.search(path, request.path)) for request in self.requests)

    def take_fault(self, request: Request) -> Fault | None:
        """What is to go wrong with a request."""
        with self._lock:
            for fault in self._faults:
                if fault.method != request.method or not fault.path.search(request.path) or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def answer(self, request: Request, raw_path: str) -> Answer:
        """What a client gets."""
        with self._lock:
            try:
                return self.act(request, raw_path)
            except Refusal as refusal:
                return refusal.answer


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    owner: LoopbackServer

    def serve(self) -> None:
        url = urlsplit(self.path)
        token, content_range = self.headers.get("Authorization"), self.headers.get("Range")
        request = Request(self.command, unquote(url.path), parse_qs(url.query), token, content_range)
        self.owner.requests.append(request)
        fault = self.owner.take_fault(request)
        if fault:
            time.sleep(fault.seconds)
        if fault and fault.drops:
            request.body = self.rfile.read(fault.body_bytes or 0)
            return self.drop()
        request.body = self.read_body()
        if fault and fault.status:
            answer = json_answer({"error": "The test asked for it"}, fault.status, fault.headers)
        else:
            answer = self.owner.answer(request, url.path)
        if fault and fault.answer_bytes == 0:
            return self.drop()
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: fault.answer_bytes if fault else None])
        if fault and fault.answer_bytes is not None:
            self.drop()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def drop(self) -> None:
        """Ends the connection at once, as a cut line does: no answer, and no good-bye."""
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client may have gone before
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_) -> None:
        """The log is the server's."""


def json_answer(content, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON."""
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})
