"""Takes files: what goes where (preupload), large files (LFS batch, parts, verify), commits. Checks all digests."""

from __future__ import annotations

import base64
import hashlib
import json

from . import access
from .answers import Answers
from .store import LARGE, Entry, RefusedError, Repository

__all__ = ["batch", "commit", "complete", "preupload", "put", "put_part", "verify"]


def preupload(request: Answers, repository: Repository, revision: str) -> None:
    tree = repository.commits[repository.commit_id(revision)]
    rules = tree
    asked = request.json()
    if "gitAttributes" in asked:
        text = asked["gitAttributes"].encode()
        rules = {**tree, ".gitattributes": request.hub.store.keep(text, large=False)}
    files = []
    for file in asked["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        large = request.hub.store.is_large(rules, path, file["size"], sample)
        files.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": tree[path].digest if path in tree else None,
            }
        )
    request.send_json({"files": files})


def batch(request: Answers, repository: Repository) -> None:
    """Where the bytes of large files go. Those that are here already need not come again."""
    hub = request.hub
    user = access.user_of(hub.store, request.headers.get("Authorization"))
    access.may_see(repository, user)
    access.may_write(user[0] if user else "", user)  # anything: it may be for a pull request
    asked = request.json()
    parts = hub.part_size if "multipart" in asked.get("transfers", []) else None
    objects = []
    for item in asked["objects"]:
        oid, size = item["oid"], item["size"]
        found = {"oid": oid, "size": size}
        if not hub.store.has(oid):
            upload: dict[str, object] = {"href": hub.signatures.sign(hub.storage, f"/upload/{oid}")}
            if parts is not None and size > parts:
                count = -(-size // parts)
                addresses = {
                    str(part): hub.signatures.sign(hub.storage, f"/upload/{oid}/{part}") for part in range(1, count + 1)
                }
                upload = {
                    "href": hub.signatures.sign(hub.storage, f"/complete/{oid}"),
                    "header": {"chunk_size": str(parts), **addresses},
                }
            check = {"href": f"{hub.endpoint}/{repository.id}.git/info/lfs/verify"}
            found["actions"] = {"upload": upload, "verify": check}
        objects.append(found)
    transfer = "multipart" if any("chunk_size" in str(found) for found in objects) else "basic"
    request.send_json(
        {"transfer": transfer, "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
    )


def put(request: Answers, oid: str) -> None:
    request.hub.signatures.check(request)
    _keep(request, oid, request.body)
    request.send_json({})


def put_part(request: Answers, oid: str, part: int) -> None:
    request.hub.signatures.check(request)
    request.hub.parts[oid, part] = request.body
    etag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
    request.send(200, {"ETag": f'"{etag}"'}, b"")


def complete(request: Answers, oid: str) -> None:
    request.hub.signatures.check(request)
    numbers = [part["partNumber"] for part in request.json()["parts"]]
    _keep(request, oid, b"".join(request.hub.parts.pop((oid, number)) for number in numbers))
    request.send_json({})


def _keep(request: Answers, oid: str, data: bytes) -> None:
    seen = hashlib.sha256(data).hexdigest()
    if seen != oid:
        raise RefusedError(422, f"{seen} came, {oid} was announced")
    request.hub.store.keep(data, large=True)


def verify(request: Answers) -> None:
    asked = request.json()
    path = request.hub.store.path(asked["oid"])
    if not path.exists() or path.stat().st_size != asked["size"]:
        raise RefusedError(404, "no such object")
    request.send_json({})


def commit(request: Answers, repository: Repository, revision: str) -> None:
    """Lines of JSON: a header, then files, large files and deletions; all of it or nothing."""
    hub = request.hub
    with hub.store.lock:
        parent = repository.commit_id(revision)
        tree = dict(repository.commits[parent])
        summary = ""
        for line in request.body.splitlines():
            key, value = (part := json.loads(line))["key"], part["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                data = base64.b64decode(value["content"])
                if len(data) > LARGE:
                    raise RefusedError(400, f"{value['path']} is too large for a regular file")
                tree[value["path"]] = hub.store.keep(data, large=False)
            elif key == "lfsFile":
                if not hub.store.has(value["oid"]):
                    raise RefusedError(400, f"{value['path']}: its bytes have not been uploaded")
                size = hub.store.path(value["oid"]).stat().st_size
                tree[value["path"]] = Entry(value["oid"], size, large=True)
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise RefusedError(404, f"{value['path']} is not there", "EntryNotFound")
            elif key == "deletedFolder":
                tree = {path: entry for path, entry in tree.items() if not path.startswith(value["path"])}
            else:
                raise RefusedError(400, f"unknown line: {key}")
        answer = {"success": True, "hookOutput": ""}
        ref = revision
        if request.query.get("create_pr") == "1":
            number = len(repository.pull_requests()) + 1
            ref = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{hub.endpoint}/{repository.id}/discussions/{number}"
        elif ref not in repository.refs:
            raise RefusedError(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        oid = hub.store.commit(repository, ref, tree, summary, parent=parent)
    request.send_json(answer | {"commitOid": oid, "commitUrl": f"{hub.endpoint}/{repository.id}/commit/{oid}"})
