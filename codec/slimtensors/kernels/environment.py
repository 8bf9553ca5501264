"""The floating-point environment of a thread: how results are rounded, and whether the smallest become zero."""

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba.core import cgutils, types

from slimtensors.kernels._jit import brief
from slimtensors.kernels.simd.lowering import I32, I64, POINTER, Use, call, lowered, typed

__all__ = ["altered_here", "flip_here"]

# Of the control registers of x86 and ARM: rounding modes, and what makes zeros, or other NaNs, of operands and results.
_MXCSR = 1 << 6 | 3 << 13 | 1 << 15
_FPCR = 1 << 19 | 3 << 22 | 1 << 24 | 1 << 25


def altered() -> int:
    """Bits of this thread's control register that are not as usual. Only compiled code can ask."""
    return 0


def flip(bits: int) -> None:
    """Change these bits of the control register."""


@brief
def altered_here() -> int:
    """As Python calls it."""
    return altered()


@brief
def flip_here(bits: int) -> None:
    """As Python calls it."""
    flip(bits)


# ---- how the compiler makes them

typed(altered, lambda: types.uint64)
typed(flip, lambda bits: types.none if isinstance(bits, types.Integer) else None)


def _machine(use: Use) -> str:
    """x86_64, aarch64, or another, whose environment is left alone."""
    triple: str = use.context.codegen().magic_tuple()[0]
    return {"arm64": "aarch64"}.get(triple.split("-")[0], triple.split("-")[0])


def _mxcsr(use: Use) -> ir.Value:
    """Where the register's value is."""
    slot: ir.Value = cgutils.alloca_once(use.builder, I32)  # type: ignore[no-untyped-call] # Numba's own
    call(use.builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [use.builder.bitcast(slot, POINTER)])
    return slot


@lowered(altered)
def _altered(use: Use) -> ir.Value:
    if _machine(use) == "x86_64":
        found = use.builder.and_(use.builder.load(_mxcsr(use)), I32(_MXCSR))
        return use.builder.zext(found, I64)
    if _machine(use) == "aarch64":
        return use.builder.and_(call(use.builder, "llvm.aarch64.get.fpcr", I64, []), I64(_FPCR))
    return I64(0)


@lowered(flip, types.Integer)
def _flip(use: Use) -> None:
    bits = use.context.cast(use.builder, use.arguments[0], use.signature.args[0], types.uint64)
    if _machine(use) == "x86_64":
        slot = _mxcsr(use)
        use.builder.store(use.builder.xor(use.builder.load(slot), use.builder.trunc(bits, I32)), slot)
        call(use.builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [use.builder.bitcast(slot, POINTER)])
    elif _machine(use) == "aarch64":
        before = call(use.builder, "llvm.aarch64.get.fpcr", I64, [])
        call(use.builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [use.builder.xor(before, bits)])
