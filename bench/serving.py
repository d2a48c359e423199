# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The load that `flashsloth serve` carries.

    flashsloth bench serve
    flashsloth bench serve --soak

A server is started on the loopback, in a process of its own. Its clients send questions of the generated set with
their images, each the next one when it has the answer, which is streamed.

- clients: for each number of them the answers per second, and the median and 95th percentile of the seconds to the
  first and to the last token. A request without a whole answer ends the benchmark with an error.
- ratios: 8 clients against one `generate` over the same 8 questions, and against `generate` for one question after the
  other, both from the bytes of the images to the texts. They take turns, with `--servers` servers, as the speed of
  torch's threads differs from process to process; a ratio is that of the medians over all turns.
- `--soak`: 1,000 requests, of which half are wrong in one of many ways or whose client goes away, and the server's
  own memory after each hundred.

The last line of standard output is one JSON object.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import torch
import transformers
from huggingface_hub.utils import httpx

from flashsloth.arguments import OneLineParser
from flashsloth.bench.evaluation import make_question
from flashsloth.bench.measure import Clock, device_name, log, own_memory, print_table
from flashsloth.eval.greedy import GreedyModel
from flashsloth.eval.questions import Question
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor


CLIENTS = (1, 2, 4, 8, 16, 32)
BATCH = 8  # clients of the ratios
SOAK_REQUESTS = 1000
SOAK_CLIENTS = 8
SOAK_PARTS = 10
MAX_NEW_TOKENS = 128
SERVING = " at http"  # of the line by which the server says where it is
EVENT, DONE, END_OF_CHUNKS = b"data: ", b"data: [DONE]", b"0\r\n"  # lines of a stream
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Answered:
    """An answer, and the seconds from its request to its first and last token."""

    text: str
    first: float
    last: float


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(server(args.model, args.dtype)) for _ in range(1 if args.soak else args.servers)
        ]
        report = {
            "benchmark": "serving",
            "date": date.today().isoformat(),
            "model": Path(args.model).name,
            "dtype": args.dtype,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
        }
        if args.soak:
            report |= asyncio.run(soak(*servers[0], args.requests or SOAK_REQUESTS))
        else:
            urls = [url for url, _ in servers]
            report |= measure(urls[0], args) | ratios(urls, args)
    print(json.dumps(report))


def measure(url: str, args: argparse.Namespace) -> dict:
    """The load of all numbers of clients."""
    questions = [make_question(index) for index in range(args.requests or 96)]
    requests = requests_of(url, [body_of(question) for question in questions])
    results, texts = {}, {}
    for clients in args.clients:
        log(f"{clients} clients")
        start = time.perf_counter()
        answers = asyncio.run(ask_all(url, requests, clients))
        results[f"{clients} clients"] = figures(answers, time.perf_counter() - start)
        texts[clients] = [answer.text for answer in answers]
    print_table(results, rows=list(next(iter(results.values()))))
    reference = next(iter(texts.values()))
    different = sum(text != other for others in texts.values() for text, other in zip(reference, others, strict=True))
    return {**results, "different_answers": different}


def figures(answers: Sequence[Answered], seconds: float) -> dict[str, float]:
    """Answers per second, and percentiles of the seconds to the first and the last token."""
    row = {"answers_per_s": round(len(answers) / seconds, 2)}
    for name, values in (("first", [a.first for a in answers]), ("last", [a.last for a in answers])):
        ordered = sorted(values)
        row[f"{name}_token_p50_s"] = round(statistics.median(ordered), 4)
        row[f"{name}_token_p95_s"] = round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4)
    return row


