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
    for models in (["--model", "a", "--model", "lab/b"], ["a", "lab/b"], ["lab/b", "--model", "a"]):
        assert cli.main(["demo", "--space", "dir", *models, "--dtype", "auto"]) == 0
        assert calls.pop() == (("dir", ["a", "lab/b"]), {"dtype": "auto", "trust_remote_code": False})
        assert capsys.readouterr().out == "the folder\n"


@pytest.mark.parametrize("options", [[], ["--space", "DIR"]], ids=" ".join)
def test_demo_says_what_runs_an_exported_model(exported, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", str(exported), *options]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"flashsloth demo: error: {exported} is an exported model") and line.count("\n") == 1
    assert f"flashsloth demo {exported} --space DIR --static" in line and "--backend" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "dir", "--port", "8000"], "leave out --port"),
        (["--space", "dir", "--host", "0.0.0.0"], "leave out --host"),
        (["--space", "dir", "--share"], "leave out --share"),
        (["--static", "--model", "m"], "--static is about --space"),
        (["--static", "--space", "dir"], "--static needs one model"),
        (["--static", "--space", "dir", "a", "b"], "--static needs one model"),
        (["--static", "--space", "dir", "--model", "m", "--dtype", "auto"], "leave out --dtype"),
        (["--static", "--space", "dir", "--model", "m", "--trust-remote-code"], "leave out --trust-remote-code"),
    ],
)
def test_demo_options_that_would_have_no_effect_are_refused(words, message, capsys):
    assert cli.main(["demo", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out
