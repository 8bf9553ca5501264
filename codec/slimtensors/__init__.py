"""Neural-network weights stored small and given back fast, bit for bit.

    import slimtensors
    slimtensors.compress("model.safetensors", "model.slimtensors")

    from slimtensors.torch import load_file
    tensors = load_file("model.slimtensors")

Importing this package loads neither Numba nor torch; what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 # which cannot be imported after the main thread has ended
import importlib
from typing import TYPE_CHECKING, Any

from slimtensors._version import __version__
from slimtensors.container.layout import FORMAT_VERSION
from slimtensors.errors import (
    BaseError,
    ChecksumError,
    DecodedOnCpuWarning,
    FormatError,
    KernelCacheWarning,
    LimitError,
    NewerFormatError,
    NotSlimtensorsError,
    RemoteError,
    SelfCheckError,
    SlimtensorsError,
    TensorNotFoundError,
    TruncatedError,
    UsageError,
)

if TYPE_CHECKING:
    from slimtensors import numpy as numpy
    from slimtensors import torch as torch
    from slimtensors.bases.matching import Match, MatchReport
    from slimtensors.bases.resolving import BaseDir
    from slimtensors.container.header import Base
    from slimtensors.files.comparing import Compared, compare
    from slimtensors.files.converting import compress, decompress, match_base
    from slimtensors.files.depending import Dependency, dependencies
    from slimtensors.files.estimating import Estimate, estimate
    from slimtensors.files.flattening import flatten, rebase
    from slimtensors.files.inspecting import FileReport, TensorReport, inspect
    from slimtensors.files.salvaging import Lost, Salvaged, salvage
    from slimtensors.handle import TensorSlice, safe_open
    from slimtensors.memory import decode, encode
    from slimtensors.reading.verifying import Verified, verify
    from slimtensors.stream.loader import PrefetchLoader

__all__ = [
    "FORMAT_VERSION",
    "Base",
    "BaseDir",
    "BaseError",
    "ChecksumError",
    "Compared",
    "DecodedOnCpuWarning",
    "Dependency",
    "Estimate",
    "FileReport",
    "FormatError",
    "KernelCacheWarning",
    "LimitError",
    "Lost",
    "Match",
    "MatchReport",
    "NewerFormatError",
    "NotSlimtensorsError",
    "PrefetchLoader",
    "RemoteError",
    "Salvaged",
    "SelfCheckError",
    "SlimtensorsError",
    "TensorNotFoundError",
    "TensorReport",
    "TensorSlice",
    "TruncatedError",
    "UsageError",
    "Verified",
    "__version__",
    "compare",
    "compress",
    "decode",
    "decompress",
    "dependencies",
    "encode",
    "estimate",
    "flatten",
    "inspect",
    "match_base",
    "rebase",
    "safe_open",
    "salvage",
    "verify",
]

_HOME = {
    "Base": "container.header",
    "BaseDir": "bases.resolving",
    "Dependency": "files.depending",
    "Match": "bases.matching",
    "MatchReport": "bases.matching",
    "dependencies": "files.depending",
    "flatten": "files.flattening",
    "match_base": "files.converting",
    "rebase": "files.flattening",
    "Compared": "files.comparing",
    "compare": "files.comparing",
    "compress": "files.converting",
    "decompress": "files.converting",
    "Estimate": "files.estimating",
    "estimate": "files.estimating",
    "PrefetchLoader": "stream.loader",
    "Lost": "files.salvaging",
    "Salvaged": "files.salvaging",
    "salvage": "files.salvaging",
    "TensorSlice": "handle",
    "safe_open": "handle",
    "FileReport": "files.inspecting",
    "TensorReport": "files.inspecting",
    "inspect": "files.inspecting",
    "decode": "memory",
    "encode": "memory",
    "Verified": "reading.verifying",
    "verify": "reading.verifying",
}

_VERBS = ("apply_delta", "load", "load_file", "save", "save_file", "stream_tensors")  # of both modules


if not TYPE_CHECKING:  # to a type checker it would say that any name is here

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            globals()[name] = getattr(importlib.import_module(f"slimtensors.{_HOME[name]}"), name)
            return globals()[name]
        if name in ("numpy", "torch"):
            return importlib.import_module(f"slimtensors.{name}")
        hint = "; slimtensors.numpy and slimtensors.torch have it" if name in _VERBS else ""
        raise AttributeError(f"module 'slimtensors' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted(__all__)
