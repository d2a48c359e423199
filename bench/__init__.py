# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Speed and memory: `flashsloth bench` for answers, `bench train` for training, `bench convert` for conversion, `bench
quantize` for quantized models.
"""


def main(argv: list[str] | None = None) -> None:
    """Runs a benchmark; `argv` are the arguments after `flashsloth bench`."""
    if argv and argv[0] == "train":
        from flashsloth.bench.training import main as training

        return training(argv[1:])
    if argv and argv[0] == "convert":
        from flashsloth.bench.conversion import main as conversion

        return conversion(argv[1:])
    if argv and argv[0] == "quantize":
        from flashsloth.bench.quantization import main as quantization

        return quantization(argv[1:])
    from flashsloth.bench.inference import main as inference

    inference(argv)


__all__ = ["main"]
