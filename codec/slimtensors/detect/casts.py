"""Tensors that are others of the same shape, converted: BF16 weights beside their F32 masters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.chunk import find_affine
from slimtensors.container.digest import new_identity
from slimtensors.dtypes import CASTABLE, DType, bytes_of
from slimtensors.kernels.cpu import casts as kernels
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.status import OK
from slimtensors.limits import CHUNK_BYTES
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["FoundCast", "find_casts"]

SAMPLE = 256  # units that must agree before two tensors are compared whole
WIDEST_FIRST = ("F64", "F32", "F16", "BF16")  # the order in which tensors may become what others are the casts of


class FoundCast(NamedTuple):
    """That a tensor is the cast of another."""

    source: int
    identity: bytes  # BLAKE3 of the cast tensor's bytes


def find_casts(inputs: Sequence[Input], same: Mapping[int, int]) -> dict[int, FoundCast]:
    """By tensor. Each is proved by reading both whole; none is of a tensor that is itself a cast or a duplicate.

    Lossy tensors are left alone. same: duplicates and what they duplicate. A duplicate of a cast is a cast too.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, tensor in enumerate(inputs):
        if tensor.dtype.name in CASTABLE and i not in same and tensor.lossy is None and unit_count(tensor):
            by_shape[tuple(tensor.shape)].append(i)
    found: dict[int, FoundCast] = {}
    for group in by_shape.values():
        if len({inputs[i].dtype for i in group}) > 1:
            found.update(_of_one_shape(inputs, group))
    for i, target in same.items():
        if target in found:
            found[i] = found[target]
    return found


def _of_one_shape(inputs: Sequence[Input], group: list[int]) -> dict[int, FoundCast]:
    samples = {i: _sample(inputs[i]) for i in group}
    # Constants cost next to nothing; as casts, many large ones could outgrow what a reader allows.
    group = [i for i in group if find_affine(samples[i]) is None]
    cast_as = _cast_samples(inputs, samples, group)
    sources: dict[tuple[str, bytes], int] = {}  # by dtype and sample of what would be the cast
    found = {}
    for i in sorted(group, key=lambda i: (WIDEST_FIRST.index(inputs[i].dtype.name), i)):
        tensor = inputs[i]
        source = sources.get((tensor.dtype.name, samples[i].tobytes()))
        identity = None if source is None else _prove(tensor, inputs[source])
        if source is not None and identity is not None:
            found[i] = FoundCast(source, identity)
            continue
        for name, sample in cast_as[i]:
            sources.setdefault((name, sample), i)
    return found


def _cast_samples(
    inputs: Sequence[Input], samples: Mapping[int, npt.NDArray[Any]], group: list[int]
) -> dict[int, list[tuple[str, bytes]]]:
    """(dtype, bytes) of each tensor's sample, cast to each of the others' dtypes. The samples have one length."""
    by_dtype: dict[DType, list[int]] = defaultdict(list)
    for i in group:
        by_dtype[inputs[i].dtype].append(i)
    found: dict[int, list[tuple[str, bytes]]] = {i: [] for i in group}
    for dtype, some in by_dtype.items():
        together = np.concatenate([samples[i] for i in some])
        for target in by_dtype.keys() - {dtype}:
            for i, cast in zip(some, cast_units(together, dtype, target).reshape(len(some), -1), strict=True):
                found[i].append((target.name, cast.tobytes()))
    return found


def _sample(tensor: Input) -> npt.NDArray[Any]:
    units = unit_count(tensor)
    return tensor.read(units // 2, min(SAMPLE, units - units // 2))


def _prove(tensor: Input, source: Input) -> bytes | None:
    """The tensor's identity, if it is the cast of `source`, bit for bit."""
    hasher, units, step = new_identity(), unit_count(tensor), CHUNK_BYTES // 8
    for start in range(0, units, step):
        count = min(step, units - start)
        have = tensor.read(start, count)
        if not _is_cast(have, tensor.dtype, source.read(start, count), source.dtype):
            return None
        hasher.update(bytes_of(have))
    return bytes(hasher.digest())


def _is_cast(units: npt.NDArray[Any], dtype: DType, source: npt.NDArray[Any], source_dtype: DType) -> bool:
    done = 0
    if (dtype.name, source_dtype.name) == ("BF16", "F32") and units.size >= LANES:
        body = units.size // LANES * LANES
        status = kernels.compare_rounded(source[:body], units[:body])
        if status == kernels.DIFFERENT:
            return False
        done = body if status == OK else 0  # NaNs are left to `cast_units`
        if done == units.size:
            return True
    return np.array_equal(units[done:], cast_units(source[done:], source_dtype, dtype))
