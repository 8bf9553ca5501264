"""Lanes of 32 bits as F32 numbers. An operation rounds once, as IEEE 754 has it, on every processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import types

from slimtensors.kernels.simd.lanes import U32, Lanes, LanesType
from slimtensors.kernels.simd.lowering import LANES, Use, every, floats, lowered, typed, vector


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


def _emit(use: Use) -> tuple[ir.Value, ir.Value]:
    builder, (lanes, number) = use.builder, use.arguments
    undefined = ir.Constant(floats(), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.bitcast(lanes, floats()), builder.shuffle_vector(first, undefined, every(vector(32, LANES), 0))


for _operation in (times, plus):
    typed(_operation, lambda lanes, number: U32 if (lanes, number) == (U32, types.float32) else None)


@lowered(times, LanesType, types.Float)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.fmul(*_emit(use)), vector(32))


@lowered(plus, LanesType, types.Float)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.fadd(*_emit(use)), vector(32))
