# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A Hub on the loopback, which speaks the Hub's protocol to the real huggingface_hub client and keeps its repositories in
memory: models, datasets and Spaces, private or public, with commits, branches, tags, pull requests and LFS. It has
neither Xet (set HF_HUB_DISABLE_XET) nor pages of a listing, and runs no Space.

The paths, headers and error codes are those that huggingface_hub 2.4 sends and expects (hf_api.py, _commit_api.py,
lfs.py, file_download.py, utils/_http.py); the messages, LFS patterns and size limit are modelled on huggingface.co's.
"""

import base64
import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from loopback_repo import Commit, File, Repo, card_problems
from loopback_server import Answer, LoopbackServer, Refusal, Request, json_answer


USER = "sloth"
ORGANIZATION = "lab"
NAMESPACES = (USER, ORGANIZATION)
SPACE_SDKS = ("gradio", "docker", "static")
TOKEN = "hf_LoopbackTokenOfTheTests"


class LoopbackHub(LoopbackServer):
    """
    The server; use it as a context manager. Its `url` is the endpoint, for HF_ENDPOINT or `HfApi(endpoint=...)`.

    Attributes:
        token (`str`): Lets in `USER`, who writes to the namespaces `USER` and `ORGANIZATION`.
        repos (`dict[tuple[str, str], Repo]`): By type and id.
    """

    def __init__(self):
        super().__init__()
        self.token = TOKEN
        self.repos: dict[tuple[str, str], Repo] = {}

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that is to use this Hub, with all its caches below `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "30"}
        return kept | ours | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})

    def add_repo(self, repo_id: str, content=(), repo_type: str = "model", private: bool = False) -> str:
        """
        Makes a repository behind the client's back.

        Args:
            repo_id (`str`): `owner/name`.
            content (`Path` or `Mapping[str, bytes]`, *optional*): A folder, or files by their paths.
            repo_type (`str`, *optional*, defaults to "model"): Or "dataset" or "space".
            private (`bool`, *optional*, defaults to `False`): Whether only its owner sees it.

        Returns:
            `str`: The commit that holds the content.
        """
        self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private)
        return self.commit(repo_id, content, repo_type=repo_type)

    def commit(self, repo_id: str, content, *, revision="main", delete=(), repo_type: str = "model") -> str:
        """Commits files behind the client's back, to a branch that is made if it is missing; returns the commit."""
        if isinstance(content, Path):
            paths = [path for path in content.rglob("*") if path.is_file()]
            content = {path.relative_to(content).as_posix(): path.read_bytes() for path in paths}
        with self._lock:
            repo = self.repos[repo_type, repo_id]
            head = repo.find(revision) or repo.find("main")
            changes: dict[str, File | None] = {path: None for path in delete}
            for path, data in dict(content).items():
                changes[path] = File(data, repo.wants_lfs(head, path, len(data), data[:512]))
            return repo.commit(repo.ref(revision) or f"refs/heads/{revision}", changes, "A commit of the test").sha

    def head(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> Commit | None:
        """The newest commit of a branch, a tag or a pull request; `None` if there is no such."""
        return self.repos[repo_type, repo_id].find(revision)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """What is served at a revision."""
        return {path: file.content for path, file in self.head(repo_id, revision, repo_type).files.items()}

    def act(self, request: Request, raw_path: str) -> Answer:
        for method, pattern, action in ROUTES:
            if request.method in method and (match := re.fullmatch(pattern, raw_path)):
                return action(self, request, **{name: unquote(part) for name, part in match.groupdict("").items()})
        raise Refusal(404, f"The loopback Hub has no {request.method} {request.path}")

    # Who may see and write what

    def user(self, request: Request) -> str | None:
        if request.token not in (None, f"Bearer {self.token}"):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return request.token and USER

    def writer(self, request: Request, code: str | None = None) -> str:
        if user := self.user(request):
            return user
        raise Refusal(401, "Invalid username or password.", code)

    def repo(self, request: Request, kind: str, repo_id: str) -> Repo:
        user = self.user(request)
        repo = self.repos.get((kind.removesuffix("s") or "model", repo_id))
        if repo is None or (repo.private and not (user and repo_id.split("/")[0] in NAMESPACES)):
            status, message = (404, "Repository not found") if user else (401, "Invalid username or password.")
            raise Refusal(status, message, "RepoNotFound")
        return repo

    def writable(self, request: Request, kind: str, repo_id: str, revision: str = "main") -> Repo:
        repo = self.repo(request, kind, repo_id)
        # The client reads a 401 as a missing repository, but of an endpoint without https only with this error code.
        self.writer(request, "RepoNotFound")
        proposes = "create_pr" in request.query or revision.startswith("refs/pr/")
        if repo_id.split("/")[0] not in NAMESPACES and not proposes:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    # What is asked of it

    def whoami(self, request: Request) -> Answer:
        orgs = [{"type": "org", "id": "1", "name": ORGANIZATION, "fullname": ORGANIZATION, "roleInOrg": "write"}]
        access = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return json_answer({"type": "user", "id": "0", "name": self.writer(request), "orgs": orgs, "auth": access})

    def validate_yaml(self, request: Request) -> Answer:
        errors, warnings = card_problems(request.json()["content"], request.json()["repoType"])
        messages = {"errors": [{"message": text} for text in errors], "warnings": [{"message": w} for w in warnings]}
        return json_answer(messages, 400 if errors else 200)

    def create_repo(self, request: Request) -> Answer:
        asked, user = request.json(), self.writer(request)
        repo_id, repo_type = f"{asked['organization'] or user}/{asked['name']}", asked.get("type", "model")
        url = f"{self.url}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
        if repo_type == "space" and asked.get("sdk") not in SPACE_SDKS:
            raise Refusal(400, f'"sdk" must be one of {", ".join(SPACE_SDKS)}')
        if repo_id.split("/")[0] not in NAMESPACES:
            namespace = repo_id.split("/")[0]
            raise Refusal(403, f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"')
        if (repo_type, repo_id) in self.repos:
            raise Refusal(409, f"You already created this {repo_type} repo: {repo_id}", url=url)
        self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, asked.get("visibility") == "private")
        return json_answer({"url": url, "name": repo_id, "id": "0"})

    def delete_repo(self, request: Request) -> Answer:
        asked, user = request.json(), self.writer(request)
        repo = self.writable(request, asked.get("type", "model"), f"{asked['organization'] or user}/{asked['name']}")
        del self.repos[repo.repo_type, repo.repo_id]
        return json_answer({})

    def auth_check(self, request: Request, kind: str, repo_id: str, write: str) -> Answer:
        (self.writable if write else self.repo)(request, kind, repo_id)
        return json_answer({})

    def info(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        repo = self.repo(request, kind, repo_id)
        commit = _commit(repo, revision or "main")
        match = (
            REGEX_YAML_BLOCK.search(commit.files["README.md"].content.decode())
            if "README.md" in commit.files
            else None
        )
        card = yaml.safe_load(match.group(2)) if match else {}
        siblings = []
        for path, file in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if "blobs" in request.query:
                siblings[-1] |= {"size": len(file.content), "blobId": file.oid}
            if "blobs" in request.query and file.lfs:
                sizes = {"size": len(file.content), "pointerSize": len(file.pointer)}
                siblings[-1]["lfs"] = {"sha256": file.sha256, **sizes}
        properties = {
            "author": repo_id.split("/")[0],
            "sha": commit.sha,
            "lastModified": commit.iso_date,
            "createdAt": commit.history()[-1].iso_date,
            "private": repo.private,
            "disabled": False,
            "gated": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags", []),
            "cardData": card,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "siblings": siblings,
            "usedStorage": sum(map(len, repo.lfs_objects.values())),
        }
        if asked := request.query.get("expand"):
            properties = {name: value for name, value in properties.items() if name in asked}
        return json_answer({"_id": "0", "id": repo_id, "modelId": repo_id, **properties})

    def refs(self, request: Request, kind: str, repo_id: str) -> Answer:
        repo = self.repo(request, kind, repo_id)
        answer: dict[str, list] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        prefixes = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
        for ref, commit in repo.refs.items():
            prefix = next(prefix for prefix in prefixes if ref.startswith(prefix))
            item = {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit.sha}
            answer[prefixes[prefix]].append(item)
        return json_answer(answer)

    def discussions(self, request: Request, kind: str, repo_id: str) -> Answer:
        repo = self.repo(request, kind, repo_id)
        main, found = repo.refs["refs/heads/main"].history(), []
        for ref, commit in repo.refs.items():
            if ref.startswith("refs/pr/"):
                opening = [proposed for proposed in commit.history() if proposed not in main][-1]
                about = {"title": opening.title, "num": int(ref.removeprefix("refs/pr/")), "author": {"name": USER}}
                about |= {"createdAt": opening.iso_date, "status": "open", "isPullRequest": True}
                found.append({**about, "repo": {"name": repo_id, "type": repo.repo_type}})
        return json_answer({"discussions": found, "count": len(found), "start": 0})

    def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        history = _commit(self.repo(request, kind, repo_id), revision).history()
        authors = [{"user": USER}]
        fields = [{"id": c.sha, "title": c.title, "message": c.description, "date": c.iso_date} for c in history]
        return json_answer([{**item, "authors": authors} for item in fields])

    def tree(self, request: Request, kind: str, repo_id: str, revision: str, path: str) -> Answer:
        commit = _commit(self.repo(request, kind, repo_id), revision)
        entries = commit.entries(expand="true" in request.query.get("expand", []))
        if path and not any(name.startswith(path + "/") for name in entries):
            raise Refusal(404, f'{path} does not exist on "{revision}"', "EntryNotFound", commit=commit.sha)
        below = {name: entry for name, entry in entries.items() if not path or name.startswith(path + "/")}
        if "true" not in request.query.get("recursive", []):
            below = {name: e for name, e in below.items() if "/" not in name[len(path) :].removeprefix("/")}
        return json_answer(list(below.values()))

    def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        asked = parse_qs(request.body.decode())
        commit = _commit(self.repo(request, kind, repo_id), revision)
        entries = commit.entries(expand="true" in asked.get("expand", []))
        return json_answer([entries[path] for path in asked.get("paths", []) if path in entries])

    def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        repo = self.writable(request, kind, repo_id, revision)
        commit = _commit(repo, revision)
        files = []
        for asked in request.json()["files"]:
            path = asked["path"]
            lfs = repo.wants_lfs(commit, path, asked["size"], base64.b64decode(asked["sample"]))
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
            if path in commit.files:
                files[-1]["oid"] = commit.files[path].etag
        return json_answer({"files": files})

    def lfs_batch(self, request: Request, kind: str, repo_id: str) -> Answer:
        repo = self.repo(request, kind, repo_id)
        self.writer(request)
        base, objects = f"{self.url}/{kind + '/' if kind else ''}{repo_id}.git/info/lfs/objects", []
        for asked in request.json()["objects"]:
            objects.append(dict(asked))
            if asked["oid"] not in repo.lfs_objects:
                upload = {"href": f"{base}/{asked['oid']}?signature=of-the-storage"}
                objects[-1]["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
        return json_answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, request: Request, kind: str, repo_id: str, oid: str) -> Answer:
        # The address is signed, and needs no token.
        if "signature" not in request.query or oid != File(request.body).sha256:
            raise Refusal(400, "The content is not what its address says")
        self.repos[kind.removesuffix("s") or "model", repo_id].lfs_objects[oid] = request.body
        return Answer(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, request: Request, kind: str, repo_id: str) -> Answer:
        asked, objects = request.json(), self.repo(request, kind, repo_id).lfs_objects
        if len(objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object is not there")
        return json_answer({})

    def write_commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Answer:
        repo = self.writable(request, kind, repo_id, revision)
        head = _commit(repo, revision)
        header, changes = {}, {}
        for line in request.body.decode().splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                header = value
            elif key == "file":
                changes[value["path"]] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile" and value["oid"] not in repo.lfs_objects:
                raise Refusal(
                    400, "Your push was rejected because an LFS pointer pointed to a file that does not exist"
                )
            elif key == "lfsFile":
                changes[value["path"]] = File(repo.lfs_objects[value["oid"]], lfs=True)
            elif key == "deletedFile" and value["path"] not in head.files:
                raise Refusal(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
            elif key == "deletedFile":
                changes[value["path"]] = None
            elif key == "deletedFolder":
                changes |= {path: None for path in head.files if path.startswith(value["path"].rstrip("/") + "/")}
        if header.get("parentCommit", head.sha) != head.sha:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        ref = repo.open_pull_request(head) if "create_pr" in request.query else repo.ref(revision)
        if ref is None or ref.startswith("refs/tags/"):
            raise Refusal(400, f"{revision} is not a branch")
        commit = repo.commit(ref, changes, header["summary"], header.get("description", ""))
        base = f"{self.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        pull_request = {"pullRequestUrl": f"{base}/discussions/{ref.removeprefix('refs/pr/')}"}
        answer = {
            "success": True,
            "commitOid": commit.sha,
            "commitUrl": f"{base}/commit/{commit.sha}",
            "hookOutput": "",
        }
        return json_answer(answer | (pull_request if "create_pr" in request.query else {}))

    def create_ref(self, request: Request, kind: str, repo_id: str, sort: str, name: str) -> Answer:
        # A branch is in the path and its beginning in the body; with a tag it is the other way round.
        repo, asked = self.writable(request, kind, repo_id), json.loads(request.body or b"{}")
        start, name = (asked.get("startingPoint", "main"), name) if sort == "branch" else (name, asked["tag"])
        ref = f"refs/{'heads' if sort == 'branch' else 'tags'}/{name}"
        if ref in repo.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = _commit(repo, start)
        return json_answer({})

    def delete_ref(self, request: Request, kind: str, repo_id: str, sort: str, name: str) -> Answer:
        refs = self.writable(request, kind, repo_id).refs
        if refs.pop(f"refs/{'heads' if sort == 'branch' else 'tags'}/{name}", None) is None:
            raise Refusal(404, f"There is no {sort} {name}")
        return json_answer({})

    def resolve(self, request: Request, kind: str, repo_id: str, revision: str, path: str) -> Answer:
        commit = _commit(self.repo(request, kind, repo_id), revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=commit.sha)
        file = commit.files[path]
        content = file.content
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(content))}
        if request.content_range is None:
            return Answer(200, content, headers)
        start, end = request.content_range.removeprefix("bytes=").split("-")
        first, last = int(start), min(int(end or len(content) - 1), len(content) - 1)
        if first > last:
            return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(206, content[first : last + 1], headers)


_API = "/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_REVISION = "(?P<revision>[^/]+)"
_GIT = "/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+)"
_LFS = _GIT + r"\.git/info/lfs/objects"

ROUTES = (
    ("GET", "/api/whoami-v2", LoopbackHub.whoami),
    ("POST", "/api/validate-yaml", LoopbackHub.validate_yaml),
    ("POST", "/api/repos/create", LoopbackHub.create_repo),
    ("DELETE", "/api/repos/delete", LoopbackHub.delete_repo),
    ("GET", f"{_API}/auth-check(?:/(?P<write>write))?", LoopbackHub.auth_check),
    ("GET", f"{_API}(?:/revision/{_REVISION})?", LoopbackHub.info),
    ("GET", f"{_API}/refs", LoopbackHub.refs),
    ("GET", f"{_API}/commits/{_REVISION}", LoopbackHub.commits),
    ("GET", f"{_API}/discussions", LoopbackHub.discussions),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", LoopbackHub.tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", LoopbackHub.paths_info),
    ("POST", f"{_API}/preupload/{_REVISION}", LoopbackHub.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", LoopbackHub.write_commit),
    ("POST", f"{_API}/(?P<sort>branch|tag)/(?P<name>[^/]+)", LoopbackHub.create_ref),
    ("DELETE", f"{_API}/(?P<sort>branch|tag)/(?P<name>[^/]+)", LoopbackHub.delete_ref),
    ("POST", f"{_LFS}/batch", LoopbackHub.lfs_batch),
    ("POST", f"{_LFS}/verify", LoopbackHub.lfs_verify),
    ("PUT", f"{_LFS}/(?P<oid>[0-9a-f]{{64}})", LoopbackHub.lfs_upload),
    ("GET HEAD", f"{_GIT}/resolve/{_REVISION}/(?P<path>.+)", LoopbackHub.resolve),
)


def _commit(repo: Repo, revision: str) -> Commit:
    if commit := repo.find(revision):
        return commit
    raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
