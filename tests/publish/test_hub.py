# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Releases to the Hub on the loopback, through the real client; in this process, and once by the whole command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from samples import make_image, make_model
from without_package import WITHOUT_PACKAGE

from flashsloth import FlashSlothForCausalLM, FlashSlothProcessor, cli
from flashsloth.publish import connection
from flashsloth.publish.card import read_example
from flashsloth.publish.hub import contents, push
from flashsloth.publish.upload import CARD_MESSAGE


TINY = Path(__file__).parent.parent.parent / "checkpoints" / "flashsloth-tiny"
REPO = "sloth/tiny"
ENGLISH = {"license": "apache-2.0", "languages": ["en"]}
# What `flashsloth quantize --weights int4` writes into config.json.
INT4 = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_version": 1, "_data": {"group_size": 32}}},
}
COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
CARD = {"README.md", "widget/example.png"}


@pytest.fixture
def quick(monkeypatch) -> None:
    """No trial, which has tests of its own, and no waits."""
    monkeypatch.setattr("flashsloth.publish.hub.try_folder", lambda folder, question, image: "pink")
    monkeypatch.setattr(connection, "RETRY_WAITS", (0, 0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def publish(hub, folder, quick):
    """Pushes the folder to the Hub."""
    return lambda repo_id=REPO, **options: push(
        folder, repo_id, endpoint=hub.url, token=hub.token, **{**ENGLISH, **options}
    )


def local_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_weights(folder: Path, shard: str) -> None:
    tensors = load_file(folder / shard)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / shard, {"format": "pt"})


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def commits(hub, revision="main") -> list[str]:
    return [commit.title for commit in hub.head(REPO, revision).history()]


def test_new_repository(hub, folder, publish):
    assert publish(private=True) == f"{hub.url}/{REPO}"
    assert hub.repos["model", REPO].private
    served = hub.files(REPO)
    assert {path: served[path] for path in local_files(folder)} == local_files(folder)
    assert set(served) == {*local_files(folder), *CARD, ".gitattributes"}
    assert commits(hub) == [CARD_MESSAGE, "Upload FlashSloth model", "initial commit"]
    # every example is pinned to the commit of the files
    pins = COMMIT.findall(served["README.md"].decode())
    assert len(pins) >= 3 and set(pins) == {hub.head(REPO).parent.sha}


def test_nothing_is_sent_for_a_model_that_does_not_work(hub, publish, monkeypatch):
    def fail(folder, question, image):
        raise ValueError("answering a question about an image failed")

    monkeypatch.setattr("flashsloth.publish.hub.try_folder", fail)
    with pytest.raises(ValueError, match="answering a question"):
        publish()
    assert not hub.repos


# What is done to a folder whose files look complete, and what loading it says.
BAD_INPUT = {
    "processor of other tokens": (
        lambda folder: edit(folder / "processor_config.json", processor_class="NoProcessor"),
        "The processor in",
    ),
    "int4 weights on a machine without a GPU": (
        lambda folder: edit(folder / "config.json", quantization_config=INT4),
        "has int4 weights, which need an NVIDIA GPU with mslk",
    ),
}


@pytest.mark.parametrize("given", BAD_INPUT)
def test_the_checks_of_this_package_apply_to_a_push(hub, folder, publish, monkeypatch, given):
    """They name what is wrong, where the trial without the package ends in a library's own error."""
    monkeypatch.setattr("flashsloth.loading.runs_int4", lambda: False)
    change, says = BAD_INPUT[given]
    change(folder)
    with pytest.raises(ValueError, match=says):
        publish()
    assert not hub.repos


@pytest.mark.parametrize("function", ["load_processor", "load_model"])
def test_whatever_the_loading_refuses_is_not_sent(hub, publish, monkeypatch, function):
    def refuse(folder, **options):
        raise ValueError("the weights are not finite numbers")

    monkeypatch.setattr(f"flashsloth.publish.hub.{function}", refuse)
    with pytest.raises(ValueError, match="the weights are not finite numbers"):
        publish()
    assert not hub.repos


def test_code_of_others_is_tried_as_it_is_and_not_with_this_package(hub, folder, publish, monkeypatch):
    monkeypatch.setattr("flashsloth.publish.hub.load_model", lambda *args, **options: 1 / 0)
    code = folder / "modeling_flashsloth.py"
    code.write_text(code.read_text() + "\n# changed\n")
    publish()
    assert hub.files(REPO)["modeling_flashsloth.py"] == code.read_bytes()


def test_the_answer_is_asked_for_and_put_into_the_card(hub, publish, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "flashsloth.publish.hub.try_folder", lambda folder, *example: asked.append(example) or "a receipt"
    )
    make_image().save(tmp_path / "receipt.png")
    example = read_example(tmp_path / "receipt.png", "What is this?")
    publish(example=example)
    assert asked == [("What is this?", example.image)]
    served = hub.files(REPO)
    assert b"| **answer** | a receipt |" in served["README.md"] and served["widget/example.png"] == example.image


def test_second_push_changes_nothing(hub, publish):
    url = publish()
    head, requests = hub.head(REPO), len(hub.requests)
    assert publish() == url
    assert hub.head(REPO) is head
    sent = [request for request in hub.requests[requests:] if request.method in ("PUT", "POST")]
    assert [request.path for request in sent] == ["/api/repos/create"]


def test_only_what_changed_is_sent(hub, folder, publish):
    publish()
    before, requests = hub.files(REPO), len(hub.requests)
    first_pin = hub.head(REPO).parent
    changed = sorted(path.name for path in folder.glob("model-*"))[1]
    change_weights(folder, changed)
    hub.fail("POST", "/commit/", skip=1)  # that of the card, while the Hub has the new files and the old card
    publish(message="Better weights")
    after = hub.files(REPO)
    assert {path for path in after if after[path] != before.get(path)} == {changed, "README.md"}
    assert [request.method for request in hub.requests[requests:]].count("PUT") == 1
    assert commits(hub)[:2] == [CARD_MESSAGE, "Better weights"]
    # the pin is to the new files, and the old one serves the old ones
    assert set(COMMIT.findall(after["README.md"].decode())) == {hub.head(REPO).parent.sha}
    assert first_pin.files[changed].content == before[changed]


def test_another_card_alone_keeps_the_pin(hub, publish):
    publish()
    pin, before = hub.head(REPO).parent.sha, hub.files(REPO)
    publish(languages=["en", "fr"])
    after = hub.files(REPO)
    assert {path for path in after if after[path] != before.get(path)} == {"README.md"}
    assert set(COMMIT.findall(after["README.md"].decode())) == {pin}


def test_old_shards_go_and_other_files_stay(hub, folder, publish, processor):
    publish()
    hub.commit(REPO, {"notes/reading.md": b"by hand\n", "adapter.bin": b"by hand\0"})
    for path in folder.glob("model*"):
        path.unlink()
    make_model().save_pretrained(folder)
    publish()
    served = hub.files(REPO)
    assert set(served) == {*local_files(folder), *CARD, ".gitattributes", "notes/reading.md", "adapter.bin"}
    assert "model.safetensors.index.json" not in served and served["notes/reading.md"] == b"by hand\n"
    # in one commit: no revision lacks weights or has them twice
    assert hub.head(REPO).parent.files.keys() >= {"model.safetensors"}
    assert not any("model-" in path for path in hub.head(REPO).parent.files)


def test_withdrawn_scores_go(hub, folder, publish):
    score = {"task": "yes or no", "metric": "exact_match", "value": 80.0, "n": 100, "origin": "measured"}
    dataset = {"name": "POPE", "repo": "lmms-lab/POPE", "split": "test", "task_id": "pope"}
    (folder / "evaluation.json").write_text(json.dumps([{**score, "dataset": dataset, "date": "2026-11-24"}]))
    publish()
    hub.commit(REPO, {".eval_results/theirs.yaml": b"- by: others\n"})
    ours = ".eval_results/lmms-lab--POPE.yaml"
    assert ours in hub.files(REPO)
    (folder / "evaluation.json").unlink()
    publish()
    served = hub.files(REPO)
    assert ours not in served and "evaluation.json" not in served and ".eval_results/theirs.yaml" in served


def test_branch(hub, publish):
    hub.add_repo(REPO, {"README.md": b"# by hand\n"})
    assert publish(revision="half/size") == f"{hub.url}/{REPO}/tree/half%2Fsize"
    assert commits(hub) == ["A commit of the test", "initial commit"]
    assert "config.json" in hub.files(REPO, "half/size")
    head = hub.head(REPO, "half/size")
    publish(revision="half/size")
    assert hub.head(REPO, "half/size") is head


def test_pull_request(hub, publish):
    repo = "someone/tiny"
    hub.add_repo(repo, {"README.md": b"# theirs\n"})
    main = hub.head(repo)
    url = publish(repo, create_pr=True, message="Add the model")
    assert url == f"{hub.url}/{repo}/discussions/1"
    assert hub.head(repo) is main and "model.safetensors.index.json" in hub.files(repo, "refs/pr/1")
    proposed = hub.head(repo, "refs/pr/1")
    assert publish(repo, create_pr=True, message="Add the model") == url
    assert hub.head(repo, "refs/pr/1") is proposed and hub.head(repo, "refs/pr/2") is None
    assert publish(repo, create_pr=True, message="Another") == f"{hub.url}/{repo}/discussions/2"


def test_organization(hub, publish):
    assert publish("lab/tiny") == f"{hub.url}/lab/tiny"


def test_card_by_hand(hub, folder, publish):
    (folder / "README.md").write_text("# By hand\n")
    with pytest.raises(ValueError, match="README.md would be replaced by the generated model card: pass --keep-card"):
        publish()
    publish(keep_card=True, license=None, languages=())
    assert hub.files(REPO)["README.md"] == b"# By hand\n" and commits(hub)[0] == "Upload FlashSloth model"
    (folder / "README.md").unlink()
    publish(keep_card=True, license=None, languages=())
    assert hub.files(REPO)["README.md"] == b"# By hand\n"
    with pytest.raises(ValueError, match="license would stand"):
        publish(keep_card=True, languages=())


def test_the_record_of_the_run_goes_along_without_paths(hub, saved, tmp_path, quick):
    folder = shutil.copytree(saved, tmp_path / "run" / "model")
    (tmp_path / "run" / "training.json").write_text('{"stage": {"model": "/home/ann/base", "hd": true}}')
    make_image().save(tmp_path / "run" / "curves.png")
    push(folder, REPO, endpoint=hub.url, token=hub.token, **ENGLISH)
    served = hub.files(REPO)
    assert json.loads(served["training.json"]) == {"stage": {"model": "base", "hd": True}}
    assert served["curves.png"] == (tmp_path / "run" / "curves.png").read_bytes()
    assert b"| high definition | yes |" in served["README.md"]


# What goes wrong


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        pytest.param("POST", "/commit/", {}, id="commit"),
        pytest.param("POST", "/commit/", {"answer_bytes": 0}, id="commit done, answer lost"),
        pytest.param("POST", "/commit/", {"status": 503, "skip": 1}, id="commit of the card"),
        pytest.param("POST", "/repos/create", {"times": 2}, id="create"),
        pytest.param("PUT", "/objects/", {"body_bytes": 1000}, id="weights"),
        pytest.param("GET", "/whoami", {}, id="whoami"),
    ],
)
def test_lost_connection_is_retried(hub, folder, publish, method, path, fault):
    hub.fail(method, path, **fault)
    publish()
    assert commits(hub) == [CARD_MESSAGE, "Upload FlashSloth model", "initial commit"]
    assert hub.files(REPO).keys() >= {*local_files(folder), *CARD}


