"""Chapter `expressions.md`, section 7: units from codes. Quotations are from that text."""

from __future__ import annotations

from fractions import Fraction

import casts
from coder import Refused, check
from expressions import DTYPES, Decimal, Gather, Mul

MAX_PALETTE = 1 << 16
MIN_RUN = 8


def check_use(expression: Gather | Mul | Decimal, dtype: str, units: int, sides: list[dict]) -> None:
    """`sides`: the side planes as the header describes them."""
    if isinstance(expression, Decimal):
        check(dtype in casts.FLOATS, "decimal: dtype")
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
    check(expression.scale < len(sides) and expression.scale != expression.palette, "mul: no such side plane")
    scale = sides[expression.scale]
    check(dtype in ("F32", "BF16", "F16"), "mul: dtype")
    check(palette["dtype"] in ("F32", "I16", "I8") and len(shape) == 1, "mul: palette")
    check(scale["dtype"] == "F32" and len(scale["shape"]) == 1, "mul: scales")
    runs = scale["shape"][0]
    check(units % runs == 0 and units // runs >= MIN_RUN, "mul: scales for runs that do not divide, or are short")


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
    expression: Gather | Mul | Decimal, codes: list[int], dtype: str, units: int, start: int, sides: list, plan: list
) -> list[int]:
    """The units that the codes of units `start` and after stand for. `plan`: as `sides` of check_use."""
    if isinstance(expression, Decimal):
        return [decimal(code, expression.power, dtype) for code in codes]
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
    scales = numbers(sides[expression.scale], "F32")
    length = units // len(scales)
    return [product(palette[code], scales[(start + j) // length], dtype) for j, code in enumerate(codes)]


def product(a: tuple[int, Fraction], b: tuple[int, Fraction], dtype: str) -> int:
    """ "the product, rounded to F32, and then converted as by `cast`" """
    unit = (a[0] ^ b[0]) << 31 | casts.nearest(a[1] * b[1], "F32")
    return unit if dtype == "F32" else casts.cast(unit, "F32", dtype)


def decimal(code: int, power: int, dtype: str) -> int:
    """ "`floor(code / 2) / 10^k`, rounded to F64, and then converted as by `cast`; then its sign is set" """
    unit = casts.nearest(Fraction(code >> 1, 10**power), "F64")
    if dtype != "F64":
        unit = casts.cast(unit, "F64", dtype)
    return unit | (code & 1) << casts.FLOATS[dtype][0] - 1
