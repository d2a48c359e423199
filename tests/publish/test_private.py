# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What must not leave the machine with a model: it is found, and nothing else is taken for it."""

import pytest

from flashsloth.publish.private import has_secret, local_paths, without_private


TOKEN = "hf_" + "Ab1" * 10
# What a note holds, and what is left of it.
BAD_INPUT = {
    "path": ("/home/ann/base", "base"),
    "path with spaces": ("/home/ann/my runs/7/", "7"),
    "home folder": ("/home/ann", "~"),
    "home folder of Windows": ("C:\\Users\\ann", "~"),
    "path of Windows": ("D:\\runs\\ann\\7", "7"),
    "network path": ("\\\\server\\ann\\7", "7"),
    "path in one's home": ("~/ann/x", "x"),
    "path in another's home": ("~ann/data/x", "x"),
    "file address": ("file:///home/ann/x", "x"),
    "path in a sentence": ("cannot open '/data/ann/x.png': no such file", "cannot open 'x.png': no such file"),
    "path as an option": ("train --out=/home/ann/7", "train --out=7"),
    "path behind a colon": ("host:/home/ann/x", "host:x"),
    "token": (f"login with {TOKEN}.", "login with <token>."),
    "token of GitHub": ("ghp_" + "a1" * 18, "<token>"),
    "key of AWS": ("AKIA" + "A1B2" * 4, "<token>"),
    "password in an address": ("https://ann:secret@host/x", "https://host/x"),
    "password with an @": ("https://ann:se@cr@et@host/a@b", "https://host/a@b"),
    "password that begins with an @": ("https://ann:@secret@host", "https://host"),
    "password of a user with an @": ("ftp://ann@corp.com:secret@host/x", "ftp://host/x"),
    "password in a sentence": ("get https://ann:s@t@host/x, or mail a@b", "get https://host/x, or mail a@b"),
    "signed address": ("https://host/x?id=1&X-Amz-Signature=abc", "https://host/x"),
}
PLAIN = [
    "owner/name",
    "sets/a b.json",
    "https://huggingface.co/datasets/owner/name",
    "https://example.org/page?id=3#part",
    "https://example.org:8080/users/@ann",
    "https://example.org:8080 and ann@example.org",
    '{"://":1,":":2,"@":3}',
    "s3://bucket/folder/x",
    "and/or",
    "1/2",
    "/",
    "</s>",
    "<image>",
    "hf_hub_download",
    "google/siglip-so400m-patch14-384",
    "",
]


@pytest.mark.parametrize("given", BAD_INPUT)
def test_what_is_private_is_left_out_of_notes(given):
    text, left = BAD_INPUT[given]
    assert without_private({"a": [text, 1, None]}) == {"a": [left, 1, None]}
    assert without_private(left) == left


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_not_private_stays(text):
    assert without_private(text) == text
    assert not has_secret(text) and list(local_paths({"_name_or_path": text})) == []


@pytest.mark.parametrize(
    "given", [name for name in BAD_INPUT if "token" in name or "key" in name or "password" in name]
)
def test_secrets_are_found(given):
    assert has_secret(BAD_INPUT[given][0])


def test_paths_are_found_with_their_place():
    content = {"text_config": {"_name_or_path": "./phi", "files": ["/data/ann/a", "b"]}, "name": "./phi", "c": "~/x"}
    assert list(local_paths(content)) == [
        ("text_config._name_or_path", "./phi"),
        ("text_config.files", "/data/ann/a"),
        ("c", "~/x"),
    ]
