"""Expressions from the header's JSON (format_spec/expressions.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slimtensors.errors import FormatError
from slimtensors.expression.context_grammar import check_mean, parse_context
from slimtensors.expression.forms import (
    Cast,
    Decimal,
    Delta,
    Expression,
    Gather,
    LowRank,
    Mul,
    Ref,
    Sparse,
    Sum,
    Trellis,
    Values,
)
from slimtensors.expression.limits import MAX_DECIMAL_WIDTH, MAX_POWER, MAX_PRODUCT_SHIFT, MAX_WIDTH, STATES
from slimtensors.expression.planes import Bits, Part
from slimtensors.expression.record_grammar import parse_field_class, parse_record
from slimtensors.expression.values import integer, keys_of, pair, side_plane
from slimtensors.limits import MAX_PLANES, MAX_TENSORS

__all__ = ["parse"]

LARGEST_FLOAT = 0x7F7FFFFF


def parse(value: Any) -> Expression:
    """An expression from the header's JSON; FormatError for a wrong one, NewerFormatError for a draft one."""
    keys = keys_of(value, "an expression")
    if keys == {"bits", "rotate"}:
        return _bits(value, MAX_PLANES)
    if keys == {"add"}:
        return _add(value["add"])
    if keys == {"scatter"}:
        return _sparse(value["scatter"])
    if keys == {"ref"}:
        return Ref(integer(value["ref"], 0, MAX_TENSORS - 1, "ref"))
    if keys == {"gather"}:
        return _gather(value["gather"])
    if keys == {"mul"}:
        return _mul(value["mul"])
    if keys == {"decimal"}:
        power, codes = pair(value["decimal"], "decimal")
        return Decimal(integer(power, 0, MAX_POWER, "the power of a decimal"), _codes(codes, MAX_DECIMAL_WIDTH))
    if keys == {"trellis"}:
        return _trellis(value["trellis"])
    if keys == {"record"}:
        return parse_record(value["record"])
    if keys == {"cast"}:
        return Cast(integer(value["cast"], 0, MAX_TENSORS - 1, "cast"))
    raise FormatError(f"an expression has the keys {sorted(keys)}")


def _mul(value: Any) -> Mul:
    gather, scale = pair(value, "mul")
    if keys_of(gather, "the first argument of mul") != {"gather"}:
        raise FormatError("the first argument of mul is not a gather")
    return _distinct(Mul(_gather(gather["gather"]), _factors(scale, "mul")))


def _add(arguments: Any) -> Expression:
    """A product plus an offset, numbers from codes plus a base or a matrix product, or a difference from a base."""
    first, last = (arguments[0], arguments[-1]) if isinstance(arguments, list) and arguments else (None, None)
    if isinstance(first, dict) and "mul" in first:
        return _shifted(arguments)
    if isinstance(last, dict) and last.keys() & {"add", "mul", "trellis"}:
        return _sum(arguments)
    return _delta(arguments)


def _sum(arguments: Any) -> Sum:
    plus, last = pair(arguments, "add")
    values = _values(last)
    if isinstance(plus, dict) and "matmul" in plus:
        product = _low_rank(plus)
        if values.sides & {product.left, product.right}:
            raise FormatError("a side plane of a matmul that what it is added to names too")
        return Sum(values, product)
    if keys_of(plus, "the first argument of add") != {"base"}:
        raise FormatError("the first argument of add is not a base, mul or matmul")
    return Sum(values, integer(plus["base"], 0, MAX_TENSORS - 1, "base"))


def _values(value: Any) -> Values:
    """Numbers from codes: a mul, with or without an offset, or a trellis."""
    keys = keys_of(value, "numbers from codes")
    if keys == {"mul"}:
        return _mul(value["mul"])
    if keys == {"trellis"}:
        found = _trellis(value["trellis"])
        if found.bits.contexts:
            raise FormatError("a context of the codes of a trellis within add or scatter")
        return found
    if keys == {"add"}:
        return _shifted(value["add"])
    raise FormatError(f"numbers from codes have the keys {sorted(keys)}")


def _shifted(arguments: Any) -> Mul:
    product, offset = pair(arguments, "add")
    if keys_of(product, "the first argument of add") != {"mul"}:
        raise FormatError("a mul in add has other keys beside it")
    return _distinct(replace(_mul(product["mul"]), offset=_factors(offset, "add")))


def _factors(value: Any, what: str) -> int | tuple[int, int]:
    if not isinstance(value, list):
        return side_plane(value, f"the side plane of {what}")
    if len(value) != 2:
        raise FormatError(f"{len(value)} factors of {what}, not two")
    first, second = (side_plane(side, f"a side plane of {what}") for side in value)
    return first, second


def _distinct(found: Mul) -> Mul:
    if len(found.sides) != 1 + sum(map(len, found.factors)):
        raise FormatError("a side plane that a mul names twice")
    return found


def _gather(value: Any) -> Gather:
    side, codes = pair(value, "gather")
    return Gather(side_plane(side, "the side plane of a gather"), _codes(codes, MAX_WIDTH))


def _trellis(value: Any) -> Trellis:
    if not isinstance(value, list) or len(value) not in (4, 6):
        raise FormatError("trellis has four arguments, or two side planes after them")
    states = integer(value[0], 1, max(STATES), "the states of a trellis")
    if states not in STATES:
        raise FormatError(f"a trellis of {states} states; 1 and 8 are known")
    step = integer(value[1], 1, LARGEST_FLOAT, "the step of a trellis, an F32 by its bits,")
    codes = _classed_codes(value[3])
    zero = integer(value[2], 0, (1 << codes.width) - 1, "the code of level 0")
    scales = [side_plane(side, "a side plane of a trellis") for side in value[4:]]
    if len(set(scales)) != len(scales):
        raise FormatError("a trellis whose rows and columns are the same side plane")
    return Trellis(states, step, zero, codes, *scales)


