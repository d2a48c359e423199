# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A request becomes the prompt that the processor makes, or one error that says which of its images is wrong."""

import base64
import weakref
from dataclasses import replace

import numpy as np
import pytest
from loopback_server import Answer, LoopbackServer
from PIL import Image
from samples import encode_image, make_image, user

from flashsloth.serve import preparation
from flashsloth.serve.preparation import Limits, check_limits, prepare
from flashsloth.serve.protocol import RequestError, parse_request


LIMITS = Limits(body_bytes=1 << 20, images=2, image_pixels=10**6, new_tokens=300, answers=4, waiting=4)
POSITIONS = 1024


def data_url(image: Image.Image, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encode_image(image)).decode()}"


def chat(*urls: str, text: str = "What is this?", **fields):
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
    return parse_request({"model": "m", "messages": messages, **fields})


def error_of(function, *args) -> RequestError:
    with pytest.raises(RequestError) as caught:
        function(*args)
    assert caught.value.status == 400
    return caught.value


@pytest.fixture
def images_server():
    class Images(LoopbackServer):
        def act(self, request, raw_path):
            return Answer(200, encode_image(make_image(1)), {"Content-Type": "image/png"})

    with Images() as server:
        yield server


@pytest.mark.parametrize("hd", [None, False, True])
def test_prompt_is_that_of_the_processor(processor, hd):
    images = [make_image(1), make_image(2)]
    expected = processor.apply_chat_template(
        [user(*images, "What is this?")],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        hd=hd,
    )
    prompt, max_new_tokens = prepare(chat(*map(data_url, images), hd=hd), processor, LIMITS, POSITIONS)
    np.testing.assert_array_equal(prompt.input_ids, expected["input_ids"][0])
    np.testing.assert_array_equal(prompt.pixel_values, expected["pixel_values"])
    assert max_new_tokens == 256


def test_text_only(processor):
    prompt, _ = prepare(chat(), processor, LIMITS, POSITIONS)
    assert prompt.pixel_values is None and prompt.input_ids.ndim == 1


def test_length_of_the_answer(processor):
    length = len(prepare(chat(), processor, LIMITS, POSITIONS)[0].input_ids)
    assert prepare(chat(max_tokens=7), processor, LIMITS, POSITIONS)[1] == 7
    assert prepare(chat(), processor, replace(LIMITS, new_tokens=9), POSITIONS)[1] == 9
    assert prepare(chat(), processor, LIMITS, length + 5)[1] == 5
    assert prepare(chat(max_tokens=5), processor, LIMITS, length + 5)[1] == 5
    for request, positions in ((chat(max_tokens=6), length + 5), (chat(), length), (chat(text="a" * 2000), POSITIONS)):
        error = error_of(prepare, request, processor, LIMITS, positions)
        assert error.code == "context_length_exceeded" and str(positions) in error.message


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (chat(*["data:image/png;base64,AAAA"] * 3), "at most 2"),
        (chat(max_tokens=301), "at most 300"),
        (chat(n=5), "at most 4"),
        (chat("/etc/passwd"), "Image 0 is no data URL"),
        (chat("file:///etc/passwd"), "Image 0 is no data URL"),
        (chat("AAAA"), "Image 0 is no data URL"),
        (chat("data:text/plain;base64,AAAA"), "Image 0 is no data URL"),
        (chat("data:image/png;base64,AAAA", "HTTP://127.0.0.1/a.png"), "Image 1 is a web address"),
    ],
)
def test_beyond_the_limits(request_, words):
    assert words in error_of(check_limits, request_, LIMITS).message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,AAAA", "format"),
        ("data:image/png;base64,****", "base64"),
        ("data:image/png,AAA", "Image 0"),
        (data_url(make_image(1))[:-400], "Image 0"),
    ],
)
def test_image_that_cannot_be_read(processor, url, words):
    error = error_of(prepare, chat(url), processor, LIMITS, POSITIONS)
    assert words in error.message and error.message.startswith("Image 0") and error.param == "messages"


def test_image_with_too_many_pixels(processor):
    limits = replace(LIMITS, image_pixels=1000)
    error = error_of(prepare, chat(data_url(make_image(1))), processor, limits, POSITIONS)
    assert error.message == "Image 0 has more than 1000 pixels: make it smaller."


def test_turns_in_a_wrong_order(processor):
    messages = [{"role": "user", "content": "a"}] * 2
    request = parse_request({"model": "m", "messages": messages})
    assert "take turns" in error_of(prepare, request, processor, LIMITS, POSITIONS).message


def test_private_addresses_are_refused_unless_allowed(processor, images_server, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_image(make_image(1)))
    request = chat(f"{images_server.url}/a.png")
    public = replace(LIMITS, image_urls=True)
    check_limits(request, public)
    assert "loopback address" in error_of(prepare, request, processor, public, POSITIONS).message
    assert not images_server.requests
    private = replace(public, private_addresses=True)
    prompt, _ = prepare(request, processor, private, POSITIONS)
    expected, _ = prepare(chat(data_url(make_image(1))), processor, LIMITS, POSITIONS)
    np.testing.assert_array_equal(prompt.pixel_values, expected.pixel_values)
    local = chat(str(tmp_path / "a.png"))
    error_of(check_limits, local, private)
    error_of(prepare, local, processor, private, POSITIONS)


def test_one_image_is_decoded_at_a_time(processor, monkeypatch):
    alive, most = set(), []
    read = preparation._read

    def counted(*args):
        image = read(*args)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most.append(len(alive))
        return image

    monkeypatch.setattr(preparation, "_read", counted)
    urls = [data_url(make_image(seed)) for seed in range(4)]
    prepare(chat(*urls), processor, replace(LIMITS, images=4), POSITIONS)
    assert len(most) == 4 and max(most) <= 2  # the last one is let go when the next one is there


def test_images_behind_the_question_come_before_it(processor):
    image = {"type": "image_url", "image_url": {"url": data_url(make_image(1))}}
    text, more = {"type": "text", "text": "What is this?"}, {"type": "text", "text": "And why?"}

    def ids(*parts):
        request = parse_request({"model": "m", "messages": [{"role": "user", "content": list(parts)}]})
        return prepare(request, processor, LIMITS, POSITIONS)[0].input_ids.tolist()

    assert ids(text, image) == ids(image, text)
    assert ids(text, more, image, image) == ids(image, image, text, more)
    assert ids(text, image, more) not in (ids(image, text, more), ids(text, more, image))  # it stays where it is
