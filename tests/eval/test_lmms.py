# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
The model in lmms-eval: that its command finds it, that its metrics get the answers of plain `generate`, one by one, in
batches and over processes, and that requests of each kind are answered. `make lmms-eval` runs these tests.
"""

import functools
import json
import shutil
import subprocess
import sys

import datasets
import pytest
import torch


# Whoever installs this project does not get lmms-eval, which needs packages of certain versions.
pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: make lmms-eval runs these tests")

import lmms_tasks  # noqa: E402
from lmms_eval.api.instance import Instance  # noqa: E402
from lmms_eval.evaluator import simple_evaluate  # noqa: E402
from lmms_eval.models import get_model  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402
from lmms_tasks import SUFFIX, WORDS, YES_NO, scene  # noqa: E402
from openai_server import NAME, running_server  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from flashsloth.eval import lmms  # noqa: E402
from flashsloth.eval.lmms import FlashSlothLmms  # noqa: E402
from flashsloth.loading import SHIPPED_CHECKPOINT, load_model_and_processor  # noqa: E402


DESCRIBE = "Describe the image."
GREEDY = {"max_new_tokens": 32, "temperature": 0, "do_sample": False, "top_p": 1.0, "num_beams": 1}
QUESTIONS = [(index, question) for index, question, _ in (*YES_NO, *WORDS)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of tasks, and their names."""
    folder = tmp_path_factory.mktemp("evaluation") / "tasks"
    return folder, lmms_tasks.write_tasks(folder)


@pytest.fixture(scope="module")
def plain():
    """Answers one question by the library alone."""
    model, processor = load_model_and_processor(str(SHIPPED_CHECKPOINT))

    def answer(images: list, text: str, hd: bool | None = None, **options) -> str:
        content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            hd=hd,
        )
        output = model.generate(**inputs, do_sample=False, **{"max_new_tokens": 128, **options})
        return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]

    return answer


def make_model(**arguments) -> FlashSlothLmms:
    """The model with tasks of questions about scenes, `ask` and `other`."""
    model = FlashSlothLmms(**{"pretrained": str(SHIPPED_CHECKPOINT), "device": "cpu"} | arguments)
    documents = [{"image": scene(index), "question": question} for index, question in QUESTIONS]
    model.task_dict = {"ask": {"test": documents}, "other": {"test": documents[::-1]}}
    return model


def to_messages(document: dict) -> list[dict]:
    content = [{"type": "image", "url": document["image"]}, {"type": "text", "text": document["question"] + SUFFIX}]
    return [{"role": "user", "content": content}]


def request(arguments: tuple, kind: str = "generate_until") -> Instance:
    return Instance(kind, arguments, 0, metadata={"task": "ask", "doc_id": 0, "repeats": 1})


def question(index: int, messages=to_messages, task: str = "ask", **options) -> Instance:
    """A request about a document."""
    return request(("x" * index, messages, GREEDY | options, index, task, "test"))


def texts(results) -> list[str]:
    return [result.text for result in results]


# The command


def results_of(output) -> dict:
    (file,) = output.glob("*flashsloth-tiny/*_results.json")
    return json.loads(file.read_text())["results"]


def samples_of(output) -> dict[str, list]:
    """The prompt and the answer of each document, by task."""
    found = {}
    for file in output.rglob("*_samples_*.jsonl"):
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row["doc_id"])
        # What was said before the task's filters, where these have changed it.
        answers = [row.get("resps", row["filtered_resps"]) for row in rows]
        asked = [(row["doc_id"], row["input"]) for row in rows]
        found[file.stem.partition("_samples_")[2]] = list(zip(asked, answers, strict=True))
    return found


