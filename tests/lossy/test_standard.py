"""The formats that others define: bit for bit what their own libraries give, or what definitions say, run by run."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from slimtensors.detect.lattice import NF4
from slimtensors.dtypes import DTYPES
from slimtensors.kernels.cpu import quantise as kernels
from slimtensors.kernels.status import BAD_ARGUMENT
from slimtensors.quantise.quantiser import Quantised, QuantisedInput
from slimtensors.quantise.recipes import RECIPES
from slimtensors.sources.inputs import ArrayInput

OWN = {"slim", "slim-fast", "lqer"}  # test_grid.py, test_low_rank.py
AS = {name: DTYPES[name].numpy() for name in ("F32", "F16", "BF16")}
F32 = np.float32


def weights(rows: int = 96, columns: int = 768, seed: int = 1) -> np.ndarray:
    """Of several scales, with zeros, equal magnitudes of both signs, ties, and a block of zeros."""
    rng = np.random.default_rng(seed)
    made = (rng.standard_t(5, (rows, columns)) * 2.0 ** rng.integers(-12, 4, (rows, 1))).astype(np.float32)
    made[0, :32] = 0
    made[1, ::2] = 0
    made[2] = np.tile([0.5, -0.5, 0.25, -0.125], columns // 4)
    made[3] = np.tile([-0.5, 0.5, 0.25, -0.125], columns // 4)
    made[4] = rng.integers(-48, 49, columns) / 16
    made[5] = 0
    made[6, ::2] = -0.0
    return made


def quantised(array: np.ndarray, recipe: str) -> np.ndarray:
    tensor = ArrayInput("w", array)
    structure = RECIPES[recipe].structure(tensor)
    assert structure is not None
    made = QuantisedInput(tensor, RECIPES[recipe], structure, tensor.shape)
    return made.read(0, array.size).view(array.dtype).reshape(array.shape)


def bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


GGUF = [(recipe, dtype) for recipe in ("q8_0", "q5_0", "q4_0") for dtype in AS]


@pytest.mark.parametrize(("recipe", "dtype"), [*GGUF, ("mxfp4", "F32")])
def test_gguf(recipe: str, dtype: str) -> None:
    kind = GGMLQuantizationType[recipe.upper()]
    array = weights().astype(AS[dtype])
    if recipe == "mxfp4":
        array[4] = 0  # ties, of which narrower dtypes have many: gguf-py takes the smaller, the specification the even
    with np.errstate(all="ignore"):
        packed = gguf.quants.quantize(array.astype(np.float32), kind)
        theirs = gguf.quants.dequantize(packed, kind).astype(array.dtype)
    assert np.array_equal(bits(quantised(array, recipe)), bits(theirs))


# ---- run by run, as the definitions have it; x: float32, `own`: rounds to the tensor's dtype

Own = Callable[[float], np.float32]


def nf4(x: np.ndarray, _own: Own) -> np.ndarray:
    peak = max(abs(x))
    if peak == 0:
        return x * 0
    inverse = F32(1) / peak
    middles = [(a + b) / F32(2) for a, b in pairwise(NF4)]
    return np.array([NF4[sum(F32(v * inverse) > m for m in middles)] * peak for v in x], np.float32)


def integers(low: int, high: int) -> Callable[[np.ndarray, Own], np.ndarray]:
    def run(x: np.ndarray, own: Own) -> np.ndarray:
        scale = own(max(abs(x)) / F32((high - low) / 2))
        whole = [min(max(round(float(F32(v / scale))), low), high) if scale else 0 for v in x]
        return np.array([F32(n) * scale for n in whole], np.float32)

    return run


def power_of(x: np.ndarray, less: int) -> np.float32:
    """math.frexp gives a mantissa from 0.5 to 1."""
    peak = float(max(abs(x)))
    exponent = math.frexp(peak)[1] - 1 - less if peak else -127
    return F32(math.ldexp(1, max(min(exponent, 127), -127)))


def in_floats(kind: type, largest: float, scale_of: Callable[..., np.float32]) -> Callable[..., np.ndarray]:
    """ml_dtypes rounds to nearest, ties to even."""

    def run(x: np.ndarray, own: Own) -> np.ndarray:
        scale = scale_of(x, own)
        if scale == 0:
            return x * 0
        return np.clip(x / scale, -largest, largest).astype(kind).astype(np.float32) * scale

    return run


def in_e4m3(number: float) -> np.float32:
    return np.float32(np.float32(min(number, 448)).astype(ml_dtypes.float8_e4m3fn))


def nvfp4(array: np.ndarray) -> np.ndarray:
    whole = abs(array).max() / F32(6 * 448)
    out = []
    for run in array.reshape(-1, 16):
        scale = in_e4m3(max(abs(run)) / F32(6) / whole) * whole
        numbers = np.clip(run / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) if scale else run * 0
        out.append(numbers * scale)
    return np.stack(out).reshape(array.shape)


@pytest.mark.parametrize("dtype", AS)
def test_nvfp4(dtype: str) -> None:
    array = weights(64, 384, 4).astype(AS[dtype])
    with np.errstate(all="ignore"):
        want = nvfp4(array.astype(np.float32)).astype(array.dtype)
    found = quantised(array, "nvfp4")
    assert np.array_equal(found.astype(np.float32), want.astype(np.float32))
    assert not quantised(np.zeros_like(array), "nvfp4").any()


def made_by(recipe: str, array: np.ndarray) -> Quantised:
    quantiser, tensor = RECIPES[recipe], ArrayInput("w", array)
    structure = quantiser.structure(tensor)
    assert structure is not None
    return quantiser.quantise(tensor, structure)


def q4_k_blocks(array: np.ndarray) -> np.ndarray:
    """GGUF's blocks of what the quantiser found, for gguf-py to read."""
    made = made_by("q4_k", array)
    _palette, six, d, less, m = (np.asarray(part) for part in made.sides)
    six, d, less, m = (part.view(np.float32) for part in (six, d, less, m))
    steps, offsets = six * np.repeat(d, 8), less * np.repeat(m, 8)
    with np.errstate(all="ignore"):
        x = made.units.view(np.float32).reshape(-1, 32)
        codes = np.rint(np.where(steps == 0, 0, (x - offsets[:, None]).T / steps)).T.astype(np.uint8)
    out = []
    for b in range(d.size):
        part, s, n = codes[8 * b : 8 * b + 8], six[8 * b : 8 * b + 8].astype(int), less[8 * b : 8 * b + 8].astype(int)
        packed = [*(s[:4] | s[4:] >> 4 << 6), *(n[:4] | n[4:] >> 4 << 6), *(s[4:] & 15 | (n[4:] & 15) << 4)]
        halves = np.array([d[b], -m[b]], np.float16).view(np.uint8)
        nibbles = (part[::2] | part[1::2] << 4).reshape(-1)
        out.append(np.concatenate([halves, np.array(packed, np.uint8), nibbles]))
    return np.stack(out).reshape(len(array), -1)


