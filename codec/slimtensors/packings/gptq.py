"""GPTQ and AWQ: integers in words of 32 bits, turned on their side.

    number = (code - zero point) scale, in the scales' dtype

Both store the matrix as [inputs, outputs], with scales [groups, outputs] and zero points [groups, outputs] in words
along the outputs, and give weights [outputs, inputs]. GPTQ's codes fill words along the inputs, and its zero points are
one less than what is meant (not in its version 2, which a config tells); `g_idx` says which group an input belongs to.
AWQ's codes of four bits fill words along the outputs, in an order of their own, the zero points too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from slimtensors.packings.arithmetic import dtype_name, floats, rounding
from slimtensors.packings.listing import Listing
from slimtensors.packings.weight import Array, Floats, PackedWeight, Parts, Pieces, UnfitError

__all__ = ["found"]

WIDTHS = (2, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight outputs each code of a word is for, the lowest first


def found(listing: Listing) -> list[PackedWeight]:
    """All weights of a file that GPTQ's or AWQ's libraries packed."""
    made = []
    less = 0 if listing.config.get("checkpoint_format") == "gptq_v2" else 1
    for name in listing:
        layer, _, last = name.rpartition(".")
        if last != "qweight" or not listing.is_a(name, "I32", 2):
            continue
        parts = {"codes": name, "zeros": f"{layer}.qzeros", "scales": f"{layer}.scales"}
        if f"{layer}.g_idx" in listing:
            parts["groups"] = f"{layer}.g_idx"
        # AWQ has a word for eight outputs, GPTQ one for each.
        outputs = listing.shape(parts["scales"])[-1:] if parts["scales"] in listing else ()
        awq = outputs == (8 * listing.shape(name)[1],)
        rule = _awq if awq else partial(_gptq, less=less)
        made.append(listing.weight(f"{layer}.weight", "AWQ" if awq else "GPTQ", parts, rule))
    return made


def _gptq(parts: Parts, less: int) -> Pieces:
    words, zeros, scales = parts["codes"], _words(parts["zeros"], "qzeros"), parts["scales"]
    outputs = words.shape[1]
    groups = _groups(scales, outputs)
    width = next((width for width in WIDTHS if zeros.shape == (groups, -(-outputs * width // 32))), 0)
    if not width:
        raise UnfitError(
            f"qzeros of shape {list(zeros.shape)} for {groups} groups of {outputs} outputs, of 2, 4 or 8 bits"
        )
    each, mask = 32 // width, (1 << width) - 1
    inputs = len(words) * each
    at = _group_of(parts.get("groups"), inputs, groups)
    of_zero = (_spread(zeros, width)[:, :outputs] + less) & mask

    def codes(low: int, high: int) -> Array:
        return _spread(np.ascontiguousarray(words[:, low:high].T), width)

    return _pieces(inputs, outputs, codes, of_zero, scales, at)


def _awq(parts: Parts) -> Pieces:
    words, zeros, scales = parts["codes"], _words(parts["zeros"], "qzeros"), parts["scales"]
    inputs, outputs = len(words), 8 * words.shape[1]
    groups = _groups(scales, outputs)
    if zeros.shape != (groups, words.shape[1]):
        raise UnfitError(f"qzeros of shape {list(zeros.shape)} for {groups} groups of {outputs} outputs")
    at = _group_of(None, inputs, groups)

    def codes(low: int, high: int) -> Array:
        first, last = low // 8, -(-high // 8)
        found: Array = _in_order(words[:, first:last])[:, low - 8 * first : high - 8 * first].T
        return found

    return _pieces(inputs, outputs, codes, _in_order(zeros), scales, at)


Codes = Callable[[int, int], Array]  # uint8[high - low, inputs], of these outputs


def _pieces(inputs: int, outputs: int, codes: Codes, zeros: Array, scales: Array, at: Array) -> Pieces:
    """Of zero points and scales [groups, outputs]. at: each input's group."""
    own, factors = rounding(dtype_name(scales)), floats(scales, "scales")
    less = zeros.astype(np.float32)

    def numbers(low: int, high: int) -> Floats:
        of_row, scale = less[:, low:high].T, factors[:, low:high].T
        return own((codes(low, high).astype(np.float32) - of_row[:, at]) * scale[:, at])

    return Pieces((outputs, inputs), outputs, inputs, numbers)


def _spread(words: Array, width: int) -> Array:
    """uint8[rows, 32 / width * words of a row], from the lowest bit on."""
    shifts = np.arange(0, 32, width, dtype=np.uint32)
    found = words.view(np.uint32)[:, :, None] >> shifts & np.uint32((1 << width) - 1)
    spread: Array = found.astype(np.uint8).reshape(len(words), -1)
    return spread


def _in_order(words: Array) -> Array:
    """Codes of four bits in the order of the outputs."""
    spread: Array = _spread(np.ascontiguousarray(words), 4).reshape(len(words), -1, 8)
    found = np.empty_like(spread)
    found[:, :, AWQ_ORDER] = spread
    return found.reshape(len(words), -1)


def _words(array: Array, what: str) -> Array:
    if array.ndim != 2 or dtype_name(array) != "I32":
        raise UnfitError(f"{what} are {dtype_name(array)} of shape {list(array.shape)}, not a matrix of I32")
    return np.ascontiguousarray(array)


def _groups(scales: Array, outputs: int) -> int:
    if scales.ndim != 2 or scales.shape[1] != outputs or not len(scales):
        raise UnfitError(f"scales of shape {list(scales.shape)} for {outputs} outputs")
    return len(scales)


def _group_of(given: Array | None, inputs: int, groups: int) -> Array:
    """Each input's group."""
    if given is None:
        size = -(-inputs // groups)  # the last group may be smaller
        if -(-inputs // size) != groups:
            raise UnfitError(f"{groups} groups of {inputs} inputs")
        found: Array = np.arange(inputs) // size
        return found
    if given.shape != (inputs,) or given.dtype.kind not in "iu" or (given < 0).any() or (given >= groups).any():
        raise UnfitError(f"g_idx is not {inputs} numbers of {groups} groups")
    return given.astype(np.int64)
