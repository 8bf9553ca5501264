"""Our own quantiser: errors that were asked for, sizes, whatever the weights are, and files that read back."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.codecs import trellis
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.grids import float_step
from slimtensors.codecs.place import Place
from slimtensors.dtypes import DTYPES
from slimtensors.errors import UsageError
from slimtensors.expression import Bits, Part, Trellis
from slimtensors.quantise.grid import Grid, Steps
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.sources.inputs import ArrayInput

AS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def weights(rows: int = 50, columns: int = 515, seed: int = 3) -> np.ndarray:
    """With outliers, rows of zeros, and no whole groups at the end of a chunk."""
    rng = np.random.default_rng(seed)
    made = (rng.standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
    made[3], made[5, 7], made[9, ::50] = 0, 4.0, -1.5
    return made


def nmse(source: np.ndarray, found: np.ndarray) -> float:
    x, y = source.astype(np.float64), found.astype(np.float64)
    return float(np.square(x - y).sum() / np.square(x).sum())


def stored(path: Path, name: str) -> float:
    """Bits for each weight."""
    with slimtensors.reading.tensors.open_file(path) as file:
        at = sum(1 + len(t.sides) for t in file.header.tensors[: file.find(name)])
        tensor = file.header.tensors[file.find(name)]
        streams = file.reader.stream_records[at : at + 1 + len(tensor.sides)]
        return 8 * sum(record.stored_length for record in streams) / tensor.units


@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize("error", [1e-5, 0.005, 0.3])
@pytest.mark.parametrize("states", [1, 8])
def test_an_error_is_kept(dtype: str, error: float, states: int, tmp_path: Path) -> None:
    if dtype == "BF16" and error == 1e-5:
        error = 1e-4  # BF16 itself has 3e-6
    array = weights().astype(AS[dtype])
    plain_save({"w": array}, tmp_path / "a.safetensors")
    slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise=Grid("slim", states, error=error))
    found = slimtensors.numpy.load_file(tmp_path / "a")["w"]
    assert found.dtype == array.dtype
    assert 0.85 * error < nmse(array, found) <= error
    with slimtensors.reading.tensors.open_file(tmp_path / "a") as file:
        assert isinstance(file.header.streams[0].expression, Trellis)
        stated = file.header.tensors[0].lossy
    assert stated is not None
    assert stated.nmse == pytest.approx(nmse(array, found), rel=1e-9)
    # No chunk was stored in another way, which would show in its size.
    assert stored(tmp_path / "a", "w") < 1.6 + 0.5 * np.log2(1 / error)
    if error != 0.005:  # the reference decoder takes a second
        return
    again = decode.decode_file((tmp_path / "a").read_bytes())
    assert again.tensors["w"][2] == found.tobytes()


def test_a_trellis_is_worth_a_decibel(tmp_path: Path) -> None:
    array = np.random.default_rng(1).standard_normal((512, 768)).astype(np.float32)
    plain_save({"w": array}, tmp_path / "a.safetensors")
    bits = {}
    for states in (1, 8):
        slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise=Grid("g", states, error=0.01))
        bits[states] = stored(tmp_path / "a", "w")
    # log2(10) = 3.322 by rate-distortion theory; + 0.2546 for a uniform grid
    assert 3.55 < bits[1] < 3.62
    assert bits[8] < bits[1] - 0.14


@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize("states", [1, 8])
def test_levels_that_share_a_number(dtype: str, states: int) -> None:
    """Large levels of narrow dtypes: which level it was is told by what follows."""
    rng = np.random.default_rng(5)
    expression = Trellis(states, int(np.float32(0.01).view(np.uint32)), 8192, Bits((Part(6), Part(8))))
    codes = (8192 + np.clip(rng.standard_cauchy(128 * 40) * 20, -8000, 8000)).astype(np.uint16)
    place = Place(codes.size, 0, (), DTYPES[dtype])
    units = np.empty(codes.size, DTYPES[dtype].unit)
    trellis.decode(expression, codes, units, place)
    chunk = encode_chunk(units, expression, place)
    assert len(chunk) < 1.6 * codes.size
    back = np.empty_like(units)
    aligned = slimtensors.container.source.aligned_empty(len(chunk))
    aligned[:] = np.frombuffer(chunk, np.uint8)
    decode_chunk(aligned, expression, back, place)
    assert np.array_equal(back, units)


@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize("asked", [{"target_error": 1e-4}, {"target_error": 0.01}, {"target_bpw": 3.0}])
def test_classes_of_rows_and_columns(dtype: str, asked: dict[str, float], tmp_path: Path) -> None:
    """Where rows and columns differ, preset `small` knows it; the weights are those of other presets."""
    rng = np.random.default_rng(6)
    spread = np.outer(np.exp2(rng.integers(-2, 3, 150)), np.exp2(rng.integers(-1, 2, 515) / 2))
    array = (rng.standard_normal(spread.shape) * spread).astype(AS[dtype])
    plain_save({"w": array}, tmp_path / "a.safetensors")
    found, bits = {}, {}
    for preset in ("balanced", "small"):
        path = tmp_path / preset
        slimtensors.compress(tmp_path / "a.safetensors", path, quantise="slim", preset=preset, **asked)
        found[preset], bits[preset] = slimtensors.numpy.load_file(path)["w"], stored(path, "w")
    with slimtensors.reading.tensors.open_file(tmp_path / "small") as file:
        assert len(file.header.tensors[0].sides) == 2
        assert isinstance(file.header.streams[2].expression, Trellis)
    with slimtensors.safe_open(tmp_path / "small", framework="np") as opened:
        assert np.array_equal(opened.get_slice("w")[117:119], found["small"][117:119])
    if "target_bpw" in asked:
        assert bits["small"] == pytest.approx(3.0, rel=0.01)
        assert nmse(array, found["small"]) < 0.8 * nmse(array, found["balanced"])
        return
    assert np.array_equal(found["small"], found["balanced"])
    assert bits["small"] < bits["balanced"] - 0.3
    if (dtype, asked) == ("F16", {"target_error": 0.01}):  # the reference decoder takes seconds
        again = decode.decode_file((tmp_path / "small").read_bytes())
        assert again.tensors["w"][2] == found["small"].tobytes()


def test_steps_of_rows_and_columns(tmp_path: Path) -> None:
    """Stored beside the codes; the error is kept, and shared out otherwise."""
    array = np.random.default_rng(2).standard_normal((64, 384)).astype(np.float32)
    columns = np.exp2(np.random.default_rng(3).integers(-2, 3, 384)).astype(np.float32)
    known = {"w": Steps(7.0, np.ones(64, np.float32), columns)}
    plain_save({"w": array}, tmp_path / "a.safetensors")
    cost = []
    for steps in ({}, known):
        grid = Grid("slim", 8, error=0.01, steps=steps)
        slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise=grid)
        found = slimtensors.numpy.load_file(tmp_path / "a")["w"]
        assert nmse(array, found) <= 0.01
        assert decode.decode_file((tmp_path / "a").read_bytes()).tensors["w"][2] == found.tobytes()
        cost.append(float((np.square(found - array) / columns).sum()))
    assert cost[1] < 0.7 * cost[0]


def test_what_has_no_codes() -> None:
    grid = Grid("slim", 8, step=1e-6)
    array = weights()
    array[0, 0] = 1.0  # codes of more than 16 bits
    structure = grid.structure(ArrayInput("w", array))
    assert structure is not None
    assert 2 * float_step(structure.expression) == pytest.approx(np.abs(array).max() / 32000, rel=1e-3)
    assert Grid("slim", 8, error=1e-12).structure(ArrayInput("w", array)) is None
    assert grid.structure(ArrayInput("zeros", array * 0)) is None
    array[1, 1] = np.inf
    with pytest.raises(UsageError, match="'w' cannot be quantised to slim: it has numbers that are not finite"):
        grid.structure(ArrayInput("w", array))


@pytest.mark.parametrize("seed", range(20))
def test_any_weights(seed: int) -> None:
    """Shapes, scales, spreads: what is read is what is near, and says so."""
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 300)), int(rng.integers(1, 400))
    scale = np.float32(10.0 ** rng.integers(-6, 4))
    array = (rng.standard_t(2 + seed % 5, (rows, columns)) * scale).astype(np.float32)
    dtype = list(AS)[seed % 3] if scale > 1e-3 and abs(array).max() < 6e4 else "F32"
    array = array.astype(AS[dtype])
    step = float(np.abs(array.astype(np.float64)).mean() / rng.integers(1, 40))
    tensor = ArrayInput("w", array)
    grid = Grid("slim", [1, 8][seed % 2], step=step)
    structure = grid.structure(tensor)
    if structure is None:
        return
    made = QuantisedInput(tensor, grid, structure, tensor.shape)
    found = made.read(0, array.size).view(array.dtype).reshape(array.shape).astype(np.float64)
    # The nearest allowed level is at most a step away; of a path, a level may be passed over for its neighbours' sake.
    slack = np.abs(array.astype(np.float64)) * 2.0**-8
    assert (np.abs(found - array.astype(np.float64)) <= 2.5 * step + slack).all()
