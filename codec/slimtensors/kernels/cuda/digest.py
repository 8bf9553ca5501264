"""XXH3-64 of pieces of 16 KiB of decoded bytes, a piece a warp: kernels/cpu/xxh3.py, whose words these are.

A lane has one of the eight words of the state, as three others have: each looks after a quarter of a block's stripes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import ALL
from slimtensors.kernels.cuda.seam import Device

BLOCKS, BLOCK_WORDS, LANES = 16, 128, 32
LOW = 0xFFFFFFFF
PRIME32_1, AVALANCHE = 0x9E3779B1, 0x165667919E3779F9
LENGTH_TERM = 8 * rows.PIECE_WORDS * 0x9E3779B185EBCA87 % (1 << 64)
# Rows of what lanes are combined with (ROWS of kernels/cpu/xxh3.py): four for a block's quarters, then these.
LAST, SCRAMBLE, MERGE, START = 4, 5, 6, 7


def make_folded_product(types: Any, device: Device) -> Any:
    """folded_product(a, b): the two halves of a * b, 128 bits, exclusive-ored."""
    u64 = types.uint64

    @device
    def folded_product(a: int, b: int) -> Any:
        a_low, a_high, b_low, b_high = u64(a & u64(LOW)), u64(a >> u64(32)), u64(b & u64(LOW)), u64(b >> u64(32))
        low, cross = u64(a_low * b_low), u64(a_high * b_low)
        middle = u64(u64(low >> u64(32)) + u64(cross & u64(LOW)) + u64(a_low * b_high))
        high = u64(u64(cross >> u64(32)) + u64(middle >> u64(32)) + u64(a_high * b_high))
        return u64(u64(a * b) ^ high)

    return folded_product


def make_digest(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel; a thread block works on one item.

    data     uint64[...]  decoded bytes
    items    uint32[...]  as rows.py says
    secrets  uint64[256]  ROWS
    digests  uint64[...]  filled
    """
    u32, u64, i64 = types.uint32, types.uint64, types.int64
    folded_product, begin = make_folded_product(types, device), make_begin(types, device)

    @device
    def exchange(value: int, distance: int) -> Any:
        """What the lane at this distance has."""
        return u64(cuda.shfl_xor_sync(ALL, i64(value), distance))

    @device
    def finished(state: int, secret: int) -> Any:
        keyed = u64(state ^ secret)
        value = folded_product(keyed, exchange(keyed, 1))  # the same in both lanes of a pair
        value = u64(value + exchange(value, 2))
        value = u64(u64(value + exchange(value, 4)) + u64(LENGTH_TERM))
        value = u64(u64(value ^ u64(value >> u64(37))) * u64(AVALANCHE))
        return u64(value ^ u64(value >> u64(32)))

    def digest(data: Any, items: Any, secrets: Any, digests: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.DIGEST_ITEM))
        thread = u32(cuda.threadIdx.x)
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        if warp < items[u32(item + u32(rows.DATA_PIECES))]:
            words = data[begin(items, item) :]
            at = u32(u32(warp * u32(rows.PIECE_WORDS)) + lane)
            state, scramble = secrets[u32(lane + u32(LANES * START))], secrets[u32(lane + u32(LANES * SCRAMBLE))]
            for block in range(BLOCKS):
                products, sums = u64(0), u64(0)
                for quarter in range(4):
                    is_last = block == BLOCKS - 1 and quarter == 3
                    row = u32(LANES * LAST) if is_last else u32(LANES * quarter)
                    word = u64(words[u32(at + u32(LANES * quarter))])
                    keyed = u64(word ^ secrets[u32(lane + row)])
                    products = u64(products + u64(u64(keyed & u64(LOW)) * u64(keyed >> u64(32))))
                    sums = u64(sums + word)
                added = u64(products + exchange(sums, 1))
                added = u64(added + exchange(added, 8))
                state = u64(state + u64(added + exchange(added, 16)))
                if block < BLOCKS - 1:
                    state = u64(u64(state ^ u64(state >> u64(47)) ^ scramble) * u64(PRIME32_1))
                at = u32(at + u32(BLOCK_WORDS))
            value = finished(state, secrets[u32(lane + u32(LANES * MERGE))])
            if lane == u32(0):
                digests[u32(items[u32(item + u32(rows.RESULT))] + warp)] = value

    return digest
