# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The Hub on the loopback, against the real huggingface_hub client."""

import hashlib
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import sha


REPO = "sloth/model"
CARD = b"---\nlicense: apache-2.0\ntags:\n- custom_code\npipeline_tag: image-text-to-text\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 8192  # 2 MiB, more than the buffers of a socket hold
FILES = {"README.md": CARD, "config.json": b"{}\n", "model.safetensors": WEIGHTS, "assets/image.png": b"\x89PNG\0\0"}


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def push(api: HfApi, files=FILES, repo_id: str = REPO, **kwargs):
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(repo_id, operations, commit_message="Upload", **kwargs)


def test_create_and_commit(hub, api):
    assert api.whoami()["name"] == "sloth"
    url = api.create_repo(REPO, private=True)
    assert url == f"{hub.url}/{REPO}" and url.repo_id == REPO
    info = push(api)
    assert info.oid == hub.head(REPO).sha
    served = hub.files(REPO)
    assert {path: served[path] for path in FILES} == FILES
    # the image matches no pattern of .gitattributes: the Hub adds a line
    assert b"assets/image.png filter=lfs" in served[".gitattributes"]
    model = api.model_info(REPO, files_metadata=True)
    assert model.sha == info.oid and model.private and model.pipeline_tag == "image-text-to-text"
    assert model.card_data.license == "apache-2.0"
    siblings = {file.rfilename: file for file in model.siblings}
    assert siblings["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert siblings["config.json"].blob_id == sha.git_hash(b"{}\n") and siblings["config.json"].lfs is None
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["Upload", "initial commit"]
    assert api.file_exists(REPO, "config.json") and not api.file_exists(REPO, "config.yaml")
    assert hub.count("PUT") == 2 and not any(r.authorized for r in hub.requests if r.method == "PUT")


def test_tree(hub, api):
    hub.add_repo(REPO, FILES)
    top = {entry.path for entry in api.list_repo_tree(REPO)}
    assert top == {".gitattributes", "README.md", "assets", "config.json", "model.safetensors"}
    assert [entry.path for entry in api.list_repo_tree(REPO, "assets")] == ["assets/image.png"]
    every = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert set(every) == top | {"assets/image.png"}
    assert every["README.md"].last_commit.oid == hub.head(REPO).sha
    assert every["model.safetensors"].lfs.size == every["model.safetensors"].size == len(WEIGHTS)
    found = api.get_paths_info(REPO, ["assets", "config.json", "nothing.json"])
    assert [entry.path for entry in found] == ["assets", "config.json"]


def test_second_push_sends_nothing(hub, api):
    api.create_repo(REPO)
    first = push(api)
    requests = len(hub.requests)
    second = push(api)
    assert second.oid == first.oid == hub.head(REPO).sha
    assert not any(r.method == "PUT" or "/commit/" in r.path for r in hub.requests[requests:])


def test_changed_and_deleted_files(hub, api):
    api.create_repo(REPO)
    first = push(api)
    operations = [CommitOperationAdd("config.json", b"[]"), CommitOperationDelete("assets/")]
    api.create_commit(REPO, operations, commit_message="Change", parent_commit=first.oid)
    assert hub.files(REPO)["config.json"] == b"[]" and "assets/image.png" not in hub.files(REPO)
    assert hub.files(REPO, first.oid)["config.json"] == b"{}\n"
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("ghost.json", REPO)


def test_download(hub, api, tmp_path):
    old = hub.add_repo(REPO, FILES)
    hub.commit(REPO, {"config.json": b"[]"})
    for revision, config in ((None, b"[]"), (old, b"{}\n")):
        folder = snapshot_download(REPO, revision=revision, endpoint=hub.url, cache_dir=tmp_path)
        assert {path: Path(folder, path).read_bytes() for path in FILES} == FILES | {"config.json": config}
    assert not any(request.authorized for request in hub.requests)
    requests = len(hub.requests)
    hf_hub_download(REPO, "model.safetensors", revision=old, endpoint=hub.url, cache_dir=tmp_path)
    assert len(hub.requests) == requests


def test_branch_tag_and_pull_request(hub, api):
    hub.add_repo(REPO, FILES)
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="trial/2")
    with pytest.raises(HfHubHTTPError, match="Reference already exists") as error:
        api.create_branch(REPO, branch="trial/2")
    assert error.value.response.status_code == 409
    on_branch = push(api, {"config.json": b"[2]"}, revision="trial/2")
    request = push(api, {"config.json": b"[3]"}, create_pr=True)
    assert request.pr_url == f"{hub.url}/{REPO}/discussions/1" and request.pr_num == 1
    more = push(api, {"new.json": b"4"}, revision=request.pr_revision)
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {ref.ref: ref.target_commit for ref in refs.branches + refs.tags + refs.pull_requests} == {
        "refs/heads/main": hub.head(REPO).sha,
        "refs/heads/trial/2": on_branch.oid,
        "refs/tags/v1": hub.head(REPO).sha,
        "refs/pr/1": more.oid,
    }
    assert [hub.files(REPO, name)["config.json"] for name in ("main", "v1", "trial/2", "refs/pr/1")] == [
        b"{}\n",
        b"{}\n",
        b"[2]",
        b"[3]",
    ]
    api.delete_branch(REPO, branch="trial/2")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="trial/2")