def ratios(urls: Sequence[str], args: argparse.Namespace) -> dict:
    """Answers per second of 8 clients, of one `generate` for 8 questions, and of one after the other, in turns."""
    model, processor = load_model_and_processor(args.model, dtype=args.dtype)
    ask, clock = GreedyModel(model, processor, MAX_NEW_TOKENS), Clock(model.device)
    served: list[list[float]] = [[] for _ in urls]
    batched, alone, different = [], [], 0
    for turn in range(args.turns + 1):
        log(f"Turn {turn} of {args.turns}")
        questions = [make_question(turn * BATCH * args.batches + index) for index in range(BATCH * args.batches)]
        batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]
        texts, seconds = clock(lambda batches=batches: [text for batch in batches for text in ask(batch)])
        batched.append(len(questions) / seconds)
        _, seconds = clock(lambda questions=questions: [ask([question]) for question in questions])
        alone.append(len(questions) / seconds)
        for url, rates in zip(urls, served, strict=True):
            requests = requests_of(url, [body_of(question) for question in questions])
            answers, seconds = clock(lambda url=url, requests=requests: asyncio.run(ask_all(url, requests, BATCH)))
            rates.append(len(questions) / seconds)
            different += sum(answer.text != text for answer, text in zip(answers, texts, strict=True))
    by_server = [statistics.median(rates[1:]) for rates in served]  # the first turn warms up
    served_rate = statistics.median(rate for rates in served for rate in rates[1:])
    batched_rate, alone_rate = statistics.median(batched[1:]), statistics.median(alone[1:])
    return {
        "device": device_name(model.device),
        "answers_per_s": {
            "8 clients": round(served_rate, 2),
            "one generate": round(batched_rate, 2),
            "one after the other": round(alone_rate, 2),
        },
        "different_from_generate": different,
        "of_one_generate": round(served_rate / batched_rate, 4),
        "of_one_generate_by_server": [round(rate / batched_rate, 4) for rate in by_server],
        "of_one_after_the_other": round(served_rate / alone_rate, 4),
    }


