"""Which instruction set kernels are compiled for: SLIMTENSORS_ISA."""

from __future__ import annotations


def force() -> None:
    """Make Numba compile for the instruction set that SLIMTENSORS_ISA asks for."""
