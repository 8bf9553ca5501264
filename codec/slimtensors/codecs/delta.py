"""A chunk as its differences from a base, which may be moved first (format_spec/expressions.md, section 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs import head
from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import work_space
from slimtensors.digests import decoded_digest
from slimtensors.dtypes import DTYPES, bytes_of
from slimtensors.errors import BaseError
from slimtensors.expression import LowRank
from slimtensors.kernels.cpu import delta as kernels
from slimtensors.kernels.cpu.low_rank import WIDE, move_base
from slimtensors.kernels.status import must

__all__ = ["add_base", "base_digest", "base_units", "check_base", "differences", "moved_units"]

F16_EXPONENT = 0x7C00

Units = npt.NDArray[Any]


def base_digest(place: Place) -> int:
    """What a chunk states of the base that it needs."""
    return decoded_digest(bytes_of(base_units(place)))


def check_base(place: Place, stated: int) -> None:
    """Raises BaseError unless the base is what the differences were taken from."""
    found = base_digest(place)
    if found != stated:
        raise BaseError(
            f"the base has digest {found:016x} here, the file was made with {stated:016x}: "
            "it is another base, or was changed; give the one that the file names"
        )


def differences(body: Units, place: Place, moved: LowRank | None) -> Units:
    """What the planes hold. Valid until this thread asks for the next chunk's."""
    out = work_space("differences", body.size, body.dtype)
    status = kernels.differences(body, _start(body.size, place, moved), _floats(place), out)
    must(status)
    return out


def add_base(body: Units, place: Place, moved: LowRank | None) -> None:
    """The inverse, in place."""
    status = kernels.add_base(body, _start(body.size, place, moved), _floats(place))
    must(status)


def _floats(place: Place) -> bool:
    return place.dtype is not None and place.dtype.is_float


def base_units(place: Place) -> Units:
    """The base's units in the chunk's range, one after another."""
    assert place.base is not None
    return place.base if place.base.flags.c_contiguous else np.ascontiguousarray(place.base)


def _start(count: int, place: Place, moved: LowRank | None) -> Units:
    """The units that differences are from: the base's, moved if they are to be. Valid as `differences` says."""
    base = base_units(place)[:count]
    return base if moved is None else moved_units(base, moved, place)


def moved_units(base: Units, moved: LowRank, place: Place, out: Units | None = None) -> Units:
    """Base units, moved by a product: in `out`, or valid as `differences` says. out: not of F16, as the base is; or of
    BF16, of a base of F32 without NaNs.
    """
    left, right = (place.sides[side].view(f"<i{place.sides[side].itemsize}") for side in (moved.left, moved.right))
    sums = work_space("sums", WIDE, np.int32 if left.itemsize == 2 else np.int64)
    work = work_space("numbers", WIDE, np.uint32)
    scale, (rank, columns) = np.float32(2.0**-moved.shift), right.shape
    pairs = work_space("pairs", -(-rank // 2) * (head.up(columns, head.LANES) + head.LANES), np.uint32)
    half = place.dtype is not None and place.dtype.name == "F16"
    wide = cast_units(base, DTYPES["F16"], DTYPES["F32"]) if half else base
    if out is None:
        out = work_space("moved", base.size, wide.dtype)
    with np.errstate(all="ignore"):  # sums that wrap, NaNs in the base: compiled kernels are silent
        status = move_base(
            wide, left.reshape(-1), right.reshape(-1), columns, place.first, scale, pairs, sums, work, out
        )
    must(status)
    if not half:
        return out
    found = cast_units(out, DTYPES["F32"], DTYPES["F16"])
    return np.where((base & F16_EXPONENT) == F16_EXPONENT, base, found)
