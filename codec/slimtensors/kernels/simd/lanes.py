"""Vectors of 32 lanes for Numba kernels: the type, its operators, masks and widths.

A kernel computes on 32 unsigned integers at once and reads like NumPy: `x >> 12`, `x * f + c`, `select(x < k, a, b)`.
LLVM splits a vector of 32 into the registers the target has. A few operations look at the
features of the target, when they are compiled. Kernels never ask.

Each operation is a plain NumPy function, which is its definition, followed by how the compiler makes it. With
NUMBA_DISABLE_JIT=1 the same kernels run on the NumPy definitions, where every access is bounds-checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import types
from numba.extending import models, register_model

from slimtensors.kernels.simd.lowering import (
    I64,
    LANES,
    Use,
    call,
    every,
    instruction_set,
    lowered,
    mask_bits,
    mask_byte,
    ones_of_byte,
    pick,
    splat,
    typed,
    vector,
)

Array: TypeAlias = npt.NDArray[Any]
Lanes: TypeAlias = npt.NDArray[Any]  # 32 unsigned integers of 8, 16, 32 or 64 bits
Mask: TypeAlias = npt.NDArray[np.bool_]  # 32 booleans

_Type: Any = types.Type
_PrimitiveModel: Any = models.PrimitiveModel
_register_model: Any = register_model


class LanesType(_Type):  # type: ignore[misc] # Numba's classes have no hints
    """What Numba sees: 32 unsigned integers of `bits` bits; 1 bit is a mask."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"lanes{bits}")


@_register_model(LanesType)
class LanesModel(_PrimitiveModel):  # type: ignore[misc] # Numba's classes have no hints
    def __init__(self, manager: Any, lanes: LanesType) -> None:
        super().__init__(manager, lanes, vector(lanes.bits))


U16, U32, MASK = LanesType(16), LanesType(32), LanesType(1)


# ---- arithmetic and comparison: the operators + - * & | ^ << >> and < >= == !=, of lanes, or of lanes and an integer.
# An integer is cut to the width of the lanes. Shifts are by less than that width.


def _binary(symbol: Any, result: LanesType | None, emit: Callable[..., ir.Value]) -> None:
    def typer(left: Any, right: Any) -> Any:
        if isinstance(left, LanesType) and (left == right or isinstance(right, types.Integer)):
            return result or left
        if isinstance(left, types.Integer) and isinstance(right, LanesType):
            return result or right
        return None

    def lower(use: Use) -> ir.Value:
        bits = next(kind.bits for kind in use.signature.args if isinstance(kind, LanesType))
        return emit(use.builder, _as_lanes(use, 0, bits), _as_lanes(use, 1, bits))

    typed(symbol, typer)
    lowered(symbol, LanesType, LanesType)(lower)
    lowered(symbol, LanesType, types.Integer)(lower)
    lowered(symbol, types.Integer, LanesType)(lower)


def _as_lanes(use: Use, side: int, bits: int) -> ir.Value:
    value, kind = use.arguments[side], use.signature.args[side]
    if isinstance(kind, LanesType):
        return value
    element: Any = types.Integer
    return splat(use.builder, use.context.cast(use.builder, value, kind, element.from_bitwidth(bits, signed=False)))


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


def mul_high(left: Lanes, right: Lanes) -> Lanes:
    """floor(left * right / 2^16), in lanes of 16 bits."""
    return (left.astype(np.uint32) * right >> 16).astype(np.uint16)


def increment(lanes: Lanes, mask: Mask) -> Lanes:
    """One more in the lanes of the mask, in lanes of 16 bits."""
    more: Lanes = lanes + mask.astype(lanes.dtype)
    return more


def rotate_right(lanes: Lanes, bits: int) -> Lanes:
    """Each lane of 16 bits rotated by some of them, any integer."""
    return lanes >> bits % 16 | lanes << -bits % 16


def shifted_low(high: Lanes, low: Lanes, bits: Lanes) -> Lanes:
    """The low halves of (2^16 * high + low) >> (bits mod 16), in lanes of 16 bits."""
    whole: Lanes = (high.astype(np.uint32) << 16 | low) >> bits % 16
    return whole.astype(np.uint16)


typed(mul_high, lambda left, right: left if left == right == U16 else None)
typed(increment, lambda lanes, mask: lanes if (lanes, mask) == (U16, MASK) else None)
typed(rotate_right, lambda lanes, bits: lanes if lanes == U16 and isinstance(bits, types.Integer) else None)


