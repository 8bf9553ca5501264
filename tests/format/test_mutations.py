"""Mutated files, before both readers; and damage without repair, which the library must always notice."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

import decode
import slimtensors
import slimtensors.numpy
from decode import BYPASS, CODED, CONSTANT, RAW, ZSTD
from encode import Plane
from format import mutate
from format.mutate import Tally, bases, run
from format.sides import known_bases
from parts import Parts
from slimtensors.errors import FormatError
from writer import BYTES, Place, Source, Writer, affine, literal, planes

MUTATIONS = 20_000
PROCESSES = 2


def test_bases() -> None:
    assert len(bases()) >= 50
    for data in bases():
        decode.decode_file(data, bases=known_bases().get)
        assert Parts.split(data).join() == data


@pytest.mark.parametrize(
    ("names", "mutations"), [("mean*", 150), ("sum_*", 50), ("trellis_classes*", 40), ("record_[ls]*", 150)]
)
def test_mutations_of_larger_files(names: str, mutations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are too large for the others' bases."""
    chosen = [path.read_bytes() for path in sorted(mutate.VALID.glob(f"{names}.slimtensors"))]
    monkeypatch.setattr(mutate, "bases", lambda: chosen)
    tally = run(range(mutations))
    assert not tally.faults
    assert tally.accepted > mutations // 10
    assert len(tally.refused) > mutations // 5


def test_mutations() -> None:
    """To try one alone: python tests/format/mutate.py SEED"""
    share = 500
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        tallies = list(pool.map(run, (range(at, at + share) for at in range(0, MUTATIONS, share))))
    assert not [fault for tally in tallies for fault in tally.faults]
    # That they reach far: a good part is accepted, and every corner refuses something.
    assert sum(tally.accepted for tally in tallies) > MUTATIONS // 5
    reasons = {reason for tally in tallies for reason in tally.refused}
    assert len(reasons) > 250
    assert reasons >= {
        "a block has too few words",
        "a block has words left",
        "a final state is not 2^16",
        "a state below 2^16",
        "a symbol's field does not fit the plane",
        "an escape's element is not symbol 0",
        "bytes after the chunk's last are not zero",
        "decoded length of a chunk",
        "digest of the decoded bytes",
        "digest of the stored bytes",
        "escape positions do not rise, or leave the body",
        "file id",
        "header: not canonical",
        "padding inside a plane is not zero",
        "ref: another dtype or shape",
        "table: the sum is not 2^P",
        "unused bits set",
    }


def test_runs_are_repeatable() -> None:
    first, again = run(range(40)), run(range(40))
    assert isinstance(first, Tally)
    assert (first.accepted, first.refused) == (again.accepted, again.refused)
    assert first.accepted
    assert first.refused


# -- damage without repair -------------------------------------------------------------------------------------------

NUMBERS = [(i * i) >> 5 & 15 for i in range(160)]


def small(code: Callable[[Place], bytes], values: list[int] = NUMBERS, width: int = 8, *more: int) -> bytes:
    """A file as small as its mode allows: 160 units, one plane of interest."""
    writer = Writer()
    expression = {"bits": [{"plane": w} for w in (width, *more)], "rotate": 0}
    data = b"".join(v.to_bytes(4, "little") for v in values)
    writer.tensor("w", Source("U32", (len(values),), data, expression, code))
    return writer.parts().join()


