"""Sizes and errors that were asked for."""

from __future__ import annotations

from pathlib import Path

import click
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file as plain_load
from safetensors.numpy import save_file as plain_save

import slimtensors
import slimtensors.numpy
from slimtensors.cli import options
from slimtensors.cli.main import cli
from slimtensors.errors import UsageError
from slimtensors.reading.tensors import open_file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("targets") / "model.safetensors"
    sizes = {"a": (512, 700), "b": (384, 384), "c": (300, 1200)}
    tensors = {name: (rng.standard_t(6, shape) * 0.01).astype(ml_dtypes.bfloat16) for name, shape in sizes.items()}
    tensors["embed"] = rng.standard_normal((500, 256)).astype(np.float32)
    tensors["bias"] = rng.standard_normal(700).astype(np.float32)
    plain_save(tensors, path)
    return path


def bits(path: Path) -> float:
    """Of a quantised weight, as stored in chunks."""
    with open_file(path) as file:
        size = weights = 0
        for stream, record in zip(file.header.streams, file.reader.stream_records, strict=True):
            tensor = next((t for t in file.header.tensors if f"{t.name!r}" in stream.label), None)
            if tensor is not None and tensor.lossy is not None:
                size, weights = size + record.stored_length, weights + tensor.units
    return 8 * size / weights


@pytest.mark.parametrize("recipe", ["slim", "slim-fast"])
@pytest.mark.parametrize("size", [900_000, 1_100_000, 1_400_000])
def test_a_size_is_hit(source: Path, size: int, recipe: str, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "m", quantise=recipe, target_size=size)
    assert 0.995 * size <= (tmp_path / "m").stat().st_size <= size
    with open_file(tmp_path / "m") as file:
        assert {t.name: t.lossy is not None for t in file.header.tensors} == {
            "a": True, "b": True, "bias": False, "c": True, "embed": False,
        }  # fmt: skip


@pytest.mark.parametrize("wanted", [0.5, 2.5, 3.8, 9.0])
def test_bits_are_met(source: Path, wanted: float, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "m", target_bpw=wanted)
    assert bits(tmp_path / "m") == pytest.approx(wanted, rel=0.002 if wanted > 1 else 0.01)
    with open_file(tmp_path / "m") as file:
        steps = {s.expression.step for s in file.header.streams if hasattr(s.expression, "step")}
    assert len(steps) == 1  # the same for all


def test_an_error_is_met(source: Path, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "m", target_error=0.02)
    with open_file(tmp_path / "m") as file:
        errors = [t.lossy.nmse for t in file.header.tensors if t.lossy is not None]
    assert len(errors) == 3
    assert all(0.019 < error <= 0.02 for error in errors)


@pytest.mark.parametrize("recipe", ["slim", "slim-fast", "lqer"])
@pytest.mark.parametrize("scale", [1, 2e-40])
def test_an_error_is_never_exceeded(recipe: str, scale: float, tmp_path: Path) -> None:
    """Of BF16, and of subnormal numbers, whose rounding makes errors jump as steps shrink."""
    rng = np.random.default_rng(3)
    for rows in (200, 200, 200, 1000):
        weights = (rng.standard_normal((rows, 257)).astype(np.float32) * np.float32(scale)).astype(ml_dtypes.bfloat16)
        plain_save({"w": weights}, tmp_path / "t.safetensors")
        slimtensors.compress(tmp_path / "t.safetensors", tmp_path / "m", quantise=recipe, target_error=0.1)
        lossy = slimtensors.inspect(tmp_path / "m").tensors[0].lossy
        assert lossy is not None
        assert 0.05 < lossy.nmse <= 0.1


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_an_error_of_differences_is_never_exceeded(dtype: type, tmp_path: Path) -> None:
    """Sums with the base are rounded again."""
    rng = np.random.default_rng(8)
    base = rng.standard_normal((200, 256)).astype(np.float32).astype(dtype)
    source = (base.astype(np.float32) * (1 + 0.02 * rng.standard_normal(base.shape)).astype(np.float32)).astype(dtype)
    plain_save({"w": base}, tmp_path / "base.safetensors")
    plain_save({"w": source}, tmp_path / "source.safetensors")
    differs = np.square(source.astype(np.float64) - base.astype(np.float64)).sum()
    for asked in (0.1, 0.01, 1e-3):
        slimtensors.compress(
            tmp_path / "source.safetensors", tmp_path / "m", base=tmp_path / "base.safetensors", target_error=asked
        )
        found = slimtensors.numpy.load_file(tmp_path / "m", base=tmp_path / "base.safetensors")["w"]
        error = np.square(found.astype(np.float64) - source.astype(np.float64)).sum() / differs
        assert 0.4 * asked < error <= asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target_size": 100_000}, "what is not quantised takes .*; ask for more, or quantise embeddings too"),
        ({"target_size": 50_000_000}, r"50000000 bytes cannot be had.* 12.0 bits .* it has \d+; ask for less, or"),
        ({"target_error": 1e-9}, "no step keeps an error of 1e-09.*ask for more"),
        ({"target_size": -1}, "a target size of -1 bytes"),
        ({"target_bpw": float("nan")}, "a target of nan bits"),
        ({"target_bpw": 13}, "from 0.1 to 12"),
        ({"target_error": 0}, "a target error"),
        ({"target_error": 0.1, "target_bpw": 4}, "only one of them"),
        ({"target_bpw": 4, "quantise": "q8_0"}, "q8_0 has a size of its own; a target is for slim, slim-fast and lqer"),
    ],
)
def test_refused(source: Path, asked: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        slimtensors.compress(source, tmp_path / "m", **asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("300KB", 300_000), ("300kB", 300_000), ("4gb", 4 * 10**9), ("3.5 GiB", 3584 << 20), ("1k", 1000), ("123", 123)],
)
def test_sizes_as_people_write_them(text: str, expected: int) -> None:
    assert options.size(click.Context(click.Command("x")), click.Option(["--size"]), text) == expected


