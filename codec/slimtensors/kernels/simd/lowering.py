"""Small words of LLVM for the operations on lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

LANES = 32

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = I8.as_pointer()


def instruction_set(context: Any) -> str:
    """What the odd operations have a lowering for: avx512, avx2 or portable.

    All else is plain LLVM vector arithmetic, which LLVM splits into the registers that the target has.
    """
    triple, _cpu, features = context.codegen().magic_tuple()
    present = features.split(",")
    if not triple.startswith("x86_64"):
        return "portable"
    if "+avx512vbmi2" in present:  # vpexpandw, vpcompressw; Ice Lake, Zen 4 and later
        return "avx512"
    return "avx2" if "+avx2" in present else "portable"


def vector(bits: int, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), lanes)


def floats(lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), lanes)


def every(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector that holds one constant in each lane."""
    return ir.Constant(kind, [value] * kind.count)


def splat(builder: ir.IRBuilder, element: ir.Value) -> ir.Value:
    """A vector that holds `element` in each lane."""
    first = builder.insert_element(ir.Constant(vector(element.type.width), ir.Undefined), element, I32(0))
    return builder.shuffle_vector(first, first, every(vector(32), 0))


def address(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> ir.Value:
    """Where array[at] lies, for an operation whose first arguments are (array, at)."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    index = context.cast(builder, arguments[1], signature.args[1], types.intp)
    return builder.gep(array.data, [index])


def load(builder: ir.IRBuilder, pointer: ir.Value, lanes: int, bits: int) -> ir.Value:
    return builder.load(builder.bitcast(pointer, vector(bits, lanes).as_pointer()), align=1)


def pick(builder: ir.IRBuilder, low: ir.Value, high: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """The named lanes of two vectors laid side by side."""
    return builder.shuffle_vector(low, high, ir.Constant(vector(32, len(lanes)), list(lanes)))


def by_parts(
    builder: ir.IRBuilder, lanes: int, vectors: Sequence[ir.Value], emit: Callable[..., ir.Value]
) -> ir.Value:
    """Cut vectors of 32 into parts that fill a register, apply `emit` to each in order, and join the results."""
    parts = []
    for start in range(0, LANES, lanes):
        parts.append(emit(*[pick(builder, each, each, range(start, start + lanes)) for each in vectors]))
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [pick(builder, low, high, both) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

