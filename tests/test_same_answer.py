# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Python, the terminal, the server, the demo and a data set are ways to the same answers, by torch and by onnxruntime:
those of `generate`, and true ones for the shipped example.
"""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from openai_server import NAME, question, running_server_of

import flashsloth
from flashsloth import cli
from flashsloth.eval.greedy import GreedyModel
from flashsloth.eval.questions import Question
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor
from flashsloth.serve.demo import load_models, running


SCENE = Path(flashsloth.__file__).parent / "examples" / "scene.png"
TRUE = {
    "What colour is the square?": "The square is red.",
    "How many shapes are there?": "There are 3 shapes.",
    "Which digit is written by hand? Answer briefly.": "4",
    "Is there a horse?": None,  # whatever the model says: it never learned of horses
}
QUESTIONS = list(TRUE)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """The answers of plain `generate`, one question after the other."""
    ask = GreedyModel(*load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype="float32"), max_new_tokens=64)
    questions = [Question(text, (text,), text, SCENE, SCENE.name, "") for text in QUESTIONS]
    return [answer for question in questions for answer in ask([question])]


@pytest.fixture(params=["torch", "onnxruntime"])
def options(request) -> list[str]:
    """Of a command, that choose what computes."""
    if request.param == "torch":
        return ["--model", str(SHIPPED_CHECKPOINT), "--dtype", "float32"]
    return ["--model", str(request.getfixturevalue("exported")), "--backend", "onnxruntime", "--dtype", "float32"]


@pytest.fixture(params=["torch", "onnxruntime"])
def assistant(request):
    if request.param == "torch":
        return flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32", device="cpu")
    return flashsloth.load(request.getfixturevalue("exported"), backend="onnxruntime", dtype="float32")


def test_generate_is_right(expected):
    assert [TRUE[text] or answer for text, answer in zip(QUESTIONS, expected, strict=True)] == expected


def test_python(assistant, expected):
    assert list(map(str, assistant.ask([SCENE] * len(QUESTIONS), QUESTIONS))) == expected
    assert ["".join(assistant.stream(SCENE, text)) for text in QUESTIONS] == expected
    assert [str(assistant.chat().ask(text, images=SCENE)) for text in QUESTIONS] == expected


def test_openai_client(assistant, expected):
    with running_server_of(assistant) as server:
        answers = [
            server.client().chat.completions.create(model=NAME, messages=[question(text, SCENE)], temperature=0)
            for text in QUESTIONS
        ]
    assert [answer.choices[0].message.content for answer in answers] == expected


def test_ask(options, expected, capsys):
    for text, answer in zip(QUESTIONS, expected, strict=True):
        assert cli.main(["ask", *options, "--image", str(SCENE), text]) == 0
        assert capsys.readouterr().out == f"{answer}\n"


def test_chat(options, expected, monkeypatch, capsys):
    lines = "".join(f"/reset\n/image {SCENE}\n{text}\n" for text in QUESTIONS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="utf-8"))
    assert cli.main(["chat", *options]) == 0
    assert capsys.readouterr().out.splitlines() == expected


def test_a_data_set(options, expected, tmp_path):
    rows = [{"image": str(SCENE), "question": text} for text in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["answer", str(tmp_path / "questions.jsonl"), "--output", str(tmp_path / "out"), *options]) == 0
    answers = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in answers] == expected


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["accelerate"] = None  # as if they were not installed
from flashsloth.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_benchmark_without_torch(exported, expected, tmp_path):
    """The questions are not POPE's, but in its form."""
    rows = [
        {"question_id": number, "image": SCENE.name, "text": text, "category": "random"}
        for number, text in enumerate(QUESTIONS)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", "--task", "pope", "--questions", tmp_path / "questions.jsonl", "--images", SCENE.parent]
    command += ["--model", exported, "--backend", "onnxruntime", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in answers] == expected
    assert "onnxruntime" in json.loads((tmp_path / "out" / "report.json").read_text())["versions"]


def test_the_demo(expected):
    models = load_models([SHIPPED_CHECKPOINT], dtype="float32")
    with running(models) as demo:
        answers = []
        for text in QUESTIONS:  # each by a visitor of its own
            client = Client(demo.address, verbose=False)
            message = {"text": text, "files": [handle_file(SCENE)]}
            messages, *_ = client.predict(message, *models, "Query tokens", 0, 1, 64, api_name="/ask")
            answers.append(messages[-1]["content"][-1]["text"])
            client.close()
    assert answers == expected
