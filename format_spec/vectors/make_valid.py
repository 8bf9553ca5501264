"""The valid vectors: small files that show one thing each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from struct import pack

import casts
from casts import value
from decode import BYPASS, CODED, CONSTANT, RAW, ZSTD, Stream, errors, lookup_units
from encode import (
    Plane,
    PlanesChunk,
    affine_chunk,
    encode_plane,
    literal_chunk,
    mask_and_values,
    raw_payload,
    to_units,
)
from expressions import DTYPES, Mean, mean_sum, parse_expression
from lookup import lookup
from parts import Parts
from writer import BYTES, BaseTensor, Coding, Place, Scale, Source, Writer, affine, front, literal, planes

VALID: dict[str, tuple[str, Callable[[], Parts]]] = {}


def valid(what: str) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    def register(make: Callable[[], Parts]) -> Callable[[], Parts]:
        VALID[make.__name__] = (what, make)
        return make

    return register


# -- material --------------------------------------------------------------------------------------------------------


def noise(count: int, seed: int = 1) -> list[int]:
    """Numbers of 32 bits that every version of every language gives again: xorshift."""
    x = seed * 2654435761 % (1 << 32)
    out = []
    for _ in range(count):
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        out.append(x)
    return out


def skewed(count: int, most: int, seed: int = 1) -> list[int]:
    """Small numbers are likelier: from 0 to `most`."""
    return [min(most, (x & -x).bit_length() - 1 + (x >> 28) % 2) for x in (v | 1 << 31 for v in noise(count, seed))]


def little(values: Iterable[int], unit: int) -> bytes:
    return b"".join(v.to_bytes(unit, "little") for v in values)


def bits(*widths: int, rotate: int = 0) -> dict:
    return {"bits": [{"plane": w} for w in widths], "rotate": rotate}


def weights(count: int, seed: int = 1) -> bytes:
    """BF16 numbers that look like weights: random signs and mantissas, few exponents."""
    exponents = skewed(count, 9, seed)
    return little(
        ((x & 0x8000) | (123 - e) << 7 | x >> 20 & 0x7F for x, e in zip(noise(count, seed), exponents, strict=True)), 2
    )


def one(source: Source, name: str = "w") -> Parts:
    writer = Writer()
    writer.tensor(name, source)
    return writer.parts()


def plane8(values: list[int], plan: Plane, width: int = 8, chunk: int | None = None) -> Parts:
    return one(Source("U8", (len(values),), bytes(values), bits(width), planes(plan), chunk))


# A frame as the zstd library (level 19, with checksum) makes it of 128 bytes of 8 bits: kept here as bytes, since the
# same call gives others with another version.
COMPRESSED_PLAIN = b"slim" * 24 + b"tensors." * 4
COMPRESSED_FRAME = bytes.fromhex("28b52ffd2480ad000068736c696d74656e736f72732e7402006f7dd27489f0017bd2")


def raw_block_frame(plain: bytes) -> bytes:
    """A Zstandard frame by hand: single segment, content size in two bytes, one raw block."""
    assert 256 <= len(plain) < 65792
    return b"\x28\xb5\x2f\xfd\x60" + little([len(plain) - 256], 2) + little([len(plain) << 3 | 1], 3) + plain


def rle_frame(byte: int, count: int) -> bytes:
    assert 256 <= count < 65792
    return b"\x28\xb5\x2f\xfd\x60" + little([count - 256], 2) + little([count << 3 | 2 | 1], 3) + bytes([byte])


# -- the container ---------------------------------------------------------------------------------------------------


@valid("no tensors, no streams: prefix, header and padding alone")
def empty() -> Parts:
    return Writer().parts()


@valid(
    "metadata, keys sorted by code point (U+FFFF before U+10000), every kind of escape, U+007F and U+2028 as themselves"
)
def metadata() -> Parts:
    texts = {"": "", "\uffff": "a", "\U00010000": "b", 'quote"back\\slash/': "\b\t\n\f\r\0\x1f\x7f\u2028\u00e9"}
    return Writer(texts).parts()


@valid("every dtype, eight elements of each as a literal")
def dtypes() -> Parts:
    writer = Writer()
    for i, (name, (width, _)) in enumerate(DTYPES.items()):
        writer.tensor(name, Source(name, (2, 4), little([v % 256 for v in noise(width, i + 1)], 1), bits(8)))
    return writer.parts()


@valid("shapes: no dimension, one element, dimensions 0 (also beside 2^48), sixteen dimensions")
def shapes() -> Parts:
    writer = Writer()
    writer.tensor("scalar", Source("F32", (), b"\0\0\x80\x3f", bits(16, 16)))
    writer.tensor("one", Source("F32", (1,), b"\0\0\x80\x3f", bits(16, 16)))
    writer.empty("zero", "F32", (0,))
    writer.empty("zero in the middle", "F4", (3, 0, 5))
    writer.empty("zero beside much", "F64", (2**48, 0))
    writer.tensor("sixteen", Source("U8", (1,) * 13 + (2, 1, 3), b"abcdef", BYTES))
    return writer.parts()


@valid("names of 1 and 512 bytes, with characters outside ASCII and with JSON's own")
def names() -> Parts:
    writer = Writer()
    for i, name in enumerate(["a", "\u00e9" * 256, 'q"\\/', "\U0001f600", "__meta__", " "]):
        writer.tensor(name, Source("U8", (1,), bytes([i]), BYTES))
    return writer.parts()


@valid("a literal of three chunks, the last shorter")
def chunks_literal() -> Parts:
    return one(Source("U16", (250,), little(range(250), 2), bits(16), chunk=100))


@valid("a chunk size larger than the tensor")
def chunk_larger() -> Parts:
    parts = one(Source("U16", (10,), little(range(10), 2), bits(16)))
    parts.json["tensors"][0]["chunk"] = 4096
    parts.set_json()
    return parts


@valid("chunks with more zeros behind them than needed, as many as the limit on the stored length allows")
def appended_zeros() -> Parts:
    def longest(place: Place) -> bytes:
        return literal_chunk(place.data, place.unit).ljust(64 * (-(-len(place.data) // 64) + 2), b"\0")

    return one(Source("U8", (100,), bytes(range(100)), BYTES, longest, 50))


@valid("an affine chunk whose 131072 bytes need 128 stored ones by the 1024 rule")
def least_stored() -> Parts:
    return one(Source("U8", (131072,), bytes(131072), BYTES, affine(0, 0)))


@valid(
    "affine chunks: constants, ramps that wrap, steps backwards, units of 1, 2, 4 and 8 bytes, a ramp over two chunks"
)
def affine_chunks() -> Parts:
    writer = Writer()
    for dtype, start, step in [("U8", 7, 0), ("I16", 65530, 1), ("U32", 3, 2**32 - 1), ("U64", 2**64 - 9, 2**63 + 3)]:
        unit = DTYPES[dtype][1]
        data = little(((start + i * step) % (1 << 8 * unit) for i in range(300)), unit)
        writer.tensor(dtype, Source(dtype, (300,), data, bits(8), affine(start, step), 200))
    return writer.parts()


# -- planes ----------------------------------------------------------------------------------------------------------


@valid("the example of `coder.md`, section 2: a raw plane of 6 bits, symbol i = i mod 64")
def raw_example() -> Parts:
    return plane8([i % 64 for i in range(256)], Plane(RAW), 6)


@valid("raw planes of 1 to 8 bits, five groups (the last bytes of a piece of one bit are half used), and a tail of 3")
def raw_widths() -> Parts:
    writer = Writer()
    for w in range(1, 9):
        values = [v % (1 << w) for v in noise(5 * 128, w)] + [255, 0, 129]
        writer.tensor(f"w{w}", Source("U8", (643,), bytes(values), bits(w), planes(Plane(RAW))))
    return writer.parts()


@valid("the example of `expressions.md`, section 2: 1.0 and -1.5 in BF16, planes of 6 and 10 bits, rotated")
def bf16_example() -> Parts:
    data = bytes.fromhex("803fc0bf") * 128
    return one(Source("BF16", (256,), data, bits(6, 10, rotate=1), planes(Plane(RAW), Plane(CODED, base=0x1F0))))


@valid("BF16 as 8 + 8 bits, rotated; one group and no tail")
def bf16_8_8() -> Parts:
    return one(Source("BF16", (128, 4), weights(512), bits(8, 8, rotate=1), planes(Plane(RAW), Plane(CODED))))


@valid("F32 as four planes, with and without rotation")
def f32_rotations() -> Parts:
    writer = Writer()
    data = little((x >> 9 | 0x3E800000 | (x & 1) << 31 for x in noise(300)), 4)
    for r in (0, 1):
        writer.tensor(f"r{r}", Source("F32", (300,), data, bits(8, 8, 8, 8, rotate=r), planes(*[Plane(RAW)] * 4)))
    return writer.parts()


@valid("parts that end below the unit's highest bits, which are zero, with and without rotation")
def bits_above_zero() -> Parts:
    writer = Writer()
    values = [v % 4096 for v in noise(256)]
    writer.tensor("plain", Source("U16", (256,), little(values, 2), bits(5, 7), planes(Plane(RAW), Plane(RAW))))
    turned = little(((v >> 1) + (v % 2 << 15) for v in values), 2)
    writer.tensor("rotated", Source("U16", (256,), turned, bits(5, 7, rotate=1), planes(Plane(RAW), Plane(RAW))))
    return writer.parts()


@valid("sixteen planes of four bits in units of 64, rotated")
def sixteen_planes() -> Parts:
    modes = [Plane(RAW)] * 9 + [Plane(CONSTANT)] * 7
    return one(Source("I64", (256,), little(noise(256), 8), bits(*[4] * 16, rotate=1), planes(*modes)))


@valid("constant planes alone: no payload, no tail; and with a tail")
def constant_planes() -> Parts:
    writer = Writer()
    constants = planes(Plane(CONSTANT), Plane(CONSTANT))
    writer.tensor("whole", Source("U32", (256,), little([0xFFFF1234] * 256, 4), bits(16, 16), constants))
    writer.tensor("tail", Source("U32", (257,), little([0xABCD0000] * 256 + [5], 4), bits(16, 16), constants))
    return writer.parts()


@valid("every mode in one chunk: constant, raw, coded, zstd and bypass, with a tail")
def all_modes() -> Parts:
    values = [
        5 | a << 4 | b << 12 | c << 20 | (d % 8192) << 28
        for a, b, c, d in zip(skewed(300, 15), skewed(300, 200), skewed(300, 100, 3), noise(300, 4), strict=True)
    ]
    frame = raw_block_frame(raw_payload([v >> 20 & 255 for v in values[:256]], 8))
    modes = [Plane(CONSTANT), Plane(RAW), Plane(CODED), Plane(ZSTD, frame=frame), Plane(BYPASS, 11)]
    return one(Source("U64", (300,), little(values, 8), bits(4, 8, 8, 8, 13), planes(*modes)))


@valid("coded, precision 11, one block")
def coded_11() -> Parts:
    return plane8(skewed(1024, 20), Plane(CODED, 11))


@valid("coded, precision 12, one block, tail of 127")
def coded_12() -> Parts:
    return plane8(skewed(1151, 20), Plane(CODED, 12))


@valid("coded, eleven groups in four blocks of 2, 3, 3 and 3 groups")
def coded_blocks() -> Parts:
    return plane8(skewed(11 * 128, 30), Plane(CODED, 12, 4))


@valid("coded, as many blocks as groups")
def coded_most_blocks() -> Parts:
    return one(
        Source("U32", (640,), little(skewed(640, 9), 4), bits(16, 16), planes(Plane(CODED, 12, 5), Plane(CONSTANT)))
    )


@valid("coded with a base that is not 0, and symbol 0 for field 0")
def coded_base() -> Parts:
    values = [0 if v == 0 else 900 + v for v in skewed(512, 12)]
    return one(Source("U16", (512,), little(values, 2), bits(16), planes(Plane(CODED, base=900))))


@valid("coded with escapes: the first element, the last, and as many as are allowed")
def coded_escapes() -> Parts:
    values = skewed(512, 12)
    for i in [0, 511, *range(40, 430, 13)]:
        values[i] = 65535 - i
    assert sum(v > 255 for v in values) == 512 // 16
    return one(Source("U16", (512,), little(values, 2), bits(16), planes(Plane(CODED))))


@valid("coded with escapes that were not needed: fields inside the window, and field 0")
def coded_needless_escapes() -> Parts:
    values = skewed(512, 12)
    needless = frozenset([3, 9, values.index(0), 200])
    return one(Source("U16", (512,), little(values, 2), bits(16), planes(Plane(CODED, escape=needless))))


@valid("coded at widths 1, 2, 9 and 16, base so high that only some symbols fit")
def coded_widths() -> Parts:
    writer = Writer()
    for w in (1, 2, 9, 16):
        values = [(1 << w) - 1 - v if v else 0 for v in skewed(512, min(20, (1 << w) - 1))]
        plan = Plane(CODED, base=max(0, (1 << w) - 25))
        writer.tensor(f"w{w}", Source("U16", (512,), little(values, 2), bits(w), planes(plan)))
    return writer.parts()


@valid("coded with an uneven table: a symbol of frequency 4095 and one of 1, two that never occur")
def coded_extreme_table() -> Parts:
    writer = Writer()
    values = [0] * 1024
    values[5] = values[900] = 255
    frequency = [4095, *[0] * 254, 1]
    writer.tensor("4095", Source("U8", (1024,), bytes(values), BYTES, planes(Plane(CODED, frequency=frequency))))
    frequency = [0] * 256
    frequency[0], frequency[3], frequency[128], frequency[200] = 3, 127, 128, 4096 - 258
    values = [0 if v == 2 else 200 for v in skewed(1024, 5)]
    writer.tensor("unused", Source("U8", (1024,), bytes(values), BYTES, planes(Plane(CODED, frequency=frequency))))
    return writer.parts()


@valid("coded with a table of all 256 symbols")
def coded_full_table() -> Parts:
    data = little(((v * v) >> 8 & 255 for v in range(1500)), 2)
    return one(Source("U16", (1500,), data, bits(8), planes(Plane(CODED, frequency=[16] * 256))))


@valid("bypass at widths 9 to 16, precision 11 and 12 in turn, one and two blocks")
def bypass_widths() -> Parts:
    writer = Writer()
    for w in range(9, 17):
        values = [v >> 16 - w >> (v >> 20) % w for v in (x % 65536 | x & 0xFFF00000 for x in noise(400, w))]
        values = [v % (1 << w) for v in values]
        values[:2] = [0, (1 << w) - 1]
        plan = Plane(BYPASS, 11 + w % 2, 1 + w % 3 // 2)
        writer.tensor(f"w{w}", Source("U32", (400,), little(values, 4), bits(w), planes(plan)))
    return writer.parts()


@valid("zstd planes: frames with one raw block, with one RLE block, and a compressed one with a checksum")
def zstd_frames() -> Parts:
    writer = Writer()
    values = skewed(256, 200)
    for name, fields, frame in [
        ("raw", values, raw_block_frame(raw_payload(values, 8))),
        ("rle", [7] * 256, rle_frame(7, 256)),
        ("compressed", list(COMPRESSED_PLAIN), COMPRESSED_FRAME),
    ]:
        plan = planes(Plane(ZSTD, frame=frame))
        writer.tensor(name, Source("U16", (len(fields),), little(fields, 2), bits(8), plan))
    return writer.parts()


@valid("planes in three chunks of 300, 300 and 128 units, each with modes of its own")
def chunks_planes() -> Parts:
    def code(place: Place) -> bytes:
        plan = [Plane(CODED), Plane(CODED, 11), Plane(RAW)][place.start // 300]
        return place.planes(Plane(RAW), plan).bytes()

    return one(Source("BF16", (728,), weights(728), bits(8, 8, rotate=1), code, 300))


@valid("chunks of all three kinds in one tensor")
def chunks_kinds() -> Parts:
    def code(place: Place) -> bytes:
        if place.start == 0:
            return literal_chunk(place.data, place.unit)
        return affine_chunk(9, 0, 256, 2) if place.start == 256 else place.planes(Plane(RAW), Plane(RAW)).bytes()

    data = weights(256) + little([9] * 256, 2) + weights(256, 2)
    return one(Source("BF16", (768,), data, bits(8, 8, rotate=1), code, 256))


# -- rows, packs, references, image ----------------------------------------------------------------------------------


def rows_source(
    rows: bytes, per_row: int, *modes: Plane, chunk: int | None = None, side_chunk: int | None = None
) -> Source:
    """U16: a low plane that every row has, a high one that only some have."""
    values = [
        v % 256 | (h << 8 if rows[i // per_row] else 0)
        for i, (v, h) in enumerate(zip(noise(len(rows) * per_row), skewed(len(rows) * per_row, 9), strict=True))
    ]
    expression = {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}
    side = Source("U8", (len(rows),), rows, BYTES, literal, side_chunk)
    shape = (len(rows), per_row)
    return Source("U16", shape, little(values, 2), expression, planes(*modes), chunk, [side])


@valid("scatter: rows without the high plane; what is present does not fill its last group")
def scatter() -> Parts:
    return one(rows_source(bytes([1, 0, 1, 1, 0, 0, 1, 0]), 100, Plane(RAW), Plane(CODED)))


@valid("scatter: 100 fields in a group, as many escapes as its 128 allow, one of them among the zeros behind")
def scatter_escaped_zero() -> Parts:
    escaped = Plane(CODED, escape=frozenset([0, 9, 22, 37, 58, 81, 99, 120]))
    return one(rows_source(bytes([1, 0, 0, 0]), 100, Plane(RAW), escaped))


@valid("scatter with all rows present")
def scatter_all() -> Parts:
    return one(rows_source(bytes([1] * 4), 64, Plane(RAW), Plane(RAW)))


@valid("scatter with no row present: the plane is constant 0")
def scatter_none() -> Parts:
    return one(rows_source(bytes(4), 100, Plane(RAW), Plane(CONSTANT)))


@valid("scatter over chunks that begin in the middle of a row, side plane in two chunks")
def scatter_mid_row() -> Parts:
    return one(rows_source(bytes([1, 0, 1, 1, 0, 1, 1]), 130, Plane(RAW), Plane(RAW), chunk=333, side_chunk=4))


@valid("scatter, constant in exactly one group of present units")
def scatter_constant() -> Parts:
    rows = bytes([0, 1, 0])
    data = little(([3] * 128 + [3 | 77 << 8] * 128 + [3] * 128), 2)
    expression = {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}
    side = Source("U8", (3,), rows, BYTES, literal)
    return one(Source("U16", (3, 128), data, expression, planes(Plane(CONSTANT), Plane(CONSTANT)), None, [side]))


@valid("two side planes, one used twice; one stored as an affine chunk")
def scatter_two() -> Parts:
    first, second = bytes([1, 0, 1, 0]), bytes([1] * 2)
    expression = {"bits": [{"scatter": [k, {"plane": 8}]} for k in (0, 1, 0)] + [{"plane": 8}], "rotate": 1}
    values = []
    for i, x in enumerate(noise(512)):
        v = x & 0xFFFFFFFF if first[i // 128] else x & 0xFF00FF00
        values.append((v >> 1) + (v % 2 << 31))
    sides = [Source("U8", (4,), first, BYTES, literal), Source("U8", (2,), second, BYTES, affine(1, 0))]
    return one(Source("F32", (512,), little(values, 4), expression, planes(*[Plane(RAW)] * 4), None, sides))


@valid("a row is absent though the tail's units of it have high bits: the tail is whole")
def scatter_tail() -> Parts:
    data = little([5] * 128 + [0xFFFF] * 12, 2)
    expression = {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}
    side = Source("U8", (1,), b"\0", BYTES, literal)
    return one(Source("U16", (1, 140), data, expression, planes(Plane(CONSTANT), Plane(CONSTANT)), None, [side]))


# -- differences, contexts -------------------------------------------------------------------------------------------

# Beside a file with bases lie its bases as plain vectors: the name of the vector, and of the tensor in it.
BASES = {
    "delta_base": "w",
    "delta_base_bytes": "w",
    "delta_base_f32": "w",
    "delta_base_f32_weights": "w",
    "delta_base_i8": "w",
    "roundings_base": "w",
    "sum_base": "w",
}


def base_weights(count: int) -> bytes:
    return weights(count, 5)


def moved(data: bytes, unit: int, most: int, seed: int = 9) -> bytes:
    """Each unit a little larger or smaller, one in two left as it is."""
    steps = zip(skewed(len(data) // unit, most, seed), noise(len(data) // unit, seed + 1), strict=True)
    return little(
        (
            max(0, int.from_bytes(data[i * unit : (i + 1) * unit], "little") + (s - 1 if x & 1 else 1 - s))
            % (1 << 8 * unit)
            for i, (s, x) in enumerate(steps)
        ),
        unit,
    )


def plane(width: int, **context: list[int]) -> dict:
    return {"context": context, "plane": width} if context else {"plane": width}


def add(*parts: dict) -> dict:
    return {"add": [{"base": 0}, {"bits": list(parts), "rotate": 0}]}


HINTS = {
    "file": "weights/model.slimtensors", "name": "means nothing", "repository": "someone/model", "revision": "main",
    "tensor": "w",
}  # fmt: skip


def bf16_base(rows: int = 4) -> BaseTensor:
    return BaseTensor("BF16", (rows, 160), base_weights(rows * 160), HINTS)


def f32_weights() -> bytes:
    """Numbers of either sign between 2^-7 and 1."""
    return little((0x3C000000 + v % 0x03800000 | v & 0x80000000 for v in noise(256, 3)), 4)


def or_literal(plan: Plane) -> Coding:
    """Chunks of fewer than 256 units are literal."""
    return lambda place: literal(place) if len(place.data) < 256 * place.unit else place.planes(plan).bytes()


@valid("the base of the files below: BF16")
def delta_base() -> Parts:
    return one(Source("BF16", (4, 160), bf16_base().data, bits(8, 8, rotate=1), planes(Plane(RAW), Plane(CODED))))


@valid("the base of delta_f32")
def delta_base_f32() -> Parts:
    return one(Source("F32", (256,), little(noise(256, 3), 4), bits(8, 8, 8, 8, rotate=1)))


@valid("the base of delta_cast")
def delta_base_f32_weights() -> Parts:
    return one(Source("F32", (256,), f32_weights(), bits(8, 8, 8, 8, rotate=1)))


@valid("the base of delta_i8")
def delta_base_i8() -> Parts:
    return one(Source("I8", (512,), little((v % 256 for v in noise(512, 4)), 1), BYTES))


@valid("add: BF16 against its base, one bypass plane whose table the base's exponent selects, an absent table")
def delta() -> Parts:
    base = bf16_base()
    data = bytearray(moved(base.data, 2, 9))
    # from one sign to the other, -0.0, infinity, NaN
    data[:10] = little([0x8000, 0x0001, 0x7F80, 0xFFC1, 0xBF80], 2)
    code = planes(Plane(BYPASS, 11, 2))
    return one(Source("BF16", (4, 160), bytes(data), add(plane(16, base=[8, 100, 20])), code, base=base))


@valid("add: contexts that share tables, which are stated once and marked as the same after that")
def delta_same_tables() -> Parts:
    base = bf16_base()
    data = base.data[:256] + moved(base.data[256:], 2, 3)
    code = planes(Plane(BYPASS, 11, 2, frequency=[1800, *[16] * 15, 8, *[0] * 239]))
    return one(Source("BF16", (4, 160), data, add(plane(16, base=[8, 100, 20])), code, base=base))


@valid("add: tables for each class of rows under scatter, a chunk that begins mid-row, classes that no row has")
def delta_row_classes() -> Parts:
    base = bf16_base()
    data = base.data[:320] + moved(base.data[320:640], 2, 4) + moved(base.data[640:], 2, 2)
    part = {"scatter": [1, plane(16, base=[9, 59, 4], rows=[0, 5])]}
    sides = [
        Source("U8", (4,), bytes([0, 4, 2, 2]), BYTES, literal),
        Source("U8", (4,), bytes([0, 1, 1, 1]), BYTES, literal),
    ]
    return one(Source("BF16", (4, 160), data, add(part), or_literal(Plane(BYPASS, 11, 1)), 300, sides, base=base))


@valid("add: three rows more than the base has, in chunks that begin mid-row, with a tail; no context")
def delta_longer() -> Parts:
    base = bf16_base()
    data = moved(base.data, 2, 9) + weights(3 * 160, 7)
    return one(Source("BF16", (7, 160), data, add(plane(16)), or_literal(Plane(BYPASS, 12, 1)), 500, base=base))


@valid("add: fewer rows than the base has; the first chunk equals it, a plane of constant 0")
def delta_shorter() -> Parts:
    base = bf16_base()
    data = base.data[: 160 * 4] + moved(base.data[160 * 4 : 3 * 160 * 2], 2, 9)
    code = lambda place: place.planes(Plane(CONSTANT) if place.start == 0 else Plane(BYPASS)).bytes()  # noqa: E731
    return one(Source("BF16", (3, 160), data, add(plane(16, base=[8, 110, 16])), code, 256, base=base))


@valid("add: rows that equal the base's are left out of the planes; a context under scatter, zeros of context 0")
def delta_rows() -> Parts:
    base = bf16_base()
    data = base.data[:320] + moved(base.data[320:960], 2, 9) + base.data[960:]
    part = {"scatter": [0, plane(16, base=[8, 110, 16])]}
    side = Source("U8", (4,), bytes([0, 1, 1, 0]), BYTES, literal)
    return one(Source("BF16", (4, 160), data, add(part), planes(Plane(BYPASS, 11, 1)), None, [side], base=base))


@valid("add: F32 in planes of 8, 16 and 8 bits; the middle one and the top one with contexts")
def delta_f32() -> Parts:
    base = BaseTensor("F32", (256,), little(noise(256, 3), 4))
    data = moved(base.data, 4, 16)
    expression = add(plane(8), plane(16, base=[24, 0, 64]), plane(8, base=[31, 1, 2]))
    plans = planes(Plane(RAW), Plane(BYPASS, 12), Plane(CODED, 11))
    return one(Source("F32", (256,), data, expression, plans, base=base))


@valid("add: BF16 against a base of F32, converted")
def delta_cast() -> Parts:
    base = BaseTensor("F32", (256,), f32_weights())
    data = little((v >> 16 for v in to_units(base.data, 4)), 2)
    code = planes(Plane(BYPASS, 11))
    return one(Source("BF16", (256,), data, add(plane(16, base=[8, 120, 4])), code, base=base))


def moved_by(shift: int, *parts: dict) -> dict:
    first, planes_ = add(*parts)["add"]
    return {"add": [first, {"matmul": [0, 1, shift]}, planes_]}


def factors(dtype: str, rows: int, rank: int, columns: int, most: int) -> list[Source]:
    """Numbers from -most to most; the first row and column are as far from 0 as the dtype has them."""
    bits = 8 * DTYPES[dtype][1]
    left, right = (
        [v % (2 * most + 1) - most for v in noise(count, seed)]
        for count, seed in ((rows * rank, 21), (rank * columns, 22))
    )
    lowest = -1 << bits - 1
    left[:rank] = [lowest] * rank
    right[::columns] = [lowest] * rank
    halves = {"bits": [{"plane": 16}] * (bits // 16), "rotate": 0}
    return [
        Source(dtype, shape, little((v % (1 << bits) for v in values), bits // 8), halves, literal)
        for shape, values in (((rows, rank), left), ((rank, columns), right))
    ]


@valid("add: a base that a product moves first; a sum that wraps at 2^32, chunks that begin mid-row, rows past its end")
def delta_matmul() -> Parts:
    base = bf16_base()
    data = moved(base.data, 2, 9) + weights(160, 7)
    expression = moved_by(24, plane(16, base=[9, 59, 4]))
    code, sides = or_literal(Plane(BYPASS, 11, 1)), factors("I16", 5, 3, 160, 30)
    return one(Source("BF16", (5, 160), data, expression, code, 500, sides, base=base))


@valid("add: F32 moved by factors of 32 bits whose sums wrap at 2^64, and that give more than F32 holds exactly")
def delta_matmul_f32() -> Parts:
    base = BaseTensor("F32", (256,), little(noise(256, 3), 4))
    data, expression = moved(base.data + bytes(32), 4, 9), moved_by(60, *[plane(8)] * 4)
    code, sides = planes(*[Plane(RAW)] * 4), factors("I32", 8, 3, 33, 1 << 30)
    return one(Source("F32", (264,), data, expression, code, None, sides, base=base))


@valid("add: F16 moved, its base converted from F32 first; infinities and what is not a number stay; shift 0, rank 1")
def delta_matmul_f16() -> Parts:
    base = BaseTensor("F32", (256,), little(noise(256, 3), 4))
    data = moved(base.converted("F16"), 2, 9)
    expression, code = moved_by(0, plane(8), plane(8)), planes(Plane(RAW), Plane(RAW))
    return one(Source("F16", (256,), data, expression, code, None, factors("I16", 128, 1, 2, 3), base=base))


@valid("add: I8, differences modulo 256; a literal chunk and an affine one need no base")
def delta_i8() -> Parts:
    base = BaseTensor("I8", (512,), little((v % 256 for v in noise(512, 4)), 1))
    data = moved(base.data, 1, 5) + bytes([7] * 512) + base.data[:64]
    code = lambda place: (  # noqa: E731
        place.planes(Plane(CODED, 12)).bytes() if place.start == 0 else affine(7, 0)(place) if place.start == 512
        else literal(place)
    )  # fmt: skip
    return one(Source("I8", (1088,), data, add(plane(8)), code, 512, base=base))


@valid("add: a pack whose tensors have a base each, with fewer rows, more rows and another dtype, and one base twice")
def delta_pack() -> Parts:
    base, wide = bf16_base(), BaseTensor("F32", (256,), f32_weights())
    writer = Writer()
    p = writer.pack("BF16", add(plane(16, base=[8, 100, 24])), planes(Plane(BYPASS, 11, 2)))
    writer.pack_member("fewer", p, (2, 160), moved(base.data[:640], 2, 4), base)
    writer.tensor("between", Source("U8", (4,), b"abcd", BYTES))
    halves = little((v >> 16 for v in to_units(wide.data, 4)), 2)
    writer.pack_member("cast", p, (256,), moved(halves, 2, 3), wide)
    writer.pack_member("more", p, (5, 160), moved(base.data, 2, 4) + weights(160, 7), base)
    writer.ref("tied", 2)
    return writer.parts()


@valid("add: packs of one tensor each, a literal chunk and an affine one, which need no base")
def delta_pack_plain() -> Parts:
    base = bf16_base()
    writer = Writer()
    p = writer.pack("BF16", add(plane(16)), literal)
    writer.pack_member("literal", p, (1, 160), weights(160, 7), base)
    p = writer.pack("BF16", add(plane(16)), affine(7, 0))
    writer.pack_member("affine", p, (1, 160), little([7] * 160, 2), base)
    return writer.parts()


def classes_source(
    octave: int, mode: int, width: int = 10, count: int = 5, chunk: int | None = None, least: int = 300
) -> Source:
    """U16 fields that lie higher in rows and columns of higher classes."""
    rows, columns = bytes([0, 3, 6, 9, 1] * 2)[:count], bytes(i % 7 for i in range(100))
    values = []
    for i, s in enumerate(skewed(100 * count, 9, 3)):
        k = rows[i // 100] + columns[i % 100]
        values.append(0 if s == 9 else (least + s + octave * (k // 4) - 1) % ((1 << width) - 1) + 1)
    part = {"context": {"class": [0, 1, octave]}, "plane": width}
    sides = [Source("U8", (count,), rows, BYTES, literal), Source("U8", (100,), columns, BYTES, literal)]
    code = or_literal(Plane(mode, 11, 1, base=least - 1 if mode == CODED else 0))
    return Source("U16", (count, 100), little(values, 2), {"bits": [part], "rotate": 0}, code, chunk, sides)


@valid("class contexts: four tables, fields an octave higher for each four classes, zeros and an escape")
def classes() -> Parts:
    source = classes_source(4, CODED)
    data = bytearray(source.data)
    data[40:42] = little([1023], 2)
    source.data = bytes(data)
    return one(source)


@valid("class contexts: fields that the octaves lift out of a plane of 4 bits, and that come in again from below")
def classes_round() -> Parts:
    return one(classes_source(4, CODED, width=4, least=1))


@valid("class contexts in mode bypass, chunks that begin mid-row")
def classes_bypass() -> Parts:
    return one(classes_source(0, BYPASS, count=10, chunk=450))


def mean_source(
    rows: int = 20, columns: int = 100, groups: Sequence[int] = (2, 1), steps: Sequence[int] = (9, 12, 17),
    dtype: str = "BF16", widths: Sequence[int] = (5, 10), chunk: int | None = None, signs: Plane | None = None,
) -> Source:  # fmt: skip
    """Floats whose signs are mostly those of a mean."""
    k = sum(groups)
    factors = bytes(128 + x % 15 - 7 for x in noise(k * (rows + columns), 3))
    mean = Mean(2, tuple(groups), tuple(steps))
    of_rows, of_columns = bytes(i % 5 for i in range(rows)), bytes(i % 7 for i in range(columns))
    size = DTYPES[dtype][1]
    values = []
    for n, (low, e) in enumerate(zip(noise(rows * columns, 5), skewed(rows * columns, 9, 6), strict=True)):
        s = mean_sum(mean, factors, rows, columns, *divmod(n, columns))
        magnitude = (100 - e << 8 * size - 9 | low & (1 << 8 * size - 9) - 1) if e < 9 else 0
        values.append(magnitude | ((s < 0) != (low >> 28 == 0)) << 8 * size - 1)
    first = {"context": {"sign": [640, 8]}, "plane": 1}
    top = {"context": {"class": [0, 1, 4], "mean": [2, list(groups), list(steps)]}, "plane": widths[-1]}
    parts = [first, *({"plane": w} for w in widths[:-1]), top]
    sides = [
        Source("U8", (rows,), of_rows, BYTES, literal),
        Source("U8", (columns,), of_columns, BYTES, literal),
        Source("U8", (k, rows + columns), factors, BYTES, literal),
    ]
    rest = [Plane(RAW)] * (len(widths) - 1)
    code = planes(signs or Plane(CODED, 11, 1), *rest, Plane(CODED, 12, 2, base=351))
    return Source(dtype, (rows, columns), little(values, size), {"bits": parts, "rotate": 1}, code, chunk, sides)


def mean_fp8_source() -> Source:
    """The same in bytes: sign and seven bits."""
    source = mean_source(40, 100, signs=Plane(CODED, 12, 4))
    of_bytes = [(v >> 15) << 7 | max(0, ((v & 0x7FFF) >> 5) - 360) for v in to_units(source.data, 2)]
    source.dtype, source.data = "F8_E4M3", bytes(of_bytes)
    sign, _rest, top = source.expression["bits"]
    sign["context"]["sign"][0], top["plane"] = 280, 7
    top["context"]["class"][2] = 8
    source.expression["bits"] = [sign, top]
    source.code = planes(Plane(CODED, 12, 4), Plane(CODED, 12, 2))
    return source


@valid("a mean: signs and classes given a product of three factors in two groups; zeros, a sum that is 0")
def mean() -> Parts:
    return one(mean_source())


@valid("a mean of rows shorter than a step, chunks that begin mid-row, an escape among the signs")
def mean_short() -> Parts:
    return one(mean_source(120, 20, chunk=1250, signs=Plane(CODED, 12, 1, escape=frozenset({3, 77}))))


@valid("a mean of F32, whose sums wrap around 2^16, with an empty group and no steps")
def mean_wraps() -> Parts:
    source = mean_source(20, 64, (0, 0, 1, 0, 0, 0, 0, 2), (), "F32", (8, 8, 5, 10))
    source.sides[2].data = bytes(x % 256 for x in noise(3 * 84, 8))
    return one(source)


@valid("a mean: signs in three blocks, precision 12")
def mean_blocks() -> Parts:
    return one(mean_source(signs=Plane(CODED, 12, 3)))


def factor_source(
    classes: int, plan: Plane, chunk: int | None = None, *, groups: Sequence[int] = (3, 2), rows: int = 20,
    columns: int = 100,
) -> Source:  # fmt: skip
    """A mean whose factors are coded given their number and the class of their row."""
    source = mean_source(rows, columns, groups)
    factors = source.sides[2]
    factors.data = bytes(127 + x % 3 for x in noise(len(factors.data), 3))
    context = {"context": {"factor": [0, 1, 1, classes]}, "plane": 8}
    factors.expression = {"bits": [context], "rotate": 0}
    factors.sides, factors.code, factors.chunk = source.sides[:2], or_literal(plan), chunk
    return source


@valid("a mean whose factors are coded given number and row's class: three classes, a tail, tables that are absent")
def mean_factors() -> Parts:
    return one(factor_source(3, Plane(CODED, 12, 2)))


@valid("the same with one class, of one factor")
def mean_factors_one() -> Parts:
    return one(factor_source(1, Plane(CODED, 11, 1), groups=(1,)))


@valid("the same with 31 classes, of 64 factors, in chunks that begin mid-row, an escape")
def mean_factors_most() -> Parts:
    return one(factor_source(31, Plane(CODED, 12, 4, escape=frozenset({5})), 4000, groups=(64,)))


@valid("the same in planes of 3 and 5 bits, one of them raw")
def mean_factors_planes() -> Parts:
    source = factor_source(2, Plane(CODED))
    factors = source.sides[2]
    factors.expression["bits"] = [{"plane": 3}, {**factors.expression["bits"][0], "plane": 5}]
    factors.code = planes(Plane(RAW), Plane(CODED, 12, 1))
    return one(source)


@valid("a mean of FP8, whose fields are as wide as the rest of the unit")
def mean_fp8() -> Parts:
    return one(mean_fp8_source())


@valid("a mean beside signs that are raw")
def mean_raw_signs() -> Parts:
    return one(mean_source(signs=Plane(RAW)))


@valid("a mean without the context of a sign")
def mean_alone() -> Parts:
    source = mean_source(signs=Plane(CODED, 11, 1))
    source.expression["bits"][0] = {"plane": 1}
    return one(source)


# -- units left out ---------------------------------------------------------------------------------------------------


def sparse_of(*widths: int, rotate: int = 0) -> dict:
    return {"scatter": [{"plane": 1}, bits(*widths, rotate=rotate)]}


def pruned(count: int, every: int = 2) -> bytes:
    """Weights, of which about one in `every` is left."""
    chosen = noise(count, 5)
    values = to_units(weights(count), 2)
    return little((v if x >> 7 & 0xFF < 256 // every else 0 for v, x in zip(values, chosen, strict=True)), 2)


def sparse_weights(data: bytes, *plans: Plane, chunk: int | None = None) -> Parts:
    count = len(data) // 2
    return one(Source("BF16", (count,), data, sparse_of(8, 8, rotate=1), planes(*plans), chunk))


@valid("a mask: half of the units are zero; the mask raw, the values raw and coded, a tail with zeros")
def sparse() -> Parts:
    return sparse_weights(pruned(600), Plane(RAW), Plane(RAW), Plane(CODED))


@valid("a mask of two of every four units, coded, over three chunks")
def sparse_two_of_four() -> Parts:
    pairs = [3, 5, 6, 9, 10, 12]
    kept = [pairs[x % 6] for x in noise(600, 3)]
    values = to_units(weights(2400), 2)
    data = little((v if kept[i // 4] >> i % 4 & 1 else 0 for i, v in enumerate(values)), 2)
    return sparse_weights(data, Plane(CODED), Plane(RAW), Plane(CODED), chunk=800)


@valid("a mask of rows and blocks, as Zstandard; values that fill their last group")
def sparse_blocks() -> Parts:
    values = to_units(weights(1024), 2)
    data = little((v if i // 64 % 4 == 1 else 0 for i, v in enumerate(values)), 2)
    mask = bytes(0xFF if i // 8 % 4 == 1 else 0 for i in range(128))
    frame = b"\x28\xb5\x2f\xfd\x20\x80" + little([128 << 3 | 1], 3) + mask  # one raw block
    return sparse_weights(data, Plane(ZSTD, frame=frame), Plane(RAW), Plane(CODED))


@valid("a mask without zeros, constant 255, as the body has 1024 units")
def sparse_none_left_out() -> Parts:
    return sparse_weights(weights(1030), Plane(CONSTANT), Plane(RAW), Plane(CODED))


@valid("a mask of zeros: no value; the tail alone is not zero")
def sparse_all_left_out() -> Parts:
    data = bytes(2 * 256) + weights(9)
    return sparse_weights(data, Plane(CONSTANT), Plane(CONSTANT), Plane(CONSTANT))


@valid("minus zero and NaN are values")
def sparse_minus_zero() -> Parts:
    data = little([0, 0x8000, 0x7FC1, 0xFF81] * 256, 2)
    return sparse_weights(data, Plane(RAW), Plane(RAW), Plane(CODED, base=0xFE))


@valid("a bit of the mask that is 1 for a unit that is zero")
def sparse_zero_value() -> Parts:
    expression = sparse_of(8)
    units = [7, 0, 9, 0] * 128

    def code(_: Place) -> bytes:
        mask, values = mask_and_values(units, frozenset([1]))
        coded = [encode_plane(fields, 8, Plane(RAW)) for fields in (mask, values)]
        return PlanesChunk(512, 1, coded, b"").bytes()

    return one(Source("U8", (512,), bytes(units), expression, code))


@valid("a mask over units of 8, 32 and 64 bits, a literal and an affine chunk of a sparse tensor, a sparse pack")
def sparse_dtypes() -> Parts:
    writer = Writer()
    for dtype, unit, widths in [("U8", 1, (8,)), ("F32", 4, (8, 8, 8, 8)), ("I64", 8, (16, 16, 16, 16))]:
        values = [v * 0x0101010101010101 % (1 << 8 * unit) if i % 3 == 0 else 0 for i, v in enumerate(noise(300))]
        plans = [Plane(RAW) if w == 8 else Plane(BYPASS) for w in widths]
        code = planes(Plane(RAW), *plans)
        writer.tensor(dtype, Source(dtype, (300,), little(values, unit), sparse_of(*widths), code))
    writer.tensor("literal", Source("U8", (200,), bytes(range(200)), sparse_of(8)))
    writer.tensor("affine", Source("U8", (200,), bytes(200), sparse_of(8), affine(0, 0)))
    pack = writer.pack("U8", sparse_of(8), planes(Plane(RAW), Plane(RAW)))
    writer.pack_member("packed", pack, (600,), bytes(v % 7 % 2 * v % 256 for v in noise(600)))
    return writer.parts()


@valid("two packs whose tensors alternate, with tensors of other kinds between; one pack of planes")
def packs() -> Parts:
    writer = Writer()
    first = writer.pack("BF16", bits(8, 8, rotate=1), planes(Plane(RAW), Plane(CODED)))
    data = weights(500)
    writer.pack_member("a", first, (100,), data[:200])
    writer.tensor("between", Source("U8", (3,), b"xyz", BYTES))
    second = writer.pack("F6_E2M3", BYTES)
    writer.pack_member("b", second, (4,), b"123")
    writer.pack_member("c", first, (), data[200:202])
    writer.empty("none", "BF16", (0,))
    writer.pack_member("d", second, (2, 2), b"456")
    writer.pack_member("e", first, (3, 133), data[202:])
    return writer.parts()


@valid("ties: to a tensor with a stream, to a part of a pack, two to the same")
def refs() -> Parts:
    writer = Writer()
    own = writer.tensor("own", Source("F16", (2, 3), bytes(range(12)), bits(16)))
    member = writer.pack_member("member", writer.pack("U8", BYTES), (3,), b"abc")
    for i, target in enumerate([own, member, own]):
        writer.ref(f"tie{i}", target)
    return writer.parts()


def looked_up(
    dtype: str, expression: dict, codes: list[int], sides: list[Source], *modes: Plane, chunk: int | None = None
) -> Source:
    """A tensor that is made from codes, the tail too."""
    found = parse_expression(expression)
    plan = [{"dtype": side.dtype, "shape": list(side.shape)} for side in sides]
    units = lookup(found, codes, dtype, len(codes), 0, [side.data for side in sides], plan)
    data = little(units, DTYPES[dtype][1])
    return Source(dtype, (len(codes),), data, expression, planes(*modes), chunk, sides, codes)


def side(dtype: str, shape: tuple[int, ...], units: Sequence[int]) -> Source:
    return Source(dtype, shape, little(units, DTYPES[dtype][1]), bits(8), literal)


@valid("gather: one palette, with NaN, -0 and an entry twice; a tail")
def gather() -> Parts:
    palette = side("BF16", (5,), [0x7FC1, 0x8000, 0x3F80, 0xBF80, 0x3F80])
    return one(looked_up("BF16", {"gather": [0, bits(3)]}, skewed(300, 4), [palette], Plane(CODED)))


@valid("gather: a palette for each of three runs, codes in two planes, chunks that begin within a run")
def gather_runs() -> Parts:
    palette = side("I64", (3, 6), [7 << 60, 1, 2, 3, 4, 5, *range(90, 96), *range(1 << 40, 6 + (1 << 40))])
    modes = Plane(RAW), Plane(CODED, 11)
    return one(looked_up("I64", {"gather": [0, bits(1, 2)]}, skewed(768, 5), [palette], *modes, chunk=320))


@valid("mul: integers times scales, in F32, BF16 and F16: subnormal, zero, negative and overflowing products")
def mul() -> Parts:
    writer = Writer()
    scales = [0x3DCCCCCD, 0xBF8CCCCD, 0x00000003, 0x33000001, 0x7F000001, 0x80000000, 0x477FEFFF, 0x3F800001]
    for dtype in ("F32", "BF16", "F16"):
        for entries in ("I8", "I16", "F32"):
            integers = [0, 1, 254, 3, 100, 129] if entries == "I8" else [0, 1, 65534, 3, 1000, 32769]
            if entries == "F32":
                integers = [0, 0x80000000, 0x3F800000, 0xBEB1C71C, 0x40490FDB, 0x00400000]
            plan = [side("F32", (8,), scales), side(entries, (6,), integers)]
            expression = {"mul": [{"gather": [1, bits(3)]}, 0]}
            source = looked_up(dtype, expression, [v % 6 for v in noise(520)], plan, Plane(RAW), chunk=260)
            writer.tensor(f"{dtype} {entries}", source)
    return writer.parts()


PAIRED = {"mul": [{"gather": [4, bits(4)]}, [0, 1]]}


def paired(dtype: str) -> list[Source]:
    """Two factors each for scales and offsets of 24 runs, and 15 integers."""
    six = [x % 64 for x in noise(24, 5)]
    scales = [casts.nearest(Fraction(n), "F32") for n in six]
    seconds = [0x3A800000, 0x3DCCCCCD, 0x00000005, 0xB8D1B717]
    if dtype == "F16":
        seconds = [0x3A800000, 0x3E99999A, 0x33800000]
    offsets = [casts.nearest(Fraction(63 - n), "F32") for n in six]
    plan = [side("F32", (24,), scales), side("F32", (len(seconds),), seconds), side("F32", (24,), offsets)]
    return [*plan, side("F32", (2,), [0xBC23D70A, 0x80000000]), side("I8", (15,), [n % 256 for n in range(-7, 8)])]


@valid("mul: scales that are products of two factors, subnormal and negative ones, chunks that begin within a run")
def mul_of_scales() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        plan = paired(dtype)
        expression = {"mul": [{"gather": [2, bits(4)]}, [0, 1]]}
        codes = [v % 15 for v in noise(24 * 12)]
        writer.tensor(dtype, looked_up(dtype, expression, codes, [*plan[:2], plan[4]], Plane(RAW), chunk=150))
    return writer.parts()


@valid("add: products plus offsets, these too products of two factors; sums that cancel; offsets of one factor")
def add_offsets() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        plan = paired(dtype)
        codes = [v % 15 for v in noise(24 * 12, 3)]
        expression = {"add": [PAIRED, [2, 3]]}
        writer.tensor(f"{dtype} pairs", looked_up(dtype, expression, codes, plan, Plane(RAW), chunk=150))
        one_each = {"add": [{"mul": [{"gather": [2, bits(4)]}, 0]}, 1]}
        few = [[0x3DCCCCCD, 0x3F800000, 0x80000000], [0xBE4CCCCD, 0x40400000, 0x80000000]]
        cancel = [side("F32", (3,), numbers) for numbers in few]
        source = looked_up(dtype, one_each, codes[:150], [*cancel, plan[4]], Plane(RAW))
        writer.tensor(f"{dtype} one", source)
    return writer.parts()


@valid("decimal: in all four dtypes, -0, the largest codes, powers 0, 4 and 22")
def decimal() -> Parts:
    writer = Writer()
    for dtype in ("F64", "F32", "BF16", "F16"):
        for power in (0, 4, 22):
            width = min(53, 8 * DTYPES[dtype][1])
            widths = [8] * (width // 8) + ([width % 8] if width % 8 else [])
            codes = [v % (1 << width) >> v % width for v in (x << 32 | x for x in noise(140))]
            codes[:3] = [1, 0, (1 << width) - 1]
            modes = [Plane(RAW)] * len(widths)
            expression = {"decimal": [power, bits(*widths)]}
            writer.tensor(f"{dtype} {power}", looked_up(dtype, expression, codes, [], *modes))
    return writer.parts()


def on_grid(
    dtype: str, expression: list, codes: list[int], sides: list[Source], *modes: Plane, chunk: int = 256
) -> Source:
    """A tensor that is made from codes, chunk by chunk, since lanes begin anew; the tail is noise."""
    found = parse_expression({"trellis": expression})
    plan = [{"dtype": side.dtype, "shape": list(side.shape)} for side in sides]
    units: list[int] = []
    for at in range(0, len(codes), chunk):
        part = codes[at : at + chunk]
        body = part[: len(part) - len(part) % 128]
        units += lookup(found, body, dtype, len(codes), at, [side.data for side in sides], plan)
        units += [0x3C00 + v % 64 for v in noise(len(part) - len(body))]
    data = little(units, DTYPES[dtype][1])
    return Source(dtype, (len(codes),), data, {"trellis": expression}, planes(*modes), chunk, sides, codes)


@valid("trellis: one state and eight, in F32, BF16 and F16: overflow, subnormal numbers, the ends of the codes, a tail")
def trellis() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        for states in (1, 8):
            for step, zero in ((0x3DCCCCCD, 16), (0x7F000001, 31), (0x00000003, 0), (0x33800001, 17)):
                codes = [v % 32 for v in noise(684)]
                source = on_grid(dtype, [states, step, zero, bits(5)], codes, [], Plane(RAW))
                writer.tensor(f"{dtype} {states} {step:x}", source)
    return writer.parts()


@valid("trellis: codes in two planes, of 16 bits, as an entropy coder has them; scales of rows and columns")
def trellis_scaled() -> Parts:
    writer = Writer()
    rows = [0x3F800000, 0x3DCCCCCD, 0x00000007, 0x60000000]
    columns = [0x3F800000 + 0x100000 * (v % 9) for v in noise(171)]
    for dtype in ("F32", "BF16", "F16"):
        for states in (1, 8):
            plan = [side("F32", (4,), rows), side("F32", (171,), columns)]
            codes = [v % 65536 for v in noise(684)]
            expression = [states, 0x3C23D70A, 0x8000, bits(8, 8), 0, 1]
            writer.tensor(f"{dtype} {states}", on_grid(dtype, expression, codes, plan, Plane(RAW), Plane(RAW)))
            plan = [side("F32", (171,), columns), side("F32", (4,), rows)]
            codes = skewed(684, 40)
            expression = [states, 0x3C23D70A, 20, bits(6), 1, 0]
            writer.tensor(f"{dtype} {states} c", on_grid(dtype, expression, codes, plan, Plane(CODED)))
    return writer.parts()


def summed(
    dtype: str,
    shape: tuple[int, ...],
    plus: dict,
    values: dict,
    codes: list[int],
    sides: list[Source],
    *modes: Plane,
    chunk: int,
    base: BaseTensor | None = None,
) -> Source:
    """A tensor that is made from codes and something that they are added to; the tail is noise."""
    found = parse_expression({"add": [plus, values]})
    plan = [{"dtype": side.dtype, "shape": list(side.shape)} for side in sides]
    unit = DTYPES[dtype][1]
    stream = Stream("tensor", len(codes), unit, chunk, found.planes, dtype, found.values, plan)
    if base:
        stream.base = base.converted(dtype)[: len(codes) * unit].ljust(len(codes) * unit, b"\0")
    units: list[int] = []
    for at in range(0, len(codes), chunk):
        part = codes[at : at + chunk]
        body = part[: len(part) - len(part) % 128]
        units += lookup_units(stream, body, at, [side.data for side in sides])
        units += [0x3C00 + v % 64 for v in noise(len(part) - len(body))]
    expression = {"add": [plus, values]}
    return Source(dtype, shape, little(units, unit), expression, planes(*modes), chunk, sides, codes, base)


def noisy_base() -> BaseTensor:
    """Numbers of all sizes, infinities, NaNs, zeros of both signs."""
    units = noise(256, 3)
    units[:8] = [0x7F800000, 0xFF800000, 0x7F800001, 0xFFC12345, 0, 0x80000000, 0x7F7FFFFF, 0x00000001]
    return BaseTensor("F32", (256,), little(units, 4))


@valid("the base of sum_signs and sum_grid")
def sum_base() -> Parts:
    return one(Source("F32", (256,), noisy_base().data, bits(8, 8, 8, 8, rotate=1)))


@valid("add: a base plus signs times a scale; infinities, NaNs, zeros of both signs, more rows than the base, a tail")
def sum_signs() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        for name, scale in (("small", 0x3C23D70A), ("large", 0x7F000000), ("none", 0x80000000)):
            plan = [side("I8", (2,), [0xFF, 1]), side("F32", (1,), [scale])]
            codes, values = [v % 2 for v in noise(300)], {"mul": [{"gather": [0, bits(1)]}, 1]}
            source = summed(dtype, (300,), {"base": 0}, values, codes, plan, Plane(RAW), chunk=300, base=noisy_base())
            writer.tensor(f"{dtype} {name}", source)
    return writer.parts()


@valid("add: a base plus levels of a grid, with and without scales; products with offsets; chunks that begin mid-row")
def sum_grid() -> Parts:
    writer = Writer()
    rows, columns = [0x3F800000, 0x3DCCCCCD, 0x40A00000], [0x3F800000 + 0x100000 * (v % 9) for v in noise(100)]
    for dtype in ("F32", "BF16", "F16"):
        for states in (1, 8):
            codes = skewed(300, 12)
            for scaled in ([], [0, 1]):
                plan = [side("F32", (3,), rows), side("F32", (100,), columns)] if scaled else []
                values = {"trellis": [states, 0x3C23D70A, 4, bits(4), *scaled]}
                source = summed(
                    dtype, (300,), {"base": 0}, values, codes, plan, Plane(CODED), chunk=160, base=noisy_base()
                )
                writer.tensor(f"{dtype} {states} {len(scaled)}", source)
        plan, codes = paired(dtype), [v % 15 for v in noise(24 * 12, 3)]
        source = summed(
            dtype, (288,), {"base": 0}, {"add": [PAIRED, [2, 3]]}, codes, plan, Plane(RAW), chunk=150, base=noisy_base()
        )
        writer.tensor(f"{dtype} offsets", source)
    return writer.parts()


@valid("add: a product of factors plus numbers from codes; sums that wrap, a grid, chunks that begin mid-row, a tail")
def sum_matmul() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        plan = [*factors("I16", 5, 3, 60, 30), side("I8", (15,), [n % 256 for n in range(-7, 8)])]
        plan.append(side("F32", (25,), [0x3D000000 + 0x10000 * n for n in range(25)]))
        codes, values = [v % 15 for v in noise(300)], {"mul": [{"gather": [2, bits(4)]}, 3]}
        source = summed(dtype, (5, 60), {"matmul": [0, 1, 9]}, values, codes, plan, Plane(RAW), chunk=160)
        writer.tensor(f"{dtype} product", source)
        grid = {"trellis": [8, 0x4B000001, 9, bits(4)]}
        plan = factors("I32", 5, 2, 60, 1 << 30)
        source = summed(dtype, (5, 60), {"matmul": [0, 1, 40]}, grid, codes, plan, Plane(CODED), chunk=300)
        writer.tensor(f"{dtype} grid", source)
    return writer.parts()


def apart(
    dtype: str, values: dict, codes: list[int], sides: list[Source], marked: Iterable[int], *modes: Plane, chunk: int
) -> Source:
    """A tensor that is made from codes, but for the units marked, which are noise, as the tail is."""
    planes_ = bits(*[8] * DTYPES[dtype][1], rotate=1)
    expression = {"scatter": [{"plane": 1}, planes_, values]}
    found = parse_expression(expression)
    plan, unit = [{"dtype": side.dtype, "shape": list(side.shape)} for side in sides], DTYPES[dtype][1]
    stream = Stream("tensor", len(codes), unit, chunk, found, dtype, found.rest, plan)
    units: list[int] = []
    for at in range(0, len(codes), chunk):
        part = codes[at : at + chunk]
        body = part[: len(part) - len(part) % 128]
        units += lookup_units(stream, body, at, [side.data for side in sides])
        units += [0x3C00 + v % 64 for v in noise(len(part) - len(body))]
    loud = noise(len(codes), 77)
    taken = frozenset(marked)
    units = [loud[i] % (1 << 8 * unit) if i in taken else u for i, u in enumerate(units)]
    data = little(units, unit)
    return Source(dtype, (len(codes),), data, expression, planes(*modes), chunk, sides, codes, marked=taken)


def with_values(place: Place) -> bytes:
    """All planes raw, but for those of the mask's units where there are none."""
    some = any(place.start <= i < place.start + len(place.body()) for i in place.marked)
    values = [Plane(RAW if some else CONSTANT)] * place.unit
    return place.planes(Plane(RAW), *values, Plane(RAW)).bytes()


