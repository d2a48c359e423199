# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Speed and memory: `flashsloth bench` for answers, `flashsloth bench train` for training."""


def main(argv: list[str] | None = None) -> None:
    """Runs a benchmark; `argv` are the arguments after `flashsloth bench`."""
    if argv and argv[0] == "train":
        from flashsloth.bench.training import main as training

        return training(argv[1:])
    from flashsloth.bench.inference import main as inference

    inference(argv)


__all__ = ["main"]
