"""Kernel bodies as generators: the runner's way to stop a thread where it waits for others.

Each collective, `cuda.ballot_sync(mask, p)`, becomes `(yield ("ballot_sync", line, mask, p))`, and each call of a
device function `(yield from function(...))`. A conversion to an integer type becomes its mask, `uint32(x)`
`x & 0xffffffff`, since a thread makes millions of them. All else runs as the Python that it is.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Generator
from types import CodeType
from typing import Any

import numpy as np

COLLECTIVES = {"syncthreads", "syncwarp", "ballot_sync", "shfl_sync", "shfl_up_sync", "shfl_down_sync", "shfl_xor_sync"}

Thread = Generator[tuple[Any, ...], Any, Any]


class Wrapping:
    """An integer type of Numba: cuts numbers to its width."""

    def __init__(self, bits: int, signed: bool) -> None:
        self.mask, self.high = (1 << bits) - 1, 1 << bits - 1 if signed else 0
        self.dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")

    def __call__(self, value: int) -> int:
        return (value + self.high & self.mask) - self.high

    def applied(self, value: ast.expr) -> ast.expr:
        """What a call is replaced by."""
        text = f"(_ + {self.high} & {self.mask}) - {self.high}" if self.high else f"_ & {self.mask}"
        made = ast.parse(text, mode="eval").body
        if self.high:
            made.left.left.left = value  # type: ignore[attr-defined] # as parsed
        else:
            made.left = value  # type: ignore[attr-defined] # likewise
        return made


class DeviceFunction:
    """A function that kernels and other such functions call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._generator: Callable[..., Thread] | None = None

    @property
    def generator(self) -> Callable[..., Thread]:
        if self._generator is None:
            self._generator = as_generator(self._function)
        return self._generator


def as_generator(function: Callable[..., Any]) -> Callable[..., Thread]:
    """The function with a `yield` for each collective."""
    scope = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    special = {name: value for name, value in scope.items() if isinstance(value, (DeviceFunction, Wrapping))}
    # Each launch makes its kernel anew, with other cells: the text is the same for the same types.
    kinds = frozenset((name, value.dtype.str if isinstance(value, Wrapping) else "") for name, value in special.items())
    code = _codes.get((function.__code__, kinds))
    if code is None:
        code = _codes[function.__code__, kinds] = _compiled(function, special)
    for name, value in special.items():
        if isinstance(value, DeviceFunction):
            scope[name] = value.generator
    exec(code, scope)  # noqa: S102 # our own source
    made: Callable[..., Thread] = scope[function.__name__]
    return made


_codes: dict[tuple[CodeType, frozenset[tuple[str, str]]], CodeType] = {}


def _compiled(function: Callable[..., Any], special: dict[str, DeviceFunction | Wrapping]) -> CodeType:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    body = tree.body[0]
    assert isinstance(body, ast.FunctionDef)
    body.decorator_list, body.returns = [], None
    _Yields(special).visit(body)
    # A generator even without collectives.
    body.body.insert(0, ast.parse("if False: yield").body[0])
    ast.fix_missing_locations(tree)
    code: CodeType = compile(tree, inspect.getsourcefile(function) or "kernel", "exec")
    return code


class _Yields(ast.NodeTransformer):
    def __init__(self, special: dict[str, DeviceFunction | Wrapping]) -> None:
        self._special = special

    def visit_Call(self, node: ast.Call) -> ast.AST:  # ast's name
        self.generic_visit(node)
        called = node.func
        known = self._special.get(called.id) if isinstance(called, ast.Name) else None
        if isinstance(known, DeviceFunction):
            return ast.copy_location(ast.YieldFrom(node), node)
        if isinstance(known, Wrapping):
            (value,) = node.args
            return ast.copy_location(known.applied(value), node)
        is_cuda = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "cuda"
        if is_cuda and called.attr in COLLECTIVES:
            asked = [ast.Constant(called.attr), ast.Constant(node.lineno), *node.args]
            return ast.copy_location(ast.Yield(ast.Tuple(asked, ast.Load())), node)
        return node
