"""`dependencies`: what a file needs besides itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slimtensors.bases.resolving import Resolver
from slimtensors.bases.tensors import BaseTensor, delta_base
from slimtensors.container.header import Base
from slimtensors.errors import BaseError, FormatError
from slimtensors.reading.tensors import open_file

__all__ = ["Dependency", "dependencies"]


@dataclass(frozen=True)
class Dependency:
    """A base tensor that some tensors of a file are differences from."""

    identity: str  # hex
    dtype: str
    shape: tuple[int, ...]
    hints: dict[str, str]
    tensors: list[str] = field(default_factory=list)  # that need it
    found: str | None = None  # where, and under which name
    problem: str = ""  # why it was not found


def dependencies(target: Any, *, base: Any = None, max_bytes: int | None = None) -> list[Dependency]:
    """Every base that a file needs, and whether it is to be had.

    base: where to look, as for `safe_open`; folders of the environment are searched too. What is found is read and
    hashed here, so that what is said to be found is the one needed, and whole. Raises FormatError for a damaged file.
    """
    resolver = Resolver(base)
    try:
        with open_file(target, verify="none", max_bytes=max_bytes) as file:
            users: dict[bytes, list[str]] = {}
            for i, tensor in enumerate(file.header.tensors):
                needed = delta_base(file, i)
                if needed is not None:
                    users.setdefault(needed.identity, []).append(tensor.name)
            return [_look(needed, users.get(needed.identity, []), resolver) for needed in file.header.bases]
    finally:
        resolver.close()


def _wrong(tensor: BaseTensor, base: Base) -> str:
    """Why a tensor is not the base that it seems to be; empty if it is."""
    try:
        found = tensor.identity() if tensor.stored is None else tensor.taken()
    except BaseError:
        raise
    except FormatError as error:
        return f"{tensor.where} claims to hold it, but is damaged: {error}"
    if found == base.identity:
        return ""
    if tensor.stored is not None:
        return f"{tensor.where} claims to hold it, but has other bytes, with identity {found.hex()}"
    return f"{tensor.where} holds another one of that name, with identity {found.hex()}"


def _look(base: Base, users: list[str], resolver: Resolver) -> Dependency:
    known = Dependency(base.identity.hex(), base.dtype.name, base.shape, dict(base.hints), users)
    try:
        tensor = resolver.find(base).tensor
        wrong = _wrong(tensor, base)
        if wrong:
            if not resolver.settle(base):
                raise BaseError(wrong)
            tensor = resolver.find(base).tensor
    except BaseError as error:
        return Dependency(known.identity, known.dtype, known.shape, known.hints, users, None, str(error))
    return Dependency(
        known.identity, known.dtype, known.shape, known.hints, users, f"{tensor.where}, tensor {tensor.name!r}"
    )