def test_command(source: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = str(tmp_path / "m.slimtensors")
    done = run(cli, ["compress", str(source), "-o", out, "--target-size", "1.2MB"])
    assert done.exit_code == 0, done.output
    assert 1_194_000 <= Path(out).stat().st_size <= 1_200_000
    assert "3 of 5 tensors are quantised (slim)" in done.output
    assert run(cli, ["verify", out, "--against", str(source)]).exit_code == 0
    for wrong in ("12XB", "1.2.3", "iB", "-4GB"):
        assert run(cli, ["compress", str(source), "--target-size", wrong]).exit_code == 2
    both = [str(source), str(source.with_name("copy.safetensors"))]
    Path(both[1]).write_bytes(source.read_bytes())
    done = run(cli, ["compress", *both, "--target-size", "1MB"])
    assert done.exit_code != 0
    assert not list(source.parent.glob("*.slimtensors"))


def test_what_is_there_twice_takes_nothing(source: Path, tmp_path: Path) -> None:
    tensors = plain_load(source)
    plain_save(tensors | {"tied": tensors["a"]}, tmp_path / "t.safetensors")
    for size in (600_000, 900_000):
        slimtensors.compress(tmp_path / "t.safetensors", tmp_path / "m", target_size=size, embeddings=True)
        assert 0.995 * size <= (tmp_path / "m").stat().st_size <= size
    slimtensors.compress(tmp_path / "t.safetensors", tmp_path / "m", target_bpw=3.0, embeddings=True)
    assert bits(tmp_path / "m") == pytest.approx(3.0, rel=0.01)


def far_out(tmp_path: Path, number: float) -> Path:
    """Two matrices that are alike but for one number."""
    rng = np.random.default_rng(5)
    tensors = {name: (rng.standard_normal((256, 256)) * 0.02).astype(np.float32) for name in "wz"}
    tensors["w"][0, 9] = number
    plain_save(tensors, tmp_path / "far.safetensors")
    return tmp_path / "far.safetensors"


@pytest.mark.parametrize(("number", "wanted"), [(40, 3.0), (40, 8.0), (200, 3.0)])
def test_a_number_far_out_coarsens_no_other_tensor(number: float, wanted: float, tmp_path: Path) -> None:
    slimtensors.compress(far_out(tmp_path, number), tmp_path / "m", target_bpw=wanted)
    assert bits(tmp_path / "m") == pytest.approx(wanted, rel=0.01)
    with open_file(tmp_path / "m") as file:
        errors = {t.name: t.lossy.nmse for t in file.header.tensors if t.lossy is not None}
    assert set(errors) == {"w", "z"}  # codes reach it
    assert errors["z"] < 1.5 * 2 ** (-2 * wanted)  # of a Gaussian


@pytest.mark.parametrize("number", [1000, 3e38])
@pytest.mark.parametrize("asked", [{"target_bpw": 8.0}, {"target_size": 131_000}])
def test_a_number_that_codes_do_not_reach_is_told_of(number: float, asked: dict, tmp_path: Path) -> None:
    source = far_out(tmp_path, number)
    with pytest.raises(UsageError, match=r"tensor 'w' has a number so far out .* keep it as it is with --keep"):
        slimtensors.compress(source, tmp_path / "m", **asked)
    slimtensors.compress(source, tmp_path / "m", target_bpw=8, keep=["w"])
    assert bits(tmp_path / "m") == pytest.approx(8, rel=0.01)


def test_bits_that_cannot_be_had(tmp_path: Path) -> None:
    source = far_out(tmp_path, 40)
    with pytest.raises(UsageError, match=r"12 bits .* cannot be had .* found are 1\d\.\d\d: ask for these, or"):
        slimtensors.compress(source, tmp_path / "m", target_bpw=12)
    assert not (tmp_path / "m").exists()


def test_a_size_is_never_exceeded(tmp_path: Path) -> None:
    """Of small files, whose lengths go by 64 bytes."""
    rng = np.random.default_rng(74)
    for i in range(3):
        shape = 128 + 72 * i, 256
        tensors = {n: (rng.standard_normal(shape) * s).astype(np.float16) for n, s in (("w", 0.02), ("z", 1))}
        plain_save(tensors, tmp_path / "small.safetensors")
        for size in range(20_000, 21_000, 130):
            slimtensors.compress(tmp_path / "small.safetensors", tmp_path / "m", target_size=size)
            assert 0.99 * size <= (tmp_path / "m").stat().st_size <= size


def test_the_nearest_below_is_taken_and_told_of(tmp_path: Path) -> None:
    """No step makes more of these: codes have 16 bits, and one number is far out."""
    source, out = far_out(tmp_path, 40), str(tmp_path / "m.slimtensors")
    with pytest.raises(UsageError, match="no file of 190000 bytes was found, or a little less; the nearest") as told:
        slimtensors.compress(source, out, target_size=190_000)
    most = int(str(told.value).split()[-3])
    size = int(most * 1.02)
    done = CliRunner().invoke(cli, ["compress", str(source), "-o", out, "--target-size", str(size)])
    assert done.exit_code == 0, done.output
    length = Path(out).stat().st_size
    assert 0.95 * size <= length < 0.995 * size
    assert f"{length} bytes, {100 * (size - length) / size:.2f} % less than asked for" in done.output