@pytest.fixture(scope="module")
def command_output(tasks, tmp_path_factory):
    """What the command writes for all tasks, in batches of four."""
    folder, names = tasks
    output = tmp_path_factory.mktemp("output")
    done = lmms_tasks.run(folder, f"pretrained={SHIPPED_CHECKPOINT},batch_size=4", names, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def test_the_command_scores_with_its_own_metrics(command_output, plain):
    results = results_of(command_output)
    asked = [(plain([scene(index)], text + SUFFIX), answer) for index, text, answer in YES_NO]
    accuracy = sum(given == answer for given, answer in asked) / len(asked)
    assert accuracy > 0.8  # the shipped checkpoint knows such questions
    assert results["local_pope"]["pope_accuracy,none"] == pytest.approx(accuracy)
    assert results["local_mme"]["mme_perception_score,none"] > 150
    asked = [(plain([scene(index)], text.capitalize() + SUFFIX), answer) for index, text, answer in WORDS]
    share = sum(given == answer for given, answer in asked) / len(asked)
    assert share > 0.5
    assert results["local_chartqa"]["relaxed_overall,none"] == pytest.approx(share)
    assert results["local_textvqa"]["exact_match,none"] == pytest.approx(share)
    assert results["local_docvqa"]["anls,none"] >= share
    assert results["local_mmbench"]["gpt_eval_score,none"] > 0
    assert "exact_match,flexible-extract" in results["local_ai2d"]


def test_the_command_gives_the_answers_of_plain_generate(command_output, tasks, plain):
    samples = samples_of(command_output)
    assert sorted(samples) == tasks[1]
    for name, rows in samples.items():
        questions = YES_NO if name in ("local_pope", "local_mme") else WORDS
        assert len(rows) == len(questions)
        limit = 16 if name in ("local_mme", "local_chartqa", "local_ai2d") else 32 if name == "local_docvqa" else 128
        for ((index, prompt), answer), (image, _, _) in zip(rows, questions, strict=True):
            assert answer == plain([scene(image)], prompt, max_new_tokens=limit), (name, index)


def test_two_processes_give_the_report_of_one(command_output, tasks, tmp_path):
    folder, names = tasks
    done = lmms_tasks.run(folder, f"pretrained={SHIPPED_CHECKPOINT},batch_size=3", names, tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert results_of(tmp_path) == results_of(command_output)
    assert samples_of(tmp_path) == samples_of(command_output)


def test_the_entry_point_gives_the_class():
    assert get_model("flashsloth") is FlashSlothLmms


def test_the_class_may_be_imported_before_lmms_eval():
    code = "import flashsloth.eval.lmms, lmms_eval.models; print(lmms_eval.models.get_model('flashsloth').__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["FlashSlothLmms"]


# The model of lmms-eval for OpenAI-compatible servers


def test_the_model_for_servers_gets_the_same_answers_from_ours(exact):
    requests = [
        question(index, **options) for index in range(len(QUESTIONS)) for options in ({}, {"max_new_tokens": 3})
    ]
    with running_server(exact.model, exact.processor) as server:
        served = get_model("openai")(model=NAME, base_url=server.url, api_key="none", max_retries=1, timeout=60)
        served.task_dict = exact.task_dict
        assert texts(served.generate_until(requests)) == texts(exact.generate_until(requests))


# The response cache


def test_the_cache_is_not_asked_for_answers_of_other_weights(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED_CHECKPOINT, folder)
    answered = []
    generate = FlashSlothLmms.generate_until

    def count(self, requests):
        answered.append(len(requests))
        return generate(self, requests)

    monkeypatch.setattr(FlashSlothLmms, "generate_until", count)

    def answers() -> list[str]:
        results = simple_evaluate(
            model="flashsloth",
            model_args=f"pretrained={folder},device=cpu",
            tasks=["local_pope"],
            task_manager=TaskManager(include_path=str(tasks[0])),
            use_cache=str(tmp_path / "cache"),
        )
        return [row["resps"] for row in results["samples"]["local_pope"]]

    first = answers()
    assert answered == [len(YES_NO)]
    assert answers() == first and answered == [len(YES_NO)]  # from the cache
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = -weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert answers() != first and answered == [len(YES_NO)] * 2
    shutil.copy(SHIPPED_CHECKPOINT / "model.safetensors", folder)
    assert answers() == first and answered == [len(YES_NO)] * 2


def test_the_fingerprint_is_of_all_files(tmp_path):
    shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "a")
    shutil.copytree(SHIPPED_CHECKPOINT, tmp_path / "b")
    assert lmms.fingerprint(tmp_path / "a") == lmms.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "processor_config.json").write_text("{}")
    assert lmms.fingerprint(tmp_path / "a") != lmms.fingerprint(tmp_path / "b")