def test_lost_pull_request_is_found_again(hub, publish):
    hub.add_repo(REPO)
    hub.fail("POST", "/commit/", answer_bytes=0)
    assert publish(create_pr=True) == f"{hub.url}/{REPO}/discussions/1"
    assert hub.head(REPO, "refs/pr/2") is None


def test_commit_of_another_in_between(hub, publish, monkeypatch):
    publish()
    hub.fail("POST", "/commit/", status=412)
    publish(languages=["fr"])
    assert b"- fr" in hub.files(REPO)["README.md"]


def test_failure_leaves_the_old_revision_and_goes_on(hub, folder, publish):
    publish()
    before, head = hub.files(REPO), hub.head(REPO)
    for path in folder.glob("model-*"):
        change_weights(folder, path.name)
    hub.fail("POST", "/commit/", times=3)  # as often as it is tried
    with pytest.raises(OSError, match=f"The Hub serves the last complete commit of {REPO}. Run the same command"):
        publish()
    assert hub.head(REPO) is head and hub.files(REPO) == before
    sent = hub.count("PUT")
    publish()
    assert hub.count("PUT") == sent  # the shards were there
    assert {path: hub.files(REPO)[path] for path in local_files(folder)} == local_files(folder)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (("GET", "/whoami", 401), ValueError, "does not accept the token"),
        (("POST", "/repos/create", 403), ValueError, "does not let this token write to sloth/tiny"),
        (("POST", "/commit/", 404), ValueError, "sloth/tiny does not exist, or the token may not see it"),
        (("POST", "/commit/", 409), OSError, "status 409"),
        (("POST", "/preupload/", 400), ValueError, "The Hub refuses the request with status 400"),
        (("PUT", "/objects/", None), OSError, "Error while uploading"),
    ],
)
def test_errors_of_the_hub_are_one_line(hub, publish, fault, error, says):
    method, path, status = fault
    hub.fail(method, path, status=status, times=100)
    with pytest.raises(error, match=re.escape(says)) as raised:
        publish()
    assert hub.token not in str(raised.value) and "signature" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_refusals(hub, folder, publish):
    hub.add_repo(REPO)
    for options, says in [
        ({"private": True}, "exists and is public"),
        ({"repo_id": "someone/tiny"}, "sloth may not write to someone/tiny, but to repositories of sloth, lab"),
        ({"repo_id": "tiny"}, "lacks its owner"),
        ({"repo_id": "lab/none", "create_pr": True}, "lab/none does not exist"),
        ({"revision": "refs/pr/7"}, "no such revision"),
        ({"revision": "0" * 40}, "is a commit"),
        ({"revision": "dev", "create_pr": True}, "either --create-pr or --revision"),
        ({"message": " "}, "message is empty"),
        ({"license": "My License"}, "is not a license id"),
    ]:
        with pytest.raises(ValueError, match=re.escape(says)):
            publish(**options)
    with pytest.raises(ValueError, match="does not accept the token"):
        push(folder, REPO, endpoint=hub.url, token="hf_ThisOneIsWrongAltogether")
    with pytest.raises(ValueError, match="Nobody is logged in"):
        push(folder, REPO, endpoint=hub.url)
    assert commits(hub) == ["A commit of the test", "initial commit"]


