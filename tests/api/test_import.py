"""Importing is light, names are what they are said to be."""

from __future__ import annotations

import subprocess
import sys

import slimtensors


def test_importing_loads_neither_numba_nor_torch() -> None:
    heavy = ("numba", "torch", "numpy", "rich", "click")
    code = f"import sys, slimtensors; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_name_is_there_and_documented() -> None:
    for name in slimtensors.__all__:
        value = getattr(slimtensors, name)
        assert isinstance(value, (str, int)) or value.__doc__, name