@valid("scatter: units apart from numbers from codes; a group of them, none; chunks that begin within a run; a tail")
def apart_mul() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        plan, codes = paired(dtype), [v % 15 for v in noise(24 * 40, 3)]
        for name, marked in (("some", [0, 7, 130, 499, 500, 900]), ("first", range(128)), ("none", [])):
            source = apart(dtype, {"add": [PAIRED, [2, 3]]}, codes, plan, marked, chunk=500)
            source.code = with_values
            writer.tensor(f"{dtype} {name}", source)
    return writer.parts()


@valid("scatter: units apart from levels of a grid with scales; a coded mask, codes in two planes")
def apart_grid() -> Parts:
    writer = Writer()
    for dtype in ("F32", "BF16", "F16"):
        rows, columns = [0x3F800000, 0x3DCCCCCD], [0x3F800000 + 0x100000 * (v % 9) for v in noise(320)]
        plan = [side("F32", (2,), rows), side("F32", (320,), columns)]
        marked, modes = [i for i, v in enumerate(noise(640, 5)) if v % 16 == 0], [Plane(RAW)] * DTYPES[dtype][1]
        values, codes = {"trellis": [8, 0x3C23D70A, 20, bits(2, 4), 0, 1]}, skewed(640, 40)
        source = apart(dtype, values, codes, plan, marked, Plane(CODED), *modes, Plane(RAW), Plane(CODED), chunk=640)
        writer.tensor(dtype, source)
    return writer.parts()


