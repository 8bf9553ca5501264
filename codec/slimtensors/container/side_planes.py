"""What expressions ask of the side planes that they name: dtypes, shapes, how many (format_spec/expressions.md)."""

from __future__ import annotations

import math

from slimtensors.container.header import Pack, Side, Tensor
from slimtensors.dtypes import DType
from slimtensors.errors import FormatError, LimitError
from slimtensors.expression import (
    BaseContext,
    Bits,
    ClassContext,
    Delta,
    Expression,
    FactorContext,
    FieldClass,
    Gather,
    Mul,
    Record,
    Stored,
    Sum,
    Trellis,
    bases_of,
    values_of,
)
from slimtensors.limits import MAX_PALETTE, MAX_RANK, MAX_SCALE_BITS, MIN_RUN

__all__ = [
    "check_classes", "check_factors", "check_lines", "check_low_rank", "check_palettes", "check_scales", "check_sides",
    "check_trellis",
]  # fmt: skip


def check_factors(bits: Bits, earlier: tuple[Side, ...], units: int) -> None:
    if bits.flags or not all(isinstance(context, FactorContext) for context in bits.contexts):
        raise FormatError("a side plane of factors under scatter, or with a context of another kind")
    for context in bits.contexts:
        if max(context.sides) >= len(earlier):
            raise FormatError(f"factors given the side planes {sorted(context.sides)}, not only earlier ones")
        assert isinstance(context, FactorContext)
        both = [earlier[context.rows], earlier[context.columns]]
        _check_class_planes(both)
        rank, rest = divmod(units, sum(side.shape[0] for side in both))
        if rest or not 1 <= rank <= MAX_RANK:
            raise FormatError(f"{units} units of a side plane are not 1 to {MAX_RANK} factors of all rows and columns")


def check_sides(
    expression: Expression, sides: tuple[Side, ...], units: int, has_key: bool, has_scale: bool = False
) -> None:
    """sides: but for the last, if that is another tensor (`has_scale`)."""
    assert isinstance(expression, Stored)
    count = len(sides) + has_scale
    if has_key and not count:
        raise FormatError("an empty list of side planes")
    if expression.sides != set(range(count)):
        raise FormatError(f"the expression uses the side planes {sorted(expression.sides)} of {count}")
    if (expression.scale if isinstance(expression, Record) else None) != (len(sides) if has_scale else None):
        raise FormatError("the side plane that is another tensor is not the one that holds scales")
    for side in expression.bits.flags:  # row flags
        _check_rows(side, sides[side], units, "row flags")
    for context in expression.bits.contexts:
        if isinstance(context, BaseContext) and context.rows is not None:
            _check_rows(context.rows, sides[context.rows], units, "row classes")
        if isinstance(context, FactorContext):
            raise FormatError("a context of factors, which only a side plane may have")
        if isinstance(context, FieldClass):
            check_classes([sides[context.rows], sides[context.columns]], units, "the tensor")
        if isinstance(context, ClassContext):
            both = [sides[context.rows], sides[context.columns]]
            check_classes(both, units, "the tensor")
            if context.mean is not None:
                _check_mean(sides[context.mean.factors], context.mean.rank, sum(side.shape[0] for side in both))


def _check_rows(number: int, side: Side, units: int, what: str) -> None:
    if side.dtype.name != "U8" or len(side.shape) != 1:
        raise FormatError(f"side plane {number}, of {what}, is not U8 with one dimension")
    if units % side.shape[0]:
        raise FormatError("a side plane's rows do not divide the tensor")


def _check_class_planes(sides: list[Side]) -> None:
    if any(side.dtype.name != "U8" or len(side.shape) != 1 for side in sides):
        raise FormatError("a side plane of classes is not U8 with one dimension")


def check_classes(sides: list[Side], units: int, what: str) -> None:
    _check_class_planes(sides)
    if sides[0].shape[0] * sides[1].shape[0] != units:
        raise FormatError(f"rows times columns of a context are not {what}")


def check_lines(side: Side, columns: int, fields: int) -> None:
    _check_class_planes([side])
    if (side.shape[0] - columns) * columns != fields:
        raise FormatError(f"classes of {side.shape[0] - columns} rows and {columns} columns for {fields} fields")


def _check_mean(side: Side, rank: int, lines: int) -> None:
    if side.dtype.name != "U8" or side.shape != (rank, lines):
        found = f"{side.dtype.name} {list(side.shape)}"
        raise FormatError(f"the factors of a mean are {found}, not U8 {[rank, lines]}: rank, and rows + columns")


