"""Exact division of lanes, and the encoder's step that is made of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils, types

from slimtensors.kernels.simd.lanes import U16, U32, Lanes, LanesType, add_mask
from slimtensors.kernels.simd.lowering import (
    LANES,
    Use,
    by_parts,
    call,
    every,
    floats,
    instruction_set,
    lowered,
    typed,
    vector,
)

_pack_array: Any = cgutils.pack_array

# The estimate of a quotient is made this much too small. Its roundings (at most three and a bit of 2^-24 each) are less
# than that, so it never exceeds the quotient; and for quotients below 2^21 it falls short of it by less than one.
_BELOW_ONE = 1.0 - 2.0**-22


def divide(x: Lanes, f: Lanes) -> tuple[Lanes, Lanes]:
    """(floor(x / f), x mod f) for 1 <= f <= 4096 and floor(x / f) < 2^21"""
    return x // f, x % f


def _type_of_divide(x: Any, f: Any) -> Any:
    pair: Any = types.UniTuple
    return pair(U32, 2) if (x, f) == (U32, U32) else None


typed(divide, _type_of_divide)


@lowered(divide, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    """The quotient or one less by float32, then put right by the remainder: exact whatever the roundings were."""
    builder, (x, f) = use.builder, use.arguments
    estimate = _ESTIMATE[instruction_set(use)](builder, x, f)
    remainder = builder.sub(x, builder.mul(estimate, f))
    short = builder.icmp_unsigned(">=", remainder, f)
    quotient = builder.select(short, builder.add(estimate, every(vector(32), 1)), estimate)
    remainder = builder.select(short, builder.sub(remainder, f), remainder)
    return _pack_array(builder, [quotient, remainder])


def _estimate_avx512(builder: ir.IRBuilder, x: ir.Value, f: ir.Value) -> ir.Value:
    """x times a reciprocal of f, from an approximation to 14 bits and one step of Newton's method."""

    return by_parts(builder, 16, [x, f], partial(_estimate_of_sixteen, builder))


def _estimate_of_sixteen(builder: ir.IRBuilder, x: ir.Value, f: ir.Value) -> ir.Value:
    wide = floats(16)
    x, f = builder.uitofp(x, wide), builder.sitofp(f, wide)
    rough = call(builder, "llvm.x86.avx512.rcp14.ps.512", wide, [f, every(wide, 0.0), ir.IntType(16)(-1)])
    # reciprocal = rough + rough * (1 - f * rough), and a little too small
    error = call(builder, "llvm.fma.v16f32", wide, [builder.fneg(f), rough, every(wide, _BELOW_ONE)])
    reciprocal = call(builder, "llvm.fma.v16f32", wide, [rough, error, rough])
    return builder.fptosi(builder.fmul(x, reciprocal), vector(32, 16))


def _estimate_portable(builder: ir.IRBuilder, x: ir.Value, f: ir.Value) -> ir.Value:
    wide = floats(x.type.count)
    ratio = builder.fdiv(builder.uitofp(x, wide), builder.sitofp(f, wide))
    return builder.fptosi(builder.fmul(ratio, every(wide, _BELOW_ONE)), x.type)


_ESTIMATE = {"avx512": _estimate_avx512, "avx2": _estimate_portable, "portable": _estimate_portable}


# ---- code_halves: the state after a symbol, in halves


def code_halves(high: Lanes, low: Lanes, f: Lanes, start: Lanes) -> tuple[Lanes, Lanes]:
    """4096 * floor(x / f) + start + x mod f, its high and its low 16 bits, for x = 2^16 * high + low.

    All lanes have 16 bits. 1 <= f < 4096, start + f <= 4096, and x < 2^20 * f.
    """
    x = high.astype(np.uint32) << 16 | low
    x = x // f * 4096 + start + x % f
    return (x >> 16).astype(np.uint16), x.astype(np.uint16)


def _type_of_code_halves(high: Any, low: Any, f: Any, start: Any) -> Any:
    pair: Any = types.UniTuple
    return pair(U16, 2) if high == low == f == start == U16 else None


typed(code_halves, _type_of_code_halves)


@lowered(code_halves, LanesType, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    """The remainder fits 16 bits: only the quotient is worked out in 32, for lanes in even and in odd places apart."""
    builder, (high, low, f, start) = use.builder, use.arguments
    pairs = vector(32, LANES // 2)
    lower, upper, sixteen = every(pairs, 0xFFFF), every(pairs, 0xFFFF0000), every(pairs, 16)
    high, low, divisor = (builder.bitcast(half, pairs) for half in (high, low, f))
    estimate = _estimate_of_sixteen if instruction_set(use) == "avx512" else _estimate_portable
    even = estimate(
        builder, builder.or_(builder.shl(high, sixteen), builder.and_(low, lower)), builder.and_(divisor, lower)
    )
    odd = estimate(
        builder, builder.or_(builder.and_(high, upper), builder.lshr(low, sixteen)), builder.lshr(divisor, sixteen)
    )
    # q is the quotient or one less: r = x - q f, below 2 f
    quotient = builder.bitcast(builder.or_(builder.and_(even, lower), builder.shl(odd, sixteen)), vector(16))
    remainder = builder.sub(builder.bitcast(low, vector(16)), builder.mul(quotient, f))
    short = builder.icmp_unsigned(">=", remainder, f)
    # x = 4096 q + s, where s = r + start, or r + start + 4096 - f if q is one less
    rest = builder.add(remainder, start)
    rest = builder.select(short, builder.add(rest, builder.sub(every(vector(16), 4096), f)), rest)
    new_low = builder.add(builder.shl(quotient, every(vector(16), 12)), rest)
    carry = builder.icmp_unsigned("<", new_low, rest)
    upper_quotient = builder.or_(
        builder.lshr(even, every(pairs, 4)), builder.and_(builder.shl(odd, every(pairs, 12)), upper)
    )
    new_high = add_mask(builder, builder.bitcast(upper_quotient, vector(16)), carry, instruction_set(use))
    return _pack_array(builder, [new_high, new_low])
