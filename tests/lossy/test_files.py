"""Lossy files: what they state, what they never claim, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file as plain_load
from safetensors.numpy import save_file as plain_save

import decode
import slimtensors
import slimtensors.numpy
import slimtensors.torch
from slimtensors.cli.main import cli
from slimtensors.detect.codes import Structure, codes
from slimtensors.errors import ChecksumError, UsageError
from slimtensors.expression import Gather
from slimtensors.quantise.quantiser import Quantised, side
from slimtensors.quantise.recipes import RECIPES
from slimtensors.sources.inputs import Input

BF16 = ml_dtypes.bfloat16


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    matrix = rng.normal(0, 0.05, (160, 1024)).astype(np.float32)
    return {
        "layer.0.weight": matrix,
        "layer.0.bias": rng.normal(0, 1, 160).astype(np.float32),
        "layer.1.weight": rng.normal(0, 0.02, (256, 512)).astype(BF16),
        "layer.2.weight": matrix.copy(),
        "layer.3.weight": rng.normal(0, 0.02, (300, 416)).astype(np.float16),
        "embed_tokens.weight": rng.normal(0, 1, (512, 64)).astype(BF16),
        "odd.weight": rng.normal(0, 1, (999, 17)).astype(np.float32),
        "small.weight": rng.normal(0, 1, (32, 32)).astype(np.float32),
        "ids": np.arange(512),
    }


LOSSY = {"layer.0.weight", "layer.1.weight", "layer.2.weight", "layer.3.weight"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lossy") / "model.safetensors"
    plain_save(tensors(), path, {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def made(source: Path) -> Path:
    slimtensors.compress(source, source.with_suffix(".slimtensors"), quantise="q8_0", threads=2)
    return source.with_suffix(".slimtensors")


def test_what_is_stated(source: Path, made: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    report, arrays, exact = slimtensors.inspect(made), slimtensors.numpy.load_file(made), tensors()
    assert (report.lossy_source, report.source) == (digest, None)
    assert {tensor.name for tensor in report.tensors if tensor.lossy} == LOSSY
    assert arrays.keys() == exact.keys()
    for tensor in report.tensors:
        want, found = exact[tensor.name], arrays[tensor.name]
        assert found.dtype == want.dtype
        if tensor.lossy is None:
            assert found.tobytes() == want.tobytes()
            continue
        x, y = want.astype(np.float64).reshape(-1), found.astype(np.float64).reshape(-1)
        assert tensor.lossy.recipe == "q8_0"
        assert tensor.lossy.max == abs(x - y).max() > 0
        assert tensor.lossy.nmse == pytest.approx(np.square(x - y).sum() / np.square(x).sum(), rel=1e-12)
        assert tensor.lossy.nmse < 1e-4
    again = next(tensor for tensor in report.tensors if tensor.name == "layer.2.weight")
    assert again.expression == "= layer.0.weight"


def test_the_reference_decoder_agrees(source: Path, made: Path) -> None:
    """What it decodes and what errors it computes, in plain Python."""
    file, exact = decode.decode_file(made.read_bytes()), tensors()
    assert file.source == hashlib.sha256(source.read_bytes()).hexdigest()
    assert file.image is None
    arrays = slimtensors.numpy.load_file(made)
    for name, (_dtype, _shape, data) in file.tensors.items():
        assert data == arrays[name].tobytes()
        if name in LOSSY:
            both = [each[name].astype(np.float64).reshape(-1).tolist() for each in (exact, arrays)]
            assert file.lossy[name][1:] == decode.errors(*both)


def test_one_way_to_make_it(source: Path, made: Path, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "m", quantise="q8_0", threads=1, self_check=False)
    assert (tmp_path / "m").read_bytes() == made.read_bytes()


def test_loads_like_any_other(made: Path) -> None:
    arrays = slimtensors.numpy.load_file(made)
    with slimtensors.safe_open(made) as file:
        assert np.array_equal(file.get_slice("layer.1.weight")[3:9, 5:], arrays["layer.1.weight"][3:9, 5:])
    loaded = slimtensors.torch.load_file(made)
    assert loaded["layer.1.weight"].float().numpy().tobytes() == arrays["layer.1.weight"].astype(np.float32).tobytes()


def test_never_gives_back_its_source(source: Path, made: Path, tmp_path: Path) -> None:
    slimtensors.decompress(made, tmp_path / "plain.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() != source.read_bytes()
    plain, arrays = plain_load(tmp_path / "plain.safetensors"), slimtensors.numpy.load_file(made)
    assert {name: array.tobytes() for name, array in plain.items()} == {n: a.tobytes() for n, a in arrays.items()}
    with safe_open(tmp_path / "plain.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["slimtensors.lossy"] == f"q8_0; of the file with SHA-256 {slimtensors.inspect(made).lossy_source}"
    assert slimtensors.verify(made).source_sha256 is None


def test_flatten_keeps_what_is_stated(made: Path, tmp_path: Path) -> None:
    slimtensors.flatten(made, tmp_path / "flat")
    before, after = slimtensors.inspect(made), slimtensors.inspect(tmp_path / "flat")
    assert after.lossy_source == before.lossy_source
    assert [(t.name, t.lossy) for t in after.tensors] == [(t.name, t.lossy) for t in before.tensors]


@pytest.mark.parametrize("how", ["slim", "slim-fast", "lqer", "spqr", "nf4", "q4_k", "nvfp4", "abs=0.01"])
@pytest.mark.parametrize("preset", ["balanced", "small"])
def test_flatten_keeps_what_needs_no_base(how: str, preset: str, source: Path, tmp_path: Path) -> None:
    """Codes are not found again in what they made."""
    made, flat = tmp_path / "made", tmp_path / "flat"
    slimtensors.compress(source, made, quantise=how, preset=preset)
    for threads in (1, 2):
        slimtensors.flatten(made, flat, preset=preset, threads=threads)
        assert flat.read_bytes() == made.read_bytes()
    plain_save({**tensors(), "layer.1.weight": tensors()["layer.2.weight"]}, tmp_path / "base.safetensors")
    slimtensors.rebase(made, flat, tmp_path / "base.safetensors", preset=preset)
    assert flat.stat().st_size <= made.stat().st_size + 1000
    before = slimtensors.numpy.load_file(made)
    after = slimtensors.numpy.load_file(flat, base=tmp_path / "base.safetensors")
    assert {name: array.tobytes() for name, array in before.items()} == {n: a.tobytes() for n, a in after.items()}


def test_keep_and_embeddings(source: Path, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "m", quantise="q8_0", keep=["layer.[01].*"], embeddings=True)
    found = {tensor.name for tensor in slimtensors.inspect(tmp_path / "m").tensors if tensor.lossy}
    assert found == {"layer.2.weight", "layer.3.weight", "embed_tokens.weight"}


def test_against(source: Path, made: Path, tmp_path: Path) -> None:
    found = slimtensors.compare(made, source)
    assert (found.equal, found.lossy) == (5, 4)
    assert found.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    other = tensors()
    other["layer.0.bias"][3] += 1
    plain_save(other, tmp_path / "other.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="was made from one with"):
        slimtensors.compare(made, tmp_path / "other.safetensors")
    # a lossless file has no source to be told from another by its digest alone
    slimtensors.compress(source, tmp_path / "exact")
    assert slimtensors.compare(tmp_path / "exact", source)[1:] == (9, 0, 0.0, 0.0)
    with pytest.raises(ChecksumError, match=r"'layer.0.bias' is not the source's"):
        slimtensors.compare(tmp_path / "exact", tmp_path / "other.safetensors")
    del other["odd.weight"]
    plain_save(other, tmp_path / "less.safetensors")
    with pytest.raises(ChecksumError, match=r"has no such tensor|is not the source's"):
        slimtensors.compare(tmp_path / "exact", tmp_path / "less.safetensors")


def test_errors_that_are_not_true(source: Path, made: Path) -> None:
    from parts import Parts

    parts = Parts.split(made.read_bytes())
    stated = next(tensor["lossy"] for tensor in parts.json["tensors"] if tensor["name"] == "layer.1.weight")
    stated["nmse"] = stated["nmse"][:-1] + ("0" if stated["nmse"][-1] != "0" else "1")
    parts.set_json()
    with pytest.raises(ChecksumError, match=r"'layer.1.weight': its NMSE is .*the file states"):
        slimtensors.compare(parts.join(), source)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_numbers_that_cannot_be_quantised(value: float, tmp_path: Path) -> None:
    array = np.ones((64, 512), np.float32)
    array[5, 7] = value
    plain_save({"w": array, "v": np.ones((64, 512), np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=r"tensor 'w' cannot be quantised to q8_0.*--keep"):
        slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise="q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise="q8_0", keep="w*")


def test_names_of_formats_are_taken_in_any_case(source: Path, tmp_path: Path) -> None:
    slimtensors.compress(source, tmp_path / "a", quantise="Q8_0")
    slimtensors.compress(source, tmp_path / "b", quantise="q8_0")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    for wrong, words in (
        ({"quantise": "q9"}, "unknown quantisation 'q9'; available: q8_0"),
        ({"quantise": "q8_0", "keep": ["nothing*"]}, "--keep nothing*: there is no such tensor"),
        ({"quantise": "q8_0", "keep": ["*"]}, "no tensor can be quantised"),
        ({"quantise": "rel=1e-9"}, "none of the 5 tensors chosen can be quantised to rel=1e-09: that would take more"),
        ({"quantise": "bitdelta"}, "bitdelta is of differences, and no tensor has a base: name the model"),
        ({"keep": ["*"]}, "are for quantise"),
    ):
        with pytest.raises(UsageError) as caught:
            slimtensors.compress(source, tmp_path / "m", **wrong)
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_lossy_source_is_told(made: Path, tmp_path: Path) -> None:
    """A new file of lossy tensors, by a way that does not know their source, is refused."""
    from slimtensors.bases.tensors import StoredInput
    from slimtensors.reading.tensors import open_file
    from slimtensors.writing.store import store

    with open_file(made) as file, pytest.raises(UsageError, match="some tensors are lossy"):
        store([StoredInput(file, file.find("layer.1.weight"))], tmp_path / "m", None, "balanced", 1, True)


def test_commands(source: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    target = tmp_path / "m.slimtensors"
    assert "4 of 9 tensors are quantised (q8_0), NMSE at most " in run(
        "compress", source, "--quantise", "q8_0", "-o", target
    )
    said = run("inspect", target, "--why")
    assert "lossy: 4 of 9 tensors are quantised (q8_0)" in said
    for tensor in slimtensors.inspect(target).tensors:  # each error, beside its tensor
        (line,) = [each for each in said.splitlines() if each.startswith(f" {tensor.name} ")]
        assert line.split()[-1] == (f"{tensor.lossy.nmse:.3g}" if tensor.lossy else f"{tensor.bits_per_weight:.2f}")
    assert "does not give back its source" in said
    assert "quantised (q8_0): NMSE" in said
    found = json.loads(run("inspect", target, "--json"))
    assert found["lossy_source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert {tensor["name"] for tensor in found["tensors"] if "lossy" in tensor} == LOSSY
    assert "lossy: 4 tensors are not their source's" in run("verify", target)
    assert "5 tensors are equal, 4 are quantised with the errors stated" in run("verify", target, "--against", source)
    assert json.loads(run("verify", target, "--against", source, "--json"))["files"][0]["against"]["lossy"] == 4
    for wrong in (["--keep", "x"], ["--embeddings"]):
        result = CliRunner().invoke(cli, ["compress", str(source), "-o", str(tmp_path / "n"), *wrong])
        assert result.exit_code != 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe: str, tmp_path: Path) -> None:
    """A file as the library and as the reference decoder read it; planes of codes, not units kept as they are."""
    dtype = (np.float32, BF16, np.float16)[list(RECIPES).index(recipe) % 3]
    columns = 500 if recipe in ("int8", "fp8") else 512
    exact = np.random.default_rng(3).normal(0, 0.05, (33, columns)).astype(dtype)
    plain_save({"w": exact}, tmp_path / "m.safetensors")
    slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise=recipe)
    file, found = decode.decode_file((tmp_path / "m").read_bytes()), slimtensors.numpy.load_file(tmp_path / "m")["w"]
    assert file.lossy["w"][0] == recipe
    assert 0 < file.lossy["w"][1] < 0.02
    assert file.tensors["w"][2] == found.tobytes() != exact.tobytes()
    (tensor,) = slimtensors.inspect(tmp_path / "m").tensors
    assert tensor.storage in ("coded", "raw") or recipe == "spqr"  # which has more planes
    assert tensor.expression.startswith(("palette", "grid", "trellis", "scatter"))
    assert tensor.bits_per_weight < 10
    assert slimtensors.compare(tmp_path / "m", tmp_path / "m.safetensors").lossy == 1


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    """As llama.cpp has it, q5_0 stands in for q4_k; nothing does for int4."""
    arrays = {f"{n}.weight": np.random.default_rng(n).normal(0, 1, (64, n)).astype(np.float32) for n in (512, 384, 320)}
    plain_save(arrays, tmp_path / "m.safetensors")
    for recipe, want in (("q4_k", ["q4_k", "q5_0", "q5_0"]), ("int4", ["int4", "int4", None])):
        slimtensors.compress(tmp_path / "m.safetensors", tmp_path / "m", quantise=recipe)
        report = slimtensors.inspect(tmp_path / "m")
        found = {tensor.name: tensor.lossy and tensor.lossy.recipe for tensor in report.tensors}
        assert [found[name] for name in arrays] == want


class Ones:
    """A quantiser that makes ones of everything."""

    name = "ones"

    def structure(self, _tensor: Input) -> Structure | None:
        return Structure(Gather(0, codes(2)), (side(0, "F32", (2,)),), "ones")

    def quantise(self, tensor: Input, _structure: Structure) -> Quantised:
        units = np.ones(tensor.shape, np.float32).reshape(-1).view("<u4")
        return Quantised((np.ones(2, np.float32).view("<u4"),), units)


def test_a_source_of_nothing_but_zeros(tmp_path: Path) -> None:
    """Its power is 0: the error is stated itself, not its share."""
    source, made = tmp_path / "a.safetensors", tmp_path / "a.slimtensors"
    plain_save({"w": np.zeros((128, 128), np.float32)}, source)
    slimtensors.compress(source, made, quantise=Ones())
    found = slimtensors.compare(made, source)
    assert (found.lossy, found.nmse, found.max) == (1, 128.0 * 128, 1.0)
