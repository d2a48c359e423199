# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A model of torch answers a batch as it answers each question alone."""

import pytest
from samples import make_image, make_model

from flashsloth.assistant.assistant import Assistant
from flashsloth.assistant.torch_backend import TorchBackend
from flashsloth.eval.greedy import GreedyModel
from flashsloth.eval.questions import Question


def test_a_model_answers_a_batch_as_one_by_one(processor, tmp_path):
    """Images from files and from bytes, prompts of different lengths."""
    questions = []
    for number, prompt in enumerate(["What?", "What is to be seen in this image, and where?", "Which one?"]):
        make_image(number).save(tmp_path / f"{number}.png")
        file = tmp_path / f"{number}.png"
        image = file.read_bytes() if number == 1 else file
        questions.append(Question(number, (str(number),), prompt, image, file.name, ""))
    ask = GreedyModel(make_model().float(), processor, max_new_tokens=6)
    answers = ask(questions)
    assert answers == [ask([question])[0] for question in questions]
    assert len(set(answers)) > 1


def test_an_answer_ends_with_the_decoders_positions(processor, tmp_path):
    """As that of `ask`; a longer prompt beside it shortens no other answer."""
    make_image(0).save(tmp_path / "a.png")
    file, prompts, model = tmp_path / "a.png", ["What?", "w" * 838], make_model().float()
    questions = [Question(number, (str(number),), text, file, file.name, "") for number, text in enumerate(prompts)]
    ask = GreedyModel(model, processor, max_new_tokens=40)
    answers = ask(questions)
    assert answers == [ask([question])[0] for question in questions]
    assistant = Assistant(TorchBackend(model, processor), processor)
    expected = assistant.ask([file, file], prompts, max_new_tokens=40)
    assert answers == list(map(str, expected))
    assert expected[1].finish_reason == "length" and expected[1].num_tokens < 10 < expected[0].num_tokens


def test_an_image_that_cannot_be_read_names_the_question(processor, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    ask = GreedyModel(make_model(), processor, max_new_tokens=2)
    with pytest.raises(ValueError, match="the image .* of question '7' "):
        ask([Question(7, ("7",), "What?", tmp_path / "a.png", "a.png", "")])
