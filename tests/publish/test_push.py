# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Model folders to the Hub on the loopback, through the real client; in this process, and once as a stranger would."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import make_image, make_model
from without_package import WITHOUT_PACKAGE

from flashsloth import cli
from flashsloth.publish import connection
from flashsloth.publish.connection import clear_errors, redact, redacted_logs
from flashsloth.publish.folder import custom_code, publishable_files
from flashsloth.publish.hub import CARD_MESSAGE, push
from flashsloth.publish.trial import Trial, try_folder
from flashsloth.publish.trial import _environment as trial_environment


REPO = "sloth/tiny"
ENGLISH = {"license": "apache-2.0", "languages": ["en"]}
COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
CARD = {"README.md", "widget/colors.png", "widget/counting.png", "widget/reading.png"}


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory) -> Path:
    """A folder of three shards, which no test changes."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder, max_shard_size="100KB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) == 3
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "folder")


@pytest.fixture
def quick(monkeypatch) -> None:
    """No trial, which has a test of its own, and no waiting."""
    monkeypatch.setattr("flashsloth.publish.hub.try_folder", lambda folder: None)
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


def test_nothing_is_made_for_a_model_that_does_not_work(hub, publish, monkeypatch):
    def fail(folder):
        raise ValueError("answering a question about a picture failed")

    monkeypatch.setattr("flashsloth.publish.hub.try_folder", fail)
    with pytest.raises(ValueError, match="answering a question"):
        publish()
    assert not hub.repos


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


def test_record_of_the_run_goes_along_without_paths(hub, saved, tmp_path, quick):
    output = tmp_path / "run"
    folder = shutil.copytree(saved, output / "model")
    record = {
        "stage": {"model": "/home/ann/base", "data": [{"path": "sets/a b.json"}], "lora": None},
        "config": {"output_dir": "/home/ann/my runs/7", "learning_rate": 1e-3, "logging": "C:\\logs\\7"},
        "data": {"skipped": [{"id": 3, "reason": "cannot open /data/ann/x.png: no such file"}]},
        "source": "https://huggingface.co/datasets/owner/name",
    }
    (output / "training.json").write_text(json.dumps(record))
    make_image().save(output / "curves.png")
    push(folder, REPO, endpoint=hub.url, token=hub.token, **ENGLISH)
    served = hub.files(REPO)
    published = json.loads(served["training.json"])
    assert published["stage"] == {"model": "base", "data": [{"path": "sets/a b.json"}], "lora": None}
    assert published["config"] == {"output_dir": "7", "learning_rate": 1e-3, "logging": "7"}
    assert published["data"]["skipped"][0]["reason"] == "cannot open x.png: no such file"
    assert published["source"] == record["source"]
    assert served["curves.png"] == (output / "curves.png").read_bytes()


# What goes wrong on the way


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
    with pytest.raises(OSError, match=f"{REPO} is served as its last complete commit has it; run the same command"):
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
        (("POST", "/preupload/", 400), ValueError, "The Hub refuses it, status 400"),
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
        ({"license": "My License"}, "no license id"),
    ]:
        with pytest.raises(ValueError, match=re.escape(says)):
            publish(**options)
    with pytest.raises(ValueError, match="does not accept the token"):
        push(folder, REPO, endpoint=hub.url, token="hf_ThisOneIsWrongAltogether")
    with pytest.raises(ValueError, match="Nobody is logged in"):
        push(folder, REPO, endpoint=hub.url)
    assert commits(hub) == ["A commit of the test", "initial commit"]


def test_no_token_is_shown(caplog):
    token = "a-token-of-another-form"
    text = f"{token} hf_{'x' * 34} http://me:pass@hub.example/a?X-Signature=abc https://hub.example/b?c=d."
    shown = "<token> <token> http://hub.example/a https://hub.example/b"
    assert redact(text, token) == shown
    with redacted_logs(token):
        logging.getLogger("huggingface_hub.utils").warning("%s thrown while requesting", text)
    assert caplog.messages == [f"{shown} thrown while requesting"]
    for raised in (httpx2.ReadError(text), ConnectionError(text), RuntimeError(text)):
        with pytest.raises(OSError) as error, clear_errors(REPO, token):
            raise raised
        assert shown in str(error.value) and error.value.__suppress_context__
    with pytest.raises(ValueError, match=shown), clear_errors(REPO, token):
        raise ValueError(text)


# What is refused before anything is sent


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-8])


def lie(folder: Path, name: str) -> None:
    """Another shape than the data has, in the file's header."""
    content = (folder / name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    next(entry for key, entry in header.items() if key != "__metadata__")["shape"] = [7, 7]
    changed = json.dumps(header).encode()
    (folder / name).write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])