@valid("trellis: codes given classes of rows and columns, coded, bypass and raw; chunks that end in a row; a tail")
def trellis_classes() -> Parts:
    writer = Writer()
    rows, columns = side("U8", (6,), [3, 0, 9, 1, 0, 60]), side("U8", (114,), [v % 5 for v in noise(114, 7)])
    scales = [side("F32", (6,), [0x3F800000 + 0x100000 * k for k in range(6)]), side("F32", (114,), [0x3F800000] * 114)]
    for states in (1, 8):
        for tables in (2, 12, 64):
            top = {"context": {"class": [0, 1, tables]}, "plane": 5}
            expression = [states, 0x3C23D70A, 16, {"bits": [top], "rotate": 0}]
            source = on_grid("F32", expression, skewed(684, 20), [rows, columns], Plane(CODED, blocks=2), chunk=400)
            writer.tensor(f"{states} {tables}", source)
        above = {"bits": [{"plane": 2}, {"context": {"class": [2, 3, 12]}, "plane": 12}], "rotate": 0}
        plan = [*scales, rows, columns]
        for name, low, mode in (
            ("coded", 0, Plane(CODED)),
            ("bypass", 9, Plane(BYPASS)),
            ("base", 999, Plane(CODED, base=998)),
        ):
            codes = [4 * (low + v) + k % 4 for k, v in enumerate(skewed(684, 90))]
            expression = [states, 0x3C23D70A, 2000, above, 0, 1]
            source = on_grid("F32", expression, codes, plan, Plane(RAW), mode, chunk=400)
            writer.tensor(f"{states} {name}", source)
        raw = [states, 0x3C23D70A, 16, {"bits": [{"context": {"class": [0, 1, 3]}, "plane": 5}], "rotate": 0}]
        writer.tensor(f"{states} raw", on_grid("F16", raw, skewed(684, 20), [rows, columns], Plane(RAW)))
    return writer.parts()


