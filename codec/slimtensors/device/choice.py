"""Whether a GPU decodes: SLIMTENSORS_DECODE, and what this machine has."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from slimtensors.device.telling import tell_unusable
from slimtensors.errors import UsageError
from slimtensors.switches import AUTO, CPU, CUDA, DECODE, decoder_asked_for

__all__ = ["backend_for", "is_there", "why_cpu", "why_not"]

@cache
def why_not(index: int | None = None) -> str | None:
    """Why a GPU, torch's current one if None, cannot decode, or None if it can. Loads torch."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error}); pip install 'slimtensors[cuda13]'"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not made for CUDA; there are kernels for NVIDIA's GPUs only"
    extra = f"cuda{torch.version.cuda.split('.')[0]}"
    for module, package in (("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")):
        try:
            found = importlib.util.find_spec(module)
        except ImportError:  # of the package above it
            found = None
        if found is None:
            return f"{package} is not installed; pip install 'slimtensors[{extra}]'"
    try:
        from slimtensors.kernels.cuda.launching import launcher
        from slimtensors.kernels.cuda.machine_code import OLDEST

        capability = launcher(torch.cuda.current_device() if index is None else index).capability
    except Exception as error:  # a broken driver raises anything
        return f"the driver cannot be used: {type(error).__name__}: {error}"
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability / 10}; the kernels need {OLDEST / 10}"
    return None


def why_cpu(device: Any) -> str | None:
    """Why the CPU decodes for a CUDA device of torch, or None if the device does. Raises UsageError."""
    return f"{DECODE} is {CPU}" if decoder_asked_for() == CPU else why_not(device.index)


def backend_for(device: Any) -> Any:
    """The backend that decodes for a torch device, or None if the CPU does.

    With `auto` that is a GPU where its kernels can be used. Where they cannot, but torch has the GPU, so that what the
    CPU decodes is copied there, that is told once. Raises UsageError if SLIMTENSORS_DECODE=cuda and the GPU cannot, and
    for any device if the variable says nothing that it can.
    """
    asked = decoder_asked_for()  # nonsense is refused also where nothing hangs on it, before a job with a GPU starts
    if device.type != "cuda":
        return None
    reason = why_cpu(device)
    if reason is None:
        from slimtensors.device.torch_cuda import TorchCuda

        return TorchCuda(device)
    if asked == CUDA:
        raise UsageError(f"{DECODE}=cuda, but {reason}; {DECODE}=cpu decodes on the CPU and copies")
    if asked == AUTO and is_there(device):
        tell_unusable(reason, f"{DECODE}={CPU}")
    return None


def is_there(device: Any) -> bool:
    """Whether torch has the CUDA device."""
    import torch

    return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
