"""Single operations on lanes as kernels, to be held against NumPy."""

from __future__ import annotations

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.simd.division import code_halves, divide
from slimtensors.kernels.simd.lanes import (
    count,
    cut,
    first_lanes,
    high_u16,
    lane_numbers,
    leading_zeros,
    pair,
    rotate_right,
    select,
    shifted_low,
)
from slimtensors.kernels.simd.memory import gather, load, look_up, look_up_missing, store
from slimtensors.kernels.simd.numbers import plus, times, top_bits
from slimtensors.kernels.simd.permute import append_top_bit, permute, permute_two
from slimtensors.kernels.simd.streams import give, take


@kernel
def divide_all(x, f, quotients, remainders):
    for at in range(0, x.size, 32):
        quotient, remainder = divide(load(x, at), load(f, at))
        store(quotients, at, quotient)
        store(remainders, at, remainder)


@kernel
def code_halves_all(high, low, f, start, new_high, new_low):
    for at in range(0, high.size, 32):
        x, y = code_halves(load(high, at), load(low, at), load(f, at), load(start, at))
        store(new_high, at, x)
        store(new_low, at, y)


@kernel
def leading_zeros_all(x, out):
    for at in range(0, x.size, 32):
        store(out, at, leading_zeros(load(x, at)))


@kernel
def high_all(x, out):
    for at in range(0, x.size, 32):
        store(out, at, high_u16(load(x, at)))


@kernel
def shift_all(high, low, bits, out):
    for at in range(0, high.size, 32):
        store(out, at, shifted_low(load(high, at), load(low, at), load(bits, at)))


@kernel
def halves_all(table, index, out):
    for at in range(0, index.size, 32):
        high, low = look_up(table, load(index, at))
        store(out, at, pair(high, low))


@kernel
def missing_all(table, index, high, low, out):
    for at in range(0, index.size, 32):
        found, rest = look_up_missing(table, load(index, at), load(high, at), load(low, at))
        store(out, at, pair(found, rest))


@kernel
def permute_all(tables, index, one, two):
    for at in range(0, index.size, 32):
        store(one, at, permute(load(tables, 0), load(index, at)))
        store(two, at, permute_two(load(tables, 0), load(tables, 32), load(index, at)))


@kernel
def append_all(index, numbers, out):
    for at in range(0, index.size, 32):
        store(out, at, append_top_bit(load(index, at), load(numbers, at)))


@kernel
def top_all(whole, out):
    for at in range(0, whole.size, 32):
        store(out, at, top_bits(load(whole, at)) << 5 | lane_numbers())


@kernel
def rotate_all(x, bits, out):
    for at in range(0, x.size, 32):
        store(out, at, rotate_right(load(x, at), bits))


@kernel
def cut_all(x, at, width, up, out):
    for i in range(0, x.size, 32):
        store(out, i, cut(load(x, i), at, width, up))


@kernel
def gather_all(table, index, out):
    for at in range(0, index.size, 32):
        store(out, at, gather(table, load(index, at)))


@kernel
def take_all(words, wants, out):
    """wants: not zero where a lane takes a word; the rest of out stays. Returns how many were taken."""
    at = 0
    for i in range(0, wants.size, 32):
        mask = load(wants, i) != 0
        store(out, i, take(words, at, mask, load(out, i)))
        at += count(mask)
    return at


@kernel
def give_halves(lanes, wants, words):
    end = words.size
    for at in range(lanes.size - 32, -1, -32):
        mask = load(wants, at) != 0
        give(words, end, mask, load(lanes, at))
        end -= count(mask)
    return end


@kernel
def give_all(lanes, gives, words):
    """From the last step to the first, to the end of `words`; returns where the first word is."""
    end = words.size
    for i in range(gives.size - 32, -1, -32):
        mask = load(gives, i) != 0
        give(words, end, mask, load(lanes, i))
        end -= count(mask)
    return end


@kernel
def plus_all(x, number, out):
    for at in range(0, x.size, 32):
        store(out, at, plus(load(x, at), number))


@kernel
def times_all(x, number, out):
    for at in range(0, x.size, 32):
        store(out, at, times(load(x, at), number))


@kernel
def first_lanes_all(n, out):
    zeros = load(out, 0) & 0
    store(out, 0, select(first_lanes(n), zeros + 1, zeros))
