# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Options that several commands have."""

import pytest

from flashsloth import cli, loading


def test_a_device_may_be_named(image, capsys, monkeypatch):
    monkeypatch.setattr(loading, "default_device", lambda: pytest.fail("it is not asked for"))
    assert cli.main(["ask", "--device", "cpu", "--max-new-tokens", "1", "--image", image, "What is it?"]) == 0
    assert "Loaded onto cpu in " in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--dtype", "int8"], ["--backend", "onnxruntime"]], ids=" ".join)
def test_options_of_exported_models_are_refused_where_none_is_taken(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", *option])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and option[option[0] == "--dtype"] in error and error.count("\n") == 1