@contextlib.contextmanager
def server(model: str, dtype: str, *options: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: the address of its API, and its process."""
    command = [
        sys.executable,
        "-m",
        "flashsloth",
        "serve",
        "--port",
        "0",
        "--model",
        model,
        "--dtype",
        dtype,
        *options,
    ]
    log("Starting the server")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            while SERVING not in (line := process.stderr.readline()):
                if not line:
                    raise RuntimeError(f"The server did not start: {''.join(lines)}")
                lines.append(line)
            # Its log is read on, as it would wait once the pipe is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield re.search(r"http://[^ ,]+", line).group(), process.pid
        finally:
            process.terminate()
            process.wait()


def body_of(question: Question, **fields) -> dict:
    """The request for the answer to a question, as a stream."""
    url = f"data:image/png;base64,{base64.b64encode(question.image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "temperature": 0, "max_tokens": MAX_NEW_TOKENS, "stream": True, **fields}


def requests_of(url: str, bodies: Sequence[dict]) -> list[bytes]:
    """Requests as they are sent, with the name of the server's model."""
    name = httpx.get(f"{url}/models").json()["data"][0]["id"]
    place = urlsplit(url)
    head = f"POST {place.path}/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json"
    contents = [json.dumps({"model": name, **body}).encode() for body in bodies]
    return [f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content for content in contents]


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server, which stays open from one request to the next."""
    place = urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port)


async def ask_all(url: str, requests: Sequence[bytes], clients: int) -> list[Answered]:
    """The answers to all requests, by so many clients, each of which sends the next one when it has an answer."""
    answers: list[Answered | None] = [None] * len(requests)
    todo = iter(enumerate(requests))

    async def client() -> None:
        reader, writer = await connect(url)
        for index, request in todo:
            answers[index] = await ask_one(reader, writer, request)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def ask_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Answered:
    """
    One streamed answer. HTTP is spoken by hand here: a client library would take as much of the machine as the server,
    whose load is measured.

    Raises:
        RuntimeError: If it is refused, or ends early.
    """
    start, first, text = time.perf_counter(), None, ""
    writer.write(request)
    status = await reader.readline()
    if b" 200 " not in status:
        head = (await reader.readuntil(END_OF_HEAD)).decode()
        body = await reader.readexactly(int(re.search(r"content-length: (\d+)", head, re.IGNORECASE)[1]))
        raise RuntimeError(f"A request was refused: {body.decode()}")
    while (line := await reader.readline()) != END_OF_CHUNKS:
        if not line:
            raise RuntimeError("An answer was lost.")
        if not line.startswith(EVENT) or line.startswith(DONE):
            continue
        choices = json.loads(line.removeprefix(EVENT))["choices"]
        piece = "".join(choice["delta"].get("content") or "" for choice in choices)
        first = first or (time.perf_counter() if piece else None)
        text += piece
    await reader.readline()  # the empty line behind the last chunk
    if first is None:
        raise RuntimeError("An answer was lost.")
    return Answered(text, first - start, time.perf_counter() - start)


async def soak(url: str, pid: int, requests: int) -> dict:
    """Good and bad requests by turns, and the server's own memory in MiB in between."""
    good = [body_of(make_question(index)) for index in range(SOAK_CLIENTS * 4)]
    encoded = requests_of(url, good)
    memory, counts = [], {"answered": 0, "refused": 0, "left": 0}
    start = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=None) as http:
        name = (await http.get(f"{url}/models")).json()["data"][0]["id"]
        turns = iter(range(requests))

        async def client() -> None:
            reader, writer = await connect(url)
            for turn in turns:
                number = turn % len(good)
                kind = "answered" if turn % 2 else await send_bad(http, {"model": name, **good[number]}, turn // 2)
                if kind == "answered":
                    await ask_one(reader, writer, encoded[number])
                counts[kind] += 1
                if (turn + 1) % max(1, requests // SOAK_PARTS) == 0:
                    memory.append(round(own_memory(pid) / (1 << 20), 1))
                    log(f"{turn + 1} requests, {memory[-1]} MiB")
            writer.close()

        await asyncio.gather(*(client() for _ in range(SOAK_CLIENTS)))
        health = (await http.get(url.removesuffix("/v1") + "/health")).json()["status"]
    half = len(memory) // 2
    return {
        "requests": requests,
        "seconds": round(time.perf_counter() - start, 1),
        **counts,
        "memory_mib": memory,
        "growth_of_second_half_mib": round(memory[-1] - memory[half - 1], 1) if half else None,
        "health": health,
    }


async def send_bad(http: httpx.AsyncClient, body: dict, turn: int) -> str:
    """A request that is refused, or whose client goes away after the first token: what became of it."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    wrong = [
        {"content": b"{"},
        {"json": {**body, "tools": [{}]}},
        {"json": {**body, "temperature": "hot"}},
        {"json": {**body, "messages": [{"role": "user", "content": [image]}]}},
        {"json": {**body, "messages": [*body["messages"], *body["messages"]]}},
        {"json": {**body, "model": "another"}},
        {"json": {**body, "max_tokens": 10**9}},
        None,
    ][turn % 8]
    if wrong is None:
        async with http.stream("POST", "chat/completions", json={**body, "n": 4, "temperature": 1}) as response:
            await anext(response.aiter_lines())
        return "left"
    response = await http.post("chat/completions", **{"headers": {"Content-Type": "application/json"}, **wrong})
    if response.status_code not in (400, 404):
        raise RuntimeError(f"A wrong request got status {response.status_code}.")
    return "refused"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="flashsloth bench serve", description="The load that flashsloth serve carries.")
    parser.add_argument(
        "--model", metavar="DIR", default=str(SHIPPED_CHECKPOINT), help="model folder (the shipped one)"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights (%(default)s)"
    )
    parser.add_argument("--clients", metavar="N", type=int, nargs="+", default=CLIENTS, help="numbers of clients")
    parser.add_argument(
        "--requests", metavar="N", type=int, help="for each number of clients (96), or of --soak (1000)"
    )
    parser.add_argument(
        "--turns", metavar="N", type=int, default=5, help="of the ratios, that are counted (%(default)s)"
    )
    parser.add_argument("--servers", metavar="N", type=int, default=3, help="of the ratios (%(default)s)")
    parser.add_argument("--batches", metavar="N", type=int, default=4, help="batches of 8 in a turn (%(default)s)")
    parser.add_argument("--soak", action="store_true", help="send good and bad requests, and watch the memory")
    args = parser.parse_args(argv)
    if min(*args.clients, args.turns, args.servers, args.batches, 1 if args.requests is None else args.requests) < 1:
        parser.error("--clients, --requests, --turns, --servers and --batches must be 1 or more")
    return args


if __name__ == "__main__":
    main()