def test_q4_k() -> None:
    """Its numbers are gguf-py's for the same blocks, and nearer to the weights than a scale by extremes gives."""
    array = weights(48, 768, 5)
    array[8:] = np.random.default_rng(6).normal(0, 0.02, (40, 768))
    found = quantised(array, "q4_k")
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(q4_k_blocks(array), GGMLQuantizationType.Q4_K)
    assert np.array_equal(found, theirs)
    parts = array[8:].reshape(-1, 32)
    low = np.minimum(parts.min(-1, keepdims=True), 0)
    step = (parts.max(-1, keepdims=True) - low) / 15
    plain = np.rint((parts - low) / step) * step + low
    assert np.square(found[8:] - array[8:]).sum() < 0.9 * np.square(plain - parts).sum()
    assert not quantised(np.zeros_like(array), "q4_k").any()
    array[::2, 16:] *= np.float32(1e-43)  # less than any F16 in some blocks, and 0 in some runs of these
    array[::2, :64] = 0
    assert np.isfinite(quantised(array, "q4_k")).all()


@pytest.mark.parametrize("dtype", AS)
def test_q4_k_rounds_once_more(dtype: str) -> None:
    array = weights(16, 512, 5).astype(AS[dtype])
    want = quantised(array.astype(np.float32), "q4_k").astype(array.dtype)
    assert np.array_equal(bits(quantised(array, "q4_k")), bits(want))


def bfp6(x: np.ndarray, _own: Own) -> np.ndarray:
    scale = power_of(x, 4)
    return np.array([F32(min(max(round(float(v / scale)), -31), 31)) * scale for v in x], np.float32)


