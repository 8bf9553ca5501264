"""What has a name of safetensors' takes what safetensors takes, in the same order, with the same defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch

import slimtensors
import slimtensors.numpy
import slimtensors.torch
from slimtensors import UsageError

KEYWORD, EMPTY = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty

# (theirs, ours) of each public function, and of what `safe_open` has.
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    f"{module}.{name}": (getattr(theirs, name), getattr(ours, name))
    for module, theirs, ours, names in (
        ("numpy", safetensors.numpy, slimtensors.numpy, ("save", "save_file", "load", "load_file")),
        (
            "torch", safetensors.torch, slimtensors.torch,
            ("save", "save_file", "load", "load_file", "save_model", "load_model"),
        ),
        ("", safetensors, slimtensors, ("safe_open",)),
        (
            "safe_open", safetensors.safe_open, slimtensors.safe_open,
            ("get_slice", "get_tensor", "get_tensors", "keys", "metadata", "offset_keys"),
        ),
    )
    for name in names
}  # fmt: skip

# Of a parameter: what differs, and why.
DIFFERENT = {
    ("numpy.load_file", "backend"): "files are read by default: a mapped one that is cut off ends the process",
    ("torch.load_file", "backend"): "as above",
    ("torch.load_model", "backend"): "as above",
    (".safe_open", "backend"): "as above; what is compiled states no default",
    (".safe_open", "device"): "what is compiled states no default",
    (".safe_open", "framework"): "may be left out: arrays of NumPy",
}


def parameters(each: Callable[..., Any]) -> list[inspect.Parameter]:
    """Without `self`, which nobody names."""
    return [each for each in inspect.signature(each).parameters.values() if each.name != "self"]


@pytest.mark.parametrize("name", PAIRS)
def test_signatures_are_those_of_safetensors(name: str) -> None:
    theirs, ours = map(parameters, PAIRS[name])
    positional = [each for each in theirs if each.kind != KEYWORD]
    assert [(each.name, each.kind) for each in ours[: len(positional)]] == [(e.name, e.kind) for e in positional]
    assert all(each.kind == KEYWORD for each in ours[len(positional) :])  # so that theirs may grow
    known = {each.name: each for each in ours}
    for each in theirs:
        same = known[each.name].kind == each.kind and known[each.name].default == each.default
        assert same == ((name, each.name) not in DIFFERENT), each
    assert all(each.default is not EMPTY for each in ours if each.name not in {each.name for each in theirs})


def test_nothing_of_safetensors_is_missing() -> None:
    for module in ("numpy", "torch"):
        theirs = getattr(safetensors, module)
        public = {
            name for name, each in vars(theirs).items()
            if inspect.isfunction(each) and not name.startswith("_") and each.__module__ == theirs.__name__
        }  # fmt: skip
        missing = {name for name in public if f"{module}.{name}" not in PAIRS}
        assert missing <= {"storage_ptr", "storage_size"}, missing  # helpers, which its documentation leaves out
    methods = {name for name in dir(safetensors.safe_open) if not name.startswith("_")}
    assert {f"safe_open.{name}" for name in methods} <= PAIRS.keys()
    for name in ("get_shape", "get_dtype"):
        assert hasattr(slimtensors.TensorSlice, name)


def test_backend(tmp_path: Path) -> None:
    path, other = tmp_path / "a.slimtensors", "https://example.org/a.slimtensors"
    arrays = {"a": np.arange(50_000, dtype=np.float32)}
    slimtensors.numpy.save_file(arrays, path)
    with slimtensors.safe_open(path, backend="mmap") as file:
        assert file._file.reader.source.waits is False
        assert np.array_equal(file.get_tensor("a"), arrays["a"])
    module = __import__("torch").nn.Linear(1, 1)
    for load in (
        slimtensors.numpy.load_file,
        slimtensors.torch.load_file,
        lambda path, **more: slimtensors.torch.load_model(module, path, strict=False, **more),
        lambda path, **more: slimtensors.safe_open(path, **more).close(),
    ):
        for backend in ("mmap", "pread", None):
            load(path, backend=backend)
        with pytest.raises(UsageError, match="backend is 'io_uring'; it can be mmap or pread"):
            load(path, backend="io_uring")
        with pytest.raises(UsageError, match="cannot be mapped"):
            load(other, backend="mmap")
    with pytest.raises(UsageError, match="give one of them"):
        slimtensors.numpy.load_file(path, mmap=True, backend="pread")
