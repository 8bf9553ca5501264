"""Exact division of lanes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils, types

from slimtensors.kernels.simd.lanes import U32, Lanes, LanesType
from slimtensors.kernels.simd.lowering import (
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

    def sixteen(x: ir.Value, f: ir.Value) -> ir.Value:
        wide = floats(16)
        x, f = builder.uitofp(x, wide), builder.sitofp(f, wide)
        rough = call(builder, "llvm.x86.avx512.rcp14.ps.512", wide, [f, every(wide, 0.0), ir.IntType(16)(-1)])
        # reciprocal = rough + rough * (1 - f * rough), and a little too small
        error = call(builder, "llvm.fma.v16f32", wide, [builder.fneg(f), rough, every(wide, _BELOW_ONE)])
        reciprocal = call(builder, "llvm.fma.v16f32", wide, [rough, error, rough])
        return builder.fptosi(builder.fmul(x, reciprocal), vector(32, 16))

    return by_parts(builder, 16, [x, f], sixteen)


def _estimate_portable(builder: ir.IRBuilder, x: ir.Value, f: ir.Value) -> ir.Value:
    ratio = builder.fdiv(builder.uitofp(x, floats()), builder.sitofp(f, floats()))
    return builder.fptosi(builder.fmul(ratio, every(floats(), _BELOW_ONE)), vector(32))


_ESTIMATE = {"avx512": _estimate_avx512, "avx2": _estimate_portable, "portable": _estimate_portable}
