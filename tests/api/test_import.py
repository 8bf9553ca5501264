"""Importing is light, names are what they are said to be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing `slimtensors.x` puts the module where `slimtensors.x()` was."""
    modules = {path.stem for path in Path(slimtensors.__file__).parent.iterdir()}
    assert modules & set(slimtensors.__all__) <= {"numpy", "torch"}
