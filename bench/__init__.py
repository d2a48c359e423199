# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Speed and memory: `flashsloth bench`."""


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark; `argv` are the arguments after `flashsloth bench`."""
    from flashsloth.bench.inference import main as inference

    inference(argv)


__all__ = ["main"]
