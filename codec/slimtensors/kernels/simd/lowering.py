"""Telling Numba about an operation on lanes, and small words of LLVM to make it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped,unused-ignore] # has no hints
from numba import extending
from numba.core import cgutils, types

LANES = 32

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
POINTER = I8.as_pointer()

# Numba has type hints here and there; what we need of it has none.
_type_callable: Any = extending.type_callable
_lower_builtin: Any = extending.lower_builtin
_global_constant: Any = cgutils.global_constant
_get_or_insert_function: Any = cgutils.get_or_insert_function


# ---- telling Numba


class Use(NamedTuple):
    """One use of an operation in code that is being compiled."""

    context: Any
    builder: ir.IRBuilder
    signature: Any  # the Numba types of the arguments and of the result
    arguments: Sequence[ir.Value]


def typed(operation: Callable[..., Any], typer: Callable[..., Any]) -> None:
    """`typer` gives the operation's Numba type from those of its arguments, or None where it cannot be used."""

    def for_context(_context: Any) -> Callable[..., Any]:
        return typer

    _type_callable(operation)(for_context)


def lowered(operation: Callable[..., Any], *kinds: Any) -> Callable[[Callable[[Use], Any]], None]:
    """How the compiler makes the operation, for arguments of these kinds."""

    def register(emit: Callable[[Use], Any]) -> None:
        def for_numba(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = emit(Use(context, builder, signature, arguments))
            return context.get_dummy_value() if value is None else value

        _lower_builtin(operation, *kinds)(for_numba)

    return register


def instruction_set(use: Use) -> str:
    """What the odd operations have a lowering for: avx512, avx2 or portable.

    All else is plain LLVM vector arithmetic, which LLVM splits into the registers that the target has.
    """
    if not use.context.codegen().magic_tuple()[0].startswith("x86_64"):
        return "portable"
    present = features(use)
    if "+avx512vbmi2" in present:  # vpexpandw, vpcompressw; Ice Lake, Zen 4 and later
        return "avx512"
    return "avx2" if "+avx2" in present else "portable"


def features(use: Use) -> list[str]:
    """What the target has: LLVM's names, each after a sign."""
    _triple, _cpu, present = use.context.codegen().magic_tuple()
    found: list[str] = present.split(",")
    return found


# ---- vectors


def vector(bits: int, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), lanes)


def floats(lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(ir.FloatType(), lanes)


def every(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector that holds one constant in each lane."""
    return ir.Constant(kind, [value] * kind.count)


def splat(builder: ir.IRBuilder, element: ir.Value, lanes: int = LANES) -> ir.Value:
    """A vector that holds `element` in each lane."""
    first = builder.insert_element(ir.Constant(vector(element.type.width, lanes), ir.Undefined), element, I32(0))
    return builder.shuffle_vector(first, first, every(vector(32, lanes), 0))


def pick(builder: ir.IRBuilder, low: ir.Value, high: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """The named lanes of two vectors laid side by side."""
    return builder.shuffle_vector(low, high, ir.Constant(vector(32, len(lanes)), list(lanes)))


def by_parts(builder: ir.IRBuilder, lanes: int, vectors: Sequence[ir.Value], emit: Callable[..., ir.Value]) -> ir.Value:
    """Cut vectors of 32 into parts that fill a register, apply `emit` to each in order, and join the results."""
    parts = [
        emit(*[pick(builder, whole, whole, range(start, start + lanes)) for whole in vectors])
        for start in range(0, vectors[0].type.count, lanes)
    ]
    return joined(builder, parts)


def joined(builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """Vectors one after another as one."""
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [pick(builder, low, high, both) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


# ---- masks


def mask_bits(builder: ir.IRBuilder, mask: ir.Value, target: str) -> ir.Value:
    """The 32 bits of a mask, eight lanes a byte, in order; with AVX2, bytes 0, 2, 1 and 3 of them."""
    if target != "avx2":
        return builder.bitcast(mask, I32)
    # LLVM would bring these into order first, across the halves of a register.
    whole = builder.sext(mask, vector(16))
    words = [pick(builder, whole, whole, range(start, start + 16)) for start in (0, 16)]
    return call(builder, "llvm.x86.avx2.pmovmskb", I32, [call(builder, "llvm.x86.avx2.packsswb", vector(8), words)])


def mask_byte(builder: ir.IRBuilder, bits: ir.Value, place: int) -> ir.Value:
    """A byte of mask_bits, as an index."""
    return builder.zext(builder.and_(builder.lshr(bits, I32(8 * place)), I32(0xFF)), I64)


def ones_of_byte(builder: ir.IRBuilder, byte: ir.Value) -> ir.Value:
    """How many bits are set in an index below 256, for processors that have no instruction for it."""
    name = "lanes_ones_table"
    if name not in builder.module.globals:
        ones = ir.Constant(ir.ArrayType(I8, 256), [bin(value).count("1") for value in range(256)])
        _global_constant(builder.module, name, ones)
    return builder.zext(builder.load(builder.gep(builder.module.globals[name], [I64(0), byte])), I64)


# ---- memory and calls


def data(use: Use) -> ir.Value:
    """Where the array lies that is the first argument."""
    return use.context.make_array(use.signature.args[0])(use.context, use.builder, use.arguments[0]).data


def address(use: Use) -> ir.Value:
    """Where array[at] lies; array and at are the first arguments."""
    index = use.context.cast(use.builder, use.arguments[1], use.signature.args[1], types.intp)
    return use.builder.gep(data(use), [index])


def load_vector(builder: ir.IRBuilder, pointer: ir.Value, lanes: int, bits: int) -> ir.Value:
    return builder.load(builder.bitcast(pointer, vector(bits, lanes).as_pointer()), align=1)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(_get_or_insert_function(builder.module, function, name), arguments)
