# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The server with the shipped checkpoint and OpenAI's own client, over the loopback."""

import asyncio
import functools
import http.client
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from openai_server import LIMITS, NAME, data_url, question, running_server
from samples import encode_image, make_image, make_model

import flashsloth
from flashsloth.assistant.assistant import load
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor
from flashsloth.serve import server as server_module
from flashsloth.serve.scheduler import Scheduler
from flashsloth.serve.server import make_app
from flashsloth.serve.torch_engine import TorchEngine


ROOT = Path(flashsloth.__file__).parent
SCENE = ROOT / "examples" / "scene.png"
SMALL_TEXT = ROOT / "examples" / "small_text.png"
COLOUR = "What colour is the square?"
SECRET = "zebra-4711"


@pytest.fixture(scope="module")
def loaded():
    return load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype="float32")


@pytest.fixture(scope="module")
def server(loaded):
    with running_server(*loaded) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def assistant():
    return load(str(SHIPPED_CHECKPOINT), dtype="float32")


def ask(client, *messages: dict, **options):
    return client.chat.completions.create(model=NAME, messages=list(messages), **options)


def text_of(client, *messages: dict, **options) -> str:
    return ask(client, *messages, **options).choices[0].message.content


class Connection:
    """One connection without a client library, which goes on after errors or shows that it does not."""

    def __init__(self, server):
        address = urlsplit(server.url)
        self.http = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self.http.connect()
        self.socket = self.http.sock

    def send(self, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, dict, dict]:
        """Status, headers and JSON object of the answer."""
        self.http.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = self.http.getresponse()
        answer = json.loads(response.read())
        assert self.http.sock is self.socket, "the server has closed the connection"
        return response.status, dict(response.headers), answer

    def chat(self, body: bytes | dict, **headers) -> tuple[int, dict, dict]:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", "/v1/chat/completions", body, **headers)


def body_of(*messages: dict, **options) -> dict:
    return {"model": NAME, "messages": list(messages), **options}


@pytest.fixture
def connection(server):
    connection = Connection(server)
    yield connection
    connection.http.close()


def test_answer_is_that_of_the_library(client, assistant):
    response = ask(client, question(COLOUR, SCENE))
    (choice,) = response.choices
    answer = assistant.ask(str(SCENE), COLOUR)
    assert choice.message.content == str(answer) == "The square is red."
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "stop", None)
    assert response.usage.prompt_tokens == answer.prompt_tokens
    assert response.usage.total_tokens == answer.prompt_tokens + response.usage.completion_tokens
    assert (response.model, response.object) == (NAME, "chat.completion")


def test_several_images_turns_and_a_system_prompt(client, assistant):
    question_text, system = "What differs?", "You answer with one word."
    assert text_of(client, question(question_text, SCENE, SMALL_TEXT)) == str(
        assistant.ask([str(SCENE), str(SMALL_TEXT)], question_text)
    )
    chat = assistant.chat(system=system)
    first = str(chat.ask(COLOUR, images=str(SCENE)))
    second = str(chat.ask("And the circle?"))
    messages = [{"role": "system", "content": system}, question(COLOUR, SCENE)]
    assert text_of(client, *messages) == first
    follow_up = {"role": "user", "content": "And the circle?"}
    assert text_of(client, *messages, {"role": "assistant", "content": first}, follow_up) == second


@pytest.mark.parametrize(
    "options", [{"extra_body": {"hd": True}}, {"extra_body": {"chat_template_kwargs": {"hd": True}}}]
)
def test_high_definition(client, assistant, options):
    response = ask(client, question("What word is at the top?", SMALL_TEXT), **options)
    answer = assistant.ask(str(SMALL_TEXT), "What word is at the top?", hd=True)
    assert (response.choices[0].message.content, response.usage.prompt_tokens) == (str(answer), answer.prompt_tokens)
    assert (
        response.usage.prompt_tokens
        > ask(client, question("What word is at the top?", SMALL_TEXT)).usage.prompt_tokens
    )


def test_stream(client):
    whole = ask(client, question(COLOUR, SCENE))
    chunks = list(ask(client, question(COLOUR, SCENE), stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3, "the answer did not come in pieces"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices == [] and last.usage == whole.usage and all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_ends_with_done_and_the_connection_goes_on(connection):
    for _ in range(2):
        connection.http.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body_of(question(COLOUR, SCENE), stream=True)),
            {"Content-Type": "application/json"},
        )
        response = connection.http.getresponse()
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, done = response.read().decode().strip().split("\n\n")
        assert done == "data: [DONE]" and all("usage" not in json.loads(event[6:]) for event in events)
        assert connection.http.sock is connection.socket


