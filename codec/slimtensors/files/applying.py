"""Files put over weights that are in memory, which are its bases and its destination: all of them, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar

import numpy.typing as npt

from slimtensors.bases.resolving import KnownBases
from slimtensors.bases.tensors import delta_base
from slimtensors.container.digest import new_identity
from slimtensors.container.header import Tensor
from slimtensors.container.reader import Verify
from slimtensors.dtypes import DType, bytes_of
from slimtensors.errors import BaseError, ChecksumError, UsageError
from slimtensors.reading.scheduling import Piece
from slimtensors.reading.tensors import TensorFile, all_pieces, open_each, open_file
from slimtensors.sources.inputs import ArrayInput, Input, unit_count
from slimtensors.threads import run_all, thread_count

__all__ = ["decode_over", "sort_out"]

T = TypeVar("T")
Units = npt.NDArray[Any]


def decode_over(
    target: Any,
    inputs: Mapping[str, ArrayInput],
    refused: Mapping[str, UsageError],
    *,
    threads: int | None,
    verify: Verify,
    max_bytes: int | None,
) -> dict[str, tuple[Tensor, Units]]:
    """What the tensors of a model's files become, in fresh memory, with every identity checked; nothing is changed.

    inputs: the arrays at hand. refused: why others are no such arrays, which matters if a file has them. Raises
    UsageError for one that a file has and that is not at hand or is another dtype or shape, BaseError if one is not
    the base needed, FormatError for a damaged file.
    """
    count = thread_count(threads)
    with ExitStack() as stack:
        files = open_each(target, stack, lambda one: open_file(one, verify=verify, max_bytes=max_bytes))
        for tensor in (tensor for file in files for tensor in file.header.tensors):
            if tensor.name in refused:
                raise UsageError(f"{refused[tensor.name]}; nothing was changed")
            _check_destination(tensor, inputs.get(tensor.name))
        for file in files:  # before the first is decoded
            file.bases = KnownBases(_identified(file, inputs, count))
        return {name: made for file in files for name, made in _decoded(file, count).items()}


def _decoded(file: TensorFile, threads: int) -> dict[str, tuple[Tensor, Units]]:
    found = all_pieces(file, file.index)
    file.fill([Piece(index, 0, units) for index, units in found.values()], threads)

    def check(item: tuple[int, Units]) -> None:
        index, units = item
        if new_identity(bytes_of(units)).digest() != file.reader.identities[index]:
            raise ChecksumError(
                f"tensor {file.header.tensors[index].name!r}: its decoded bytes do not have the identity that the "
                "file gives; nothing was changed"
            )

    run_all(check, list(found.values()), min(threads, max(1, len(found))))
    return {name: (file.header.tensors[index], units) for name, (index, units) in found.items()}


def sort_out(
    tensors: Mapping[str, T], inputs_of: Callable[[Mapping[str, T]], Sequence[ArrayInput]]
) -> tuple[dict[str, ArrayInput], dict[str, UsageError]]:
    """(what can be read as it is, why others cannot), by name. Raises UsageError for what is no mapping."""
    if not isinstance(tensors, Mapping):
        inputs_of(tensors)
    held: dict[str, ArrayInput] = {}
    refused: dict[str, UsageError] = {}
    for name, tensor in tensors.items():
        try:
            (held[name],) = inputs_of({name: tensor})
        except UsageError as error:  # noqa: PERF203 # of one that the file may not have
            refused[name] = error
    return held, refused


def _check_destination(tensor: Tensor, held: Input | None) -> None:
    if held is None:
        raise UsageError(f"the file has a tensor {tensor.name!r}, which is not among the arrays; nothing was changed")
    if held.dtype != tensor.dtype or tuple(held.shape) != tensor.shape:
        raise UsageError(
            f"tensor {tensor.name!r} is {tensor.dtype.name}{list(tensor.shape)} in the file and "
            f"{held.dtype.name}{list(held.shape)} in memory; nothing was changed"
        )


def _identified(file: TensorFile, inputs: Mapping[str, ArrayInput], threads: int) -> dict[bytes, Any]:
    """The bases that the file needs, among the arrays: each by its hint, the name of its user, or any of its kind."""
    users: dict[bytes, str] = {}
    for i, tensor in enumerate(file.header.tensors):
        needed = delta_base(file, i)
        if needed is not None:
            users.setdefault(needed.identity, tensor.name)
    digests: dict[str, bytes] = {}

    def digest(name: str) -> bytes:
        if name not in digests:
            held = inputs[name]
            digests[name] = bytes(new_identity(bytes_of(held.read(0, unit_count(held)))).digest())
        return digests[name]

    likely = {base.identity: _likely(base.hints.get("tensor"), users.get(base.identity)) for base in file.header.bases}
    names = {name for group in likely.values() for name in group if name in inputs}
    run_all(digest, sorted(names), min(threads, max(1, len(names))))
    kinds: dict[tuple[DType, tuple[int, ...]], dict[str, None]] = {}
    for name, held in inputs.items():
        kinds.setdefault((held.dtype, tuple(held.shape)), {})[name] = None
    known = {}
    for base in file.header.bases:
        alike = kinds.get((base.dtype, base.shape), {})
        first = [name for name in likely[base.identity] if name in alike]
        for name in chain(first, (name for name in alike if name not in first)):
            if digest(name) == base.identity:
                known[base.identity] = inputs[name].read
                break
        else:
            raise BaseError(
                f"{base} is not among the arrays: they are another version of the model than the one that "
                "the file was made against. Nothing was changed; load the whole model, or send a file made against "
                "what is in memory"
            )
    return known


def _likely(*names: str | None) -> Sequence[str]:
    return list(dict.fromkeys(name for name in names if name is not None))
