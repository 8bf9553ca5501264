"""Part of gpu_check: one of our kernels beside its twin in CUDA C++ and beside nvCOMP's ANS, where these are installed.

nvCOMP is the package nvidia-nvcomp-cu12 or -cu13.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.gpu_twin import checked, compile_twin
from slimtensors.kernels.cuda import rows

__all__ = ["TWIN_OF", "median_ms", "nvcomp_ans", "twin"]

TWIN_OF = "decode_u16_8_8"
REPEATS = 20


def median_ms(work: Callable[[], object]) -> float:
    """On torch's current stream, by events."""
    found = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)


def twin(launches: Sequence[tuple[int, Sequence[Any]]], ours: Callable[[int, Sequence[Any]], object]) -> dict[str, Any]:
    """Our kernel and its twin on the same launches: (blocks, buffers as `decode` has them), the output a tensor of its
    own. ours: what launches our kernel. wrong: launches whose outputs differ.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return {"not measured": "cuda-bindings is not installed"}
    driver = importlib.import_module("cuda.bindings.driver")
    major, minor = torch.cuda.get_device_capability()
    module = checked(driver.cuModuleLoadData(compile_twin(10 * major + minor)))
    function = checked(driver.cuModuleGetFunction(module, b"twin"))

    def theirs(blocks: int, buffers: Sequence[Any]) -> None:
        given = tuple(buffer.data_ptr() for buffer in buffers)
        stream = torch.cuda.current_stream().cuda_stream
        arguments = (given, (ctypes.c_void_p,) * len(given))
        checked(driver.cuLaunchKernel(function, blocks, 1, 1, rows.CODER_THREADS, 1, 1, 0, stream, arguments, 0))

    wrong = []
    for number, (blocks, buffers) in enumerate(launches):
        found = []
        for launch in (ours, theirs):
            buffers[-2].fill_(0xA5)
            launch(blocks, buffers)
            found.append(buffers[-2].clone())
        if not torch.equal(*found):
            wrong.append(f"{TWIN_OF}, launch {number}: the twin decodes something else")

    def all_of(launch: Callable[[int, Sequence[Any]], object]) -> Callable[[], None]:
        return lambda: [launch(*each) for each in launches] and None

    ours_ms, theirs_ms = median_ms(all_of(ours)), median_ms(all_of(theirs))
    return {"ours ms": ours_ms, "twin ms": theirs_ms, "twin / ours": theirs_ms / ours_ms, "wrong": wrong}


def nvcomp_ans(units: torch.Tensor) -> dict[str, Any]:
    """nvCOMP's ANS on the exponents of BF16 weights on the device, which is what our `fast` codes of them, as one plane
    of bytes; and on all of their bytes as 16-bit floats, as nvCOMP cuts them. GB/s of what is decoded.
    """
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.nvcomp") is None:
        return {"not measured": "nvidia-nvcomp-cu12 or -cu13 is not installed"}
    nvcomp = importlib.import_module("nvidia.nvcomp")
    bits = units.reshape(-1).view(torch.int16).to(torch.int32)
    exponents = (bits >> 7 & 0xFF).to(torch.uint8)
    result: dict[str, Any] = {"version": nvcomp.__version__, "wrong": []}
    for name, data, kind in [
        ("exponents", exponents, "|u1"),
        ("weights as <f2", units.reshape(-1).view(torch.float16), "<f2"),
    ]:
        stream = torch.cuda.current_stream().cuda_stream
        codec = nvcomp.Codec(algorithm="ANS", data_type=kind, cuda_stream=stream)
        plain = data.view(torch.uint8)
        stored = codec.encode(nvcomp.as_array(data))
        decoded = torch.as_tensor(codec.decode(stored), device=data.device).view(torch.uint8).reshape(-1)
        if not torch.equal(decoded, plain):
            result["wrong"].append(f"nvCOMP, {name}")
        taken = median_ms(lambda codec=codec, stored=stored: codec.decode(stored))  # type: ignore[misc] # of a lambda's default
        result[name] = {"stored / decoded": stored.buffer_size / plain.numel(), "GB/s": plain.numel() / taken / 1e6}
    return result
