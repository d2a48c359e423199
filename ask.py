# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""One question to one model, with the answer streamed and timed: the work behind `flashsloth ask`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, TextStreamer

from flashsloth import register_auto_classes
from flashsloth.convert.downloads import TOKENIZER_FILES, find_files, find_model


EMBEDDED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "flashsloth-tiny"
# What a model is loaded from, beside its weights.
MODEL_FILES = (*TOKENIZER_FILES, "*.jinja", "*.py")

# Instruction sets that multiply matrices of bfloat16, by the names of `torch.cpu.get_capabilities`: x86, then Arm.
# AVX-512 alone does not: it has to imitate them, and is slower than in float32
# (https://docs.openvino.ai/2021.4/openvino_docs_IE_DG_Bfloat16Inference.html).
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


@dataclass
class Answer:
    """
    An answer and what it cost.

    Args:
        answer (`str`): The model's words.
        seconds_to_first_token (`float`): From the question and the unread images to the first token of the answer.
        tokens_per_second (`float`): Tokens after the first, per second; of a one-token answer, that token's.
        visual_tokens (`int`): Positions of the decoder's sequence that the images take.
    """

    answer: str
    seconds_to_first_token: float
    tokens_per_second: float
    visual_tokens: int


class TimedStreamer(TextStreamer):
    """Notes when each token of the answer arrives, and writes the words to standard output if `echo` is set."""

    def __init__(self, tokenizer, echo: bool):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.echo = echo
        self.text = ""
        self.token_times: list[float] = []

    def put(self, value):
        if not self.next_tokens_are_prompt:
            self.token_times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = text if self.text else text.lstrip()
        self.text += text
        if self.echo:
            sys.stdout.write(text + ("\n" if stream_end else ""))
            sys.stdout.flush()


def has_fast_bfloat16() -> bool:
    """
    Whether the CPU multiplies matrices of bfloat16 at least as fast as those of float32. Without instructions for it
    that can take far longer: 35 times on an AMD EPYC with AVX2, torch 2.13.
    """
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def is_quantized(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint's weights are quantized; its config says how."""
    return "quantization_config" in config.to_dict()


def load(
    model_id: str, revision: str | None = None, trust_remote_code: bool = False, dtype: torch.dtype | str = "auto"
):
    """
    Loads a model and its processor onto the accelerator, or the CPU if there is none.

    Args:
        model_id (`str`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository. Whatever is named, all files are of
            one commit.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the code that the folder or repository holds,
            which is needed where that code differs from this package's.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`): Of the weights and of all computation:
            `"auto"` for the checkpoint's own, `"fast"` for float32 in its place where that is bfloat16 and the CPU has
            no instructions for it.

    Returns:
        `tuple`: The model, in evaluation mode, and the processor.

    Raises:
        ValueError: If there is no such model or revision, or if it is not a FlashSloth, is incomplete or damaged, or
            needs code that is not trusted.
        FileNotFoundError: If `model_id` can only be a folder, and there is none.
        OSError: If the Hub cannot be reached, or the connection is lost.
    """
    register_auto_classes()
    folder = Path(model_id)
    is_remote = not folder.is_dir()
    name = f"{model_id}@{revision}" if revision else model_id
    if revision and not is_remote:
        raise ValueError(f"'{model_id}' is a folder, which has no revision {revision}; a Hub repository may have one.")
    if is_remote:
        if model_id.count("/") != 1 or model_id.startswith((".", "/", "~")):
            raise FileNotFoundError(f"No model folder at '{model_id}'; give a folder or a Hub id such as owner/name.")
        folder = find_files(name, MODEL_FILES)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if config.model_type != "flashsloth":
            raise ValueError(
                f"'{model_id}' is a model of type '{config.model_type}', not a FlashSloth; a checkpoint in the "
                "published layout is made one by `flashsloth convert`."
            )
        if is_remote:
            # Weights are fetched of what is known to be a FlashSloth only, and of the commit of the other files.
            folder = find_model(f"{name.partition('@')[0]}@{folder.name}", MODEL_FILES)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        if dtype == "fast":
            is_slow = config.dtype == torch.bfloat16 and str(device) == "cpu" and not has_fast_bfloat16()
            dtype = "float32" if is_slow else "auto"  # of a quantized checkpoint only what is not quantized changes
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=trust_remote_code, dtype=dtype, device_map=device, output_loading_info=True
        )
    except ConnectionError:
        raise
    # How transformers reports missing or unreadable files of a model, a config that contradicts itself, weights that
    # are cut short, and weights of other shapes.
    except (OSError, StrictDataclassError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"The model '{model_id}' cannot be loaded: {error}") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(f"The model '{model_id}' lacks {len(missing)} tensors, {missing[0]} among them.")
    return model.eval(), processor


def ask(model, processor, question: str, images=(), hd: bool | None = None, max_new_tokens: int = 256, echo=False):
    """
    Asks a question about any number of images.

    Args:
        model: A FlashSloth model that generates.
        processor: Its processor.
        question (`str`): The question.
        images (`Sequence[str]`, *optional*): Files or URLs.
        hd (`bool`, *optional*): Whether to look at the images in high definition; the checkpoint's default if unset.
        max_new_tokens (`int`, *optional*, defaults to 256): The longest answer.
        echo (`bool`, *optional*, defaults to `False`): Write the answer to standard output while it is made.

    Returns:
        [`Answer`]: The answer and its timing.

    Raises:
        ValueError: If an image cannot be read, or if the prompt is too long.
    """
    content = [{"type": "image", "url": image} for image in images] + [{"type": "text", "text": question}]
    start = time.perf_counter()
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        hd=hd,
    ).to(model.device, dtype=model.dtype)
    streamer = TimedStreamer(processor.tokenizer, echo)
    model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    first, last = streamer.token_times[0], streamer.token_times[-1]
    decoded = len(streamer.token_times) - 1
    return Answer(
        answer=streamer.text.strip(),
        seconds_to_first_token=round(first - start, 4),
        tokens_per_second=round(decoded / (last - first) if decoded else 1 / (last - start), 2),
        visual_tokens=int((inputs["input_ids"] == model.config.image_token_id).sum()),
    )
