"""HQQ: integers with a scale and a zero point of floats for groups of a matrix that has been given another shape.

    number = (code - zero) scale, each operation in compute_dtype

Codes of 1, 2 and 4 bits lie in bytes, of 3 bits ten in each I32: the first rows of the matrix are the upper bits. What
is no tensor (shape, packing, dtype) is stored as tensors of integers, strings by their characters.
"""

from __future__ import annotations

import math

import numpy as np

from slimtensors.packings.arithmetic import floats, rounding
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Array, Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

PACKINGS = {"8bit_u8": (8, 1), "4bit_u8": (4, 2), "3bit_32": (3, 10), "2bit_u8": (2, 4), "1bit_u8": (1, 8)}
DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
# What says how a layer was quantised, and is worth nothing without its codes.
SETTINGS = (
    "nbits", "group_size", "axis", "unpack_view_dtype", "view_as_float", "quant_scale", "quant_zero", "offload_meta",
    "encoded_state_dict", "stores_quant_config", "channel_wise", "optimize", "round_zero",
)  # fmt: skip


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that HQQ packed."""
    made = []
    for name in listing:
        layer, dot, last = name.rpartition(".")
        if dot and last == "W_q" and f"{layer}.packing" in listing:
            needed = ("shape", "scale", "zero", "packing", "compute_dtype")
            parts = {"codes": name} | {part: f"{layer}.{part}" for part in needed}
            parts |= {part: f"{layer}.{part}" for part in SETTINGS if f"{layer}.{part}" in listing}
            made.append(listing.weight(f"{layer}.weight", "HQQ", parts, _numbers))
    return made


def _numbers(parts: Parts) -> Pieces:
    packing, dtype = _text(parts["packing"], "packing"), _text(parts["compute_dtype"], "compute_dtype")
    if packing not in PACKINGS or dtype not in DTYPES:
        raise UnfitError(f"packing {packing!r:.40} in {dtype!r:.40} is not known")
    width, each = PACKINGS[packing]
    words, shape = parts["codes"], _shape(parts["shape"])
    kind = np.int32 if packing == "3bit_32" else np.uint8
    if words.ndim != 2 or words.dtype != kind:
        raise UnfitError(f"W_q is {words.dtype} of shape {list(words.shape)}; a matrix of {kind.__name__} is expected")
    if parts.get("view_as_float", np.zeros(1)).any():
        raise UnfitError("codes that are held as floats are not known")
    step, columns = words.shape
    count = math.prod(shape)
    rows = count // columns if columns else 0
    if rows * columns != count or not step * each >= rows > (step - 1) * each:
        raise UnfitError(f"W_q of shape {list(words.shape)} for {list(shape)}")
    own = rounding(DTYPES[dtype], "compute_dtype")
    scale, zero = (own(floats(parts[name], name)) for name in ("scale", "zero"))
    for name, values in (("scale", scale), ("zero", zero)):
        if values.shape not in ((rows, 1), (1, columns)):
            raise UnfitError(f"{name} of shape {list(values.shape)} for {rows} x {columns} codes")
    codes = words.view(np.uint32) if packing == "3bit_32" else words

    def numbers(low: int, high: int) -> Floats:
        at = np.arange(low, high)
        shifts = ((each - 1 - at // step) * width).astype(codes.dtype)
        cut = codes[at % step] >> shifts[:, None] & codes.dtype.type((1 << width) - 1)
        less, times = (values[low:high] if len(values) > 1 else values for values in (zero, scale))
        return own(own(cut.astype(np.float32) - less) * times)

    return Pieces(shape, rows, columns, numbers)


def _text(array: Array, what: str) -> str:
    if array.dtype != np.uint8 or array.size > 64:
        raise UnfitError(f"{what} is no short text")
    return array.tobytes().decode("latin-1")


def _shape(array: Array) -> tuple[int, ...]:
    if array.dtype.kind not in "iu" or not 1 <= array.size <= 8 or (array < 1).any() or (array > 1 << 40).any():
        raise UnfitError("its shape is not a few numbers from 1")
    return tuple(int(n) for n in array.reshape(-1))
