"""rANS encoding of signs with contexts, whose frequencies are found in registers; states in halves of 16 bits, two
blocks at a time. The same words and states as context_coding.py's.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import GROUP, LANES, STEPS, are_blocks, first_step
from slimtensors.kernels.cpu.table import SLOTS
from slimtensors.kernels.simd.division import code_halves
from slimtensors.kernels.simd.lanes import Lanes, count, pair, select, to_u16
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.simd.permute import permute
from slimtensors.kernels.simd.streams import give
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]
State = tuple[Lanes, Lanes, int]  # the high halves, the low halves, index of the last word written


@inlined
def step(zeros: Lanes, joined: Array, t: int, words: Array, state: State) -> State:
    """Write one sign to each lane."""
    high, low, end = state
    sign = to_u16(load(joined, t * LANES))
    of_zero = permute(zeros, sign >> 1)
    one = sign & 1 != 0
    frequency, start = select(one, SLOTS - of_zero, of_zero), select(one, of_zero, of_zero & 0)
    # while x >= frequency[s] * 2^20:  write the low word, x = floor(x / 2^16); once is enough
    full = high >= frequency << 4
    give(words, end, full, low)
    low = select(full, high, low)
    high = select(full, high & 0, high)
    high, low = code_halves(high, low, frequency, start)
    return high, low, end - count(full)


@kernel
def encode_signs(joined: Array, zeros: Array, words: Array, states: Array, counts: Array) -> int:
    """Encode a plane of signs at precision 12.

    joined  uint8[n]     as mean.join_signs makes it; contexts are taken modulo 32
    zeros   uint16[32]   of each context, the frequency of 0 in 4096: 1 to 4095
    words, states, counts  as for encode.encode_symbols
    """
    blocks = counts.size
    if not are_blocks(joined.size, blocks) or states.size != blocks * LANES or words.size != joined.size:
        return BAD_ARGUMENT
    if zeros.size != LANES:
        return BAD_ARGUMENT
    of_zero = load(zeros, 0)
    if count((of_zero == 0) | (of_zero >= SLOTS)) > 0:
        return BAD_ARGUMENT
    common = joined.size // GROUP // blocks * STEPS  # steps that every block has
    for block in range(0, blocks, 2):
        # Beyond the last block, it is encoded twice, to the same place.
        b0, b1 = block, min(block + 1, blocks - 1)
        t0, t1 = first_step(joined.size, blocks, b0), first_step(joined.size, blocks, b1)
        end0, end1 = first_step(joined.size, blocks, b0 + 1), first_step(joined.size, blocks, b1 + 1)
        s0 = (of_zero & 0) + 1, of_zero & 0, end0 * LANES
        s1 = (of_zero & 0) + 1, of_zero & 0, end1 * LANES
        for t in range(end0 - 1, t0 + common - 1, -1):
            s0 = step(of_zero, joined, t, words, s0)
        for t in range(end1 - 1, t1 + common - 1, -1):
            s1 = step(of_zero, joined, t, words, s1)
        for t in range(common - 1, -1, -1):
            s0 = step(of_zero, joined, t0 + t, words, s0)
            s1 = step(of_zero, joined, t1 + t, words, s1)
        store(states, b0 * LANES, pair(s0[0], s0[1]))
        store(states, b1 * LANES, pair(s1[0], s1[1]))
        counts[b0], counts[b1] = end0 * LANES - s0[2], end1 * LANES - s1[2]
    return OK
