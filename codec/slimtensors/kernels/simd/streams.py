"""take and give: the words of a stream, for the lanes that want one."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils, types

from slimtensors.kernels.simd.lanes import MASK, U16, U32, Array, Lanes, LanesType, Mask
from slimtensors.kernels.simd.lowering import (
    I8,
    I16,
    I32,
    I64,
    LANES,
    Use,
    address,
    call,
    every,
    instruction_set,
    joined,
    load_vector,
    lowered,
    mask_bits,
    mask_byte,
    ones_of_byte,
    pick,
    typed,
    vector,
)
from slimtensors.kernels.simd.memory import window

_global_constant: Any = cgutils.global_constant


# ---- take


def take(words: Array, at: int, mask: Mask, lanes: Lanes) -> Lanes:
    """words[at], words[at + 1], ... handed in lane order to the lanes of the mask; the other lanes keep what they have.

    Reads 32 words from `at` whatever the mask says.
    """
    rank: Array = np.cumsum(mask) - mask
    return np.where(mask, window(words, at)[rank], lanes)


def _type_of_take(words: Any, at: Any, mask: Any, lanes: Any) -> Any:
    return U16 if (words.dtype, at, mask, lanes) == (types.uint16, types.intp, MASK, U16) else None


typed(take, _type_of_take)


@lowered(take, types.Array, types.Integer, LanesType, LanesType)
def _(use: Use) -> ir.Value:
    return _TAKE[instruction_set(use)](use.builder, address(use), *use.arguments[2:])


def _take_avx512(builder: ir.IRBuilder, words: ir.Value, mask: ir.Value, lanes: ir.Value) -> ir.Value:
    arguments = [load_vector(builder, words, LANES, 16), lanes, mask]
    return call(builder, "llvm.x86.avx512.mask.expand.v32i16", vector(16), arguments)


def _take_avx2(builder: ir.IRBuilder, words: ir.Value, mask: ir.Value, lanes: ir.Value) -> ir.Value:
    """Eight lanes at a time: the mask's eight bits find a permutation that spreads the next eight words."""
    rows = _spread_table(builder.module)
    bits = mask_bits(builder, mask, "avx2")
    parts, before = [], 0  # the bits of all lanes before are counted each time: no count waits for another
    for place in (0, 2, 1, 3):  # in `bits`, of each eight lanes
        taken = builder.zext(builder.ctpop(builder.and_(bits, I32(before))), I64)
        eight = load_vector(builder, builder.gep(words, [taken]), 16, 8)
        row = load_vector(builder, builder.gep(rows, [I64(0), mask_byte(builder, bits, place)]), 16, 8)
        parts.append(call(builder, "llvm.x86.ssse3.pshuf.b.128", vector(8, 16), [eight, row]))
        before |= 0xFF << 8 * place
    spread = builder.bitcast(joined(builder, parts), vector(16))
    return builder.or_(builder.select(mask, every(vector(16), 0), lanes), spread)


def _spread_table(module: ir.Module) -> ir.GlobalVariable:
    """spread[mask]: for vpshufb, where each lane's two bytes are, and 0x80, which gives 0, for lanes not set."""
    name = "lanes_spread_table"
    if name not in module.globals:
        masks = np.arange(256)[:, None] >> np.arange(8) & 1
        ranks = masks.cumsum(axis=1) - masks
        low = np.where(masks, 2 * ranks, 0x80)
        rows = np.stack([low, np.where(masks, low + 1, 0x80)], axis=2).reshape(256, 16)
        row = ir.ArrayType(I8, 16)
        value = ir.Constant(ir.ArrayType(row, 256), [ir.Constant(row, r.tolist()) for r in rows])
        _global_constant(module, name, value)
    return module.globals[name]


