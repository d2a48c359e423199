# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["torch", "transformers>=5.23,<6", "trl[peft]>=1.16", "datasets>=5.2", "pillow"]
# ///
"""
Teaches FlashSloth a preference, for words over sentences, by DPO with TRL alone. It imports nothing from this library.

    python examples/preference_training.py checkpoints/flashsloth-tiny build/preferences

This draws eight pairs of answers, trains an adapter on them for six steps, and asks about a scene that is not among
them, before and after. It takes about half a minute on a CPU, and writes the adapter to `build/preferences`.

KTO, GRPO and RLOO train in the same way. For KTO the rows hold `completion` and `label` in place of `chosen` and
`rejected`. For GRPO and RLOO they hold the prompt only, and the trainer takes reward functions.
"""

import argparse
from pathlib import Path

import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from PIL import Image as PILImage
from PIL import ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed
from trl import DPOConfig, DPOTrainer


COLORS = ("red", "blue", "green", "yellow")
SHAPES = {"square": ImageDraw.ImageDraw.rectangle, "circle": ImageDraw.ImageDraw.ellipse}
SIZE, BOX = (128, 128), (40, 40, 88, 88)  # pixels
SCENE = str(Path(__file__).with_name("scene.png"))
QUESTION = "What colour is the {}?"


def draw_pair(color: str, shape: str) -> dict:
    """An image with a question about it, the answer to prefer and the other one."""
    image = PILImage.new("RGB", SIZE, "white")
    SHAPES[shape](ImageDraw.Draw(image), BOX, fill=color)
    return {
        "images": [image],
        "prompt": [{"role": "user", "content": QUESTION.format(shape)}],
        "chosen": [{"role": "assistant", "content": color}],
        "rejected": [{"role": "assistant", "content": f"The {shape} is {color}."}],
    }


def load(name: str):
    """A model and its processor. Raises `OSError` or `ValueError` where there is none of that name."""
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32, trust_remote_code=True)
    return model, AutoProcessor.from_pretrained(name, trust_remote_code=True)


def ask(model, processor, image: str, question: str) -> str:
    content = [{"type": "image", "path": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="folder, or name on the Hub; its code is run")
    parser.add_argument("output", help="folder for the adapter")
    args = parser.parse_args()
    set_seed(0)
    has_gpu = torch.accelerator.is_available()

    # Model
    try:
        model, processor = load(args.model)
    except (OSError, ValueError) as error:
        problem = "holds no model" if Path(args.model).is_dir() else "is not a folder, and no model on the Hub"
        reason = " ".join(str(error).split())
        parser.exit(2, f"{parser.prog}: error: '{args.model}' {problem} that can be loaded: {reason}\n")
    question = QUESTION.format("square")
    print("before:", ask(model, processor, SCENE, question))

    # Data
    pairs = [draw_pair(color, shape) for shape in SHAPES for color in COLORS]
    dataset = Dataset.from_list(pairs).cast_column("images", List(Image()))

    # Training. With an adapter the reference is the model without it; nothing is loaded twice.
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            output_dir=args.output,
            max_steps=6,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            max_length=None,  # truncation could cut the tokens of an image
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not has_gpu,
            bf16=has_gpu,
        ),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=LoraConfig(target_modules=r".*language_model.*(q_proj|k_proj|v_proj|dense|fc1|fc2)"),
    )
    trainer.train()
    trainer.save_model()
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    print(f"reward margin: {float(margins[0]):.1f} at the first step, {float(margins[-1]):.1f} at the last")
    print("after:", ask(trainer.model.eval(), processor, SCENE, question))


if __name__ == "__main__":
    main()
