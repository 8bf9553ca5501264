"""What is asked about repositories under /api, but for uploads."""

from __future__ import annotations

import re
import urllib.parse

import yaml

from . import access, uploads
from .answers import Answers
from .store import Entry, RefusedError, Repository

__all__ = ["about", "create_repository", "delete_repository", "validate_yaml", "whoami"]

PAGE = 1000


def whoami(request: Answers) -> None:
    user = access.user_of(request.hub.store, request.headers.get("Authorization"))
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    name, role = user
    token = {"displayName": "t", "role": role}
    request.send_json({"type": "user", "name": name, "fullname": name, "orgs": [], "auth": {"accessToken": token}})


def validate_yaml(request: Answers) -> None:
    """The front matter of a model's card."""
    found = re.match(r"---\s*\n(.*?)\n---", request.json()["content"], re.DOTALL)
    errors = []
    data = {}
    if found:
        try:
            data = yaml.safe_load(found[1])
        except yaml.YAMLError as error:
            errors.append(str(error))
    if not isinstance(data, dict):
        errors.append("the front matter is no mapping")
        data = {}
    tags, base = data.get("tags", []), data.get("base_model", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        errors.append('"tags" must be a list of strings')
    if not all(isinstance(name, str) for name in (base if isinstance(base, list) else [base])):
        errors.append('"base_model" must be a string or a list of strings')
    if not isinstance(data.get("library_name", ""), str):
        errors.append('"library_name" must be a string')
    messages = [{"message": message} for message in errors]
    request.send_json({"errors": messages, "warnings": []}, 400 if errors else 200)


def _named(request: Answers) -> tuple[str, str, tuple[str, str] | None]:
    asked = request.json()
    user = access.user_of(request.hub.store, request.headers.get("Authorization"))
    owner = asked.get("organization") or (user[0] if user else "")
    access.may_write(owner, user)
    return asked.get("type") or "model", f"{owner}/{asked['name']}", user


def create_repository(request: Answers) -> None:
    kind, id, _ = _named(request)  # noqa: A001
    store, url = request.hub.store, f"{request.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{id}"
    asked = request.json()
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    with store.lock:
        if (kind, id) in store.repositories:
            raise_exists = {"error": f"You already created this {kind} repo", "url": url}
            return request.send_json(raise_exists, 409)
        store.create(id, kind=kind, private=private)
    return request.send_json({"url": url, "name": id, "id": "1"})


def delete_repository(request: Answers) -> None:
    kind, id, _ = _named(request)  # noqa: A001
    request.hub.store.repository(id, kind)
    del request.hub.store.repositories[kind, id]
    request.send_json({})


def about(request: Answers, kind: str, id: str, what: str, rest: str) -> None:  # noqa: A002
    """/api/models/{id}[/{what}[/{rest}]]"""
    store = request.hub.store
    user = access.user_of(store, request.headers.get("Authorization"))
    repository = store.repository(id, kind)
    access.may_see(repository, user)
    revision, _, path = (rest or "main").partition("/")
    if rest.startswith("refs/"):
        parts = rest.split("/")
        revision, path = "/".join(parts[:3]), "/".join(parts[3:])
    if what == "preupload":
        _may_propose(request, repository, user)
        uploads.preupload(request, repository, revision)
    elif what == "commit":
        _may_propose(request, repository, user)
        uploads.commit(request, repository, revision)
    elif what == "tree":
        _tree(request, repository, revision, path)
    elif what == "paths-info":
        _paths_info(request, repository, revision)
    elif what == "refs":
        request.send_json(_refs(request, repository))
    elif what == "branch":
        access.may_write(repository.owner, user)
        _branch(request, repository, rest)
    elif what == "commits":
        listed = [
            {"id": oid, "title": repository.summaries[oid], "message": "", "date": DATE, "authors": []}
            for oid in reversed(repository.commits)
        ]
        request.send_json(listed)
    elif what in ("", "revision"):
        request.send_json(_info(request, repository, revision))
    else:
        raise RefusedError(404, f"no route: {request.address}")


DATE = "2026-01-01T00:00:00.000Z"


def _may_propose(request: Answers, repository: Repository, user: tuple[str, str] | None) -> None:
    """Anyone with a token that writes may open a pull request."""
    if request.query.get("create_pr") == "1" and user is not None and user[1] == "write":
        return
    access.may_write(repository.owner, user)


def _entry(path: str, entry: Entry) -> dict[str, object]:
    shown: dict[str, object] = {"type": "file", "oid": entry.blob, "size": entry.size, "path": path}
    if entry.large:
        size = len(entry.pointer().partition(b"\0")[2])
        shown["lfs"] = {"oid": entry.digest, "size": entry.size, "pointerSize": size}
    return shown


def _tree(request: Answers, repository: Repository, revision: str, folder: str) -> None:
    files = repository.commits[_commit(request, repository, revision)]
    prefix = f"{folder}/" if folder else ""
    below = {path: entry for path, entry in sorted(files.items()) if path.startswith(prefix)}
    if folder and not below:
        raise RefusedError(404, f"{folder} does not exist", "EntryNotFound")
    folders = {}
    for path in below:
        steps = path.split("/")[:-1]
        folders |= {"/".join(steps[: n + 1]): None for n in range(len(steps))}
    listed = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders if path.startswith(prefix)
    ]
    listed += [_entry(path, entry) for path, entry in below.items()]
    if request.query.get("recursive") not in ("true", "True", "1"):
        listed = [shown for shown in listed if "/" not in str(shown["path"])[len(prefix) :]]
    start, page = int(request.query.get("cursor", "0")), int(request.query.get("limit", PAGE))
    headers = {}
    if len(listed) > start + page:
        query = urllib.parse.urlencode(request.query | {"cursor": start + page})
        headers["Link"] = f'<{request.base}{urllib.parse.quote(request.address)}?{query}>; rel="next"'
    request.send_json(listed[start : start + page], headers=headers)


