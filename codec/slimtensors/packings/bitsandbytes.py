"""bitsandbytes: NF4 and FP4 with plain or nested statistics, and LLM.int8.

    number = map[code] absmax[block], in F32, rounded once;  absmax = nested map[code] nested absmax[block] + offset
    number = code SCB[row] (1/127 in F32), in F32

A byte's upper four bits are the first code. What is no tensor (block sizes, shape, offset) is JSON in a tensor of
bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from slimtensors.limits import MAX_DIMENSIONS, MAX_ELEMENTS
from slimtensors.packings.arithmetic import floats
from slimtensors.packings.codes import nibbles
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Array, Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

MOST_STATE = 1 << 16  # bytes of JSON
MOST_BLOCK = 1 << 20
MOST_OFFSET = 3e38
STATE = ".quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
PER_127 = np.float32(0.007874015718698502)


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that bitsandbytes packed."""
    made = []
    for name in listing:
        weight, mark, kind = name.rpartition(STATE)
        if mark and kind in KINDS:
            parts = {"codes": weight, "state": name}
            for part in ("absmax", "quant_map"):
                parts[part] = f"{weight}.{part}"
            for part in ("nested_absmax", "nested_quant_map"):
                if f"{weight}.{part}" in listing:
                    parts[part] = f"{weight}.{part}"
            made.append(listing.weight(weight, "bitsandbytes", parts, _four_bits))
        if name.endswith(".SCB") and listing.is_a(f"{name[:-3]}weight", "I8", 2):
            parts = {"codes": f"{name[:-3]}weight", "scales": name}
            if f"{name[:-3]}weight_format" in listing:
                parts["layout"] = f"{name[:-3]}weight_format"
            made.append(listing.weight(f"{name[:-3]}weight", "bitsandbytes", parts, _int8))
    return made


def _four_bits(parts: Parts) -> Pieces:
    state = _state(parts["state"])
    shape, size = _shape(state.get("shape")), _size(state, "blocksize")
    count = math.prod(shape)
    data = np.ascontiguousarray(parts["codes"]).reshape(-1).view(np.uint8)
    if data.size != -(-count // 2):
        raise UnfitError(f"{data.size} bytes of codes, and {-(-count // 2)} are {list(shape)} numbers")
    blocks = -(-count // size)
    absmax = _absmax(parts, state)
    if absmax.size != blocks:
        raise UnfitError(f"{absmax.size} scales for {blocks} blocks of {size}")
    table = _table(parts["quant_map"], 16, "quant_map")

    def numbers(low: int, high: int) -> Floats:
        first, last = low * size, high * size
        codes = nibbles(data[first // 2 : -(-last // 2)], True)[first % 2 :][: last - first]
        if codes.size < last - first:  # the last block may be short
            codes = np.concatenate([codes, np.zeros(last - first - codes.size, np.uint8)])
        found: Floats = table[codes].reshape(-1, size) * absmax[low:high, None]
        return found

    return Pieces(shape, blocks, size, numbers)


def _absmax(parts: Parts, state: Mapping[str, Any]) -> Floats:
    given = parts["absmax"].reshape(-1)
    if "nested_absmax" not in parts:
        return floats(given, "scales")
    if given.dtype != np.uint8 or "nested_quant_map" not in parts:
        raise UnfitError("nested scales that are no bytes, or without their map")
    size, offset = _size(state, "nested_blocksize"), state.get("nested_offset")
    if not isinstance(offset, (int, float)) or isinstance(offset, bool) or abs(offset) > MOST_OFFSET:
        raise UnfitError("nested_offset is no number, or none of F32")
    scales = floats(parts["nested_absmax"].reshape(-1), "nested scales")
    if scales.size != -(-given.size // size):
        raise UnfitError(f"{scales.size} nested scales for {given.size} scales in blocks of {size}")
    codes = _table(parts["nested_quant_map"], 256, "nested_quant_map")[given]
    found: Floats = codes * np.repeat(scales, size)[: given.size] + np.float32(offset)
    return found


def _int8(parts: Parts) -> Pieces:
    codes, scales = parts["codes"], floats(parts["scales"].reshape(-1), "SCB")
    if "layout" in parts and parts["layout"].any():
        raise UnfitError("weight_format is not `row`")
    if scales.size != len(codes):
        raise UnfitError(f"{scales.size} scales for {len(codes)} rows")

    def numbers(low: int, high: int) -> Floats:
        found: Floats = codes[low:high].astype(np.float32) * scales[low:high, None] * PER_127
        return found

    return Pieces(codes.shape, codes.shape[0], codes.shape[1], numbers)


def _state(data: Array) -> Mapping[str, Any]:
    if data.dtype != np.uint8 or data.size > MOST_STATE:
        raise UnfitError(f"its quant_state is {data.size} of {data.dtype}, not JSON of at most {MOST_STATE} bytes")
    try:
        state = json.loads(data.tobytes())
    except (ValueError, RecursionError):
        raise UnfitError("its quant_state is not JSON") from None
    if not isinstance(state, dict):
        raise UnfitError("its quant_state is no object")
    return state


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(n) is int and 0 <= n < 1 << 48 for n in value):
        raise UnfitError("its quant_state has no shape")
    if len(value) > MAX_DIMENSIONS or math.prod(max(1, n) for n in value) > MAX_ELEMENTS:
        raise UnfitError("its quant_state has a shape that no array has")
    return tuple(value)


def _size(state: Mapping[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int or not 1 <= value <= MOST_BLOCK:
        raise UnfitError(f"{key} is no number from 1 to {MOST_BLOCK}")
    return value


def _table(array: Array, size: int, what: str) -> Floats:
    if array.size != size:
        raise UnfitError(f"{what} has {array.size} numbers, not {size}")
    return floats(array.reshape(-1), what)