# Answers


@pytest.fixture(scope="module")
def one_by_one() -> FlashSlothLmms:
    return make_model()


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_batches_give_the_answers_of_one_by_one(batch_size, one_by_one):
    requests = [question(index) for index in range(len(QUESTIONS))]
    expected = one_by_one.generate_until(requests)
    assert len(set(texts(expected))) > 4
    assert make_model(batch_size=str(batch_size)).generate_until(requests) == expected  # and their numbers of tokens


def test_the_order_is_kept_over_tasks_and_options(one_by_one, plain):
    """Documents of a shorter process are filled up with copies, perhaps of another task."""
    requests = [question(3), question(0, task="other"), question(3, max_new_tokens=1), question(7), question(3)]
    got = texts(make_model(batch_size=4).generate_until(requests))
    asked = [QUESTIONS[3], QUESTIONS[-1], QUESTIONS[3], QUESTIONS[7], QUESTIONS[3]]
    limits = [32, 32, 1, 32, 32]
    expected = [
        plain([scene(index)], text + SUFFIX, max_new_tokens=limit)
        for (index, text), limit in zip(asked, limits, strict=True)
    ]
    assert got == expected


@pytest.mark.parametrize("hd", [None, True])
def test_several_images_and_none(hd, plain):
    def two(document):
        images = [{"type": "image", "url": scene(index)} for index in (0, 2)]
        return [{"role": "user", "content": [*images, {"type": "text", "text": DESCRIBE}]}]

    def none(document):
        return [{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}]

    model = make_model(hd=hd, batch_size=3)
    got = texts(model.generate_until([question(0, two), question(1), question(2, none)]))
    assert got == [
        plain([scene(0), scene(2)], DESCRIBE, hd, max_new_tokens=32),
        plain([scene(QUESTIONS[1][0])], QUESTIONS[1][1] + SUFFIX, hd, max_new_tokens=32),
        plain([], "Name a colour.", hd, max_new_tokens=32),
    ]


def describe(document: dict) -> list[dict]:
    content = [{"type": "image", "url": document["image"]}, {"type": "text", "text": DESCRIBE}]
    return [{"role": "user", "content": content}]


def test_an_answer_ends_before_its_first_stop_string(one_by_one):
    (whole,) = texts(one_by_one.generate_until([question(6, describe)]))
    words = whole.split()
    assert len(words) > 4
    for until, expected in (
        ([f" {words[2]}"], whole.partition(f" {words[2]}")[0]),
        (f" {words[1]}", whole.partition(f" {words[1]}")[0]),
        ([f" {words[3]}", f" {words[2]}"], whole.partition(f" {words[2]}")[0]),
        (["ASSISTANT:"], whole),  # which is at the end of every prompt
        (["\n\n", ""], whole),
        ([words[0][0]], ""),
    ):
        requests = [question(6, describe, until=until), question(1), question(0, describe)]
        got = make_model(batch_size=3).generate_until(requests)
        assert texts(got) == [expected, *texts(one_by_one.generate_until(requests[1:]))]
        if len(expected.split()) < len(words) - 2:
            assert got[0].token_counts.output_tokens < len(one_by_one.processor.tokenizer(whole)["input_ids"])


def test_an_answer_may_be_as_long_as_the_positions_allow(one_by_one):
    """Whatever it is batched with."""
    limit = one_by_one.processor.tokenizer.model_max_length

    def long(document):
        return [{"role": "user", "content": [{"type": "text", "text": "red " * (limit - 70)}]}]

    requests = [question(0, long, max_new_tokens=100_000), question(1, max_new_tokens=100_000)]
    alone = [one_by_one.generate_until([request])[0] for request in requests]
    counts = alone[0].token_counts
    assert 0 < counts.output_tokens <= limit - counts.input_tokens < 70
    assert make_model(batch_size=2).generate_until(requests) == alone


