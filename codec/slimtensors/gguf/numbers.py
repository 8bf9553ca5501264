"""The numbers that GGUF's blocks stand for, bit for bit those of gguf-py's `dequantize`.

Each type is a few operations in F32, one rounding each, in gguf-py's order; the fields of a block come from its layout
(`blocks.py`) in the order of the weights. F16 and BF16 are those numbers rounded to nearest, ties to even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.codecs.casts import cast_units
from slimtensors.codecs.environment import as_usual
from slimtensors.codecs.records import cut
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import UsageError
from slimtensors.gguf.blocks import Block
from slimtensors.gguf.grids import grid

__all__ = ["dequantised"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[Any]  # float32

PIECE = 1 << 18  # weights at a time, so that what lies between stays in the cache
F4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # E2M1, doubled
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
DELTA = np.float32(0.125)


@as_usual
def dequantised(packed: npt.NDArray[np.uint8], block: Block, dtype: DType) -> Array:
    """uint8[..., bytes of a row] to numbers[..., weights of a row] of the dtype. Raises UsageError."""
    rule = _RULES.get(block.name)
    if rule is None:
        raise UsageError(f"blocks of {block.name} cannot be turned into numbers; load them as they are")
    blocks = np.ascontiguousarray(packed).reshape(-1, block.size)
    out = np.empty((len(blocks), block.weights), dtype.unit)
    step = max(1, PIECE // block.weights)
    with np.errstate(all="ignore"):  # scales may be anything
        for low in range(0, len(blocks), step):
            fields = _Fields(blocks[low : low + step], block)
            found = np.ascontiguousarray(rule(fields), np.float32).reshape(fields.count, block.weights)
            units = found.view("<u4").reshape(-1)
            if dtype.name != "F32":
                units = cast_units(units, DTYPES["F32"], dtype)
            out[low : low + step] = units.reshape(found.shape)
    return out.view(dtype.numpy()).reshape(block.shape(packed.shape))


class _Fields:
    """The fields of some blocks: [blocks, fields of a block], by name."""

    def __init__(self, blocks: npt.NDArray[np.uint8], block: Block) -> None:
        self.count = len(blocks)
        self._data = blocks.reshape(-1)
        self._record = block.record
        self._names = block.names

    def __getitem__(self, name: str) -> Array:
        plane = self._names.index(name)
        count = self._record.fields[plane].count
        return cut(self._data, self._record, plane)[: self.count * count].reshape(self.count, count)

    def half(self, name: str) -> Floats:
        """An F16 for each block."""
        low, high = self[f"{name}.low"].astype(np.uint16), self[f"{name}.high"].astype(np.uint16)
        bits = low | high << np.uint16(7) | self[f"{name}.sign"].astype(np.uint16) << np.uint16(15)
        found: Floats = bits.view(np.float16).astype(np.float32)
        return found

    def numbers(self, name: str, less: int = 0) -> Floats:
        return self[name].astype(np.float32) - np.float32(less) if less else self[name].astype(np.float32)

    def each(self, scales: Floats, groups: Floats) -> Floats:
        """A scale for each of equal groups of numbers, multiplied."""
        return scales[:, :, None] * groups.reshape(self.count, scales.shape[1], -1)


def _symmetric(middle: int) -> Callable[[_Fields], Floats]:
    return lambda f: f.half("d") * f.numbers("codes", middle)


def _affine(f: _Fields) -> Floats:
    return (f.half("d") * f.numbers("codes")) + f.half("m")


def _q8_0(f: _Fields) -> Floats:
    return f["codes"].view(np.int8).astype(np.float32) * f.half("d")


def _with_minima(f: _Fields) -> Floats:
    """Q2_K, Q4_K, Q5_K: scales and minima of sub-blocks, themselves scaled."""
    scales, minima = f.half("d") * f.numbers("scales"), f.half("m") * f.numbers("mins")
    found: Floats = f.each(scales, f.numbers("codes")) - minima[:, :, None]
    return found


def _q3_k(f: _Fields) -> Floats:
    return f.each(f.half("d") * f.numbers("scales", 32), f.numbers("codes", 4))


def _q6_k(f: _Fields) -> Floats:
    scales = f["scales"].view(np.int8).astype(np.float32)
    return f.each(f.half("d") * scales, f.numbers("codes", 32))


def _tq1_0(f: _Fields) -> Floats:
    """Five ternary digits to a byte, as a fraction of 256: the leading one of 3^k times it, modulo 256."""
    codes, rest = f["codes"].copy(), f["codes.rest"].copy()
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    parts = [codes[:, None, :32] * powers, codes[:, None, 32:] * powers, rest[:, None, :] * powers[:4]]
    digits = np.concatenate([part.reshape(f.count, -1) for part in parts], axis=1).astype(np.uint16)
    found: Floats = f.half("d") * ((digits * np.uint16(3) >> np.uint16(8)).astype(np.float32) - np.float32(1))
    return found


def _tq2_0(f: _Fields) -> Floats:
    pairs = f["codes"].reshape(f.count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    found: Floats = f.half("d") * (pairs.reshape(f.count, -1).astype(np.float32) - np.float32(1))
    return found


def _mxfp4(f: _Fields) -> Floats:
    e = f["scales"].astype(np.uint32)
    # 2^(e - 128), as the values are doubled; the smallest two are subnormal
    bits = np.where(e < 2, np.uint32(0x00200000) << e, (e - np.uint32(1)) << np.uint32(23))
    found: Floats = bits.view(np.float32) * F4[f["codes"]]
    return found


def _nvfp4(f: _Fields) -> Floats:
    x = f["scales"]
    exponent, mantissa = (x >> 3 & 15).astype(np.float32), (x & 7).astype(np.float32)
    normal = (np.float32(1) + mantissa / np.float32(8)) * np.exp2(exponent - np.float32(7))
    scales = np.where(exponent == 0, mantissa * np.float32(2**-9), normal) * np.float32(0.5)
    return f.each(np.where((x == 0) | (x == 0x7F), np.float32(0), scales), F4[f["codes"]])


def _iq4_nl(f: _Fields) -> Floats:
    return f.half("d") * IQ4[f["codes"]]


def _iq4_xs(f: _Fields) -> Floats:
    return f.each(f.half("d") * f.numbers("scales", 32), IQ4[f["codes"]])


# ---- points of a grid, with signs


def _signs(f: _Fields) -> Floats:
    """Eight for each field; where a field has seven, the eighth makes their number even."""
    bits = f["signs"]
    if f._record.fields[f._names.index("signs")].width == 7:
        parity = bits ^ bits >> 4
        parity ^= parity >> 2
        bits = bits | (parity ^ parity >> 1) << 7
    signs = bits[:, :, None] >> np.arange(8, dtype=np.uint8) & np.uint8(1)
    found: Floats = np.where(signs == 0, np.float32(1), np.float32(-1)).reshape(f.count, -1)
    return found


def _points(f: _Fields, name: str, above: bool) -> Floats:
    codes = f["codes"].astype(np.uint16)
    if above:
        codes |= f["codes.upper"].astype(np.uint16) << np.uint16(8)
    return grid(name)[codes].reshape(f.count, -1)


def _grid_2(name: str, above: bool) -> Callable[[_Fields], Floats]:
    def rule(f: _Fields) -> Floats:
        scales = f.half("d") * (np.float32(0.5) + f.numbers("scales")) * np.float32(0.25)
        return f.each(scales, _points(f, name, above)).reshape(f.count, -1) * _signs(f)

    return rule


def _iq3_xxs(f: _Fields) -> Floats:
    scales = f.half("d") * (np.float32(0.5) + f.numbers("scales")) * np.float32(0.5)
    return f.each(scales, _points(f, "IQ3_XXS", False)).reshape(f.count, -1) * _signs(f)


def _iq3_s(f: _Fields) -> Floats:
    scales = f.half("d") * (np.float32(1) + np.float32(2) * f.numbers("scales"))
    return f.each(scales, _points(f, "IQ3_S", True)).reshape(f.count, -1) * _signs(f)


def _shifted(f: _Fields) -> Floats:
    """IQ1_S, IQ1_M: points moved up or down by an eighth, one move for each of equal groups."""
    scales = f.half("d") * (np.float32(2) * f.numbers("scales") + np.float32(1))
    moves = np.where(f["shifts"] == 0, DELTA, -DELTA)
    points = _points(f, "IQ1_S", True).reshape(f.count, moves.shape[1], -1) + moves[:, :, None]
    return f.each(scales, points)


_RULES: dict[str, Callable[[_Fields], Floats]] = {
    "Q4_0": _symmetric(8), "Q4_1": _affine, "Q5_0": _symmetric(16), "Q5_1": _affine, "Q8_0": _q8_0,
    "Q2_K": _with_minima, "Q3_K": _q3_k, "Q4_K": _with_minima, "Q5_K": _with_minima, "Q6_K": _q6_k,
    "TQ1_0": _tq1_0, "TQ2_0": _tq2_0, "MXFP4": _mxfp4, "NVFP4": _nvfp4,
    "IQ1_S": _shifted, "IQ1_M": _shifted, "IQ2_XXS": _grid_2("IQ2_XXS", False), "IQ2_XS": _grid_2("IQ2_XS", True),
    "IQ2_S": _grid_2("IQ2_S", True), "IQ3_XXS": _iq3_xxs, "IQ3_S": _iq3_s, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip
