"""What a Hub holds: repositories with commits and branches, files by their digests, users by their tokens."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["ALICE", "BOB", "READER", "Entry", "RefusedError", "Repository", "Store"]

ALICE, BOB, READER = "hf_alice_writes", "hf_bob_writes", "hf_carol_reads"
LARGE = 10 << 20  # a regular file may not be larger
# What a new repository has on the Hub, in short; *.slimtensors is not among it.
ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in ("*.bin", "*.gguf", "*.h5", "*.npz", "*.onnx", "*.pt", "*.safetensors", "*.zst", "*tfevents*")
)


def _sha1(data: bytes):
    return hashlib.sha1(data, usedforsecurity=False)


class RefusedError(Exception):
    """What the server answers instead: a status, the Hub's name for the error, and words."""

    def __init__(self, status: int, words: str, code: str | None = None, **headers: str) -> None:
        super().__init__(words)
        self.status, self.words, self.code, self.headers = status, words, code, headers


@dataclass(frozen=True)
class Entry:
    """A file in a commit: its git object or SHA-256, and its size in bytes."""

    digest: str
    size: int
    large: bool

    @property
    def blob(self) -> str:
        """The git object: of the file, or of the pointer that stands for a large one."""
        return _sha1(self.pointer()).hexdigest() if self.large else self.digest

    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.digest}\nsize {self.size}\n".encode()
        return b"blob %d\0" % len(text) + text


@dataclass
class Repository:
    kind: str
    id: str
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def pull_requests(self) -> list[str]:
        return [name for name in self.refs if name.startswith("refs/pr/")]

    def commit_id(self, revision: str) -> str:
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = self.refs.get(revision, revision)
        if found not in self.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


class Store:
    """Repositories and files of one Hub. `folder` keeps the files' bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.tokens = {ALICE: ("alice", "write"), BOB: ("bob", "write"), READER: ("carol", "read")}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._count = itertools.count()

    # Files.

    def keep(self, data: bytes, large: bool) -> Entry:
        digest = hashlib.sha256(data) if large else _sha1(b"blob %d\0" % len(data) + data)
        entry = Entry(digest.hexdigest(), len(data), large)
        self.path(entry.digest).write_bytes(data)
        return entry

    def path(self, digest: str) -> Path:
        return self.folder / digest

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    # Repositories.

    def create(self, id: str, *, kind: str = "model", private: bool = False, gated: bool = False) -> Repository:  # noqa: A002
        with self.lock:
            repository = Repository(kind, id, private, gated)
            self.repositories[kind, id] = repository
            first = self.keep(ATTRIBUTES.encode(), large=False)
            self.commit(repository, "main", {".gitattributes": first}, "initial commit", parent=None)
            return repository

    def repository(self, id: str, kind: str = "model") -> Repository:  # noqa: A002
        if (kind, id) not in self.repositories:
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return self.repositories[kind, id]

    def commit(
        self, repository: Repository, ref: str, files: Mapping[str, Entry], summary: str, *, parent: str | None
    ) -> str:
        """A commit that has these files and no others; `ref` points to it from now on."""
        with self.lock:
            name = f"{repository.id} {next(self._count)} {parent} {summary} {sorted(files.items())}"
            oid = _sha1(name.encode()).hexdigest()
            repository.commits[oid] = dict(files)
            repository.summaries[oid] = summary
            repository.refs[ref] = oid
            return oid

    def add(
        self,
        id: str,  # noqa: A002
        files: Mapping[str, bytes | Path],
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
        kind: str = "model",
    ) -> str:
        """Commits files (bytes, or paths to read) to a repository, made if it is not there. Gives the commit's id."""
        with self.lock:
            if (kind, id) not in self.repositories:
                self.create(id, kind=kind, private=private, gated=gated)
            repository = self.repository(id, kind)
            before = repository.refs.get(revision, repository.refs["main"])
            tree = dict(repository.commits[before])
            for path, source in files.items():
                data = source.read_bytes() if isinstance(source, Path) else source
                tree[path] = self.keep(data, self.is_large(tree, path, len(data), data[:512]))
            return self.commit(repository, revision, tree, "added by a test", parent=before)

    def add_folder(self, id: str, folder: Path, **options: object) -> str:  # noqa: A002
        """Commits every file below a folder."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return self.add(id, files, **options)  # type: ignore[arg-type]

    def is_large(self, tree: Mapping[str, Entry], path: str, size: int, sample: bytes) -> bool:
        """Whether a file belongs into LFS: by size, by .gitattributes, or because it is not text."""
        rules = b""
        if ".gitattributes" in tree:
            rules = self.path(tree[".gitattributes"].digest).read_bytes()
        patterns = [line.split()[0] for line in rules.decode().splitlines() if "filter=lfs" in line]
        named = any(fnmatch(path, pattern) or fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
        return size > LARGE or named or b"\0" in sample

    def files(self, id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:  # noqa: A002
        """All files of a revision, as bytes."""
        repository = self.repository(id, kind)
        tree = repository.commits[repository.commit_id(revision)]
        return {path: self.path(entry.digest).read_bytes() for path, entry in tree.items()}
