# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Benchmarks of speed and memory: `flashsloth bench` for answers, `bench train` for training, `bench convert` for
conversion, `bench quantize` for quantized models, `bench eval` for evaluation in batches, `bench chat` for follow-up
turns, `bench answer` for answers to a whole data set, `bench serve` for the server under load,
`bench export` for exported models.
"""


def main(argv: list[str] | None = None) -> None:
    """Runs a benchmark; `argv` are the arguments after `flashsloth bench`."""
    name, *rest = argv or [""]
    if name == "train":
        from flashsloth.bench import training

        training.main(rest)
    elif name == "convert":
        from flashsloth.bench import conversion

        conversion.main(rest)
    elif name == "quantize":
        from flashsloth.bench import quantization

        quantization.main(rest)
    elif name == "eval":
        from flashsloth.bench import evaluation

        evaluation.main(rest)
    elif name == "chat":
        from flashsloth.bench import chat

        chat.main(rest)
    elif name == "answer":
        from flashsloth.bench import answering

        answering.main(rest)
    elif name == "serve":
        from flashsloth.bench import serving

        serving.main(rest)
    elif name == "export":
        from flashsloth.bench import export

        export.main(rest)
    else:
        from flashsloth.bench import inference

        inference.main(argv)


__all__ = ["main"]
