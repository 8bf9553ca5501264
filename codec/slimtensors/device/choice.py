"""Whether a GPU decodes: SLIMTENSORS_DECODE, and what this machine has."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

from slimtensors.errors import UsageError

__all__ = ["VARIABLE", "asked_for", "backend_for", "why_not"]

VARIABLE = "SLIMTENSORS_DECODE"
AUTO, CPU, CUDA = "auto", "cpu", "cuda"


def asked_for() -> str:
    """What the variable says. Raises UsageError."""
    value = os.environ.get(VARIABLE, AUTO) or AUTO
    if value not in (AUTO, CPU, CUDA):
        raise UsageError(f"{VARIABLE} is {value!r}; it can be {AUTO}, {CPU}, {CUDA}")
    return value


@cache
def why_not() -> str | None:
    """Why no GPU of this machine decodes, or None if one does. Loads torch."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error}); pip install 'slimtensors[cuda13]'"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    extra = f"cuda{(torch.version.cuda or '13').split('.')[0]}"
    for module, package in (("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")):
        try:
            found = importlib.util.find_spec(module)
        except ImportError:  # of the package above it
            found = None
        if found is None:
            return f"{package} is not installed; pip install 'slimtensors[{extra}]'"
    try:
        from slimtensors.kernels.cuda.launching import launcher

        launcher(torch.cuda.current_device())
    except Exception as error:  # a broken driver raises anything
        return f"the driver cannot be used: {type(error).__name__}: {error}"
    return None


def backend_for(device: Any) -> Any:
    """The backend that decodes for a torch device, or None if the CPU does.

    `auto` is the CPU until the loader as it is has been seen to run on a GPU (bench/gpu_check.py). Raises UsageError if
    SLIMTENSORS_DECODE=cuda and no GPU can.
    """
    if device.type != "cuda" or asked_for() != CUDA:
        return None
    reason = why_not()
    if reason is not None:
        raise UsageError(f"{VARIABLE}=cuda, but {reason}; {VARIABLE}=cpu decodes on the CPU and copies")
    from slimtensors.device.torch_cuda import TorchCuda

    return TorchCuda(device)
