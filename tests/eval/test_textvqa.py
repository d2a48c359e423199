# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""TextVQA's normalization and score, worked by hand."""

import json

import pytest
from benchmark_files import write_benchmark

from flashsloth.eval.run import read_task, score_answers
from flashsloth.eval.textvqa import normalize, score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("  the  Cat ", "cat"),
        ("A cat and an owl", "cat and owl"),
        ("the", ""),
        ("", ""),
        ("one", "1"),
        ("None", "0"),
        ("zero", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("1,000", "1000"),  # commas go before anything else
        ("a, b", "b"),
        ("3.5", "3.5"),  # a digit follows the dot
        ("3.", "3"),
        ("e.g", "eg"),
        (".5", ".5"),
        ("v.2", "v.2"),
        ("what?", "what"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("Im", "im"),  # the table has "Im", but the words are in lower case by then
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("it's", "it 's"),  # before the contractions are looked up
        ("the dog's", "dog 's"),
        ("coca-cola", "coca cola"),  # no space touches the hyphen: a space takes its place
        ("coca - cola", "coca cola"),
        ("coca-cola - diet", "cocacola diet"),  # one hyphen touches a space: all of them go
        ("(hello)", "hello"),
        ("a/b", "b"),  # "a b", and the article goes
        ("12:30", "12:30"),  # the published list has no colon
        ("50%", "50%"),
        ("$5", "$5"),
        ("Café", "café"),
        ("line one\nline two", "line 1 line 2"),
        ("tab\there", "tab here"),
        ("x" + "." * 40, "x" + "." * 8),  # the published code takes out 32 dots at most
        ("yes!", "yes"),
    ],
)
def test_normalization(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("x", ["x"] * 10, 1.0),
        ("x", ["y"] * 10, 0.0),
        # One of ten: for the nine others it is 1/3, for itself 0.
        ("x", ["x"] + ["y"] * 9, 9 / 30),
        # Two of ten: twice 1/3, eight times 2/3.
        ("x", ["x"] * 2 + ["y"] * 8, (2 / 3 + 16 / 3) / 10),
        # Three of ten: three times 2/3, seven times 1.
        ("x", ["x"] * 3 + ["y"] * 7, 0.9),
        ("x", ["x"] * 4 + ["y"] * 6, 1.0),
        # A tie among the references: either answer is right.
        ("y", ["x"] * 5 + ["y"] * 5, 1.0),
        ("Two.", ["2"] * 2 + ["two", "Two"] + ["3"] * 6, 1.0),
        ("", ["the"] * 10, 1.0),  # both are nothing after normalization
        ("", ["x"] * 10, 0.0),
    ],
)
def test_score(text, answers, expected):
    assert score(text, answers) == pytest.approx(expected)


def test_two_questions_about_an_image_are_told_apart(tmp_path):
    """Labels and answers match by the image's id and the first line of the prompt, in any case."""
    files = write_benchmark("textvqa", tmp_path)
    text = files.labels.read_text().replace("How many years is it aged?", "how many years is it AGED?")
    files.labels.write_text(text)
    task = read_task("textvqa", [files.questions], files.labels)
    # q0: 1.0; q1: wrong; q2: "ten" is 10
    answers = files.write_answers(tmp_path / "a.jsonl", q1="10", q2="Ten")
    report = score_answers(task, answers, tmp_path / "out")
    assert report["scores"] == {"accuracy": pytest.approx(200 / 3)}
    assert report["bootstrap"]["over"] == "images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "0123456789"}, "its 'answers' is '0123456789', not a list"),
        ({"answers": [1] * 10}, r"its 'answers' are \[1, 1, 1, .*, not 10 texts"),
        ({"answers": None}, "its 'answers' is None, not a list"),
        ({"question": None}, "its 'question' is None, not text"),
    ],
)
def test_labels_of_another_type(tmp_path, change, message):
    """A text of ten characters is no list of ten answers."""
    files = write_benchmark("textvqa", tmp_path)
    content = json.loads(files.labels.read_text())
    content["data"][0] |= change
    files.labels.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"entry 0: {message}"):
        read_task("textvqa", [files.questions], files.labels)
