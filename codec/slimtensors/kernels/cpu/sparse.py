"""Elements that are zero left out, and put back.

    bits    uint32[n / 32]   bit k of bits[i] says whether element 32 * i + k has a value
    values  uint8, 16, 32 or 64 [m + 32]   the elements that have, in order; the last 32 are there to be read or
            written, and mean nothing
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import count
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.sparse import mask_of, spread, squeeze, store_mask
from slimtensors.kernels.status import BAD_ARGUMENT, BAD_STREAM, OK

Array = npt.NDArray[Any]


@kernel
def count_bits(bits: Array) -> int:
    """How many bits are set in uint32[...]."""
    total = 0
    for at in range(bits.size):
        total += count(mask_of(bits, at))
    return total


@kernel
def count_each(bits: Array, words: int, counts: Array) -> int:
    """counts[i] = how many bits are set in the i-th so many words; counts uint32[ceil(n / words)]."""
    if words < 1 or counts.size != (bits.size + words - 1) // words:
        return BAD_ARGUMENT
    for i in range(counts.size):
        total = 0
        for at in range(words * i, min(words * (i + 1), bits.size)):
            total += count(mask_of(bits, at))
        counts[i] = np.uint32(total)
    return OK


@kernel
def spread_values(bits: Array, values: Array, out: Array) -> int:
    """out[i] = the next of the values where the bit is set, else 0. out uint8, 16, 32 or 64 [n], n a multiple of 32.

    BAD_STREAM if the bits ask for another number of values than m.
    """
    last = values.size - LANES
    if out.size != bits.size * LANES or last < 0:
        return BAD_ARGUMENT
    at = 0
    for i in range(bits.size):
        mask = mask_of(bits, i)
        # Bits that ask for more values than there are get the last ones again.
        store(out, LANES * i, spread(values, min(at, last), mask))
        at += count(mask)
    return OK if at == last else BAD_STREAM


@kernel
def squeeze_values(src: Array, bits: Array, values: Array) -> int:
    """The inverse, where all elements but zeros have values; returns m. src as out; values as many as src and 32 more.

    -1 if the lengths disagree.
    """
    if src.size != bits.size * LANES or values.size < src.size + LANES:
        return -1
    at = 0
    for i in range(bits.size):
        lanes = load(src, LANES * i)
        mask = lanes != 0
        store_mask(bits, i, mask)
        # at <= 32 * i, and values go on for 32 after the last of src
        squeeze(values, at, mask, lanes)
        at += count(mask)
    return at
