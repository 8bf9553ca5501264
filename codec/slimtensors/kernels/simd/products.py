"""Sums of products of bytes, four to a lane of 32 bits, and of numbers of 16 bits, two to a lane."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import types

from slimtensors.kernels.simd.lanes import U32, Lanes, LanesType
from slimtensors.kernels.simd.lowering import (
    LANES,
    Use,
    by_parts,
    call,
    every,
    features,
    instruction_set,
    lowered,
    splat,
    typed,
    vector,
)


def add_products(sums: Lanes, four: int, others: Lanes) -> Lanes:
    """sums + the sum over b < 4 of byte b of `four` (at most 127) * byte b of `others` (two's complement), in lanes of
    32 bits, modulo 2^32.
    """
    left = np.array([four], np.uint32).view(np.uint8).astype(np.int32)
    right = others.view(np.int8).reshape(-1, 4).astype(np.int32)
    total: Lanes = sums + (right * left).sum(axis=1, dtype=np.int32).view(np.uint32)
    return total


def _type_of_add_products(sums: Any, four: Any, others: Any) -> Any:
    return U32 if sums == others == U32 and isinstance(four, types.Integer) else None


typed(add_products, _type_of_add_products)


@lowered(add_products, LanesType, types.Integer, LanesType)
def _(use: Use) -> ir.Value:
    builder, (sums, four, others) = use.builder, use.arguments
    fours = splat(builder, use.context.cast(builder, four, use.signature.args[1], types.uint32))
    target = instruction_set(use)
    if target == "avx512" and "+avx512vnni" in features(use):

        def sixteen(*parts: ir.Value) -> ir.Value:
            return call(builder, "llvm.x86.avx512.vpdpbusd.512", vector(32, 16), parts)

        return by_parts(builder, 16, [sums, fours, others], sixteen)
    if target == "portable":
        return _portable(builder, sums, fours, others)

    def eight(*parts: ir.Value) -> ir.Value:
        # Sums of two products are below 2^15: they do not saturate.
        bytes_ = [builder.bitcast(part, vector(8, 32)) for part in parts[1:]]
        twos = call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(16, 16), bytes_)
        both = call(builder, "llvm.x86.avx2.pmadd.wd", vector(32, 8), [twos, every(vector(16, 16), 1)])
        return builder.add(parts[0], both)

    return by_parts(builder, 8, [sums, fours, others], eight)


def _portable(builder: ir.IRBuilder, sums: ir.Value, fours: ir.Value, others: ir.Value) -> ir.Value:
    """Even bytes and odd ones in lanes of 16 bits; the sum of one product of each is below 2^15."""
    halves = vector(16, 2 * LANES)
    eight, low, sixteen = every(halves, 8), every(halves, 0xFF), every(vector(32), 16)
    left, right = builder.bitcast(fours, halves), builder.bitcast(others, halves)
    even = builder.mul(builder.and_(left, low), builder.ashr(builder.shl(right, eight), eight))
    odd = builder.mul(builder.lshr(left, eight), builder.ashr(right, eight))
    twos = builder.bitcast(builder.add(even, odd), vector(32))
    both = builder.add(builder.ashr(builder.shl(twos, sixteen), sixteen), builder.ashr(twos, sixteen))
    return builder.add(sums, both)


def add_pairs(sums: Lanes, two: int, others: Lanes) -> Lanes:
    """sums + the sum of the products of the halves of `two` with those of `others`, numbers of 16 bits (two's
    complement), in lanes of 32 bits, modulo 2^32.
    """
    left = np.array([two & 0xFFFFFFFF], np.uint32).view(np.int16).astype(np.int64)
    right = others.view(np.int16).reshape(-1, 2).astype(np.int64)
    total: Lanes = sums + (right * left).sum(axis=1).astype(np.uint32)
    return total


typed(add_pairs, _type_of_add_products)


@lowered(add_pairs, LanesType, types.Integer, LanesType)
def _(use: Use) -> ir.Value:
    builder, (sums, two, others) = use.builder, use.arguments
    twos = splat(builder, use.context.cast(builder, two, use.signature.args[1], types.uint32))
    target = instruction_set(use)
    if target == "avx512" and "+avx512vnni" in features(use):

        def sixteen(*parts: ir.Value) -> ir.Value:
            return call(builder, "llvm.x86.avx512.vpdpwssd.512", vector(32, 16), parts)

        return by_parts(builder, 16, [sums, twos, others], sixteen)
    if target != "portable":

        def eight(*parts: ir.Value) -> ir.Value:
            halves = [builder.bitcast(part, vector(16, 16)) for part in parts[1:]]
            return builder.add(parts[0], call(builder, "llvm.x86.avx2.pmadd.wd", vector(32, 8), halves))

        return by_parts(builder, 8, [sums, twos, others], eight)
    half = every(vector(32), 16)
    low = [builder.ashr(builder.shl(lanes, half), half) for lanes in (twos, others)]
    high = [builder.ashr(lanes, half) for lanes in (twos, others)]
    return builder.add(sums, builder.add(builder.mul(*low), builder.mul(*high)))