typed(shifted_low, lambda high, low, bits: high if high == low == bits == U16 else None)


@lowered(shifted_low, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    # One instruction with AVX-512.
    return call(use.builder, f"llvm.fshr.v{LANES}i16", vector(16), use.arguments)


@lowered(mul_high, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    # LLVM knows it again: one instruction.
    builder, wide = use.builder, vector(32)
    left, right = (builder.zext(argument, wide) for argument in use.arguments)
    return builder.trunc(builder.lshr(builder.mul(left, right), every(wide, 16)), vector(16))


@lowered(increment, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    lanes, mask = use.arguments
    return add_mask(use.builder, lanes, mask, instruction_set(use))


def add_mask(builder: ir.IRBuilder, lanes: ir.Value, mask: ir.Value, target: str) -> ir.Value:
    """What `increment` is made of."""
    if target != "avx512":
        return builder.sub(lanes, builder.sext(mask, lanes.type))
    # An addition in some lanes. LLVM would rather make numbers of the mask and subtract them, two instructions; it must
    # not see that what is added is (1 + 1 + 1) / 2 = 1.
    one = every(lanes.type, 1)
    one = call(builder, "llvm.x86.avx512.pavg.w.512", lanes.type, [one, one])
    return builder.select(mask, builder.add(lanes, one), lanes)


@lowered(rotate_right, LanesType, types.Integer)
def _(use: Use) -> ir.Value:
    builder, lanes = use.builder, use.arguments[0]
    bits = use.context.cast(builder, use.arguments[1], use.signature.args[1], types.uint16)
    if instruction_set(use) == "avx512":
        return call(builder, f"llvm.fshr.v{LANES}i16", lanes.type, [lanes, lanes, splat(builder, bits)])
    # All lanes by the same: LLVM has to see that, or shifts lane by lane.
    right, left = (splat(builder, builder.and_(n, n.type(15))) for n in (bits, builder.neg(bits)))
    return builder.or_(builder.lshr(lanes, right), builder.shl(lanes, left))


# ---- fields of bytes


def cut(lanes: Lanes, at: int, width: int, up: int) -> Lanes:
    """The bits `at` to `at + width - 1` of each lane of 8 bits, `up` bits up."""
    field: Lanes = (lanes >> at & (1 << width) - 1) << up
    return field


def _type_of_cut(lanes: Any, at: Any, width: Any, up: Any) -> Any:
    integers = all(isinstance(each, types.Integer) for each in (at, width, up))
    return lanes if lanes == LanesType(8) and integers else None


typed(cut, _type_of_cut)


@lowered(cut, LanesType, types.Integer, types.Integer, types.Integer)
def _(use: Use) -> ir.Value:
    # Two lanes as one of 16 bits, which any processor shifts; the mask takes away what crossed from one to the other.
    builder, lanes = use.builder, use.arguments[0]
    at, width, up = (
        use.context.cast(builder, value, kind, types.uint16)
        for value, kind in zip(use.arguments[1:], use.signature.args[1:], strict=True)
    )
    one = at.type(1)
    mask = builder.mul(builder.shl(builder.sub(builder.shl(one, width), one), up), at.type(0x101))
    right, left, mask = (splat(builder, each, LANES // 2) for each in (at, up, mask))
    pairs = builder.bitcast(lanes, vector(16, LANES // 2))
    return builder.bitcast(builder.and_(builder.shl(builder.lshr(pairs, right), left), mask), lanes.type)


# ---- masks


def select(mask: Mask, yes: Lanes, no: Lanes) -> Lanes:
    return np.where(mask, yes, no)


def count(mask: Mask) -> int:
    """How many lanes are set."""
    return int(np.count_nonzero(mask))


def first_lanes(n: int) -> Mask:
    """The lanes with a number below n."""
    mask: Mask = np.arange(LANES) < n
    return mask


def lane_numbers() -> Lanes:
    """0 to 31, in lanes of 16 bits."""
    return np.arange(LANES, dtype=np.uint16)


typed(lane_numbers, lambda: U16)
typed(select, lambda mask, yes, no: yes if mask == MASK and yes == no else None)
typed(count, lambda mask: types.intp if mask == MASK else None)
typed(first_lanes, lambda n: MASK if n == types.intp else None)


@lowered(select, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    return use.builder.select(*use.arguments)


@lowered(lane_numbers)
def _(_use: Use) -> ir.Value:
    return ir.Constant(vector(16), list(range(LANES)))


@lowered(count, LanesType)
def _(use: Use) -> ir.Value:
    builder, target = use.builder, instruction_set(use)
    bits = mask_bits(builder, use.arguments[0], target)
    if target != "portable":
        return builder.zext(builder.ctpop(bits), I64)
    # Without an instruction for it. `take` looks up the same four numbers.
    ones = [ones_of_byte(builder, mask_byte(builder, bits, part)) for part in range(LANES // 8)]
    return builder.add(builder.add(ones[0], ones[1]), builder.add(ones[2], ones[3]))


@lowered(first_lanes, types.Integer)
def _(use: Use) -> ir.Value:
    builder, n = use.builder, use.arguments[0]
    n = builder.select(builder.icmp_signed("<", n, I64(LANES)), n, I64(LANES))
    n = builder.select(builder.icmp_signed(">", n, I64(0)), n, I64(0))
    numbers = ir.Constant(vector(8), list(range(LANES)))
    return builder.icmp_unsigned("<", numbers, splat(builder, builder.trunc(n, ir.IntType(8))))


# ---- width


def to_u8(lanes: Lanes) -> Lanes:
    """The low 8 bits of each lane."""
    return lanes.astype(np.uint8)


def to_u16(lanes: Lanes) -> Lanes:
    """Each lane in 16 bits: its low ones, or filled up with zeros."""
    return lanes.astype(np.uint16)


def pair(high: Lanes, low: Lanes) -> Lanes:
    """Lanes of twice the width, from their halves."""
    wide = np.dtype(f"u{2 * low.itemsize}")
    both: Lanes = high.astype(wide) << 8 * low.itemsize | low
    return both


def high_u16(lanes: Lanes) -> Lanes:
    """The high 16 bits of each lane of 32 bits."""
    return (lanes >> 16).astype(np.uint16)


def to_u32(lanes: Lanes) -> Lanes:
    """Each lane in 32 bits."""
    return lanes.astype(np.uint32)


def as_in(array: Array, lanes: Lanes) -> Lanes:
    """Each lane in as many bits as an element of the array has: its low ones, or filled up with zeros."""
    return lanes.astype(array.dtype)


def _resize(use: Use) -> ir.Value:
    bits = use.signature.return_type.bits
    resize = use.builder.zext if use.signature.args[-1].bits < bits else use.builder.trunc
    return resize(use.arguments[-1], vector(bits))


typed(to_u8, lambda lanes: LanesType(8) if isinstance(lanes, LanesType) else None)
typed(to_u16, lambda lanes: LanesType(16) if isinstance(lanes, LanesType) else None)
typed(to_u32, lambda lanes: LanesType(32) if isinstance(lanes, LanesType) else None)
typed(as_in, lambda array, lanes: LanesType(array.dtype.bitwidth) if isinstance(lanes, LanesType) else None)
for _operation in (to_u8, to_u16, to_u32):
    lowered(_operation, LanesType)(_resize)
lowered(as_in, types.Array, LanesType)(_resize)


typed(pair, lambda high, low: LanesType(2 * low.bits) if high == low else None)


@lowered(pair, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    high, low = use.arguments
    alternating = [place for lane in range(LANES) for place in (lane, lane + LANES)]
    return use.builder.bitcast(pick(use.builder, low, high, alternating), vector(use.signature.return_type.bits))


typed(high_u16, lambda lanes: LanesType(16) if lanes == U32 else None)


@lowered(high_u16, LanesType)
def _(use: Use) -> ir.Value:
    # Every other one of 64 halves: one instruction with AVX-512, where a shift and a truncation take seven.
    halves = use.builder.bitcast(use.arguments[0], vector(16, 2 * LANES))
    return pick(use.builder, halves, halves, range(1, 2 * LANES, 2))


# ---- bits


def leading_zeros(lanes: Lanes) -> Lanes:
    """How many zero bits each lane of 32 bits has above its highest set bit; 32 for zero."""
    bit_length = np.frexp(lanes.astype(np.float64))[1]
    return (32 - bit_length).astype(np.uint32)


typed(leading_zeros, lambda lanes: U32 if lanes == U32 else None)


@lowered(leading_zeros, LanesType)
def _(use: Use) -> ir.Value:
    also_of_zero = ir.Constant(ir.IntType(1), 0)
    return call(use.builder, f"llvm.ctlz.v{LANES}i32", vector(32), [use.arguments[0], also_of_zero])