def test_a_prompt_that_is_too_long_in_high_definition(plain):
    def many(document):
        images = [{"type": "image", "url": scene(index % 4)} for index in range(24)]
        return [{"role": "user", "content": [*images, {"type": "text", "text": DESCRIBE}]}]

    requests = [question(0, many), question(1)]
    with pytest.raises(ValueError, match="use fewer images or hd=False"):
        make_model(hd=True, batch_size=2).generate_until(requests)
    got = texts(make_model(hd=True, batch_size=2, standard_if_long=True).generate_until(requests))
    assert got == [
        plain([scene(index % 4) for index in range(24)], DESCRIBE, hd=False, max_new_tokens=32),
        plain([scene(QUESTIONS[1][0])], QUESTIONS[1][1] + SUFFIX, hd=True, max_new_tokens=32),
    ]


def test_a_system_prompt(plain, tmp_path):
    (tmp_path / "prompt.txt").write_text("Be brief.")
    model = make_model(system_prompt=str(tmp_path / "prompt.txt"))
    conversation = model._conversation(to_messages(model.task_dict["ask"]["test"][0]))
    assert model.processor.apply_chat_template(conversation).startswith("Be brief. USER: <image>")
    assert "curious user" not in model.processor.apply_chat_template(conversation)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["x"]}, {"do_sample": False, "num_beams": 1}),
        ({"temperature": 0.2, "do_sample": False}, {"do_sample": False}),
        ({"temperature": 0, "do_sample": True}, {"do_sample": False}),
        ({"temperature": 0.5, "top_p": 0.9}, {"do_sample": True, "temperature": 0.5, "top_p": 0.9}),
        ({"top_p": None, "max_new_tokens": 3}, {"do_sample": False}),
        ({"image_aspect_ratio": "original"}, {"do_sample": False}),
    ],
)
def test_options_of_generation(given, expected):
    assert lmms._generation_options(given) == expected


def test_sampling_draws_answers(one_by_one):
    torch.manual_seed(0)
    requests = [question(0, describe, temperature=5.0, do_sample=True)] * 4
    assert len(set(texts(one_by_one.generate_until(requests)))) > 1


# Several rounds


def rounds(document: dict, round_idx=None, previous_output=None, previous_round_info=None):
    """Asks on as many times as the document's image has in its name; shows that all arguments arrive."""
    if not round_idx:
        return to_messages(document)
    assert len(previous_output) == round_idx
    assert previous_round_info == (None if round_idx == 1 else {"round": round_idx - 1})
    if round_idx > len(document["question"]) % 3:
        return None, True, previous_output, previous_round_info
    text = f"{document['question']}{SUFFIX}"[round_idx:]
    messages = [
        {"role": "user", "content": [{"type": "image", "url": document["image"]}, {"type": "text", "text": text}]}
    ]
    return messages, False, previous_output, {"round": round_idx}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rounds(batch_size, plain):
    requests = [question(index, rounds) for index in range(6)]
    got = make_model(batch_size=batch_size).generate_until_multi_round(requests)
    expected = []
    for index, text in QUESTIONS[:6]:
        prompts = [f"{text}{SUFFIX}"[number:] for number in range(1 + len(text) % 3)]
        expected.append([plain([scene(index)], prompt, max_new_tokens=32) for prompt in prompts])
    assert got == expected and {len(answers) for answers in got} > {1}


def test_a_task_may_change_the_answers_so_far_or_have_one_round(one_by_one):
    def changed(document, round_idx=None, previous_output=None, previous_round_info=None):
        return (None, True, ["changed"], None) if round_idx else to_messages(document)

    def single(document, **rounds):
        return to_messages(document)

    first, second = one_by_one.generate_until_multi_round([question(0, changed), question(1, single)])
    assert first == ["changed"] and second == texts(one_by_one.generate_until([question(1)]))


# Likelihoods


