# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The generated pictures and questions: repeatable, disjoint between splits, and true."""

import hashlib
import random

import numpy as np
import pytest

from flashsloth.tiny.data import ROWS, make_dataset, quiz
from flashsloth.tiny.questions import BRIEFLY, KINDS, ask, caption, conversation, name_of
from flashsloth.tiny.scenes import (
    CANVAS,
    HELDOUT_PAIRS,
    SPLITS,
    STYLES,
    TILE,
    _handwriting,
    make_scene,
    render,
)


def scenes(split, count=60):
    return [make_scene(split, style, index) for style in STYLES for index in range(count)]


def test_a_scene_is_a_function_of_split_style_and_index():
    for style in STYLES:
        assert make_scene("train", style, 5) == make_scene("train", style, 5)
        assert make_scene("train", style, 5) != make_scene("train", style, 6)
    assert np.array_equal(render(make_scene("train", "dense", 5)), render(make_scene("train", "dense", 5)))


def test_splits_share_no_picture_and_no_handwriting():
    digests = [
        {hashlib.sha256(render(scene).tobytes()).hexdigest() for scene in scenes(split, 40)} for split in SPLITS
    ]
    assert all(len(digest) == 40 * len(STYLES) for digest in digests)
    assert not set.union(*(first & second for first in digests for second in digests if first is not second))
    owned = [{i for members in _handwriting()[1][split].values() for i in members} for split in SPLITS]
    assert sum(map(len, owned)) == len(set.union(*owned)) == 1797


def test_some_pairs_occur_in_the_heldout_split_only():
    def pairs(split):
        return {(item.color, item.shape) for scene in scenes(split, 300) for item in scene.of_kind("shape")}

    for split in ("train", "validation"):
        assert len(pairs(split)) == 44 and not pairs(split) & set(HELDOUT_PAIRS)
    assert set(HELDOUT_PAIRS) <= pairs("heldout")


@pytest.mark.parametrize("name", ["items", "captions", "questions", "comparisons", "hd"])
def test_training_text_never_names_a_heldout_pair(name):
    text = str([ROWS[name]("train", index)["messages"] for index in range(200)])
    assert not [pair for pair in HELDOUT_PAIRS if " ".join(pair) in text]


def test_objects_stay_inside_their_cells_and_small_text_inside_a_tile():
    for scene in scenes("train"):
        cell = CANVAS // scene.grid
        assert len({(item.column, item.row) for item in scene.items}) == len(scene.items)
        for item in scene.items:
            left, top, right, bottom = item.box
            assert item.column * cell <= left < right <= (item.column + 1) * cell
            assert item.row * cell <= top < bottom <= (item.row + 1) * cell
            if scene.grid == 4:
                assert left // TILE == (right - 1) // TILE and top // TILE == (bottom - 1) // TILE


def test_objects_are_drawn_in_their_boxes_only():
    for scene in scenes("train", 20):
        drawn = np.abs(np.asarray(render(scene)).astype(int) - scene.background).max(-1) > 12
        for item in scene.items:
            left, top, right, bottom = item.box
            assert drawn[top:bottom, left:right].any()
            drawn[top:bottom, left:right] = False
        assert not drawn.any()


def brief_turns(kind, count=150):
    for scene in scenes("heldout", count):
        turn = ask(kind, scene, random.Random(len(scene.items)), brief_share=1.0)
        if turn is not None:
            yield scene, turn.question.removesuffix(f" {BRIEFLY}"), turn.answer


def named(scene, name):
    [item] = [item for item in scene.items if name in (name_of(item), item.shape)]
    return item


def test_relations_are_true():
    # Worked out from the boxes, not from the grid by which the questions are made.
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


def test_what_stands_at_a_place_is_true_and_taught_in_training_only():
    nothing = 0
    for index in range(60):
        scene = make_scene("train", "ordinary", index)
        turn = ask("spot", scene, random.Random(index), brief_share=1)
        place = turn.question.removeprefix("What is ").removesuffix(f"? {BRIEFLY}").split(" the ")[1]
        there = [name_of(item) for item in scene.items if item.place == place]
        assert [turn.answer] == (there or ["nothing"])
        nothing += not there
    assert 0 < nothing < 30 and "spot" not in KINDS
    assert "spot" in {turn.kind for index in range(20) for turn in quiz("train", index, form="any")[1]}
    assert "What is at the" not in str([ROWS["exam"]("heldout", index)["messages"] for index in range(90)])


def test_every_training_row_has_an_answer():
    for name in ("items", "captions", "questions", "comparisons", "hd"):
        assert all(len(ROWS[name]("train", index)["messages"]) >= 2 for index in range(300))


def test_query_stage_asks_about_one_item_of_a_picture_at_a_time():
    rows = [ROWS["items"]("train", index) for index in range(100)]
    asked = str([row["messages"] for row in rows])
    assert all(row["images"] for row in rows)
    assert "Read the" in asked and "Where is the" in asked
    assert not any(text in asked for text in ("How many", "Which is", "Is the", "Is there"))


def test_conversations_have_several_different_questions():
    lengths = []
    for index in range(100):
        turns = conversation(make_scene("train", "ordinary", index), random.Random(index))
        assert turns and len({turn.question for turn in turns}) == len(turns)
        lengths.append(len(turns))
    assert np.mean(lengths) > 3


def test_captions_name_every_object():
    for scene in scenes("train", 20):
        assert all(name_of(item) in caption(scene) for item in scene.items)


def test_exam_has_all_kinds_equally_often():
    exam = make_dataset("exam", "heldout", 36)
    assert {kind: exam["kind"][:].count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 4)
    assert exam[0]["images"][0].size == (CANVAS, CANVAS)
    assert [message["role"] for message in exam[0]["messages"]] == ["user", "assistant"]
    assert exam[0]["messages"][0]["content"][0]["type"] == "image"


def test_the_places_of_two_things_are_taught_in_training_only():
    asked = 0
    for index in range(60):
        scene = make_scene("train", "ordinary", index)
        turn = ask("places", scene, random.Random(index), brief_share=1)
        if turn is not None:
            told = {f"{name_of(item)} {item.place}" for item in scene.items}
            assert set(turn.answer.split(", ")) <= told and len(turn.answer.split(", ")) == 2
            asked += 1
    assert asked > 30 and "places" not in KINDS
    assert "Where are the" in str([ROWS["questions"]("train", index)["messages"] for index in range(20)])
    assert "Where are the" not in str([ROWS["exam"]("heldout", index)["messages"] for index in range(90)])
