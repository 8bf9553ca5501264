"""What a state dict holds beside tensors, as JSON: no pickle, so that loading runs no code.

Stored: None, bool, int, float, str, bytes; list, tuple, dict, OrderedDict, Counter of these, with such keys; NumPy
arrays and scalars of numbers; torch.Size, torch.dtype, torch.device. Their exact types come back. Anything else is
refused: turn it into these first (an enumeration into its value, a dataclass into a dict). What is well formed is
said by `slimtensors.checkpoint.plain`.
"""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from slimtensors.checkpoint.plain import check_value
from slimtensors.errors import FormatError, UsageError

__all__ = ["decode", "encode"]

_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}
_SEQUENCES: dict[type, str] = {tuple: "tuple", torch.Size: "size"}


def encode(value: Any, where: str) -> Any:
    """What JSON can hold of it: plain values as they are, others as {"kind": content}. Raises UsageError."""
    try:
        found = _encode(value, where)
        check_value(found)  # or it could not be read
    except (FormatError, RecursionError) as error:
        raise UsageError(f"state {where} cannot be stored: {error}") from None
    return found


def _encode(value: Any, where: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": repr(value)}  # the shortest text that gives all its bits back; JSON has no nan
    if kind is list:
        return [_encode(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_encode(each, f"{where}[{i}]") for i, each in enumerate(value)]}
    if kind is dict and value and all(map(_is_path, value.items())):
        return {"paths": [_cut(path) if len(path) > 1 else name for name, path in value.items()]}
    if kind in _MAPPINGS:
        pairs = [[_encode(key, f"a key of {where}"), _encode(each, f"{where}[{key!r}]")] for key, each in value.items()]
        return {_MAPPINGS[kind]: pairs}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        data = base64.b64encode(little.tobytes()).decode()
        label = "array" if isinstance(value, np.ndarray) else "number"
        return {label: [little.dtype.str, list(np.shape(value)), data]}
    if kind is torch.dtype or kind is torch.device:
        return {kind.__name__: str(value).removeprefix("torch.")}
    if isinstance(value, torch.Tensor):
        raise UsageError(
            f"state {where} is a tensor within what is stored whole, such as a tuple: DCP finds tensors in dicts and "
            "lists only; make it a list"
        )
    raise UsageError(
        f"state {where} is a {kind.__module__}.{kind.__qualname__}, which is stored neither as a tensor nor as JSON "
        "(pickles are not written): save None, bool, int, float, str, bytes, list, tuple, dict, or arrays of numbers"
    )


def _is_path(item: tuple[Any, Any]) -> bool:
    """Whether a tuple is told by its key: its parts, with dots between them, as DCP names what is nested."""
    name, path = item
    texts = type(name) is str and type(path) is tuple and all(type(part) is str for part in path)
    return texts and bool(path) and ".".join(path) == name


def _cut(path: tuple[str, ...]) -> list[Any]:
    """The name, and where its dots between parts are."""
    ends = accumulate(len(part) + 1 for part in path[:-1])
    return [".".join(path), *(end - 1 for end in ends)]


def _path(item: Any) -> tuple[str, tuple[str, ...]]:
    told: list[Any] = [item] if isinstance(item, str) else item
    name, *dots = told
    bounds = [-1, *dots, len(name)]
    return name, tuple(name[low + 1 : high] for low, high in pairwise(bounds))


def decode(value: Any) -> Any:
    """What was encoded, and passes `check_value`. Raises FormatError for what this machine or torch does not know."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    try:
        return _DECODERS[kind](content)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FormatError(f"a stored value of kind {kind!r} is not known here: {error}") from None


def _pairs(content: Any) -> dict[Any, Any]:
    found = {decode(key): decode(each) for key, each in content}
    if len(found) != len(content):
        raise FormatError("a stored mapping has keys that are equal in Python")
    return found


def _array(content: Any) -> Any:
    dtype, shape, data = content
    return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()


# Not looked up by name in torch, which imports modules to find some.
_DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}


def _dtype(content: Any) -> torch.dtype:
    return _DTYPES[f"torch.{content}"]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": lambda content: tuple(decode(each) for each in content),
    "size": torch.Size,
    "dict": _pairs,
    "paths": lambda content: dict(map(_path, content)),
    "ordered": lambda content: OrderedDict(_pairs(content)),
    "counter": lambda content: Counter(_pairs(content)),
    "bytes": base64.b64decode,
    "array": _array,
    "number": lambda content: _array(content)[()],
    "dtype": _dtype,
    "device": torch.device,
}
