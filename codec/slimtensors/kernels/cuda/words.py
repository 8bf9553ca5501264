"""The words that a warp's lanes take, in the order of lanes: read ahead into registers, handed over by shuffles.

Which word a lane takes is known when the lanes below it have been asked, too late to load it without waiting. So each
lane holds a pair of words of the window that the block is in, one of the next window, and one of the window after
that, which is on its way; a window is 64 words, of which a step takes 32 at most.
"""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda.rows import ALL, STATE_MIN
from slimtensors.kernels.cuda.seam import Device

WINDOW = 64
PAIRS = WINDOW // 2


def make_words(cuda: Any, types: Any, device: Device) -> tuple[Any, Any, Any, Any]:
    """(begin, refill, advance, at).

    begin(segment32, at, limit, lane): the stream of words from `at` on. The pairs behind `limit` are not read, but
    stand for that one: a damaged stream may ask for more words than there are.
    refill(lane, x, stream): (states, stream), each state of less than 16 bits with a word below it
    advance(segment32, limit, stream): the stream; after each second refill
    at(lane, stream): the next word's index
    """
    u32, i32 = types.uint32, types.int32

    @device
    def begin(segment32: Any, at: int, limit: int, lane: int) -> Any:
        first = u32(u32(at >> u32(1)) + lane)
        near = u32(segment32[u32(min(first, limit))])
        far = u32(segment32[u32(min(u32(first + u32(PAIRS)), limit))])
        coming = u32(segment32[u32(min(u32(first + u32(2 * PAIRS)), limit))])
        return u32(first + u32(3 * PAIRS)), u32(at & u32(1)), near, far, coming

    @device
    def refill(lane: int, x: int, stream: Any) -> Any:
        following, within, near, far, coming = stream
        # if x < 2^16:  x = 2^16 * x + word
        hungry = x < u32(STATE_MIN)
        votes = u32(cuda.ballot_sync(ALL, hungry))
        index = u32(within + u32(cuda.popc(u32(votes & u32(u32(u32(1) << lane) - u32(1))))))
        # A lane is asked for its near pair, if a word of that is still to be taken, else for the far one.
        offered = near if u32(u32(lane << u32(1)) | u32(1)) >= within else far
        taken = u32(cuda.shfl_sync(ALL, i32(offered), i32(index >> u32(1))))
        # The lower or the upper half of the pair, and the lower half of x above it.
        halves = u32(u32(0x5410) + u32(u32(index & u32(1)) * u32(0x22)))
        x = u32(cuda.libdevice.byte_perm(i32(taken), i32(x), i32(halves))) if hungry else x
        return x, (following, u32(within + u32(cuda.popc(votes))), near, far, coming)

    @device
    def advance(segment32: Any, limit: int, stream: Any) -> Any:
        following, within, near, far, coming = stream
        if within >= u32(WINDOW):
            within, near, far = u32(within - u32(WINDOW)), far, coming
            coming, following = u32(segment32[u32(min(following, limit))]), u32(following + u32(PAIRS))
        return following, within, near, far, coming

    @device
    def at(lane: int, stream: Any) -> Any:
        return u32(u32(u32(stream[0] - lane - u32(3 * PAIRS)) << u32(1)) + stream[1])

    return begin, refill, advance, at
