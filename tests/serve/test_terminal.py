# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The chat in a terminal and in a pipe, with the shipped checkpoint. Two processes at pseudo-terminals serve all tests:
one that can do all that terminals do, and one that cannot, with a model whose answers are long.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import torch

import flashsloth
from flashsloth import FlashSlothForCausalLM, cli
from flashsloth.assistant.questions import read_images
from flashsloth.loading import SHIPPED_CHECKPOINT
from flashsloth.serve import terminal


EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SCENE, WORDS = EXAMPLES / "scene.png", EXAMPLES / "small_text.png"
SQUARE, STAR = "What colour is the square?", "What colour is the star?"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = 800  # tokens of each answer that nobody stops
UP, PASTE = "\x1b[A", "\x1b[200~{}\x1b[201~"


class Session:
    """A chat at a pseudo-terminal, whose prompt a pattern finds."""

    def __init__(self, folder: Path, prompt: str, *options: str, **environment: str):
        environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), **environment}
        command = ["-m", "flashsloth", "chat", *options]
        self.terminal = pexpect.spawn(
            sys.executable, command, cwd=folder, env=environment, encoding="utf-8", dimensions=(30, 150), timeout=120
        )
        self.prompt = prompt
        self.greeting = self.read()

    def read(self) -> str:
        """What is on the screen since the last prompt, up to the next one, without colours."""
        self.terminal.expect(self.prompt)
        return ESCAPES.sub("", self.terminal.before).replace("\r\n", "\n")

    def enter(self, line: str) -> str:
        """Types a line, and returns what follows its echo."""
        self.terminal.sendline(line)
        return self.read().partition("\n")[2]

    def leave(self) -> int:
        """Presses Ctrl-D, and returns the exit status."""
        self.terminal.sendeof()
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()
        return self.terminal.exitstatus


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The home and working folder, with a history of one line."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(SCENE, folder / "my scene.png")
    (folder / "notes.txt").write_text("text")
    (folder / "state" / "flashsloth").mkdir(parents=True)
    (folder / "state" / "flashsloth" / "chat_history").write_text("/hd nope\n")
    return folder


@pytest.fixture(scope="module")
def session(folder) -> Iterator[Session]:
    session = Session(folder, r">\x1b\[0m ", TERM="xterm-256color", NO_COLOR="")
    session.terminal.send(UP + "\r")
    session.recalled = session.read()
    yield session
    session.terminal.close(force=True)


@pytest.fixture
def chat(session) -> Session:
    """The session, with a new conversation."""
    assert "A new conversation begins." in session.enter("/reset")
    return session


@pytest.fixture(scope="module")
def dumb(folder, tmp_path_factory) -> Iterator[Session]:
    """A terminal that shows text only, and a model that ends no answer."""
    model = shutil.copytree(SHIPPED_CHECKPOINT, tmp_path_factory.mktemp("model") / "long")
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**settings, "min_new_tokens": LONG}))
    options = ["--model", str(model), "--max-new-tokens", str(LONG), "--no-history"]
    session = Session(folder, r"(?<![^\n])(\[.*\] )?> ", *options, TERM="dumb")
    yield session
    session.terminal.close(force=True)


@pytest.fixture(scope="module")
def assistant():
    return flashsloth.load(SHIPPED_CHECKPOINT)


def test_answers_are_those_of_ask_and_of_a_chat_in_python(chat, assistant, capsys):
    assert "scene.png: 192 x 192 pixels, for the next question" in chat.enter(f"/image {SCENE}")
    first, second = chat.enter(SQUARE), chat.enter(STAR)
    assert cli.main(["ask", "--image", str(SCENE), SQUARE]) == 0
    assert first.splitlines()[0] == capsys.readouterr().out.strip() == "The square is red."
    in_python = assistant.chat()
    answers = [in_python.ask(SQUARE, SCENE), in_python.ask(STAR)]
    assert [first.splitlines()[0], second.splitlines()[0]] == list(map(str, answers))
    used = answers[1].prompt_tokens + answers[1].num_tokens
    assert f"{used} of 1024 positions)" in second


