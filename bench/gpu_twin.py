"""The twin of one of our kernels in CUDA C++ (gpu_twin.cu), compiled by NVRTC, which numba-cuda brings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtensors.kernels.cuda import rows

__all__ = ["MEANT", "SOURCE", "checked", "compile_twin"]

SOURCE = Path(__file__).with_name("gpu_twin.cu")
MEANT = (
    "CODER_THREADS", "ITEM", "TABLE", "BASE", "PRECISION", "OUT", "OUT_HIGH", "BLOCKS", "KEEP", "FILL", "LAST", "ROW",
    "BLOCK_ROW", "PIECES", "STATES", "GROUP_AT", "WORD", "GROUPS", "END", "STATE_MIN", "BAD_END", "ESCAPES",
    "POSITIONS", "BAD_ESCAPE", "FIELDS",
)  # fmt: skip


def compile_twin(capability: int) -> bytes:
    """Machine code for sm_`capability`. Needs cuda-bindings and NVRTC, but no GPU. Raises RuntimeError."""
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    program = checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), b"twin.cu", 0, [], []))
    options = [f"-arch=sm_{capability}".encode(), *(f"-D{name}={getattr(rows, name)}".encode() for name in MEANT)]
    if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
        log = bytearray(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"the twin does not compile for sm_{capability}: {log.decode(errors='replace')}")
    code = bytearray(checked(nvrtc.nvrtcGetCUBINSize(program)))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    return bytes(code)


def checked(answer: Sequence[Any]) -> Any:
    """What a call of cuda-bindings gives beside its status. Raises RuntimeError."""
    if int(answer[0]) != 0:
        raise RuntimeError(f"CUDA says {answer[0]!r}")
    return answer[1] if len(answer) > 1 else None
