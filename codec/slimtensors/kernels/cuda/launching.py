"""Kernels launched by the driver, with the arguments that Numba's machine code takes.

Numba's own launch costs some 4 us for each array; this one a few for all. The driver's Python bindings load kernels,
ctypes launches them: the bindings make objects of Python of each status and argument.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from slimtensors.errors import UsageError
from slimtensors.kernels.cuda.catalogue import KERNELS
from slimtensors.kernels.cuda.machine_code import ENTRY, NUMBERS, machine_code

__all__ = ["Launcher", "launcher"]

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_uint


class _Loaded(NamedTuple):
    function: int
    threads: int  # of a thread block
    sizes: list[int]  # bytes of each array's elements


class Launcher:
    """Of one device, in its primary context, which is the one of torch."""

    def __init__(self, index: int) -> None:
        driver: Any = import_module("cuda.bindings.driver")
        device = _checked(driver.cuDeviceGet(index))
        attributes = driver.CUdevice_attribute
        major = _checked(driver.cuDeviceGetAttribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device))
        minor = _checked(driver.cuDeviceGetAttribute(attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
        self.capability = 10 * int(major) + int(minor)  # 90 is compute capability 9.0
        self._driver = driver
        self._context = int(_checked(driver.cuDevicePrimaryCtxRetain(device)))
        self._loaded: dict[str, _Loaded] = {}
        self._library = _library()
        self._own = threading.local()  # arguments of a thread's last launch of each kernel, to be written over

    def launch(self, kernel: str, blocks: int, stream: int, arrays: Sequence[tuple[int, int]]) -> None:
        """arrays: address and bytes of each. stream: the driver's handle. Raises RuntimeError; UsageError for a kernel
        that cannot be compiled or loaded.
        """
        pushed = self._enter()
        try:
            function, threads, sizes = self._loaded.get(kernel) or self._load(kernel)
            numbers: list[int] = []
            for (address, nbytes), size in zip(arrays, sizes, strict=True):
                count = nbytes // size
                numbers += (0, 0, count, size, address, count, size)  # two owners that are not there; shape; strides
            given, places = self._arguments(kernel, len(numbers))
            given[:] = numbers
            status = self._library.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, places, None)
            if status != 0:
                raise RuntimeError(f"kernel {kernel} of {blocks} thread blocks: CUDA says {status}")
        finally:
            if pushed:
                self._library.cuCtxPopCurrent_v2(ctypes.byref(_POINTER()))

    def _enter(self) -> bool:
        """See that the device's context is this thread's; whether it was put over another one."""
        current = _POINTER()
        self._library.cuCtxGetCurrent(ctypes.byref(current))
        if current.value == self._context:
            return False
        if (status := self._library.cuCtxPushCurrent_v2(self._context)) != 0:
            raise RuntimeError(f"the device's context: CUDA says {status}")
        return True

    def _arguments(self, kernel: str, count: int) -> tuple[Any, Any]:
        """Room for a kernel's numbers, and their addresses."""
        known = self._own.__dict__
        if kernel not in known:
            given = (ctypes.c_int64 * count)()
            first, word = ctypes.addressof(given), ctypes.sizeof(ctypes.c_int64)
            known[kernel] = given, (_POINTER * count)(*range(first, first + word * count, word))
        found: tuple[Any, Any] = known[kernel]
        return found

    def _load(self, kernel: str) -> _Loaded:
        code = machine_code(kernel, self.capability)
        try:
            module = _checked(self._driver.cuModuleLoadData(code))
            function = _checked(self._driver.cuModuleGetFunction(module, ENTRY.encode()))
        except RuntimeError as error:
            raise UsageError(
                f"GPU kernel {kernel} cannot be loaded ({error}); SLIMTENSORS_DECODE=cpu decodes on the CPU and copies"
            ) from error
        known = KERNELS[kernel]
        assert NUMBERS == 7  # what `launch` gives for each array
        sizes = [np.dtype(each).itemsize for each in known.arrays]
        found = self._loaded[kernel] = _Loaded(int(function), known.threads, sizes)
        return found


@cache
def launcher(index: int) -> Launcher:
    """Of a device by torch's number of it. torch has begun to use it."""
    return Launcher(index)


def _library() -> Any:
    """The driver's, which torch has loaded."""
    library: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    library.cuLaunchKernel.argtypes = (_POINTER, *(_COUNT,) * 7, _POINTER, _POINTER, _POINTER)
    library.cuCtxGetCurrent.argtypes = (_POINTER,)
    library.cuCtxPushCurrent_v2.argtypes = (_POINTER,)
    library.cuCtxPopCurrent_v2.argtypes = (_POINTER,)
    return library


def _checked(answer: Sequence[Any]) -> Any:
    """What the driver gives beside its status. Raises RuntimeError."""
    if int(answer[0]) != 0:
        raise RuntimeError(f"CUDA says {answer[0]!r}")
    return answer[1] if len(answer) > 1 else None
