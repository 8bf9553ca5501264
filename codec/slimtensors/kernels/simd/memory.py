"""Lanes and arrays: 32 consecutive elements from index `at`, and look-ups in a table.

An address need not be aligned. Nothing is checked in compiled code: the kernel proves `0 <= at <= array.size - 32`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils, types

from slimtensors.kernels.simd.lanes import U16, U32, Array, Lanes, LanesType
from slimtensors.kernels.simd.lowering import (
    I8,
    I32,
    I64,
    LANES,
    POINTER,
    Use,
    address,
    by_parts,
    call,
    data,
    every,
    instruction_set,
    joined,
    load_vector,
    lowered,
    pick,
    typed,
    vector,
)

_pack_array: Any = cgutils.pack_array


def window(array: Array, at: int) -> Array:
    """array[at : at + 32], for the NumPy definitions: refuses what compiled code must never do."""
    if not 0 <= at <= array.size - LANES:
        raise IndexError(f"32 elements from {at} of an array of {array.size}")
    return array[at : at + LANES]


# ---- load and store


def load(array: Array, at: int) -> Lanes:
    """array[at : at + 32]"""
    lanes: Lanes = window(array, at).copy()
    return lanes


def store(array: Array, at: int, lanes: Lanes) -> None:
    """array[at : at + 32] = lanes"""
    if lanes.dtype != array.dtype:
        raise TypeError(f"lanes of {lanes.dtype} for an array of {array.dtype}")
    window(array, at)[:] = lanes


typed(load, lambda array, at: LanesType(array.dtype.bitwidth) if isinstance(at, types.Integer) else None)
typed(store, lambda array, at, lanes: types.void if (array.dtype.bitwidth, at) == (lanes.bits, types.intp) else None)


@lowered(load, types.Array, types.Integer)
def _(use: Use) -> ir.Value:
    return load_vector(use.builder, address(use), LANES, use.signature.return_type.bits)


@lowered(store, types.Array, types.Integer, LanesType)
def _(use: Use) -> None:
    lanes = use.arguments[2]
    use.builder.store(lanes, use.builder.bitcast(address(use), lanes.type.as_pointer()), align=1)


# ---- expect: a store to come


def expect(array: Array, at: int) -> None:
    """array[at] and what lies on its cache line will be written soon. Any `at`: nothing is read or written here."""


typed(expect, lambda _array, at: types.void if at == types.intp else None)


@lowered(expect, types.Array, types.Integer)
def _(use: Use) -> None:
    to_write, keep, data_cache = I32(1), I32(3), I32(1)
    to = use.builder.bitcast(address(use), POINTER)
    call(use.builder, "llvm.prefetch.p0", ir.VoidType(), [to, to_write, keep, data_cache])


# ---- gather: table[index]


def gather(table: Array, index: Lanes) -> Lanes:
    """table[index] for a table of uint32. The caller proves every index below table.size, by a mask for instance."""
    found: Lanes = table[index]
    return found


typed(gather, lambda table, index: U32 if table.dtype == types.uint32 and index == U32 else None)


@lowered(gather, types.Array, LanesType)
def _(use: Use) -> ir.Value:
    return _GATHER[instruction_set(use)](use.builder, data(use), use.arguments[1])


def _gather_avx512(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    def sixteen(part: ir.Value) -> ir.Value:
        arguments = [every(vector(32, 16), 0), builder.bitcast(table, POINTER), part, every(vector(1, 16), 1), I32(4)]
        return call(builder, "llvm.x86.avx512.mask.gather.dpi.512", vector(32, 16), arguments)

    return by_parts(builder, 16, [index], sixteen)


def _gather_avx2(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """27 % faster than lane by lane on Sapphire Rapids, 4 % on Zen 5; slower under microcode against Downfall."""

    def eight(part: ir.Value) -> ir.Value:
        all_lanes = every(vector(32, 8), 0xFFFFFFFF)
        arguments = [every(vector(32, 8), 0), builder.bitcast(table, POINTER), part, all_lanes, I8(4)]
        return call(builder, "llvm.x86.avx2.gather.d.d.256", vector(32, 8), arguments)

    return by_parts(builder, 8, [index], eight)


def _gather_portable(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """Lane by lane."""
    result = ir.Constant(index.type, ir.Undefined)
    for lane in range(index.type.count):
        position = builder.zext(builder.extract_element(index, I32(lane)), I64)
        result = builder.insert_element(result, builder.load(builder.gep(table, [position])), I32(lane))
    return result


_GATHER = {"avx512": _gather_avx512, "avx2": _gather_avx2, "portable": _gather_portable}


# ---- look_up: table[slot], in halves


def look_up(table: Array, slots: Lanes) -> tuple[Lanes, Lanes]:
    """The high and the low 16 bits of table[slots], for a table of uint32 and slots of 16 bits.

    The caller proves every slot below table.size, by a mask for instance.
    """
    found: Lanes = table[slots]
    return (found >> 16).astype(np.uint16), found.astype(np.uint16)


def _type_of_look_up(table: Any, slots: Any) -> Any:
    pair: Any = types.UniTuple
    return pair(U16, 2) if table.dtype == types.uint32 and slots == U16 else None


typed(look_up, _type_of_look_up)


def look_up_from(table: Array, begin: int, slots: Lanes) -> tuple[Lanes, Lanes]:
    """look_up(table[begin:], slots), without an array made for that. The caller proves 0 <= begin, too."""
    return look_up(table[begin:], slots)


typed(look_up_from, lambda table, begin, slots: _type_of_look_up(table, slots) if begin == types.intp else None)


@lowered(look_up, types.Array, LanesType)
def _(use: Use) -> ir.Value:
    return _pack_array(use.builder, _look_up(use, data(use), use.arguments[1]))


@lowered(look_up_from, types.Array, types.Integer, LanesType)
def _(use: Use) -> ir.Value:
    return _pack_array(use.builder, _look_up(use, address(use), use.arguments[2]))


def _look_up(use: Use, table: ir.Value, slots: ir.Value) -> list[ir.Value]:
    look_up = _look_up_pairs if instruction_set(use) == "avx512" else _look_up_singly
    return look_up(use.builder, table, slots)


def _look_up_pairs(builder: ir.IRBuilder, table: ir.Value, slots: ir.Value) -> list[ir.Value]:
    """Lanes in even and in odd places apart: each pair is 32 bits, so that nothing crosses from pair to pair."""
    pairs = vector(32, LANES // 2)
    slots = builder.bitcast(slots, pairs)
    even = _gather_avx512(builder, table, builder.and_(slots, every(pairs, 0xFFFF)))
    odd = _gather_avx512(builder, table, builder.lshr(slots, every(pairs, 16)))
    return [builder.bitcast(half, vector(16)) for half in _halves_avx512(builder, even, odd)]


def _look_up_singly(builder: ir.IRBuilder, table: ir.Value, slots: ir.Value) -> list[ir.Value]:
    """Four slots in a register of the processor's. Two entries in four lanes, four in eight, eight in two vectors: the
    shuffles that bring them together part their halves, too.
    """
    fours = builder.bitcast(slots, vector(64, LANES // 4))
    nothing = ir.Constant(vector(32, 4), ir.Undefined)
    parts = []
    for lane in range(LANES):
        four = builder.extract_element(fours, I32(lane // 4))
        slot = builder.and_(builder.lshr(four, I64(16 * (lane % 4))), I64(0xFFFF))
        entry = builder.insert_element(nothing, builder.load(builder.gep(table, [slot])), I32(0))
        parts.append(builder.bitcast(entry, vector(16, 8)))
    for order in ((0, 8, 1, 9, 2, 10, 3, 11), (0, 1, 8, 9, 2, 3, 10, 11)):
        parts = [pick(builder, left, right, order) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    halves = ((4, 5, 6, 7, 12, 13, 14, 15), (0, 1, 2, 3, 8, 9, 10, 11))
    found = [[pick(builder, *two, order) for two in zip(parts[::2], parts[1::2], strict=True)] for order in halves]
    return [joined(builder, half) for half in found]


def _halves_avx512(builder: ir.IRBuilder, even: ir.Value, odd: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Three instructions; of what `_halves` says, LLVM makes two that are three each for the processor."""
    pairs = even.type
    high_half, sixteen = every(pairs, 0xFFFF0000), every(pairs, 16)
    turned = call(builder, "llvm.fshl.v16i32", pairs, [even, even, sixteen])
    high = call(builder, "llvm.x86.avx512.pternlog.d.512", pairs, [high_half, odd, turned, I32(0xCA)])
    return high, call(builder, "llvm.fshl.v16i32", pairs, [odd, turned, sixteen])


# ---- look_up_missing: the same, for the few vectors that have not found all yet


def look_up_missing(table: Array, slots: Lanes, high: Lanes, low: Lanes) -> tuple[Lanes, Lanes]:
    """look_up(table, slots) if a lane of `high` is 0, else (high, low). A rare case has to be rare: it takes a jump."""
    return (high, low) if high.all() else look_up(table, slots)


typed(
    look_up_missing,
    lambda table, slots, high, low: _type_of_look_up(table, slots) if slots == high == low else None,
)


@lowered(look_up_missing, types.Array, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    # The jump is made here: Numba would count references to the table on both ways, at each step.
    builder, (high, low) = use.builder, use.arguments[2:]
    missing = builder.bitcast(builder.icmp_unsigned("==", high, every(high.type, 0)), I32)
    before = builder.basic_block
    with builder.if_then(builder.icmp_unsigned("!=", missing, I32(0)), likely=False):
        found = _look_up(use, data(use), use.arguments[1])
        inside = builder.basic_block
    merged = []
    for given, looked_up in zip((high, low), found, strict=True):
        phi = builder.phi(given.type)
        phi.add_incoming(given, before)
        phi.add_incoming(looked_up, inside)
        merged.append(phi)
    return _pack_array(builder, merged)
