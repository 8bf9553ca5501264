"""Quantised differences from a base: what is loaded is the base plus what was defined; the base is checked."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file as plain_load
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.cli.main import cli
from slimtensors.errors import BaseError, UsageError
from slimtensors.expression import Sum
from slimtensors.files.comparing import compare

AS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Pair:
    """A model and its fine-tune, in files."""

    def __init__(
        self, folder: Path, dtype: str, base_dtype: str | None = None, shape: tuple[int, int] = (100, 640)
    ) -> None:
        rng = np.random.default_rng(5)
        weights = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        moved = weights + (rng.standard_t(4, weights.shape) * 0.002).astype(np.float32)
        self.base, self.fine = folder / "base.safetensors", folder / "fine.safetensors"
        other = {"bias": np.arange(515, dtype=np.float32), "small": weights[:8, :8]}
        plain_save({"w": weights.astype(AS[base_dtype or dtype]), **other}, self.base)
        plain_save({"w": moved.astype(AS[dtype]), **other, "small": moved[:8, :8]}, self.fine)
        self.out = folder / "fine.slimtensors"

    def difference(self) -> tuple[np.ndarray, np.ndarray]:
        """(F32 of the base's weights in the fine-tune's dtype, F32 of the difference)."""
        fine = plain_load(self.fine)["w"]
        base = plain_load(self.base)["w"].astype(fine.dtype).astype(np.float32)
        return base, fine.astype(np.float32) - base

    def compress(self, recipe: str | None, **options: object) -> np.ndarray:
        slimtensors.compress(self.fine, self.out, base=self.base, quantise=recipe, **options)
        return slimtensors.numpy.load_file(self.out, base=self.base)["w"]

    def error(self, found: np.ndarray) -> float:
        """NMSE of the difference."""
        base, difference = (each.astype(np.float64) for each in self.difference())
        return float(np.square(found.astype(np.float64) - base - difference).sum() / np.square(difference).sum())

    def bits(self) -> float:
        """Of a weight, with its side planes."""
        with slimtensors.reading.tensors.open_file(self.out) as file:
            at = next(i for i, stream in enumerate(file.header.streams) if stream.label.count("'w'"))
            sides = len(file.header.tensors[file.find("w")].sides)
            records = file.reader.stream_records[at : at + 1 + sides]
            return 8 * sum(record.stored_length for record in records) / file.header.tensors[file.find("w")].units


@pytest.mark.parametrize(("dtype", "base"), [("F32", None), ("BF16", None), ("F16", None), ("BF16", "F32")])
def test_signs(dtype: str, base: str | None, tmp_path: Path) -> None:
    pair = Pair(tmp_path, dtype, base, (600, 515) if dtype == "F32" else (100, 515))
    found = pair.compress("bitdelta")
    weights, difference = pair.difference()
    scale = np.float32(np.abs(difference).astype(np.float64).sum() / difference.size)
    np.testing.assert_array_equal(found, (weights + np.where(difference > 0, scale, -scale)).astype(AS[dtype]))
    assert pair.bits() < 1.06  # side planes and the chunk are 400 bytes
    loaded, given = slimtensors.numpy.load_file(pair.out, base=pair.base), plain_load(pair.fine)
    for name in ("bias", "small"):
        np.testing.assert_array_equal(loaded[name], given[name])
    compared = compare(pair.out, pair.fine, base=pair.base)
    assert (compared.lossy, compared.equal) == (1, 2)
    with slimtensors.safe_open(pair.out, framework="numpy", base=pair.base) as file:
        np.testing.assert_array_equal(file.get_slice("w")[7:31, 100:300], found[7:31, 100:300])
    slimtensors.decompress(pair.out, tmp_path / "back", base=pair.base)
    assert plain_load(tmp_path / "back")["w"].tobytes() == found.tobytes()
    if dtype == "F32":  # the reference decoder takes seconds
        return
    known = {decode.digest(array.tobytes()): array.tobytes() for array in plain_load(pair.base).values()}
    again = decode.decode_file(pair.out.read_bytes(), bases=known.get)
    assert again.tensors["w"][2] == found.tobytes()


@pytest.mark.parametrize("dtype", AS)
@pytest.mark.parametrize("recipe", ["slim", "slim-fast", "int4", "nvfp4", "q4_0"])
def test_other_quantisers(recipe: str, dtype: str, tmp_path: Path) -> None:
    pair = Pair(tmp_path, dtype)
    rounding = pair.error(pair.compress(None))
    assert rounding < 1e-12  # the difference itself is rounded
    found = pair.compress(recipe)
    # What rounding to the dtype adds is no quantiser's.
    most = 0.101 if recipe.startswith("slim") else 0.05
    assert 0 < pair.error(found) < most + {"F32": 0, "F16": 0.01, "BF16": 0.1}[dtype]
    with slimtensors.reading.tensors.open_file(pair.out) as file:
        assert any(isinstance(stream.expression, Sum) for stream in file.header.streams)
    assert pair.bits() < 5.2


def test_one_bit_of_ours_is_nearer_than_a_sign(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "F32")
    signs, bits = pair.error(pair.compress("bitdelta")), pair.bits()
    ours = pair.error(pair.compress(None, target_bpw=1.0))
    assert bits == pytest.approx(1, abs=0.04)
    assert pair.bits() == pytest.approx(1, abs=0.01)
    assert ours < 0.85 * signs


def test_commands(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "BF16")

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli, [str(each) for each in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "1 of 3 tensors are quantised (bitdelta)" in run(
        "compress", pair.fine, "--base", pair.base, "--quantise", "bitdelta", "-o", pair.out
    )
    assert "2 tensors are equal, 1 are quantised" in run(
        "verify", pair.out, "--against", pair.fine, "--base", pair.base
    )
    told = run("inspect", "--why", pair.out)
    assert "its base, to which are added numbers from a palette" in told
    assert "base tensors (from base.safetensors)" in told
    run("compress", pair.fine, "--base", pair.base, "--target-bpw", "2", "-o", pair.out, "--force")
    assert "its base, to which are added levels of a uniform grid" in run("inspect", "--why", pair.out)
    run("flatten", pair.out, tmp_path / "flat.slimtensors", "--base", pair.base)
    flat = slimtensors.numpy.load_file(tmp_path / "flat.slimtensors")
    np.testing.assert_array_equal(flat["w"], slimtensors.numpy.load_file(pair.out, base=pair.base)["w"])
    assert "quantised (slim)" in run("inspect", "--why", tmp_path / "flat.slimtensors")


def test_a_size(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "BF16")
    pair.compress("slim", target_size=20_000)
    assert pair.out.stat().st_size == pytest.approx(20_000, rel=0.005)


def test_a_base_is_needed_and_checked(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "BF16")
    pair.compress("bitdelta")
    with pytest.raises(BaseError, match="base"):
        slimtensors.numpy.load_file(pair.out)
    tensors = plain_load(pair.base)
    tensors["w"] = tensors["w"].copy()
    tensors["w"][90, 3] += 1
    with pytest.raises(BaseError, match="digest"):
        slimtensors.numpy.load_file(pair.out, base=tensors)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "F32")
    with pytest.raises(UsageError, match="--base"):
        slimtensors.compress(pair.fine, pair.out, quantise="bitdelta")
    with pytest.raises(UsageError, match="bound"):
        pair.compress("abs=0.001")
    assert not pair.out.exists()
    tensors = plain_load(pair.fine)
    tensors["w"][3, 3] = np.inf
    plain_save(tensors, pair.fine)
    with pytest.raises(UsageError, match="not finite"):
        pair.compress("bitdelta")
    with pytest.raises(UsageError, match="not finite"):
        pair.compress("slim")
    assert not pair.out.exists()


def test_what_equals_its_base_stays_so(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "F32")
    tensors = plain_load(pair.base)
    tensors["v"] = tensors["w"].copy()
    plain_save(tensors, pair.base)
    plain_save({**plain_load(pair.fine), "v": tensors["v"]}, pair.fine)
    pair.compress("bitdelta")
    loaded = slimtensors.numpy.load_file(pair.out, base=pair.base)
    np.testing.assert_array_equal(loaded["v"], tensors["v"])
    with slimtensors.reading.tensors.open_file(pair.out) as file:
        assert file.header.tensors[file.find("v")].lossy is None