@valid("casts of an F32 tensor: ties, overflow, subnormals, infinities, NaNs; one of a pack; one of a later tensor")
def cast() -> Parts:
    writer = Writer()
    units = [0x3F808000, 0x3F818000, 0x3F808001, 0x477FF000, 0x477FEFFF, 0x7F7FFFFF, 0x33000000, 0x33000001, 0x80000001]
    units += [0x387FF000, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFBFFFFF, 0x7FC12345, 0x80000000, 0, 0x38801000, 0x42]
    own = writer.tensor("f32", Source("F32", (19,), little(units, 4), bits(16, 16)))
    for dtype in ("BF16", "F16", "F64"):
        writer.cast(dtype, own, dtype)
    member = writer.pack_member("member", writer.pack("BF16", bits(16)), (3,), little([0x3F80, 0x7F81, 0x0001], 2))
    writer.cast("of member", member, "F16")
    last = writer.cast("early", own, "F64")
    tensors = writer.header["tensors"]
    tensors[own], tensors[last] = tensors[last], tensors[own]
    writer.decoded[own], writer.decoded[last] = writer.decoded[last], writer.decoded[own]
    for expression in writer.header["expressions"]:
        if expression == {"cast": own}:
            expression["cast"] = last
    streams = writer.streams  # the pack's comes first now
    streams[0], streams[1] = streams[1], streams[0]
    return writer.parts()