def write(name: str, content: str = "x"):
    return lambda folder: (folder / name).write_text(content)


def edit_json(name: str, change):
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def shard_of(folder: Path) -> str:
    return sorted(path.name for path in folder.glob("model-*"))[0]


DAMAGES = {
    "pickle": (write("optimizer.pt"), "optimizer.pt may hold pickled objects"),
    "training arguments": (write("training_args.bin"), "training_args.bin may hold pickled objects"),
    "other file": (write("notes.txt"), "notes.txt is a file that save_pretrained did not write: remove it"),
    "hidden folder": (lambda folder: (folder / ".git").mkdir(), ".git is a folder"),
    "bytecode": (lambda folder: (folder / "__pycache__").mkdir(), "__pycache__ is a folder"),
    "code that nothing imports": (write("helpers.py"), "helpers.py is a file that save_pretrained did not write"),
    "leftover": (write("config.json.tmp"), "config.json.tmp is what an interrupted write left behind"),
    "link out": (
        lambda folder: (folder / "vocab.json").symlink_to(folder.parent / "secret"),
        "vocab.json is a link that points outside the folder",
    ),
    "empty": (write("generation_config.json", ""), "generation_config.json is empty"),
    "no shard": (lambda folder: (folder / shard_of(folder)).unlink(), "00001-of-00003.safetensors, which model"),
    "cut shard": (lambda folder: cut(folder, shard_of(folder)), "00001-of-00003.safetensors is damaged"),
    "header that lies": (
        lambda folder: lie(folder, shard_of(folder)),
        "shape [7, 7] and dtype F32 takes 196 bytes",
    ),
    "shard that lacks a tensor": (
        lambda folder: save_file({"other": torch.zeros(1)}, folder / shard_of(folder), {"format": "pt"}),
        "tensors that model.safetensors.index.json lists, such as",
    ),
    "index that points out": (
        edit_json("model.safetensors.index.json", lambda index: index["weight_map"].update(x="../secret.safetensors")),
        "'../secret.safetensors', which is not a file name in its own folder",
    ),
    "two sets of weights": (
        lambda folder: save_file({"x": torch.zeros(1)}, folder / "model.safetensors"),
        "weights are there twice",
    ),
    "no weights": (
        lambda folder: [path.unlink() for path in folder.glob("model*.safetensors*")],
        "weights are missing",
    ),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "processor_config.json is missing"),
    "no code": (
        lambda folder: (folder / "modeling_flashsloth.py").unlink(),
        "modeling_flashsloth.py, which config.js",
    ),
    "no imported code": (
        lambda folder: (folder / "modeling_flashsloth.py").write_text("from .rotary import turn\n"),
        "rotary.py, which modeling_flashsloth.py imports, is missing",
    ),
    "no auto_map": (edit_json("config.json", lambda config: config.pop("auto_map")), "names no code for AutoConfig"),
    "code elsewhere": (
        edit_json("config.json", lambda config: config["auto_map"].update(AutoConfig="someone/x--code.Config")),
        "takes AutoConfig from another repository",
    ),
    "other model": (edit_json("config.json", lambda config: config.update(model_type="phi")), "of type 'phi', not"),
    "adapter": (write("adapter_config.json", "{}"), "is an adapter, which does not work by itself"),
    "checkpoint": (write("trainer_state.json", "{}"), "is a checkpoint of a training run"),
    "evaluation": (write("evaluation.json", "{}"), "evaluation.json must hold a JSON array of objects"),
    "provenance": (write("provenance.json", "[1]"), "provenance.json must hold a JSON array of objects"),
    "no JSON": (write("config.json", "{"), "config.json is not valid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_folder_is_refused(folder, damage):
    hurt, says = DAMAGES[damage]
    hurt(folder)
    with pytest.raises(ValueError, match=re.escape(says)):
        publishable_files(folder)


def test_all_that_is_wrong_is_named(folder):
    for name in ("a.txt", "b.ckpt"):
        (folder / name).write_text("x")
    with pytest.raises(ValueError, match=r"folder cannot be published: a.txt is .*; b.ckpt may hold"):
        publishable_files(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.incomplete-0a1b2c3d", "is what an interrupted command left behind"),
        ("checkpoint-7", "is a checkpoint of a training run"),
        ("model", "holds no model: config.json is missing"),
    ],
)
def test_unfinished_folders_are_refused(tmp_path, name, says):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=says):
        publishable_files(tmp_path / name)