def test_max_tokens(client):
    choice = ask(client, question(COLOUR, SCENE), max_tokens=2).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The square", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_stop(client, stream):
    response = ask(client, question(COLOUR, SCENE), stop=["red", "blue"], stream=stream)
    if stream:
        chunks = list(response)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "The square is"
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert (response.choices[0].message.content, response.choices[0].finish_reason) == ("The square is", "stop")


def test_seed_temperature_and_n(client):
    def answers(**options) -> list[str]:
        response = ask(client, question("Describe the image.", SCENE), **options)
        assert [choice.index for choice in response.choices] == list(range(options["n"]))
        return [choice.message.content for choice in response.choices]

    sampled = answers(n=4, temperature=2, seed=1, max_tokens=20)
    assert sampled == answers(n=4, temperature=2, seed=1, max_tokens=20) and len(set(sampled)) > 1
    assert sampled[:1] == answers(n=1, temperature=2, seed=1, max_tokens=20)
    assert sampled != answers(n=4, temperature=2, seed=2, max_tokens=20)
    assert len(set(answers(n=2, max_tokens=20))) == 1  # greedy unless it is told otherwise
    assert answers(n=1, temperature=2, top_p=0, seed=3, max_tokens=20) == answers(n=1, max_tokens=20)


def test_stream_of_several_answers(client):
    options = {"n": 3, "temperature": 1.5, "seed": 1, "max_tokens": 12}
    whole = ask(client, question("Describe the image.", SCENE), **options)
    texts = ["", "", ""]
    reasons = {}
    for chunk in ask(client, question("Describe the image.", SCENE), stream=True, **options):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons.update({choice.index: choice.finish_reason} if choice.finish_reason else {})
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client, stream):
    response = ask(client, question(COLOUR, SCENE), logprobs=True, top_logprobs=3, stream=stream)
    parts = [chunk.choices[0] for chunk in response] if stream else response.choices
    tokens = [token for part in parts if part.logprobs for token in part.logprobs.content]
    assert "".join(token.token for token in tokens) == " The square is red."
    for token in tokens:
        best, *others = token.top_logprobs
        assert (best.token, len(others)) == (token.token, 2) and best.logprob == pytest.approx(token.logprob, abs=1e-5)
        assert token.logprob <= 0 and bytes(token.bytes).decode() == token.token
        assert sum(2.718281828**other.logprob for other in token.top_logprobs) <= 1.001


def test_clients_at_once_get_the_answers_of_one(client):
    questions = [question(text, image) for image in (SCENE, SMALL_TEXT) for text in (COLOUR, "What is at the left?")]
    alone = [text_of(client, message) for message in questions]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda message: text_of(client, message), questions * 3)) == alone * 3


@pytest.fixture(scope="module")
def endless(processor):
    """A model whose answers are as long as they may be."""
    return make_model(), processor


def test_late_short_request_overtakes_a_long_one(endless):
    with running_server(*endless, limits=replace(LIMITS, new_tokens=900)) as server:
        client = server.client()
        long = iter(ask(client, question(COLOUR, SCENE), stream=True, max_tokens=800))
        next(long)
        order = []
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(lambda: order.append(list(long)[-1].choices[0].finish_reason))
            order.append(ask(client, question(COLOUR, SMALL_TEXT), max_tokens=3).usage.completion_tokens)
            reading.result()
        assert order == [3, "length"]


def test_client_that_goes_away_frees_its_place(endless):
    limits = replace(LIMITS, waiting=1, new_tokens=900)
    with running_server(*endless, limits=limits, max_batch_size=1) as server:
        client = server.client()
        stream = ask(client, question(COLOUR, SCENE), stream=True, max_tokens=700)
        next(iter(stream))
        waiting = Connection(server)  # a request that waits, whose client goes too
        waiting.http.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body_of(question(COLOUR, SCENE), max_tokens=700)),
            {"Content-Type": "application/json"},
        )
        refused = wait_for_refusal(server)
        assert refused.status_code == 429 and int(refused.response.headers["Retry-After"]) >= 1
        assert refused.body["code"] == "overloaded"
        waiting.http.close()
        stream.close()
        wait_until(lambda: not isinstance(try_to_ask(client), openai.RateLimitError))


def test_client_that_goes_away_within_its_body(server, caplog):
    with caplog.at_level(logging.INFO):
        connection = Connection(server)
        head = "Host: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        connection.socket.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode())
        connection.http.close()
        wait_until(lambda: "POST /v1/chat/completions 499" in caplog.text)
    assert "Traceback" not in caplog.text


