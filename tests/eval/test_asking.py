# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Every question is asked once, whatever happens in between, and a failure is never an answer. A function in the place of
the model counts what it is asked.
"""

import errno
import json
import os

import pytest
import torch
from benchmark_files import read_lines

from flashsloth.eval.asking import Process, answered, ask_all, batches_of, forget_failures, merge
from flashsloth.eval.questions import Question
from flashsloth.image_reading_flashsloth import MISSING_IMAGE, UNREACHABLE_IMAGE, ImageError


def make_questions(count: int = 10) -> list[Question]:
    """Questions whose lengths go up and down."""
    return [
        Question(number, (str(number),), f"Question {number}" + "?" * (7 * number % 10), b"", str(number), "")
        for number in range(count)
    ]


def key_of(question_id, prompt):
    return (str(question_id),)


class Model:
    """Answers with the question's number; fails for some, and dies at the call of a number."""

    def __init__(self, fails=(), dies_at=None):
        self.fails, self.dies_at, self.batches = fails, dies_at, []

    def __call__(self, questions):
        if len(self.batches) == self.dies_at:
            raise KeyboardInterrupt
        self.batches.append([question.id for question in questions])
        for question in questions:
            if question.id in self.fails:
                raise ValueError(f"the image of question {question.id} is gone")
        return [f"answer {question.id}" for question in questions]

    @property
    def asked(self):
        return sorted(number for batch in self.batches for number in batch)


def run(folder, model, questions, batch_size=3, process=None):
    ask_all(questions, model, folder, key_of, "model", batch_size, process or Process())


EXPECTED = [f"answer {number}" for number in range(10)]


def test_answers_are_in_the_order_of_the_questions(tmp_path):
    questions, model = make_questions(), Model()
    run(tmp_path, model, questions)
    assert merge(tmp_path, questions, key_of) == EXPECTED
    assert [row["text"] for row in read_lines(tmp_path / "answers.jsonl")] == EXPECTED
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]
    # batches of similar length, the longest first
    lengths = [len(questions[number].prompt) for batch in model.batches for number in batch]
    assert lengths == sorted(lengths, reverse=True) and [len(batch) for batch in model.batches] == [3, 3, 3, 1]


def test_published_format(tmp_path):
    question = Question(7, ("7",), "Which?\nShortly.", b"", "image", "", {"round_id": 0})
    run(tmp_path, Model(), [question])
    merge(tmp_path, [question], key_of)
    (row,) = read_lines(tmp_path / "answers.jsonl")
    assert row.pop("answer_id")
    assert row == {
        "question_id": 7,
        "round_id": 0,
        "prompt": "Which?\nShortly.",
        "text": "answer 7",
        "model_id": "model",
        "metadata": {},
    }


@pytest.mark.parametrize("half_line", ["", '{"question_id": 3, "prom', '{"question_id": 3, "prompt": "Ä'])
def test_a_run_that_died_goes_on(tmp_path, half_line):
    questions, first, second = make_questions(), Model(dies_at=2), Model()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first, questions)
    part = tmp_path / "answers.part-0.jsonl"
    part.write_bytes(part.read_bytes() + half_line.encode()[: -1 if "Ä" in half_line else None])
    run(tmp_path, second, questions)
    assert merge(tmp_path, questions, key_of) == EXPECTED
    assert sorted(first.asked + second.asked) == list(range(10))


SOUND = '{"question_id": 1, "prompt": "What?", "text": "Yes"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": 1, ', "line 2 is not JSON"),
        ('{"a": 1}', "line 2 has no 'question_id'; it has 'a'"),
        ('{"question_id": 1, "prompt": "What?"}', "line 2 has no 'text'"),
        ('{"question_id": 1, "prompt": "What?", "text": null}', "line 2: its 'text' is None, not text"),
        ('{"question_id": [1], "prompt": "What?", "text": "a"}', r"line 2: its 'question_id' is \[1\], not text or a"),
        ("5", "line 2 is a whole number, not an object"),
        ("[" * 100_000, "line 2 holds lists or objects that are nested too deeply"),
        ("\0\0\0", "line 2 is not JSON"),
    ],
)
@pytest.mark.parametrize("name", ["answers.part-0.jsonl", "answers.part-7.jsonl", "answers.jsonl"])
def test_a_damaged_line_is_named(tmp_path, name, line, message):
    (tmp_path / name).write_text(SOUND + line + "\n" + SOUND)
    with pytest.raises(
        ValueError, match=f"{name}, {message}.*Remove the line, or the file, and its questions are asked"
    ):
        run(tmp_path, Model(), make_questions())


