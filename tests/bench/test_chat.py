# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The benchmark of follow-up turns ends with one JSON object; its times are not tested."""

import json

import pytest
import torch

from flashsloth.bench import chat, main
from flashsloth.bench.models import random_image
from flashsloth.loading import SHIPPED_CHECKPOINT


def test_last_line_is_the_report(capsys):
    main(["chat", "--model", str(SHIPPED_CHECKPOINT), "--repeats", "1", "--dtype", "float32"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    kept, computed = (report[name]["seconds_to_first_token"] for name in ("second turn", "second turn recomputed"))
    assert report["second_turn_ratio"] == pytest.approx(kept / computed, rel=0.01)
    assert report["repeats"] == 1 and report["hd"] is False


def test_the_model_of_the_published_size_fits_its_processor(monkeypatch):
    configs = []

    def tiny(config, device, dtype):
        configs.append(config)
        small = chat.FlashSlothConfig(
            **{name: getattr(config, name) for name in chat.SPECIAL_TOKEN_IDS},
            text_config={**config.text_config.to_dict(), "hidden_size": 64, "intermediate_size": 64},
            vision_config={**config.vision_config.to_dict(), "hidden_size": 32, "intermediate_size": 32},
            query_hidden_size=32,
            query_num_heads=2,
        )
        return random_model(small, device, dtype)

    random_model = chat.random_model
    monkeypatch.setattr(chat, "random_model", tiny)
    assistant = chat.load(None, torch.device("cpu"), torch.float32)
    assert configs[0].text_config.hidden_size == 2560 and configs[0].num_query_tokens == 9
    seconds = chat.measure(assistant, random_image(40, 30), 2, hd=False)
    assert set(seconds) == {"first turn", "second turn", "second turn recomputed"}


def test_wrong_number(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["chat", "--repeats", "0"])
    assert stop.value.code == 2 and "must be 1 or more" in capsys.readouterr().err
