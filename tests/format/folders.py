"""What the readers of checkpoints, the reference and the library's two, make of a folder, in one form."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

import checkpoint
import decode
from format.sides import Refusal
from slimtensors.checkpoint.places import LocalPlace
from slimtensors.checkpoint.plain import check_named, parse_objects
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError, NewerFormatError
from slimtensors.on_torch.tensors import tensor_inputs
from slimtensors.sources.inputs import unit_count
from slimtensors.torch.distributed import StorageReader, values
from slimtensors.torch.distributed.assembled import OpenCheckpoint


@dataclass(frozen=True)
class Held:
    """All that is in a checkpoint; values as `told` has them."""

    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    objects: dict[str, Any]
    planner: Any


def told(value: Any) -> Any:
    """A value as JSON, as the vectors' texts have it: types of Python, NumPy and torch, and tags of the reference."""
    kind = type(value)
    if kind is checkpoint.Tagged:
        return _tagged(value)
    if kind is float:
        return {"float": struct.pack(">d", value).hex()}
    if kind in (bytes, tuple, torch.Size):
        content = value.hex() if kind is bytes else list(map(told, value))
        return {"size" if kind is torch.Size else kind.__name__: content}
    if kind is list:
        return list(map(told, value))
    if kind in (dict, OrderedDict, Counter):
        return {{dict: "dict", OrderedDict: "ordered", Counter: "counter"}[kind]: _pairs(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        label = "array" if isinstance(value, np.ndarray) else "number"
        return {label: [value.dtype.str, list(value.shape), value.tobytes().hex()]}
    if kind in (torch.dtype, torch.device):
        return {kind.__name__: str(value).removeprefix("torch.")}
    assert value is None or kind in (bool, int, str), kind
    return value


def _pairs(value: dict[Any, Any]) -> list[Any]:
    return [[told(key), told(each)] for key, each in value.items()]


def _tagged(value: Any) -> Any:
    kind, content = value.kind, value.content
    if kind in ("array", "number"):
        return {kind: [content[0], list(content[1]), content[2].hex()]}
    if isinstance(content, dict):
        return {kind: _pairs(content)}
    return {kind: content.hex() if kind == "stream" else list(content) if kind == "size" else content}


def by_reference(folder: Path) -> Held | Refusal:
    try:
        found = checkpoint.read_checkpoint(folder)
    except decode.Refused as refused:
        return Refusal(str(refused), isinstance(refused, decode.NeedsNewerReader))
    objects = {name: told(value) for name, value in found.objects.items()}
    return Held(found.tensors, objects, told(found.manifest.planner))


def by_library(folder: Path) -> Held | Refusal:
    """As a conversion reads it: every part of every tensor."""
    try:
        opened = OpenCheckpoint(LocalPlace(folder))
    except (FormatError, FileNotFoundError) as error:
        return Refusal(str(error), isinstance(error, NewerFormatError))
    try:
        tensors = {}
        for tensor in opened.inputs():
            units = unit_count(tensor)
            data = bytes_of(tensor.read(0, units)).tobytes() if units else b""
            tensors[tensor.name] = tensor.dtype.name, tensor.shape, data
        objects = {name: told(_decoded(value)) for name, value in opened.objects().items()}
        return Held(tensors, objects, told(values.decode(opened.manifest.planner)))
    except FormatError as error:
        return Refusal(str(error), isinstance(error, NewerFormatError))
    finally:
        opened.close()


def _decoded(value: Any) -> Any:
    """A stream is no value: it goes to a planner as it is."""
    if isinstance(value, dict) and "stream" in value:
        return checkpoint.Tagged("stream", values.decode({"bytes": value["stream"]}))
    return values.decode(value)


def values_by_reference(text: bytes) -> dict[str, Any] | Refusal:
    """Of what `__objects__` holds."""
    try:
        return {name: told(value) for name, value in checkpoint.read_objects(text).items()}
    except decode.Refused as refused:
        return Refusal(str(refused), newer=False)


def values_by_library(text: bytes) -> dict[str, Any] | Refusal:
    try:
        found = parse_objects(text)
        for value in found.values():
            check_named(value)
        return {name: told(_decoded(value)) for name, value in found.items()}
    except FormatError as error:
        return Refusal(str(error), newer=False)


def by_torch(folder: Path) -> Held | Refusal:
    """As a job loads it, without values that are streams."""
    reader = StorageReader(folder, threads=1)
    try:
        found = reader.read_metadata()
        state: dict[str, Any] = {}
        for name, each in found.state_dict_metadata.items():
            whole = isinstance(each, TensorStorageMetadata)
            state[name] = torch.zeros(each.size, dtype=each.properties.dtype) if whole else None
        dcp.load(state, storage_reader=reader, no_dist=True)
    except (FormatError, FileNotFoundError) as error:
        return Refusal(str(error), isinstance(error, NewerFormatError))
    except CheckpointException as error:
        (inner, _), *_ = error.failures.values()
        if not isinstance(inner, (FormatError, FileNotFoundError)):
            raise
        return Refusal(str(inner), isinstance(inner, NewerFormatError))
    tensors = {name: each for name, each in state.items() if isinstance(each, torch.Tensor)}
    held = {}
    for tensor in tensor_inputs(tensors):
        data = bytes_of(tensor.read(0, unit_count(tensor))).tobytes()
        held[tensor.name] = tensor.dtype.name, tuple(tensor.shape), data
    objects = {name: told(each) for name, each in state.items() if name not in tensors}
    return Held(held, objects, told(found.planner_data))