@valid("an image: literal bytes before, between and after the tensors, one empty, one more left out")
def image() -> Parts:
    writer = Writer({"source": "model.safetensors"})
    for i in range(4):
        writer.tensor(f"t{i}", Source("U8", (5,), bytes([65 + i] * 5), BYTES))
    writer.empty("none", "U8", (0,))
    writer.empty("nothing", "F32", (2, 0))
    rest = [(0, 2), b"gap", b"gap", (2, 3), b"end"]
    first = front(writer.front(rest, {"__metadata__": {"format": "pt"}})[8:] + b"  ")
    writer.image([first[:3], first[3:], *rest], BYTES, literal)
    return writer.parts()


@valid("an image that is all literal bytes, in two chunks of planes")
def image_literal() -> Parts:
    writer = Writer()
    text = {"__metadata__": {"format": "pt" * 900}}
    writer.image([writer.front([], text)], BYTES, planes(Plane(CODED, 11)), 1024)
    return writer.parts()


@valid("an image of tensors alone: its stream is the SHA-256")
def image_tensors() -> Parts:
    writer = Writer()
    writer.tensor("t", Source("U8", (5,), b"hello", BYTES))
    writer.image([(0, 1)], BYTES, literal, kind="gguf")
    return writer.parts()


@valid("decimals, a grid and units apart in packs; decimals and a mask in side planes; a mask in an image")
def places() -> Parts:
    writer = Writer()
    codes, decimals = skewed(300, 12), {"decimal": [1, bits(8)]}
    grid = {"trellis": [8, 0x3DCCCCCD, 4, bits(4)]}
    for name, source in (
        ("decimals", looked_up("F32", decimals, codes, [], Plane(RAW))),
        ("grid", on_grid("BF16", grid["trellis"], codes, [], Plane(CODED), chunk=300)),
        ("apart", apart("F16", grid, codes, [], range(0, 300, 7), *[Plane(RAW)] * 4, chunk=300)),
    ):
        unit = DTYPES[source.dtype][1]
        pack = writer.pack(source.dtype, source.expression, source.code)
        writer.pack_sources[pack].codes, writer.pack_sources[pack].marked = codes, source.marked
        writer.pack_member(f"{name} first", pack, (200,), source.data[: 200 * unit])
        writer.pack_member(f"{name} last", pack, (100,), source.data[200 * unit :])
    palette = looked_up("F32", decimals, [2 * v for v in range(128)], [], Plane(RAW))
    numbers = {"mul": [{"gather": [0, bits(7)]}, 1]}
    plan = [palette, side("F32", (2,), [0x3F800000, 0xBE99999A])]
    writer.tensor("palette", looked_up("F32", numbers, [v % 128 for v in noise(300)], plan, Plane(RAW)))
    flags = bytes(v % 3 == 0 for v in noise(256, 7))
    data = little((v % 256 | flags[i // 2] * (v >> 8 & 0xFF00) for i, v in enumerate(noise(512))), 2)
    rows = {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}
    mask = Source("U8", (256,), flags, sparse_of(1), planes(Plane(RAW), Plane(RAW)))
    writer.tensor("rows", Source("U16", (256, 2), data, rows, planes(Plane(RAW), Plane(RAW)), None, [mask]))
    literals = [b"first" + bytes(200), bytes(100) + b"second"]
    writer.image([*literals, (0, 8)], sparse_of(8), planes(Plane(RAW), Plane(RAW)), kind="gguf")
    return writer.parts()


@valid("class contexts of one side plane for rows and columns, in two planes, and rows by it too")
def classes_square() -> Parts:
    classes = bytes(v % 2 for v in noise(64, 3))
    units = [s + (classes[i // 64] << 9) for i, s in enumerate(skewed(4096, 6, 4))]
    context = {"context": {"class": [0, 0, 1]}}
    parts = [{**context, "plane": 8}, {"scatter": [0, {**context, "plane": 4}]}]
    code = planes(Plane(CODED, 11, 1), Plane(CODED, 12, 1))
    sides = [Source("U8", (64,), classes, BYTES, literal)]
    return one(Source("U16", (64, 64), little(units, 2), {"bits": parts, "rotate": 0}, code, None, sides))


@valid("add: tables, and fields that are moved, by classes of row and column")
def delta_classes() -> Parts:
    base = bf16_base()
    rows, columns = bytes([0, 3, 6, 9, 1, 1, 2, 2]), bytes(i % 7 for i in range(160))
    sides = [Source("U8", (len(plane),), plane, BYTES, literal) for plane in (rows, columns)]
    parts = {"context": {"class": [0, 1, 4]}, "plane": 8}, {"plane": 8}
    code = planes(Plane(CODED, 11, 1), Plane(CONSTANT))
    data = moved(base.data * 2, 2, 9)[:1280] + moved(bytes(1280), 2, 9)
    return one(Source("BF16", (8, 160), data, add(*parts), code, None, sides, base=base))


@valid("the base of delta_dtypes, which takes its bytes for numbers of other dtypes")
def delta_base_bytes() -> Parts:
    return one(Source("U8", (1024,), little((v % 256 for v in noise(1024, 8)), 1), BYTES))


@valid("add: one tensor of each dtype, floats ordered by value and others not")
def delta_dtypes() -> Parts:
    writer, content = Writer(), little((v % 256 for v in noise(1024, 8)), 1)
    for dtype, (width, unit) in DTYPES.items():
        shape = 8 * len(content) // width - 8 * len(content) // width % 8
        size = shape * width // 8
        if size != len(content):
            continue  # a base is all of its tensor
        base = BaseTensor(dtype, (shape,), content)
        code = planes(Plane(RAW), *[Plane(CONSTANT)] * (unit - 1))  # differences are small
        writer.tensor(dtype, Source(dtype, (shape,), moved(content, unit, 9), add(*[plane(8)] * unit), code, base=base))
    return writer.parts()


def halfway(dtype: str) -> tuple[int, int]:
    """By its bits an F32 and a place value: above half of the last place of 1.0 in the dtype by less than F32 tells."""
    return {"BF16": (0x3B800001, 8), "F16": (0x3A000001, 11)}[dtype]


@valid("the base of roundings: ones, and NaNs that are not quiet")
def roundings_base() -> Parts:
    return one(Source("BF16", (256,), ONES, bits(8, 8, rotate=1)))


ONES = little([0x7F81, 0xFFA0] + [0x3F80] * 254, 2)


@valid("one rounding where two give another number, two where one does; NaNs that are not quiet stay")
def roundings() -> Parts:
    writer, base = Writer(), BaseTensor("BF16", (256,), ONES)
    # 1 + 2^-(p + 1) + 2^-40 of F64: rounded to F32 first, it would be half way between two numbers of p bits
    doubles = [0x3FF0000000000000 | 1 << 52 - p | 1 << 12 for p in (8, 11, 24)]
    own = writer.tensor("doubles", Source("F64", (3,), little(doubles, 8), bits(*[8] * 8), literal))
    for dtype in ("BF16", "F16", "F32"):
        writer.cast(f"doubles in {dtype}", own, dtype)
    entries = {"mul": [{"gather": [0, bits(1)]}, 1]}
    for dtype in ("BF16", "F16"):
        number, p = halfway(dtype)
        plan = [side("I8", (2,), [1, 0]), side("F32", (1,), [number])]
        codes = [0] * 256
        source = summed(dtype, (256,), {"base": 0}, entries, codes, plan, Plane(CONSTANT), chunk=256, base=base)
        writer.tensor(f"base and number in {dtype}", source)
        ones = Source("I32", (1, 1), little([1 << 30], 4), bits(16, 16), literal)
        right = Source("I32", (1, 256), little([1] * 256, 4), bits(16, 16), literal)
        after = {"mul": [{"gather": [2, bits(1)]}, 3]}
        source = summed(
            dtype, (256,), {"matmul": [0, 1, 30]}, after, codes, [ones, right, *plan], Plane(CONSTANT), chunk=256
        )
        writer.tensor(f"product and number in {dtype}", source)
        left = Source("I32", (1, 1), little([(1 << 23) + 1], 4), bits(16, 16), literal)
        nearly = little((casts.cast(u, "BF16", dtype) + (u == 0x3F80) for u in to_units(ONES, 2)), 2)
        expression = moved_by(23 + p, plane(16))
        code = planes(Plane(BYPASS))
        writer.tensor(f"base moved in {dtype}", Source(
            dtype, (1, 256), nearly, expression, code, None, [left, right], base=replace(base, shape=(1, 256))
        ))  # fmt: skip
    return writer.parts()


@valid("a mean with a step at 0, which is reached by sums of 1, not by sums of 0")
def mean_step_0() -> Parts:
    return one(mean_source(steps=(0, 0, 9, 17)))


@valid("a planes chunk with exactly 64 bytes after its last")
def read_ahead() -> Parts:
    data = little((v % (1 << 24) for v in noise(128)), 4)
    parts = one(Source("U32", (128,), data, bits(8, 8, 8), planes(*[Plane(RAW)] * 3)))
    stored = parts.chunks()[0].stored
    assert len(stored) == 512
    assert stored[447]
    return parts


# -- records ---------------------------------------------------------------------------------------------------------


def field(width: int, *spans: list[int], context: list[int] | None = None) -> dict:
    made: dict = {"plane": width, "spans": list(spans)}
    return made if context is None else {**made, "context": {"field": context}}


# A scale of 16 bits and 32 codes of four, the lower halves of the bytes first: GGUF's Q4_0.
NIBBLES = {"record": [18, field(7, [1, 0, 0, 7]), field(9, [1, 7, 0, 9]), field(4, [16, 16, 8, 4], [16, 20, 8, 4])]}
# Fields of five bits from nibbles and a word of single bits, and what is left of 13 bytes.
PIECES = {
    "record": [
        13,
        field(8, [1, 0, 0, 8]),
        field(5, [8, 32, 8, 4, 8, 1, 1], [8, 36, 8, 4, 16, 1, 1], context=[0, 1, 3, 6]),
        field(8, [1, 24, 0, 8]),
        field(8, [1, 96, 0, 8]),
    ]
}


def blocks(count: int, size: int, seed: int = 1) -> bytes:
    """Bytes whose nibbles and scales are not uniform."""
    low, high = skewed(count * size, 15, seed), skewed(count * size, 15, seed + 1)
    return bytes(a | b << 4 for a, b in zip(low, high, strict=True))


def records(expression: dict, data: bytes, *plans: Plane, dtype: str = "U8", chunk: int | None = None) -> Parts:
    units = len(data) // DTYPES[dtype][1]
    source = Source(dtype, (units,), data, expression, planes(*plans), chunk, encoding="GGUF_Q4_0")
    return one(source)


@valid("records: scales of 16 bits in two planes, 32 nibbles; two chunks, the second shorter; an encoding")
def record_nibbles() -> Parts:
    return records(NIBBLES, blocks(400, 18), Plane(RAW), Plane(CODED), Plane(CODED), chunk=18 * 250)


@valid("records of fields put together from pieces, which select their tables by the plane before")
def record_pieces() -> Parts:
    return records(PIECES, blocks(500, 13), Plane(RAW), Plane(CODED), Plane(RAW), Plane(CODED))


def relative_records() -> dict:
    """Codes given how far their scale, of which a record has two, is from the mean of three records' scales."""
    codes = {**field(4, [4, 16, 4, 4]), "context": {"field": [0, 1, 125, 6], "mean": 3}}
    return {"record": [4, field(8, [2, 0, 8, 8]), codes]}


@valid("records whose codes are given a scale less its mean; chunks begin and end within a group of records")
def record_relative() -> Parts:
    return records(relative_records(), blocks(3000, 4), Plane(CODED), Plane(CODED), chunk=4 * 1500 + 4)


@valid("records given a field of 9 bits less the mean of 65536 records, which is that of the chunk")
def record_relative_chunk() -> Parts:
    codes = {**field(4, [2, 16, 4, 4]), "context": {"field": [1, 6, 5, 6], "mean": 65536}}
    expression = {"record": [3, field(7, [1, 0, 0, 7]), field(9, [1, 7, 0, 9]), codes]}
    return records(expression, blocks(4000, 3), Plane(RAW), Plane(CODED), Plane(CODED), chunk=6000)


@valid("records of units of four bytes: eight nibbles in each, raw; as many fields as fill their last group")
def record_words() -> Parts:
    expression = {"record": [4, field(4, [8, 0, 4, 4])]}
    return records(expression, blocks(144, 4), Plane(RAW), dtype="I32")


def classed_records() -> Source:
    """Two records of 30 bytes are a row of 120 codes; codes are larger in rows and columns of higher classes."""
    rows, columns = bytes(v % 4 for v in skewed(40, 3)), bytes(skewed(120, 3, 2))
    codes = [min(15, v + rows[i // 120] + columns[i % 120]) for i, v in enumerate(skewed(4800, 9, 3))]
    data = b"".join(
        bytes(low | high << 4 for low, high in zip(codes[at : at + 30], codes[at + 30 : at + 60], strict=True))
        for at in range(0, 4800, 60)
    )
    plane = {"context": {"class": [0, 1, 5]}, "plane": 4, "spans": [[30, 0, 8, 4], [30, 4, 8, 4]]}
    sides = [Source("U8", (40,), rows, BYTES, literal), Source("U8", (120,), columns, BYTES, literal)]
    return Source("U8", (40, 60), data, {"record": [30, plane]}, planes(Plane(CODED)), 1410, sides)


@valid("records of nibbles given classes of row and column, of which the highest share a table; chunks within a row")
def record_classes() -> Parts:
    return one(classed_records())


def joined_records() -> Source:
    """The same, with the classes of rows and columns in one side plane."""
    source = classed_records()
    rows, columns = source.sides
    source.sides = [Source("U8", (160,), rows.data + columns.data, BYTES, literal)]
    plane = {"context": {"lines": [0, 120, 5]}, "plane": 4, "spans": [[30, 0, 8, 4], [30, 4, 8, 4]]}
    return replace(source, expression={"record": [30, plane]})


@valid("records of nibbles given classes of row and column that lie in one side plane")
def record_lines() -> Parts:
    return one(joined_records())


RUNS = [2, 5, 1, 3, 3, 0, 1, 7]  # 5, 5, 3, 0, 0, 0, 7
SCALES = [118, 119, 120, 121, 124, 7, 200, 122]  # some before and some behind what has a class


def scaled_records(dtype: str = "U16", position: int = 0) -> Source:
    """Codes that are small where their scale, one for two records, is large; side plane 0 is another tensor."""
    units = [SCALES[v % 8] << 7 for v in skewed(160, 11, 5)]
    codes = [min(15, v // (1 + (units[i // 32] >> 7) % 3)) for i, v in enumerate(skewed(5120, 15, 6))]
    data = bytes(
        low | high << 4
        for at in range(0, 5120, 16)
        for low, high in zip(codes[at : at + 8], codes[at + 8 : at + 16], strict=True)
    )
    plane = {"context": {"scale": [0, 7, 118, RUNS]}, "plane": 4, "spans": [[8, 0, 8, 4], [8, 4, 8, 4]]}
    unit = DTYPES[dtype][1]
    scale = Scale(position, little(units, unit), unit)
    return Source("U8", (320, 8), data, {"record": [8, plane]}, planes(Plane(CODED)), 8 * 111, scale=scale)


def with_scales(source: Source, dtype: str = "U16", *, packed: bool = False) -> Parts:
    """A file of a tensor and of the one that it has as a side plane, which comes first if that is its position."""
    writer = Writer()
    data, unit = source.scale.data, source.scale.unit

    def scales() -> None:
        if packed:
            pack = writer.pack(dtype, bits(*[8] * unit), planes(*[Plane(RAW)] * unit))
            writer.pack_member("other", pack, (33,), bytes(33 * unit))
            writer.pack_member("scales", pack, (len(data) // unit,), data)
        else:
            writer.tensor("scales", Source(dtype, (len(data) // unit,), data, bits(*[8] * unit), literal, 100))

    if source.scale.position < 2 - packed:
        scales()
        writer.tensor("codes", source)
    else:
        writer.tensor("codes", source)
        scales()
    return writer.parts()


@valid("records given a unit of another tensor, which comes before; runs of classes; chunks that end within a unit")
def record_scale() -> Parts:
    return with_scales(scaled_records())


@valid("records given a unit of another tensor, F32, that is part of a pack and comes later")
def record_scale_pack() -> Parts:
    return with_scales(scaled_records("F32", 2), "F32", packed=True)


def lined_scales() -> Source:
    """Codes given a scale, row and column, of which the highest classes share a table."""
    source = scaled_records()
    lines = bytes(v % 3 for v in skewed(80 + 64, 5, 7))
    (plane,) = source.expression["record"][1:]
    context = {"lines": [0, 64, 9], "scale": [1, *plane["context"]["scale"][1:]]}
    expression = {"record": [8, {**plane, "context": context}]}
    return replace(source, expression=expression, sides=[Source("U8", (144,), lines, BYTES, literal)])


@valid("records given a unit of another tensor, row and column")
def record_scale_lines() -> Parts:
    return with_scales(lined_scales())


@valid("records given row and column, and a unit of another tensor whose classes are all 0")
def record_scale_lines_0() -> Parts:
    source = lined_scales()
    source.expression["record"][1]["context"]["scale"][3] = [2, 0, 3, 0]
    return with_scales(source)


@valid("records of which one plane is constant, and one that fills its groups, and is not 0")
def record_constant() -> Parts:
    data = bytes(v for x in blocks(1024, 1) for v in (x, 7))
    return records({"record": [2, field(8, [1, 0, 0, 8]), field(8, [1, 8, 0, 8])]}, data, Plane(CODED), Plane(CONSTANT))


@valid("records longer than what fills a group: chunks that are literal and affine hold units as ever")
def record_literal() -> Parts:
    def code(place: Place) -> bytes:
        return affine(0, 0)(place) if place.start else literal(place)

    expression = {"record": [2, field(16, [1, 0, 0, 16])]}
    return one(Source("U8", (20,), bytes([*range(10), *bytes(10)]), expression, code, 10))


@valid("an image of a GGUF file")
def image_gguf() -> Parts:
    writer = Writer()
    writer.tensor("a", Source("U8", (3,), b"abc", BYTES))
    writer.image([b"GGUF", (0, 1), b"end"], BYTES, literal, kind="gguf")
    return writer.parts()


# -- lossy -----------------------------------------------------------------------------------------------------------


def number(unit: int, dtype: str) -> float:
    sign, magnitude = value(unit, dtype)
    return -float(magnitude) if sign else float(magnitude)


def near(dtype: str, units: int, recipe: str, seed: int) -> Source:
    """Numbers that are those of a source without the lower half of their bits."""
    size = DTYPES[dtype][1]
    exact = weights(units, seed) if size == 2 else b"".join(b"\0\1" + weights(1, seed + i) for i in range(units))
    data = b"".join(bytes(size // 2) + exact[at + size // 2 : at + size] for at in range(0, len(exact), size))
    both = [[number(u, dtype) for u in to_units(each, size)] for each in (exact, data)]
    nmse, most = errors(*both)
    stated = {"max": pack(">d", most).hex(), "nmse": pack(">d", nmse).hex(), "recipe": recipe}
    return Source(dtype, (units,), data, bits(*[8] * size), lossy=stated)


@valid("lossy: tensors of two recipes, a tie and a cast that say so too, an error of 0, a tensor that is the source's")
def lossy() -> Parts:
    writer = Writer()
    own = writer.tensor("a", near("BF16", 40, "q8_0", 3))
    writer.tensor("b", near("F32", 20, "slim,bpw=3.5", 4))
    writer.ref("c", own)
    writer.cast("d", own, "F16")
    exact = Source("F16", (3,), little([0x3C00, 0, 0x8000], 2), bits(16))
    exact.lossy = {"max": "0" * 16, "nmse": "0" * 16, "recipe": "x" * 64}
    writer.tensor("e", exact)
    writer.tensor("f", Source("F32", (2,), bytes(8), bits(16, 16)))
    for tensor in (2, 3):
        writer.header["tensors"][tensor]["lossy"] = writer.header["tensors"][own]["lossy"]
    writer.header["lossy"] = {"source": sha256(b"the source").hexdigest()}
    return writer.parts()


@valid("expressions not used: contexts of a base outside `add`, factors beside classes, under scatter, in `add`")
def expressions_unused() -> Parts:
    writer = Writer()
    factor = plane(8, factor=[0, 1, 1, 3])
    for expression in (
        {"bits": [plane(8, base=[8, 0, 2])], "rotate": 0},
        {"bits": [factor, plane(8, **{"class": [0, 1, 4]})], "rotate": 0},
        {"bits": [{"scatter": [0, factor]}], "rotate": 0},
        add(factor),
    ):
        writer.expression(expression)
    writer.tensor("w", Source("U8", (3,), b"abc", BYTES))
    return writer.parts()
