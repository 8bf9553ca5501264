"""lqer: a grid beside a product of low rank, where that makes less; its factors against singular vectors by NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
from slimtensors.cli.main import cli
from slimtensors.cli.why import explain
from slimtensors.errors import UsageError
from slimtensors.expression import Expression, Sum, Trellis
from slimtensors.quantise.grid import Steps
from slimtensors.quantise.low_rank import LQER, Product, Rest, find_product
from slimtensors.quantise.recipes import RECIPES, grid_of
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import ArrayInput

AS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
RANK = 5


def weights(dtype: str = "F32", shape: tuple[int, int] = (512, 640), along: float = 0.25) -> np.ndarray:
    """Noise, and a product of low rank with a good part of its squares."""
    rng = np.random.default_rng(11)
    left, right = rng.standard_normal((shape[0], RANK)), rng.standard_normal((RANK, shape[1]))
    made = rng.standard_normal(shape) + left @ right * math.sqrt(along / RANK)
    return (0.02 * made).astype(np.float32).astype(AS[dtype])


def product_of(array: np.ndarray, recipe: LQER | None = None) -> Product | None:
    found = recipe or RECIPES["lqer"]
    assert isinstance(found, LQER)
    tensor = ArrayInput("w", array)
    return find_product(tensor, found.grid.look(tensor), found.grid)


def expression_of(path: Path) -> Expression:
    with open_file(path) as file:
        return file.header.streams[-1].expression


def test_the_product_is_about_the_best_of_its_rank() -> None:
    array = weights()
    product = product_of(array)
    assert product is not None
    assert product.rank == RANK
    rest = Rest(ArrayInput("w", array), product).read(0, array.size).view(np.float32).astype(np.float64)
    left, right = (each.view("<i2").astype(np.int64) for each in (product.left, product.right))
    made = (left @ right).astype(np.float32) * np.float32(2.0**-product.shift)
    np.testing.assert_array_equal(rest.reshape(array.shape), (array - made).astype(np.float64))
    values = np.linalg.svd(array.astype(np.float64), compute_uv=False)
    # Coarse factors, whose rounding adds about 1.2 of what is left for each number of theirs, but for dead zones.
    rounded = 1 + 1.5 * RANK * sum(array.shape) / array.size
    assert np.square(rest).sum() < rounded * np.square(values[RANK:]).sum()


@pytest.mark.parametrize("dtype", AS)
def test_files(dtype: str, tmp_path: Path) -> None:
    array = weights(dtype)
    source, out = tmp_path / "a.safetensors", tmp_path / "a"
    plain_save({"w": array}, source)
    sizes = {}
    for recipe in ("slim", "lqer"):
        slimtensors.compress(source, out, quantise=recipe)
        sizes[recipe] = out.stat().st_size
        found = slimtensors.numpy.load_file(out)["w"]
        wide = array.astype(np.float64)
        assert np.square(found.astype(np.float64) - wide).sum() <= 0.005 * np.square(wide).sum()
    assert sizes["lqer"] < 0.99 * sizes["slim"]
    expression = expression_of(out)
    assert isinstance(expression, Sum)
    assert isinstance(expression.values, Trellis)
    compared = slimtensors.compare(out, source)
    assert (compared.lossy, compared.equal) == (1, 0)
    with slimtensors.safe_open(out, framework="numpy") as file:
        np.testing.assert_array_equal(file.get_slice("w")[17:40, 3:99], found[17:40, 3:99])
    assert "a product of two small matrices, to which are added levels" in str(explain(out)["w"])


def test_the_reference_decoder_gives_the_same(tmp_path: Path) -> None:
    array = weights("BF16", (256, 200), along=2)
    plain_save({"w": array}, tmp_path / "a.safetensors")
    slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise="lqer")
    assert isinstance(expression_of(tmp_path / "a"), Sum)
    found = slimtensors.numpy.load_file(tmp_path / "a")["w"]
    assert decode.decode_file((tmp_path / "a").read_bytes()).tensors["w"][2] == found.tobytes()


def test_where_none_pays_it_is_slim(tmp_path: Path) -> None:
    arrays = {"even": weights(along=0), "long": weights(shape=(32, 1024)), "zeros": np.zeros((128, 256), np.float32)}
    for name, array in arrays.items():
        assert product_of(array) is None, name
        plain_save({"v": weights(shape=(128, 128), along=0), "w": array}, tmp_path / "a.safetensors")
        for recipe in ("slim", "lqer"):
            slimtensors.compress(tmp_path / "a.safetensors", tmp_path / recipe, quantise=recipe)
        np.testing.assert_array_equal(*(slimtensors.numpy.load_file(tmp_path / each)["w"] for each in ("slim", "lqer")))


def test_targets(tmp_path: Path) -> None:
    array = weights()
    source, out = tmp_path / "a.safetensors", tmp_path / "a"
    plain_save({"w": array, "v": weights(shape=(256, 512), along=0)}, source)
    errors = {}
    for recipe in ("slim", "lqer"):
        slimtensors.compress(source, out, quantise=recipe, target_size=200_000)
        assert out.stat().st_size == pytest.approx(200_000, rel=0.005)
        assert isinstance(expression_of(out), Sum) == (recipe == "lqer")
        errors[recipe] = np.square(slimtensors.numpy.load_file(out)["w"] - array).mean()
    assert errors["lqer"] < 0.95 * errors["slim"]
    slimtensors.compress(source, out, quantise="lqer", target_bpw=3)
    assert 8 * out.stat().st_size / (array.size + (1 << 17)) == pytest.approx(3, rel=0.02)
    slimtensors.compress(source, out, quantise="lqer", target_error=0.3)
    found = expression_of(out)
    assert isinstance(found, Sum)
    assert isinstance(found.values, Trellis)
    assert found.values.states == 1


def test_importance(tmp_path: Path) -> None:
    """Rows and columns that count more are nearer; the product is of the weights over their steps."""
    array = weights()
    rng = np.random.default_rng(3)
    importance = {"w.rows": np.exp2(rng.integers(0, 6, 512)) * 1.0, "w.columns": np.exp2(rng.integers(0, 8, 640)) * 1.0}
    source, out = tmp_path / "a.safetensors", tmp_path / "a"
    plain_save({"w": array}, source)
    slimtensors.compress(source, out, quantise="lqer", importance=importance)
    expression = expression_of(out)
    assert isinstance(expression, Sum)
    assert isinstance(expression.values, Trellis)
    assert (expression.values.rows, expression.values.columns) == (0, 1)
    found = slimtensors.numpy.load_file(out)["w"]
    assert slimtensors.compare(out, source).lossy == 1
    errors = np.square(found - array)
    for axis, name in enumerate(importance):
        counts = importance[name]
        means = errors.mean(1 - axis)
        assert means[counts == counts.min()].mean() > 3 * means[counts == counts.max()].mean()
    # A product of weights whose rows and columns differ in size is found where steps make them alike.
    rows, columns = (np.exp2(rng.integers(-1, 2, size)).astype(np.float32) for size in array.shape)
    array = weights(along=1)
    stretched = array * np.outer(rows, columns)
    lqer = RECIPES["lqer"]
    assert isinstance(lqer, LQER)
    grid = grid_of(lqer)
    assert grid is not None
    steps = LQER(grid.__class__("lqer", 8, error=0.005, steps={"w": Steps(1.0, rows, columns)}))
    product = product_of(stretched, steps)
    assert product is not None
    rest = Rest(ArrayInput("w", stretched), product).read(0, array.size).view(np.float32).reshape(array.shape)
    assert np.square(rest / np.outer(rows, columns)).sum() < 0.6 * np.square(array).sum()


def test_small_gives_classes_where_there_is_no_product(tmp_path: Path) -> None:
    array = weights(shape=(512, 512), along=0) * np.exp2(np.arange(512) % 5)[:, None].astype(np.float32)
    plain_save({"v": weights(along=1), "w": array}, tmp_path / "a.safetensors")
    slimtensors.compress(tmp_path / "a.safetensors", tmp_path / "a", quantise="lqer", preset="small")
    with open_file(tmp_path / "a") as file:
        of = {file.header.tensors[i].name: file.header.tensors[i] for i in range(2)}
        expressions = [stream.expression for stream in file.header.streams]
    assert any(isinstance(each, Sum) for each in expressions)
    assert any(isinstance(each, Trellis) and each.bits.contexts for each in expressions)
    assert [len(of[name].sides) for name in ("v", "w")] == [2, 2]


def test_commands(tmp_path: Path) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "a.slimtensors"
    plain_save({"w": weights()}, source)

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli, [str(each) for each in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert "1 of 1 tensors are quantised (lqer)" in run("compress", source, "--quantise", "lqer")
    assert "a product of two small matrices" in run("inspect", "--why", out)
    assert "1 are quantised" in run("verify", out, "--against", source)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    base, fine = tmp_path / "base.safetensors", tmp_path / "fine.safetensors"
    plain_save({"w": weights(along=0)}, base)
    plain_save({"w": weights()}, fine)
    with pytest.raises(UsageError, match="take slim"):
        slimtensors.compress(fine, tmp_path / "a", base=base, quantise="lqer")
    broken = weights()
    broken[3, 5] = np.nan
    plain_save({"w": broken}, fine)
    with pytest.raises(UsageError, match="'w' cannot be quantised to lqer"):
        slimtensors.compress(fine, tmp_path / "a", quantise="lqer")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("size", [1e-44, 1e-41, 1e-38, 1e-30])
def test_numbers_too_small_for_a_product(tmp_path: Path, size: float) -> None:
    """Warnings are errors; and the error asked for is kept, by the grid alone."""
    array = weights(shape=(200, 256)) / np.float32(0.02) * np.float32(size)
    assert product_of(array) is None
    plain_save({"w": array}, tmp_path / "plain.safetensors")
    slimtensors.compress(tmp_path / "plain.safetensors", tmp_path / "x", quantise="lqer", target_error=0.05)
    found = slimtensors.numpy.load_file(tmp_path / "x")["w"].astype(np.float64)
    assert ((found - array) ** 2).sum() <= 0.05 * (array.astype(np.float64) ** 2).sum()
