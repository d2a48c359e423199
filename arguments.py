# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The parser of all command lines of the package. It imports nothing that takes time."""

import argparse


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, `PROG: error: MESSAGE`."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")
