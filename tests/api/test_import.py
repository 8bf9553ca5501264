"""Importing is light, names are what they are said to be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import slimtensors
import slimtensors_hub


def test_importing_loads_neither_numba_nor_torch() -> None:
    heavy = ("numba", "torch", "numpy", "rich", "click")
    code = f"import sys, slimtensors; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_name_is_there_and_documented() -> None:
    for name in slimtensors.__all__:
        value = getattr(slimtensors, name)
        assert isinstance(value, (str, int)) or value.__doc__, name


@pytest.mark.parametrize(
    "name", ["", ".numpy", ".torch", ".offload", ".torch.distributed", "_hub", "_hub.transformers"]
)
def test_dir_gives_what_is_public(name: str) -> None:
    """What a shell completes."""
    if name not in ("", ".numpy"):
        pytest.importorskip("transformers" if name == "_hub.transformers" else "torch")
    module = importlib.import_module(f"slimtensors{name}")
    if name == "_hub.transformers":
        assert {"AutoConfig", "AutoModel", "AutoTokenizer", *module.__all__} <= set(dir(module))
        assert all(each in module.__all__ or each.startswith("Auto") for each in dir(module))
    else:
        assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, each) for each in module.__all__)


def test_no_type_checker_is_told_that_any_name_is_there() -> None:
    """A module's `__getattr__` says so, unless it is hidden from them. (To run one would take longer.)"""
    for package in (slimtensors, slimtensors_hub):
        tree = ast.parse(Path(package.__file__).read_text("utf-8"))
        assert not [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "__getattr__"]
        tests = {ast.unparse(each.test): each.body for each in tree.body if isinstance(each, ast.If)}
        told = {alias.name for each in tests["TYPE_CHECKING"] for alias in each.names}  # type: ignore[attr-defined]
        assert tests.keys() == {"TYPE_CHECKING", "not TYPE_CHECKING"}
        assert package._HOME.keys() <= told


def test_a_verb_of_the_modules_is_found_from_its_error() -> None:
    for name in ("load_file", "save_file", "stream_tensors"):
        with pytest.raises(AttributeError, match=f"'{name}'; slimtensors.numpy and slimtensors.torch have it"):
            getattr(slimtensors, name)
    with pytest.raises(AttributeError, match=r"'compres'$"):
        slimtensors.compres  # type: ignore[attr-defined]  # noqa: B018


def test_what_is_warned_of_is_public() -> None:
    assert issubclass(slimtensors.DecodedOnCpuWarning, RuntimeWarning)
    assert issubclass(slimtensors.KernelCacheWarning, RuntimeWarning)


def test_no_module_has_the_name_of_a_function() -> None:
    """Importing `slimtensors.x` puts the module where `slimtensors.x()` was."""
    modules = {path.stem for path in Path(slimtensors.__file__).parent.iterdir()}
    assert modules & set(slimtensors.__all__) <= {"numpy", "torch"}
