"""Files written in large pieces: the same bytes, cut at multiples of the piece."""

import numpy as np
import pytest

from slimtensors.container.pieces import PIECE, ROOM, PieceOutput

SIZES = {
    "small": (0, 5000),
    "chunks": (100_000, 1 << 20),
    "larger than the room": (ROOM - PIECE - 10, ROOM + 3 * PIECE),
    "any": (0, ROOM + PIECE),
}


class Kept:
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.data, self.ends = bytearray(), list[int]()

    def write(self, data: bytes | memoryview) -> None:
        assert len(data)
        self.data += data
        self.ends.append(len(self.data))

    def write_at_start(self, data: bytes) -> None:
        self.data[: len(data)] = data


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_the_output_gets_what_was_written(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    kept, expected, large = Kept(), bytearray(), set[int]()
    output = PieceOutput(kept)
    for size in random.integers(*SIZES[kind], 40).tolist():
        made = random.bytes(size)
        if random.random() < 0.5:  # in its place, which is asked for larger than it turns out
            room = output.take(size + int(random.integers(0, 1000)))
            room[:size] = np.frombuffer(made, np.uint8)
            output.write(room[:size].data)
        else:
            output.write(made)
        if size > ROOM - PIECE:
            large |= {len(expected), len(expected) + size}
        expected += made
    assert len(expected) - len(kept.data) < PIECE
    first = random.bytes(100)
    output.write_at_start(first[: len(expected)])
    expected[:100] = first[: len(expected)]
    assert kept.data == expected
    assert all(end % PIECE == 0 or end in large for end in kept.ends[:-1])


def test_chunks_are_made_in_their_place() -> None:
    output = PieceOutput(Kept())
    first = output.take(1000)
    output.write(first[:600].data)
    second = output.take(1000)
    assert second.ctypes.data == first.ctypes.data + 600
