# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Loads a saved model folder where this library is not installed: `python wheel_check.py FOLDER IMAGE QUESTION`.

Run by ci_wheel.sh in an empty environment. Every auto class runs the code that travels in the folder.
"""

import importlib.util
import sys
import tempfile

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)


def answer(model, processor, image: str, question: str) -> str:
    """The model's greedy answer."""
    content = [{"type": "image", "url": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    generated = model.generate(**inputs, do_sample=False, max_new_tokens=32)
    return processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def check(folder: str, image: str, question: str) -> str:
    """Loads the folder through every auto class and returns the answer, which must be the same through all."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    backbone = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    print(f"{folder}: {type(config).__name__}, {type(backbone).__name__}, {type(processor).__name__}")
    answers = []
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText):
        model = auto_class.from_pretrained(folder, trust_remote_code=True)
        answers.append(answer(model, processor, image, question))
    pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
    chat = [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": question}]}]
    output = pipe(text=chat, generate_kwargs={"max_new_tokens": 32, "do_sample": False}, return_full_text=False)
    answers.append(output[0]["generated_text"].strip())
    print(f"  {question} -> {answers}")
    if not answers[0] or len(set(answers)) != 1:
        raise SystemExit(f"error: the answers differ or are empty: {answers}")
    return answers[0]


def main() -> None:
    folder, image, question = sys.argv[1:]
    if importlib.util.find_spec("flashsloth"):
        raise SystemExit("error: flashsloth is installed here, so that this would not test the folder's own code.")
    torch.manual_seed(0)
    first = check(folder, image, question)
    with tempfile.TemporaryDirectory() as again:
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
        AutoProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
        if check(again, image, question) != first:
            raise SystemExit("error: the answer changed after a second save.")


if __name__ == "__main__":
    main()
