"""Vectors of 32 lanes for Numba kernels: the type, its operators, masks and widths.

A kernel computes on 32 unsigned integers at once and reads like NumPy: `x >> 12`, `x * f + c`, `select(x < k, a, b)`.
LLVM splits a vector of 32 into the registers the target has. Only the operations of gather.py, streams.py and
division.py look at the features of the target, when they are compiled. Kernels never ask.

Each operation is a plain NumPy function, which is its definition, followed by how the compiler makes it. With
NUMBA_DISABLE_JIT=1 the same kernels run on the NumPy definitions, where every access is bounds-checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import lower_builtin, models, register_model, type_callable

from slimtensors.kernels.simd.lowering import I32, I64, LANES, call, every, splat, vector

Lanes: TypeAlias = npt.NDArray[Any]  # 32 unsigned integers of 8, 16, 32 or 64 bits
Mask: TypeAlias = npt.NDArray[np.bool_]  # 32 booleans

__all__ = ["LANES", "Lanes", "Mask", "count", "leading_zeros", "select", "to_u8", "to_u16", "to_u32", "widened_for"]


class LanesType(types.Type):  # type: ignore[misc]
    """What Numba sees: 32 unsigned integers of `bits` bits; 1 bit is a mask."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"lanes{bits}")


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: LanesType) -> None:
        super().__init__(manager, lanes, vector(lanes.bits))


U16, U32, MASK = LanesType(16), LanesType(32), LanesType(1)


# ---- arithmetic and comparison: the operators + - * & | ^ << >> and < >= == !=, between lanes or lanes and an integer.
# An integer is cut to the width of the lanes. Shifts are by less than that width.


def _binary(symbol: Any, result: LanesType | None, emit: Callable[..., ir.Value]) -> None:
    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def _(context: Any) -> Any:
        def typer(left: Any, right: Any) -> Any:
            if isinstance(left, LanesType) and (left == right or isinstance(right, types.Integer)):
                return result or left
            if isinstance(left, types.Integer) and isinstance(right, LanesType):
                return result or right
            return None

        return typer

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = next(each.bits for each in signature.args if isinstance(each, LanesType))
        pairs = zip(arguments, signature.args, strict=True)
        return emit(builder, *[_as_lanes(context, builder, value, kind, bits) for value, kind in pairs])

    lower_builtin(symbol, LanesType, LanesType)(lower)
    lower_builtin(symbol, LanesType, types.Integer)(lower)
    lower_builtin(symbol, types.Integer, LanesType)(lower)


def _as_lanes(context: Any, builder: Any, value: Any, kind: Any, bits: int) -> ir.Value:
    if isinstance(kind, LanesType):
        return value
    return splat(builder, context.cast(builder, value, kind, types.Integer.from_bitwidth(bits, signed=False)))


_binary(operator.add, None, ir.IRBuilder.add)
_binary(operator.sub, None, ir.IRBuilder.sub)
_binary(operator.mul, None, ir.IRBuilder.mul)
_binary(operator.and_, None, ir.IRBuilder.and_)
_binary(operator.or_, None, ir.IRBuilder.or_)
_binary(operator.xor, None, ir.IRBuilder.xor)
_binary(operator.lshift, None, ir.IRBuilder.shl)
_binary(operator.rshift, None, ir.IRBuilder.lshr)
_binary(operator.lt, MASK, lambda builder, a, b: builder.icmp_unsigned("<", a, b))
_binary(operator.ge, MASK, lambda builder, a, b: builder.icmp_unsigned(">=", a, b))
_binary(operator.eq, MASK, lambda builder, a, b: builder.icmp_unsigned("==", a, b))
_binary(operator.ne, MASK, lambda builder, a, b: builder.icmp_unsigned("!=", a, b))


# ---- masks


def select(mask: Mask, yes: Lanes, no: Lanes) -> Lanes:
    return np.where(mask, yes, no)


def count(mask: Mask) -> int:
    """How many lanes are set."""
    return int(np.count_nonzero(mask))


@type_callable(select)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda mask, yes, no: yes if mask == MASK and yes == no else None


@lower_builtin(select, LanesType, LanesType, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.select(*arguments)


@type_callable(count)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda mask: types.intp if mask == MASK else None


@lower_builtin(count, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.zext(builder.ctpop(builder.bitcast(arguments[0], I32)), I64)


# ---- width


def to_u8(lanes: Lanes) -> Lanes:
    """The low 8 bits of each lane."""
    return lanes.astype(np.uint8)


def to_u16(lanes: Lanes) -> Lanes:
    """Each lane in 16 bits: its low ones, or filled up with zeros."""
    return lanes.astype(np.uint16)


def to_u32(lanes: Lanes) -> Lanes:
    """Each lane in 32 bits."""
    return lanes.astype(np.uint32)


def widened_for(array: npt.NDArray[Any], lanes: Lanes) -> Lanes:
    """Each lane in as many bits as an element of the array has: its low ones, or filled up with zeros."""
    return lanes.astype(array.dtype)


def _resized(builder: ir.IRBuilder, value: ir.Value, bits: int) -> ir.Value:
    resize = builder.zext if value.type.element.width < bits else builder.trunc
    return resize(value, vector(bits))


def _convert_to(bits: int, operation: Any) -> None:
    @type_callable(operation)  # type: ignore[untyped-decorator]
    def _(context: Any) -> Any:
        return lambda lanes: LanesType(bits)

    @lower_builtin(operation, LanesType)  # type: ignore[untyped-decorator]
    def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _resized(builder, arguments[0], bits)


_convert_to(8, to_u8)
_convert_to(16, to_u16)
_convert_to(32, to_u32)


@type_callable(widened_for)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda array, lanes: LanesType(array.dtype.bitwidth)


@lower_builtin(widened_for, types.Array, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return _resized(builder, arguments[1], signature.return_type.bits)


# ---- bits


def leading_zeros(lanes: Lanes) -> Lanes:
    """How many zero bits each lane of 32 bits has above its highest set bit; 32 for zero."""
    bit_length = np.frexp(lanes.astype(np.float64))[1]
    return (32 - bit_length).astype(np.uint32)


@type_callable(leading_zeros)  # type: ignore[untyped-decorator]
def _(context: Any) -> Any:
    return lambda lanes: U32 if lanes == U32 else None


@lower_builtin(leading_zeros, LanesType)  # type: ignore[untyped-decorator]
def _(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return call(builder, f"llvm.ctlz.v{LANES}i32", vector(32), [arguments[0], ir.Constant(ir.IntType(1), 0)])