def likely(index: int, answer, text: str | None = None) -> Instance:
    context = QUESTIONS[index][1] + SUFFIX if text is None else text
    return request((context, answer, lambda document: [document["image"]], index, "ask", "test"), "loglikelihood")


def by_hand(model: FlashSlothLmms, images: list, text: str, answer: str) -> tuple[float, bool]:
    """The likelihood of an answer, token by token."""
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": text}]
    prompt = model.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    total, is_greedy = 0.0, True
    for token in model.processor.tokenizer(answer)["input_ids"]:
        inputs = model.processor(images=images or None, text=prompt, return_tensors="pt")
        scores = model.model(**inputs).logits[0, -1].log_softmax(dim=-1)
        total, is_greedy = total + scores[token].item(), is_greedy and scores.argmax().item() == token
        prompt += model.processor.tokenizer.decode([token])
    return total, is_greedy


@pytest.fixture(scope="module")
def exact() -> FlashSlothLmms:
    """In float32: the checkpoint's bfloat16 rounds likelihoods to three digits."""
    return make_model(dtype="float32")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@torch.inference_mode()
def test_likelihoods_are_those_by_hand(batch_size, exact):
    answers = {0: [" no", " yes"], 1: [" yes"], 6: [" center", " bottom left"], 8: [" cat"]}
    requests = [likely(index, answer) for index, choices in answers.items() for answer in choices]
    got = make_model(batch_size=batch_size, dtype="float32").loglikelihood(requests)
    expected = [
        by_hand(exact, [scene(QUESTIONS[index][0])], QUESTIONS[index][1] + SUFFIX, answer)
        for index, choices in answers.items()
        for answer in choices
    ]
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    assert [score for score, _ in got] == pytest.approx([score for score, _ in expected], abs=1e-3)
    assert {greedy for _, greedy in got} == {True, False}
    assert got[0][0] > got[1][0]  # the right answer is likelier


@torch.inference_mode()
def test_likelihoods_without_images_by_a_function_and_of_special_tokens(exact):
    bare = request(("", " red"), "loglikelihood")
    named = likely(0, lambda document: "no")
    special = likely(0, " </s>")
    (score, _), by_function, (low, greedy) = exact.loglikelihood([bare, named, special])
    assert score == pytest.approx(by_hand(exact, [], "", " red")[0], abs=1e-3)
    assert by_function == exact.loglikelihood([likely(0, " no")])[0]
    assert low < -5 and not greedy  # the text, not the end of the answer


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": "auto"}, ValueError, "batch_size=auto is not a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"max_new_tokens": "many"}, ValueError, "max_new_tokens=many"),
        ({"hd": "maybe"}, ValueError, "hd=maybe is neither true nor false"),
        ({"standard_if_long": "yes"}, ValueError, "standard_if_long=yes"),
        ({"use_flash": True}, TypeError, "use_flash"),
        ({"pretrained": "/no/such/folder"}, FileNotFoundError, "/no/such/folder"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        make_model(**arguments)


def test_arguments_of_the_command():
    model = FlashSlothLmms.create_from_arg_string(
        f"pretrained={SHIPPED_CHECKPOINT},batch_size=4,hd=true,device=cpu", {"batch_size": "1", "device": None}
    )
    assert model.batch_size == 4 and model.hd is True
    other = {"batch_size": "2", "max_batch_size": None, "device": "cpu"}
    assert FlashSlothLmms.create_from_arg_string(f"pretrained={SHIPPED_CHECKPOINT}", other).batch_size == 2


def test_what_cannot_be_answered_stops_the_run(one_by_one, tmp_path):
    def media(kind: str, url, document: dict):
        return [{"role": "user", "content": [{"type": kind, "url": url}, {"type": "text", "text": "What?"}]}]

    (tmp_path / "damaged.png").write_bytes(b"no image")
    for bad, message in (
        (question(0, functools.partial(media, "video", "a.mp4")), "videos or sounds"),
        (question(0, functools.partial(media, "image", str(tmp_path / "damaged.png"))), "damaged.png"),
        (question(0, guidance=1), "ask asks for guidance, which is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            one_by_one.generate_until([question(1), bad])
