"""Files are the same, and are read the same, whatever other libraries have made of floats in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as plain_load
from safetensors.torch import save_file as plain_save

import slimtensors
import slimtensors.torch
from slimtensors.kernels.environment import altered_here, flip_here

ON_X86 = torch.set_flush_denormal(True)
torch.set_flush_denormal(False)
UPWARDS = 1 << 14 if ON_X86 else 1 << 22  # rounding towards infinity, of the control register


@contextmanager
def flushing() -> Iterator[None]:
    assert torch.set_flush_denormal(True)
    try:
        assert np.float32(1e-38) * np.float32(0.5) == 0
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def rounding_upwards() -> Iterator[None]:
    flip_here(UPWARDS)
    try:
        assert np.float32(1) + np.float32(1e-30) > 1
        yield
    finally:
        flip_here(UPWARDS)


def merged(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A base and an adapter's merge, both with rows of numbers so small that they are subnormal."""
    numbers = torch.Generator().manual_seed(0)
    base = torch.randn(512, 512, generator=numbers) * 0.02
    base[100:200] *= 1e-37
    base = base.to(dtype)
    left, right = torch.randn(512, 8, generator=numbers) * 0.01, torch.randn(8, 512, generator=numbers)
    left[100:150] = 0
    left[150:200] *= 1e-37
    return base, (base.float() + left @ right).to(dtype)


def lora(folder: Path) -> dict[str, Any]:
    base, tuned = merged(torch.float32)
    plain_save({"w": base}, folder / "base.safetensors")
    plain_save({"w": tuned}, folder / "source.safetensors")
    return {"base": folder / "base.safetensors"}


def nf4(folder: Path) -> dict[str, Any]:
    plain_save({"w": merged(torch.bfloat16)[0]}, folder / "source.safetensors")
    return {"quantise": "nf4"}


def slim(folder: Path) -> dict[str, Any]:
    plain_save({"w": merged(torch.float32)[1]}, folder / "source.safetensors")
    return {"target_error": 0.01}


def dequantised(folder: Path) -> dict[str, Any]:
    numbers = torch.Generator().manual_seed(1)
    scales = torch.rand(256, 1, generator=numbers) * 0.01
    scales[::3] *= 1e-36
    codes = torch.randint(-8, 8, (256, 512), generator=numbers)
    plain_save({"w": codes * scales, "half": (codes * scales).half()}, folder / "source.safetensors")
    return {}


@pytest.mark.parametrize("case", [lora, nf4, slim, dequantised])
@pytest.mark.parametrize("environment", [flushing, rounding_upwards])
def test_files_are_the_same(case: Callable[[Path], dict[str, Any]], environment: Any, tmp_path: Path) -> None:
    how = case(tmp_path)
    source, usual, other = (tmp_path / name for name in ("source.safetensors", "usual", "other"))
    slimtensors.compress(source, usual, **how)
    with environment():
        before = altered_here()
        slimtensors.compress(source, other, **how)
        assert altered_here() == before != 0  # as it was
        found = [slimtensors.torch.load_file(path, base=how.get("base")) for path in (usual, other)]
    assert usual.read_bytes() == other.read_bytes()
    expected = slimtensors.torch.load_file(usual, base=how.get("base"))
    if "quantise" not in how and "target_error" not in how:
        assert all(same(each, plain_load(source)) for each in (expected, *found))
    assert all(same(each, expected) for each in found)


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    pairs = [(some[name].view(torch.uint8), other.view(torch.uint8)) for name, other in others.items()]
    return some.keys() == others.keys() and all(torch.equal(*pair) for pair in pairs)


def test_threads_inherit_it(tmp_path: Path) -> None:
    """Those of a pool, too, that was made while it was altered."""
    how, made = lora(tmp_path), tmp_path / "made"

    def work() -> None:
        with flushing():
            slimtensors.compress(tmp_path / "source.safetensors", made, threads=3, **how)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same(slimtensors.torch.load_file(made, **how), plain_load(tmp_path / "source.safetensors"))


def test_who_wants_to_hear_of_underflow_is_not_told_of_ours(tmp_path: Path) -> None:
    how, made = lora(tmp_path), tmp_path / "made"
    with flushing(), np.errstate(all="raise"):
        slimtensors.compress(tmp_path / "source.safetensors", made, threads=1, **how)
        assert same(slimtensors.torch.load_file(made, **how), plain_load(tmp_path / "source.safetensors"))


def test_an_error_leaves_it_as_it_was() -> None:
    with flushing():
        before = altered_here()
        with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter
            slimtensors.numpy.save({"w": np.zeros(3, object)})
        assert altered_here() == before != 0
