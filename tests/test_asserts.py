"""`python -O` leaves assertions out: nothing may be done in one."""

from __future__ import annotations

import ast
from pathlib import Path

HARMLESS = {"isinstance", "len", "tuple", "array_shape"}
ROOT = Path(__file__).parents[1]


def called(node: ast.Assert) -> set[str]:
    """What the assertion's condition calls."""
    return {ast.unparse(each.func) for each in ast.walk(node.test) if isinstance(each, ast.Call)}


def test_nothing_is_done_in_an_assertion() -> None:
    found, seen = [], 0
    for path in sorted([*ROOT.glob("codec/**/*.py"), *ROOT.glob("hub/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                seen += 1
                if called(node) - HARMLESS:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert seen > 20
    assert not found
