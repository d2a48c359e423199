# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The chat template of a model folder. It is a program, in Jinja, of whoever made the folder. Jinja's sandbox keeps it
away from this machine, but nothing keeps it from running for ever or filling the memory. A template that is not this
package's is therefore tried first, on two short conversations, in a process of its own with bounds on time and memory.

What a template does with other conversations is not known from that: a folder of somebody you do not trust can still
keep a command busy. It cannot do more.
"""

from flashsloth.folders.trial import run_trial
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, IMAGE_TOKEN, QUERY_SLOT_TOKEN


SECONDS = 5  # for conversations that take a millisecond
MAX_CHARACTERS = 100_000  # of a template, and of what it makes of the conversations
REMEDY = "Save the processor there again, which writes the template of this package."

QUESTION = "Is it there?"
IMAGE_QUESTION = [{"type": "image"}, {"type": "text", "text": QUESTION}]
CONVERSATIONS = [
    [{"role": "user", "content": IMAGE_QUESTION}],
    [
        {"role": "user", "content": IMAGE_QUESTION},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ],
]

PROGRAM = """
from transformers.utils.chat_template_utils import render_jinja_template

def trial(template, conversations, characters):
    texts, _ = render_jinja_template(conversations, chat_template=template, add_generation_prompt=True)
    return {"texts": [text[: characters + 1] for text in texts]}
"""


def check_chat_template(template, where, query_slot: str) -> None:
    """
    Tries a chat template.

    Args:
        template (`str` or `dict[str, str]`): a processor's; a dict holds several by name.
        where: the processor's folder, for the message.
        query_slot (`str`): the query tokens of one slot, for which a template has to make room; empty if the model has
            none.

    Raises:
        ValueError: If it is no template, takes too long, makes too much text, or leaves out the question, the image or
            the query tokens.
    """
    for text in template.values() if isinstance(template, dict) else [template]:
        if text in (CHAT_TEMPLATE, CHAT_TEMPLATE.replace(QUERY_SLOT_TOKEN, query_slot)):
            continue
        problem = _problem(text, query_slot)
        if problem:
            raise ValueError(f"The chat template in {where} {problem}. {REMEDY}")


def _problem(template, query_slot: str) -> str | None:
    """What is wrong with a template, if anything is."""
    if not isinstance(template, str):
        return f"is a {type(template).__name__}, not a text"
    if len(template) > MAX_CHARACTERS:
        return f"has {len(template)} characters, more than {MAX_CHARACTERS}"
    arguments = {"template": template, "conversations": CONVERSATIONS, "characters": MAX_CHARACTERS}
    result = run_trial(PROGRAM, arguments, SECONDS, "a short conversation")
    if "error" in result:
        return result["error"]
    for text in result["texts"]:
        if len(text) > MAX_CHARACTERS:
            return f"makes more than {MAX_CHARACTERS} characters of a short conversation"
        if QUESTION not in text:
            return "leaves out the question"
        if text.count(IMAGE_TOKEN) != 1:
            return f"writes {text.count(IMAGE_TOKEN)} {IMAGE_TOKEN} for one image"
        if query_slot and query_slot not in text and QUERY_SLOT_TOKEN not in text:
            return f"writes no {QUERY_SLOT_TOKEN}, the place of the query tokens"
    return None