def _classed_codes(value: Any) -> Bits:
    """Codes whose last plane may have a context: classes of rows and columns, as a record's field."""
    parts = value.get("bits") if isinstance(value, dict) else None
    if not isinstance(parts, list) or not parts or not isinstance(parts[-1], dict) or "context" not in parts[-1]:
        return _codes(value, MAX_WIDTH)
    last = parts[-1]
    if keys_of(last["context"], "a context") != {"class"}:
        raise FormatError(f"a context of codes has the keys {sorted(last['context'])}")
    context = parse_field_class(last["context"]["class"])
    plain = {key: each for key, each in last.items() if key != "context"}
    *below, top = _codes({**value, "bits": [*parts[:-1], plain]}, MAX_WIDTH).parts
    return Bits((*below, top._replace(context=context)))


def _codes(value: Any, most: int) -> Bits:
    """Planes that all units have, not rotated."""
    codes = parse(value)
    if not isinstance(codes, Bits) or codes.sides or codes.contexts or codes.rotate or sum(codes.widths) > most:
        raise FormatError(f"codes are not bits of up to {most}, without rotation and side planes")
    return codes


def _bits(value: Any, most: int) -> Bits:
    if keys_of(value, "an expression") != {"bits", "rotate"}:
        raise FormatError(f"planes have the keys {sorted(value)}")
    parts = value["bits"]
    if not isinstance(parts, list) or not 1 <= len(parts) <= most:
        raise FormatError(f"bits have 1 to {most} planes")
    found = Bits(tuple(_part(part) for part in parts), integer(value["rotate"], 0, 1, "rotate"))
    check_mean(found)
    return found


def _delta(arguments: Any) -> Delta:
    if not isinstance(arguments, list) or len(arguments) not in (2, 3):
        raise FormatError("add has two arguments, a base and planes, or a matmul between them")
    if keys_of(arguments[0], "an argument of add") != {"base"}:
        raise FormatError("the first argument of add is not a base")
    base = _base(arguments[0]["base"])
    moved = _low_rank(arguments[1]) if len(arguments) == 3 else None
    if moved is not None and not isinstance(base, int):
        raise FormatError("a matmul in a pack")
    found = _bits(arguments[-1], MAX_PLANES)
    if found.rotate:
        raise FormatError("differences from a base are not rotated")
    return Delta(found, base, moved)


def _low_rank(value: Any) -> LowRank:
    if not isinstance(value, dict) or value.keys() != {"matmul"}:
        keys_of(value, "an argument of add")  # says so of another name that is kept for later
        raise FormatError("an argument of add is not a matmul where one is expected")
    numbers = value["matmul"]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise FormatError("a matmul has three numbers: two side planes and a shift")
    left, right = (side_plane(side, "a side plane of a matmul") for side in numbers[:2])
    if left == right:
        raise FormatError("a matmul of a side plane with itself")
    return LowRank(left, right, integer(numbers[2], 0, MAX_PRODUCT_SHIFT, "the shift of a matmul"))


def _base(value: Any) -> int | tuple[int, ...]:
    if not isinstance(value, list):
        return integer(value, 0, MAX_TENSORS - 1, "base")
    if not 1 <= len(value) <= MAX_TENSORS:
        raise FormatError(f"a list of {len(value)} bases")
    return tuple(integer(item, 0, MAX_TENSORS - 1, "base") for item in value)


def _sparse(arguments: Any) -> Sparse:
    if not isinstance(arguments, list) or len(arguments) not in (2, 3):
        raise FormatError("scatter has two arguments, a mask and what it scatters, or three, with what is elsewhere")
    if keys_of(arguments[0], "the mask of a scatter") != {"plane"}:
        raise FormatError("the first argument of scatter is not a plane")
    integer(arguments[0]["plane"], 1, 1, "the width of a mask")
    values = _bits(arguments[1], MAX_PLANES - 1)  # the mask is a plane too
    if values.sides or values.contexts:
        raise FormatError("rows or contexts within a scatter by a mask")
    found = Sparse(values, _values(arguments[2]) if len(arguments) == 3 else None)
    if len(found.bits.parts) > MAX_PLANES:
        raise FormatError(f"a scatter has {len(found.bits.parts)} planes; {MAX_PLANES} are the most")
    return found


def _part(value: Any) -> Part:
    if not isinstance(value, dict) or value.keys() != {"scatter"}:
        return _plane(value)
    arguments = value["scatter"]
    if not isinstance(arguments, list) or len(arguments) != 2:
        raise FormatError("scatter has two arguments: a side plane and a plane")
    plane = _plane(arguments[1])
    return Part(plane.width, side_plane(arguments[0], "the side plane of a scatter"), plane.context)


def _plane(value: Any) -> Part:
    """A plane, with or without a context."""
    keys = keys_of(value, "a plane")
    if keys - {"context"} != {"plane"}:
        raise FormatError(f"a part of an expression has the keys {sorted(keys)}")
    context = parse_context(value["context"]) if "context" in keys else None
    return Part(integer(value["plane"], 1, MAX_WIDTH, "the width of a plane"), context=context)
