"""Tensors that hide codes: palettes, scaled palettes, decimals. Found, small, and back bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_safetensors

import slimtensors
from api.made import same, weights
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.detect import lattice
from slimtensors.dtypes import DTYPES, units_of
from slimtensors.expression import Decimal, Gather, Mul, bits
from slimtensors.numpy import load, save
from slimtensors.planning.planner import make_plan
from slimtensors.sources.inputs import ArrayInput

Array = Any
BF16 = ml_dtypes.bfloat16
W = weights(np.random.default_rng(5), 384, 768)


def int8(table: int = 127) -> Array:
    scale = np.abs(W).max(1, keepdims=True) / np.float32(table)
    return np.rint(W / scale).astype(np.int16).astype(np.float32) * scale


def int4(group: int = 128) -> Array:
    blocks = W.reshape(-1, group)
    scale = (np.abs(blocks).max(1, keepdims=True) / np.float32(7)).astype(BF16)
    codes = np.clip(np.rint(blocks / scale.astype(np.float32)), -8, 7).astype(np.int8)
    return (codes.astype(BF16) * scale).reshape(W.shape)


def int4_zero(group: int = 128) -> Array:
    """With a zero point for each group: a range of 16, somewhere around 0."""
    blocks = W.reshape(-1, group)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    scale = ((high - low) / np.float32(15)).astype(np.float16)
    zero = np.clip(np.rint(-low / scale.astype(np.float32)), 0, 15)
    codes = np.clip(np.rint(blocks / scale.astype(np.float32)) + zero, 0, 15) - zero
    return ((codes + 0.0).astype(np.float16) * scale).reshape(W.shape)


def nf4() -> Array:
    blocks = W.reshape(-1, 64)
    scale = np.abs(blocks).max(1, keepdims=True)
    codes = np.abs((blocks / scale)[..., None] - lattice.NF4).argmin(-1)
    return (lattice.NF4[codes] * scale).astype(BF16).reshape(W.shape)


def ternary() -> Array:
    scale = np.abs(W).mean()
    return (np.clip(np.rint(W / scale), -1, 1).astype(np.int8).astype(np.float32) * scale).astype(BF16)


def e4m3() -> Array:
    scale = np.abs(W).max(1, keepdims=True) / np.float32(448)
    return ((W / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale).astype(BF16)


CASES: dict[str, tuple[Callable[[], Array], float]] = {
    "int8 in F32": (int8, 7.5),
    "int8 in BF16": (lambda: int8().astype(BF16), 7.5),
    "int4 in BF16": (int4, 3.6),
    "int4 with zero points in F16": (int4_zero, 4.1),
    "NF4 in BF16": (nf4, 4.3),
    "ternary in BF16": (ternary, 1.7),
    "E4M3 in BF16": (e4m3, 6.9),
    "decimals in F32": (lambda: np.round(W, 4), 11.5),
    "decimals in F64": (lambda: np.round(W.astype(np.float64), 4), 11.5),
    "few integers": (lambda: np.array([-5, 1 << 40, 7])[np.random.default_rng(1).integers(0, 3, (300, 300))], 1.7),
}


@pytest.mark.parametrize("name", CASES)
def test_found(name: str) -> None:
    make, most = CASES[name]
    array = np.ascontiguousarray(make())
    data = save({"x": array})
    assert same(load(data)["x"], array)
    (tensor,) = slimtensors.inspect(data).tensors
    assert tensor.bits_per_weight < most, tensor
    with slimtensors.safe_open(data) as file:
        assert same(file.get_slice("x")[17:203], array[17:203])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.0, 0.0123456])
def test_what_breaks_a_plan_comes_back(name: str, wrong: float) -> None:
    array = np.array(CASES[name][0]())
    if array.dtype.kind == "i":
        wrong = 12345
    array.reshape(-1)[[5, 70_001]] = wrong
    assert same(load(save({"x": array}))["x"], array)


def test_progress_while_scales_are_looked_for(tmp_path: Path) -> None:
    array = np.tile(int8(), (8, 1))
    save_safetensors({"x": array}, tmp_path / "x.safetensors")
    told: list[int] = []
    slimtensors.compress(tmp_path / "x.safetensors", tmp_path / "x.slimtensors", progress=told.append, self_check=False)
    # Half of each Mi of weights, before the first chunk of them is written; the palette may be, by another thread.
    assert [each for each in told if each > 256][:2] == [1365 * 768 * 2] * 2
    assert array.nbytes <= sum(told) < 1.01 * array.nbytes


def test_nothing_is_found_in_noise() -> None:
    for dtype in (np.float32, BF16, np.float16, np.float64):
        (tensor,) = slimtensors.inspect(save({"x": W.astype(dtype)})).tensors
        assert "bits" in tensor.expression[:4], tensor


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from(["F32", "BF16", "F16"]), st.sampled_from(["I8", "I16", "F32"]),
    st.sampled_from([8, 16, 100, 400]),
)  # fmt: skip
def test_any_scales_and_palettes(seed: int, dtype: str, entries: str, length: int) -> None:
    """Encoding is decoding backwards, for scales of any size and products that overflow or vanish."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    kind = {"I8": np.int8, "I16": np.int16, "F32": np.float32}[entries]
    palette = (rng.standard_normal(size) * 10.0 ** rng.integers(0, 3)).astype(kind)
    scales = (np.float32(2.0) ** rng.integers(-140, 110, 800 // length)).astype(np.float32)
    scales *= rng.choice([-1.5, 1, 0.3, 1.1], scales.size).astype(np.float32)
    codes = rng.integers(0, size, 800)
    with np.errstate(over="ignore", under="ignore"):
        numbers = palette.astype(np.float32)[codes] * np.repeat(scales, length)
        units = units_of(numbers.astype(DTYPES[dtype].numpy()), DTYPES[dtype])
    sides = (palette.view(f"u{palette.itemsize}"), scales.view(np.uint32))
    place = Place(800, 0, sides, DTYPES[dtype])
    out = np.empty_like(units)
    stored = encode_chunk(units, Mul(Gather(0, bits(6)), 1), place)
    decode_chunk(np.frombuffer(bytearray(stored), np.uint8), Mul(Gather(0, bits(6)), 1), out, place)
    assert (out == units).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["F64", "F32", "BF16", "F16"]), st.integers(0, 22))