# The command


def test_command_and_the_examples_of_its_card(hub, tmp_path):
    """
    The real command: the trial, the upload, the streams, and that no token is shown. Then the examples of the card,
    as they are read on the page of a private repository, by someone who has a token but not this package.
    """
    repo, folder = "sloth/my_model.v2", tmp_path / "model"
    # Not in bfloat16, which some CPUs multiply very slowly.
    FlashSlothForCausalLM.from_pretrained(TINY, dtype="float32").save_pretrained(folder)
    FlashSlothProcessor.from_pretrained(TINY).save_pretrained(folder)
    hub.fail("PUT", "/objects/", body_bytes=1000)
    hub.fail("POST", "/commit/", answer_bytes=0)
    arguments = ["push", str(folder), repo, "--private", "--license", "mit", "--language", "en", "--message", "First"]
    done = run("-m", "flashsloth", *arguments, env=hub.environment(tmp_path / "home", hub.token))
    assert done.stdout == f"{hub.url}/{repo}\n"
    assert "The model answers" in done.stderr and "Uploading config.json" in done.stderr
    assert "PUT" in done.stderr and "signature" not in done.stderr  # the lost upload, without its address
    assert hub.token not in done.stdout + done.stderr
    head = hub.head(repo)
    assert [commit.title for commit in head.history()] == [CARD_MESSAGE, "First", "initial commit"]

    assert b"| **answer** | pink |" in hub.files(repo)["README.md"]
    blocks = re.findall(r"```python\n(.*?)```", hub.files(repo)["README.md"].decode(), flags=re.DOTALL)
    assert len(blocks) == 5
    loads = re.findall(r"(?:from_pretrained|pipeline)\([^)]*trust_remote_code=True[^)]*\)", "".join(blocks))
    assert len(loads) == 5 and all("revision=revision" in load for load in loads)
    assert set(re.findall(r'^revision = "(.*)"$', "".join(blocks), flags=re.MULTILINE)) == {head.parent.sha}
    script = "\n".join([WITHOUT_PACKAGE, *blocks, AS_CAUSAL_LM])
    environment = hub.environment(tmp_path / "stranger", hub.token)
    environment.pop("PYTHONPATH", None)
    done = run("-P", "-c", script, env=environment, cwd=tmp_path)
    answers = [line.strip() for line in done.stdout.splitlines() if not line.startswith("{")]  # the trainer's metrics
    assert answers[:2] == ["pink", "pink"] and answers[2].startswith("['pink', '") and answers[3] == "pink"
    assert answers[-1] == "FlashSlothForCausalLM"
    assert (tmp_path / "fine-tuned" / "modeling_flashsloth.py").is_file()


