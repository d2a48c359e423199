# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Ways for people to use a model: a chat in the terminal, a demo in the browser, an OpenAI-compatible server, and answers
to a whole data set. Each is thin, over `flashsloth.assistant`.
"""
