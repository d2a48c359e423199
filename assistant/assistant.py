# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""A model that answers questions about images, for whoever does not want to handle tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashsloth.assistant.answer import Answer, ImageAttention
from flashsloth.assistant.options import answer_lengths, end_token_ids, generation_options, streaming_options
from flashsloth.assistant.questions import images_by_question, read_images, system_messages, user_message
from flashsloth.assistant.stream import Stream, Watch
from flashsloth.extras import TORCH, extra_command, has_torch, package_command


if TYPE_CHECKING:
    from flashsloth.assistant.chat import Chat


BACKENDS = ("torch", "onnxruntime")
EXPORTED_DTYPES = ("int8", "int4")


def load(
    model_id: str,
    revision: str | None = None,
    backend: str = "torch",
    *,
    hd: bool | None = None,
    dtype: Any = "fast",
    device: Any = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> Assistant:
    """
    Loads a model that answers questions about images.

    ```python
    >>> import flashsloth

    >>> model = flashsloth.load("checkpoints/flashsloth-tiny")
    >>> print(model.ask("examples/scene.png", "What colour is the square?"))
    The square is red.
    ```

    Args:
        model_id (`str` or `os.PathLike`): A folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository. All files are of one commit.
        backend (`str`, *optional*, defaults to `"torch"`): What computes: "torch", or "onnxruntime", which runs what
            `flashsloth export` wrote, and needs no torch.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"fast"`): See
            [`~flashsloth.loading.load_model_and_processor`]. For onnxruntime one of the `--weights` that were
            exported; the first of them if unset.
        device (`torch.device` or `str`, *optional*): Such as `"cuda:1"` or `"cpu"`; the accelerator if unset, or the
            CPU if there is none. For onnxruntime "cpu" or "cuda"; the CPU if unset.
        threads (`int`, *optional*): Threads of onnxruntime; as many as there are cores if unset.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the code that the folder or repository holds
            in place of this package's.

    Raises:
        ValueError: If there is no such backend or device, or the model cannot be used; see
            [`~flashsloth.loading.load_model_and_processor`], which also tells the other errors.
    """
    check_hd(hd)
    if backend not in BACKENDS:
        raise ValueError(f"There is no backend {backend!r}: pass one of {', '.join(BACKENDS)}.")
    if backend == "onnxruntime":
        return _load_exported(model_id, revision, hd, dtype, device, threads, trust_remote_code)
    if threads is not None:
        raise ValueError(
            f"threads={threads} is for the backend onnxruntime (--backend onnxruntime). Those of torch are set by the "
            "variable OMP_NUM_THREADS, or by torch.set_num_threads."
        )
    if not has_torch():
        raise ValueError(
            f"The backend torch needs torch; install it with: {package_command(TORCH)}. Or export the model where "
            "torch is, and load that with backend='onnxruntime' (--backend onnxruntime)."
        )
    from flashsloth.assistant.torch_backend import TorchBackend
    from flashsloth.loading import load_model_and_processor

    if dtype in EXPORTED_DTYPES:
        raise ValueError(f"dtype={dtype!r} is for the backend onnxruntime, which runs what `flashsloth export` wrote.")
    model, processor = load_model_and_processor(model_id, revision, trust_remote_code, dtype, device)
    return Assistant(TorchBackend(model, processor), processor, hd)


def _load_exported(model_id, revision, hd, dtype, device, threads, trust_remote_code) -> Assistant:
    try:
        from flashsloth.assistant.onnx_backend import OnnxBackend
        from flashsloth.assistant.onnx_model import OnnxModel
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The backend onnxruntime needs {error.name}; install it with: {extra_command('onnx', needs_torch=False)}"
        ) from error
    from flashsloth.parts import find_for_backend, load_config, load_processor

    dtype = str(dtype).removeprefix("torch.")
    folder = find_for_backend("onnxruntime", model_id, revision, dtype)
    config = load_config(folder, trust_remote_code)
    processor = load_processor(folder, trust_remote_code)
    model = OnnxModel(folder, config, dtype, "cpu" if device is None else str(device), threads)
    return Assistant(OnnxBackend(model, processor), processor, hd)


def check_hd(hd: bool | None) -> None:
    """
    Raises:
        ValueError: If it is neither a truth value nor `None`.
    """
    if hd is not None and not isinstance(hd, bool):
        raise ValueError(f"hd is {hd!r}: pass True, False, or None for the checkpoint's default.")


