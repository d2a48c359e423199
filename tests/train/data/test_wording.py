# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Long values are shortened in messages, and keep both ends; addresses keep no secrets."""

import pytest

from flashsloth.train.data.wording import LIMIT, hide_secrets, quote, shorten, show_address


def test_both_ends_stay():
    assert shorten("short") == "short" and shorten("x" * LIMIT) == "x" * LIMIT
    text = shorten("begin" + "x" * 10**6 + "end")
    assert len(text) <= LIMIT and text.startswith("begin") and text.endswith("end") and " ... " in text


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "s3", "gs", "ftp", "simplecache::https"])
def test_addresses_are_shown_without_secrets(scheme):
    address = f"{scheme}://user:PASSWORD@host/gone.png?sig=SIGN#SIGN"
    assert show_address(address) == f"{scheme}://host/gone.png"
    assert hide_secrets(f"data={address} is missing") == f"data={scheme}://host/gone.png is missing"
    texts = [quote(value) for value in (address, [address], {"a": {"url": address}}, f"see {address} there")]
    texts.append(show_address(f"zip://a.png::{address}"))
    assert not any(secret in text for text in texts for secret in ("PASS", "WORD", "SIGN"))
    assert show_address("/data/a?b#c@d.png") == "/data/a?b#c@d.png" and hide_secrets("Why? a#b @c") == "Why? a#b @c"
