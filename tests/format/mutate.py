"""Changes sound files with knowledge of their structure, and makes the digests over the change right again.

Without that repair every change would end at a digest and nothing behind it would be tried.

    python tests/format/mutate.py SEED [FILE]        what becomes of one mutation; writes it to FILE

(with `tests`, `format_spec/reference` and the library on PYTHONPATH)
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import decode
import slimtensors.numpy
from decode import CODED, DESCRIPTOR, HEAD, PLANES, RAW, Refused
from encode_odd import odd_file
from format.sides import Refusal, by_library, by_reference, known_bases
from parts import ChunkParts, Parts, StreamParts
from slimtensors.errors import FormatError

VALID = Path(__file__).resolve().parents[2] / "format_spec" / "vectors" / "valid"
LARGEST_BASE = 3000
ODD_BASES = 40
MOST_CHUNKS = 40  # what `refit` is ready to add

NUMBERS = [0, 1, 2, 3, 7, 8, 9, 11, 12, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 1 << 16, (1 << 16) - 1]
NUMBERS += [1 << 24, (1 << 32) - 1, 1 << 32, 1 << 47, 1 << 48, 1 << 53, (1 << 63) - 1, 1 << 64, (1 << 64) - 1]
VALUES: list[Any] = [None, True, False, "", "U8", "F32", "BF16", "add", [], {}, 0, 1, 1.0, -1, {"plane": 8}, {"ref": 0}]
KEYS = [
    "",
    "add",
    "bits",
    "chunk",
    "context",
    "dtype",
    "encoding",
    "expression",
    "factor",
    "image",
    "lines",
    "lossy",
    "max",
    "nmse",
    "pack",
    "recipe",
    "record",
    "ref",
    "scale",
    "scatter",
    "sides",
    "shape",
    "spans",
]
DTYPES = list(decode.DTYPES)


@cache
def bases() -> list[bytes]:
    """Small files of every kind, all sound."""
    small = [path.read_bytes() for path in sorted(VALID.glob("*.slimtensors"))]
    odd = [odd_file(seed, size=300)[0] for seed in range(ODD_BASES)]
    return [data for data in [*small, *odd] if len(data) <= LARGEST_BASE]


# -- repair ----------------------------------------------------------------------------------------------------------


def parsed(parts: Parts) -> decode.Header | None:
    try:
        return decode.HeaderReader(parts.header).result()
    except Refused:
        return None


def refit(parts: Parts, header: decode.Header) -> None:
    """As many streams, chunks and identities as the header implies, of the lengths that it implies."""
    none = StreamParts([])
    streams = [*parts.streams, *([none] * (len(header.streams) - len(parts.streams)))][: len(header.streams)]
    parts.streams = []
    for stream, old in zip(header.streams, streams, strict=True):
        chunks = list(old.chunks)[: stream.chunks]
        if chunks and stream.chunks <= MOST_CHUNKS:
            chunks += [chunks[-1]] * (stream.chunks - len(chunks))
        left = stream.bytes()
        made = []
        for chunk in chunks:
            length = min(left, stream.chunk * stream.unit)
            left -= length
            made.append(ChunkParts(chunk.stored, length, chunk.decoded_digest))
        parts.streams.append(StreamParts(made))
    count = len(header.tensors)
    parts.identities = (parts.identities + [bytes(32)] * count)[:count]


def fixup(parts: Parts) -> None:
    """Digests of decoded bytes, identities and the image's SHA-256, as far as the chunks can be decoded."""
    header = parsed(parts)
    if header is None or len(header.streams) != len(parts.streams):
        return
    try:
        decode.put_bases(header, known_bases().get)
    except Refused:
        return
    decoded = [b""] * len(header.streams)
    for i in decode.decoding_order(header.streams):
        stream, stored = header.streams[i], parts.streams[i]
        sides, out = decode.sides_of(header, i, decoded), b""
        for c, chunk in enumerate(stored.chunks):
            n = min(stream.chunk, stream.units - c * stream.chunk)
            try:
                part = decode.decode_chunk(chunk.stored, stream, c * stream.chunk, n, sides)
            except Refused:
                return
            chunk.decoded_digest = decode.decoded_digest(part)
            out += part
        if len(out) != stream.bytes():
            return
        decoded[i] = out
    tensors = decode.assemble(header, decoded)
    parts.identities = [decode.digest(tensor) for tensor in tensors]
    if header.image:
        repair_image(parts, header.image, decoded[-1], tensors)


