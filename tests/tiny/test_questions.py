# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The generated questions: their answers are true."""

import random

import pytest

from flashsloth.tiny.data import ROWS
from flashsloth.tiny.language_data import draw_quiz
from flashsloth.tiny.questions import BRIEFLY, KINDS, ask, caption, name_of
from flashsloth.tiny.scenes import STYLES, make_scene


def scenes(split, count=60):
    """The first scenes of every style."""
    return [make_scene(split, style, index) for style in STYLES for index in range(count)]


def brief_turns(kind, count=150):
    """Held-out scenes, each with a question of a kind and its brief answer."""
    for scene in scenes("heldout", count):
        turn = ask(kind, scene, random.Random(len(scene.items)), brief_share=1.0)
        if turn is not None:
            yield scene, turn.question.removesuffix(f" {BRIEFLY}"), turn.answer


def named(scene, name):
    """The one item of a scene that has a name."""
    [item] = [item for item in scene.items if name in (name_of(item), item.shape)]
    return item


def test_relations_are_true():
    # From the boxes, not from the grid that the questions are made from.
    checked = 0
    for scene, question, answer in brief_turns("relation"):
        if not question.startswith("Which"):
            continue
        direction = question.split(", ")[0].split()[-1]
        first, second = (named(scene, part.strip("?")) for part in question.split(", the ")[1].split(" or the "))
        axis, sign = {"left": (0, 1), "right": (0, -1), "higher": (1, 1), "lower": (1, -1)}[direction]
        best = min(first, second, key=lambda item: sign * (item.box[axis] + item.box[axis + 2]))
        assert answer == name_of(best)
        checked += 1
    assert checked > 50


def test_counts_are_true():
    for scene, question, answer in brief_turns("count"):
        noun = question.removeprefix("How many ").removesuffix(" are there?").removesuffix("s")
        noun = noun.replace("crosse", "cross")
        shapes = scene.of_kind("shape")
        matching = [i for i in shapes if noun in ("shape", i.shape, f"{i.color} shape")]
        assert answer == str(len(matching))


@pytest.mark.parametrize("kind", ["word", "number", "digit"])
def test_readings_are_true(kind):
    for scene, question, answer in brief_turns(kind):
        places = [item for item in scene.of_kind(kind) if scene.grid == 3 and question.endswith(f"the {item.place}?")]
        assert answer in [item.text for item in places or scene.of_kind(kind)]


def test_places_are_true():
    for scene, question, answer in brief_turns("place"):
        left, top, right, bottom = named(scene, question.removeprefix("Where is the ").removesuffix("?")).box
        column, row = (left + right) // 2 // 64, (top + bottom) // 2 // 64
        expected = f"{('top', '', 'bottom')[row]} {('left', '', 'right')[column]}".strip() or "center"
        assert answer == expected


def test_the_item_at_a_place_is_true_and_taught_in_training_only():
    nothing = 0
    for index in range(60):
        scene = make_scene("train", "ordinary", index)
        turn = ask("spot", scene, random.Random(index), brief_share=1)
        place = turn.question.removeprefix("What is ").removesuffix(f"? {BRIEFLY}").split(" the ")[1]
        there = [name_of(item) for item in scene.items if item.place == place]
        assert [turn.answer] == (there or ["nothing"])
        nothing += not there
    assert 0 < nothing < 30 and "spot" not in KINDS
    assert "spot" in {turn.kind for index in range(20) for turn in draw_quiz("train", index, form="any")[1]}
    assert "What is at the" not in str([ROWS["exam"]("heldout", index)["messages"] for index in range(90)])


def test_captions_name_every_item():
    for scene in scenes("train", 20):
        assert all(name_of(item) in caption(scene) for item in scene.items)


def test_the_places_of_two_items_are_taught_in_training_only():
    asked = 0
    for index in range(60):
        scene = make_scene("train", "ordinary", index)
        turn = ask("places", scene, random.Random(index), brief_share=1)
        if turn is not None:
            true = {f"{name_of(item)} {item.place}" for item in scene.items}
            assert set(turn.answer.split(", ")) <= true and len(turn.answer.split(", ")) == 2
            asked += 1
    assert asked > 30 and "places" not in KINDS
    assert "Where are the" in str([ROWS["questions"]("train", index)["messages"] for index in range(20)])
    assert "Where are the" not in str([ROWS["exam"]("heldout", index)["messages"] for index in range(90)])
