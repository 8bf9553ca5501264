"""Every instruction set, and the NumPy definitions, agree with the naive twin; on damaged input, with each other."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import processes
from slimtensors.kernels import instruction_set

pytestmark = pytest.mark.instruction_sets

ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
OTHERS = {
    "portable": {"SLIMTENSORS_ISA": "portable"},
    **({"avx2": {"SLIMTENSORS_ISA": "avx2"}} if ON_X86 else {}),
}
FILES = ("tests/format/test_vectors.py", "tests/api/test_handle.py")


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, dict[str, str]]:
    """An empty cache of kernels: Numba shows the assembly only of what it has just compiled."""
    folder: Path = tmp_path_factory.mktemp("kernels")
    folder.chmod(0o700)
    return {name: {"SLIMTENSORS_CACHE_DIR": str(folder), **each} for name, each in OTHERS.items()}


@pytest.fixture(scope="module")
def results(others) -> dict[str, dict]:
    return processes.run_all("kernels.check", others, "all")


def test_all_give_the_same(results):
    """The processor's own kernels are those of all other tests, from their cache."""
    more = processes.run_all("kernels.check", {"host": {}, "numpy": {"NUMBA_DISABLE_JIT": "1"}}, "digest")
    digests = {name: result["digest"] for name, result in {**results, **more}.items()}
    assert len(set(digests.values())) == 1, digests


@pytest.mark.skipif(not ON_X86, reason="x86 registers")
def test_no_kernel_uses_registers_that_the_processor_lacks(results):
    assert results["portable"]["ymm"] == results["portable"]["zmm"] == results["avx2"]["zmm"] == []


@pytest.mark.skipif(instruction_set.chosen() != "avx512", reason="AVX-512")
def test_the_look_at_registers_sees_them(results, tmp_path):
    tmp_path.chmod(0o700)
    host = processes.run("kernels.check", {"SLIMTENSORS_CACHE_DIR": str(tmp_path)}, "registers")
    wide = {"decode_u16_6_10", "encode_symbols", "split_u16_6_10"}
    assert wide <= set(host["zmm"])
    assert wide <= set(results["avx2"]["ymm"])


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.usefixtures("results")  # fills the cache
def test_kernels_touch_nothing_beside_their_arrays(others):
    guarded = processes.run_all("kernels.guard", {"host": {}, **others})
    assert all(result["fed"] == 24 for result in guarded.values())


@pytest.mark.usefixtures("results")  # fills the cache
@pytest.mark.parametrize("name", OTHERS)
def test_files(others, name):
    """Vectors and handles, all decoded and encoded with another instruction set; invalid ones are found by what is the
    same for all, but for what kernels find in damaged streams, of which the digests above are.
    """
    root = Path(__file__).parents[2]
    options = "-q", "-p", "no:cacheprovider", "-k", "not invalid", *(str(root / each) for each in FILES)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=root, env={**os.environ, **others[name]}, capture_output=True,
        text=True, timeout=processes.TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
