"""torchao's MXTensor and NVFP4Tensor: codes with a scale for each run of a row.

    MX:    number = code 2^(scale - 127), both and the product in the weight's dtype
    NVFP4: number = code (global scale scale), in F32, then in the weight's dtype

Scales lie in the order of their runs or, for matrix units of GPUs, in tiles of 128 rows by 4 runs, of which rows 32
apart are neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from slimtensors.packings.arithmetic import Rounding, dtype_name, floats, rounding
from slimtensors.packings.blocks import Blocks, as_matrix
from slimtensors.packings.codes import E2M1, E4M3, E5M2, unpacked
from slimtensors.packings.weight import Array, Floats, Parts, Pieces, Shape, UnfitError

__all__ = ["State", "dtype_of", "mx", "nvfp4", "whole"]

State = Mapping[str, Any]  # a tensor's attributes, from JSON

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TILE = (128, 4)


def mx(parts: Parts, state: State) -> Pieces:
    """Of MXTensor: FP8, or FP4 in nibbles."""
    own, kind = dtype_of(state, "orig_dtype"), _dtype_name(state, "elem_dtype")
    units = parts["qdata"]
    if kind == "float4_e2m1fn_x2":
        shape, table = whole(units, "U8"), E2M1
        shape = (*shape[:-1], 2 * shape[-1])
    elif kind in ("float8_e4m3fn", "float8_e5m2"):
        table = E4M3 if kind == "float8_e4m3fn" else E5M2
        shape = whole(units, "F8_E4M3" if kind == "float8_e4m3fn" else "F8_E5M2")
    else:
        raise UnfitError(f"elem_dtype {kind!r:.40} is not known")
    exponents = _in_order(_bytes(parts["scale"], "F8_E8M0", "U8"), shape, state)
    # 2^(e - 127) as the bits of an F32: e is its exponent, but 0, which is subnormal, and 255, which is NaN
    bits = exponents.astype(np.uint32) << np.uint32(23)
    bits[exponents == 0], bits[exponents == 255] = 1 << 22, 0x7FC00000
    scale = Blocks(own(bits.view(np.float32)), shape, _run(shape, state), "scale")
    return _products(units, table, shape, scale, own)


def nvfp4(parts: Parts, state: State) -> Pieces:
    """Of NVFP4Tensor."""
    own, units = dtype_of(state, "orig_dtype"), parts["qdata"]
    shape = whole(units, "U8")
    shape = (*shape[:-1], 2 * shape[-1])
    scales = E4M3[_in_order(_bytes(parts["scale"], "F8_E4M3"), shape, state)]
    given = floats(parts.get("per_tensor_scale", np.float32(1)), "per_tensor_scale")
    if given.size != 1 and (len(shape) != 3 or given.shape != (shape[0], 1, 1)):  # or one for each expert
        raise UnfitError(f"per_tensor_scale of shape {list(given.shape)} for {list(shape)}")
    scale = Blocks(scales, shape, _run(shape, state), "scale")
    scale.multiply(given.reshape(-1, 1))
    return _products(units, E2M1, shape, scale, own)


def _products(units: Array, table: Floats, shape: Shape, scale: Blocks, own: Rounding) -> Pieces:
    matrix, columns = as_matrix(units).view(np.uint8), shape[-1]

    def numbers(low: int, high: int) -> Floats:
        rows = matrix[low:high]
        codes = rows if len(table) == 256 else unpacked(rows, 4, columns)
        return own(table[codes] * scale.rows(low, high))

    return Pieces(shape, len(matrix), columns, numbers)


def _run(shape: Shape, state: State) -> Shape:
    """What shares a scale."""
    size = state.get("block_size")
    if type(size) is not int or size < 1 or shape[-1] % size:
        raise UnfitError(f"block_size is {size!r:.40} for rows of {shape[-1]}")
    return (*(1,) * (len(shape) - 1), size)


def _in_order(scales: Array, shape: Shape, state: State) -> Array:
    """Scales row by row."""
    tiled = state.get("is_swizzled_scales", False)
    if type(tiled) is not bool:
        raise UnfitError("is_swizzled_scales is neither true nor false")
    if not tiled:
        return scales
    rows, columns = math.prod(shape[:-1]), shape[-1] // _run(shape, state)[-1]
    down, across = -(-rows // TILE[0]), -(-columns // TILE[1])
    if scales.size != down * across * TILE[0] * TILE[1]:
        raise UnfitError(f"{scales.size} scales in {down} x {across} tiles of {TILE[0]} x {TILE[1]}")
    # [tile down, tile across, row mod 32, row / 32, column]
    tiles = scales.reshape(down, across, 32, 4, TILE[1]).transpose(0, 3, 2, 1, 4)
    found: Array = tiles.reshape(down * TILE[0], across * TILE[1])[:rows, :columns]
    return found


def whole(codes: Array, *dtypes: str) -> Shape:
    """The shape of codes. Raises UnfitError for other dtypes than these, and one number without dimensions."""
    if dtype_name(codes) not in dtypes or not codes.size or not codes.ndim:
        raise UnfitError(f"qdata is {dtype_name(codes)} of shape {list(codes.shape)}, not {' or '.join(dtypes)}")
    return codes.shape


def _bytes(scales: Array, *dtypes: str) -> Array:
    if dtype_name(scales) not in dtypes:
        raise UnfitError(f"scales are {dtype_name(scales)}, not {' or '.join(dtypes)}")
    return scales.reshape(-1).view(np.uint8)


def dtype_of(state: State, key: str) -> Rounding:
    """To the weight's dtype."""
    name = _dtype_name(state, key)
    if name not in DTYPES:
        raise UnfitError(f"{key} {name!r:.40} is not one of {', '.join(DTYPES)}")
    return rounding(DTYPES[name], key)


def _dtype_name(state: State, key: str) -> str:
    value = state.get(key)
    name = value.get("_data") if isinstance(value, dict) else value
    return name if isinstance(name, str) else ""
