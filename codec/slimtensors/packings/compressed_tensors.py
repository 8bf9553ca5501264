"""compressed-tensors: integers in words or bytes, FP8, NVFP4, MXFP4, MXFP8.

    number = (code - zero point) scale, each operation in the scales' dtype
    NVFP4: number = code (scale / global scale), MXFP4, MXFP8: number = code 2^(scale - 127), then in BF16

Scales are for the whole matrix, rows, groups of columns of a row, or blocks of rows and columns; codes in words are
packed densely, from the lowest bit on, and stored above -2^(bits - 1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from slimtensors.packings.arithmetic import dtype_name, floats, rounding
from slimtensors.packings.codes import E2M1, E4M3, E5M2, unpacked
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Array, Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

BLOCK = (128, 128)  # where no config says another
OPTIONAL = ("zero_point", "g_idx", "global_scale", "shape")
PLAIN = ("I8", "F8_E4M3", "F8_E5M2")


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that compressed-tensors packed."""
    made = []
    blocks = _blocks(listing)
    for name in listing:
        layer, dot, last = name.rpartition(".")
        weight = f"{layer}{dot}weight"
        if last == "weight_packed" or (last == "weight" and _plain(listing, name)):
            parts = {"codes": name, "scale": f"{weight}_scale"}
            for part in OPTIONAL:
                if f"{weight}_{part}" in listing:
                    parts[part] = f"{weight}_{part}"
            rule = _fp4 if listing.dtype(name) == "U8" else _words if last == "weight_packed" else _each
            made.append(listing.weight(weight, "compressed-tensors", parts, partial(rule, blocks=blocks)))
    return made


def _plain(listing: Listing, name: str) -> bool:
    return listing.dtype(name) in PLAIN and len(listing.shape(name)) == 2 and f"{name}_scale" in listing


def _blocks(listing: Listing) -> set[tuple[int, int]]:
    """Sizes of blocks that the model's config speaks of."""
    groups = listing.config.get("config_groups")
    found = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        size = weights.get("block_structure") if isinstance(weights, dict) else None
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
            found.add((size[0], size[1]))
    return found or {BLOCK}


Codes = Callable[[int, int], Floats]  # float32[high - low, columns]
Blocks = set[tuple[int, int]]


def _words(parts: Parts, blocks: Blocks) -> Pieces:
    words = _matrix(parts["codes"], "I32")
    rows, columns = _stated(parts)
    width = _width(words.shape[1], columns)
    if rows != len(words):
        raise UnfitError(f"{len(words)} rows of words, and {rows} in weight_shape")
    middle = 1 << (width - 1)

    def codes(low: int, high: int) -> Floats:
        found: Floats = unpacked(words[low:high], width, columns).astype(np.float32) - np.float32(middle)
        return found

    zero = parts.get("zero_point")
    if zero is not None and dtype_name(zero) == "I32":  # packed along the rows
        zero = _matrix(zero, "I32")
        if zero.shape[0] != -(-rows * width // 32):
            raise UnfitError(f"{zero.shape[0]} words of zero points for {rows} rows of {width} bits")
        zero = unpacked(np.ascontiguousarray(zero.T), width, rows).T.astype(np.int16) - np.int16(middle)
    return _scaled(parts, (rows, columns), codes, zero, blocks)


def _each(parts: Parts, blocks: Blocks) -> Pieces:
    matrix = parts["codes"]
    table = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}.get(dtype_name(matrix))
    codes: Codes = lambda low, high: matrix[low:high].astype(np.float32)  # noqa: E731 # one of two
    if table is not None:
        units = matrix.view(np.uint8)
        codes = lambda low, high: table[units[low:high]]  # noqa: E731
        if dtype_name(parts["scale"]) == "U8":  # MXFP8
            return _powers(parts, (matrix.shape[0], matrix.shape[1]), codes)
    return _scaled(parts, (matrix.shape[0], matrix.shape[1]), codes, parts.get("zero_point"), blocks)


def _fp4(parts: Parts, blocks: Blocks) -> Pieces:  # noqa: ARG001 # as the others
    data = _matrix(parts["codes"], "U8")
    shape = (data.shape[0], 2 * data.shape[1])

    def codes(low: int, high: int) -> Floats:
        found: Floats = E2M1[unpacked(data[low:high], 4, shape[1])]
        return found

    if dtype_name(parts["scale"]) in ("U8", "F8_E8M0"):
        return _powers(parts, shape, codes)
    scale = floats(parts["scale"], "scales")
    size = _group(scale, shape)
    own = rounding("BF16")
    whole = parts.get("global_scale")
    if whole is not None:
        if whole.size != 1 or dtype_name(whole) != "F32":
            raise UnfitError("weight_global_scale is not one F32")
        # As PyTorch promotes: a number of no dimensions does not widen BF16.
        scale = scale / floats(whole.reshape(()), "weight_global_scale")
        scale = scale if whole.ndim else own(scale)

    def numbers(low: int, high: int) -> Floats:
        found: Floats = codes(low, high).reshape(high - low, -1, size) * scale[low:high, :, None]
        return own(found.reshape(high - low, -1))

    return Pieces(shape, *shape, numbers)


