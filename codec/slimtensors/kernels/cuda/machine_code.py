"""Machine code of GPU kernels, kept in the cache folder: Numba takes a second or two for each, the driver none.

Kernels are compiled to PTX for the oldest GPU that is promised, whose code is good for all, and assembled for the GPU
at hand. What is kept is no pickle, but it runs on the GPU: the folder is the one that only its owner can write to.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import filelock

from slimtensors.errors import UsageError
from slimtensors.kernels._jit import LOCK_TIMEOUT, cache_folder
from slimtensors.kernels.cuda.catalogue import KERNELS
from slimtensors.kernels.cuda.seam import numba_cuda

__all__ = ["ENTRY", "NUMBERS", "assemble", "machine_code", "ptx_of"]

ENTRY = "kernel"  # what each is called in its machine code
NUMBERS = 7  # that Numba passes for an array of one dimension
OLDEST = 75


def machine_code(name: str, capability: int) -> bytes:
    """A kernel of the catalogue for sm_`capability`, compiled unless it was before. Raises UsageError."""
    try:
        return _machine_code(name, capability)
    except Exception as error:  # Numba, NVVM and nvJitLink raise anything, of many lines
        said = next(iter(str(error).splitlines()), "")
        raise UsageError(
            f"GPU kernel {name} cannot be compiled for sm_{capability} ({type(error).__name__}: {said}); slimtensors' "
            "extras cuda12 and cuda13 bring what compiles it; SLIMTENSORS_DECODE=cpu decodes on the CPU and copies"
        ) from error


def _machine_code(name: str, capability: int) -> bytes:
    folder = cache_folder()
    if folder is None:
        return assemble(ptx_of(name), capability, KERNELS[name].registers)[0]
    path = folder / f"{name}.sm_{capability}.numba-cuda-{metadata.version('numba-cuda')}.cubin"
    if (found := _read(path)) is not None:
        return found
    with ExitStack() as held:
        try:  # one process compiles, others wait for it
            held.enter_context(filelock.FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT))
        except (OSError, NotImplementedError):  # no locks there, or a timeout
            return assemble(ptx_of(name), capability, KERNELS[name].registers)[0]
        if (found := _read(path)) is None:
            found = assemble(ptx_of(name), capability, KERNELS[name].registers)[0]
            _keep(path, found)
    return found


def ptx_of(name: str) -> str:
    """A kernel for `OLDEST`, its entry called `ENTRY`. Raises RuntimeError if it takes other numbers than `launching`
    gives.
    """
    seam, kernel = numba_cuda(), KERNELS[name]
    signature = tuple(getattr(seam.types, each)[::1] for each in kernel.arrays)
    text, _ = seam.cuda.compile_ptx(kernel.make(seam), signature, cc=divmod(OLDEST, 10))
    entry = re.search(r"\.entry\s+(\w+)", text)
    assert entry is not None
    given = re.findall(r"^\s*\.param (\S+)", text, re.MULTILINE)
    if given != NUMBERS * len(kernel.arrays) * [".u64"]:
        version = metadata.version("numba-cuda")
        raise RuntimeError(f"numba-cuda {version} has kernels take {given} for {len(kernel.arrays)} arrays")
    return re.sub(rf"\b{entry[1]}\b", ENTRY, text)


def assemble(ptx: str, capability: int, registers: int) -> tuple[bytes, str]:
    """(machine code, what the assembler says). registers: of a thread, at most."""
    nvjitlink: Any = import_module("cuda.bindings.nvjitlink")
    options = [f"-arch=sm_{capability}", "-verbose", f"-maxrregcount={registers}"]
    data = ptx.encode()
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel.ptx")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), log.decode(errors="replace")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _keep(path: Path, code: bytes) -> None:
    """Whole or not at all; not at all where a disk is full, for one."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        Path(file.name).replace(path)
    except OSError:
        return
