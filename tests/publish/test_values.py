# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Values of a model card: ids and addresses that are accepted or refused, and text that is no Markdown."""

import pytest

from flashsloth.publish.notes import published
from flashsloth.publish.values import (
    check_commit,
    check_hub_id,
    check_language,
    check_license,
    check_repo_id,
    check_url,
    code,
    link,
    markdown,
)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def check_dataset(value):
    return check_hub_id(value, "The dataset")


def check_source(value):
    return check_url(value, "The source")


def check_revision(value):
    return check_commit(value, "The revision")


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (check_dataset, ["squad", "owner/name", "owner/my_data.v2-1"]),
        (check_repo_id, ["owner/name"]),
        (check_license, ["mit", "apache-2.0", "cc-by-nc-sa-4.0", "openrail++", "llama3.1", "other"]),
        (check_language, ["en", "gsw", "code", "multilingual"]),
        (check_revision, [COMMIT]),
        (check_source, ["https://example.org/log?a=1&b=%20#top", "http://127.0.0.1:8000/a_b~c"]),
    ],
)
def test_accepted_values_come_back(check, values):
    for value in values:
        assert check(value) == value


# The check, values that it refuses, and a pattern of the message.
BAD_INPUT = {
    "dataset": (
        check_dataset,
        ["", "a/b/c", "own er/name", "owner/name.git", "owner/na--me", "-a/b", None, 7, "a" * 97],
        "The dataset .* an id on the Hub such as owner/name",
    ),
    "repository": (
        check_repo_id,
        ["", "a/b/c", "owner/\nname", None],
        "The repository .* an id on the Hub such as owner/name",
    ),
    "repository without owner": (
        check_repo_id,
        ["name"],
        "The repository 'name' lacks its owner: name it as owner/name",
    ),
    "license": (
        check_license,
        ["MIT", "", "mit ", "mit\n", "a--b", "apache 2.0", "made-up-1.0", ["mit"], None],
        "is not a license id of the Hub; .* lists them all, and `other` stands for any other license",
    ),
    "language": (
        check_language,
        ["English", "EN", "e", "", "en\n", "en-US", None, True],
        "is not a language code .* such as en",
    ),
    "revision": (
        check_revision,
        ["main", "", COMMIT[:7], COMMIT.upper(), COMMIT + "0", COMMIT + "\n", None],
        "The revision .* is not a full commit hash of 40 hexadecimal digits",
    ),
    "address": (
        check_source,
        ["", "example.org", "ftp://example.org", "javascript:alert(1)", "https://a b", "https://a)", "https://a\n", 1],
        "The source .* is not a plain http.s. address",
    ),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_refused_values_are_named(given):
    check, values, message = BAD_INPUT[given]
    for value in values:
        with pytest.raises(ValueError, match=message):
            check(value)


@pytest.mark.parametrize(
    ("value", "near"),
    [
        ("apache2", "'apache2' .* the nearest is apache-2.0."),
        ("MIT", "'MIT' .* the nearest is mit."),
        ("gplv3", "'gplv3' .* the nearest .*gpl-3.0"),
        ("cc-by-5.0", "'cc-by-5.0' .* the nearest are .*cc-by-4.0"),
        ("proprietary!", "'proprietary!' .*; such as mit."),
    ],
)
def test_an_unknown_license_is_refused_with_the_nearest_ones(value, near):
    with pytest.raises(ValueError, match=near):
        check_license(value)


def test_the_known_licenses_of_base_models_are_ids():
    for license in published()["licenses"].values():
        assert check_license(license["id"]) == license["id"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Plain text, of 95.5 % (a/b+c=d); it's what?", "Plain text, of 95.5 % (a/b+c=d); it's what?"),
        ("query_layer", "query_layer"),
        ("_emphasis_", "&#95;emphasis&#95;"),
        ("a | b\n---\n", "a &#124; b ---"),
        ("**bold** `code`", "&#42;&#42;bold&#42;&#42; &#96;code&#96;"),
        ("<b>&amp;$x$", "&#60;b&#62;&#38;amp;&#36;x&#36;"),
        ("[x](y)", "&#91;x&#93;(y)"),
        ("tab\u2028\u202e\x07end", "tab end"),
        (5, "5"),
    ],
)
def test_text_is_shown_as_it_is(text, shown):
    assert markdown(text) == shown


def test_code_has_plain_characters_only():
    assert code("train: a/b_c.d = 1e-3") == "`train: a/b_c.d = 1e-3`"
    assert code("a`b") == "a&#96;b" and code("two\nlines") == "`two lines`" and code("") == ""


def test_links_lead_to_the_hub():
    assert link("owner/my_model") == "[owner/my_model](https://huggingface.co/owner/my_model)"
    assert link("owner/a_", "datasets/") == "[owner/a&#95;](https://huggingface.co/datasets/owner/a_)"
