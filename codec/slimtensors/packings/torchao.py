"""torchao: int8, integers of fewer bits in bytes, FP8, MXFP8, MXFP4 and NVFP4, as it stores them in safetensors.

    integers: number = (code - zero point) scale, the difference and the product rounded to the weight's dtype
    FP8:      number = code scale, in F32, then in the weight's dtype

(MX and NVFP4: torchao_mx.py.) The metadata `tensor_names` lists all parameters, and under each one's own name is JSON
that tells its class, dtype and blocks. A weight `a.b` lies in `a._b_qdata`, `a._b_scale` and so on. Of the classes of
int4 that only GPUs compute with, torchao itself has no numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from slimtensors.packings.arithmetic import dtype_name, floats
from slimtensors.packings.blocks import Blocks, as_matrix
from slimtensors.packings.codes import E4M3, E5M2
from slimtensors.packings.listing import Listing
from slimtensors.packings.torchao_mx import State, dtype_of, mx, nvfp4, whole
from slimtensors.packings.weight import Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

TABLES = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}
# What is for activations is worth nothing without the codes, and no part of the numbers.
OPTIONAL = (
    "zero_point", "per_tensor_scale", "act_pre_scale", "act_quant_scale", "act_quant_zero_point",
    "act_per_tensor_scale", "scale_and_zero",
)  # fmt: skip


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that torchao packed."""
    names = _json(listing.metadata.get("tensor_names"))
    made = []
    for name in dict.fromkeys(n for n in names if isinstance(n, str)) if isinstance(names, list) else ():
        layer, dot, last = name.rpartition(".")
        prefix = f"{layer}{dot}_{last}_"
        if f"{prefix}qdata" in listing:
            state = _json(listing.metadata.get(name))
            rule = RULES.get(str(state.get("_type"))) if isinstance(state, dict) else None
            parts = {"qdata": f"{prefix}qdata"} | ({"scale": f"{prefix}scale"} if rule else {})
            parts |= {part: f"{prefix}{part}" for part in OPTIONAL if f"{prefix}{part}" in listing}
            made.append(listing.weight(name, "torchao", parts, partial(_known, rule=rule, state=state)))
    return made


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


Kind = Callable[[Parts, State], Pieces]


def _known(parts: Parts, rule: Kind | None, state: Any) -> Pieces:
    if rule is None:
        kind = state.get("_type") if isinstance(state, dict) else None
        raise UnfitError(f"its class is {kind!r:.60}; {', '.join(RULES)} are known")
    if "act_pre_scale" in parts:
        raise UnfitError("its inputs are to be scaled first (act_pre_scale), which no weight says")
    values = state.get("_data")
    if not isinstance(values, dict):
        raise UnfitError("its metadata has no object of attributes")
    return rule(parts, values)


def _integers(parts: Parts, state: State) -> Pieces:
    codes, own = parts["qdata"], dtype_of(state, "dtype")
    shape, block = whole(codes, "I8"), state.get("block_size")
    if not isinstance(block, list) or len(block) != len(shape) or not all(type(n) is int and n > 0 for n in block):
        raise UnfitError(f"block_size is {block!r:.60} for codes of {list(shape)}")
    scale, zero = Blocks(floats(parts["scale"], "scales"), shape, tuple(block), "scale"), None
    if "zero_point" in parts:
        given = parts["zero_point"]
        less = given.astype(np.float32) if given.dtype == np.int8 else floats(given, "zero points")
        zero = Blocks(own(less), shape, tuple(block), "zero_point")
    matrix = as_matrix(codes)

    def numbers(low: int, high: int) -> Floats:
        values = matrix[low:high].astype(np.float32)
        if zero is not None:
            values = own(values - zero.rows(low, high))
        return own(values * scale.rows(low, high))

    return Pieces(shape, len(matrix), shape[-1], numbers)


def _float8(parts: Parts, state: State) -> Pieces:
    codes, own = parts["qdata"], dtype_of(state, "dtype")
    shape, table = whole(codes, *TABLES), TABLES[dtype_name(codes)]
    scales = floats(parts["scale"], "scales")
    grid = (1,) * len(shape) if scales.size == 1 else scales.shape
    if len(grid) != len(shape) or any(n < 1 or of % n for of, n in zip(shape, grid, strict=True)):
        raise UnfitError(f"scales of shape {list(scales.shape)} for codes of {list(shape)}")
    scale = Blocks(scales, shape, tuple(of // n for of, n in zip(shape, grid, strict=True)), "scale")
    matrix = as_matrix(codes.view(np.uint8))

    def numbers(low: int, high: int) -> Floats:
        return own(table[matrix[low:high]] * scale.rows(low, high))

    return Pieces(shape, len(matrix), shape[-1], numbers)


RULES: dict[str, Kind] = {
    "Int8Tensor": _integers,
    "IntxUnpackedToInt8Tensor": _integers,
    "Float8Tensor": _float8,
    "MXTensor": mx,
    "NVFP4Tensor": nvfp4,
}
