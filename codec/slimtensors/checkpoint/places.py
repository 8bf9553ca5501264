"""Where a checkpoint lies: a folder of the file system here, an object store in `remote`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Protocol

from slimtensors.container.system import TemporaryOutput
from slimtensors.errors import LimitError, UsageError

__all__ = ["Finishable", "LocalPlace", "StorePlace", "open_place"]


class Finishable(Protocol):
    """A file on its way to where it belongs; nothing is seen under its name until it is committed."""

    def write(self, data: bytes | memoryview) -> None: ...
    def write_at_start(self, data: bytes) -> None: ...
    def commit(self, *, durable: bool = True) -> None: ...
    def discard(self) -> None: ...


class StorePlace(Protocol):
    """The files of one checkpoint, by plain names."""

    label: str
    name: str  # among its neighbours
    reads_back: bool  # whether what was written can be looked at before it is committed

    def sizes(self) -> dict[str, int]:
        """Files, and their bytes; none if there is no such folder."""

    def read(self, name: str, most: int) -> bytes:
        """A small file. Raises FileNotFoundError, and LimitError above `most` bytes."""

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:
        """A small file, at once."""

    def create(self, name: str, front: int, expected: int) -> Finishable:
        """A large file. front: bytes that are written last; expected: about how many it will have at most."""

    def source(self, name: str) -> Any:
        """What `open_file` takes to read it."""

    def remove(self, name: str) -> None:
        """It need not be there."""

    def abandon(self, keep: str) -> None:
        """End uploads that a process of another run than `keep` left unfinished."""

    def exists(self) -> bool:
        """Whether there is such a folder; stores without folders have all."""

    def remove_if_empty(self) -> None: ...

    def child(self, name: str) -> StorePlace: ...

    def parent(self) -> StorePlace | None:
        """What holds it and its neighbours, if anything does."""


class LocalPlace:
    """A folder."""

    reads_back = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 # a link to a folder stays one, but ".." must not name it
        self.label, self.name = str(self.path), self.path.name

    def sizes(self) -> dict[str, int]:
        found = {}
        try:
            entries = list(os.scandir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # gone since
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
        return found

    def read(self, name: str, most: int) -> bytes:
        with (self.path / name).open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise LimitError(f"{self.path / name} has more than {most} bytes")
        return data

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:
        output = self.create(name, 0, 0)
        try:
            output.write(data)
            output.commit(durable=durable)
        except BaseException:
            output.discard()
            raise

    def create(self, name: str, _front: int, _expected: int) -> TemporaryOutput:
        self.path.mkdir(parents=True, exist_ok=True)
        return TemporaryOutput(self.path / name)

    def source(self, name: str) -> Path:
        return self.path / name

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def abandon(self, _keep: str) -> None:
        """A local upload is a temporary file, and is among the files."""

    def exists(self) -> bool:
        return self.path.exists()

    def remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def child(self, name: str) -> LocalPlace:
        return LocalPlace(self.path / name)

    def parent(self) -> LocalPlace | None:
        return LocalPlace(self.path.parent) if self.path.parent != self.path else None


def open_place(path: Any, storage_options: dict[str, Any] | None = None) -> StorePlace:
    """A folder, or what an URL such as s3://bucket/run/step-100 names, by way of fsspec. Touches nothing."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"a checkpoint's place is a {type(path).__name__}; a path or an URL is needed")
    text = os.fspath(path)
    if "://" in text and not text.startswith(("file://", "local://")):
        from slimtensors.checkpoint.remote import RemotePlace

        return RemotePlace.from_url(text, storage_options or {})
    return LocalPlace(text.split("://", 1)[1] if "://" in text else text)
