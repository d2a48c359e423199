# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Raw rows of every form become rows of one form."""

import base64

import pytest
from datasets import Image
from raw_rows import IMAGE, chat, llava, text
from samples import make_image

from flashsloth.train.data.formats import FEATURES, conversation, make_row


ENCODED = Image().encode_example(make_image(0))  # the bytes of a file


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("0.png", {"bytes": None, "path": "/images/0.png"}),
        ("/elsewhere/0.png", {"bytes": None, "path": "/elsewhere/0.png"}),
        ("https://host/0.png", {"bytes": None, "path": "https://host/0.png"}),
        ("file:///images/a%20b.png", {"bytes": None, "path": "/images/a b.png"}),
        ("FILE:///images/a%20b.png", {"bytes": None, "path": "/images/a b.png"}),
        ("DATA:image/png;base64,AAAA", {"bytes": bytes(3), "path": None}),
        ("data:image/png;base64," + base64.b64encode(b"content").decode(), {"bytes": b"content", "path": None}),
        (base64.b64encode(ENCODED["bytes"]).decode(), {"bytes": ENCODED["bytes"], "path": None}),
        ("/9j/photos.d/0.jpg", {"bytes": None, "path": "/9j/photos.d/0.jpg"}),
        (b"content", {"bytes": b"content", "path": None}),
        ({"bytes": b"content"}, {"bytes": b"content", "path": None}),
        ({"bytes": b"content", "path": "0.png"}, {"bytes": b"content", "path": "0.png"}),
        ({"path": "0.png"}, {"bytes": None, "path": "/images/0.png"}),
        ({"bytes": None, "path": None}, None),
        (make_image(0), ENCODED),
    ],
)
def test_images_of_a_raw_row(image, expected):
    """As paths, URLs, bytes, or what `datasets` has in their place; one of them or a list."""
    for images in (image, [image]):
        row = make_row(llava(id=7, image=images), 0, "/images", captions=False)
        assert row.keys() == FEATURES.keys()
        assert row["images"] == [expected] and row["num_images"] == 1
        assert row["id"] == "7" and row["problem"] is None
        assert row["messages"] == chat([IMAGE, text("What is it?")], "A bird.")
        assert row["length"] == len("What is it?A bird.")


def test_a_raw_row_of_no_form_says_what_is_wrong():
    row = make_row({"caption": "A bird."}, 3, "/images", captions=False)
    assert row == {
        "id": "3",
        "images": [],
        "messages": [],
        "num_images": 0,
        "length": 0,
        "problem": "it has the columns caption; it needs messages, prompt and completion, conversations, or texts",
    }


@pytest.mark.parametrize(
    ("raw_row", "num_images", "expected"),
    [
        # The published training moves a lone image to the front, whatever surrounds it.
        (llava("What is it?\n<image>"), 1, chat([IMAGE, text("What is it?")], "A bird.")),
        (llava("<image>\n<image>\nWhich?"), 2, chat([IMAGE, IMAGE, text("Which?")], "A bird.")),
        (llava("<image>"), 1, chat([IMAGE], "A bird.")),
        # What looks like a token but is none of the form's placeholders stays text.
        (llava("Say </s>", "<image> and </s>"), 0, chat("Say </s>", "<image> and </s>")),
        ({"messages": chat([text("Is <image> a tag?")], "Yes.")}, 0, chat("Is <image> a tag?", "Yes.")),
        ({"messages": [{"role": "user", "content": "An <image> tag"}]}, 0, chat("An <image> tag")),
        # Strings with images: at their placeholders, or in front of the first.
        ({"messages": [{"role": "user", "content": "It?<image>"}]}, 1, chat([IMAGE, text("It?")])),
        ({"messages": [{"role": "user", "content": "It?"}]}, 2, chat([IMAGE, IMAGE, text("It?")])),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 1, chat([IMAGE])),
        ({"prompt": "One?", "completion": "Two."}, 1, chat([IMAGE, text("One?")], "Two.")),
        ({"prompt": chat("One?"), "completion": chat("One?", "Two.")[1:]}, 0, chat("One?", "Two.")),
        (
            {"texts": [{"user": "A?", "assistant": "B.", "source": "s"}, {"user": "C?", "assistant": "D."}]},
            1,
            chat([IMAGE, text("A?")], "B.", "C?", "D."),
        ),
        # Broken rows are for the check to name.
        (llava(""), 1, chat([], "A bird.")),
    ],
)
def test_conversation(raw_row, num_images, expected):
    assert conversation(raw_row, num_images) == expected


@pytest.mark.parametrize(
    ("columns", "question", "answer"),
    [
        ({"question": "A?", "answer": "B."}, "A?", "B."),
        ({"question": "A?", "answer": "B.", "context": None, "choices": []}, "A?", "B."),
        ({"query": "A?", "response": "B."}, "A?", "B."),
        ({"instruction": "A?", "output": "B."}, "A?", "B."),
        ({"instruction": "A:", "input": "B", "output": "C."}, "A:\nB", "C."),
        ({"instruction": "A:", "input": "", "output": "C."}, "A:", "C."),
        ({"instruction": "A:", "response": "C."}, "A:", "C."),
        ({"input": "A?", "output": "B."}, "A?", "B."),
        ({"prompt": "A?", "response": "B."}, "A?", "B."),
    ],
)
def test_columns_of_a_question_and_an_answer(columns, question, answer):
    assert conversation(columns, 0) == chat(question, answer)
    assert conversation(columns, 1) == chat([IMAGE, text(question)], answer)
    with_placeholder = columns | {next(iter(columns)): "<image>" + next(iter(columns.values()))}
    assert conversation(with_placeholder, 1) == chat([IMAGE, text(question)], answer)


def test_captions_leave_the_image_alone():
    assert conversation(llava("<image>\nDescribe it."), 1, captions=True) == chat([IMAGE], "A bird.")