def _paths_info(request: Answers, repository: Repository, revision: str) -> None:
    files = repository.commits[_commit(request, repository, revision)]
    if request.headers.get("Content-Type", "").startswith("application/json"):
        paths = request.json()["paths"]
    else:
        paths = urllib.parse.parse_qs(request.body.decode()).get("paths", [])
    request.send_json([_entry(path, files[path]) for path in paths if path in files])


def _commit(request: Answers, repository: Repository, revision: str) -> str:
    commit = repository.commit_id(revision)
    return request.fault.stale if request.fault and request.fault.stale else commit


def _refs(request: Answers, repository: Repository) -> dict[str, object]:
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
        for name, oid in repository.refs.items()
        if not name.startswith("refs/")
    ]
    found: dict[str, object] = {"branches": branches, "tags": [], "converts": []}
    if request.query.get("include_prs"):
        found["pullRequests"] = [
            {"name": name, "ref": name, "targetCommit": repository.refs[name]} for name in repository.pull_requests()
        ]
    return found


def _branch(request: Answers, repository: Repository, name: str) -> None:
    if request.command == "DELETE":
        del repository.refs[name]
    elif name in repository.refs:
        raise RefusedError(409, f"Reference {name} already exists")
    else:
        start = (request.json() if request.body else {}).get("startingPoint", "main")
        repository.refs[name] = repository.commit_id(start)
    request.send_json({})


def _info(request: Answers, repository: Repository, revision: str) -> dict[str, object]:
    commit = _commit(request, repository, revision)
    files = sorted(repository.commits[commit].items())
    blobs = bool(request.query.get("blobs"))
    siblings = []
    for path, entry in files:
        sibling: dict[str, object] = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.size, "blobId": entry.blob}
            if entry.large:
                sibling["lfs"] = {"sha256": entry.digest, "size": entry.size, "pointerSize": 134}
        siblings.append(sibling)
    return {
        "_id": "1", "id": repository.id, "modelId": repository.id, "author": repository.owner, "sha": commit,
        "private": repository.private, "gated": "manual" if repository.gated else False, "disabled": False,
        "tags": [], "downloads": 0, "likes": 0, "lastModified": DATE, "createdAt": DATE, "siblings": siblings,
    }  # fmt: skip
