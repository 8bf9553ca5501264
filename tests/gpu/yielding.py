"""Kernel bodies as generators: the runner's way to stop a thread where it waits for others.

Each collective, `cuda.ballot_sync(mask, p)`, becomes `(yield ("ballot_sync", line, mask, p))`, and each call of a
device function `(yield from function(...))`. All else runs as the Python that it is.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Generator
from typing import Any

COLLECTIVES = {"syncthreads", "syncwarp", "ballot_sync", "shfl_sync", "shfl_up_sync", "shfl_down_sync", "shfl_xor_sync"}

Thread = Generator[tuple[Any, ...], Any, Any]


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
    names = inspect.getclosurevars(function)
    scope = {**function.__globals__, **names.nonlocals}
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    body = tree.body[0]
    assert isinstance(body, ast.FunctionDef)
    body.decorator_list, body.returns = [], None
    _Yields(scope).visit(body)
    # A generator even without collectives.
    body.body.insert(0, ast.parse("if False: yield").body[0])
    ast.fix_missing_locations(tree)
    for name, value in list(scope.items()):
        if isinstance(value, DeviceFunction):
            scope[name] = value.generator
    exec(compile(tree, inspect.getsourcefile(function) or "kernel", "exec"), scope)  # noqa: S102  # our own source
    made: Callable[..., Thread] = scope[function.__name__]
    return made


class _Yields(ast.NodeTransformer):
    def __init__(self, scope: dict[str, Any]) -> None:
        self._scope = scope

    def visit_Call(self, node: ast.Call) -> ast.AST:  # ast's name
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Name) and isinstance(self._scope.get(called.id), DeviceFunction):
            return ast.copy_location(ast.YieldFrom(node), node)
        is_cuda = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "cuda"
        if is_cuda and called.attr in COLLECTIVES:
            asked = [ast.Constant(called.attr), ast.Constant(node.lineno), *node.args]
            return ast.copy_location(ast.Yield(ast.Tuple(asked, ast.Load())), node)
        return node
