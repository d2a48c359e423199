# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Keys that change what a row means are honoured, or make the row a broken one; all others are passed over."""

import base64
import io
import json
import re

import pytest
from datasets import Audio, Dataset
from raw_rows import IMAGE, chat, decoded, llava, load, text
from samples import make_image

from flashsloth.train.data import DataSource
from flashsloth.train.data.formats import make_row


def llava_turn(role: int, **keys) -> dict:
    """A row in LLaVA's form; the question (0) or the answer (1) has more keys."""
    row = llava("Hi?", "Hello.")
    row["conversations"][role] |= keys
    return row


def chat_turn(role: int, **keys) -> dict:
    """The same as `messages`."""
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    messages[role] |= keys
    return {"messages": messages}


def part(**keys) -> dict:
    """A row whose question has one part more."""
    return {"messages": chat([text("Hi?"), keys], "Hello.")}


BAD_INPUT = {
    "an answer with `loss: false`": (llava_turn(1, loss=False), "message 1 has 'loss', False; turns cannot be marked"),
    "an answer with `weight: 0`": (chat_turn(1, weight=0), "message 1 has 'weight', 0; turns cannot be marked"),
    "an answer with another weight": (chat_turn(1, weight=0.5), "message 1 has 'weight', 0.5"),
    "an answer with `train: false`": (chat_turn(1, train=False), "'train', False"),
    'an answer with `train: "false"`': (chat_turn(1, train="false"), "'train', 'false'"),
    "an answer with `masked: true`": (llava_turn(1, masked=True), "'masked', True"),
    "an answer with `ignore: true`": (llava_turn(1, ignore=True), "'ignore', True"),
    "an answer with `no_loss: true`": (llava_turn(1, no_loss=True), "'no_loss', True"),
    "an answer with `trainOnTurn: false`": (chat_turn(1, trainOnTurn=False), "'trainOnTurn', False"),
    "an answer with a loss mask": (chat_turn(1, loss_mask=0), "'loss_mask', 0"),
    "a question that is to be learned": (chat_turn(0, train=True), "message 0 has 'train', True"),
    "a row with `train: false`": (llava("Hi?", train=False), "it has 'train', False"),
    "a row with a weight": (llava("Hi?", weight=2), "it has 'weight', 2"),
    "a row with a mask of its turns": (llava("Hi?", mask=[0, 1]), r"it has 'mask', \[0, 1\]"),
    "a row with marks of its turns": (llava("Hi?", loss=[False, False]), r"it has 'loss', \[False, False\]"),
    "a completion that is not desired": ({"prompt": "a", "completion": "b", "label": False}, "'label', False"),
    "a completion mask": (chat_turn(1, completion_mask=[0, 0]), "'completion_mask'"),
    "a mask of the assistant": (chat_turn(1, assistant_masks=[0, 0]), "'assistant_masks'"),
    "a row with a mask of the assistant": (llava("Hi?", assistant_masks=[[0, 0]]), "'assistant_masks'"),
    "a number that is a text": (llava_turn(1, lossScale="0.0"), "'lossScale', '0.0'"),
    'an answer with `loss: "off"`': (chat_turn(1, loss="off"), "'loss', 'off'"),
    'an answer with `loss: "none"`': (chat_turn(1, loss="none"), "'loss', 'none'"),
    "marks with a gap": (llava("Hi?", loss=[0, None]), "'loss'"),
    "`train: false` for a part of an answer": (
        chat_turn(1, train_detail=[{"begin_offset": 0, "end_offset": 3, "train": False}]),
        "'train_detail'",
    ),
    "a completion with the label 0": ({"prompt": "a", "completion": "b", "label": 0}, "'label', 0"),
    "a conversation with the label 0": (chat_turn(1) | {"label": "0"}, "'label', '0'"),
    "a rejected answer beside one": ({"question": "a", "answer": "b", "rejected_answer": "c"}, "'rejected_answer'"),
    "a rejected response": ({"query": "a", "response": "b", "rejectedResponse": "c"}, "'rejectedResponse'"),
    "reasoning of a row": ({"question": "a", "answer": "b", "reasoning": "c"}, "'reasoning'.*into the answer"),
    "thinking of a row": (llava("Hi?", thinking="c"), "it has 'thinking'"),
    "instructions": (llava("Hi?", instructions="Be brief."), "'instructions'.*rename it to system"),
    "a developer's prompt": (llava("Hi?", developer="Be brief."), "'developer'.*rename it to system"),
    **{
        f"an image in {key}": ({"question": "a", "answer": "b", key: value}, f"it has '{key}'.*rename it to images")
        for key, value in {
            **dict.fromkeys(("file_name", "image_filename", "image1", "image_0", "jpg", "png"), "a.PNG"),
            **dict.fromkeys(("media", "attachments", "file_paths"), ["a.jpg"]),
        }.items()
    },
    "a second image": (llava("<image>", image="a.png", image_2="b.png"), "it has 'image_2'.*learned without"),
    "`weight` in an entry of `texts`": ({"texts": [{"user": "a", "assistant": "b", "weight": 0}]}, "'weight', 0"),
    "`weight` in a part": (
        {"messages": chat("a", [text("b") | {"weight": 0}])},
        "a part of message 1 has 'weight', 0",
    ),
    "a row with `video`": (llava("Hi?", video="a.mp4"), "it has 'video', 'a.mp4'; the model takes images and text"),
    "a row with `videos`": (llava("Hi?", videos=["a.mp4"]), "it has 'videos'"),
    "a row with `video_path`": (llava("Hi?", video_path="a.mp4"), "it has 'video_path'"),
    "a row with `audio`": (llava("Hi?", audio={"path": "a.wav"}), "it has 'audio'"),
    "a turn with `audio`": (chat_turn(0, audio="a.wav"), "message 0 has 'audio'"),
    "`<video>` in LLaVA's form": (llava("<video>\nHi?"), "a question has <video>, but the model takes images"),
    "`<audio>` in messages": (chat_turn(0, content="<audio>Hi?"), "a question has <audio>"),
    "`<video>` in a question": ({"question": "<video> Hi?", "answer": "Hello."}, "a question has <video>"),
    "a row with `tools`": (llava("Hi?", tools=[{"name": "f"}]), "it has 'tools'.*cannot be learned"),
    "a row with `tools` as a text": (llava("Hi?", tools="[f]"), "it has 'tools'"),
    "an answer with `tool_calls`": (chat_turn(1, tool_calls=[{"id": 1}]), "message 1 has 'tool_calls'"),
    "a turn with `tool_call_id`": (chat_turn(0, tool_call_id="x"), "message 0 has 'tool_call_id'"),
    "`reasoning_content`": (chat_turn(1, reasoning_content="Hm."), "'reasoning_content'.*write it into the answer"),
    "`thinking`": (chat_turn(1, thinking="Hm."), "message 1 has 'thinking'"),
    "a rejected answer": (llava("Hi?", rejected="No."), "it has 'rejected', 'No.'; answers are learned"),
    "a chat template": (llava("Hi?", chat_template="{{ x }}"), "it has 'chat_template'"),
    "images in a turn": (chat_turn(0, images=["a.png"]), "message 0 has 'images'.*belongs to the row"),
    "images under another name": (chat_turn(0) | {"image_path": "a.png"}, "it has 'image_path', 'a.png'; .*rename"),
    "a part with an unknown place for its image": (part(type="image", source={"data": "x"}), "the image in 'source'"),
    "images in parts and a column": (
        {"messages": chat([{"type": "image", "image": "a.png"}], "A."), "images": ["b.png"]},
        "images in both images and the parts of its content",
    ),
    "two images in a part": (part(type="image", image="a.png", url="b.png"), "has both image and url"),
    "images in another order": (
        {"messages": chat([{"type": "image", "index": 1}, {"type": "image", "index": 0}], "A."), "images": ["a", "b"]},
        r"its parts name the images \[1, 0\]; they have to be in order",
    ),
    "an image with a text": (part(type="image", image="a.png", text="What?"), "is an image and has the text 'What.'"),
    "a text with an image": (part(type="text", text="What?", image="a.png"), "has 'image', 'a.png'; an image belongs"),
    "two conversations": (llava("Hi?") | chat_turn(0), "a conversation in both messages and conversations"),
    "a conversation and a completion": (
        llava("Hi?", prompt="a", completion="b"),
        "in both conversations and prompt and",
    ),
    "base64 that is none": (part(type="image", base64="a.png"), "an image is 'a.png', which is no base64"),
    "two system prompts": (
        {"system": "A.", "messages": [{"role": "system", "content": "B."}, *chat_turn(0)["messages"]]},
        "it has two system prompts: one in 'system'",
    ),
    "a system prompt that is no text": (llava("Hi?", system={"a": 1}), "one of its texts is {'a': 1}"),
    "a question with choices": ({"question": "a", "choices": ["b"], "answer": "b"}, "it has 'choices'.*write it into"),
    "a question with a context": ({"question": "a", "context": "b", "answer": "b"}, "it has 'context', 'b', beside"),
    "a question with its history": ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "it has 'history'"),
}


