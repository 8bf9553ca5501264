"""spqr: which weights stand apart, what they are kept as, and files that read back."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.cli.why import explain
from slimtensors.codecs.chunk import decode_chunk, encode_chunk
from slimtensors.codecs.place import Place
from slimtensors.dtypes import DTYPES
from slimtensors.expression import Sparse
from slimtensors.quantise.outliers import SpQR
from slimtensors.quantise.quantiser import Quantised, QuantisedInput
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput

AS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def weights(dtype: str, outliers: float = 0.004) -> np.ndarray:
    """Most of one size, some 40 times as large."""
    rng = np.random.default_rng(7)
    made = (rng.standard_normal((96, 320)) * 0.02).astype(np.float32)
    made[rng.random(made.shape) < outliers] *= 40
    return made.astype(AS[dtype])


def quantised(array: np.ndarray) -> tuple[QuantisedInput, Quantised]:
    tensor = ArrayInput("w", array)
    structure = SpQR().structure(tensor)
    assert structure is not None
    made = QuantisedInput(tensor, SpQR(), structure, tensor.shape)
    return made, made.made


def plainly(array: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """What the others become by the definition, run by run, in F32."""
    wide = array.astype(np.float32).reshape(-1, 16)
    rest = np.where(apart.reshape(wide.shape), np.float32(0), wide)
    low, high = rest.min(1), rest.max(1)
    scales, minima = (high - low) / np.float32(7), -low
    out = np.empty_like(wide)
    for block in range(0, len(wide), 16):
        here = slice(block, block + 16)
        d, m = (np.float32(np.float16(each[here].max() / np.float32(15))) for each in (scales, minima))
        for r in range(block, block + 16):
            scale = np.rint(scales[r] / d) * d if d else np.float32(0)
            least = np.rint(minima[r] / m) * -m if m else np.float32(0)
            code = np.clip(np.rint((wide[r] - least) / scale), 0, 7) if scale else np.zeros(16, np.float32)
            out[r] = (code * scale).astype(np.float32) + least
    return out.reshape(array.shape)


@pytest.mark.parametrize("dtype", AS)
def test_definition(dtype: str) -> None:
    array = weights(dtype)
    made, found = quantised(array)
    assert found.numbers is not None
    apart = (found.units != found.numbers).reshape(array.shape)
    large = abs(array.astype(np.float32)) > 0.3
    assert apart[large].mean() > 0.97  # one beside another in its 16 may not pay
    assert apart[~large].mean() < 0.005
    numbers = found.units.view(AS[dtype]).reshape(array.shape)
    kept = array.astype(ml_dtypes.bfloat16).astype(AS[dtype]) if dtype == "F32" else array
    np.testing.assert_array_equal(numbers[apart], kept[apart])
    np.testing.assert_array_equal(numbers[~apart], plainly(array, apart).astype(AS[dtype])[~apart])
    assert isinstance(made.structure.expression, Sparse)


@pytest.mark.parametrize("dtype", AS)
def test_files(dtype: str, tmp_path: Path) -> None:
    array = weights(dtype)
    plain_save({"w": array}, tmp_path / "a.safetensors")
    slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise="spqr")
    assert (tmp_path / "a").stat().st_size * 8 < 4.9 * array.size
    found = slimtensors.numpy.load_file(tmp_path / "a")["w"]
    assert found.tobytes() == quantised(array)[1].units.tobytes()
    assert slimtensors.compare(tmp_path / "a", tmp_path / "a.safetensors").lossy == 1
    with slimtensors.safe_open(tmp_path / "a", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_slice("w")[17:40, 3:99], found[17:40, 3:99])
    with open_file(tmp_path / "a") as file:
        assert isinstance(file.header.streams[-1].expression, Sparse)
        assert file.reader.front_of(len(file.header.streams) - 1, 0, 16)[0] == 2  # planes
    assert "a mask says which numbers are kept apart from these" in str(explain(tmp_path / "a")["w"])
    if dtype == "BF16":  # the reference decoder takes seconds
        assert decode.decode_file((tmp_path / "a").read_bytes()).tensors["w"][2] == found.tobytes()


def test_outliers_pay_where_tails_are_heavy() -> None:
    """Beside the same codes with none apart, the error is a small part."""
    array = weights("F32")
    _made, found = quantised(array)
    error = float(np.square(found.units.view(np.float32) - array.reshape(-1)).mean())
    without = plainly(array, np.zeros(array.shape, bool))
    assert error < 0.2 * float(np.square(without - array).mean())
    _made, even = quantised(weights("F32", 0))
    assert (even.units != even.numbers).mean() < 0.01


def test_a_chunk_whose_numbers_are_not_known_is_literal() -> None:
    made, found = quantised(weights("F32"))
    expression = made.structure.expression
    assert isinstance(expression, Sparse)
    place = Place(found.units.size, 0, tuple(found.sides), DTYPES["F32"])
    assert encode_chunk(found.units, expression, place)[0] == 0
    chunk = np.frombuffer(encode_chunk(found.units, expression, place._replace(numbers=found.numbers)), np.uint8)
    assert chunk[0] == 2
    out = np.empty_like(found.units)
    decode_chunk(chunk, expression, out, place)
    np.testing.assert_array_equal(out, found.units)
