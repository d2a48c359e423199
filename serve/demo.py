# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The demo in the browser: a chat about images, and beside it what the model looked at. Gradio serves it.

A visitor reads no files but those that Gradio received or made for the page, in a folder of this process alone. The
conversation is kept here: the page sends the new question, and nothing else of it counts.
"""

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import gradio as gr

from flashsloth.assistant.assistant import Assistant, load
from flashsloth.folders.downloads import is_folder
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve.demo_chats import Conversation, Conversations, Limits, read_uploads
from flashsloth.serve.demo_requests import CheckedBlocks, refusal


SHIPPED_MODELS = (str(SHIPPED_CHECKPOINT), f"{SHIPPED_CHECKPOINT}-hd")
EXAMPLES = Path(__file__).parent.parent / "examples"
# An image, a question, and whether it takes high definition.
QUESTIONS = (
    ("scene.png", "What colour is the square?", False),
    ("scene.png", "Which digit is written by hand? Answer briefly.", False),
    ("small_text.png", "Which word do you see?", True),
)
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
KINDS = {"Query tokens": "query_tokens", "Pooling": "pooling"}
ABOUT_KINDS = (
    "Query tokens: the patches that the tokens behind the question attend to. Pooling: the share of each patch in the "
    "visual token of its region. From blue to yellow, the weight grows."
)
# Parts of Gradio that the demo does without.
QUIET = {
    "quiet": True,
    "inline": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
}
# Gradio blurs the small overlays behind a large one, offers to share what only pages on the Hub can, and joins spaces.
CSS = """
#overlays .preview { backdrop-filter: none; background: var(--block-background-fill); }
#chat .message-buttons { display: none; }
#chat .message-content span { white-space: pre-wrap; }
"""
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONOSPACED_FONT = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def load_models(
    model_ids: Sequence[str] = SHIPPED_MODELS,
    *,
    dtype: str = "fast",
    trust_remote_code: bool = False,
    on_loading: Callable[[str], None] = lambda name: None,
) -> dict[str, Assistant]:
    """
    Loads the models that a demo offers, each once. High definition is as the checkpoint says.

    Args:
        model_ids (`Sequence[str]`, *optional*): Folders, or `owner/name` or `owner/name@revision` on the Hub; the two
            shipped checkpoints if unset.
        dtype (`str`, *optional*), trust_remote_code (`bool`, *optional*): See
            [`~flashsloth.assistant.assistant.load`].
        on_loading (`Callable[[str], None]`, *optional*): Is told of each model before it is loaded.

    Returns:
        `dict[str, Assistant]`: By the names that the page shows: the last part of a folder, or the id on the Hub.

    Raises:
        ValueError: If a model is named twice, or cannot be used.
    """
    names = model_names(model_ids)
    models = {}
    for name, model_id in zip(names, model_ids, strict=True):
        on_loading(str(model_id))
        models[name] = load(model_id, dtype=dtype, trust_remote_code=trust_remote_code)
        # The page hands over opened images. This keeps any other road to files and addresses closed.
        models[name].processor.image_processor.local_sources = False
    return models


def model_names(model_ids: Sequence[str]) -> list[str]:
    """
    What the page calls models: the last part of a folder, or the id on the Hub.

    Raises:
        ValueError: If two of them are the same.
    """
    names = [Path(model_id).resolve().name if is_folder(model_id) else str(model_id) for model_id in model_ids]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"Two models are called {name}: leave one out, or rename its folder.")
    return names


class Demo:
    """
    The page, and what its buttons do.

    Args:
        models (`Mapping[str, Assistant]`): Those of [`load_models`].
        uploads (`Path`): Where Gradio keeps what it receives and serves, which it removes after a while.
        kept (`Path`): Another temporary folder, for what is needed longer. Gradio serves copies of it.
        limits ([`Limits`], *optional*): What visitors may ask for.

    Attributes:
        address (`str`): Of the page, once it is served.
    """

    address = ""

    def __init__(self, models: Mapping[str, Assistant], uploads: Path, kept: Path, limits: Limits | None = None):
        self.models, self.uploads, self.kept, self.limits = models, uploads, kept, limits or Limits()
        self.conversations = Conversations(models, kept, self.limits)
        for name in {name for name, *_ in QUESTIONS}:
            shutil.copy(EXAMPLES / name, kept / name)
        self.blocks = self._page()

    # What the buttons do

    def ask(
        self,
        message: dict,
        model: str,
        kind: str,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """Answers a message: yields the messages, the text box, the overlays and what the answer cost."""
        question = message["text"].strip()
        if not isinstance(model, str) or HALF_A_CHARACTER.search(question):  # which no page sends, nor shows
            raise refusal("The request is none of this page's: reload the page.")
        conversation = self.conversations.begin(request.session_hash, model)
        options = {"max_new_tokens": int(max_new_tokens), "explain": True}
        if temperature > 0:
            options |= {"do_sample": True, "temperature": float(temperature), "top_p": float(top_p)}
        try:
            self._check_question(question)
            images = read_uploads(message["files"], self.uploads, self.limits)
        except ValueError as error:
            conversation.refuse(question, error)
            yield conversation.messages, gr.MultimodalTextbox(value=None), [], ""
            return
        text_box = gr.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True)
        with contextlib.closing(conversation.ask(question, images, **options)) as steps:
            for _ in steps:
                yield conversation.messages, text_box, gr.skip(), ""
                text_box = gr.skip()  # the visitor may be writing the next question
        if not conversation.is_closed:
            yield conversation.messages, _ready(), _gallery(conversation, kind), conversation.facts

    def stop(self, request: gr.Request) -> None:
        """Ends the answer that is being made."""
        if conversation := self.conversations.of(request.session_hash):
            conversation.stop()

    def show(self, kind: str, request: gr.Request):
        """The overlays of the last answer."""
        conversation = self.conversations.of(request.session_hash)
        return _gallery(conversation, kind) if conversation else []

    def take_example(self, event: gr.SelectData) -> tuple:
        """Puts an example into the text box, and chooses a model for it. Of the event, only the number counts."""
        if event.index not in range(len(QUESTIONS)):
            raise refusal(f"There is no such example: there are {len(QUESTIONS)}.")
        image, question, needs_hd = QUESTIONS[event.index]
        fitting = [name for name, model in self.models.items() if model.uses_hd(None)] if needs_hd else []
        message = {"text": question, "files": [str(self.kept / image)]}
        return message, fitting[0] if fitting else gr.skip()

    def begin_again(self, request: gr.Request) -> tuple:
        """Forgets the conversation."""
        self.conversations.end(request.session_hash)
        return [], _ready(), [], ""

    def leave(self, request: gr.Request) -> None:
        """Frees what is kept for a page that was closed."""
        self.conversations.end(request.session_hash)

    def _check_question(self, question: str) -> None:
        if not question:
            raise ValueError("The question is empty: ask something.")
        if len(question) > self.limits.characters:
            raise ValueError(f"The question has {len(question)} characters: shorten it to {self.limits.characters}.")

    # The page

    def _page(self) -> gr.Blocks:
        age = self.limits.file_age
        with CheckedBlocks(title="FlashSloth", analytics_enabled=False, delete_cache=(age, age)) as blocks:
            gr.Markdown("# FlashSloth\nAsk about one image or several, and see what the model looks at.")
            with gr.Row():
                with gr.Column(scale=3, min_width=420):
                    chat, text_box = self._conversation()
                    new = gr.Button("New chat")
                with gr.Column(scale=2, min_width=320):
                    names = list(self.models)
                    model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                    kind, overlays, facts = self._attention()
                    with gr.Accordion("Settings", open=False):
                        settings = self._settings()
            shown = [chat, text_box, overlays, facts]
            hidden = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
            one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model"}
            question = [text_box, model, kind, *settings]
            example = chat.example_select(self.take_example, None, [text_box, model], **hidden)
            asked = [
                text_box.submit(self.ask, question, shown, **one_at_a_time, api_name="ask"),
                example.success(self.ask, question, shown, **one_at_a_time, api_visibility="private"),
            ]
            for event in asked:
                event.failure(_ready, None, text_box, **hidden)
            text_box.stop(self.stop, **hidden)
            kind.input(self.show, kind, overlays, **hidden)
            for restart in (new.click, chat.clear, model.input):  # another model does not know what this one was told
                restart(self.begin_again, None, shown, cancels=asked, **hidden)
            blocks.unload(self.leave)
        # api_open: whether a program may pass by the queue
        return blocks.queue(max_size=self.limits.waiting, api_open=False)

    def _conversation(self) -> tuple[gr.Chatbot, gr.MultimodalTextbox]:
        examples = [{"text": text, "icon": str(self.kept / name)} for name, text, _ in QUESTIONS]
        chat = gr.Chatbot(
            show_label=False,
            height=520,
            render_markdown=False,
            buttons=[],
            allow_file_downloads=False,
            examples=examples,
            elem_id="chat",
        )
        chat.keep_in_cache.update(example["icon"]["path"] for example in chat.examples)
        text_box = gr.MultimodalTextbox(
            placeholder="Ask, and add images by the clip, by dropping or by pasting",
            file_types=["image"],
            file_count="multiple",
            show_label=False,
            elem_id="question",
        )
        return chat, text_box

    def _attention(self) -> tuple[gr.Radio, gr.Gallery, gr.Markdown]:
        kind = gr.Radio(list(KINDS), value=next(iter(KINDS)), label="What the model looked at", info=ABOUT_KINDS)
        overlays = gr.Gallery(
            show_label=False,
            preview=True,
            height=400,
            object_fit="contain",
            format="png",
            buttons=["download", "fullscreen"],
            interactive=False,
            elem_id="overlays",
        )
        return kind, overlays, gr.Markdown(elem_id="facts")

    def _settings(self) -> list[gr.Slider]:
        most = self.limits.new_tokens
        return [
            gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="0: always the likeliest token"),
            gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Has an effect with a temperature above 0"),
            gr.Slider(1, most, value=min(256, most), step=1, label="Longest answer", info="Tokens"),
        ]


def _gallery(conversation: Conversation, kind: str):
    """The overlays, the first one in full."""
    overlays = conversation.overlays(KINDS[kind])
    return gr.Gallery(overlays, selected_index=0 if overlays else None)


def _ready():
    """The text box when no answer is being made; what is written in it stays."""
    return gr.MultimodalTextbox(submit_btn=True, stop_btn=False)


@contextlib.contextmanager
def running(
    models: Mapping[str, Assistant],
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    limits: Limits | None = None,
) -> Iterator[Demo]:
    """
    Serves a demo as long as the block runs.

    Args:
        models (`Mapping[str, Assistant]`): Those of [`load_models`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): The address that it listens at.
        port (`int`, *optional*): The port; the first free one from 7860 on if unset.
        share (`bool`, *optional*, defaults to `False`): Whether to make a public address as well, by Gradio's service.
        limits ([`Limits`], *optional*): What visitors may ask for.

    Yields:
        [`Demo`]: With its address; the public one if there is one.

    Raises:
        ValueError: If it cannot listen there.
        OSError: If no public address can be made.
    """
    _check_address(host, port)
    with _without_leftovers(), _folders() as (uploads, kept), _gradio_environment(uploads):
        demo = Demo(models, uploads, kept, limits)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                _, address, public_address = demo.blocks.launch(
                    server_name=host,
                    server_port=port,
                    share=share,
                    max_file_size=demo.limits.file_size,
                    theme=gr.themes.Default(primary_hue="emerald", font=FONT, font_mono=MONOSPACED_FONT),
                    css=CSS,
                    prevent_thread_lock=True,
                    **QUIET,
                )
            if share and not public_address:
                raise OSError("no public address could be made: Gradio's service cannot be reached")
            demo.address = public_address or address
            yield demo
        finally:
            demo.blocks.close(verbose=False)


def announce(address: str) -> None:
    """Prints the address of the page."""
    print(address, flush=True)  # noqa: T201


def run(models: Mapping[str, Assistant], on_ready: Callable[[str], None] = announce, **options) -> None:
    """
    Serves a demo until the process is interrupted.

    Args:
        models (`Mapping[str, Assistant]`): Those of [`load_models`].
        on_ready (`Callable[[str], None]`, *optional*): Takes the address of the page once it is served.
        options: Those of [`running`].
    """
    with running(models, **options) as demo:
        on_ready(demo.address)
        threading.Event().wait()


@contextlib.contextmanager
def _without_leftovers() -> Iterator[None]:
    """Removes folders that Gradio makes for another kind of page, if they were not there and are empty."""
    edits = Path(tempfile.gettempdir()) / "gradio" / "vibe_edit_history"
    new = [folder for folder in (edits, edits.parent) if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # of a folder that is not empty, or was never made
                folder.rmdir()


@contextlib.contextmanager
def _folders() -> Iterator[list[Path]]:
    """Two temporary folders, which are side by side: Gradio may copy what is in either."""
    with tempfile.TemporaryDirectory(prefix="flashsloth-demo-") as name:
        folders = [Path(name) / part for part in ("uploads", "kept")]
        for folder in folders:
            folder.mkdir()
        yield folders


@contextlib.contextmanager
def _gradio_environment(uploads: Path) -> Iterator[None]:
    """Gives Gradio a folder of its own, which other programs' uploads are not in, and keeps it from calling home."""
    changes = {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_address(host: str, port: int | None) -> None:
    """Gradio would try a hundred ports, for seconds each."""
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        where = host if port is None else f"{host}, port {port}"
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The demo cannot listen at {where} ({reason}): give another --host or --port.") from error
