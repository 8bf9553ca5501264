"""Legal but odd files from a seed: every choice the format leaves open is drawn, likely or not.

    python format_spec/reference/encode_odd.py SEED FILE

`odd_file(seed)` gives the file and what a decoder must make of it.
"""

from __future__ import annotations

import random
import string
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import zstandard

import casts
from coder import GROUP, round_up
from decode import BYPASS, CODED, CONSTANT, RAW, ZSTD
from encode import Plane, affine_chunk, bypass_symbol, even_table, literal_chunk, plane_symbols, raw_payload, to_units
from expressions import DTYPES, Sparse
from writer import BYTES, Place, Source, Writer

NATURAL = {  # the splits an encoder would choose
    "BF16": [{"bits": [{"plane": 8}, {"plane": 8}], "rotate": 1}, {"bits": [{"plane": 6}, {"plane": 10}], "rotate": 1}],
    "F32": [{"bits": [{"plane": 8}, {"plane": 8}, {"plane": 8}, {"plane": 8}], "rotate": 1}],
}


@dataclass
class Expected:
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    metadata: dict[str, str]
    image: bytes | None


class OddFile:
    def __init__(self, seed: int, *, size: int = 2500) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a repeatable sequence is wanted, not a secret
        self.size = size  # about the most units of a tensor
        self.writer = Writer(self.metadata())
        self.expected: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        self.open_packs: list[int] = []

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def metadata(self) -> dict[str, str]:
        alphabet = string.printable + '"\\\0\x1f\x7f\u00e9\u2028\ud7ff\uffff\U0001f600'
        word = lambda: "".join(self.rng.choices(alphabet, k=self.rng.randrange(6)))  # noqa: E731
        return {word(): word() for _ in range(self.rng.choice([0, 0, 1, 3]))}

    def name(self) -> str:
        while True:
            name = "".join(self.rng.choices('abz./"\\\u00e9\uffff\U0001f600', k=self.rng.randrange(1, 9)))
            if name not in self.expected:
                return name

    def units(self) -> int:
        """Of every kind: under a group, whole groups, one off, and anything."""
        groups = GROUP * self.rng.randrange(1, max(2, self.size // GROUP))
        few, any_ = self.rng.choice([1, 2, 127, 128, 129]), self.rng.randrange(1, self.size)
        return self.rng.choice([few, groups, groups - 1, groups + 1, any_])

    def shape(self, elements: int) -> tuple[int, ...]:
        if elements == 1 and self.chance(0.5):
            return ()
        dims: list[int] = []
        while elements > 1 and len(dims) < 15 and self.chance(0.7):
            divisor = self.rng.choice([d for d in range(1, min(elements, 64) + 1) if elements % d == 0])
            dims.append(divisor)
            elements //= divisor
        return (*dims, elements)

    def elements(self, dtype: str) -> int:
        bits, unit = DTYPES[dtype]
        units = self.units()
        return max(1, units * unit * 8 // bits) if bits >= 8 else round_up(units, 8)

    # -- values

    def data(self, dtype: str, elements: int) -> bytes:
        bits, unit = DTYPES[dtype]
        count = elements * bits // 8 // unit
        kind = self.rng.choice([0, 1, 2, 3, 3, 3, 4, 4, 4, 5])
        wide = 1 << 8 * unit
        if kind == 0:
            values = [self.rng.randrange(wide)] * count
        elif kind == 1:
            start, step = self.rng.randrange(wide), self.rng.randrange(wide)
            values = [(start + i * step) % wide for i in range(count)]
        elif kind == 2:
            return self.rng.randbytes(count * unit)
        elif kind == 3:  # a skewed few
            few = [self.rng.randrange(wide) for _ in range(self.rng.randrange(2, 20))]
            values = [few[min(int(self.rng.expovariate(0.7)), len(few) - 1)] for _ in range(count)]
        elif kind == 4:  # as weights are: the high bits agree
            centre, spread = self.rng.randrange(wide), 1 << self.rng.randrange(1, 8 * unit)
            values = [int(centre + self.rng.gauss(0, spread / 4)) % wide for _ in range(count)]
        else:  # mostly zero
            share = self.rng.choice([0.01, 0.1, 0.5])
            values = [self.rng.randrange(wide) if self.chance(share) else 0 for _ in range(count)]
        return b"".join(v.to_bytes(unit, "little") for v in values)

    # -- expressions

    def expression(self, dtype: str, sides: int = 0) -> dict:
        if not sides and self.chance(0.3) and dtype in NATURAL:
            return self.rng.choice(NATURAL[dtype])
        if not sides and self.chance(0.2):
            values = self.bits(dtype, 0)
            values["bits"] = values["bits"][:15]
            return {"scatter": [{"plane": 1}, values]}
        return self.bits(dtype, sides)

    def bits(self, dtype: str, sides: int) -> dict:
        left = 8 * DTYPES[dtype][1]
        keep = left if self.chance(0.9) else self.rng.randrange(1, left + 1)  # else a literal or an affine must do
        parts: list[dict] = []
        while keep > 0 and len(parts) < 16:
            room = min(16, keep)
            width = room if len(parts) == 15 else self.rng.choice([room, self.rng.randrange(1, room + 1), min(room, 8)])
            plane: dict = {"plane": width}
            if sides and self.chance(0.6):
                plane = {"scatter": [self.rng.randrange(sides), plane]}
            parts.append(plane)
            keep -= width
        return {"bits": parts, "rotate": self.rng.randrange(2)}

    # -- chunks

    def plane(self, fields: list[int], width: int) -> Plane:
        modes = [CONSTANT] if len(set(fields)) <= 1 else []
        if fields:
            modes += [CODED] * 3 + ([RAW, ZSTD] if width <= 8 else [BYPASS] * 2)
        mode = self.rng.choice(modes)
        blocks = self.rng.choice([1, 1, self.rng.randrange(len(fields) // GROUP + 1)])
        plan = Plane(mode, self.rng.choice([11, 12]), max(1, blocks))
        if mode == ZSTD:
            compressor = zstandard.ZstdCompressor(level=self.rng.choice([-5, 1, 19]), write_checksum=self.chance(0.5))
            plan.frame = compressor.compress(raw_payload(fields, width))
        if mode in (CODED, BYPASS):
            if mode == CODED:
                plan.base = self.best_base(fields, width)
                plan.escape = frozenset(self.rng.sample(range(len(fields)), self.rng.choice([0, 0, 2])))
                if len(plane_symbols(fields, width, plan)[1]) > len(fields) // 16:
                    return Plane(RAW) if width <= 8 else self.bypass_or_none(fields, width, plan)
            plan.frequency = self.table(fields, width, plan)
        return plan

    def bypass_or_none(self, fields: list[int], width: int, plan: Plane) -> Plane:
        plan = Plane(BYPASS, plan.precision, plan.blocks)
        plan.frequency = self.table(fields, width, plan)
        return plan

    def best_base(self, fields: list[int], width: int) -> int:
        centre = self.rng.choice(fields) - self.rng.choice([1, 8, 128, 255])
        most = (1 << width) - 2  # symbol 1 still fits, so that a table of two can be made
        return self.rng.choice([0, max(0, min(centre, most)), max(0, min(min(fields) - 1, most))])

    def table(self, fields: list[int], width: int, plan: Plane) -> list[int]:
        """Even, uneven, or with symbols that never occur."""
        symbols = plane_symbols(fields, width, plan)[0]
        if plan.mode == BYPASS:
            legal = range(min(112, bypass_symbol((1 << width) - 1)[0] + 1))
        else:
            legal = range(min(256, max(2, (1 << width) - plan.base)))
        kind = self.rng.randrange(3)
        occurring = set(symbols)
        if kind == 0 and len(occurring) > 1:
            return even_table(symbols, plan.precision)
        while len(occurring) < 2 or (kind == 1 and self.chance(0.9)):
            occurring.add(self.rng.choice(legal))
        frequency = [1 if s in occurring else 0 for s in range(256)]
        left = (1 << plan.precision) - len(occurring)
        for s in self.rng.sample(sorted(occurring), len(occurring)):
            share = self.rng.choice([0, self.rng.randrange(left + 1), left // 2])
            frequency[s] += share
            left -= share
        frequency[self.rng.choice(sorted(occurring))] += left
        return frequency

    def code(self, place: Place) -> bytes:
        n = len(place.data) // place.unit
        extra = self.rng.choice([0, 0, 0, 1])
        most = round_up(len(place.data), 64) + 128
        units = to_units(place.data, place.unit)
        step = (units[1] - units[0]) % (1 << 8 * place.unit) if n > 1 else self.rng.randrange(1 << 8 * place.unit)
        straight = all((b - a - step) % (1 << 8 * place.unit) == 0 for a, b in pairwise(units))
        candidates = [literal_chunk(place.data, place.unit, extra)]
        if straight and self.chance(0.5):
            candidates.append(affine_chunk(units[0], step, n, place.unit, extra))
        elif n >= GROUP and self.holds(place, units):
            plans = [
                self.plane(fields, part.width)
                for fields, part in zip(place.fields(), place.expression.planes(), strict=True)
            ]
            candidates.append(place.planes(*plans, extra=extra).bytes())
        candidates = [c for c in candidates if len(c) <= most]
        return candidates[-1] if candidates and self.chance(0.95) else literal_chunk(place.data, place.unit)

    def holds(self, place: Place, units: list[int]) -> bool:
        """Whether the planes hold all that the units of the body have."""
        bits = 8 * place.unit
        expression = place.expression.values if isinstance(place.expression, Sparse) else place.expression
        r = expression.rotate
        below = 0
        limits = []  # where each plane's field begins, what it may hold, and by which rows
        for part in expression.parts:
            limits.append((below, (1 << part.width) - 1, part.side))
            below += part.width
        for j, unit in enumerate(units[: len(units) - len(units) % GROUP]):
            v = (unit << r | unit >> bits - r) % (1 << bits)
            if v >> below:
                return False
            for at, mask, side in limits:
                if side is None:
                    continue
                rows = place.sides[side]
                if v >> at & mask and not rows[(place.start + j) // (place.units // len(rows))]:
                    return False
        return True

    # -- tensors

    def chunk(self, units: int) -> int | None:
        return self.rng.choice([None, None, None, units + 5, self.rng.randrange(max(1, units // 3), units + 1)])

    def plain(self, dtype: str) -> None:
        elements = self.elements(dtype)
        data = self.data(dtype, elements)
        units = len(data) // DTYPES[dtype][1]
        source = Source(dtype, self.shape(elements), data, self.expression(dtype), self.code, self.chunk(units))
        self.add(self.writer.tensor, source)

    def with_sides(self, dtype: str) -> None:
        """Rows, some of which lack some planes."""
        unit = DTYPES[dtype][1]
        per_row, rows = self.rng.choice([1, 7, 64, 128, 130]), self.rng.randrange(1, 12)
        per_row = round_up(per_row, {"C64": 2, "F6_E2M3": 3, "F6_E3M2": 3}.get(dtype, 1))
        units = per_row * rows
        elements = units * unit * 8 // DTYPES[dtype][0]
        sides = [bytes(int(self.chance(p)) for _ in range(rows)) for p in self.rng.choice([[0.5], [0.0], [1.0, 0.3]])]
        expression = self.expression(dtype, len(sides))
        named = sorted({part["scatter"][0] for part in expression["bits"] if "scatter" in part})
        sides = [sides[k] for k in named]  # every side plane is named by a scatter
        for part in expression["bits"]:
            if "scatter" in part:
                part["scatter"][0] = named.index(part["scatter"][0])
        data = bytearray(self.data(dtype, elements))
        below = 0
        for part in expression["bits"]:
            width = (part["scatter"][1] if "scatter" in part else part)["plane"]
            for j in range(units if "scatter" in part else 0):
                if not sides[part["scatter"][0]][j // per_row]:
                    clear(data, j, unit, below, width, expression["rotate"])
            below += width
        made = [Source("U8", (rows,), side, BYTES, self.code, self.chunk(rows)) for side in sides]
        shape = self.shape(elements)
        self.add(self.writer.tensor, Source(dtype, shape, bytes(data), expression, self.code, self.chunk(units), made))

    def add(self, method: object, *arguments: object) -> None:
        name = self.name()
        method(name, *arguments)
        tensor = self.writer.header["tensors"][-1]
        self.expected[name] = (tensor["dtype"], tuple(tensor["shape"]), self.writer.decoded[-1])

    def pack(self) -> None:
        """A tensor in a new pack, or in one of those begun."""
        if self.open_packs and self.chance(0.6):
            p = self.rng.choice(self.open_packs)
        else:
            dtype = self.rng.choice(list(DTYPES))
            p = self.writer.pack(dtype, self.expression(dtype), self.code)
            self.open_packs.append(p)
        dtype = self.writer.pack_sources[p].dtype
        elements = self.rng.choice([8, 24, 8 * self.rng.randrange(1, 30)])
        self.add(self.writer.pack_member, p, self.shape(elements), self.data(dtype, elements))

    def ref(self) -> None:
        targets = self.holders()
        if targets:
            self.add(self.writer.ref, self.rng.choice(targets))

    def holders(self) -> list[int]:
        """Tensors that hold bytes themselves."""
        without = [i for i, e in enumerate(self.writer.header["expressions"]) if "ref" in e or "cast" in e]
        tensors = self.writer.header["tensors"]
        return [i for i, t in enumerate(tensors) if self.writer.decoded[i] and t.get("expression") not in without]

    def cast(self) -> None:
        tensors = self.writer.header["tensors"]
        sources = [i for i in self.holders() if tensors[i]["dtype"] in casts.FLOATS]
        if sources:
            source = self.rng.choice(sources)
            dtypes = sorted(casts.FLOATS.keys() - {tensors[source]["dtype"]})
            self.add(self.writer.cast, source, self.rng.choice(dtypes))

    def image(self) -> None:
        segments: list[bytes | tuple[int, int]] = []
        at = 0
        while at < len(self.expected) and self.chance(0.9):
            if self.chance(0.6):
                segments.append(self.rng.randbytes(self.rng.randrange(1, 300)))
            count = min(self.rng.randrange(1, 4), len(self.expected) - at)
            segments.append((at, count))
            at += count
            while at < len(self.expected) and not self.writer.decoded[at] and self.chance(0.5):
                at += 1  # one without elements need not be there
        if at < len(self.expected):
            segments.append((at, len(self.expected) - at))
        kind = self.rng.choice(["gguf", "safetensors"])
        if kind == "safetensors":
            metadata = {"__metadata__": self.rng.choice([None, {"format": "pt"}, [1]])} if self.chance(0.5) else {}
            front = self.writer.front(segments, metadata)
            cut = self.rng.choice([0, 3, 8, len(front) - 1])
            segments = [piece for piece in (front[:cut], front[cut:]) if piece] + segments
        literals = sum(len(s) for s in segments if isinstance(s, bytes))
        self.writer.image(segments, self.expression("U8"), self.code, self.chunk(32 + literals), kind)

    def make(self) -> tuple[bytes, Expected]:
        for _ in range(self.rng.choice([0, 1, 2, 3, 6])):
            dtype = self.rng.choice(list(DTYPES))
            kind = self.rng.randrange(9)
            if kind < 4:
                self.plain(dtype)
            elif kind < 6:
                self.with_sides(dtype)
            elif kind == 6:
                self.pack()
            elif kind == 7:
                self.ref()
            else:
                self.add(self.writer.empty, dtype, self.rng.choice([(0,), (3, 0, 2**40)]))
        if self.chance(0.3):
            self.cast()
        if self.chance(0.4):
            self.image()
        expected = Expected(self.expected, self.writer.header["metadata"], self.writer.source)
        return self.writer.parts().join(), expected


def clear(data: bytearray, j: int, unit: int, below: int, width: int, r: int) -> None:
    """Sets the field of `width` bits above `below` of unit `j` to 0."""
    bits = 8 * unit
    v = int.from_bytes(data[j * unit : (j + 1) * unit], "little")
    v = (v << r | v >> bits - r) % (1 << bits)
    v &= ~(((1 << width) - 1) << below)
    v = (v >> r) + (v % (1 << r) << bits - r)
    data[j * unit : (j + 1) * unit] = v.to_bytes(unit, "little")


def odd_file(seed: int, *, size: int = 2500) -> tuple[bytes, Expected]:
    return OddFile(seed, size=size).make()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(odd_file(int(sys.argv[1]))[0])
