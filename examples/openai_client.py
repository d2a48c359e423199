# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Questions to `flashsloth serve` by OpenAI's client (`pip install openai`):

    python examples/openai_client.py http://127.0.0.1:8000/v1
"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI


SCENE = Path(__file__).parent / "scene.png"

client = OpenAI(base_url=sys.argv[1], api_key=os.environ.get("FLASHSLOTH_API_KEY", "none"))
(model,) = client.models.list()
url = f"data:image/png;base64,{base64.b64encode(SCENE.read_bytes()).decode()}"
messages = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "What colour is the square?"},
        ],
    }
]
response = client.chat.completions.create(model=model.id, messages=messages)
answer = response.choices[0].message.content
print(f"{model.id}: {answer} ({response.usage.prompt_tokens} tokens in, {response.usage.completion_tokens} out)")

messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "What colour is the star?"}]
for chunk in client.chat.completions.create(model=model.id, messages=messages, stream=True, extra_body={"hd": False}):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