def repair_image(parts: Parts, image: decode.Image, stream: bytes, tensors: list[bytes]) -> None:
    chunk = parts.streams[-1].chunks[0]
    if chunk.stored[0] != decode.LITERAL or chunk.decoded_length < 32:
        return
    source, at = b"", 32
    for segment in image.segments:
        if isinstance(segment, int):
            source += stream[at : at + segment]
            at += segment
        else:
            source += b"".join(tensors[segment[0] : sum(segment)])
    chunk.stored = chunk.stored[:16] + hashlib.sha256(source).digest() + chunk.stored[48:]
    chunk.decoded_digest = decode.decoded_digest(chunk.stored[16 : 16 + chunk.decoded_length])


# -- mutations -------------------------------------------------------------------------------------------------------


class Mutator:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.base = self.rng.choice(bases())

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def make(self) -> bytes:
        parts = Parts.split(self.base)
        structural: list[tuple[int, Callable[[Parts], None]]] = [
            (30, self.header_value),
            (6, self.header_text),
            (3, self.prefix),
            (8, self.table),
            (50, self.chunk),
        ]
        for _ in range(self.rng.choice([1, 1, 1, 1, 2, 3])):
            self.weighted(structural)(parts)
        if self.chance(0.7):
            header = parsed(parts)
            if header is not None and self.chance(0.8):
                refit(parts, header)
            fixup(parts)
        data = parts.join()
        return self.whole(data) if self.chance(0.03) else data

    def weighted(self, choices: list[tuple[int, Any]]) -> Any:
        return self.rng.choices([c for _, c in choices], [w for w, _ in choices])[0]

    def number(self, old: int, most: int = 1 << 64) -> int:
        new = self.rng.choice([old + 1, old - 1, old * 2, old // 2, old ^ 1 << self.rng.randrange(8), *NUMBERS])
        return min(max(new, 0), most)

    def bytes(self, data: bytes) -> bytes:
        """A flip, a value, or a run of values."""
        if not data:
            return data
        out = bytearray(data)
        at = self.rng.randrange(len(out))
        kind = self.rng.randrange(4)
        if kind < 2:
            out[at] ^= 1 << self.rng.randrange(8)
        elif kind == 2:
            out[at] = self.rng.choice([0, 1, 127, 128, 255, self.rng.randrange(256)])
        else:
            length = min(self.rng.choice([2, 4, 16]), len(out) - at)
            out[at : at + length] = self.rng.choice([bytes(length), b"\xff" * length, self.rng.randbytes(length)])
        return bytes(out)

    # -- header

    def header_value(self, parts: Parts) -> None:
        """One value of the header's JSON."""
        try:
            parts.json = json.loads(parts.header)
        except ValueError:
            return
        places: list[tuple[Any, Any]] = []

        def visit(value: Any) -> None:
            for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
                places.append((value, key))
                visit(value[key])

        visit(parts.json)
        if not places:
            return
        container, key = self.rng.choice(places)
        self.change(container, key)
        try:
            parts.set_json()
        except (TypeError, ValueError):
            return

    def change(self, container: Any, key: Any) -> None:
        value = container[key]
        kind = self.rng.randrange(10)
        if kind == 0:
            container[key] = self.rng.choice(VALUES)
        elif kind == 1:
            del container[key]
        elif kind == 2 and isinstance(container, dict):
            container[self.rng.choice(KEYS)] = container.pop(key) if self.chance(0.5) else self.rng.choice(VALUES)
        elif kind == 2:
            container.insert(key, self.rng.choice([value, container[self.rng.randrange(len(container))]]))
        elif isinstance(value, bool):
            container[key] = not value
        elif isinstance(value, int):
            container[key] = self.number(value)
        elif isinstance(value, str):
            container[key] = self.string(value)
        elif isinstance(value, list) and len(value) > 1:
            a, b = self.rng.sample(range(len(value)), 2)
            value[a], value[b] = value[b], value[a]

    def string(self, value: str) -> str:
        if value in DTYPES:
            return self.rng.choice(DTYPES)
        at = self.rng.randrange(len(value) + 1)
        return (
            value[:at] + self.rng.choice(["", "x", "\0", "\x7f", "\u2028", "\U0001f600", "n" * 512]) + value[at + 1 :]
        )

    def header_text(self, parts: Parts) -> None:
        """The header's bytes, mostly out of canonical form."""
        text = parts.header
        at = self.rng.randrange(len(text) + 1)
        pieces = [
            b" ",
            b"\n",
            b"0",
            b",",
            b"{}",
            b'"',
            b"\\u0041",
            b"\xff",
            b"-",
            b".0",
            b"e0",
            b"\0",
            text[at : at + 9],
        ]
        kind = self.rng.randrange(4)
        if kind == 0:
            parts.header = self.bytes(text)
        elif kind == 1:
            parts.header = text[:at] + text[at + self.rng.choice([1, 2, 9]) :]
        elif kind == 2:
            parts.header = text[:at] + self.rng.choice(pieces) + text[at:]
        else:
            replaced = [
                (b",", b", "),
                (b":", b": "),
                (b"0", b"00"),
                (b"a", b"\\u0061"),
                (b"1", b"1.0"),
                (b"8", b"true"),
            ]
            parts.header = text.replace(*self.rng.choice(replaced), 1)

    # -- prefix, index, table

    def prefix(self, parts: Parts) -> None:
        name = self.rng.choice(
            ["version", "features", "file_length", "header_length", "index_length", "tail", "trailing"]
        )
        if name == "tail":
            parts.index_tail = bytes(self.rng.choice([1, 32, 40]))
        elif name == "trailing":
            parts.trailing = bytes(self.rng.choice([1, 48, 64, 128]))
        elif name in ("version", "features"):
            setattr(parts, name, self.number(0, (1 << 32) - 1))
        else:
            data = parts.join()
            _, _, _, *lengths, _ = decode.PREFIX.unpack_from(data)
            old = lengths[["file_length", "header_length", "index_length"].index(name)]
            setattr(parts, name, self.number(old, (1 << (64 if name == "file_length" else 32)) - 1))

    def table(self, parts: Parts) -> None:
        kind = self.rng.randrange(9)
        if kind == 0 and parts.identities:
            parts.identities[self.rng.randrange(len(parts.identities))] = self.rng.randbytes(32)
        if kind == 1:
            parts.padding = self.bytes(bytes(self.rng.choice([1, 16, 63, 64])))
        chunks = parts.chunks()
        if not chunks:
            return
        chunk, stream = self.rng.choice(chunks), self.rng.choice(parts.streams)
        if kind == 2:
            chunk.stored_length = self.number(len(chunk.stored), (1 << 32) - 1)
        elif kind == 3:
            chunk.decoded_length = self.number(chunk.decoded_length, (1 << 32) - 1)
        elif kind == 4:
            chunk.decoded_digest ^= 1 << self.rng.randrange(64)
        elif kind == 5:
            stream.stored_length = self.number(sum(len(c.stored) for c in stream.chunks), (1 << 64) - 1)
        elif kind == 6 and stream.chunks:
            self.rng.shuffle(stream.chunks)
        elif kind == 7:
            self.rng.shuffle(parts.streams)
        elif kind == 8 and stream.chunks:
            stream.chunks.pop(self.rng.randrange(len(stream.chunks)))

    # -- chunks

    def chunk(self, parts: Parts) -> None:
        if not (chunks := parts.chunks()):
            return
        planes = [chunk for chunk in chunks if chunk.stored[:1] == bytes([PLANES])]
        chunk = self.rng.choice(planes if planes and self.chance(0.8) else chunks)
        chunk.stored = self.weighted(
            [
                (2, self.head),
                (4, self.descriptor),
                (12, self.payload),
                (1, self.length),
                (1, self.bytes),
                (1, lambda _: self.rng.choice(chunks).stored),
            ]
        )(chunk.stored)

    def head(self, stored: bytes) -> bytes:
        return self.bytes(stored[:32]) + stored[32:]

    def length(self, stored: bytes) -> bytes:
        if self.chance(0.5):
            return stored + bytes(64 * self.rng.randrange(1, 4))
        return stored[: -64 * self.rng.randrange(1, 3)]

    def descriptor(self, stored: bytes) -> bytes:
        planes = stored[1] if len(stored) > 1 else 0
        if stored[:1] != bytes([PLANES]) or len(stored) < HEAD.size + DESCRIPTOR.size * planes or not planes:
            return self.bytes(stored)
        at = HEAD.size + DESCRIPTOR.size * self.rng.randrange(planes)
        numbers = list(DESCRIPTOR.unpack_from(stored, at))
        i = self.rng.randrange(len(numbers))
        numbers[i] = self.number(numbers[i], (1 << 8 * [1, 1, 2, 4, 4, 4][i]) - 1)
        return stored[:at] + DESCRIPTOR.pack(*numbers) + stored[at + DESCRIPTOR.size :]

    def payload(self, stored: bytes) -> bytes:
        """Bytes of one payload, or of its gaps; of a coded one often those of a certain part."""
        spans = payload_spans(stored)
        if not spans:
            return self.bytes(stored)
        begin, end = self.rng.choice(spans)
        return stored[:begin] + self.bytes(stored[begin:end]) + stored[end:]

    # -- the file as a whole: nothing is repaired

    def whole(self, data: bytes) -> bytes:
        kind = self.rng.randrange(4)
        at = self.rng.randrange(len(data))
        if kind == 0:
            return data[:at]
        if kind == 1:
            return data + self.rng.randbytes(self.rng.choice([1, 64]))
        if kind == 2:
            return data[:at] + data[at + self.rng.choice([1, 64]) :]
        return self.bytes(data)


def payload_spans(stored: bytes) -> list[tuple[int, int]]:
    """Where the parts of a planes chunk lie, as far as its descriptors can be believed."""
    if len(stored) < HEAD.size or stored[0] != PLANES:
        return []
    planes = stored[1]
    at = HEAD.size + DESCRIPTOR.size * planes
    spans: list[tuple[int, int]] = []
    for i in range(planes):
        if HEAD.size + DESCRIPTOR.size * (i + 1) > len(stored):
            break
        mode, _, _, length, blocks, escapes = DESCRIPTOR.unpack_from(stored, HEAD.size + DESCRIPTOR.size * i)
        if not length:
            continue
        at = -(-at // 16) * 16
        if at + length > len(stored):
            break
        spans.append((at, at + length))
        if mode >= CODED and blocks < 64:
            fixed = [4 * escapes, 2 * escapes, 4 * blocks, 128 * blocks]
            words = length - 2 * (max(0, length - sum(-(-part // 16) * 16 for part in fixed)) // 2)
            spans += [(at, at + 2), (at, at + 24), (at + 16, at + words), (at + 16, min(at + 80, at + length))]
        elif mode == RAW:
            spans.append((at + max(0, length - 32), at + length))  # the last step's, some bits of which may be unused
        at += length
    spans.append((at, len(stored)))
    return [(begin, min(end, len(stored))) for begin, end in spans if begin < min(end, len(stored))]


# -- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    accepted: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)  # by the reference's reason
    faults: list[str] = field(default_factory=list)


def judge(data: bytes, tally: Tally, what: str) -> None:
    """Both readers agree, and the library fails only as it should."""
    ours = by_reference(data)
    try:
        theirs = by_library(data)
        if isinstance(theirs, Refusal):
            with contextlib.suppress(FormatError):
                slimtensors.numpy.load(data, threads=1)
    except Exception as error:
        tally.faults.append(f"{what}: the library raised {error!r}; the reference: {str(ours)[:200]}")
        return
    if isinstance(ours, Refusal) and isinstance(theirs, Refusal):
        if ours.newer != theirs.newer:
            tally.faults.append(f"{what}: newer: {ours.newer} ({ours.reason}), {theirs.newer} ({theirs.reason})")
    elif ours != theirs:
        tally.faults.append(f"{what}: reference {str(ours)[:200]}; library {str(theirs)[:200]}")
    if isinstance(ours, Refusal):
        tally.refused[ours.reason] += 1
    else:
        tally.accepted += 1


def run(seeds: range) -> Tally:
    tally = Tally()
    for seed in seeds:
        judge(Mutator(seed).make(), tally, f"seed {seed}")
    return tally


def main(arguments: list[str]) -> int:
    data = Mutator(int(arguments[0])).make()
    if len(arguments) > 1:
        Path(arguments[1]).write_bytes(data)
    tally = Tally()
    judge(data, tally, f"seed {arguments[0]}")
    print(tally)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
