"""Why each tensor is stored as it is, in words, from what the file says: chunk kinds, modes, references, packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np

from slimtensors.cli.alike import Reason, figure, reason
from slimtensors.codecs import head
from slimtensors.codecs.grids import float_step
from slimtensors.codecs.head import HEAD_BYTES, Descriptor, Mode
from slimtensors.codecs.place import Place
from slimtensors.container.header import Tensor
from slimtensors.dtypes import DType
from slimtensors.expression import (
    Bits,
    ClassContext,
    Decimal,
    FieldClass,
    FieldLines,
    FieldScale,
    Gather,
    Mul,
    Record,
    Sparse,
    Sum,
    Trellis,
    Values,
)
from slimtensors.limits import PACK_TENSOR_BYTES
from slimtensors.reading.tensors import TensorFile, open_file

__all__ = ["explain"]

MANTISSA = {
    "F16": 10, "BF16": 7, "F32": 23, "C64": 23, "F64": 52,
    "F8_E4M3": 3, "F8_E4M3FNUZ": 3, "F8_E5M2": 2, "F8_E5M2FNUZ": 2,
}  # fmt: skip

KINDS = {
    head.LITERAL: "kept as they are, as planes would not be smaller",
    head.AFFINE: "constant or evenly spaced numbers, so only the first one and the step are kept",
}

# After the bits' names; then what they cost.
MODES = {
    Mode.CONSTANT: "always the same",
    Mode.RAW: "noise that no code shortens, kept as it is",
    Mode.CODED: "uneven, so entropy-coded",
    Mode.ZSTD: "repeating, so given to Zstandard",
    Mode.BYPASS: "of varying length, so the length is entropy-coded and the bits below it kept",
}


class _Stored(NamedTuple):
    """What the chunks of a stream came to."""

    kinds: Counter[int]
    modes: list[Counter[int]]  # of each plane
    lengths: list[int]  # of each plane, payload bytes
    units: int  # in chunks that have planes


def explain(target: Any, max_bytes: int | None = None) -> dict[str, Reason]:
    """Tensor -> reason. Raises FormatError."""
    with open_file(target, verify="none", max_bytes=max_bytes) as file:
        packs = Counter(tensor.pack for tensor in file.header.tensors)
        return {tensor.name: _tensor(file, i, packs) + _error(tensor) for i, tensor in enumerate(file.header.tensors)}


def _error(tensor: Tensor) -> Reason:
    if tensor.lossy is None:
        return reason("")
    recipe, nmse, largest = tensor.lossy
    return f"; quantised ({recipe}): NMSE " + figure(nmse, ".3g") + ", largest error " + figure(largest, ".3g")


def _other(tensor: Tensor, other: Tensor) -> str:
    """Another tensor's name, less what it shares with this one's: the same is then said of tensors that are alike."""
    mine, its = tensor.name.split("."), other.name.split(".")
    module = len(mine) - 1
    if module and its[:module] == mine[:module]:
        return f"{'.'.join(its[module:])} beside it"
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(mine[::-1], its[::-1], strict=False)))
    return f"{'.'.join(its[:-alike])}.* (its own name)" if 0 < alike < len(its) else other.name


def _tensor(file: TensorFile, index: int, packs: Counter[int | None]) -> Reason:
    header = file.header
    tensor, number, target = header.tensors[index], header.tensor_stream[index], header.target(index)
    if target != index:
        return reason(f"has the bytes of {_other(tensor, header.tensors[target])}, which are stored once")
    if header.holder(index) != index:
        held = _other(tensor, header.tensors[header.holder(index)])
        return reason(f"is {held} converted to {tensor.dtype.name}, which is stored once")
    if number is None:
        return reason("has no elements")
    words = _stream(file, number)
    if tensor.pack is not None:
        others = packs[tensor.pack] - 1
        shares = f"smaller than {PACK_TENSOR_BYTES // 1024} KiB, so it shares the chunk of pack "
        return shares + figure(tensor.pack) + " with " + figure(others) + f" other{'s' * (others != 1)}; " + words
    if tensor.scale is not None:
        words += f"; the scale is in {_other(tensor, header.tensors[tensor.scale])}, which is decoded first"
    sides, bits = header.side_streams.get(index), header.streams[number].bits
    if sides and bits.flags:
        words += "; a flag for each of " + figure(header.streams[sides[0]].units)
        words += " rows says which have the bits marked 'in some rows'"
    if sides and any(isinstance(context, ClassContext) for context in bits.contexts):
        words += "; the scales of its row and its column, in quarters of an octave, say which exponents to expect"
        top = bits.parts[-1].context
        if isinstance(top, ClassContext) and top.mean is not None:
            words += "; a product of rank " + figure(top.mean.rank) + " says which sign to expect, and how surely"
        if isinstance(top, ClassContext) and isinstance(file.header.streams[number].expression, Bits):
            words += _bought(file, index, number, top)
    return words


def _bought(file: TensorFile, index: int, number: int, top: ClassContext) -> Reason:
    """What each step was worth in the middle chunk, which is coded again without it."""
    from slimtensors.codecs.chunk import encode_chunk  # loads Numba, which all other words can do without

    stream = file.header.streams[number]
    chunk, parts = stream.chunks // 2, stream.bits.parts
    units = np.empty(stream.chunk_units(chunk), stream.dtype.unit)
    place = Place(stream.units, chunk * stream.chunk, file.sides_of(index), stream.dtype, None)
    file.decode_chunk(number, chunk, units)
    plain = tuple(part._replace(context=None) for part in parts)
    ways = {"plain": plain, "with the scales": (*plain[:-1], plain[-1]._replace(context=replace(top, mean=None)))}
    if top.mean is not None:
        ways["with the product, too,"] = parts
    costs = {
        name: 8 * len(encode_chunk(units, replace(stream.bits, parts=way), place)) / units.size
        for name, way in ways.items()
    }
    said = _joined(", ", [f"{name} " + figure(cost, ".2f") for name, cost in costs.items()])
    return "; its middle chunk takes " + said + " bits a weight"


def _values(expression: Values | Sum) -> Reason:
    if isinstance(expression, Sum):
        plus = "its base" if isinstance(expression.plus, int) else "a product of two small matrices"
        return f"{plus}, to which are added " + _values(expression.values)
    if isinstance(expression, Trellis):
        return _grid(expression)
    return reason("numbers from a palette times a scale for each run: codes are kept, and the scales apart")


def _grid(expression: Trellis) -> Reason:
    grid = "levels of a uniform grid, " + figure(float_step(expression), ".6g") + " apart"
    if expression.states > 1:
        grid += f", every other one at a time, as a trellis of {expression.states} states has it"
    grid += "" if expression.rows is None else ", times scales of rows and columns"
    return grid + (", given what is usual in their row and column" if expression.bits.contexts else "")


def _joined(between: str, said: Sequence[str | Reason]) -> Reason:
    first, *others = said or [""]
    return sum((between + reason(each) for each in others), reason(first))


def _stream(file: TensorFile, number: int) -> Reason:
    stream, found = file.header.streams[number], _look(file, number)
    said: list[str | Reason] = []
    for kind, words in KINDS.items():
        if found.kinds[kind]:
            said.append(figure(found.kinds[kind]) + " of " + figure(stream.chunks) + f" chunks {words}")
    parts = stream.bits.parts if found.units else ()
    if isinstance(stream.expression, Gather):
        said.append("few distinct values: a palette, of which a code picks one")
    elif isinstance(stream.expression, Mul | Sum | Trellis):
        said.append(_values(stream.expression))
    elif isinstance(stream.expression, Decimal):
        said.append(f"rounded to {stream.expression.power} decimals: integers are kept, the lowest bit their sign")
    if isinstance(stream.expression, Record):
        size = found.units * stream.dtype.unit_bytes
        return _joined("; ", [*said, *(_record(stream.expression, found, size) if parts else [])])
    low = 0
    masks = 0  # planes that hold no bits of the numbers
    if isinstance(stream.expression, Sparse) and parts:
        masks, rest = 1, stream.expression.rest
        if rest is not None:
            said.append(_values(rest) + ": " + _codes(found, len(rest.bits.parts), rest.width))
            parts = parts[: -len(rest.bits.parts)]
        said.append(_mask(found, "not zero" if rest is None else "kept apart from these"))
    # Neighbours that are stored alike are told of together.
    numbered = range(masks, len(parts))
    for (modes, by_row), group in groupby(numbered, lambda i: (found.modes[i], parts[i].side is not None)):
        planes = list(group)
        width = sum(parts[i].width for i in planes)
        (mode, count), *rest = modes.most_common()
        how = reason(MODES.get(mode, "?"))
        if rest:
            how += " in " + figure(count) + " of " + figure(count + sum(n for _, n in rest)) + " chunks"
        cost = 8 * sum(found.lengths[i] for i in planes) / found.units
        name = _bits(low, low + width, stream.dtype, stream.bits.rotate) + (" (in some rows)" if by_row else "")
        said.append(f"{name}: " + how + _cost(mode, cost, width))
        low += width
    return _joined("; ", said)


def _record(record: Record, found: _Stored, size: int) -> Iterator[str | Reason]:
    """What became of each kind of field. size: decoded bytes of the chunks that have planes."""
    yield f"bytes in which a pattern of {record.size} repeats, each kind of field by itself"
    records = size // record.size
    for i, field in enumerate(record.fields):
        (mode, _count), *_rest = found.modes[i].most_common()
        given = ""
        if isinstance(field.context, FieldScale):
            given = ", given their scale"
            given += ", and what is usual in their row and column" if field.context.lines else ""
        elif isinstance(field.context, FieldClass | FieldLines):
            given = ", given what is usual in their row and column"
        elif field.context is not None:
            given = f", given those of kind {field.context.field + 1}"
            given += f" less their mean in {field.context.mean} records" if field.context.mean else ""
        cost = _cost(mode, 8 * found.lengths[i] / (records * field.count), field.width)
        yield f"kind {i + 1}, {field.count} of {field.width} bits{given}: {MODES.get(mode, '?')}" + cost


def _codes(found: _Stored, planes: int, width: int) -> Reason:
    """What the last planes came to, which are of codes."""
    (mode, _count), *_rest = found.modes[-1].most_common()
    return MODES.get(mode, "?") + _cost(mode, 8 * sum(found.lengths[-planes:]) / found.units, width)


def _mask(found: _Stored, which: str) -> Reason:
    (mode, _count), *_rest = found.modes[0].most_common()
    cost = _cost(mode, 8 * found.lengths[0] / found.units, 1)
    return f"a mask says which numbers are {which}: {MODES.get(mode, '?')}" + cost + "; then, shared out over all"


def _cost(mode: int, cost: float, width: int) -> Reason:
    if mode == Mode.CONSTANT:
        return reason("")
    if mode == Mode.RAW:
        return reason(f", {width} bit{'s' * (width != 1)}")
    return ", " + figure(cost, ".2f") + f" of {width} bits"


def _look(file: TensorFile, number: int) -> _Stored:
    """Heads and descriptors of all chunks."""
    stream = file.header.streams[number]
    planes = len(stream.bits.parts)
    found = _Stored(Counter(), [Counter() for _ in range(planes)], [0] * planes, 0)
    units = 0
    for chunk in range(stream.chunks):
        front = file.reader.front_of(number, chunk, HEAD_BYTES + head.DESCRIPTOR_BYTES * planes)
        kind = int(front[0])
        found.kinds[kind] += 1
        if kind != head.PLANES or front.size < HEAD_BYTES + head.DESCRIPTOR_BYTES * planes:
            continue
        units += stream.chunk_units(chunk)
        for i in range(planes):
            descriptor = Descriptor(*head._DESCRIPTOR.unpack_from(front.data, HEAD_BYTES + i * head.DESCRIPTOR_BYTES))
            found.modes[i][descriptor.mode] += 1
            found.lengths[i] += descriptor.length
    return found._replace(units=units)


def _bits(low: int, high: int, dtype: DType, rotate: int) -> str:
    """What the bits from `low` up to `high` of the rotated unit are of the number."""
    if not (dtype.is_float and rotate and dtype.name in MANTISSA):
        return f"bit {low}" if high - low == 1 else f"bits {low} to {high - 1}"
    # Rotated left by one, the sign is bit 0 and the mantissa begins at bit 1.
    top = 1 + MANTISSA[dtype.name]
    mantissa = max(0, min(high, top) - max(low, 1))
    names = ["sign"] if low == 0 else []
    if high > top:
        names.append("exponent")
    if mantissa:
        names.append(f"{mantissa} mantissa bit{'s' * (mantissa != 1)}")
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + " and " + names[-1]