def small_scatter() -> bytes:
    rows = bytes([1, 0, 1, 0, 1])
    data = bytes(v if rows[i // 32] else 0 for i, v in enumerate(NUMBERS))
    expression = {"bits": [{"scatter": [0, {"plane": 4}]}], "rotate": 0}
    side = Source("U8", (5,), rows, BYTES)
    writer = Writer()
    writer.tensor("w", Source("U8", (160,), data, expression, planes(Plane(RAW)), None, [side]))
    return writer.parts().join()


def small_mask() -> bytes:
    data = bytes(v if i % 3 == 0 else 0 for i, v in enumerate(NUMBERS * 2))
    expression = {"scatter": [{"plane": 1}, {"bits": [{"plane": 4}], "rotate": 0}]}
    writer = Writer()
    writer.tensor("w", Source("U8", (320,), data, expression, planes(Plane(RAW), Plane(RAW))))
    return writer.parts().join()


def small_pack_and_tie() -> bytes:
    writer = Writer({"k": "v"})
    pack = writer.pack("U8", BYTES)
    writer.ref("b", writer.pack_member("a", pack, (3,), b"abc"))
    writer.pack_member("c", pack, (2,), b"de")
    writer.empty("d", "U8", (0,))
    return writer.parts().join()


def small_image() -> bytes:
    writer = Writer()
    writer.tensor("a", Source("U8", (3,), b"abc", BYTES))
    writer.image([writer.front([(0, 1)]), (0, 1), b"end"], BYTES, literal)
    return writer.parts().join()


SMALL: dict[str, Callable[[], bytes]] = {
    "literal": lambda: small(literal, NUMBERS[:20]),
    "affine": lambda: small(affine(5, 7), [5 + 7 * i for i in range(50)]),
    "constant": lambda: small(planes(Plane(CONSTANT)), [9] * 130),
    "raw": lambda: small(planes(Plane(RAW)), NUMBERS, 5),
    "coded": lambda: small(planes(Plane(CODED, 11))),
    "escapes": lambda: small(planes(Plane(CODED)), [*NUMBERS[:9], 999, *NUMBERS[9:]], 16),
    "zstd": lambda: small(planes(Plane(ZSTD))),
    "bypass": lambda: small(planes(Plane(BYPASS)), [v * 37 for v in NUMBERS], 12),
    "scatter": small_scatter,
    "mask": small_mask,
    "pack and tie": small_pack_and_tie,
    "image": small_image,
}
each_mode = pytest.mark.parametrize("name", SMALL)


def refuse(data: bytes, what: object, *, load: bool) -> None:
    """`load` does not read the image, so only `verify` can tell what is wrong with that."""
    try:
        if load:
            slimtensors.numpy.load(data, threads=1)
        else:
            slimtensors.verify(data, threads=1)
    except FormatError:
        return
    pytest.fail(f"not noticed: {what}")


@each_mode
def test_every_bit(name: str) -> None:
    data = SMALL[name]()
    slimtensors.verify(data, threads=1)
    for i in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        refuse(bytes(damaged), f"bit {i}", load=name != "image")


@each_mode
def test_every_length(name: str) -> None:
    data = SMALL[name]()
    for length in range(len(data)):
        refuse(data[:length], f"length {length}", load=True)
    for more in range(1, 130):
        refuse(data + bytes(more), f"{more} more", load=True)


@each_mode
def test_without_digests(name: str) -> None:
    """Digests asked off: damage may be read as other numbers, but nothing else than a FormatError may come of it."""
    parts = Parts.split(SMALL[name]())
    rng = random.Random(name)
    for _ in range(400):
        chunk = rng.choice(parts.chunks())
        sound = chunk.stored
        at = rng.randrange(len(sound))
        chunk.stored = sound[:at] + bytes([sound[at] ^ 1 << rng.randrange(8)]) + sound[at + 1 :]
        with contextlib.suppress(FormatError):
            slimtensors.numpy.load(parts.join(), threads=1, verify="none")
        with contextlib.suppress(FormatError):
            slimtensors.numpy.load(parts.join(), threads=1, verify="stored")
        chunk.stored = sound


def chunks_of_planes() -> Parts:
    writer = Writer()
    data = bytes(v + 16 * (i // 200) for i, v in enumerate(NUMBERS * 5))
    expression = {"bits": [{"plane": 4}, {"plane": 4}], "rotate": 0}
    code = planes(Plane(RAW), Plane(CONSTANT))
    writer.tensor("w", Source("U8", (800,), data, expression, code, 200))
    return writer.parts()


def test_exchanged_chunks() -> None:
    """Of chunks exchanged with their records, all digests but the tensor's identity are right."""
    for a in range(4):
        for b in range(a):
            parts = chunks_of_planes()
            chunks = parts.streams[0].chunks
            chunks[a], chunks[b] = chunks[b], chunks[a]
            refuse(parts.join(), (a, b), load=False)
            parts = chunks_of_planes()
            first, second = parts.streams[0].chunks[a], parts.streams[0].chunks[b]
            first.stored_digest, second.stored_digest = decode.digest(first.stored), decode.digest(second.stored)
            first.stored, second.stored = second.stored, first.stored
            refuse(parts.join(), (a, b), load=True)
