"""Lanes and arrays: 32 consecutive elements from index `at`, and look-ups in a table.

An address need not be aligned. Nothing is checked in compiled code: the kernel proves `0 <= at <= array.size - 32`.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import lower_builtin, type_callable

from slimtensors.kernels.simd import lowering
from slimtensors.kernels.simd.lanes import U32, Lanes, LanesType
from slimtensors.kernels.simd.lowering import I32, I64, LANES, POINTER, address, by_parts, call, every, vector

Array = npt.NDArray[Any]


def window(array: Array, at: int) -> Array:
    """array[at : at + 32], for the NumPy definitions: refuses what compiled code must never do."""
    if not 0 <= at <= array.size - LANES:
        raise IndexError(f"32 elements from {at} of an array of {array.size}")
    return array[at : at + LANES]


# ---- load and store


def load(array: Array, at: int) -> Lanes:
    """array[at : at + 32]"""
    return window(array, at).copy()


def store(array: Array, at: int, lanes: Lanes) -> None:
    """array[at : at + 32] = lanes"""
    if lanes.dtype != array.dtype:
        raise TypeError(f"lanes of {lanes.dtype} for an array of {array.dtype}")
    window(array, at)[:] = lanes


@type_callable(load)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda array, at: LanesType(array.dtype.bitwidth)


@lower_builtin(load, types.Array, types.Integer)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    pointer = address(context, builder, signature, arguments)
    return lowering.load(builder, pointer, LANES, signature.return_type.bits)


@type_callable(store)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda array, at, lanes: types.void if array.dtype.bitwidth == lanes.bits else None


@lower_builtin(store, types.Array, types.Integer, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    pointer = address(context, builder, signature, arguments)
    builder.store(arguments[2], builder.bitcast(pointer, arguments[2].type.as_pointer()), align=1)
    return context.get_dummy_value()


# ---- gather: table[index]


def gather(table: Array, index: Lanes) -> Lanes:
    """table[index] for a table of uint32. The caller proves every index below table.size, by a mask for instance."""
    return table[index]  # type: ignore[no-any-return]


@type_callable(gather)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda table, index: U32 if table.dtype == types.uint32 and index == U32 else None


@lower_builtin(gather, types.Array, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    table = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return _GATHER[lowering.instruction_set(context)](builder, table, arguments[1])


def _gather_avx512(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    def sixteen(part: ir.Value) -> ir.Value:
        arguments = [every(vector(32, 16), 0), builder.bitcast(table, POINTER), part, every(vector(1, 16), 1), I32(4)]
        return call(builder, "llvm.x86.avx512.mask.gather.dpi.512", vector(32, 16), arguments)

    return by_parts(builder, 16, [index], sixteen)


def _gather_portable(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """Lane by lane. For AVX2 too: its own gather is slow on some processors, and no more than 4 % faster on Zen 5."""
    result = ir.Constant(index.type, ir.Undefined)
    for lane in range(LANES):
        position = builder.zext(builder.extract_element(index, I32(lane)), I64)
        result = builder.insert_element(result, builder.load(builder.gep(table, [position])), I32(lane))
    return result


_GATHER = {"avx512": _gather_avx512, "avx2": _gather_portable, "portable": _gather_portable}