def test_any_decimals(seed: int, dtype: str, power: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = np.round(rng.standard_normal(300), min(power, 12)) * 10.0 ** -int(rng.integers(0, 3))
    units = units_of(numbers.astype(DTYPES[dtype].numpy()), DTYPES[dtype])
    expression, place = Decimal(power, bits(16)), Place(300, 0, (), DTYPES[dtype])
    out = np.empty_like(units)
    stored = encode_chunk(units, expression, place)
    decode_chunk(np.frombuffer(bytearray(stored), np.uint8), expression, out, place)
    assert (out == units).all()


def test_palettes_for_runs() -> None:
    rng = np.random.default_rng(6)
    palettes = rng.integers(0, 1 << 16, (4, 9)).astype(np.uint16)
    codes = rng.integers(0, 9, (4, 250))
    units = np.take_along_axis(palettes, codes, 1).reshape(-1)[130:900].copy()
    place, expression = Place(1000, 130, (palettes,), DTYPES["BF16"]), Gather(0, bits(4))
    stored = encode_chunk(units, expression, place)
    assert len(stored) < units.nbytes / 2
    out = np.empty_like(units)
    decode_chunk(np.frombuffer(bytearray(stored), np.uint8), expression, out, place)
    assert (out == units).all()


def test_runs_far_longer_than_a_chunk() -> None:
    units = np.tile(np.array([0x3F80, 0x4000, 0xBF80, 0x4000], np.uint16), 100)
    sides = (np.array([1, 2, -1], np.int8).view(np.uint8), np.array([1], np.float32).view(np.uint32))
    expression, out = Mul(Gather(0, bits(2)), 1), np.empty_like(units)
    place = Place(1 << 45, 1 << 44, sides, DTYPES["BF16"])
    stored = encode_chunk(units, expression, place)
    assert len(stored) < units.nbytes
    decode_chunk(np.frombuffer(bytearray(stored), np.uint8), expression, out, place)
    assert (out == units).all()


def test_rows_with_trailing_zeros_of_a_lattice() -> None:
    array = int8()
    array[::3] = (np.float32(0.001) * np.float32(1024) * np.rint(W[::3] * 900)).astype(np.float16)
    assert same(load(save({"x": array}))["x"], array)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64"])
def test_a_sign_that_is_never_set_takes_nothing(dtype: str) -> None:
    made = np.square(W[:300]) * np.float32(1000)
    made = (made + 1j * made).astype(dtype) if dtype == "complex64" else made.astype(dtype)
    data, negated = save({"v": made}), save({"v": made * W[:300].astype(dtype)})
    assert same(load(data)["v"], made)
    assert len(data) < len(negated) - 0.9 * made.size / 8
    made.reshape(-1)[100_001] *= -1  # where no sample is taken
    assert same(load(save({"v": made}))["v"], made)


@pytest.mark.parametrize("rows", [200, 600, 1024, 1100, 5000])
def test_rows_with_trailing_zeros(rows: int) -> None:
    """Found however many rows there are, of which some are looked at; none where they are too few to gain by."""
    made = np.random.default_rng(rows).standard_normal((rows, 512)).astype(np.float32)
    units = made.view(np.uint32)
    chosen = np.random.default_rng(1).permutation(rows)[: rows // 20]
    units[chosen] &= np.uint32(0xFFFFF000)
    (why,) = make_plan([ArrayInput("x", made)]).reasons
    assert why.startswith("the last 12 bits are zero in ")
    assert same(load(save({"x": made}))["x"], made)
    units[chosen[1:]] |= np.uint32(1)
    assert make_plan([ArrayInput("x", made)]).reasons == ["F32 fields"]
