"""Lanes of 32 bits as F32 numbers. An operation rounds once, as IEEE 754 has it, on every processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import types

from slimtensors.kernels.simd.lanes import U16, U32, Lanes, LanesType
from slimtensors.kernels.simd.lowering import LANES, Use, every, floats, lowered, typed, vector


def number_of(whole: Lanes) -> Lanes:
    """The F32 numbers nearest to integers in two's complement."""
    numbers: Lanes = whole.view(np.int32).astype(np.float32).view(np.uint32)
    return numbers


def times(lanes: Lanes, number: Any) -> Lanes:
    """The products of F32 numbers, given by their bits, and a float32."""
    with np.errstate(all="ignore"):  # overflow to infinity is meant
        product: Lanes = (lanes.view(np.float32) * np.float32(number)).view(np.uint32)
    return product


def plus(lanes: Lanes, number: Any) -> Lanes:
    """Their sums."""
    with np.errstate(all="ignore"):
        total: Lanes = (lanes.view(np.float32) + np.float32(number)).view(np.uint32)
    return total


def times_each(lanes: Lanes, others: Lanes) -> Lanes:
    """The products of F32 numbers, lane by lane, all of them given by their bits."""
    with np.errstate(all="ignore"):
        product: Lanes = (lanes.view(np.float32) * others.view(np.float32)).view(np.uint32)
    return product


def plus_each(lanes: Lanes, others: Lanes) -> Lanes:
    """Their sums, lane by lane."""
    with np.errstate(all="ignore"):
        total: Lanes = (lanes.view(np.float32) + others.view(np.float32)).view(np.uint32)
    return total


def times_bf16(whole: Lanes, number: Any) -> Lanes:
    """The products of whole numbers (lanes of 16 bits, two's complement) and a float32 that is no NaN, rounded to F32,
    then to BF16.
    """
    x = times(whole.view(np.int16).astype(np.float32).view(np.uint32), number)
    rounded: Lanes = (x + 0x7FFF + (x >> 16 & 1) >> 16).astype(np.uint16)
    return rounded


def top_bits(whole: Lanes) -> Lanes:
    """The highest 11 bits, sign, exponent and two of mantissa, of whole numbers (16 bits, two's complement) in F32."""
    top: Lanes = (whole.view(np.int16).astype(np.float32).view(np.uint32) >> 21).astype(np.uint16)
    return top


def _emit(use: Use) -> tuple[ir.Value, ir.Value]:
    return use.builder.bitcast(use.arguments[0], floats()), _every(use, LANES)


def _every(use: Use, lanes: int) -> ir.Value:
    """The last argument, a float, in each lane."""
    undefined = ir.Constant(floats(lanes), ir.Undefined)
    first = use.builder.insert_element(undefined, use.arguments[-1], ir.Constant(ir.IntType(32), 0))
    return use.builder.shuffle_vector(first, undefined, every(vector(32, lanes), 0))


for _operation in (times, plus):
    typed(_operation, lambda lanes, number: U32 if (lanes, number) == (U32, types.float32) else None)


@lowered(times, LanesType, types.Float)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.fmul(*_emit(use)), vector(32))


@lowered(plus, LanesType, types.Float)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.fadd(*_emit(use)), vector(32))


typed(number_of, lambda whole: U32 if whole == U32 else None)


@lowered(number_of, LanesType)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.sitofp(use.arguments[0], floats()), vector(32))


typed(times_each, lambda lanes, others: U32 if lanes == others == U32 else None)
typed(plus_each, lambda lanes, others: U32 if lanes == others == U32 else None)


@lowered(times_each, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    left, right = (use.builder.bitcast(lanes, floats()) for lanes in use.arguments)
    return use.builder.bitcast(use.builder.fmul(left, right), vector(32))


@lowered(plus_each, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    left, right = (use.builder.bitcast(lanes, floats()) for lanes in use.arguments)
    return use.builder.bitcast(use.builder.fadd(left, right), vector(32))


typed(times_bf16, lambda whole, number: U16 if (whole, number) == (U16, types.float32) else None)


@lowered(times_bf16, LanesType, types.Float)
def _(use: Use) -> ir.Value:
    """Lanes in even and in odd places apart: each pair is 32 bits, so that nothing crosses from pair to pair."""
    builder, half = use.builder, LANES // 2
    pairs, sixteen = vector(32, half), every(vector(32, half), 16)
    both, number = builder.bitcast(use.arguments[0], pairs), _every(use, half)
    rounded = []
    for whole in (builder.ashr(builder.shl(both, sixteen), sixteen), builder.ashr(both, sixteen)):
        x = builder.bitcast(builder.fmul(builder.sitofp(whole, floats(half)), number), pairs)
        last = builder.and_(builder.lshr(x, sixteen), every(pairs, 1))
        rounded.append(builder.add(builder.add(x, every(pairs, 0x7FFF)), last))
    even, odd = rounded
    found = builder.or_(builder.lshr(even, sixteen), builder.and_(odd, every(pairs, 0xFFFF0000)))
    return builder.bitcast(found, vector(16))


typed(top_bits, lambda whole: U16 if whole == U16 else None)


@lowered(top_bits, LanesType)
def _(use: Use) -> ir.Value:
    """Even and odd places apart, as above."""
    builder, half = use.builder, LANES // 2
    pairs, sixteen = vector(32, half), every(vector(32, half), 16)
    both = builder.bitcast(use.arguments[0], pairs)
    even, odd = (
        builder.bitcast(builder.sitofp(whole, floats(half)), pairs)
        for whole in (builder.ashr(builder.shl(both, sixteen), sixteen), builder.ashr(both, sixteen))
    )
    top = builder.and_(builder.lshr(odd, every(pairs, 5)), every(pairs, 0xFFFF0000))
    return builder.bitcast(builder.or_(builder.lshr(even, every(pairs, 21)), top), vector(16))