def _powers(parts: Parts, shape: tuple[int, int], codes: Codes) -> Pieces:
    """Codes times powers of two, for groups of columns, in BF16."""
    exponents = parts["scale"].view(np.uint8)
    size = _group(exponents, shape)
    # 2^(e - 127) as the bits of an F32: e is its exponent, but 0, which is subnormal, and 255, infinity as it is
    bits = exponents.astype(np.uint32) << np.uint32(23)
    bits[exponents == 0] = 1 << 22
    scale = bits.view(np.float32)
    own = rounding("BF16")

    def numbers(low: int, high: int) -> Floats:
        found: Floats = codes(low, high).reshape(high - low, -1, size) * scale[low:high, :, None]
        return own(found.reshape(high - low, -1))

    return Pieces(shape, *shape, numbers)


def _scaled(parts: Parts, shape: tuple[int, int], codes: Codes, zero: Array | None, blocks: Blocks) -> Pieces:
    """(code - zero point) scale, in the scales' dtype."""
    rows, columns = shape
    own = rounding(dtype_name(parts["scale"]))
    scale = _two_dimensions(floats(parts["scale"], "scales"))
    if zero is not None:
        if dtype_name(zero) == "C64":
            raise UnfitError("zero points are C64")
        zero = _two_dimensions(zero.astype(np.float32))
        if zero.shape != scale.shape:
            raise UnfitError(f"zero points of shape {list(zero.shape)}, scales of {list(scale.shape)}")
    at_row, at_column = _places(scale.shape, shape, parts.get("g_idx"), blocks)

    def spread(values: Floats, low: int, high: int) -> Floats:
        found: Floats = values[at_row[low:high]][:, at_column]
        return found

    def numbers(low: int, high: int) -> Floats:
        found = codes(low, high)
        if zero is not None:
            found = own(found - spread(zero, low, high))
        return own(found * spread(scale, low, high))

    return Pieces(shape, rows, columns, numbers)


def _places(of: tuple[int, ...], shape: tuple[int, int], g_idx: Array | None, blocks: Blocks) -> tuple[Array, Array]:
    """Which scale of [rows, groups] is for a row and a column."""
    rows, columns = shape
    if of == (1, 1):
        return np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    if of[0] == rows and of[1] and columns % of[1] == 0:
        at_column = np.arange(columns) // (columns // of[1])
        if g_idx is not None and not (g_idx == -1).any():  # -1: was never set
            at_column = g_idx.reshape(-1).astype(np.int64) if g_idx.dtype.kind in "iu" else np.empty(0, np.int64)
            if at_column.size != columns or (at_column < 0).any() or (at_column >= of[1]).any():
                raise UnfitError(f"g_idx is not {columns} numbers of {of[1]} groups")
        return np.arange(rows), at_column
    fitting = [(h, w) for h, w in blocks if (-(-rows // h), -(-columns // w)) == of]
    if len(fitting) != 1:
        raise UnfitError(
            f"scales of shape {list(of)} for {rows} x {columns} codes; if they are for blocks, config.json beside the "
            "file says of which size (block_structure)"
        )
    return np.arange(rows) // fitting[0][0], np.arange(columns) // fitting[0][1]


def _matrix(array: Array, dtype: str) -> Array:
    if array.ndim != 2 or dtype_name(array) != dtype:
        raise UnfitError(f"codes are {dtype_name(array)} of shape {list(array.shape)}; matrices of {dtype} are known")
    return array


def _two_dimensions(values: Floats) -> Floats:
    if values.ndim > 2 or not values.size:
        raise UnfitError(f"scales of shape {list(values.shape)}")
    return values.reshape(1, 1) if values.size == 1 else values.reshape(len(values), -1)


def _stated(parts: Parts) -> tuple[int, int]:
    given = parts.get("shape")
    if given is None or given.size != 2 or given.dtype.kind not in "iu":
        raise UnfitError("weight_shape is not two integers")
    rows, columns = (int(n) for n in given.reshape(-1))
    if rows < 1 or columns < 1:
        raise UnfitError(f"weight_shape is {[rows, columns]}")
    return rows, columns


def _width(words: int, columns: int) -> int:
    """Bits of a code, of which `columns` fill this many words."""
    fitting = [width for width in range(1, 9) if -(-columns * width // 32) == words]
    if len(fitting) != 1:
        raise UnfitError(f"{words} words for rows of {columns} codes, of one to eight bits")
    return fitting[0]


def _group(scale: Array, shape: tuple[int, int]) -> int:
    """Columns to a scale."""
    if scale.ndim != 2 or len(scale) != shape[0] or not scale.shape[1] or shape[1] % scale.shape[1]:
        raise UnfitError(f"scales of shape {list(scale.shape)} for {shape[0]} x {shape[1]} codes")
    size: int = shape[1] // scale.shape[1]
    return size
