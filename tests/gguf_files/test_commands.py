"""The command line on GGUF files: names that lead back, folders, what is said of a tensor."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf.constants import GGMLQuantizationType
from safetensors.numpy import load_file

from gguf_files import made
from hub.web import serving
from slimtensors.cli.main import cli


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    return result.exit_code, result.output


@pytest.fixture
def model(minilm: Path, tmp_path: Path) -> Path:
    tensors = {"w": (made.packed(minilm, "Q4_0"), "Q4_0"), "norm": (np.ones(384, np.float32), "")}
    return made.write(tmp_path / "model.gguf", tensors)


def test_there_and_back(model: Path) -> None:
    data = model.read_bytes()
    assert run("compress", model)[0] == 0
    packed = model.with_name("model.gguf.slimtensors")
    assert packed.stat().st_size < 0.95 * len(data)
    model.unlink()
    assert run("decompress", packed)[0] == 0
    assert model.read_bytes() == data
    assert run("verify", packed)[0] == 0


def test_an_estimate_of_a_file_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(4):
        weight = rng.standard_normal((1024, 1024)) * np.exp(rng.normal(0, 0.4, (1024, 1)))
        tensors[f"blk.{i}.weight"] = gguf.quantize(weight.astype(np.float32), GGMLQuantizationType.Q4_0), "Q4_0"
        tensors[f"blk.{i}.norm"] = rng.standard_normal(1024).astype(np.float32), ""
    path = made.write(tmp_path / "model.gguf", tensors)
    assert run("compress", path)[0] == 0
    size = path.with_name("model.gguf.slimtensors").stat().st_size
    with serving() as web:
        code, said = run("estimate", web.put("model.gguf", path.read_bytes()), "--json")
        assert code == 0, said
        assert json.loads(said)["compressed_bytes"] == pytest.approx(size, rel=0.02)
        assert web.sent < path.stat().st_size / 2
        code, said = run("estimate", web.put("model.bin", b"PK\3\4" + bytes(1000)))
        assert code == 1
        assert "neither safetensors nor GGUF but a zip archive" in said


def test_folders(model: Path) -> None:
    (model.parent / "config.json").write_text("{}")
    folder = model.parent.rename(model.parent.with_name("repository"))
    assert run("compress", folder)[0] == 0
    slim = folder.with_name("repository-slim")
    assert sorted(path.name for path in slim.iterdir()) == ["config.json", "model.gguf.slimtensors"]
    assert run("decompress", slim, "-o", folder.with_name("back"))[0] == 0
    assert (folder.with_name("back") / "model.gguf").read_bytes() == (folder / "model.gguf").read_bytes()


def test_quantised_weights_of_gguf_are_no_gguf(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    array = np.random.default_rng(1).standard_normal((128, 128)).astype(np.float32)
    made.write(folder / "model.gguf", {"w": (array, "")})
    assert run("compress", folder, "--quantise", "q4_0")[0] == 0
    packed = folder.with_name("repository-slim") / "model.gguf.slimtensors"
    code, said = run("decompress", packed)
    assert code == 2
    assert "-o model.safetensors" in said
    assert run("decompress", packed, "-o", tmp_path / "model.safetensors")[0] == 0
    assert run("decompress", packed.parent)[0] == 0
    (restored,) = folder.with_name("repository-slim-restored").iterdir()
    assert restored.name == "model.safetensors"
    assert list(load_file(restored)) == list(load_file(tmp_path / "model.safetensors")) == ["w"]
    packed.with_name("model.slimtensors").write_bytes(packed.read_bytes())
    code, said = run("decompress", packed.parent, "-o", tmp_path / "other")
    assert code == 2
    assert "would become model.safetensors" in said
    packed.write_bytes(b"damaged")
    packed.with_name("model.slimtensors").unlink()
    assert run("decompress", packed.parent, "-o", tmp_path / "other")[0] == 1


def test_a_name_that_says_otherwise(model: Path) -> None:
    assert run("compress", model, "-o", model.with_name("short.slimtensors"))[0] == 0
    code, said = run("decompress", model.with_name("short.slimtensors"))
    assert code == 2
    assert "-o short.gguf" in said
    assert not model.with_name("short.safetensors").exists()
    assert run("decompress", model.with_name("short.slimtensors"), "-o", model.with_name("other.gguf"))[0] == 0
    assert model.with_name("other.gguf").read_bytes() == model.read_bytes()


def test_names_that_end_like_others(model: Path) -> None:
    odd = model.with_name("model.gguf.safetensors")
    odd.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert run("compress", odd)[0] == 0
    odd.unlink()
    assert run("decompress", f"{odd}.slimtensors")[0] == 0
    assert odd.read_bytes() == b"\x02\0\0\0\0\0\0\0{}"


def test_what_is_said(minilm: Path, model: Path) -> None:
    assert run("compress", model)[0] == 0
    packed = model.with_name("model.gguf.slimtensors")
    assert "GGUF_Q4_0" in run("inspect", packed)[1]
    code, why = run("inspect", "--why", packed)
    assert code == 0
    assert "32 of 4 bits, given those of kind 2: uneven" in " ".join(why.split())
    assert run("estimate", model)[0] == 0
    assert "a GGUF file" in run("inspect", model)[1]
    short = gguf.quants.quantize(made.weights(minilm, made.WEIGHTS), GGMLQuantizationType.Q4_0)  # rows of 12 blocks
    made.write(model, {"w": (short, "Q4_0")})
    assert run("compress", model, "-o", packed, "--force")[0] == 0
    assert "given those of kind 2 less their mean in 12 records" in " ".join(run("inspect", "--why", packed)[1].split())