def test_a_file_of_answers_that_is_no_text_is_named(tmp_path):
    (tmp_path / "answers.part-0.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"answers.part-0.jsonl is not text in UTF-8.*Remove the line, or the file"):
        run(tmp_path, Model(), make_questions())


def test_a_run_that_died_while_merging_goes_on(tmp_path):
    questions, second = make_questions(), Model()
    run(tmp_path, Model(), questions)
    part = (tmp_path / "answers.part-0.jsonl").read_bytes()
    merge(tmp_path, questions, key_of)
    (tmp_path / "answers.part-0.jsonl").write_bytes(part)  # its removal did not happen
    run(tmp_path, second, questions)
    assert second.asked == [] and merge(tmp_path, questions, key_of) == EXPECTED


def test_processes_share_the_batches_of_one(tmp_path):
    questions, one, models = make_questions(), Model(), [Model(), Model()]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run(tmp_path / "one", one, questions)
    for index, model in enumerate(models):
        run(tmp_path / "two", model, questions, process=Process(index, 2))
    assert sorted(models[0].batches + models[1].batches) == sorted(one.batches)
    assert len(models[0].batches) == len(models[1].batches) == 2
    for name in ("one", "two"):
        assert merge(tmp_path / name, questions, key_of) == EXPECTED
    assert (tmp_path / "one" / "answers.jsonl").read_bytes() == (tmp_path / "two" / "answers.jsonl").read_bytes()


def test_another_number_of_processes_may_go_on(tmp_path):
    questions, first, second = make_questions(), Model(), Model()
    run(tmp_path, first, questions, process=Process(2, 3))  # the other two died at once
    run(tmp_path, second, questions)
    assert sorted(first.asked + second.asked) == list(range(10))
    assert merge(tmp_path, questions, key_of) == EXPECTED


def test_failures_are_listed_and_never_answers(tmp_path):
    questions, model = make_questions(), Model(fails={4, 5})
    run(tmp_path, model, questions)
    with pytest.raises(ValueError, match="2 of 10 questions failed.*the image of question .* is gone"):
        merge(tmp_path, questions, key_of)
    assert sorted(row["question_id"] for row in read_lines(tmp_path / "failures.jsonl")) == [4, 5]
    assert not (tmp_path / "answers.jsonl").exists()
    assert len(answered(tmp_path, key_of)) == 8  # the rest of their batches was asked
    # the same again, with the images back
    forget_failures(tmp_path)
    second = Model()
    run(tmp_path, second, questions)
    assert second.asked == [4, 5] and merge(tmp_path, questions, key_of) == EXPECTED
    assert not (tmp_path / "failures.jsonl").exists()


def test_an_error_of_the_program_is_no_failure_of_a_question(tmp_path):
    def ask(questions):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, ask, make_questions())


def fail_with(error):
    def ask(questions):
        raise error

    return ask


class Half:
    """Answers, and then fails."""

    def __init__(self, error):
        self.error, self.count = error, 0

    def __call__(self, questions):
        self.count += 1
        if self.count > 2:
            raise self.error
        return [f"answer {question.id}" for question in questions]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\n a total"),
            "CUDA out of memory",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "can't allocate memory: you",
        ),
        (MemoryError(), ""),
    ],
)
@pytest.mark.parametrize(("batch_size", "remedy"), [(3, "lower --batch-size"), (1, "use a machine with more")])
def test_too_little_memory_names_the_remedy_and_keeps_the_answers(tmp_path, error, reason, batch_size, remedy):
    questions, second = make_questions(), Model()
    with pytest.raises(MemoryError) as raised:
        run(tmp_path, Half(error), questions, batch_size)
    message = str(raised.value)
    assert message.startswith(f"for a batch of {batch_size}") and "\n" not in message
    assert reason in message and remedy in message and "the same command continues after them" in message
    run(tmp_path, second, questions, 1)
    assert len(second.asked) == 10 - 2 * batch_size and merge(tmp_path, questions, key_of) == EXPECTED


def test_a_device_that_fails_is_an_error_of_the_system(tmp_path):
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
    with pytest.raises(
        OSError, match=r"^The device has failed \(CUDA error: an illegal memory access .*continues after"
    ):
        run(tmp_path, fail_with(error), make_questions())


UNREADABLE = ImageError("image 4 cannot be read: Input/output error.", UNREACHABLE_IMAGE)
UNREADABLE.__cause__ = OSError(errno.EIO, "Input/output error")
FORBIDDEN = ImageError("image 4 cannot be read: Permission denied.", UNREACHABLE_IMAGE)
FORBIDDEN.__cause__ = PermissionError(errno.EACCES, "Permission denied")
MISSING = ImageError("image 4 is not an existing file.", MISSING_IMAGE)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([MISSING], ValueError),
        ([FORBIDDEN], ValueError),
        ([ValueError("the prompt is longer than the decoder")], ValueError),
        ([FileNotFoundError(errno.ENOENT, "No such file")], ValueError),
        ([UNREADABLE], OSError),
        ([OSError(errno.EIO, "Input/output error")], OSError),
        ([UNREADABLE, MISSING], ValueError),  # what the user can do comes first
    ],
)
def test_the_input_or_the_machine_is_to_blame(tmp_path, errors, kind):
    questions, left = make_questions(), list(errors)

    def ask(batch):
        if len(batch) == 1 and left:
            raise left.pop()
        if left:
            raise ValueError("one of them")
        return ["yes" for _ in batch]

    run(tmp_path, ask, questions)
    with pytest.raises(kind, match=f"{len(errors)} of 10 questions failed"):
        merge(tmp_path, questions, key_of)
    causes = {row["cause"] for row in read_lines(tmp_path / "failures.jsonl")}
    assert causes <= {"input", "machine"} and (causes == {"machine"}) == (kind is OSError)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*answers.part-0.jsonl'"):
        run(tmp_path, Model(), make_questions())


def test_progress_shows_what_is_left(tmp_path, capsys):
    questions = make_questions()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Model(dies_at=2), questions)
    capsys.readouterr()
    run(tmp_path, Model(), questions)
    shown = capsys.readouterr().err
    assert "60%" in shown and "6/10" in shown and "10/10" in shown and "<" in shown  # the time left


def test_batches_do_not_depend_on_the_order_of_the_file():
    questions = make_questions()
    assert batches_of(questions, 4) == batches_of(questions[::-1], 4)


def test_lines_are_json_without_escapes(tmp_path):
    question = Question("é", ("é",), "Où?", b"", "image", "")
    run(tmp_path, lambda questions: ["là"], [question])
    text = (tmp_path / "answers.part-0.jsonl").read_text(encoding="utf-8")
    assert "là" in text and json.loads(text)["text"] == "là"
