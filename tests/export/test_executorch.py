# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The shipped checkpoint as an ExecuTorch program, in ExecuTorch's own runtime: its answers to held-out questions are
those of torch, `export.json` describes it, and nothing is half-made.

`pytest -s` prints what docs/edge.md says of sizes and times.
"""

import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from model_folders import error_of, read_json
from PIL import Image
from program_loop import ProgramLoop
from safetensors.torch import load_file, save_file
from samples import make_model, prepare, user

from flashsloth import cli, load
from flashsloth.export.cached_decoder import without_images
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor
from flashsloth.tiny.data import make_dataset, text_row


MAX_LENGTH = 384
NUM_TOKENS = 12
NUM_EXAM = 28  # questions, each about an image of its own
NUM_TEXT = 6
NUM_SMALL_TEXT = 8
HD_CHECKPOINT = SHIPPED_CHECKPOINT.with_name("flashsloth-tiny-hd")
SCENE = SHIPPED_CHECKPOINT.parent.parent / "examples" / "scene.png"
SCENE_ANSWERS = {"What colour is the square?": "The square is red.", "What colour is the star?": "The star is purple."}
# How far logits may be from torch's, which are up to 25. XNNPACK rounds products otherwise and approximates functions.
LOGITS_TOLERANCE = 0.05
INT8_SHARE = 0.9  # of the answers in int8 that are those of torch; kernels, and so roundings, differ among CPUs

needs_executorch = pytest.mark.skipif(
    find_spec("executorch") is None, reason="executorch is not installed: pip install 'flashsloth[executorch]'"
)


@pytest.fixture(scope="module")
def export():
    """The module, which imports executorch."""
    from flashsloth.export import executorch

    return executorch


@pytest.fixture(scope="module")
def shipped():
    """Model and processor in torch."""
    return load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def questions(shipped) -> list[dict]:
    """
    Inputs of questions about `SCENE`, also in high resolution, which this checkpoint was not trained for; then of
    held-out ones: about an image, a scene in words, two images, and an image in high resolution.
    """
    _, processor = shipped
    exam = make_dataset("exam", "heldout", NUM_EXAM)
    chats = [[user(row["images"][0], row["messages"][0]["content"][1]["text"])] for row in exam]
    texts = [[text_row("heldout", index)["messages"][0]] for index in range(NUM_TEXT)]
    two = [user(exam[0]["images"][0], exam[1]["images"][0], exam[1]["messages"][0]["content"][1]["text"])]
    scene = [[user(Image.open(SCENE), question)] for question in SCENE_ANSWERS]
    asked = [(chat, hd) for hd in (False, True) for chat in scene]
    asked += [(chat, False) for chat in (*chats, *texts, two)] + [(chat, True) for chat in chats[:2]]
    return [prepare(processor, [chat], hd=hd) for chat, hd in asked]


@dataclass
class Answers:
    """The tokens of answers, and the logits `(tokens, vocabulary)` from which each token of them was chosen."""

    tokens: list[list[int]]
    logits: list[torch.Tensor]


def answers_of_torch(model, questions: list[dict]) -> Answers:
    found = Answers([], [])
    for inputs in questions:
        output = model.generate(
            **inputs,
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        found.tokens.append(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
        found.logits.append(torch.cat(output.logits))
    return found


@pytest.fixture(scope="module")
def expected(shipped, questions) -> Answers:
    return answers_of_torch(shipped[0], questions)


def exported_by_command(made_once, weights: str, checkpoint: Path = SHIPPED_CHECKPOINT) -> Path:
    """A checkpoint, exported by `flashsloth export`."""

    def write(folder: Path) -> None:
        options = [f"--weights={weights}", f"--max-length={MAX_LENGTH}"]
        assert cli.main(["export", str(checkpoint), str(folder), "--format=executorch", *options]) == 0

    return made_once(f"{checkpoint.name}-executorch-{weights}", write)


@pytest.fixture(scope="module")
def float32(made_once) -> Path:
    return exported_by_command(made_once, "float32")


@pytest.fixture(scope="module")
def int8(made_once) -> Path:
    return exported_by_command(made_once, "int8")


@pytest.fixture
def source(tmp_path, processor) -> Path:
    """A random model's folder, `model`, in `tmp_path`."""
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def answers(folder: Path, model, questions: list[dict]) -> Answers:
    """Greedy answers by ExecuTorch's runtime, one conversation after the other in the same program."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(folder / "model.pte")
    methods = [program.load_method(name) for name in ("vision_encoder", "decoder")]
    calls = [lambda *inputs, m=method: m.execute([tensor.contiguous() for tensor in inputs]) for method in methods]
    found, seconds = Answers([], []), []
    for inputs in questions:
        loop = ProgramLoop(*calls, model.config)
        found.tokens.append(loop.ask(inputs["input_ids"], inputs.get("pixel_values"), NUM_TOKENS))
        found.logits.append(torch.stack(loop.answer_logits))
        seconds += loop.token_seconds
    size = (folder / "model.pte").stat().st_size
    print(f"\n{size / 1e6:.1f} MB, {statistics.median(seconds) * 1e3:.2f} ms for each later token")  # noqa: T201
    return found


def texts(found: Answers, processor) -> list[str]:
    return [processor.decode(tokens, skip_special_tokens=True) for tokens in found.tokens]


@needs_executorch
def test_answers_in_float32_are_those_of_torch(float32, shipped, questions, expected):
    found = answers(float32, shipped[0], questions)
    assert found.tokens == expected.tokens
    assert texts(found, shipped[1])[: len(SCENE_ANSWERS)] == [*SCENE_ANSWERS.values()]
    differences = [(a - b).abs().max().item() for a, b in zip(found.logits, expected.logits, strict=True)]
    print(f"logits differ by up to {max(differences):.4f}")  # noqa: T201
    assert max(differences) < LOGITS_TOLERANCE


@needs_executorch
def test_answers_in_int8_are_mostly_those_of_torch(int8, float32, shipped, questions, expected):
    found = answers(int8, shipped[0], questions)
    agree = sum(answer == wanted for answer, wanted in zip(found.tokens, expected.tokens, strict=True))
    print(f"{agree} of {len(questions)} answers agree")  # noqa: T201
    assert agree >= INT8_SHARE * len(questions)
    assert texts(found, shipped[1])[: len(SCENE_ANSWERS)] == [*SCENE_ANSWERS.values()]
    assert (int8 / "model.pte").stat().st_size < 0.5 * (float32 / "model.pte").stat().st_size


@needs_executorch
@pytest.mark.slow
def test_answers_of_the_hd_checkpoint_are_those_of_torch(made_once):
    model, processor = load_model_and_processor(str(HD_CHECKPOINT), dtype=torch.float32, device="cpu")
    exam = make_dataset("small_text", "heldout", NUM_SMALL_TEXT)
    chats = [user(row["images"][0], row["messages"][0]["content"][1]["text"]) for row in exam]
    chats += [user(Image.open(SCENE), question) for question in SCENE_ANSWERS]
    questions = [prepare(processor, [[chat]]) for chat in chats]
    assert {len(inputs["pixel_values"]) for inputs in questions} == {processor.image_processor.num_views(hd=True)}
    found = answers(exported_by_command(made_once, "float32", HD_CHECKPOINT), model, questions)
    assert found.tokens == answers_of_torch(model, questions).tokens
    assert texts(found, processor)[NUM_SMALL_TEXT:] == [*SCENE_ANSWERS.values()]


@needs_executorch
def test_the_record_describes_the_program(float32, shipped):
    from executorch.runtime import Runtime

    model, processor = shipped
    record = read_json(float32 / "export.json")
    program = Runtime.get().load_program(float32 / "model.pte")
    assert program.method_names == {*record["methods"], *record["constants"]}
    assert record["files"] == {"model.pte": (float32 / "model.pte").stat().st_size}
    sizes = {name: axis["max"] for name, axis in record["axes"].items()}
    for name, method in record["methods"].items():
        metadata = program.metadata(name)
        assert metadata.num_inputs() == len(method["inputs"])
        for index, tensor in enumerate(method["inputs"]):
            shape = tuple(sizes.get(size, size) for size in tensor["shape"])
            assert metadata.input_tensor_meta(index).sizes() == shape
        assert [metadata.output_tensor_meta(n).sizes() for n in range(metadata.num_outputs())] == [
            tuple(tensor["shape"]) for tensor in method["outputs"]
        ]
    for name, value in record["constants"].items():
        found = program.load_method(name).execute([])
        assert (found if isinstance(value, list) else found[0]) == value
    assert record["constants"]["get_max_context_len"] == MAX_LENGTH
    assert record["constants"]["get_max_views"] == processor.image_processor.num_views(hd=True)
    assert record["constants"]["get_suppressed_token_ids"] == model.generation_config.suppress_tokens


@needs_executorch
def test_a_call_beyond_the_bounds_fails_and_the_next_one_works(float32, shipped, questions, expected):
    from executorch.runtime import Runtime

    model, _ = shipped
    decoder = Runtime.get().load_program(float32 / "model.pte").load_method("decoder")
    for length, position in ((1, MAX_LENGTH), (20, MAX_LENGTH - 10), (MAX_LENGTH + 1, 0)):
        input_ids = torch.zeros(1, length, dtype=torch.long)
        with pytest.raises(RuntimeError, match="failed with error"):
            decoder.execute([input_ids, torch.tensor([position]), *without_images(model.config)])
    index = next(index for index, inputs in enumerate(questions) if "pixel_values" not in inputs)
    loop = ProgramLoop(None, lambda *inputs: decoder.execute(list(inputs)), model.config)
    assert loop.ask(questions[index]["input_ids"], None, NUM_TOKENS) == expected.tokens[index]


@needs_executorch
def test_the_folder_has_the_processor_and_its_origin(float32):
    names = {file.name for file in float32.iterdir()}
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".bin"))]
    entry = read_json(float32 / "provenance.json")[-1]
    assert (entry["command"], entry["format"], entry["weights"]) == ("export", "executorch", "float32")


@needs_executorch
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_python_says_who_runs_the_folder(float32, backend):
    assert "holds an ExecuTorch program, which apps run" in error_of(load, str(float32), backend=backend)


@needs_executorch
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "one kind of weights, float32 or int8, not int4"),
        ({"max_length": 5}, "max_length is 5: take a number from 7"),
        ({"max_length": 1025}, "to 1024, the decoder's own limit"),
        ({"max_views": 1}, "max_views is 1: take a number from 3 to 256"),
    ],
)
def test_wrong_options_leave_nothing(export, source, tmp_path, options, message):
    assert message in error_of(export.export_executorch, source, tmp_path / "exported", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@needs_executorch
def test_weights_that_are_not_finite_are_named(export, source, tmp_path):
    weights = load_file(source / "model.safetensors")
    weights["model.pooling.fc1.weight"][0, 0] = torch.inf
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    message = error_of(export.export_executorch, source, tmp_path / "exported")
    assert "model.pooling.fc1.weight" in message and "not finite" in message
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@needs_executorch
def test_a_full_disk_leaves_nothing(export, source, tmp_path, monkeypatch):
    class Program:
        def write_to_file(self, file):
            file.write(b"the beginning")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "lower", lambda *_: Program())
    with pytest.raises(OSError, match="No space left"):
        export.export_executorch(source, tmp_path / "exported")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@needs_executorch
def test_a_stopped_export_leaves_nothing(source, tmp_path):
    command = [sys.executable, "-m", "flashsloth", "export", str(source), str(tmp_path / "exported")]
    with subprocess.Popen([*command, "--format=executorch"], stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("exported.incomplete-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def last_line(command: str, *arguments) -> str:
    """What a Python command that ends with status 2 says last."""
    done = subprocess.run([sys.executable, "-c", command, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()[-1]


WITHOUT_EXECUTORCH = (
    "import sys; sys.modules['executorch'] = None; from flashsloth.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "install it with: pip install 'flashsloth[executorch]'"),
        (["--weights=int4"], "An ExecuTorch program holds one kind of weights, float32 or int8, not int4."),
        (["--weights=int8", "--weights=float32"], "float32 or int8, not int8, float32."),
    ],
)
def test_without_executorch_the_command_says_what_to_do(source, tmp_path, options, message):
    arguments = ["export", source, tmp_path / "exported", "--format=executorch", *options]
    assert message in last_line(WITHOUT_EXECUTORCH, *arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