AS_CAUSAL_LM = """
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained(repo, revision=revision, trust_remote_code=True)).__name__)
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_contents(folder):
    """What `--dry-run` and the notebook show."""
    release, card = contents(folder, REPO, **ENGLISH)
    assert set(release.sizes) == set(local_files(folder)) and set(card) == CARD
    assert b"license: apache-2.0" in card["README.md"]


def test_dry_run_and_errors_of_the_command(folder, quick, capsys):
    """Offline and without a token; the process is the test's, in which HF_HUB_OFFLINE is set."""
    assert cli.main(["push", str(folder), REPO, "--dry-run", "--license", "mit"]) == 0
    out = capsys.readouterr().out
    table = [line.split(None, 1) for line in out.splitlines()]
    sizes = {name: int(size.replace(",", "")) for size, name in table}
    assert set(sizes) == {*local_files(folder), *CARD, f"{len(table) - 1} files"}
    assert sizes["config.json"] == (folder / "config.json").stat().st_size
    assert sizes.popitem()[1] == sum(sizes.values())

    (folder / "optimizer.pt").write_text("x")
    assert cli.main(["push", str(folder), REPO, "--dry-run"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("flashsloth push: error: ") and "optimizer.pt" in stderr and stderr.count("\n") == 1
    (folder / "optimizer.pt").unlink()

    assert cli.main(["push", str(folder), REPO, "--license", "mit"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Nobody is logged in" in last or "HF_HUB_OFFLINE" in last


def test_the_card_of_a_dry_run_can_be_written(folder, quick, capsys, tmp_path):
    make_image().save(tmp_path / "receipt.png")
    example = ["--example", str(tmp_path / "receipt.png"), "Which shop?"]
    arguments = ["push", str(folder), REPO, "--license", "mit", "--card", str(tmp_path / "card.md"), *example]
    assert cli.main([*arguments, "--dry-run"]) == 0
    card = (tmp_path / "card.md").read_text()
    assert "| question | Which shop? |" in card and "| **answer** | pink |" in card
    (size,) = re.findall(r"([\d,]+)  README.md", capsys.readouterr().out)
    assert int(size.replace(",", "")) == len(card.encode())


# Arguments beside the folder and the repository, and a part of the message.
BAD_ARGUMENTS = {
    "card without a dry run": (["--card", "card.md"], "--card writes the model card of a --dry-run"),
    "card that is not made": (["--dry-run", "--keep-card", "--card", "card.md"], "leave out one"),
    "card in no folder": (["--dry-run", "--license", "mit", "--card", "none/card.md"], "is no folder: make it first"),
    "no image": (["--dry-run", "--example", "none.png", "What?"], "none.png"),
    "no question": (["--dry-run", "--example", "none.png", " "], "The question of the example is empty"),
    "example without a card": (["--dry-run", "--keep-card", "--example", "image.png", "What?"], "example would stand"),
}


@pytest.mark.parametrize("given", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(folder, quick, capsys, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    make_image().save(tmp_path / "image.png")
    arguments, says = BAD_ARGUMENTS[given]
    assert cli.main(["push", str(folder), REPO, *arguments]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "card.md").exists()


def test_a_dry_run_warns_of_int4_weights_that_this_machine_cannot_try(folder, capsys, caplog, tmp_path, monkeypatch):
    """With its card, which then shows no answer."""
    monkeypatch.setattr("flashsloth.publish.hub.runs_int4", lambda: False)
    edit(folder / "config.json", quantization_config=INT4)
    arguments = ["push", str(folder), REPO, "--license", "mit", "--dry-run", "--card", str(tmp_path / "card.md")]
    assert cli.main(arguments) == 0
    assert "int4 weights, which need an NVIDIA GPU with mslk" in caplog.text
    assert "An answer of this model" not in (tmp_path / "card.md").read_text()
