# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["torch", "transformers>=5.23,<6", "trl[peft]>=1.16", "datasets>=5.2", "pillow"]
# ///
"""
Fine-tunes FlashSloth with TRL alone. It imports nothing from this library: the model's code comes with its folder.

    python examples/trl_script.py --model_name_or_path checkpoints/flashsloth-tiny --dataset_name examples/scenes \
        --max_steps 4 --output_dir build/trl_script

This trains for four steps, and writes a complete model folder to `build/trl_script`. It takes about a minute on a CPU.

Other options are those of `trl.SFTConfig` and `trl.ModelConfig`. `--use_peft` trains an adapter; README.md in this
folder explains how to name its layers. With a model on the Hub, `--model_revision COMMIT` runs the code of that commit
only: read it first. The data has the columns `images` (a list, empty for text) and `messages`.
"""

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config


def main() -> None:
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
    has_gpu = torch.accelerator.is_available()
    parser.set_defaults(use_cpu=not has_gpu, bf16=has_gpu)  # TRL's own defaults need a GPU
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.max_length = None  # truncation could cut the tokens of an image
    training_args.assistant_only_loss = True  # the chat template marks what the assistant says

    # Model
    folder = model_args.model_name_or_path
    remote_code = {"trust_remote_code": True, "revision": model_args.model_revision}
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=model_args.dtype, **remote_code)
    processor = AutoProcessor.from_pretrained(folder, **remote_code)

    # Data
    dataset = load_dataset(script_args.dataset_name, split=script_args.dataset_train_split)

    # Training
    trainer = SFTTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model()  # model and processor, with their code


if __name__ == "__main__":
    main()
