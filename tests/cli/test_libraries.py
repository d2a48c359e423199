# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What libraries say is kept back."""

import warnings

from transformers.utils import logging as transformers_logging

from flashsloth import FlashSlothForCausalLM, cli


def test_notices_of_libraries_stay_out_of_the_answer(image, monkeypatch, capsys):
    generate = FlashSlothForCausalLM.generate

    def with_notices(*args, **kwargs):
        warnings.warn("a notice of torch", stacklevel=1)
        transformers_logging.get_logger("transformers.generation").warning("a notice of transformers")
        return generate(*args, **kwargs)

    monkeypatch.setattr(FlashSlothForCausalLM, "generate", with_notices)
    assert cli.main(["ask", "--image", image, "--max-new-tokens", "4", "What colour is the square?"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["Loading", "Loaded", "Answer:", "Answered"]