def _take_portable(builder: ir.IRBuilder, words: ir.Value, mask: ir.Value, lanes: ir.Value) -> ir.Value:
    """Eight lanes at a time: the next eight words move up by 4, 2 and 1 lanes, where the mask's eight bits say so."""
    rows = _move_table(builder.module)
    bits = mask_bits(builder, mask, "portable")
    parts = []
    for part in range(LANES // 8):
        byte = mask_byte(builder, bits, part)
        eight = load_vector(builder, words, 8, 16)
        for move, far in enumerate(_MOVES):
            moved = pick(builder, eight, eight, [max(lane - far, 0) for lane in range(8)])
            row = load_vector(builder, builder.gep(rows, [I64(0), I64(move), byte]), 8, 16)
            eight = builder.xor(eight, builder.and_(builder.xor(eight, moved), row))
        parts.append(eight)
        words = builder.gep(words, [ones_of_byte(builder, byte)])
    return builder.select(mask, joined(builder, parts), lanes)


_MOVES = (4, 2, 1)


def _move_table(module: ir.Module) -> ir.GlobalVariable:
    """moves[move][mask]: all ones for each of eight lanes that a word moves to, _MOVES[move] lanes up.

    The n-th word goes to the n-th lane set, over as many lanes as are not set below that. These never become fewer from
    one word to the next, nor do the moves up to any of the three: no word comes to lie on another.
    """
    name = "lanes_move_table"
    if name not in module.globals:
        wanted = np.arange(256)[:, None] >> np.arange(8) & 1
        word = wanted.cumsum(axis=1) - wanted
        distance = np.arange(8) - word
        rows = np.zeros((len(_MOVES), 256, 8), np.int64)
        for move, far in enumerate(_MOVES):
            mask, lane = np.nonzero(wanted & (distance & far != 0))
            rows[move, mask, word[mask, lane] + (distance[mask, lane] & -far)] = 0xFFFF
        row = ir.ArrayType(I16, 8)
        table = ir.ArrayType(row, 256)
        value = [ir.Constant(table, [ir.Constant(row, lanes.tolist()) for lanes in move]) for move in rows]
        _global_constant(module, name, ir.Constant(ir.ArrayType(table, len(_MOVES)), value))
    return module.globals[name]


_TAKE = {"avx512": _take_avx512, "avx2": _take_avx2, "portable": _take_portable}


# ---- give


def give(words: Array, end: int, mask: Mask, lanes: Lanes) -> None:
    """The low 16 bits of the lanes of the mask, in lane order, to words[end - count(mask)] ... words[end - 1].

    lanes: of 16 or 32 bits.

    The inverse of `take`, for a stream written from its end. What comes to lie in the rest of words[end - 32 : end] is
    unspecified.
    """
    given = lanes[mask].astype(np.uint16)
    window(words, end - LANES)[LANES - given.size :] = given


def _type_of_give(words: Any, end: Any, mask: Any, lanes: Any) -> Any:
    fits = (words.dtype, end, mask) == (types.uint16, types.intp, MASK) and lanes in (U16, U32)
    return types.void if fits else None


typed(give, _type_of_give)


@lowered(give, types.Array, types.Integer, LanesType, LanesType)
def _(use: Use) -> None:
    low = use.arguments[3]
    if low.type != vector(16):
        low = use.builder.trunc(low, vector(16))
    _GIVE[instruction_set(use)](use.builder, address(use), use.arguments[2], low)


def _give_avx512(builder: ir.IRBuilder, end: ir.Value, mask: ir.Value, low: ir.Value) -> None:
    """Bring the words together at the bottom of a register, then store only as many as there are."""
    together = call(builder, "llvm.x86.avx512.mask.compress.v32i16", vector(16), [low, every(vector(16), 0), mask])
    count = builder.zext(builder.ctpop(builder.bitcast(mask, I32)), I64)
    first_ones = builder.trunc(builder.sub(builder.shl(I64(1), count), I64(1)), I32)
    first = builder.bitcast(builder.gep(end, [builder.neg(count)]), vector(16).as_pointer())
    stored = [together, first, I32(2), builder.bitcast(first_ones, vector(1))]
    call(builder, f"llvm.masked.store.v{LANES}i16.p0", ir.VoidType(), stored)


def _give_portable(builder: ir.IRBuilder, end: ir.Value, mask: ir.Value, low: ir.Value) -> None:
    """From the last lane to the first, without a branch: store a word, then step below it if the lane wanted that."""
    bits = builder.bitcast(mask, I32)
    for lane in reversed(range(LANES)):
        builder.store(builder.extract_element(low, I32(lane)), builder.gep(end, [I64(-1)]), align=2)
        wanted = builder.and_(builder.lshr(bits, I32(lane)), I32(1))
        end = builder.gep(end, [builder.neg(builder.zext(wanted, I64))])


_GIVE = {"avx512": _give_avx512, "avx2": _give_portable, "portable": _give_portable}
