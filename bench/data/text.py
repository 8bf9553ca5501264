"""Text that every machine has: Python's standard library. Which files there are depends on the interpreter's version,
so trained files differ between machines, as they do between CPUs; seeds make them the same on one."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sources(tests: bool) -> list[Path]:
    """The library's test files, or its other files; always in the same shuffled order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if "site-packages" not in folders and tests == bool({"test", "tests", "idle_test"} & set(folders)):
            found.append(path)
    random.Random(0).shuffle(found)  # noqa: S311  # for reproducibility, not for secrets
    return found


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            yield ast.get_docstring(node) or ""


def sentences() -> list[str]:
    """Sentences of the docstrings, 40 to 400 characters each, none twice."""
    found: dict[str, None] = {}
    for path in sources(tests=False):
        for text in _docstrings(path):
            for piece in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
                line = " ".join(piece.split())
                if 40 <= len(line) <= 400:
                    found[line] = None
    return list(found)


def code(tests: bool, limit: int = 16 << 20) -> bytes:
    """Source text, at most `limit` bytes."""
    text, length = [], 0
    for path in sources(tests):
        text.append(path.read_bytes())
        length += len(text[-1])
        if length >= limit:
            break
    return b"\n".join(text)[:limit]