def test_images_wait_for_the_next_question(chat, assistant):
    said = chat.enter(f"/image '{SCENE}' ~/my\\ scene.png")
    assert said.count("192 x 192 pixels") == 2 and said.endswith("[2 images] ")
    assert f"{WORDS.name}: 192 x 192" in chat.enter(str(WORDS))  # its name alone, as dropping the file types it
    answer = assistant.ask([SCENE, SCENE, WORDS], "Which word do you see?")
    assert chat.enter("Which word do you see?").startswith(f"{answer}\n")
    assert chat.enter("/reset").endswith("begins.\n")


def test_a_dropped_file_and_a_question_on_one_line(chat, folder):
    assert "The square is red." in chat.enter(f"'{folder / 'my scene.png'}' {SQUARE}")


# What is entered, and what the chat says before it goes on.
BAD_INPUT = {
    "an image that is not there": ("/image nope.png", "error: The image 'nope.png' does not exist: give an image"),
    "no image": ("/image notes.txt", "error: The image 'notes.txt' is not in a format that Pillow knows"),
    "an address without a server": ("/image http://a:b@127.0.0.1:9/x.png?y", "http://127.0.0.1:9/x.png' cannot be"),
    "no name of an image": ("/image", "error: /image takes the names or addresses of images: add one"),
    "an open quote": ("/image 'nope.png", "error: A quote is not closed in 'nope.png: close it"),
    "an image that was moved before it was dropped": ("/gone/x.png", "error: The image '/gone/x.png' does not exist"),
    "a mistyped command": ("/imge x.png", "error: There is no command /imge: did you mean /image?"),
    "a moved file whose name has a space": ("/gone/my x.png", "error: The image '/gone/my' does not exist"),
    "an unknown command": ("/zzz", "error: There is no command /zzz: /help lists all."),
    "another word for high definition": ("/hd maybe", "error: /hd takes on, off or nothing, not 'maybe'."),
    "a word behind a command that takes none": (
        "/reset all",
        "error: /reset takes nothing behind it: leave out 'all'",
    ),
    "no name to save": ("/save", "error: /save takes the name of one file"),
    "a conversation that has not begun": ("/save talk.md", "error: There is nothing to write yet: ask something"),
    "a file of another kind": ("/save talk.txt", "'talk.txt' does not say how to write the conversation: end it in"),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_bad_input_is_named_in_one_line_and_the_chat_goes_on(chat, given):
    line, says = BAD_INPUT[given]
    said = chat.enter(line)
    assert says in said and said.count("\n") == 1


def test_high_definition_is_switched(chat, assistant):
    said = chat.enter("/hd")
    assert "High definition is on: an image has 45 visual tokens." in said and "was trained without it" in said
    chat.enter(f"/image {SCENE}")
    assert chat.enter(SQUARE).startswith(f"{assistant.ask(SCENE, SQUARE, hd=True)}\n")
    assert chat.enter("/hd off") == "High definition is off: an image has 9 visual tokens.\n"


def test_help_names_all_commands(chat):
    said = chat.enter("/help")
    assert re.findall(r"^/\w+", said, flags=re.MULTILINE) == ["/image", "/hd", "/reset", "/save", "/help", "/exit"]


def test_tab_completes_commands_and_files(chat):
    for typed in ("/im\t", "my\t"):
        chat.terminal.send(typed)
    chat.terminal.send("\r")
    said = chat.read()
    assert said.startswith("/image my\\ scene.png ") and "my scene.png: 192 x 192 pixels" in said


def test_lines_go_on_behind_a_backslash_and_in_what_is_pasted(chat, folder):
    chat.terminal.sendline("What colour \\")
    chat.terminal.expect(r"\.\.\. ")
    chat.enter("is it?")
    chat.terminal.send(PASTE.format("first\nsecond") + "\r")
    chat.read()
    chat.enter("/save lines.json")
    messages = json.loads((folder / "lines.json").read_text())["messages"]
    assert [message["content"][0]["text"] for message in messages[::2]] == ["What colour \nis it?", "first\nsecond"]


def test_a_saved_conversation_goes_on_where_it_was(chat, folder, assistant):
    chat.enter(f"/image {SCENE}")
    chat.enter(SQUARE)
    assert chat.enter("/save ~/talk.json") == f"The conversation is in {folder / 'talk.json'}.\n"
    assert "exists, and is not overwritten" in chat.enter("/save ~/talk.json")
    saved = json.loads((folder / "talk.json").read_text())
    assert saved["model"] == "flashsloth-tiny"
    messages = [*saved["messages"], {"role": "user", "content": STAR}]
    inputs = assistant.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = assistant.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    answer = assistant.processor.decode(output, skip_special_tokens=True)
    assert chat.enter(STAR).startswith(f"{answer}\n")
    chat.enter("/save 'a talk.md'")
    assert (folder / "a talk.md").read_text().count("## Answer\n\nThe ") == 2


def test_ctrl_c_clears_the_line(chat):
    chat.terminal.send("never asked")
    chat.terminal.sendintr()
    assert "Ctrl-C once more leaves the chat, as Ctrl-D does." in chat.read()
    assert chat.enter("/hd off").count("\n") == 1  # what was typed before is gone


def test_a_conversation_that_is_too_long_names_the_remedy(chat):
    long = "word " * 600
    assert "of 1024 positions)" in chat.enter(long)
    said = chat.enter(long)
    assert "but the decoder has 1024 positions: begin a new one. /reset does so." in said
    assert "of 1024 positions)" in chat.enter("So?")  # the chat is as it was
    chat.enter("/reset")
    assert "of 1024 positions)" in chat.enter(long)


def test_lines_are_kept_and_called_up_again(chat, folder):
    assert "/hd takes on, off or nothing, not 'nope'." in chat.recalled  # of the history from before
    line = "/hd  off"
    chat.enter(line)
    assert (folder / "state" / "flashsloth" / "chat_history").read_text().splitlines()[-1] == line
    chat.terminal.send(UP + "\r")
    assert chat.read().startswith(f"{line}\nHigh definition is off")


def test_ctrl_c_stops_an_answer_and_not_the_chat(dumb, folder):
    for question in ("Hello?", "And now?"):
        dumb.terminal.sendline(question)
        dumb.terminal.expect(r"\n\w+ ")
        dumb.terminal.sendintr()
        assert "(stopped, first token after" in dumb.read()
    dumb.enter("/save stopped.json")
    saved = json.loads((folder / "stopped.json").read_text())
    assert [about["finish_reason"] for about in saved["turns"]] == ["interrupted"] * 2
    assert all(message["content"] for message in saved["messages"])


class Entered:
    """Lines of a terminal, which are entered already."""

    is_interactive = True
    without_echo = contextlib.nullcontext

    def __init__(self, *entries: str):
        self.entries = [*entries, None]

    def read(self, prompt: str) -> str | None:
        return self.entries.pop(0)


@pytest.mark.parametrize("moment", ["before the answer", "behind the answer"])
def test_ctrl_c_at_the_wrong_moment_does_not_end_the_chat(moment, monkeypatch, capsys):
    chat = flashsloth.load(SHIPPED_CHECKPOINT, dtype="float32").chat()
    session = terminal.TerminalChat(chat, "model", None, {"max_new_tokens": 16}, has_seen_tiles=False)
    session.lines = Entered(STAR, STAR, SQUARE, SQUARE)
    place, name = (chat, "stream") if moment == "before the answer" else (session, "_cost")
    function, calls = getattr(place, name), []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*args, **options)

    monkeypatch.setattr(place, name, interrupted)
    session.run([("scene.png", read_images(SCENE)[0])])
    asked = 3 if moment == "before the answer" else 4
    assert len(calls) == 4 and len(session.turns) == asked
    assert [turn.question for turn in session.turns][-2:] == [SQUARE, SQUARE]
    assert len(chat.messages) == 2 * asked
    output = capsys.readouterr()
    assert output.out.startswith("The star is purple.\n") and output.out.endswith("The square is red.\n" * 2)
    assert ("Nothing was asked: Ctrl-C stopped it." in output.err) == (moment == "before the answer")


