"""What a state dict holds beside tensors, as JSON: no pickle, so that loading runs no code.

Stored: None, bool, int, float, str, bytes; list, tuple, dict, OrderedDict, Counter of these, with such keys; NumPy
arrays and scalars of numbers; torch.Size, torch.dtype, torch.device. Their exact types come back. Anything else is
refused: turn it into these first (an enumeration into its value, a dataclass into a dict).
"""

from __future__ import annotations

import base64
import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from slimtensors.errors import FormatError, UsageError

__all__ = ["decode", "dumps", "encode", "loads"]

_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}
_SEQUENCES: dict[type, str] = {tuple: "tuple", torch.Size: "size"}


def encode(value: Any, where: str) -> Any:
    """What JSON can hold of it: plain values as they are, others as {"kind": content}. Raises UsageError."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": repr(value)}  # the shortest text that gives all its bits back; JSON has no nan
    if kind is list:
        return [encode(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [encode(each, f"{where}[{i}]") for i, each in enumerate(value)]}
    if kind is dict and value and all(map(_is_path, value.items())):
        return {"paths": [_cut(path) if len(path) > 1 else name for name, path in value.items()]}
    if kind in _MAPPINGS:
        pairs = [[encode(key, f"a key of {where}"), encode(each, f"{where}[{key!r}]")] for key, each in value.items()]
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
    if not isinstance(name, str) or any(type(dot) is not int or not 0 <= dot < len(name) for dot in dots):
        raise ValueError("not a name and places in it")
    if any(name[dot] != "." for dot in dots) or dots != sorted(set(dots)):
        raise ValueError(f"no dots of {name!r:.80} in order")
    bounds = [-1, *dots, len(name)]
    return name, tuple(name[low + 1 : high] for low, high in pairwise(bounds))


def decode(value: Any) -> Any:
    """What was encoded. Raises FormatError."""
    try:
        return _decode(value)
    except RecursionError:
        raise FormatError("a stored value is nested too deeply to be read; the file is damaged or hostile") from None


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise FormatError(f"a stored value has the keys {sorted(value)[:5]}; one is expected")
    ((kind, content),) = value.items()
    try:
        return _DECODERS[kind](content)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FormatError(f"a stored value of kind {kind!r} is malformed: {error}") from None


def _pairs(content: Any) -> list[tuple[Any, Any]]:
    return [(_decode(key), _decode(each)) for key, each in content]


def _array(content: Any) -> Any:
    dtype, shape, data = content
    found = np.dtype(dtype)
    if found.kind not in "biufc":
        raise ValueError(f"dtype {dtype}")
    return np.frombuffer(base64.b64decode(data, validate=True), found).reshape(shape).copy()


def _dtype(content: Any) -> torch.dtype:
    found = getattr(torch, content)
    if not isinstance(found, torch.dtype):
        raise ValueError(content)
    return found


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "float": lambda content: float(content.strip()),
    "tuple": lambda content: tuple(_decode(each) for each in content),
    "size": lambda content: torch.Size([_decode(each) for each in content]),
    "dict": lambda content: dict(_pairs(content)),
    "paths": lambda content: dict(map(_path, content)),
    "ordered": lambda content: OrderedDict(_pairs(content)),
    "counter": lambda content: Counter(dict(_pairs(content))),
    "bytes": lambda content: base64.b64decode(content, validate=True),
    "array": _array,
    "number": lambda content: _array(content)[()],
    "dtype": _dtype,
    "device": torch.device,
}


def dumps(values: dict[str, Any]) -> bytes:
    """Encoded values as the text that a file holds."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def loads(data: bytes) -> dict[str, Any]:
    """Encoded values. Raises FormatError."""
    try:
        found = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"what is no tensor is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("what is no tensor is not a JSON object")
    return found