def test_client_that_does_not_send_its_body_loses_its_place(server, monkeypatch):
    monkeypatch.setattr(server_module, "BODY_SECONDS", 0.2)
    connection = Connection(server)
    connection.http.putrequest("POST", "/v1/chat/completions")
    connection.http.putheader("Content-Type", "application/json")
    connection.http.putheader("Content-Length", "99")
    connection.http.endheaders(b"{")
    assert connection.http.getresponse().status == 408
    connection.http.close()


def test_clients_that_pause_within_their_bodies_lose_their_places(loaded, monkeypatch):
    monkeypatch.setattr(server_module, "BODY_PAUSE_SECONDS", 0.3)
    with running_server(*loaded, limits=replace(LIMITS, waiting=1), max_batch_size=1) as server:
        slow = [Connection(server) for _ in range(2)]
        for connection in slow:
            connection.http.putrequest("POST", "/v1/chat/completions")
            connection.http.putheader("Content-Type", "application/json")
            connection.http.putheader("Content-Length", "99")
            connection.http.endheaders(b"{")
        for connection in slow:
            response = connection.http.getresponse()
            assert (
                response.status == 408 and "without pauses of 0.3" in json.loads(response.read())["error"]["message"]
            )
            assert connection.socket.recv(1) == b"", "the rest of the body would be taken for a request"
            connection.http.close()
        assert text_of(server.client(), question(COLOUR, SCENE)) == "The square is red."


def test_clients_hear_of_a_scheduler_that_has_failed(loaded, monkeypatch):
    with running_server(*loaded) as server:
        monkeypatch.setattr(Scheduler, "_try", lambda *args, **options: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="The server failed"):
            ask(server.client(), question(COLOUR, SCENE))
        with pytest.raises(openai.InternalServerError, match="The server failed"):  # and later ones
            ask(server.client(), question(COLOUR, SCENE))
        connection = Connection(server)
        assert connection.send("GET", "/health")[::2] == (503, {"status": "failed"})
        connection.http.close()


def test_the_smallest_temperature_is_greedy(client):
    assert text_of(client, question(COLOUR, SCENE), temperature=1e-40, seed=1) == "The square is red."


def test_client_that_does_not_read_its_answer_loses_its_place(loaded, monkeypatch, caplog):
    """Without a server in between, whose machine would keep the whole answer for the client."""
    monkeypatch.setattr(server_module, "SEND_SECONDS", 0.2)
    body = json.dumps(body_of(question(COLOUR), stream=True)).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent = []

    async def receive():
        return next(messages, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    model, processor = loaded
    with caplog.at_level(logging.INFO), Scheduler(lambda: TorchEngine(TorchBackend(model, processor)), 1) as scheduler:
        app = make_app(NAME, model.config, processor, scheduler, replace(LIMITS, waiting=0))
        for _ in range(2):  # there is one place only
            asyncio.run(app(scope, receive, send))
            assert caplog.messages[-1].startswith("POST /v1/chat/completions 499 ")
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"] * 2


def try_to_ask(client):
    try:
        return ask(client, question(COLOUR, SCENE), max_tokens=1)
    except openai.RateLimitError as error:
        return error


def wait_for_refusal(server) -> openai.RateLimitError:
    """Asks until the server is full; a request that gets a place gives it back at once."""
    with server.client().with_options(timeout=0.3) as client:
        for _ in range(100):
            try:
                ask(client, question(COLOUR, SCENE), max_tokens=700)
            except openai.RateLimitError as error:
                return error
            except openai.APITimeoutError:
                pass
    raise AssertionError("no request was refused")


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[1]", 400, None),
        (body_of(), 400, "messages"),
        (body_of(question(COLOUR), tools=[{}]), 400, "tools"),
        (body_of(question(COLOUR), response_format={"type": "json_object"}), 400, "response_format"),
        (body_of(question(COLOUR), unknown=1), 400, "unknown"),
        (body_of(question(COLOUR), n=5), 400, "n"),
        (body_of(question(COLOUR), max_tokens=501), 400, "max_tokens"),
        (body_of(question("a " * 3000)), 400, "messages"),
        (body_of(question(COLOUR), question(COLOUR)), 400, "messages"),
        (body_of(question("\ud800")), 400, "messages"),
        (body_of(question(COLOUR, "data:image/png;base64,AAAA")), 400, "messages"),
        (body_of(question(COLOUR, *["data:image/png;base64,AAAA"] * 5)), 400, "messages"),
        (body_of(question(COLOUR, str(SCENE))), 400, "messages"),
        (body_of(question(COLOUR, SCENE.as_uri())), 400, "messages"),
        (body_of(question(COLOUR, "http://127.0.0.1:9/a.png")), 400, "messages"),
        (body_of(question(COLOUR)) | {"model": "gpt-4"}, 404, "model"),
    ],
)
def test_errors_of_users_leave_the_connection(connection, body, status, param):
    for stream in (False, True):
        sent = body if isinstance(body, bytes) else {**body, "stream": stream}
        found, _, answer = connection.chat(sent)
        assert (found, answer["error"]["param"]) == (status, param), answer
        assert answer["error"]["type"] == "invalid_request_error" and answer["error"]["message"]
    assert connection.chat(body_of(question(COLOUR, SCENE)))[0] == 200


