"""Save and load torch tensors: the verbs of `safetensors.torch`.

What is for a CUDA device is decoded on it where its kernels can be used; what is for any other device is decoded on the
CPU and then copied. So in `load_file`, `stream_tensors`, `load_model` and `safe_open`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from slimtensors.bases.matching import matched_bases
from slimtensors.bases.resolving import open_with
from slimtensors.container.reader import Verify
from slimtensors.container.source import to_map
from slimtensors.device.choice import backend_for
from slimtensors.errors import UsageError
from slimtensors.files.applying import decode_over, sort_out
from slimtensors.files.overlaps import Held, check_memory
from slimtensors.handle import safe_open
from slimtensors.numpy import as_array, load_arrays
from slimtensors.on_torch.ahead import as_decoded, source_there
from slimtensors.on_torch.device import read_there
from slimtensors.on_torch.importance import importance
from slimtensors.on_torch.modules import load_model, save_model
from slimtensors.on_torch.tensors import as_base, converter, device_of, from_array, numbers_wanted, tensor_inputs
from slimtensors.reading.quantised import Wanted, wanted_numbers
from slimtensors.stream.loader import Convert, Progress, Source, stream_files
from slimtensors.stream.ordered import AHEAD_BYTES
from slimtensors.stream.plan import Plan
from slimtensors.threads import thread_count
from slimtensors.writing.store import store, store_bytes

__all__ = [
    "apply_delta", "importance", "load", "load_file", "load_model", "safe_open", "save", "save_file", "save_model",
    "stream_tensors",
]  # fmt: skip

Tensors = dict[str, torch.Tensor]


def __dir__() -> list[str]:
    return sorted(__all__)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: str | os.PathLike[str] | Any,
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
) -> None:
    """Save tensors to a file. Tensors that share all their memory (ties) are stored once.

    Arguments: see `slimtensors.numpy.save_file`. Tensors may be on any device and need not be contiguous.
    """
    inputs = tensor_inputs(tensors)
    with matched_bases(inputs, as_base(base), base_map, source=filename, metadata=metadata) as matched:
        store(inputs, filename, metadata, preset, threads, self_check, durable, bases=matched.bases)


def save(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
) -> bytes:
    """Save tensors to bytes."""
    inputs = tensor_inputs(tensors)
    with matched_bases(inputs, as_base(base), base_map, metadata=metadata) as matched:
        return store_bytes(inputs, metadata, preset, threads, self_check, bases=matched.bases)


def load_file(
    filename: Any,
    device: Any = "cpu",
    *,
    verify: Verify = "full",
    threads: int | None = None,
    mmap: bool = False,
    backend: str | None = None,
    max_bytes: int | None = None,
    base: Any = None,
    dequantise: Wanted | torch.dtype = False,
) -> Tensors:
    """Load all tensors of a file onto a device: whatever torch takes, "cuda:1", 0, "mps", a torch.device; None is the
    CPU.

    What is for a CUDA device is decoded on it if its kernels can be used (`slimtensors env` says whether), otherwise on
    the CPU and copied, with a `DecodedOnCpuWarning` once; so are tensors that no kernel is for, with one for each kind
    of them. SLIMTENSORS_DECODE=cpu decodes on the CPU in any case, SLIMTENSORS_DECODE=cuda raises UsageError where
    kernels cannot be used. Numbers of `dequantise` are computed on the CPU. A base that is given as a mapping to
    tensors on that device is used where it is; it may be a module, too. dequantise: also torch.float32, torch.float16
    or torch.bfloat16. Raises FormatError if the file is damaged; see `slimtensors.safe_open` for the other arguments.
    """
    device = device_of(device)
    numbers = wanted_numbers(numbers_wanted(dequantise), filename)
    there = backend_for(device)
    with open_with(filename, as_base(base), verify=verify, mmap=to_map(mmap, backend), max_bytes=max_bytes) as file:
        if there is not None and numbers is None:
            found = read_there(file, range(len(file.header.tensors)), there, thread_count(threads), base)
            return {file.header.tensors[i].name: tensor for i, tensor in found.items()}
        arrays = load_arrays(file, thread_count(threads), numbers)
        packed = {} if numbers is None else numbers.packed(file.header)
        made = {}
        for name in list(arrays):
            if numbers is None or name in packed:
                dtype = file.tensor(name).dtype if numbers is None else numbers.dtype
            else:
                dtype = numbers.dtype_of(file.tensor(name))
            made[name] = from_array(arrays.pop(name), dtype, device)
        return made


def load(
    data: bytes,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
    base: Any = None,
    dequantise: Wanted | torch.dtype = False,
) -> Tensors:
    """Load all tensors from bytes."""
    return load_file(data, verify=verify, threads=threads, max_bytes=max_bytes, base=base, dequantise=dequantise)


def stream_tensors(
    paths: Any,
    device: Any = "cpu",
    *,
    plan: Plan | None = None,
    threads: int | None = None,
    verify: Verify = "full",
    max_bytes: int | None = None,
    base: Any = None,
    ahead: int = AHEAD_BYTES,
    progress: Progress | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) one after another, decoded ahead in the background: see `slimtensors.numpy.stream_tensors`.

    device: whatever torch takes; tensors are decoded on the CPU and copied to it when they are handed out. What is for
    a CUDA device is decoded on it where `load_file` does so, a batch of tensors while the caller works on the one
    before it; what is handed out is for work on torch's current stream.
    """
    device = device_of(device)
    backend, count = backend_for(device), thread_count(threads)
    convert: Convert = converter(device)
    source: Source | None = None
    if backend is not None:
        convert, source = as_decoded, source_there(backend, count, ahead, base)
    return stream_files(
        paths, convert, count, plan=plan, verify=verify, max_bytes=max_bytes,
        base=as_base(base), ahead=ahead, progress=progress, source=source,
    )  # fmt: skip


def apply_delta(
    target: Any,
    tensors: Mapping[str, torch.Tensor] | torch.nn.Module,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Bring tensors, or a module's state, to what a file or a folder holds: see `slimtensors.numpy.apply_delta`.

    Tensors may be on any device, where they are written to in place. A module whose state dict gives copies is refused.
    """
    state: Mapping[str, torch.Tensor]
    again: Mapping[str, torch.Tensor]  # elsewhere in memory where a state dict gives copies
    if isinstance(tensors, torch.nn.Module):
        state, again = tensors.state_dict(), tensors.state_dict()
    else:
        state = again = tensors
    held, refused = sort_out(state, tensor_inputs)
    results = decode_over(target, held, refused, threads=threads, verify=verify, max_bytes=max_bytes)
    made, places = {}, []
    for name, (tensor, units) in results.items():
        there = state[name]
        if there.is_inference() and not torch.is_inference_mode_enabled():
            raise UsageError(
                f"tensor {name!r} was made in inference mode, and can be written to only there: call this within "
                "torch.inference_mode(); nothing was changed"
            )
        if there.data_ptr() != again[name].data_ptr():
            raise UsageError(
                f"tensor {name!r}: what the module's state_dict() gives is a copy, so writing to it would change "
                "nothing: load the file and call load_state_dict(); nothing was changed"
            )
        array, width = as_array(units, tensor), there.element_size()
        content = np.ascontiguousarray(array).reshape(-1).view(f"V{width}").reshape(tuple(there.shape))
        strides = tuple(each * width for each in there.stride())
        places.append(Held(name, content, there.data_ptr(), strides, str(there.device)))
        made[name] = from_array(array, tensor.dtype, "cpu").reshape(there.shape)
    check_memory(places)
    with torch.no_grad():
        for name, source in made.items():
            state[name].copy_(source)
