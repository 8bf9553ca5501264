"""The portable instruction set holds nothing of x86."""

from __future__ import annotations

import platform

import pytest

from kernels import processes

pytestmark = pytest.mark.instruction_sets

PORTABLE = {"SLIMTENSORS_ISA": "portable", "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="elsewhere all tests show it")
def test_kernels_compile_for_aarch64():
    result = processes.run("kernels.aarch64", PORTABLE)
    assert result["missing"] == []
    assert result["instructions"] > 1000
