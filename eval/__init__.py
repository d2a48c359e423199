# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Benchmarks by the protocol of LLaVA-1.5: published questions, greedy answers, published rules. `run` is one run. A file
for each benchmark holds its prompts, how its files are read, and its score. `lmms` makes FlashSloth a model of
lmms-eval.
"""
