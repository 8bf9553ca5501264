"""Differences from a base, and back (expressions.md, section 8).

Floats are compared by an integer that rises with their value, o(u), so that neighbours differ by one whatever their
exponents; a difference of either sign becomes a number without one, small where the difference is small.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import Lanes
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]


@inlined
def in_order(u: Lanes, bits: int) -> Lanes:
    """o(u) = u + 2^(b-1) if u < 2^(b-1), else 2^b - 1 - u"""
    high = 1 << bits - 1
    ordered: Lanes = u ^ (0 - (u >> bits - 1) | high)
    return ordered


@inlined
def out_of_order(o: Lanes, bits: int) -> Lanes:
    """The inverse of in_order."""
    high = 1 << bits - 1
    unit: Lanes = o ^ ((o >> bits - 1) - 1 | high)
    return unit


@inlined
def zigzag(d: Lanes, bits: int) -> Lanes:
    """2 d for d >= 0, -2 d - 1 for d < 0"""
    return d << 1 ^ 0 - (d >> bits - 1)


@inlined
def signed(z: Lanes) -> Lanes:
    """The inverse of zigzag."""
    return z >> 1 ^ 0 - (z & 1)


@kernel
def differences(units: Array, base: Array, floats: bool, out: Array) -> int:
    """out = zigzag(o(units) - o(base)). All uint8, 16, 32 or 64 [n], n a multiple of 32; o only for floats."""
    bits = out.itemsize * 8
    if out.size % LANES != 0 or units.size != out.size or base.size != out.size:
        return BAD_ARGUMENT
    if floats:
        for at in range(0, out.size, LANES):
            d = in_order(load(units, at), bits) - in_order(load(base, at), bits)
            store(out, at, zigzag(d, bits))
    else:
        for at in range(0, out.size, LANES):
            store(out, at, zigzag(load(units, at) - load(base, at), bits))
    return OK


@kernel
def add_base(out: Array, base: Array, floats: bool) -> int:
    """The inverse of `differences`, in place."""
    bits = out.itemsize * 8
    if out.size % LANES != 0 or base.size != out.size:
        return BAD_ARGUMENT
    if floats:
        for at in range(0, out.size, LANES):
            o = in_order(load(base, at), bits) + signed(load(out, at))
            store(out, at, out_of_order(o, bits))
    else:
        for at in range(0, out.size, LANES):
            store(out, at, load(base, at) + signed(load(out, at)))
    return OK