TWINS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "nf4": (64, nf4),
    "int8": (0, integers(-128, 127)),
    "int4": (128, integers(-8, 7)),
    "fp8": (0, in_floats(ml_dtypes.float8_e4m3fn, 448, lambda x, own: own(max(abs(x)) / F32(448)))),
    "mxfp8": (32, in_floats(ml_dtypes.float8_e4m3fn, 448, lambda x, _: power_of(x, 8))),
    "mxfp4": (32, in_floats(ml_dtypes.float4_e2m1fn, 6, lambda x, _: power_of(x, 2))),
    "bfp6": (16, bfp6),
}


@pytest.mark.parametrize("recipe", TWINS)
@pytest.mark.parametrize("dtype", AS)
def test_definitions(recipe: str, dtype: str) -> None:
    array = weights(24, 384, 2).astype(AS[dtype])
    length, twin = TWINS[recipe]

    def own(number: float) -> np.float32:
        return np.float32(np.float32(number).astype(array.dtype))

    runs = array.astype(np.float32).reshape(-1, length or array.shape[1])
    with np.errstate(all="ignore"):
        want = np.stack([twin(run, own) for run in runs]).reshape(array.shape).astype(array.dtype)
    found = quantised(array, recipe)
    wrong = np.flatnonzero(found.astype(np.float32) != want.astype(np.float32))  # zeros have no sign here
    assert not wrong.size, (wrong[:5], found.flat[wrong[:5]], want.flat[wrong[:5]])
    assert not np.signbit(found.astype(np.float32)[found == 0]).any() or recipe == "nf4"


def test_all_are_tested() -> None:
    assert RECIPES.keys() == {"q8_0", "q5_0", "q4_0", "q4_k", "nvfp4", "spqr", *TWINS, *OWN}


ODD = [
    ("q4_0", (64, 48)), ("q4_k", (64, 384)), ("nvfp4", (64, 40)), ("int4", (64, 192)), ("nf4", (63, 33)),
    ("int8", (9, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "shape"), ODD)
def test_rows_of_no_whole_blocks(recipe: str, shape: tuple[int, ...]) -> None:
    assert RECIPES[recipe].structure(ArrayInput("w", np.zeros(shape, np.float32))) is None


def test_runs_across_rows_and_odd_rows() -> None:
    """Blocks of nf4 go on in the next row; rows of int8 need be no multiple of anything."""
    array = weights(64, 40, 3)
    assert quantised(array, "nf4").tobytes() == quantised(array.reshape(40, 64), "nf4").tobytes()
    array = weights(7, 36, 3)[:, :33].copy()
    found = quantised(array, "int8")
    with np.errstate(all="ignore"):
        assert np.array_equal(found, np.stack([integers(-128, 127)(row, F32) for row in array]))


def test_kernels_refuse_lengths_that_disagree() -> None:
    x, scales, codes = np.zeros(64, np.float32), np.zeros(2, np.float32), np.zeros(64, np.uint8)
    for wrong in (0, 31, 64):
        assert kernels.peaks(x, wrong, scales) == BAD_ARGUMENT
    for call in (
        lambda x, s, n, c: kernels.round_away(x, s, n, 127, c),
        lambda x, s, n, c: kernels.round_down(x, s, n, 8.5, 15, c),
        lambda x, s, n, c: kernels.round_even(x, s, n, -8, 7, c),
        lambda x, s, n, c: kernels.nearest(x, s, n, x[:15], c),
        lambda x, s, n, c: kernels.round_floats(x, s, n, 3, 7, 126, 448.0, c),
    ):
        for wrong in ((x[:63], scales, 32, codes), (x, scales, 0, codes), (x, scales, 31, codes)):
            assert call(*wrong) == BAD_ARGUMENT
    assert kernels.round_even(x, scales, 32, -8, 7, codes[:63]) == BAD_ARGUMENT
    for wrong in ((8, 7, 126), (3, 128, 126), (3, 7, 0), (3, 7, 128)):
        assert kernels.round_floats(x, scales, 32, *wrong, 448.0, codes) == BAD_ARGUMENT


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in OWN])
def test_what_is_not_finite_harms_nothing(recipe: str, value: float) -> None:
    array = weights(16, 768)
    array[3, 5] = value
    made_by(recipe, array)
