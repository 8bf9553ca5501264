"""spread and squeeze: consecutive elements of an array, to and from the lanes of a mask; a mask from bits, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import types

from slimtensors.kernels.simd.lanes import MASK, Array, Lanes, LanesType, Mask
from slimtensors.kernels.simd.lowering import (
    I32,
    I64,
    LANES,
    Use,
    address,
    call,
    data,
    every,
    instruction_set,
    load_vector,
    lowered,
    pick,
    typed,
    vector,
)
from slimtensors.kernels.simd.memory import window

REGISTER_BITS = 512


# ---- masks and bits


def mask_of(bits: Array, at: int) -> Mask:
    """The 32 bits of bits[at] (uint32), the lowest for lane 0."""
    if not 0 <= at < bits.size:
        raise IndexError(f"element {at} of an array of {bits.size}")
    mask: Mask = (int(bits[at]) >> np.arange(LANES) & 1) != 0
    return mask


def store_mask(bits: Array, at: int, mask: Mask) -> None:
    """bits[at] (uint32) = the mask, lane 0 as the lowest bit."""
    if not 0 <= at < bits.size:
        raise IndexError(f"element {at} of an array of {bits.size}")
    bits[at] = np.packbits(mask, bitorder="little").view("<u4")[0]


def _is_bits(bits: Any, at: Any) -> bool:
    return (bits.dtype, at) == (types.uint32, types.intp)


typed(mask_of, lambda bits, at: MASK if _is_bits(bits, at) else None)
typed(store_mask, lambda bits, at, mask: types.void if _is_bits(bits, at) and mask == MASK else None)


@lowered(mask_of, types.Array, types.Integer)
def _(use: Use) -> ir.Value:
    return use.builder.bitcast(use.builder.load(use.builder.gep(data(use), [use.arguments[1]])), vector(1))


@lowered(store_mask, types.Array, types.Integer, LanesType)
def _(use: Use) -> None:
    word = use.builder.bitcast(use.arguments[2], I32)
    use.builder.store(word, use.builder.gep(data(use), [use.arguments[1]]))


# ---- spread


def spread(array: Array, at: int, mask: Mask) -> Lanes:
    """array[at], array[at + 1], ... handed in lane order to the lanes of the mask; other lanes are 0.

    Reads 32 elements from `at` whatever the mask says.
    """
    rank: Array = np.cumsum(mask) - mask
    lanes: Lanes = np.where(mask, window(array, at)[rank], array.dtype.type(0))
    return lanes


def _type_of_spread(array: Any, at: Any, mask: Any) -> Any:
    return LanesType(array.dtype.bitwidth) if (at, mask) == (types.intp, MASK) else None


typed(spread, _type_of_spread)


@lowered(spread, types.Array, types.Integer, LanesType)
def _(use: Use) -> ir.Value:
    emit = _spread_avx512 if instruction_set(use) == "avx512" else _spread_portable
    return emit(use.builder, address(use), use.arguments[2], use.signature.return_type.bits)


def _spread_avx512(builder: ir.IRBuilder, elements: ir.Value, mask: ir.Value, bits: int) -> ir.Value:
    """A register at a time; the next one begins where this one's elements end."""
    lanes = min(LANES, REGISTER_BITS // bits)
    parts = []
    for start in range(0, LANES, lanes):
        part = pick(builder, mask, mask, range(start, start + lanes))
        arguments = [load_vector(builder, elements, lanes, bits), every(vector(bits, lanes), 0), part]
        parts.append(call(builder, f"llvm.x86.avx512.mask.expand.v{lanes}i{bits}", vector(bits, lanes), arguments))
        elements = builder.gep(elements, [_ones(builder, part, lanes)])
    return _joined(builder, parts)


def _spread_portable(builder: ir.IRBuilder, elements: ir.Value, mask: ir.Value, bits: int) -> ir.Value:
    """One lane after another, without a branch: load an element, then step over it if the lane wanted it."""
    result = ir.Constant(vector(bits), ir.Undefined)
    word = builder.bitcast(mask, I32)
    for lane in range(LANES):
        result = builder.insert_element(result, builder.load(elements), I32(lane))
        wanted = builder.and_(builder.lshr(word, I32(lane)), I32(1))
        elements = builder.gep(elements, [builder.zext(wanted, I64)])
    return builder.select(mask, result, every(vector(bits), 0))


# ---- squeeze


def squeeze(array: Array, at: int, mask: Mask, lanes: Lanes) -> None:
    """The lanes of the mask, in lane order, to array[at], array[at + 1], ...

    The inverse of `spread`. What comes to lie in the rest of array[at : at + 32] is unspecified.
    """
    kept = lanes[mask]
    window(array, at)[: kept.size] = kept


def _type_of_squeeze(array: Any, at: Any, mask: Any, lanes: Any) -> Any:
    same = isinstance(lanes, LanesType) and array.dtype.bitwidth == lanes.bits
    return types.void if same and (at, mask) == (types.intp, MASK) else None


typed(squeeze, _type_of_squeeze)


@lowered(squeeze, types.Array, types.Integer, LanesType, LanesType)
def _(use: Use) -> None:
    emit = _squeeze_avx512 if instruction_set(use) == "avx512" else _squeeze_portable
    emit(use.builder, address(use), use.arguments[2], use.arguments[3])


def _squeeze_avx512(builder: ir.IRBuilder, to: ir.Value, mask: ir.Value, values: ir.Value) -> None:
    """Whole registers are stored; each begins where the elements of the one before end, and what it leaves is
    overwritten or beyond the last element.
    """
    bits = values.type.element.width
    lanes = min(LANES, REGISTER_BITS // bits)
    for start in range(0, LANES, lanes):
        span = range(start, start + lanes)
        part = pick(builder, mask, mask, span)
        arguments = [pick(builder, values, values, span), every(vector(bits, lanes), 0), part]
        name = f"llvm.x86.avx512.mask.compress.v{lanes}i{bits}"
        together = call(builder, name, vector(bits, lanes), arguments)
        builder.store(together, builder.bitcast(to, vector(bits, lanes).as_pointer()), align=1)
        to = builder.gep(to, [_ones(builder, part, lanes)])


def _squeeze_portable(builder: ir.IRBuilder, to: ir.Value, mask: ir.Value, values: ir.Value) -> None:
    """One lane after another, without a branch: store an element, then step over it if the lane is of the mask."""
    word = builder.bitcast(mask, I32)
    for lane in range(LANES):
        builder.store(builder.extract_element(values, I32(lane)), to)
        wanted = builder.and_(builder.lshr(word, I32(lane)), I32(1))
        to = builder.gep(to, [builder.zext(wanted, I64)])


def _ones(builder: ir.IRBuilder, mask: ir.Value, lanes: int) -> ir.Value:
    count = builder.ctpop(builder.bitcast(mask, ir.IntType(lanes)))
    return builder.zext(count, I64)


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [pick(builder, low, high, both) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
