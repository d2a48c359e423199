# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the tiny decoder learns from: texts about images whose regions are given as words.

No image is drawn. In place of a visual token stands the sum of the embeddings of the words that are true of its
region. A row has the columns `input_ids`, `weights` (how much each token counts in the loss), `text_ids` (which text a
token belongs to; 0 is attended to by all), `position_ids` and `regions`.
"""

import itertools

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from flashsloth.convert.composition import QUERY_BASE_TEXT
from flashsloth.processing_flashsloth import CHAT_TEMPLATE, IMAGE_TOKEN, QUERY_SLOT_TOKEN
from flashsloth.tiny.conversations import TURNS, conversation, has_form, messages_about_image, questions_of_kinds
from flashsloth.tiny.data import CAPTION_SHARE, SPOTS, choose
from flashsloth.tiny.questions import BRIEFLY, DESCRIBE, KINDS, LESSONS, Turn, ask, caption, describe
from flashsloth.tiny.scenes import GRID, Scene, generator, make_scene
from flashsloth.tiny.tokenizer import QUERY_TOKENS


VISUAL_TOKENS = GRID**2  # of an image: the pooling makes one of each cell
WORD_LENGTH = 2  # tokens of a word that a region keeps
CHAT_SHARE = (0.3, 0.8)  # share of questions in the chat format, at the first and at the last step
FORM_STARTS = {"which first": 0.0, "which": 0.5, "any": 0.65}  # share of the steps after which a form begins

SCENE_MIX = {"ordinary": 0.5, "sparse": 0.3, "dense": 0.2}  # shares of the styles of scenes
COMPARISONS = ("relation", "relation", "places", "places", "places")  # emphasis in a half of the conversations
# Kinds of questions about one scene of a quiz: all, or comparisons alone.
QUIZ_KINDS = ((*KINDS, *LESSONS, "color", "count", "existence"), ("relation", "relation", "relation", "places"))
QUIZ_TRIES = 18


# ----------------------------------------------------------------------------------------------------
# Texts
# ----------------------------------------------------------------------------------------------------


def draw_listing(split: str, index: int) -> tuple[Scene, str]:
    """A scene, and the items and places in it, in random order."""
    rng = generator(split, "listing", index)
    scene = make_scene(split, rng.choice(("ordinary", "dense", "sparse")), index)
    place_first = rng.random() < 0.5
    parts = [
        (item.place, describe(item)) if place_first else (describe(item), "at", item.place) for item in scene.items
    ]
    rng.shuffle(parts)
    return scene, "".join(f" {' '.join(part)}," for part in parts)


def draw_quiz(split: str, index: int, form: str) -> tuple[Scene, list[Turn]]:
    """A scene, and different questions about it with brief answers; comparisons have one form of `FORMS`."""
    rng = generator(split, "quiz", index)
    scene = make_scene(split, choose(SCENE_MIX, rng), index)
    kinds = rng.choices(rng.choice(QUIZ_KINDS), k=QUIZ_TRIES)
    return scene, questions_of_kinds(scene, kinds, form, rng, brief_share=1, turns=QUIZ_TRIES)


def draw_dialogue(split: str, index: int, form: str) -> tuple[Scene, list[dict]]:
    """A scene, and a conversation about its image as chat messages; comparisons have one form of `FORMS`."""
    rng = generator(split, "sketched", index)
    style = choose(SCENE_MIX, rng)
    scene = make_scene(split, style, index)
    turns = conversation(scene, rng, TURNS, rng.choice((SPOTS, COMPARISONS)))
    turns = [turn for turn in turns if has_form(turn, form)]
    if not turns or rng.random() < CAPTION_SHARE:
        turns = [Turn("caption", DESCRIBE, caption(scene))]
    return scene, messages_about_image(turns)


# ----------------------------------------------------------------------------------------------------
# Rows of tensors
# ----------------------------------------------------------------------------------------------------


def encode_regions(tokenizer: PreTrainedTokenizerFast, scene: Scene) -> torch.Tensor:
    """
    The words that are true of each region: what it shows, and where it is.

    Returns:
        `torch.Tensor` of shape `(visual tokens, WORD_LENGTH, vocabulary)`: 1 for each token of these words, else 0.
        The second token of a word has a place of its own, so that 47 is not 74.
    """
    space = tokenizer.convert_tokens_to_ids("Ġ")
    weights = torch.zeros(VISUAL_TOKENS, WORD_LENGTH, len(tokenizer))
    for item in scene.items:
        for word in f"{describe(item)} {item.place}".split():
            ids = [token for token in tokenizer(f" {word}")["input_ids"] if token != space]
            for place, token in enumerate(ids[:WORD_LENGTH]):
                weights[item.row * GRID + item.column, place, token] = 1
    return weights


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict], context_weight: float) -> dict[str, torch.Tensor]:
    """
    The columns of a conversation, each of shape `(L,)`. Answers with their `</s>` have weight 1, other tokens
    `context_weight`.
    """
    text = tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False)
    text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * VISUAL_TOKENS)
    # `compose` makes the query tokens by small changes of this token.
    text = text.replace(QUERY_SLOT_TOKEN, QUERY_BASE_TEXT * QUERY_TOKENS)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    weights = torch.full(ids.shape, context_weight)
    colon = tokenizer.convert_tokens_to_ids(":")
    for end in (ids == tokenizer.eos_token_id).nonzero()[:, 0].tolist():
        start = (ids[:end] == colon).nonzero()[-1, 0].item()  # of "ASSISTANT:"
        weights[start + 1 : end + 1] = 1
    return {
        "input_ids": ids,
        "weights": weights,
        "text_ids": torch.zeros_like(ids),
        "position_ids": torch.arange(len(ids)),
    }


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[list[tuple[str, float]]]) -> dict[str, torch.Tensor]:
    """
    The columns of an image and texts about it. Each text is a list of parts with their weights, and attends to the
    image and itself only.
    """
    ids, weights = [tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * VISUAL_TOKENS, [0.0] * VISUAL_TOKENS
    text_ids, positions = [0] * VISUAL_TOKENS, list(range(VISUAL_TOKENS))
    for number, parts in enumerate(texts, 1):
        start = len(ids)
        for text, weight in parts:
            tokens = tokenizer(text)["input_ids"]
            ids += tokens
            weights += [weight] * len(tokens)
        text_ids += [number] * (len(ids) - start)
        positions += range(VISUAL_TOKENS, VISUAL_TOKENS + len(ids) - start)
    columns = {"input_ids": ids, "weights": weights, "text_ids": text_ids, "position_ids": positions}
    return {name: torch.tensor(values) for name, values in columns.items()}


class Lessons(Dataset):
    """
    The batches of all steps, as examples of a `Dataset`.

    In the first `listing_steps` steps they are lists of items and places in random order, so that the decoder has to
    find each next item in the image. Then come questions and answers: texts that do not attend to each other, or, more
    and more often, a conversation in the chat format. Short texts without that format teach the search faster.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): The decoder's tokenizer.
        settings (`dict`): The settings of [`train_language_model`].
        start (`int`, *optional*, defaults to 0): The step of the first batch.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: dict, start: int = 0):
        self.tokenizer, self.settings, self.start = tokenizer, settings, start
        self.collate = Collator(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return self.settings["steps"] - self.start

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        step = self.start + position
        if step < self.settings["listing_steps"]:
            size = self.settings["listing_batch_size"]
            return self.collate([self.listing(index) for index in range(step * size, (step + 1) * size)])
        form = [form for form, share in FORM_STARTS.items() if step >= share * self.settings["steps"]][-1]
        chat_share = CHAT_SHARE[0] + (CHAT_SHARE[1] - CHAT_SHARE[0]) * step / self.settings["steps"]
        rows = []
        for index in range(step * self.settings["batch_size"], (step + 1) * self.settings["batch_size"]):
            in_chat = generator("train", "framed", index).random() < chat_share
            rows.append(self.dialogue(index, form) if in_chat else self.quiz(index, form))
        return self.collate(rows)

    def listing(self, index: int) -> dict[str, torch.Tensor]:
        """A list of items and places."""
        scene, text = draw_listing("train", index)
        return encode_texts(self.tokenizer, [[(text, 1.0)]]) | {"regions": encode_regions(self.tokenizer, scene)}

    def quiz(self, index: int, form: str) -> dict[str, torch.Tensor]:
        """Questions and brief answers, each pair a text of its own."""
        scene, turns = draw_quiz("train", index, form)
        texts = [
            [
                (f" {turn.question.removesuffix(f' {BRIEFLY}')}", self.settings["context_weight"]),
                (f" {turn.answer}{self.tokenizer.eos_token}", 1.0),
            ]
            for turn in turns
        ]
        return encode_texts(self.tokenizer, texts) | {"regions": encode_regions(self.tokenizer, scene)}

    def dialogue(self, index: int, form: str) -> dict[str, torch.Tensor]:
        """A conversation in the chat format."""
        scene, messages = draw_dialogue("train", index, form)
        row = encode(self.tokenizer, messages, self.settings["context_weight"])
        return row | {"regions": encode_regions(self.tokenizer, scene)}


class Collator:
    """
    Pads rows on the right to shape `(B, L)`. A token attends to earlier tokens of its own text and of text 0, which is
    the image or the whole conversation, and never to padding.
    """

    def __init__(self, pad_token_id: int):
        self.padding = {"input_ids": pad_token_id, "weights": 0.0, "text_ids": -1, "position_ids": 0}

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding)
            for name, padding in self.padding.items()
        }
        texts = batch.pop("text_ids")
        attended = ((texts[:, :, None] == texts[:, None, :]) | (texts[:, None, :] == 0)).tril()
        mask = torch.zeros(attended.shape).masked_fill(~attended, torch.finfo(torch.float32).min)
        return batch | {"attention_mask": mask[:, None], "regions": torch.stack([row["regions"] for row in rows])}


def examination(tokenizer: PreTrainedTokenizerFast, rows: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    """For every kind, a batch of `rows` single questions about validation scenes."""
    batches = {}
    for kind in KINDS:
        questions = []
        for index in itertools.count():
            rng = generator("validation", f"told {kind}", index)
            scene = make_scene("validation", "ordinary", index)
            turn = ask(kind, scene, rng)
            if turn is not None:
                row = encode(tokenizer, messages_about_image([turn]), context_weight=0.0)
                questions.append(row | {"regions": encode_regions(tokenizer, scene)})
            if len(questions) == rows:
                break
        batches[kind] = Collator(tokenizer.pad_token_id)(questions)
    return batches
