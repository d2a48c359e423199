# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The types of arguments. A wrong one is refused in one line, when the words are parsed."""

import argparse


MAX_PORT = 65535


def question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty")
    return text


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def temperature(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0; leave it out for the likeliest tokens")
    return number


def share(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0 and up to 1")
    return number


def _number(text: str) -> float:
    """A number, which is not one (NaN) if the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port: a number from 0 to {MAX_PORT}")
    return int(text)
