"""A chunk as its differences from a base (format_spec/expressions.md, section 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.place import Place
from slimtensors.codecs.workspace import work_space
from slimtensors.digests import decoded_digest
from slimtensors.dtypes import bytes_of
from slimtensors.errors import BaseError
from slimtensors.kernels.cpu import delta as kernels
from slimtensors.kernels.status import OK

__all__ = ["add_base", "base_digest", "check_base", "differences"]

Units = npt.NDArray[Any]


def base_digest(place: Place) -> int:
    """What a chunk states of the base that it needs."""
    return decoded_digest(bytes_of(_base(place)))


def check_base(place: Place, stated: int) -> None:
    """Raises BaseError unless the base is what the differences were taken from."""
    found = base_digest(place)
    if found != stated:
        raise BaseError(
            f"the base has digest {found:016x} here, the file was made with {stated:016x}: "
            "it is another base, or was changed; give the one that the file names"
        )


def differences(body: Units, place: Place) -> Units:
    """What the planes hold. Valid until this thread asks for the next chunk's."""
    out = work_space("differences", body.size, body.dtype)
    status = kernels.differences(body, _base(place)[: body.size], _floats(place), out)
    assert status == OK
    return out


def add_base(body: Units, place: Place) -> None:
    """The inverse, in place."""
    status = kernels.add_base(body, _base(place)[: body.size], _floats(place))
    assert status == OK


def _floats(place: Place) -> bool:
    return place.dtype is not None and place.dtype.is_float


def _base(place: Place) -> Units:
    assert place.base is not None
    return place.base if place.base.flags.c_contiguous else np.ascontiguousarray(place.base)
