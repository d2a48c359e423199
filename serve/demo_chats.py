# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The conversations of a demo's visitors: what each page shows, and how much of all of them is kept."""

import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from flashsloth.assistant.answer import ImageAttention
from flashsloth.image_reading_flashsloth import ImageError, read_image


MAX_THUMBNAIL = 640  # pixels along each side of an image within the conversation
FINISHED = {"stop": "", "length": "; cut at the longest answer", "interrupted": "; stopped"}


@dataclass(frozen=True)
class Limits:
    """
    What a demo does for its visitors, so that a public one stays up.

    Args:
        images (`int`, *optional*, defaults to 8): Images of a message.
        side (`int`, *optional*, defaults to 1536): Pixels along each side of an image; larger ones are made smaller,
            which is twice what the tiles of high definition have in the published model.
        characters (`int`, *optional*, defaults to 4000): Characters of a question.
        new_tokens (`int`, *optional*, defaults to 1024): Tokens of an answer.
        conversations (`int`, *optional*, defaults to 16): Conversations whose keys and values are kept. One more ends
            the one that was silent for the longest time.
        waiting (`int`, *optional*, defaults to 32): Questions that wait for the model.
        file_size (`str`, *optional*, defaults to `"20mb"`): Size of an uploaded file.
        file_age (`int`, *optional*, defaults to 3600): Seconds after which an uploaded file is removed.
    """

    images: int = 8
    side: int = 1536
    characters: int = 4000
    new_tokens: int = 1024
    conversations: int = 16
    waiting: int = 32
    file_size: str = "20mb"
    file_age: int = 3600


def read_uploads(paths: Sequence[str], folder: Path, limits: Limits) -> list[Image.Image]:
    """
    Opens the images of a message.

    Args:
        paths (`Sequence[str]`): The files, as the browser's message names them.
        folder (`Path`): Where uploads are kept. No other file is opened, and no address.
        limits ([`Limits`]): How many images, and how large.

    Raises:
        ImageError: If there are too many, if one is no upload, or cannot be used. The message names its file alone.
    """
    if len(paths) > limits.images:
        raise ImageError(f"A message takes {limits.images} images, not {len(paths)}: send the others later.")
    images = []
    for path in paths:
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise ImageError(f"The image '{Path(path).name}' was not uploaded here: upload it.")
        image = read_image(Path(path), f"The image '{Path(path).name}'")
        image.thumbnail((limits.side, limits.side))
        images.append(image)
    return images