def test_client_library_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        ask(client, question(COLOUR), tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-4", messages=[question(COLOUR)])


def test_wrong_paths_and_methods(connection):
    status, _, answer = connection.send("GET", "/v1/embeddings")
    assert status == 404 and "Unknown request URL" in answer["error"]["message"]
    status, headers, answer = connection.send("GET", "/v1/chat/completions")
    assert status == 405 and headers["allow"] == "POST" and "not allowed" in answer["error"]["message"]
    assert connection.chat(b"{}", **{"Content-Type": "text/plain"})[0] == 415
    assert connection.send("GET", "/health")[0] == 200


def test_body_that_is_too_large(connection):
    status, _, answer = connection.chat(b" " * (LIMITS.body_bytes + 1))
    assert status == 413 and str(LIMITS.body_bytes) in answer["error"]["message"]
    assert connection.chat(body_of(question(COLOUR, SCENE)))[0] == 200


def test_body_that_is_too_large_and_does_not_say_so(server):
    connection = Connection(server)
    chunks = iter([b" " * (1 << 16)] * (LIMITS.body_bytes // (1 << 16) + 2))
    connection.http.request(
        "POST", "/v1/chat/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.http.getresponse().status == 413
    connection.http.close()


def test_models_and_health(client, connection, loaded):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "flashsloth"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("owner/name")
    assert connection.send("GET", "/health")[::2] == (200, {"status": "ok"})


def test_health_fails_with_the_scheduler(loaded):
    with running_server(*loaded) as server:
        server.scheduler.close()
        connection = Connection(server)
        assert connection.send("GET", "/health")[0] == 503
        connection.http.close()


def test_api_key(loaded):
    with running_server(*loaded, api_key="secret") as server:
        assert text_of(server.client("secret"), question(COLOUR, SCENE)) == "The square is red."
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
            ask(server.client("wrong"), question(COLOUR))
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        connection = Connection(server)
        status, _, answer = connection.chat(body_of(question(COLOUR)))
        assert status == 401 and "didn't provide" in answer["error"]["message"]
        assert connection.send("GET", "/v1/unknown")[0] == 401
        assert connection.send("GET", "/health")[0] == 200
        connection.http.close()


def test_fault_of_the_model_is_an_error_before_and_within_a_stream(endless, monkeypatch):
    model, processor = endless
    with running_server(model, processor) as server:
        client = server.client()
        has_fault = threading.Event()
        forward = type(model).forward

        @functools.wraps(forward)
        def fail_later(self, *args, **kwargs):
            if has_fault.is_set():
                raise RuntimeError("a fault")
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(model), "forward", fail_later)
        stream = iter(ask(client, question(COLOUR, SCENE), stream=True, max_tokens=500))
        next(stream)
        has_fault.set()
        with pytest.raises(openai.APIError, match="The server failed"):
            list(stream)
        for streamed in (False, True):
            with pytest.raises(openai.InternalServerError, match="The server failed"):
                ask(client, question(COLOUR, SCENE), stream=streamed)
        has_fault.clear()
        assert ask(client, question(COLOUR, SCENE), max_tokens=5).usage.completion_tokens == 5


def test_log_says_nothing_of_the_content(client, connection, caplog):
    with caplog.at_level(logging.INFO):
        image = encode_image(make_image(1))
        text_of(client, question(f"What is {SECRET}?", image))
        connection.chat(body_of(question(SECRET), unknown=SECRET))
        connection.chat(body_of(question(SECRET, f"data:image/png;base64,{SECRET}")))
        connection.chat(body_of(question(SECRET), question(SECRET)))
        connection.send("GET", f"/v1/{SECRET}?{SECRET}", Authorization=f"Bearer {SECRET}")
        connection.send("GET", "/health")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("flashsloth")]
    assert any(line.startswith("POST /v1/chat/completions 200 ") and "tokens in" in line for line in lines)
    assert sum(line.startswith("POST /v1/chat/completions 400 ") for line in lines) == 3
    assert any(line.startswith("GET (another path) 404 ") for line in lines)
    # pytest puts its handler into the access log that is switched off, too; test_listen.py sees the real streams.
    text = " ".join(record.getMessage() for record in caplog.records if record.name != "uvicorn.access")
    assert SECRET not in text and data_url(image)[30:60] not in text
