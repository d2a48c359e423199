# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A folder's chat template is tried before it is used: it may be broken, endless or another model's."""

import pytest

from flashsloth.folders import chat_template
from flashsloth.folders.chat_template import check_chat_template
from flashsloth.processing_flashsloth import CHAT_TEMPLATE


SLOT = "<query_0><query_1>"
OWN = CHAT_TEMPLATE.replace("<learnable>", SLOT)
BAD_INPUT = {
    "a template that is no Jinja": ("{{ messages[0 }}", "does not work"),
    "a template without an end": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "takes more",
    ),
    "a template that writes without an end": ("{% for a in range(99999) %}xxxxxxxxxx{% endfor %}", "makes more than"),
    "a template of another model": ("{{ messages[0]['content'][1]['text'] }}", "writes 0 <image> for one image"),
    "a template without the question": ("<image>{{ '' if false }}", "leaves out the question"),
    "a template without query tokens": (OWN.replace(SLOT, ""), "writes no <learnable>"),
    "a number as a template": (7, "is a int, not a text"),
    "a template of a million characters": ("x" * 1_000_000, "has 1000000 characters"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_templates_that_cannot_be_used(case, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 2)
    template, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=f"The chat template in here {message}.*Save the processor there again"):
        check_chat_template(template, "here", SLOT)


def test_templates_that_can_be_used(monkeypatch):
    check_chat_template(OWN.replace("ASSISTANT:", "BOT:"), "here", SLOT)
    check_chat_template(OWN.replace(SLOT, ""), "here", "")  # a model without query tokens
    monkeypatch.setattr(chat_template, "run_trial", lambda *task: pytest.fail("this package's own needs no trial"))
    for template in (CHAT_TEMPLATE, OWN, {"default": OWN}):
        check_chat_template(template, "here", SLOT)
