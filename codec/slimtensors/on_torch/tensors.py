"""Torch tensors from decoded units, and as what the library takes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slimtensors.container.header import Tensor
from slimtensors.device.choice import is_there
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.files.overlaps import check_writable
from slimtensors.numpy import as_array
from slimtensors.on_torch.kinds import why_not_plain
from slimtensors.reading.quantised import Wanted
from slimtensors.sources.inputs import ArrayInput
from slimtensors.stream.loader import Convert

__all__ = [
    "as_base", "check_device", "check_writable_tensors", "converter", "device_of", "from_array", "numbers_wanted",
    "our_dtype", "tensor_inputs", "torch_dtype",
]  # fmt: skip

# Names as torch has them; those that this torch lacks are left out.
_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}  # fmt: skip
_TORCH: dict[str, torch.dtype] = {ours: getattr(torch, name) for ours, name in _NAMES.items() if hasattr(torch, name)}
_OURS = {dtype: DTYPES[name] for name, dtype in _TORCH.items()}


def check_device(device: Any) -> None:
    """Raise early for what torch does not know as a device."""
    try:
        torch.device(device)
    except TypeError:  # whose message lists what torch's own functions take
        raise UsageError(f"device {device!r} is none: 'cpu', 'cuda:1', a number and a torch.device are") from None
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: {error}") from None


def device_of(device: Any) -> torch.device:
    """The device to load to, of which None is the CPU, as in safetensors. Raises UsageError for one that torch does not
    know or cannot use here.
    """
    device = "cpu" if device is None else device
    check_device(device)
    found, why = torch.device(device), None
    if found.type != "cuda":
        try:
            torch.empty(0, device=found)
        except (RuntimeError, AssertionError) as error:
            why = str(error).partition("\n")[0].partition(". ")[0]
    elif not is_there(found):  # asked without initialising CUDA, after which a process cannot fork
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        why = f"torch {torch.__version__} sees {f'only {count}' if count else 'no CUDA device'}"
    if why is not None:
        raise UsageError(f"device {device!r} cannot be used: {why}")
    return found


def torch_dtype(dtype: DType) -> torch.dtype:
    """What torch calls it; raises UsageError for what this torch lacks."""
    found = torch.uint8 if dtype.name.startswith("F6_") else _TORCH.get(dtype.name)  # no such dtype: the packed bytes
    if found is None:
        raise UsageError(f"torch {torch.__version__} has no dtype for {dtype.name}; load it with framework='np'")
    return found


def our_dtype(dtype: torch.dtype) -> str:
    """What the format calls it; empty if it has none."""
    found = _OURS.get(dtype)
    return "" if found is None else found.name


class _There(ArrayInput):
    """A tensor on another device, copied from it only as far as it is read."""

    here = False

    def __init__(self, name: str, flat: torch.Tensor, dtype: DType, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape
        self._flat = flat

    @property
    def place(self) -> Hashable:
        return str(self._flat.device), self._flat.data_ptr(), self._flat.nbytes

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        size = self.dtype.unit_bytes
        found: npt.NDArray[Any] = self._flat[start * size : (start + count) * size].cpu().numpy()
        return found.view(self.dtype.unit)


def from_array(array: npt.NDArray[Any], dtype: DType, device: Any) -> torch.Tensor:
    """A tensor over an array's memory, then on the device."""
    data = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    tensor = data.view(torch_dtype(dtype)).reshape(array.shape)
    return tensor if torch.device(device).type == "cpu" else tensor.to(device)


def converter(device: Any) -> Convert:
    """From decoded units to a tensor on the device."""

    def convert(units: npt.NDArray[Any], tensor: Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return from_array(as_array(units, tensor, shape), tensor.dtype, device)

    return convert


def as_base(base: Any) -> Any:
    """A base in which torch tensors, if it is a mapping to such or a module, are what the library takes."""
    if isinstance(base, list):
        return [as_base(each) for each in base]
    if isinstance(base, torch.nn.Module):  # which may hold values that are no tensors
        base = {name: value for name, value in base.state_dict().items() if isinstance(value, torch.Tensor)}
    if isinstance(base, Mapping) and any(isinstance(value, torch.Tensor) for value in base.values()):
        return tuple(tensor_inputs(base, lazy=True))
    return base


def numbers_wanted(dequantise: Wanted | torch.dtype) -> Wanted:
    """The name of the dtype, where torch's own is given."""
    return our_dtype(dequantise) or str(dequantise) if isinstance(dequantise, torch.dtype) else dequantise


def check_writable_tensors(tensors: Iterable[tuple[str, torch.Tensor]], so: str = "; nothing was changed") -> None:
    """Raises UsageError for one in memory that can only be read, of which torch knows nothing."""
    places = []
    for name, tensor in tensors:
        if tensor.device.type == "cpu" and why_not_plain(tensor) is None and tensor.numel():
            last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
            low = tensor.data_ptr()
            places.append((name, low, low + (last + 1) * tensor.element_size()))
    check_writable(places, so)


def tensor_inputs(tensors: Mapping[str, torch.Tensor], *, lazy: bool = False) -> list[ArrayInput]:
    """Tensors on any device, to be saved; raises UsageError for what cannot be. lazy: those on a GPU are copied from it
    when they are read, not before.
    """
    if not isinstance(tensors, Mapping):
        raise UsageError(f"the tensors are a {type(tensors).__name__}; a dict from names to tensors is needed")
    made: list[ArrayInput] = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise UsageError(f"tensor {name!r} is a {type(tensor).__name__}, not a torch tensor")
        why = why_not_plain(tensor)
        if why is not None:
            raise UsageError(f"tensor {name!r} {why}")
        dtype = _OURS.get(tensor.dtype)
        if dtype is None:
            advice = "save torch.view_as_real(...) of it" if tensor.dtype.is_complex else "convert it first"
            raise UsageError(f"tensor {name!r}: dtype {tensor.dtype} cannot be stored; {advice}")
        shape = list(tensor.shape)
        if dtype.packed:  # two elements to a byte, the last dimension counts bytes
            shape[-1:] = [shape[-1] * 8 // dtype.bits] if shape else []
        plain = tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
        if lazy and plain and tensor.device.type == "cuda":
            made.append(_There(name, tensor.detach().reshape(-1).view(torch.uint8), dtype, tuple(shape)))
            continue
        flat = tensor.detach()
        if not plain or tensor.device.type != "cpu":
            flat = flat.cpu().resolve_conj().resolve_neg().contiguous()
        made.append(ArrayInput(name, flat.reshape(-1).view(torch.uint8).numpy(), dtype, tuple(shape)))
    return made