def test_conflicts(hub, api):
    url = api.create_repo(REPO)
    with pytest.raises(HfHubHTTPError, match="You already created this model repo") as error:
        api.create_repo(REPO)
    assert error.value.response.status_code == 409
    assert api.create_repo(REPO, exist_ok=True) == url
    old = hub.head(REPO).sha
    hub.commit(REPO, {"config.json": b"[]"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        push(api, parent_commit=old)
    assert error.value.response.status_code == 412
    assert hub.files(REPO)["config.json"] == b"[]"
    # what was uploaded for the commit that failed is kept
    puts = hub.count("PUT")
    push(api, parent_commit=hub.head(REPO).sha)
    assert hub.count("PUT") == puts == 2


def test_who_may_do_what(hub, api, tmp_path):
    hub.add_repo(REPO, FILES, private=True)
    hub.add_repo("stranger/model", FILES)
    anonymous, wrong = HfApi(endpoint=hub.url), HfApi(endpoint=hub.url, token="hf_wrong")
    for client, repo, status in ((anonymous, REPO, 401), (anonymous, "sloth/no", 401), (api, "sloth/no", 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            client.model_info(repo)
        assert error.value.response.status_code == status
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path)
    snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path, token=hub.token)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        wrong.whoami()
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        wrong.create_repo("sloth/other")
    with pytest.raises(RepositoryNotFoundError, match="Invalid username or password") as error:
        push(anonymous, repo_id="stranger/model")
    assert error.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="under the namespace") as error:
        api.create_repo("stranger/other")
    assert error.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match="create a Pull Request") as error:
        push(api, {"config.json": b"[]"}, repo_id="stranger/model")
    assert error.value.response.status_code == 403
    assert push(api, {"config.json": b"[]"}, repo_id="stranger/model", create_pr=True).pr_num == 1
    assert api.create_repo("lab/model").repo_id == "lab/model"
    api.auth_check("lab/model", write=True)
    with pytest.raises(RevisionNotFoundError):
        push(api, {"config.json": b"[]"}, revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("stranger/model", "none.json", endpoint=hub.url, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ("license: [", "Invalid YAML"),
        ("- a list", "must be an object"),
        ("license: 3", '"license" must be a string'),
        ("tags: [{a: b}]", '"tags" must be a string or a list of strings'),
        ("model-index: [{name: x, results: [{task: {type: t}}]}]", "model_index"),
    ],
)
def test_bad_card(hub, api, card, complaint):
    api.create_repo(REPO)
    with pytest.raises(ValueError, match=complaint):
        push(api, {"README.md": f"---\n{card}\n---\n".encode()})
    assert hub.files(REPO).keys() == {".gitattributes"}


def test_card_without_metadata_is_warned_of(hub, api):
    api.create_repo(REPO)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push(api, {"README.md": b"# A model"})


def test_dropped_upload_is_sent_again(hub, api, tmp_path):
    api.create_repo(REPO)
    path = tmp_path / "model.safetensors"
    path.write_bytes(WEIGHTS)
    hub.fail("PUT", "/objects/", body_bytes=100_000)
    push(api, {"model.safetensors": str(path)})
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS
    dropped, sent = (request for request in hub.requests if request.method == "PUT")
    assert (dropped.status, len(dropped.body)) == (None, 100_000) and (sent.status, sent.body) == (200, WEIGHTS)


def test_faults(hub, api):
    api.create_repo(REPO)
    before = hub.head(REPO)
    # huggingface_hub sends a commit once: dropped, or answered by an error, nothing has changed
    hub.fail("POST", "/commit/")
    with pytest.raises(httpx2.RemoteProtocolError):
        push(api)
    hub.fail("POST", "/commit/", 503)
    with pytest.raises(HfHubHTTPError, match="503"):
        push(api)
    assert hub.head(REPO) is before
    # ... or the commit is there, and only the answer is lost
    hub.fail("POST", "/commit/", answer_bytes=0)
    with pytest.raises(httpx2.RemoteProtocolError):
        push(api)
    assert hub.head(REPO).parent is before and hub.count("PUT") == 2
    # the other requests are sent again, after the time that the Hub asks for
    hub.fail("POST", "/preupload/", 429, skip=1, times=1, headers={"Retry-After": "0"})
    assert push(api).oid == push(api).oid == hub.head(REPO).sha
    assert [r.status for r in hub.requests if "/preupload/" in r.path][-3:] == [200, 429, 200]


def test_dropped_download_goes_on(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.add_repo(REPO, FILES)
    hub.fail("GET", "model.safetensors", answer_bytes=500_000)
    path = hf_hub_download(REPO, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    ranges = [r.content_range for r in hub.requests if r.method == "GET" and r.path.endswith(".safetensors")]
    assert ranges == [None, "bytes=500000-"]


def test_dataset(hub, api, tmp_path):
    api.create_repo("lab/data", repo_type="dataset")
    push(api, {"train.parquet": b"PAR1"}, repo_id="lab/data", repo_type="dataset")
    assert hub.files("lab/data", repo_type="dataset")["train.parquet"] == b"PAR1"
    assert ("model", "lab/data") not in hub.repos
    path = hf_hub_download("lab/data", "train.parquet", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"PAR1"
    api.delete_repo("lab/data", repo_type="dataset")
    assert not api.repo_exists("lab/data", repo_type="dataset")
