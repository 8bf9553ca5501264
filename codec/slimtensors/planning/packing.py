"""Whether small tensors, which share a chunk, are better stored as differences from their bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.chunk import encode_chunk
from slimtensors.dtypes import DType
from slimtensors.expression import Bits
from slimtensors.limits import BASE_BYTES, PACK_BYTES, PACK_TENSOR_BYTES
from slimtensors.planning.differing import WORTH, MatchedBase, best_planes
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["PackedBases", "packed_bases", "plan_pack", "without_strangers"]

Units = npt.NDArray[Any]
Matched = Sequence[MatchedBase | None]


@dataclass(frozen=True)
class PackedBases:
    """The bases of a pack's tensors, and how many units each of these has."""

    members: tuple[tuple[MatchedBase, int], ...]

    def units(self, dtype: DType, start: int, count: int) -> Units:
        """Of all tensors, one after another."""
        return np.concatenate([each.units(dtype, 0, held) for each, held in self.members])[start : start + count]


def packed_bases(inputs: Sequence[Input], indices: Sequence[int], matched: Matched) -> PackedBases | None:
    """Those of these tensors, if all have one."""
    found = [(matched[i], unit_count(inputs[i])) for i in indices]
    members = tuple((base, units) for base, units in found if base is not None)
    return PackedBases(members) if len(members) == len(indices) else None


def plan_pack(inputs: Sequence[Input], indices: Sequence[int], bases: PackedBases, plain: Bits) -> Bits | None:
    """The planes of their differences, or None where storing them plainly takes less."""
    dtype = inputs[indices[0]].dtype
    units = np.concatenate([inputs[i].read(0, unit_count(inputs[i])) for i in indices])
    bits, size = best_planes(units, bases.units(dtype, 0, units.size), dtype)
    named = BASE_BYTES * len({base.base.identity for base, _ in bases.members})
    return bits if size + named <= WORTH * len(encode_chunk(units, plain)) else None


def without_strangers(inputs: Sequence[Input], matched: Matched, plain: Callable[[DType], Bits]) -> Matched:
    """The bases, without those of small tensors of a dtype where they do not help, as far as the first show.

    Tensors with bases and tensors without share no chunk, so that it matters before the first is put into one.
    """
    small: dict[DType, list[int]] = {}
    for i, (tensor, base) in enumerate(zip(inputs, matched, strict=True)):
        if base is not None and unit_count(tensor) * tensor.dtype.unit_bytes < PACK_TENSOR_BYTES:
            small.setdefault(tensor.dtype, []).append(i)
    kept = list(matched)
    for dtype, indices in small.items():
        sizes = np.cumsum([unit_count(inputs[i]) * dtype.unit_bytes for i in indices])
        tried = indices[: max(1, int(np.count_nonzero(sizes <= PACK_BYTES)))]
        bases = packed_bases(inputs, tried, matched)
        if bases is None or plan_pack(inputs, tried, bases, plain(dtype)) is None:
            for i in indices:
                kept[i] = None
    return kept
