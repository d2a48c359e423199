# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
FlashSloth as a model of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval):

    python -m lmms_eval --model flashsloth --model_args pretrained=DIR,hd=true,batch_size=4 --tasks pope,mme

A request that cannot be answered stops the run: an empty answer would be scored as a wrong one.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator, simple_parse_args_string
from tqdm import tqdm

import flashsloth
from flashsloth.eval.lmms_entry_point import MODEL_ID
from flashsloth.loading import find_flashsloth, load_model, load_processor


# What a task may ask of generation, beside `until`. What only says how LLaVA cuts its images means nothing here.
OPTIONS = {"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty"}
SAMPLING = {"temperature", "top_p", "top_k"}
MEANINGLESS = {"image_aspect_ratio"}
MAX_NEW_TOKENS = 1024  # where a task does not say; lmms-eval's own models take as many
ROOM = 64  # positions of the decoder that a prompt in high definition has to leave for the answer


@dataclass(frozen=True)
class _Question:
    """A prompt that is made when its batch's turn comes, as it may hold large images."""

    messages: Callable[[], list[dict]]
    options: dict
    size: int  # characters of its text: prompts of similar length are batched


class FlashSlothLmms(lmms):
    """
    A FlashSloth that answers lmms-eval's requests. Other arguments are refused.

    Args:
        pretrained (`str`): A model folder, or `owner/name` on the Hub.
        revision (`str`, *optional*): Commit, branch or tag of the Hub repository.
        hd (`bool`, *optional*): Whether images get high-resolution tiles; the checkpoint's own setting if unset.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights; `"auto"` is the checkpoint's own.
        batch_size (`int` or `str`, *optional*, defaults to 1): Requests in a batch. It does not change the answers,
            but for rounding.
        device (`str`, *optional*): For one process; each process takes a device of its own if unset.
        max_new_tokens (`int`, *optional*, defaults to 1024): The longest answer, where a task does not say it.
        attn_implementation (`str`, *optional*): Such as `"sdpa"` or `"flash_attention_2"`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the code in the model's folder.
        system_prompt (`str`, *optional*): In place of the chat template's, or a file with it.
        standard_if_long (`bool`, *optional*, defaults to `False`): Whether a prompt that is too long in high
            definition, because of its number of images, gets standard views. It stops the run otherwise.

    Raises:
        ValueError: If the model cannot be loaded, or an argument has a wrong value.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        hd: bool | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        device: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        system_prompt: str | None = None,
        standard_if_long: bool = False,
    ):
        super().__init__()
        if not (hd is None or isinstance(hd, bool)):
            raise ValueError(f"hd={hd} is neither true nor false")
        if not isinstance(standard_if_long, bool):
            raise ValueError(f"standard_if_long={standard_if_long} is neither true nor false")
        self.batch_size = _positive("batch_size", batch_size)
        self.max_new_tokens = _positive("max_new_tokens", max_new_tokens)
        self.hd = hd
        self.standard_if_long = standard_if_long
        self.system_prompt = self._resolve_system_prompt(system_prompt) if system_prompt else None
        # The evaluator of lmms-eval reads these four.
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if device and self.world_size > 1:
            raise ValueError(f"device={device} is for one process: leave it out, each process takes its own device")
        self.device = torch.device(device) if device else self.accelerator.device
        folder = find_flashsloth(pretrained, revision)
        options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        self.processor = load_processor(folder, trust_remote_code)
        self.model = load_model(folder, trust_remote_code, dtype=dtype, device_map=self.device, **options)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None):
        """
        Makes a model from the text after `--model_args`.

        Args:
            arg_string (`str`): `name=value,...`
            additional_config (`dict`, *optional*): What options of their own say, such as `--batch_size`; that is 1
                where it is not given, so that a `batch_size` in `arg_string` wins.
        """
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**options | simple_parse_args_string(arg_string))

    # Answers

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """
        Answers questions, in batches.

        Args:
            requests (`list[Instance]`): With the arguments `(context, doc_to_messages, generation_kwargs, doc_id,
                task, split)`. They may be of several tasks.

        Returns:
            `list[GenerationResult]`: An answer for each request, which ends before the first of its stop strings.

        Raises:
            ValueError: If a task asks for an option of generation that is not known, or for another medium than
                images, or if a prompt is longer than the decoder.
        """
        return self._answer([self._first_question(request) for request in requests])

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """
        Answers questions whose task asks on after each answer. Requests in the same round are batched.

        Args:
            requests (`list[Instance]`): As in [`~FlashSlothLmms.generate_until`].

        Returns:
            `list[list[str]]`: The answers to each request, round by round.
        """
        questions = {index: self._first_question(request) for index, request in enumerate(requests)}
        answers, infos = [[] for _ in requests], [None] * len(requests)
        round_index = 0
        while questions:
            for index, result in zip(questions, self._answer(list(questions.values())), strict=True):
                answers[index].append(result.text)
            round_index += 1
            asked, questions = questions, {}
            for index, question in asked.items():
                _, doc_to_messages, *_ = requests[index].args
                step = doc_to_messages(
                    self._document(requests[index]),
                    round_idx=round_index,
                    previous_output=list(answers[index]),
                    previous_round_info=infos[index],
                )
                if not (isinstance(step, tuple) and len(step) == 4):
                    continue  # a task of one round
                messages, is_end, outputs, infos[index] = step
                answers[index] = answers[index] if outputs is None else list(outputs)
                if not is_end:
                    questions[index] = replace(question, messages=functools.partial(_identity, messages))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """
        How likely given answers are, in batches.

        Args:
            requests (`list[Instance]`): With the arguments `(context, answer, doc_to_visual, doc_id, task, split)`,
                where `answer` is a text or a function of the document; or `(context, answer)` without images.

        Returns:
            `list[tuple[float, bool]]`: For each request the sum of the natural logarithms of the probabilities of the
            answer's tokens, and whether greedy decoding begins with the answer.
        """
        collator = Collator(requests, lambda request: -len(request.args[0]))
        scores = []
        for batch in self._progress(collator.get_batched(n=self.batch_size), len(requests)):
            scores += self._score([self._scored_conversation(request) for request in batch])
        return collator.get_original(scores)

    # Requests

    def _document(self, request: Instance) -> dict:
        _, _, _, index, task, split = request.args
        return self.task_dict[task][split][index]

    def _first_question(self, request: Instance) -> _Question:
        context, doc_to_messages, options, _, task, _ = request.args
        unknown = options.keys() - OPTIONS - MEANINGLESS - {"until"}
        if unknown:
            raise ValueError(
                f"{task} asks for {', '.join(sorted(unknown))}, which is not known: {sorted(OPTIONS)} are"
            )
        options = options | {"until": _stop_strings(options)}
        return _Question(lambda: doc_to_messages(self._document(request)), options, len(context or ""))

    def _scored_conversation(self, request: Instance) -> list[dict]:
        context, answer, *rest = request.args
        images = []
        if rest:
            document = self._document(request)
            images = rest[0](document) or []
            answer = answer(document) if callable(answer) else answer
        content = [{"type": "image", "url": image} for image in images] + [{"type": "text", "text": context}]
        # The chat template has the space between prompt and answer.
        text = str(answer).removeprefix(" ")
        return [
            *self._conversation([{"role": "user", "content": content}]),
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
        ]

    def _conversation(self, messages: list[dict]) -> list[dict]:
        """A conversation as the processor takes it, from lmms-eval's."""
        chat = ChatMessages(messages=messages)
        if any(chat.extract_media()[1:]):
            raise ValueError("A task has videos or sounds: FlashSloth takes images and text")
        conversation = chat.to_hf_messages()
        return self._apply_system_prompt(conversation, self.system_prompt) if self.system_prompt else conversation

    # Batches

    def _answer(self, questions: list[_Question]) -> list[GenerationResult]:
        """The answers to questions, which are batched with others of the same options."""
        collator = Collator(
            questions, lambda question: -question.size, lambda question: question.options, grouping=True
        )
        results = []
        for batch in self._progress(collator.get_batched(n=self.batch_size), len(questions)):
            conversations = [self._conversation(question.messages()) for question in batch]
            views = [self._views(conversation) for conversation in conversations]
            answers = {}
            for hd in set(views):
                rows = [row for row, view in enumerate(views) if view == hd]
                generated = self._generate([conversations[row] for row in rows], batch[0].options, hd)
                answers |= dict(zip(rows, generated, strict=True))
            results += [answers[row] for row in range(len(batch))]
        return collator.get_original(results)

    def _views(self, conversation: list[dict]) -> bool | None:
        """Whether a conversation's images are in high definition; `None` if the checkpoint says."""
        longest = self.processor.tokenizer.model_max_length - ROOM
        if self.standard_if_long and self.processor.sequence_length(conversation, self.hd) > longest:
            return False
        return self.hd

    def _progress(self, batches, total: int):
        with tqdm(total=total, desc="Answering", unit=" requests", disable=self.rank != 0) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch))

    def _inputs(self, conversations: list[list[dict]], hd: bool | None, **options):
        return self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            hd=hd,
            processor_kwargs={"padding": True},
            **options,
        ).to(self.device, dtype=self.model.dtype)

    @torch.inference_mode()
    def _generate(self, conversations: list[list[dict]], options: dict, hd: bool | None) -> list[GenerationResult]:
        inputs = self._inputs(conversations, hd, add_generation_prompt=True)
        length = inputs["input_ids"].shape[1]
        used = inputs["attention_mask"].sum(dim=1).tolist()
        stops = options["until"]
        longest = options.get("max_new_tokens", self.max_new_tokens)
        # No answer runs out of the decoder's positions: how long one may get depends on its own prompt only.
        limits = [min(longest, self.processor.tokenizer.model_max_length - count) for count in used]
        output = self.model.generate(
            **inputs,
            **_generation_options(options),
            max_new_tokens=max(1, *limits),
            **({"stop_strings": stops, "tokenizer": self.processor.tokenizer} if stops else {}),
        )
        rows = [row[:limit] for row, limit in zip(output[:, length:], limits, strict=True)]
        texts = self.processor.batch_decode(rows, skip_special_tokens=True)
        pad = self.processor.tokenizer.pad_token_id
        counts = [TokenCounts(count, int((row != pad).sum())) for count, row in zip(used, rows, strict=True)]
        return [GenerationResult(_until(text, stops), count) for text, count in zip(texts, counts, strict=True)]

    @torch.inference_mode()
    def _score(self, conversations: list[list[dict]]) -> list[tuple[float, bool]]:
        inputs = self._inputs(conversations, self.hd, return_assistant_tokens_mask=True)
        mask = inputs.pop("assistant_masks").bool()
        mask = mask & (inputs["input_ids"] != self.processor.tokenizer.eos_token_id)
        # Prompts are padded on the left, so that all answers are at the end.
        kept = int(mask.shape[1] - mask.int().argmax(dim=1).min()) + 1
        logits = self.model(**inputs, logits_to_keep=kept).logits[:, :-1].float()
        ids, mask = inputs["input_ids"][:, 1 - kept :], mask[:, 1 - kept :]
        scores = logits.log_softmax(dim=-1).gather(2, ids[..., None]).squeeze(2)
        sums = scores.masked_fill(~mask, 0).sum(dim=1)
        is_greedy = ((logits.argmax(dim=-1) == ids) | ~mask).all(dim=1)
        return list(zip(sums.tolist(), is_greedy.tolist(), strict=True))


