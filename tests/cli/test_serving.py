# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth serve` and `demo`: what they hand on."""

import pytest

from flashsloth import cli
from flashsloth.serve import demo, listen, space


def test_serve_hands_on_its_limits(monkeypatch):
    calls = []
    monkeypatch.setattr(listen, "serve", lambda *args, **options: calls.append((args, options)))
    numbers = ["--max-body-mib", "2", "--max-images", "3", "--max-waiting", "5", "--max-batch-size", "7"]
    assert cli.main(["serve", "--model", "m", "--port", "0", *numbers, "--allow-image-urls", "--no-hd"]) == 0
    (((model, host, port, limits), options),) = calls
    assert (model, host, port) == ("m", "127.0.0.1", 0)
    assert (limits.body_bytes, limits.images, limits.waiting, limits.answers) == (2 * 1024**2, 3, 5, 7)
    assert (limits.image_pixels, limits.new_tokens) == (50_000_000, 1024)
    assert (limits.image_urls, limits.private_addresses) == (True, False)
    assert (options["max_batch_size"], options["hd"], options["api_key"]) == (7, False, None)


def test_demo_writes_a_space_in_place_of_serving(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(space, "write_space", lambda *args, **options: calls.append((args, options)) or "the folder")
    monkeypatch.setattr(demo, "run", lambda *args, **options: pytest.fail("it serves"))
    assert cli.main(["demo", "--space", "dir", "--model", "a", "--model", "lab/b", "--dtype", "auto"]) == 0
    assert calls == [(("dir", ["a", "lab/b"]), {"dtype": "auto", "trust_remote_code": False})]
    assert capsys.readouterr().out == "the folder\n"
