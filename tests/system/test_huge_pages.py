"""Memory for what is loaded and stays."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from slimtensors.container import source, system
from slimtensors.numpy import load, save

MIB = 1 << 20
linux = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux has such pages")


def loaded() -> np.ndarray:
    array = np.random.default_rng(0).normal(size=3 * MIB // 4 + 5).astype(np.float32)
    found = load(save({"a": array}, preset="fast"))["a"]
    assert np.array_equal(found, array)
    return found


@linux
def test_it_is_fresh_and_goes_with_its_last_user() -> None:
    before = len(system._mappings)
    memory = source.lasting_empty(5 * MIB + 1)
    assert memory.size == 5 * MIB + 1
    assert memory.flags.writeable
    assert not memory.any()
    part = memory[MIB : 2 * MIB].view(np.float32)
    del memory
    part[:] = 1
    assert len(system._mappings) == before + 1
    del part
    assert len(system._mappings) == before


@linux
def test_large_tensors_that_are_loaded_lie_in_it() -> None:
    before = len(system._mappings)
    found = loaded()
    assert len(system._mappings) == before + 1
    found += 1
    del found
    assert len(system._mappings) == before
    assert len(source.lasting_empty(source.HUGE_BYTES - 1)) == source.HUGE_BYTES - 1
    assert len(system._mappings) == before


def refuse(*_arguments: object, **_options: object) -> None:
    raise OSError(12, "no memory for another one")


@pytest.mark.parametrize("missing", ["call", "memory", "room", "system"])
def test_without_it_there_is_other_memory(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "call":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    elif missing == "memory":
        monkeypatch.setattr(mmap, "mmap", refuse)
    elif missing == "room":
        monkeypatch.setattr(system, "_MOST_MAPPINGS", 0)
    else:
        monkeypatch.setattr(sys, "platform", "darwin")
    assert system.huge_pages(4 * MIB) is None
    assert loaded().flags.writeable
