"""Save and load torch tensors: the verbs of `safetensors.torch`.

Tensors are decoded on the CPU and then copied to the device asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slimtensors.applying import decode_over
from slimtensors.container.reader import Verify
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.inputs import ArrayInput
from slimtensors.matching import matched_bases
from slimtensors.numpy import as_array, load_arrays
from slimtensors.resolving import open_with
from slimtensors.store import store, store_bytes
from slimtensors.threads import thread_count

__all__ = ["apply_delta", "load", "load_file", "load_model", "save", "save_file", "save_model"]

Tensors = dict[str, torch.Tensor]

# Names as torch has them; those that this torch lacks are left out.
_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}  # fmt: skip
_TORCH: dict[str, torch.dtype] = {ours: getattr(torch, name) for ours, name in _NAMES.items() if hasattr(torch, name)}
_OURS = {dtype: DTYPES[name] for name, dtype in _TORCH.items()}


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
    inputs = _inputs(tensors)
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
    inputs = _inputs(tensors)
    with matched_bases(inputs, as_base(base), base_map, metadata=metadata) as matched:
        return store_bytes(inputs, metadata, preset, threads, self_check, bases=matched.bases)


def load_file(
    filename: Any,
    device: Any = "cpu",
    *,
    verify: Verify = "full",
    threads: int | None = None,
    mmap: bool = False,
    max_bytes: int | None = None,
    base: Any = None,
) -> Tensors:
    """Load all tensors of a file onto a device: whatever torch takes, "cuda:1", 0, "mps", a torch.device.

    Raises FormatError if the file is damaged; see `slimtensors.safe_open` for the other arguments.
    """
    check_device(device)
    with open_with(filename, as_base(base), verify=verify, mmap=mmap, max_bytes=max_bytes) as file:
        arrays = load_arrays(file, thread_count(threads))
        return {
            name: from_array(array, file.header.tensors[file.index[name]].dtype, device)
            for name, array in arrays.items()
        }


def load(
    data: bytes,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
    base: Any = None,
) -> Tensors:
    """Load all tensors from bytes."""
    return load_file(data, verify=verify, threads=threads, max_bytes=max_bytes, base=base)


def apply_delta(
    target: Any,
    tensors: Mapping[str, torch.Tensor] | torch.nn.Module,
    *,
    verify: Verify = "full",
    threads: int | None = None,
    max_bytes: int | None = None,
) -> None:
    """Bring tensors, or a module's state, to what a file holds: see `slimtensors.numpy.apply_delta`.

    Tensors may be on any device, where they are written to in place.
    """
    state = tensors.state_dict() if isinstance(tensors, torch.nn.Module) else tensors
    held = {each.name: each for each in _inputs(state)}
    results = decode_over(target, held, threads=threads, verify=verify, max_bytes=max_bytes)
    made = {name: from_array(as_array(units, tensor), tensor.dtype, "cpu") for name, (tensor, units) in results.items()}
    with torch.no_grad():
        for name, tensor in made.items():
            state[name].copy_(tensor.reshape(state[name].shape))


def as_base(base: Any) -> Any:
    """A base in which torch tensors, if it is a mapping to such, are what the library takes."""
    if isinstance(base, list):
        return [as_base(each) for each in base]
    if isinstance(base, Mapping) and any(isinstance(value, torch.Tensor) for value in base.values()):
        return tuple(_inputs(base))
    return base


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    base: Any = None,
) -> None:
    """Save a module's state dict, tied tensors and all.

    force_contiguous: as in safetensors; tensors that are not contiguous are stored contiguous. If False they are
    refused.
    """
    state = model.state_dict()
    if not force_contiguous:
        for name, tensor in state.items():
            if not tensor.is_contiguous():
                raise UsageError(f"tensor {name!r} is not contiguous; pass force_contiguous=True to store it so")
    save_file(state, filename, metadata, preset=preset, threads=threads, self_check=self_check, base=base)


def load_model(
    model: torch.nn.Module,
    filename: Any,
    strict: bool = True,
    device: Any = "cpu",
    *,
    verify: Verify = "full",
    threads: int | None = None,
    base: Any = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a module; returns (missing, unexpected) names, as safetensors does.

    A name that is missing in the file, but whose tensor is tied to one that is there, does not count. Raises
    RuntimeError if names are missing or unexpected and `strict`.
    """
    state = load_file(filename, device, verify=verify, threads=threads, base=base)
    result = model.load_state_dict(state, strict=False)
    loaded = {_storage(tensor) for name, tensor in model.state_dict().items() if name in state}
    own = model.state_dict()
    missing = [name for name in result.missing_keys if _storage(own[name]) not in loaded]
    unexpected = list(result.unexpected_keys)
    if strict and (missing or unexpected):
        lines = [f"    missing in the file: {', '.join(missing)}"] if missing else []
        lines += [f"    not in the model: {', '.join(unexpected)}"] if unexpected else []
        raise RuntimeError("\n".join([f"error in loading the weights of {type(model).__name__}:", *lines]))
    return missing, unexpected


def check_device(device: Any) -> None:
    """Raise early for what torch does not know as a device."""
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device {device!r}: {error}") from None


def from_array(array: npt.NDArray[Any], dtype: DType, device: Any) -> torch.Tensor:
    """A tensor over an array's memory, then on the device."""
    target = _TORCH.get(dtype.name)
    if dtype.name.startswith("F6_"):
        target = torch.uint8  # torch has no such dtype: the packed bytes
    if target is None:
        raise UsageError(f"torch {torch.__version__} has no dtype for {dtype.name}; load it with framework='np'")
    data = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    tensor = data.view(target).reshape(array.shape)
    return tensor if torch.device(device).type == "cpu" else tensor.to(device)


def _storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _inputs(tensors: Mapping[str, torch.Tensor]) -> list[ArrayInput]:
    if not isinstance(tensors, Mapping):
        raise UsageError(f"the tensors are a {type(tensors).__name__}; a dict from names to tensors is needed")
    made = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise UsageError(f"tensor {name!r} is a {type(tensor).__name__}, not a torch tensor")
        if tensor.layout != torch.strided:
            raise UsageError(f"tensor {name!r} is {tensor.layout}; call .to_dense() first")
        dtype = _OURS.get(tensor.dtype)
        if dtype is None:
            raise UsageError(f"tensor {name!r}: dtype {tensor.dtype} cannot be stored; convert it first")
        shape = list(tensor.shape)
        if dtype.packed:  # two elements to a byte, the last dimension counts bytes
            shape[-1:] = [shape[-1] * 8 // dtype.bits] if shape else []
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        made.append(ArrayInput(name, flat.view(torch.uint8).numpy(), dtype, tuple(shape)))
    return made