def test_what_is_typed_while_an_answer_comes_is_not_in_it(dumb):
    dumb.terminal.sendline("Hello?")
    dumb.terminal.expect(r"\n\w+ ")
    dumb.terminal.send("xyzzy")
    dumb.terminal.expect(r"\w+ \w+ \w+ ")
    dumb.terminal.sendintr()
    assert "xyzzy" not in dumb.terminal.after + dumb.read()
    dumb.terminal.send("/hd off")
    dumb.terminal.expect("/hd off")  # what is typed is shown again
    dumb.enter("")


def test_a_dumb_terminal_gets_text_only(dumb):
    assert "[scene.png] " in dumb.enter(f"/image {SCENE}") + dumb.terminal.after
    dumb.terminal.send("never asked")
    dumb.terminal.sendintr()
    said = dumb.read()
    assert "\x1b" not in dumb.greeting + said + dumb.terminal.after
    assert "A new conversation begins." in dumb.enter("/reset")


def test_the_ends_of_a_chat(session, dumb):
    """Leaves both sessions, and so stands behind all tests that use them."""
    assert dumb.leave() == 0
    session.terminal.sendintr()
    session.read()
    session.terminal.sendintr()
    session.terminal.expect(pexpect.EOF)
    session.terminal.close()
    assert (session.terminal.exitstatus, session.terminal.signalstatus) == (0, None)


