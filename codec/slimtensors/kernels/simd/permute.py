"""Look-ups in registers: 32 or 64 lanes of 16 bits are a table, which costs no access to memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils

from slimtensors.kernels.simd.lanes import U16, Lanes, LanesType
from slimtensors.kernels.simd.lowering import (
    I32,
    I64,
    LANES,
    Use,
    by_parts,
    call,
    every,
    instruction_set,
    lowered,
    pick,
    typed,
    vector,
)

_alloca_once: Any = cgutils.alloca_once


# ---- permute: table[index]


def permute(table: Lanes, index: Lanes) -> Lanes:
    """table[index mod 32], in lanes of 16 bits."""
    found: Lanes = table[index % LANES]
    return found


def permute_two(first: Lanes, second: Lanes, index: Lanes) -> Lanes:
    """What lane `index` mod 64 of two vectors laid side by side holds, in lanes of 16 bits."""
    found: Lanes = np.concatenate([first, second])[index % (2 * LANES)]
    return found


typed(permute, lambda table, index: U16 if table == index == U16 else None)
typed(permute_two, lambda first, second, index: U16 if first == second == index == U16 else None)


@lowered(permute, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    target = instruction_set(use)
    if target == "avx512":
        return call(use.builder, "llvm.x86.avx512.permvar.hi.512", vector(16), use.arguments)
    if target == "avx2":
        return _by_bytes(use.builder, *use.arguments)
    return _through_memory(use, use.arguments[:1])


@lowered(permute_two, LanesType, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    first, second, index = use.arguments
    if instruction_set(use) == "avx512":
        return call(use.builder, "llvm.x86.avx512.vpermi2var.hi.512", vector(16), [first, index, second])
    return _through_memory(use, [first, second])


def _by_bytes(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """Low and high bytes apart, of the first and of the last 16 entries: each is an instruction for 32 lanes."""
    byte, wide = vector(8), vector(16)
    index = builder.and_(builder.trunc(index, byte), every(byte, LANES - 1))
    last = builder.icmp_unsigned(">", index, every(byte, LANES // 2 - 1))
    index = builder.and_(index, every(byte, LANES // 2 - 1))
    halves = []
    for shift in (0, 8):
        part = builder.trunc(builder.lshr(table, every(wide, shift)), byte)
        found = []
        for start in (0, LANES // 2):
            twice = pick(builder, part, part, 2 * list(range(start, start + LANES // 2)))
            found.append(call(builder, "llvm.x86.avx2.pshuf.b", byte, [twice, index]))
        halves.append(builder.zext(builder.select(last, found[1], found[0]), wide))
    return builder.or_(halves[0], builder.shl(halves[1], every(wide, 8)))


def _through_memory(use: Use, tables: Sequence[ir.Value]) -> ir.Value:
    builder, index = use.builder, use.arguments[-1]
    held = _alloca_once(builder, vector(16), size=len(tables) + 1)  # a gather of the last entry reads two bytes more
    for number, table in enumerate(tables):
        builder.store(table, builder.gep(held, [I32(number)]))
    index = builder.and_(index, every(index.type, LANES * len(tables) - 1))
    if instruction_set(use) == "avx2":

        def eight(part: ir.Value) -> ir.Value:
            every_lane = every(vector(32, 8), 0xFFFFFFFF)
            start = builder.bitcast(held, ir.IntType(8).as_pointer())
            arguments = [every(vector(32, 8), 0), start, part, every_lane, ir.IntType(8)(2)]
            return call(builder, "llvm.x86.avx2.gather.d.d.256", vector(32, 8), arguments)

        return builder.trunc(by_parts(builder, 8, [builder.zext(index, vector(32))], eight), vector(16))
    # Four indices and four entries at a time, in ordinary registers.
    entries, fours = builder.bitcast(held, ir.IntType(16).as_pointer()), vector(64, LANES // 4)
    indices, result = builder.bitcast(index, fours), ir.Constant(fours, ir.Undefined)
    for four in range(LANES // 4):
        places, together = builder.extract_element(indices, I32(four)), I64(0)
        for lane in range(4):
            place = builder.and_(builder.lshr(places, I64(16 * lane)), I64(0xFFFF))
            entry = builder.zext(builder.load(builder.gep(entries, [place])), I64)
            together = builder.or_(together, builder.shl(entry, I64(16 * lane)))
        result = builder.insert_element(result, together, I32(four))
    return builder.bitcast(result, vector(16))


# ---- append_top_bit


def append_top_bit(index: Lanes, number: Lanes) -> Lanes:
    """2 * index + the highest bit of `number`, modulo 2^16, in lanes of 16 bits."""
    return index << 1 | number >> 15


typed(append_top_bit, lambda index, number: U16 if index == number == U16 else None)


@lowered(append_top_bit, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    # One instruction with AVX-512.
    return call(use.builder, f"llvm.fshl.v{LANES}i16", vector(16), [*use.arguments, every(vector(16), 1)])
