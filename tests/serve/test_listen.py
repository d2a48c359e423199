# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The command in a process of its own: it is ready when it says so, and finishes what runs when it is stopped."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from openai_server import NAME, question

import flashsloth
from flashsloth import cli
from flashsloth.serve.listen import API_KEY_VARIABLE, default_name, listen_at, url_of


SCENE = Path(flashsloth.__file__).parent / "examples" / "scene.png"
KEY = "sk-4711"
SECRET = "zebra-4711"


class Command:
    """`flashsloth serve` with options, on a free port."""

    def __init__(self, *options: str, **variables: str):
        command = [sys.executable, "-m", "flashsloth", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
        )
        self.log = ""
        while (line := self.process.stderr.readline()) and " at http" not in line:
            self.log += line
        assert line, self.log
        self.url = re.search(r"http://[^ ,]+", line).group()

    def stop(self, number: int) -> tuple[int, str, str]:
        """Exit status and both streams after a signal."""
        self.process.send_signal(number)
        output, log = self.process.communicate(timeout=120)
        return self.process.returncode, output, self.log + log


def test_sigterm_finishes_what_runs_and_refuses_what_comes():
    command = Command(**{API_KEY_VARIABLE: KEY})
    client = openai.OpenAI(base_url=command.url, api_key=KEY, max_retries=0)
    assert urllib.request.urlopen(command.url.removesuffix("/v1") + "/health").status == 200
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    stream = client.chat.completions.create(
        model=NAME,
        messages=[question(f"What is {SECRET}? Describe the image.", SCENE)],
        stream=True,
        n=16,
        temperature=2,
        seed=1,
        max_tokens=300,
    )
    chunks = iter(stream)
    next(chunks)
    stopping = threading.Timer(0, command.process.send_signal, [signal.SIGTERM])
    stopping.start()
    stopping.join()
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert len([reason for reason in reasons if reason]) == 16, "an answer was cut off"
    output, log = command.process.communicate(timeout=120)
    assert command.process.returncode == 128 + signal.SIGTERM and output == ""
    assert "POST /v1/chat/completions 200" in log and "GET /v1/models 401" in log
    assert SECRET not in log and KEY not in log and "Traceback" not in log
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(command.url.removesuffix("/v1") + "/health")


def test_options_name_the_model_and_limit_requests():
    command = Command("--model-name", "sloth", "--max-images", "1", "--max-image-pixels", "1000", "--hd")
    client = openai.OpenAI(base_url=command.url, api_key="none", max_retries=0)

    def ask(*images):
        messages = [question("What colour is the square?", *images)]
        return client.chat.completions.create(model="sloth", messages=messages)

    assert [model.id for model in client.models.list()] == ["sloth"]
    with pytest.raises(openai.BadRequestError, match="at most 1 "):
        ask(SCENE, SCENE)
    with pytest.raises(openai.BadRequestError, match="more than 1,000 pixels"):
        ask(SCENE)
    assert ask().usage.completion_tokens
    status, _, log = command.stop(signal.SIGINT)
    assert status == 128 + signal.SIGINT and "Interrupted." in log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "'70000' is not a port"),
        (["--host", "no.such.host.invalid"], "Cannot listen at no.such.host.invalid"),
        (["--max-waiting", "0"], "'0' is not a whole number of 1 or more"),
        (["--allow-private-addresses"], "add --allow-image-urls"),
        (["--api-key", "a b"], "printable ASCII without spaces"),
        (["--api-key", ""], "printable ASCII without spaces"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_wrong_options_are_one_line(words, message, capsys):
    try:
        status = cli.main(["serve", "--port", "0", *words])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and message in error[-1]
    assert sum("error" in line for line in error) == 1


def test_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Cannot listen at 127.0.0.1" in capsys.readouterr().err


def test_no_connection_before_the_model_answers():
    with listen_at("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname(), timeout=5)
    with listen_at("localhost", 0) as listener:
        assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):\d+/v1", url_of(listener))


def test_default_name(tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert default_name(str(tmp_path / "my-model")) == default_name(".") == "my-model"
    assert default_name("owner/name") == "owner/name"


def test_missing_extra_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("flashsloth.serve.listen", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delattr(flashsloth.serve, "listen", raising=False)
    assert cli.main(["serve"]) == 2
    assert "serve needs uvicorn; install it with: pip install 'flashsloth[serve]'" in capsys.readouterr().err