@pytest.mark.parametrize(("raw_row", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_keys_that_training_cannot_follow_are_named(raw_row, message):
    row = make_row(raw_row, 0, "/images", captions=False)
    assert row["messages"] == []
    assert row["problem"] and re.search(message, row["problem"]), row["problem"]


@pytest.mark.parametrize(
    "raw_row",
    [
        llava(
            "Hi?",
            "Hello.",
            source="web",
            url="https://a",
            width=3,
            score=0.5,
            topic="x",
            data_1="x",
            model="gpt",
            split="train",
        ),
        llava("Hi?", "Hello.", video=None, videos=[], audio="", tools=[], rejected=None, images=[], system=""),
        llava("Hi?", "Hello.", video_id="v7", has_audio=False, num_videos=3, audio_duration=1.5, training_id=7),
        llava("Hi?", "Hello.", weight=1.0, loss=True, mask=None, exclude=False, label="greeting", image_id=7),
        llava("Hi?", "Hello.", mask="segmentation.png", system_fingerprint="fp", train="coco", prompt_id="x"),
        llava("Hi?", "Hello.", label=0, file_name="rows.json", path="a/b", chosen_score=1, loss="cross entropy"),
        chat_turn(1, train_detail=[{"begin_offset": 0, "end_offset": 5, "train": True}], lossScale="1.0"),
        llava_turn(0, train=False, weight=0),
        llava_turn(0, weight=1),
        llava_turn(1, loss=True, weight=1, no_loss=False, masked=0, train="true", markdown=None, language="en"),
        chat_turn(1) | {"prompt": "Hi?", "question": "Hi?", "answer": "Hello."},
        chat_turn(1, name="bot", tool_calls=None, refusal=None, reasoning_content="", timestamp=3),
        {"texts": [{"user": "Hi?", "assistant": "Hello.", "source": "web"}], "relevance_ratings": [1]},
        {"messages": chat([text("Hi?") | {"index": None, "cache_control": {"type": "ephemeral"}}], "Hello.")},
    ],
)
def test_metadata_is_passed_over(raw_row):
    row = make_row(raw_row, 0, "/images", captions=False)
    assert (row["problem"], row["messages"]) == (None, chat("Hi?", "Hello."))


@pytest.mark.parametrize("key", ["system", "system_prompt", "systemPrompt", "system_message", "sys_prompt"])
def test_a_system_prompt_is_learned_with_its_row(key, processor):
    row = make_row(llava("Hi?", "Hello.", **{key: "Be brief."}), 0, "/images", captions=False)
    assert row["messages"] == [{"role": "system", "content": [text("Be brief.")]}, *chat("Hi?", "Hello.")]
    assert processor.apply_chat_template(row["messages"]).startswith("Be brief. USER: Hi?")
    again = {key: "Be brief.", "messages": [{"role": "system", "content": "Be brief."}, *chat_turn(0)["messages"]]}
    assert make_row(again, 0, "/images", captions=False)["messages"] == row["messages"]


def test_a_developer_s_message_is_the_system_prompt():
    row = make_row(
        {"messages": [{"role": "developer", "content": "Be brief."}, *chat_turn(1)["messages"]]}, 0, "/", False
    )
    assert row["messages"][0] == {"role": "system", "content": [text("Be brief.")]}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    make_image(seed).save(file, "PNG")
    return file.getvalue()


ENCODED = base64.b64encode(png(0)).decode()
PARTS = {
    "a path": {"type": "image", "image": "0.png"},
    "a path by name": {"type": "image", "path": "0.png"},
    "base64": {"type": "image", "base64": ENCODED},
    "a data URL": {"type": "image", "url": f"data:image/png;base64,{ENCODED}"},
    "OpenAI's form": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED}", "detail": "low"}},
    "bytes": {"type": "image", "image": {"bytes": png(0), "path": None}},
    "an index": {"type": "image", "index": 0},
}


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", PARTS)
def test_images_in_the_parts_of_a_content(form, streaming, kind, tmp_path, image_folder):
    image = PARTS[form]
    if form == "bytes" and kind != "parquet":
        pytest.skip("JSON has no bytes")
    raw_row = {"messages": chat([image, {"type": "text", "text": "What?"}], "Noise.")}
    if form == "an index":
        raw_row["images"] = ["0.png"]
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        Dataset.from_list([raw_row]).to_parquet(file)
    else:
        file.write_text(json.dumps([raw_row] if kind == "json" else raw_row))
    [row] = load(DataSource(str(file), image_folder=str(image_folder), streaming=streaming))
    assert (row["problem"], row["num_images"]) == (None, 1)
    assert row["messages"] == chat([IMAGE, text("What?")], "Noise.")
    assert decoded(row)[0].tobytes() == make_image(0).tobytes()


def test_images_that_a_row_has_twice():
    """In a column and in the parts, as some sets have them."""
    part = {"type": "image", "image": "a.png"}
    row = make_row({"messages": chat([part, part], "A."), "images": ["a.png", "a.png"]}, 0, "/images", captions=False)
    assert (row["problem"], row["num_images"]) == (None, 2)


def test_encoded_images_in_a_column_and_in_parts_of_a_table(tmp_path):
    """The column of images would stay as it is, without those of the parts."""
    parts = [{"type": "image", "image": {"bytes": png(0), "path": None}}, {"type": "text", "text": "What?"}]
    rows = [{"images": [], "messages": chat(parts, "Noise.")}]
    rows.append({"images": [{"bytes": png(1), "path": None}], "messages": chat([{"type": "image"}], "B.")})
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    first, second = load(str(tmp_path / "rows.parquet"))
    assert decoded(first)[0].tobytes() == make_image(0).tobytes()
    assert decoded(second)[0].tobytes() == make_image(1).tobytes()


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_tables_are_not_passed_over_either(streaming, tmp_path):
    rows = {
        "messages": [chat("Hi?", "Hello.")] * 3,
        "video": ["clip.mp4", None, None],
        "audio": [None, {"bytes": b"no audio", "path": None}, None],
        "system": [None, None, "Be brief."],
        "url": ["https://a"] * 3,
    }
    Dataset.from_dict(rows).cast_column("audio", Audio()).to_parquet(tmp_path / "rows.parquet")
    loaded = load(DataSource(str(tmp_path / "rows.parquet"), streaming=streaming))
    fine, audio, video = sorted(loaded, key=lambda row: row["problem"] or "")
    assert "it has 'audio'" in audio["problem"] and "it has 'video', 'clip.mp4'" in video["problem"]
    assert fine["messages"][0] == {"role": "system", "content": [text("Be brief.")]}
