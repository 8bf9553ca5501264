"""XXH3-64 (seed 0, default secret) of pieces of 16 KiB: what chunks of decoded bytes are checked by (container.md, 7).

The xxhash library hashes as fast, but keeps other threads out of Python for so short a piece, and a chunk has 64.

XXH3 takes 1024 bytes at a time as 16 stripes of 8 words. Stripes only add to the state, so 32 lanes take four at once;
between blocks the state is scrambled. Four pieces have 32 words of state: one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.simd.lanes import Lanes, LanesType
from slimtensors.kernels.simd.lowering import LANES, Use, lowered, pick, typed
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

PIECE_WORDS = 2048  # of 64 bits
BLOCK_WORDS = 128
STATE_WORDS = 8
AT_ONCE = LANES // STATE_WORDS  # pieces
STAGING = AT_ONCE * LANES  # uint64 of work space

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248e"
    "e03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a"
    "51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8f"
    "f8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
AVALANCHE = 0x165667919E3779F9
LENGTH_TERM = 8 * PIECE_WORDS * PRIME64_1 % (1 << 64)
LOW = 0xFFFFFFFF


def _secret(offset: int) -> Array:
    return np.frombuffer(_SECRET, "<u8", STATE_WORDS, offset)


def _rows() -> Array:
    """What lanes are combined with, 32 words a row."""
    rows = [np.concatenate([_secret(8 * stripe) for stripe in range(s, s + 4)]) for s in (0, 4, 8, 12)]
    last = np.concatenate([rows[3][: 3 * STATE_WORDS], _secret(121)])  # a piece's last stripe has a secret of its own
    start = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1]
    states = [np.tile(np.array(each, np.uint64), AT_ONCE) for each in (_secret(128), _secret(11), start)]
    return np.concatenate([*rows, last, *states]).astype(np.uint64)


ROWS = _rows()
LAST, SCRAMBLE, MERGE, START = (row * LANES for row in (4, 5, 6, 7))  # where these rows begin


# ---- lanes that change places


def _exchange(distance: int) -> Callable[[Lanes], Lanes]:
    """An operation: lane i gets what is in lane i ^ distance."""
    places = [lane ^ distance for lane in range(LANES)]

    def exchanged(lanes: Lanes) -> Lanes:
        found: Lanes = lanes[places]
        return found

    def lower(use: Use) -> ir.Value:
        return pick(use.builder, use.arguments[0], use.arguments[0], places)

    typed(exchanged, lambda lanes: lanes if isinstance(lanes, LanesType) else None)
    lowered(exchanged, LanesType)(lower)
    return exchanged


neighbours, pairs, fours = _exchange(1), _exchange(2), _exchange(4)


def eights(a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> Lanes:
    """Each vector's four runs of eight lanes added up; the sums side by side."""
    return np.concatenate([each.reshape(4, 8).sum(axis=0, dtype=each.dtype) for each in (a, b, c, d)])


typed(eights, lambda a, b, c, d: a if isinstance(a, LanesType) and a == b == c == d else None)


@lowered(eights, LanesType, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    def summed(lanes: ir.Value) -> ir.Value:
        runs = [pick(use.builder, lanes, lanes, range(at, at + 8)) for at in range(0, LANES, 8)]
        return use.builder.add(use.builder.add(runs[0], runs[1]), use.builder.add(runs[2], runs[3]))

    a, b, c, d = [summed(lanes) for lanes in use.arguments]
    low, high = (pick(use.builder, x, y, range(16)) for x, y in ((a, b), (c, d)))
    return pick(use.builder, low, high, range(32))


# ---- the hash


@inlined
def block_sum(words: Array, at: int, last: bool) -> Lanes:
    """What the 16 stripes of a block add to the state; each run of eight lanes has a quarter of them."""
    zero = load(words, at) & 0
    products, sums = zero, zero
    for quarter in range(4):
        data = load(words, at + LANES * quarter)
        row = LAST if last and quarter == 3 else LANES * quarter
        keyed = data ^ load(ROWS, row)
        products = products + (keyed & LOW) * (keyed >> 32)
        sums = sums + data
    found: Lanes = products + neighbours(sums)
    return found


@inlined
def folded_product(a: Lanes, b: Lanes) -> Lanes:
    """The two halves of a * b, 128 bits, exclusive-ored."""
    a_low, a_high, b_low, b_high = a & LOW, a >> 32, b & LOW, b >> 32
    low, cross = a_low * b_low, a_high * b_low
    middle = (low >> 32) + (cross & LOW) + a_low * b_high
    folded: Lanes = a * b ^ (cross >> 32) + (middle >> 32) + a_high * b_high
    return folded


@inlined
def merged(state: Lanes) -> Lanes:
    """The hash, in each of a piece's eight lanes."""
    keyed = state ^ load(ROWS, MERGE)
    hash_ = folded_product(keyed, neighbours(keyed))  # the same in both lanes of a pair
    hash_ = hash_ + pairs(hash_)
    hash_ = hash_ + fours(hash_) + LENGTH_TERM
    hash_ = (hash_ ^ hash_ >> 37) * AVALANCHE
    found: Lanes = hash_ ^ hash_ >> 32
    return found


@kernel
def hash_pieces(words: Array, staging: Array, digests: Array) -> int:
    """The XXH3-64 of each 16 KiB.

    words    uint64[2048 n]
    staging  uint64[STAGING]  work space
    digests  uint64[n]        filled

    Returns OK or BAD_ARGUMENT.
    """
    pieces = digests.size
    if words.size != PIECE_WORDS * pieces or staging.size != STAGING:
        return BAD_ARGUMENT
    for first in range(0, pieces, AT_ONCE):
        state = load(ROWS, START)
        for block in range(0, PIECE_WORDS, BLOCK_WORDS):
            last = block == PIECE_WORDS - BLOCK_WORDS
            for i in range(AT_ONCE):
                piece = min(first + i, pieces - 1)  # what is left over is hashed more than once
                store(staging, LANES * i, block_sum(words, PIECE_WORDS * piece + block, last))
            state = state + eights(load(staging, 0), load(staging, 32), load(staging, 64), load(staging, 96))
            if not last:
                state = (state ^ state >> 47 ^ load(ROWS, SCRAMBLE)) * PRIME32_1
        store(staging, 0, merged(state))
        for i in range(min(AT_ONCE, pieces - first)):
            digests[first + i] = staging[STATE_WORDS * i]
    return OK