class Assistant:
    """
    A loaded model, which [`load`] gives.

    Generation options are those of transformers' `generate`, by their names: `max_new_tokens` (256 by default),
    `do_sample`, `temperature`, `top_p`, `num_beams`, `stop_strings`, ... Without them decoding is greedy.

    Args:
        backend: What computes.
        processor ([`FlashSlothProcessor`]): The model's.
        hd (`bool`, *optional*): Whether images are processed in high definition; the checkpoint's default if unset.
    """

    def __init__(self, backend, processor, hd: bool | None = None):
        check_hd(hd)
        self.backend, self.processor, self.hd = backend, processor, hd

    @property
    def model(self):
        """The model of the backend, of transformers for torch."""
        return self.backend.model

    def ask(
        self,
        images,
        question: str | list[str],
        *,
        system: str | None = None,
        hd: bool | None = None,
        explain: bool = False,
        **options,
    ) -> Answer | list[Answer]:
        """
        Answers a question, or a batch of them.

        Args:
            images: `None`, one image or a list of them; for a batch a list with one of these for each question. An
                image is a file, a URL, a PIL image, an array or a tensor.
            question (`str` or `list[str]`): The question, or those of the batch.
            system (`str`, *optional*): A system prompt in place of the published one.
            hd (`bool`, *optional*): As in [`load`], for this call.
            explain (`bool`, *optional*, defaults to `False`): Whether the answer tells what the model looked at,
                which takes another pass over the prompt.
            options: Generation options.

        Returns:
            [`Answer`], or a list of them for a batch.

        Raises:
            ValueError: If an image cannot be read, a question is empty, the prompt is longer than the decoder, or an
                option is unknown or has no effect.
        """
        options = generation_options(options, self.model.config)
        if not isinstance(question, (list, tuple)):
            return self._answer([(read_images(images), question)], system, hd, explain, options, Watch())[0]
        pairs = list(zip(images_by_question(images, len(question)), question, strict=True))
        if not pairs:
            return []
        rows = [(read_images(of_row), text) for of_row, text in pairs]
        return self._answer(rows, system, hd, explain, options, Watch())

    def stream(
        self,
        images,
        question: str,
        *,
        system: str | None = None,
        hd: bool | None = None,
        explain: bool = False,
        **options,
    ) -> Stream:
        """
        Answers one question piece by piece; the arguments are those of `ask`.

        Returns:
            [`Stream`]: An iterator over the pieces, with the whole `answer` when they are there.

        Raises:
            ValueError: As `ask`; what only the model finds, such as a prompt that is too long, when the first piece is
                read.
        """
        options = streaming_options(options, self.model.config)
        row = read_images(images), question

        def answer_with(watch: Watch) -> Answer:
            return self._answer([row], system, hd, explain, options, watch)[0]

        return Stream(answer_with, self.processor.tokenizer)

    def chat(self, *, system: str | None = None, hd: bool | None = None) -> Chat:
        """
        Begins a conversation, in which each image is encoded once and each turn is computed once.

        Args:
            system (`str`, *optional*): A system prompt in place of the published one.
            hd (`bool`, *optional*): As in [`load`], for this chat.
        """
        from flashsloth.assistant.chat import Chat

        check_hd(hd)
        return Chat(self, system, hd)

    def uses_hd(self, hd: bool | None) -> bool:
        """
        Whether images are processed in high definition in a call with this `hd`.

        Raises:
            ValueError: If it is neither a truth value nor `None`.
        """
        check_hd(hd)
        chosen = self.hd if hd is None else hd
        return self.processor.image_processor.hd if chosen is None else chosen

    def _answer(self, rows, system, hd, explain, options, watch: Watch) -> list[Answer]:
        hd = self.uses_hd(hd)
        inputs = self._prepare(rows, system, hd)
        prompts, tokens = self.backend.generate(inputs, options, watch)
        answers = [self.make_answer(*row, options, watch) for row in zip(prompts, tokens, strict=True)]
        if not explain:
            return answers
        explained = []
        for answer, row in zip(answers, rows, strict=True):
            inputs = self._prepare([row], system, hd)
            explained.append(replace(answer, attention=self.explain(inputs, None, answer, row[0], [hd] * len(row[0]))))
        return explained

    def _prepare(self, rows, system: str | None, hd: bool):
        conversations = []
        for images, question in rows:
            message = user_message(question, images)
            conversations.append([*system_messages(system), message])
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors=self.backend.tensor_type,
            hd=hd,
            processor_kwargs={"padding": True},
        )

    def make_answer(self, prompt: list[int], tokens: list[int], options: dict, watch: Watch) -> Answer:
        """
        The answer of one row.

        Args:
            prompt (`list[int]`), tokens (`list[int]`): What is before it, and itself.
            options (`dict`): Of the generation.
            watch ([`Watch`]): Has followed it.
        """
        config = self.model.config
        [longest] = answer_lengths([len(prompt)], options["max_new_tokens"], config)
        has_ended = bool(tokens) and tokens[-1] in end_token_ids(options, config)
        if watch.is_stopped and not has_ended:
            finish_reason = "interrupted"
        elif has_ended or (options.get("stop_strings") and len(tokens) < longest):
            finish_reason = "stop"
        else:
            finish_reason = "length"
        first, last = watch.token_times[0], watch.token_times[min(len(tokens), len(watch.token_times)) - 1]
        decoded = len(tokens) - 1
        return Answer(
            text=self.processor.decode(tokens, skip_special_tokens=True).strip(),
            finish_reason=finish_reason,
            num_tokens=len(tokens),
            prompt_tokens=len(prompt),
            visual_tokens=prompt.count(self.processor.image_token_id),
            seconds_to_first_token=round(first - watch.start, 4),
            tokens_per_second=round(decoded / (last - first) if decoded else 1 / (last - watch.start), 2),
        )

    def explain(self, inputs, memory, answer: Answer, images: list, hd_by_image: list[bool]) -> list[ImageAttention]:
        """
        What the model looked at for an answer.

        Args:
            inputs, memory: As in the backend's `generate`, which made the answer.
            answer ([`Answer`]): The answer.
            images (`list[PIL.Image.Image]`): Those of the whole sequence.
            hd_by_image (`list[bool]`): Whether each of them was processed in high definition.
        """
        if not images:
            return []
        image_processor = self.processor.image_processor
        maps = self.backend.attention(
            inputs,
            memory,
            answer.prompt_tokens,
            [image.size for image in images],
            [image_processor.num_views(hd) for hd in hd_by_image],
            image_processor.tile_grid,
        )
        return [ImageAttention(image, *pair) for image, pair in zip(images, maps, strict=True)]
