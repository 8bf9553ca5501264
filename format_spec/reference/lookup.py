"""Chapter `expressions.md`, section 7: units from codes. Quotations are from that text."""

from __future__ import annotations

from fractions import Fraction

import casts
from coder import Refused, check
from expressions import DTYPES, Decimal, Gather, Mul, Trellis

MAX_PALETTE = 1 << 16
MIN_RUN = 8


def check_use(expression: Gather | Mul | Decimal | Trellis, dtype: str, units: int, sides: list[dict]) -> None:
    """`sides`: the side planes as the header describes them."""
    if isinstance(expression, Decimal):
        check(dtype in casts.FLOATS, "decimal: dtype")
        return
    if isinstance(expression, Trellis):
        check(dtype in ("F32", "BF16", "F16"), "trellis: dtype")
        if expression.rows is None:
            return
        check(max(expression.rows, expression.columns) < len(sides), "trellis: no such side plane")
        two = [sides[expression.rows], sides[expression.columns]]
        check(all(s["dtype"] == "F32" and len(s["shape"]) == 1 for s in two), "trellis: rows or columns")
        check(two[0]["shape"][0] * two[1]["shape"][0] == units, "trellis: rows times columns")
        return
    check(expression.palette < len(sides), "gather: no such side plane")
    palette = sides[expression.palette]
    shape = palette["shape"]
    check(shape[-1:] and shape[-1] <= MAX_PALETTE, "gather: more than 65536 entries, or no dimension")
    if isinstance(expression, Gather):
        # "of the tensor's dtype, whose elements are units; its shape is `[K]` or `[P, K]`"
        check(palette["dtype"] == dtype and DTYPES[dtype][0] == 8 * DTYPES[dtype][1], "gather: dtype")
        check(len(shape) <= 2, "gather: shape")
        runs = shape[0] if len(shape) == 2 else 1
        check(units % runs == 0, "gather: the runs do not divide the units")
        check(runs * shape[-1] <= max(MAX_PALETTE, units), "gather: palettes too large")
        return
    check(dtype in ("F32", "BF16", "F16"), "mul: dtype")
    check(palette["dtype"] in ("F32", "I16", "I8") and len(shape) == 1, "mul: palette")
    named = [*expression.scale, *expression.offset]
    check(max(named) < len(sides), "mul: no such side plane")
    every = [sides[k] for k in named]
    check(all(side["dtype"] == "F32" and len(side["shape"]) == 1 for side in every), "mul: scales")
    runs = sides[expression.scale[0]]["shape"][0]
    check(units % runs == 0 and units // runs >= MIN_RUN, "mul: scales for runs that do not divide, or are short")
    if expression.offset:
        check(sides[expression.offset[0]]["shape"][0] == runs, "add: more or fewer offsets than scales")
    for two in (expression.scale, expression.offset):
        # "`Q` divides `R`"
        check(len(two) < 2 or runs % sides[two[1]]["shape"][0] == 0, "mul: second factors that do not divide the runs")


def numbers(data: bytes, dtype: str) -> list[tuple[int, Fraction]]:
    """Sign and magnitude of each entry of a palette or scale."""
    size = DTYPES[dtype][1]
    out = []
    for i in range(0, len(data), size):
        if dtype == "F32":
            sign, magnitude = casts.value(int.from_bytes(data[i : i + 4], "little"), "F32")
            if magnitude is None:
                raise Refused("mul: an entry that is not finite")
        else:
            entry = int.from_bytes(data[i : i + size], "little", signed=True)
            sign, magnitude = int(entry < 0), Fraction(abs(entry))
        out.append((sign, magnitude))
    return out


def lookup(
    expression: Gather | Mul | Decimal | Trellis,
    codes: list[int],
    dtype: str,
    units: int,
    start: int,
    sides: list,
    plan: list,
) -> list[int]:
    """The units that the codes of units `start` and after stand for. `plan`: as `sides` of check_use."""
    if isinstance(expression, Decimal):
        return [decimal(code, expression.power, dtype) for code in codes]
    if isinstance(expression, Trellis):
        return trellis(expression, codes, dtype, start, sides)
    data, shape = sides[expression.palette], plan[expression.palette]["shape"]
    # "a code of `K` or more is refused"
    check(max(codes, default=0) < shape[-1], "gather: a code beyond the palette")
    if isinstance(expression, Gather):
        size = DTYPES[dtype][1]
        entries = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
        runs = shape[0] if len(shape) == 2 else 1
        length = units // runs
        return [entries[(start + j) // length * shape[-1] + code] for j, code in enumerate(codes)]
    palette = numbers(data, plan[expression.palette]["dtype"])
    scales = per_run(expression.scale, sides)
    offsets = per_run(expression.offset, sides) if expression.offset else None
    length = units // len(scales)
    runs = [(start + j) // length for j in range(len(codes))]
    products = [(palette[code], scales[run]) for code, run in zip(codes, runs, strict=True)]
    if offsets is None:
        return [rounded(product(*two), dtype) for two in products]
    return [rounded(total(product(*two), offsets[run]), dtype) for two, run in zip(products, runs, strict=True)]


def per_run(named: tuple[int, ...], sides: list) -> list[tuple[int, Fraction]]:
    """ "`s[r] * t[floor(r * Q / R)]`, rounded to F32; products that are not finite are refused too" """
    first = numbers(sides[named[0]], "F32")
    if len(named) == 1:
        return first
    second = numbers(sides[named[1]], "F32")
    units = [product(s, second[r * len(second) // len(first)]) for r, s in enumerate(first)]
    return numbers(b"".join(unit.to_bytes(4, "little") for unit in units), "F32")


def product(a: tuple[int, Fraction], b: tuple[int, Fraction]) -> int:
    """ "the product, rounded to F32" """
    return (a[0] ^ b[0]) << 31 | casts.nearest(a[1] * b[1], "F32")


def total(unit: int, offset: tuple[int, Fraction]) -> int:
    """ "plus the offset of its run, rounded to F32": 0 - 0 is 0, and -0 - 0 is -0, as IEEE 754 has it"""
    sign, magnitude = casts.value(unit, "F32")
    if magnitude is None:
        return unit  # infinite, and the offset is not
    exact = (-magnitude if sign else magnitude) + (-offset[1] if offset[0] else offset[1])
    negative = exact < 0 or (exact == 0 and sign == offset[0] == 1)
    return negative << 31 | casts.nearest(abs(exact), "F32")


def rounded(unit: int, dtype: str) -> int:
    """ "and then converted as by `cast` to the tensor's dtype" """
    return unit if dtype == "F32" else casts.cast(unit, "F32", dtype)


def decimal(code: int, power: int, dtype: str) -> int:
    """ "`floor(code / 2) / 10^k`, rounded to F64, and then converted as by `cast`; then its sign is set" """
    unit = casts.nearest(Fraction(code >> 1, 10**power), "F64")
    if dtype != "F64":
        unit = casts.cast(unit, "F64", dtype)
    return unit | (code & 1) << casts.FLOATS[dtype][0] - 1


def trellis(expression: Trellis, codes: list[int], dtype: str, start: int, sides: list) -> list[int]:
    """Section 7.5. Lane by lane: unit `i` of the chunk is in lane `i mod 32`."""
    out = []
    rows, columns = (
        ([], [])
        if expression.rows is None
        else (numbers(sides[expression.rows], "F32"), numbers(sides[expression.columns], "F32"))
    )
    parities: list[list[int]] = [[0, 0, 0] for _ in range(32)]  # of this element's level and of the two before it
    for i, code in enumerate(codes):
        level = code - expression.zero
        if expression.states == 8:
            p = parities[i % 32]
            # "element = 2 * (code - zero) + p"; "p[j + 1] = (code[j] + p[j - 1] + p[j - 2]) mod 2"
            level = 2 * level + p[0]
            parities[i % 32] = [(code + p[1] + p[2]) % 2, p[0], p[1]]
        number = int(level < 0), Fraction(abs(level))
        out.append(rounded(product(number, step_of(expression.step, start + i, rows, columns)), dtype))
    return out


def step_of(step: int, unit: int, rows: list, columns: list) -> tuple[int, Fraction]:
    """ "the step times its row's number, rounded to F32, times its column's, rounded likewise" """
    found = casts.value(step, "F32")[1]
    for _, factor in (rows[unit // len(columns)], columns[unit % len(columns)]) if rows else ():
        found = casts.value(casts.nearest(found * factor, "F32"), "F32")[1]
    return 0, found


def check_steps(expression: Trellis, sides: list) -> None:
    """ "Numbers that are not positive and finite are refused, and a largest step that is not finite" """
    step = casts.value(expression.step, "F32")[1]
    for side in (expression.rows, expression.columns):
        found = numbers(sides[side], "F32")
        check(all(not sign and magnitude for sign, magnitude in found), "trellis: a scale that is not positive")
        rounded = casts.nearest(step * max(magnitude for _, magnitude in found), "F32")
        step = casts.value(rounded, "F32")[1]
        check(step is not None, "trellis: a step that is not finite")
