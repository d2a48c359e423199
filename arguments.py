# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parser of all command lines of the package. It imports nothing that takes time."""

import argparse
import re


# The user name and password, and the query and fragment of an address within a text. `Path` makes one slash of two.
SECRETS = re.compile(r"(\b[A-Za-z][\w+.-]+:/{1,2})(?:[^\s/'\"]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?")


def without_secrets(text: str) -> str:
    """A text in which addresses have neither user name, password, query nor fragment."""
    return SECRETS.sub(r"\1\2", text)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, `PROG: error: MESSAGE`."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {without_secrets(' '.join(message.split()))} (see {self.prog} --help)\n")
