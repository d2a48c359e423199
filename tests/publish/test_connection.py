# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Errors of the Hub and of the connection show no token. What they say is tested with the uploads, in test_hub.py."""

import logging

import httpx2
import pytest

from flashsloth.publish.connection import clear_errors, redact, redacted_logs


def test_no_token_is_shown(caplog):
    token = "a-token-of-another-form"
    text = f"{token} hf_{'x' * 34} http://me:pass@hub.example/a?X-Signature=abc https://hub.example/b?c=d."
    shown = "<token> <token> http://hub.example/a https://hub.example/b"
    assert redact(text, token) == shown
    with redacted_logs(token):
        logging.getLogger("huggingface_hub.utils").warning("%s thrown while requesting", text)
    assert caplog.messages == [f"{shown} thrown while requesting"]
    for raised in (httpx2.ReadError(text), ConnectionError(text), RuntimeError(text)):
        with pytest.raises(OSError) as error, clear_errors("owner/name", token):
            raise raised
        assert shown in str(error.value) and error.value.__suppress_context__
    with pytest.raises(ValueError, match=shown), clear_errors("owner/name", token):
        raise ValueError(text)