def _identity(value):
    return value


def _positive(name: str, value: int | str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"{name}={value} is not a whole number of 1 or more")
    return int(value)


def _stop_strings(options: dict) -> list[str]:
    until = options.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _until(text: str, stops: list[str]) -> str:
    """The text before the first stop string."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]


def _generation_options(options: dict) -> dict:
    """Options of `generate`. `temperature: 0` is greedy decoding, whose other options of sampling say nothing."""
    kept = {name: value for name, value in options.items() if name in OPTIONS and value is not None}
    kept.pop("max_new_tokens", None)
    temperature = kept.get("temperature", 0)
    if kept.setdefault("do_sample", temperature > 0) and temperature > 0:
        return kept
    return {name: value for name, value in kept.items() if name not in SAMPLING} | {"do_sample": False}


# The response cache


def fingerprint(folder: Path) -> str:
    """A hash of a model folder's files, and of the code of this package that computes its answers."""
    code = Path(flashsloth.__file__).parent.glob("*_flashsloth.py")
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in (*sorted(code), *sorted(path for path in folder.rglob("*") if path.is_file())):
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def _create_cache(create, cls, cache_root: str, *, model="", model_args="", **options):
    if model == MODEL_ID:
        arguments = simple_parse_args_string(model_args)
        folder = find_flashsloth(arguments["pretrained"], arguments.get("revision"))
        model_args = f"{model_args},fingerprint={fingerprint(folder)}"
    return create.__func__(cls, cache_root, model=model, model_args=model_args, **options)


# lmms-eval 0.7.3 keys its cache (`--use_cache`) by the arguments of the model, and would give the answers of older
# weights that were in the same folder. It asks no model for a key.
ResponseCache.create = classmethod(functools.partial(_create_cache, ResponseCache.create))
