"""Which instruction set kernels are compiled for.

Numba compiles for the processor it runs on, unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name another target before it
is imported; that holds for the whole process. SLIMTENSORS_ISA sets both, for a name without features would mean the
features of the processor at hand.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from typing import Any

from slimtensors.errors import UsageError

VARIABLE = "SLIMTENSORS_ISA"
ALLOWED = ("auto", "avx512", "avx2", "portable")

# NUMBA_CPU_NAME and NUMBA_CPU_FEATURES; AVX-512 is a family, so it is left to what the processor has.
_TARGETS = {"avx512": (None, None), "avx2": ("haswell", "+avx2"), "portable": ("x86-64", "")}
# What a processor must have. VBMI2 spreads 16-bit words over a vector: Ice Lake, Zen 4 and later.
_NEEDED = {"avx512": "avx512vbmi2", "avx2": "avx2"}


def forced() -> str:
    """What SLIMTENSORS_ISA asks for; "auto" is the best that this processor has."""
    wanted = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if wanted not in ALLOWED:
        raise UsageError(f"{VARIABLE}={wanted} is not an instruction set; allowed are {', '.join(ALLOWED)}")
    return wanted


def chosen() -> str:
    """What this process compiles kernels to: "avx512", "avx2" or "portable". Imports Numba."""
    force()
    return _numba_target()


def searches() -> bool:
    """Whether searches in registers beat look-ups in memory (kernels/README.md): on AMD's processors with AVX-512."""
    if chosen() != "avx512":
        return False
    from llvmlite import binding  # type: ignore[import-untyped,unused-ignore] # has no hints

    return str(binding.get_host_cpu_name()).startswith("znver")


def force() -> None:
    """Have Numba compile for what SLIMTENSORS_ISA asks for; to be called before Numba is imported."""
    wanted = forced()
    if wanted == "auto":
        return
    _refuse_if_impossible(wanted)
    if not _on_x86():  # portable is all there is
        return
    variables = dict(zip(("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"), _TARGETS[wanted], strict=True))
    if "numba" not in sys.modules:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    elif (actual := _numba_target()) != wanted:
        # Others may have compiled already, so changing the target now could mix two in one process.
        steps = (f"unset {name}" if value is None else f"set {name}={value}" for name, value in variables.items())
        message = (
            f"{VARIABLE}={wanted} comes too late: Numba is in use in this process already and compiles for {actual}. "
            f"Load kernels before anything else imports Numba, or {' and '.join(steps)} before Python starts."
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _refuse_if_impossible(wanted: str) -> None:
    if wanted in _NEEDED:
        if not _on_x86():
            raise UsageError(f"{VARIABLE}={wanted} needs an x86-64 processor; this is {platform.machine()}")
        if _NEEDED[wanted] not in _processor_features():
            raise UsageError(f"{VARIABLE}={wanted} needs a processor with {_NEEDED[wanted]}, which this one lacks")


def _on_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _processor_features() -> set[str]:
    from llvmlite import binding  # type: ignore[import-untyped,unused-ignore] # has no hints

    return {name for name, present in binding.get_host_cpu_features().items() if present}


def _numba_target() -> str:
    from numba.core import codegen, config

    numbas: Any = config
    features = numbas.CPU_FEATURES
    if features is None:
        numbas = codegen
        features = numbas.get_host_cpu_features()
    present = features.split(",")
    return next((name for name, needed in _NEEDED.items() if f"+{needed}" in present), "portable")
