"""Every instruction set, and the NumPy definitions, agree with the naive twin; on damaged input, with each other."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from kernels import processes
from slimtensors.kernels import instruction_set

ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILED = {
    "portable": {"SLIMTENSORS_ISA": "portable"},
    **({"avx2": {"SLIMTENSORS_ISA": "avx2"}} if ON_X86 else {}),
    "host": {},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """An empty cache of kernels: Numba shows the assembly only of what it has just compiled."""
    folder: Path = tmp_path_factory.mktemp("kernels")
    folder.chmod(0o700)
    return {"SLIMTENSORS_CACHE_DIR": str(folder)}


@pytest.fixture(scope="module")
def results(cache) -> dict[str, dict]:
    environments = {"numpy": {"NUMBA_DISABLE_JIT": "1"}, **COMPILED}
    return processes.run_all("kernels.check", {name: {**cache, **each} for name, each in environments.items()})


def test_all_give_the_same(results):
    digests = {name: result["digest"] for name, result in results.items()}
    assert len(set(digests.values())) == 1, digests


@pytest.mark.skipif(not ON_X86, reason="x86 registers")
def test_no_kernel_uses_registers_that_the_processor_lacks(results):
    assert results["portable"]["ymm"] == results["portable"]["zmm"] == results["avx2"]["zmm"] == []


@pytest.mark.skipif(instruction_set.chosen() != "avx512", reason="AVX-512")
def test_the_look_at_registers_sees_them(results):
    wide = {"decode_u16_6_10", "encode_symbols", "split_u16_8_8"}
    assert wide <= set(results["host"]["zmm"])
    assert wide <= set(results["avx2"]["ymm"])


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.usefixtures("results")  # fills the cache
def test_kernels_touch_nothing_beside_their_arrays(cache):
    guarded = processes.run_all("kernels.guard", {name: {**cache, **each} for name, each in COMPILED.items()})
    assert all(result["fed"] == 24 for result in guarded.values())