def test_answers_and_names_do_not_command_the_terminal():
    assert terminal._without_control("naïve\x1b[2J\x07\r\u009b!\tNo\n") == "naïve\\x1b[2J\\x07\\r\\x9b!\tNo\n"


class Typed(io.StringIO):
    """What is typed at a terminal."""

    def isatty(self) -> bool:
        return True


def test_answers_of_a_terminal_may_go_to_a_file(monkeypatch, capsys):
    """Prompts and notes are on standard error then, and the chat goes on as at any terminal."""
    monkeypatch.setattr(sys, "stdin", Typed(f"/image nope.png\n{SQUARE}\n"))
    assert cli.main(["chat", "--image", str(SCENE)]) == 0
    output = capsys.readouterr()
    assert output.out == "The square is red.\n"
    assert "\n[scene.png] > error: The image 'nope.png' does not exist" in output.err


# Pipes


def pipe(content: str | bytes, monkeypatch, *options: str) -> int:
    """Runs a chat whose lines come from a pipe, and returns the exit status."""
    content = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    return cli.main(["chat", *options])


def test_a_pipe_gets_answers_only(monkeypatch, capsys):
    script = f"\n{SQUARE}\n\n/image {SCENE}\n{STAR}\\\n\n/exit\nnever asked\n"
    assert pipe(script, monkeypatch, "--image", str(SCENE)) == 0
    assert capsys.readouterr().out == "The square is red.\nThe star is purple.\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (b"/image nope.png\nWhat?\n", "line 1: The image 'nope.png' does not exist: give an image file or a URL."),
        (b"\n/zzz\nWhat?\n", "line 2: There is no command /zzz: /help lists all."),
        (b"\xff\nWhat?\n", "line 1: The line is not valid UTF-8 (invalid start byte): save the input as UTF-8."),
    ],
)
def test_the_first_line_that_fails_ends_a_pipe(script, says, monkeypatch, capsys):
    assert pipe(script, monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.splitlines()[-1] == f"flashsloth chat: error: {says}"


def test_a_real_pipe_and_its_exit_status(folder):
    script = f"{SQUARE}\n/nope\n{SQUARE}\n"
    command = [sys.executable, "-m", "flashsloth", "chat", "--image", str(SCENE)]
    done = subprocess.run(command, input=script, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "The square is red.\n")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["Loading", "Loaded", "flashsloth"]


def test_options_reach_the_answers(monkeypatch, capsys):
    image = ["--image", str(SCENE)]
    assert pipe(SQUARE, monkeypatch, *image, "--max-new-tokens", "2", "--system", "Be brief.") == 0
    output = capsys.readouterr()
    assert output.out == "The square\n" and "was cut after 2 tokens: --max-new-tokens allows more" in output.err
    torch.manual_seed(0)
    assert pipe(SQUARE, monkeypatch, *image, "--temperature", "60", "--top-p", "0.9", "--no-history") == 0
    sampled = capsys.readouterr().out
    assert sampled != "The square is red.\n"
    torch.manual_seed(0)
    assert pipe(SQUARE, monkeypatch, *image, "--temperature", "60", "--top-p", "0.9") == 0
    assert capsys.readouterr().out == sampled


@pytest.mark.parametrize("option", [["--temperature", "0"], ["--temperature", "hot"], ["--top-p", "1.5"]])
def test_sampling_options_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["chat", *option])
    assert stop.value.code == 2 and f"'{option[1]}' is not a number above 0" in capsys.readouterr().err


def test_a_turn_for_which_memory_is_short_names_the_remedy(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(FlashSlothForCausalLM, "generate", fail)
    assert pipe("Hello?", monkeypatch) == 2
    assert "line 1: There is not enough memory for this turn: /reset begins with less." in capsys.readouterr().err
