# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The shipped checkpoint as an ExecuTorch program, in ExecuTorch's own runtime: its answers to held-out questions are
those of torch, and `export.json` describes it. `make executorch` runs these tests.
"""

import json

import pytest
import torch


# Its wheels are built for one version of torch, so a development installation, which takes others, goes without.
pytest.importorskip("executorch", reason="executorch is not installed: make executorch runs these tests")

from executorch.runtime import Runtime  # noqa: E402
from program_loop import ProgramLoop  # noqa: E402
from samples import make_model, prepare  # noqa: E402

from flashsloth import load  # noqa: E402
from flashsloth.cli import main  # noqa: E402
from flashsloth.export.executorch import export_executorch  # noqa: E402
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor  # noqa: E402
from flashsloth.tiny.data import make_dataset, text_row  # noqa: E402


MAX_LENGTH = 384
NUM_TOKENS = 12
NUM_EXAM = 28  # questions, each about an image of its own
NUM_TEXT = 6


@pytest.fixture(scope="module")
def shipped():
    """Model and processor in torch."""
    return load_model_and_processor(str(SHIPPED_CHECKPOINT), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def questions(shipped) -> list[dict]:
    """Inputs of held-out questions: about an image, in high resolution too, about two, and about a scene in words."""
    _, processor = shipped
    exam = make_dataset("exam", "heldout", NUM_EXAM)
    chats = []
    for row in exam:
        image, question = row["images"][0], row["messages"][0]["content"][1]
        chats.append([{"role": "user", "content": [{"type": "image", "image": image}, question]}])
    two = [*chats[0][0]["content"][:1], *chats[1][0]["content"]]
    texts = [[text_row("heldout", index)["messages"][0]] for index in range(NUM_TEXT)]
    inputs = [prepare(processor, [chat]) for chat in (*chats, *texts, [{"role": "user", "content": two}])]
    return [*inputs, *(prepare(processor, [chat], hd=True) for chat in chats[:2])]


@pytest.fixture(scope="module")
def expected(shipped, questions) -> list[list[int]]:
    model, _ = shipped
    options = {"max_new_tokens": NUM_TOKENS, "do_sample": False}
    return [model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist() for inputs in questions]


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float32") / "model"
    return export_executorch(SHIPPED_CHECKPOINT, folder, max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "model"
    main(["export", str(SHIPPED_CHECKPOINT), str(folder), "--format=executorch", "--weights=int8", "--max-length=384"])
    return folder


def answers(folder, shipped, questions) -> list[list[int]]:
    """Greedy answers by ExecuTorch's runtime, one conversation after the other in the same program."""
    model, _ = shipped
    program = Runtime.get().load_program(folder / "model.pte")
    methods = [program.load_method(name) for name in ("vision_encoder", "decoder")]
    calls = [lambda *inputs, m=method: m.execute([tensor.contiguous() for tensor in inputs]) for method in methods]
    loops = (ProgramLoop(*calls, model.config) for _ in questions)
    return [
        loop.ask(inputs["input_ids"], inputs.get("pixel_values"), NUM_TOKENS)
        for loop, inputs in zip(loops, questions, strict=True)
    ]


def test_answers_in_float32_are_those_of_torch(float32, shipped, questions, expected):
    assert answers(float32, shipped, questions) == expected


def test_answers_in_int8_are_mostly_those_of_torch(int8, float32, shipped, questions, expected):
    pairs = zip(answers(int8, shipped, questions), expected, strict=True)
    agree = sum(answer == wanted for answer, wanted in pairs)
    print(f"{agree} of {len(questions)} answers agree")  # noqa: T201
    assert agree >= 0.8 * len(questions)
    assert (int8 / "model.pte").stat().st_size < 0.5 * (float32 / "model.pte").stat().st_size


def test_the_record_describes_the_program(float32, shipped):
    model, processor = shipped
    record = json.loads((float32 / "export.json").read_text())
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


def test_the_folder_has_the_processor_and_its_origin(float32):
    names = {file.name for file in float32.iterdir()}
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".bin"))]
    entry = json.loads((float32 / "provenance.json").read_text())[-1]
    assert (entry["command"], entry["format"], entry["weights"]) == ("export", "executorch", "float32")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_python_says_who_runs_the_folder(float32, backend):
    with pytest.raises(ValueError, match="an ExecuTorch program, which apps run"):
        load(str(float32), backend=backend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights must be among float32, int8, not int4"),
        ({"max_length": 5}, "max_length is 5: take a number from 7"),
        ({"max_length": 1025}, "to 1024, the decoder's own limit"),
        ({"max_views": 1}, "max_views is 1: take a number from 3 to 256"),
    ],
)
def test_wrong_options_leave_nothing(tmp_path, processor, options, message):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        export_executorch(tmp_path / "model", tmp_path / "exported", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