class Conversation:
    """
    One visitor's chat with one model, as the page shows it.

    Args:
        model_name (`str`): What the page calls the model.
        model ([`Assistant`]): The model.
        folder (`Path`): Where the page's files are kept.

    Attributes:
        messages (`list[dict]`): For Gradio's chatbot.
        facts (`str`): What the last answer cost.
        attention (`list[ImageAttention]`): What the model looked at for it, an entry for each image of the chat.
        is_closed (`bool`): Whether it has ended, and its files are gone.
    """

    def __init__(self, model_name: str, model, folder: Path):
        self.model_name = model_name
        self.chat = model.chat()
        self.messages: list[dict] = []
        self.facts = ""
        self.attention: list[ImageAttention] = []
        self._thumbnails = tempfile.TemporaryDirectory(prefix="conversation-", dir=folder)
        self._stream = None
        self.is_closed = False

    def say(self, text: str, role: str = "assistant", images: Sequence[Image.Image] = ()) -> dict:
        """Puts a message under the others, which is no part of the chat with the model, and returns it."""
        content = [{"path": self._thumbnail(image)} for image in images]
        # Gradio shows text as HTML, and of a mere string it removes indentation.
        message = {"role": role, "content": [*content, {"type": "text", "text": escape(text, quote=False)}]}
        self.messages.append(message)
        return message

    def ask(self, question: str, images: Sequence[Image.Image], **options) -> Iterator[None]:
        """
        Asks the next question, and yields whenever the messages have changed. An error that the visitor caused is a
        message; the chat is then as it was before.

        Args:
            question (`str`): The question.
            images (`Sequence[Image.Image]`): Its images.
            options: Those of [`~flashsloth.assistant.Chat.stream`].
        """
        self.say(question, "user", images)
        self.facts, self.attention = "", []
        yield
        try:
            with self.chat.stream(question, images=list(images), **options) as stream:
                self._stream = stream
                text = self.say("")["content"][0]
                for piece in stream:
                    text["text"] += escape(piece, quote=False)
                    yield
                answer = stream.answer
        except ValueError as error:
            if not self.messages[-1]["content"][0].get("text"):
                self.messages.pop()
            self._say_error(error)
        else:
            self.attention = answer.attention or []
            self.facts = (
                f"{answer.visual_tokens} visual tokens; first token after {answer.seconds_to_first_token:.2f} s; "
                f"{answer.num_tokens} tokens at {answer.tokens_per_second:.0f} per second"
                f"{FINISHED[answer.finish_reason]}"
            )
        finally:
            self._stream = None
        yield

    def refuse(self, question: str, error: ValueError) -> None:
        """Says in one line what is wrong with a question, which the model does not get."""
        self.facts, self.attention = "", []
        if question:
            self.say(question, "user")
        self._say_error(error)

    def overlays(self, kind: str) -> list[Image.Image]:
        """
        What the model looked at, over each image. One scale of colours goes for all: an image that it hardly looked at
        stays grey.
        """
        highest = max((float(image.density(kind).max()) for image in self.attention), default=0.0)
        return [image.overlay(kind, highest) for image in self.attention]

    def stop(self) -> None:
        """Ends the answer that is being made, from another thread than that which makes it."""
        stream = self._stream
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Stops, and removes the conversation's files."""
        self.is_closed = True
        self.stop()
        self._thumbnails.cleanup()

    def _say_error(self, error: ValueError) -> None:
        self.say(f"⚠️ {' '.join(str(error).split())}")

    def _thumbnail(self, image: Image.Image) -> str:
        small = image.copy()
        small.thumbnail((MAX_THUMBNAIL, MAX_THUMBNAIL))
        path = Path(self._thumbnails.name) / f"{secrets.token_hex(8)}.png"
        small.save(path)
        return str(path)


class Conversations:
    """
    The conversations of all visitors, one for each page that is open.

    Args:
        models (`Mapping[str, Assistant]`): The models by the names that the page gives them.
        folder (`Path`): Where the pages' files are kept.
        limits ([`Limits`]): How many are kept.
    """

    def __init__(self, models: Mapping, folder: Path, limits: Limits):
        self.models, self.folder, self.limits = models, folder, limits
        self._open: OrderedDict[str, Conversation] = OrderedDict()  # the one that was silent for the longest first
        self._ended: OrderedDict[str, None] = OrderedDict()  # sessions whose conversation had to give way
        self._lock = threading.Lock()

    def of(self, session: str) -> Conversation | None:
        """The conversation of a page, if it has begun."""
        return self._open.get(session)

    def begin(self, session: str, model_name: str) -> Conversation:
        """The conversation of a page with a model: the one that goes on, or a new one."""
        with self._lock:
            conversation = self._open.pop(session, None)
            if conversation is not None and conversation.model_name != model_name:
                conversation.close()
                conversation = None
            is_new = conversation is None
            if is_new:
                conversation = Conversation(model_name, self.models[model_name], self.folder)
            self._open[session] = conversation
            if session in self._ended:
                del self._ended[session]
                conversation.say("The conversation before had to give way to those of others. This is a new one.")
            while len(self._open) > self.limits.conversations:
                self._give_way()
        return conversation

    def end(self, session: str) -> None:
        """Frees what is kept for a page."""
        with self._lock:
            conversation = self._open.pop(session, None)
            self._ended.pop(session, None)
        if conversation is not None:
            conversation.close()

    def __len__(self) -> int:
        return len(self._open)

    def _give_way(self) -> None:
        session, conversation = self._open.popitem(last=False)
        conversation.close()
        self._ended[session] = None
        while len(self._ended) > 100 * self.limits.conversations:
            self._ended.popitem(last=False)