def test_own_code_is_published_with_what_it_imports(folder, caplog):
    code = (folder / "modeling_flashsloth.py").read_text()
    (folder / "modeling_flashsloth.py").write_text(code + "\nfrom .rotary import turn\n")
    (folder / "rotary.py").write_text("turn = None\n")
    files = publishable_files(folder)
    assert "rotary.py" in files
    assert custom_code(files) == ["modeling_flashsloth.py", "rotary.py"]


# The trial, and the command


def test_trial_fails_for_code_that_needs_the_package(folder):
    (folder / "processing_flashsloth.py").write_text("import flashsloth\n")
    with pytest.raises(ValueError, match="loading with AutoProcessor failed: ImportError: .*flashsloth") as raised:
        try_folder(folder)
    assert "\n" not in str(raised.value)


def test_trial_fails_for_weights_of_another_config(folder):
    edit_json("config.json", lambda config: config["text_config"].update(num_hidden_layers=4))(folder)
    trial = Trial(str(folder))
    with pytest.raises(
        ValueError, match=r"do not fit the config: \d+ missing_keys such as model.language_model.layers.3"
    ):
        trial.run()
    assert trial.step == "loading with AutoModelForImageTextToText"


def test_trial_fails_for_weights_that_are_no_numbers(folder):
    for path in folder.glob("model-*"):
        tensors = load_file(path)
        save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, path, {"format": "pt"})
    trial = Trial(str(folder))
    with pytest.raises(ValueError, match="its logits are not finite numbers"):
        trial.run()
    assert trial.step == "answering a question about a picture"


def test_trial_has_neither_token_nor_settings(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hf_secret")
    monkeypatch.setenv("HF_MODULES_CACHE", "/somewhere")
    given = trial_environment(str(tmp_path))
    assert "hf_secret" not in given.values() and "HF_MODULES_CACHE" not in given
    assert given["HF_HOME"] == str(tmp_path) and given["HF_HUB_OFFLINE"] == "1" and "PATH" in given


def command(hub, tmp_path: Path, *arguments: str, token: str | None) -> subprocess.CompletedProcess:
    environment = hub.environment(tmp_path / "home", token)
    return subprocess.run(
        [sys.executable, "-m", "flashsloth", *arguments], capture_output=True, text=True, env=environment
    )


def test_command(hub, folder, tmp_path):
    """Through the real command: the trial, the upload, the streams, and that no token is shown."""
    hub.fail("PUT", "/objects/", body_bytes=1000)
    hub.fail("POST", "/commit/", answer_bytes=0)
    arguments = ["push", str(folder), REPO, "--private", "--license", "mit", "--language", "en", "--message", "First"]
    done = command(hub, tmp_path, *arguments, token=hub.token)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/{REPO}\n"
    assert "It answers" in done.stderr and "Uploading config.json" in done.stderr
    assert "PUT" in done.stderr and "signature" not in done.stderr  # the lost upload is told, but not its address
    assert hub.token not in done.stdout + done.stderr
    assert commits(hub) == [CARD_MESSAGE, "First", "initial commit"]

    # a stranger with access, by name
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    make_image().save(tmp_path / "picture.png")
    environment = hub.environment(tmp_path / "stranger", hub.token)
    asked = [sys.executable, "-P", str(script), REPO, hub.head(REPO).parent.sha, str(tmp_path / "picture.png")]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["pipeline"] == answers["auto"] and answers["auto"]


STRANGER = (
    WITHOUT_PACKAGE
    + """
import json, sys
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

repo, revision, picture = sys.argv[1:]
options = {"revision": revision, "trust_remote_code": True}
content = [{"type": "image", "path": picture}, {"type": "text", "text": "What is this?"}]
chat = [{"role": "user", "content": content}]
processor = AutoProcessor.from_pretrained(repo, **options)
model = AutoModelForCausalLM.from_pretrained(repo, **options)
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
    return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1]:]
pipe = pipeline("image-text-to-text", model=repo, **options)
output = pipe(text=chat, generate_kwargs={"max_new_tokens": 8, "do_sample": False}, return_full_text=False)
print(json.dumps({"auto": processor.decode(ids, skip_special_tokens=True), "pipeline": output[0]["generated_text"]}))
"""
)


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