def check_palettes(expression: Expression, sides: tuple[Side, ...], dtype: DType, units: int) -> None:
    values = values_of(expression)
    if isinstance(expression, Gather):
        palette = sides[expression.palette]
        if palette.dtype != dtype or dtype.bits != dtype.unit_bits:
            raise FormatError(f"a palette of {palette.dtype.name} for units of {dtype.name}")
        if len(palette.shape) not in (1, 2) or units % (palette.shape[0] if len(palette.shape) == 2 else 1):
            raise FormatError(f"a palette of shape {list(palette.shape)} for {units} units")
        if palette.shape[-1] > MAX_PALETTE or math.prod(palette.shape) > max(MAX_PALETTE, units):
            raise LimitError(f"a palette of shape {list(palette.shape)} is too large")
    elif isinstance(values, Mul):
        palette = sides[values.gather.palette]
        if dtype.name not in ("F32", "BF16", "F16"):
            raise FormatError(f"mul in {dtype.name}")
        if palette.dtype.name not in ("F32", "I16", "I8") or len(palette.shape) != 1:
            raise FormatError("the palette of a mul is not F32, I16 or I8 with one dimension")
        if palette.shape[0] > MAX_PALETTE:
            raise LimitError(f"a palette of {palette.shape[0]} entries; the limit is {MAX_PALETTE}")
        runs = sides[values.factors[0][0]].shape[:1]
        for first, *second in values.factors:
            if any(sides[k].dtype.name != "F32" or len(sides[k].shape) != 1 for k in (first, *second)):
                raise FormatError("the scales of a mul are not F32 with one dimension")
            if sides[first].shape != runs or units % runs[0] or units // runs[0] < MIN_RUN:
                raise FormatError(f"{sides[first].shape[0]} scales for {units} units")
            if second and runs[0] % sides[second[0]].shape[0]:
                raise FormatError(f"{sides[second[0]].shape[0]} factors for {runs[0]} scales")


def check_trellis(expression: Expression, sides: tuple[Side, ...], units: int) -> None:
    grid = values_of(expression)
    if not isinstance(grid, Trellis) or grid.rows is None or grid.columns is None:
        return
    rows, columns = sides[grid.rows], sides[grid.columns]
    if any(side.dtype.name != "F32" or len(side.shape) != 1 for side in (rows, columns)):
        raise FormatError("the rows and columns of a trellis are not F32 with one dimension")
    if rows.shape[0] * columns.shape[0] != units:
        raise FormatError(f"{rows.shape[0]} rows times {columns.shape[0]} columns of a trellis for {units} units")


def check_scales(tensors: list[Tensor], packs: list[Pack], table: list[Expression]) -> None:
    """Of tensors whose last side plane is another tensor: one that can be decoded by itself."""
    for tensor in tensors:
        if tensor.scale is None or tensor.expression is None:
            continue
        what = f"tensor {tensor.name!r}: its scales are tensor {tensor.scale}"
        if tensor.scale >= len(tensors):
            raise FormatError(f"{what}, which is not there")
        given = tensors[tensor.scale]
        place = given.expression if given.pack is None else packs[given.pack].expression
        found = None if place is None else table[place]
        if not isinstance(found, Stored):
            raise FormatError(f"{what}, which holds no bytes itself")
        if bases_of(found) or given.scale is not None:
            raise FormatError(f"{what}, which needs another tensor itself")
        record = table[tensor.expression]
        assert isinstance(record, Record)
        records = tensor.nbytes // record.size
        if given.dtype.unit_bits > MAX_SCALE_BITS or records % given.units:
            raise FormatError(f"{what}, {given.units} units of {given.dtype.name} for {records} records")


def check_low_rank(expression: Expression, sides: tuple[Side, ...], dtype: DType, units: int) -> None:
    moved = expression.moved if isinstance(expression, Delta) else None
    if isinstance(expression, Sum) and not isinstance(expression.plus, int):
        moved = expression.plus
    if moved is None:
        return
    left, right = sides[moved.left], sides[moved.right]
    if dtype.name not in ("F32", "BF16", "F16"):
        raise FormatError(f"a matmul in {dtype.name}")
    if left.dtype != right.dtype or left.dtype.name not in ("I16", "I32"):
        raise FormatError(f"a matmul of {left.dtype.name} and {right.dtype.name}: both are I16, or both I32")
    if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0]:
        raise FormatError(f"a matmul of shapes {list(left.shape)} and {list(right.shape)}")
    if left.shape[0] * right.shape[1] != units:
        raise FormatError(f"a matmul gives {left.shape[0] * right.shape[1]} numbers for {units} units")
    if right.shape[0] > MAX_RANK:
        raise LimitError(f"a matmul of rank {right.shape[0]}; the limit is {MAX_RANK}")
