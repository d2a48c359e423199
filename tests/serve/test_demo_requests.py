# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What no page sends is refused before Gradio acts on it. What a served demo then does is tested in test_demo.py."""

import asyncio

import gradio as gr
import pytest

from flashsloth.serve.demo_requests import CheckedBlocks, names_an_address


@pytest.mark.parametrize("path", ["http://example.com/a.png", " HTTPS://example.com/a.png", "ftp://h/a", "data:,a"])
def test_files_that_are_named_by_an_address_are_found(path):
    assert names_an_address({"text": "Hi", "files": [{"path": "a.png"}, {"path": path}]})
    assert names_an_address([[{"file": {"path": path}}]])


def test_other_values_name_no_address():
    uploaded = {"path": "/tmp/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/a.png"}
    for value in (None, 7, "http://example.com", {"text": "http://a.b", "files": [uploaded]}, {"path": None}, []):
        assert not names_an_address(value)


def arguments(*inputs):
    """What a function gets for what was sent."""
    with CheckedBlocks() as blocks:
        boxes = [gr.MultimodalTextbox(), gr.Slider(0, 2)]
        boxes[0].submit(print, boxes, None)
    (function,) = blocks.fns.values()
    return asyncio.run(blocks.preprocess_data(function, list(inputs), None))


def test_what_a_page_sends_passes():
    assert arguments({"text": "Hi", "files": []}, 1) == [{"text": "Hi", "files": []}, 1]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((None, 1), "lacks a value"),
        (({"text": "Hi", "files": []}, None), "is none of this page's"),
        (({"text": None, "files": None}, 1), "is none of this page's"),
        (({"text": "Hi", "files": [{"path": "\0"}]}, 1), "is none of this page's"),
        ((["Hi"], 1), "is none of this page's"),
        (({"text": "Hi", "files": []},), "is none of this page's"),
        (({"text": "Hi", "files": []}, 3), "3"),
        (({"text": "Hi", "files": [{"path": "http://127.0.0.1:9/a.png"}]}, 1), "is not fetched"),
    ],
)
def test_what_it_does_not_send_is_refused_without_a_traceback(inputs, says):
    with pytest.raises(gr.Error, match=says) as error:
        arguments(*inputs)
    assert not error.value.print_exception
