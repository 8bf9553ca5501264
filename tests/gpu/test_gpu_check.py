"""bench/gpu_check.py finds nothing wrong with the runner, and finds what is."""

from __future__ import annotations

import importlib.util
import re

import pytest
from bench import gpu_check, gpu_files, gpu_twin

from gpu.backend import Runner
from slimtensors.device import telling


@pytest.mark.filterwarnings("ignore::slimtensors.DecodedOnCpuWarning")
def test_correctness(tmp_path, monkeypatch):
    monkeypatch.setattr(telling, "_told", set())
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(gpu_files, "DTYPES", ("bfloat16",))
    monkeypatch.setattr(gpu_files, "PRESETS", ("balanced",))
    backend = Runner(1 << 21)
    assert gpu_check.correctness(tmp_path, backend, (129, 1500)) == []
    assert {each.split("_")[0] for each in backend.launched} >= {"decode", "plain", "plane", "contexts", "finish"}


def test_what_is_wrong_is_named(tmp_path, monkeypatch):
    w = gpu_files.weights(129, 1)
    monkeypatch.setattr(gpu_check, "cases", lambda _sizes: {"a": ({"w": w}, None, "fast")})
    backend = Runner(1 << 16)
    download = backend.download
    monkeypatch.setattr(
        backend, "download", lambda buffer: download(buffer) ^ 1 if len(buffer) == w.nbytes else download(buffer)
    )
    assert gpu_check.correctness(tmp_path, backend) == ["a w"]


@pytest.mark.parametrize("right", [True, False])
def test_quantisers(tmp_path, monkeypatch, right):
    monkeypatch.setattr(gpu_files, "QUANTISED", (("slim", "balanced"),))
    monkeypatch.setattr("slimtensors.quantise.stacks.MIN_ELEMENTS", 1024)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr(gpu_files, "DIFFERENCES", (("bitdelta", "balanced"),))
    monkeypatch.setattr(gpu_files, "DTYPES", ("bfloat16",))
    backend = Runner(1 << 20)
    if not right:
        download = backend.download
        monkeypatch.setattr(backend, "download", lambda buffer: download(buffer) ^ (len(buffer) == 2 * 96 * 96))
    wrong = [] if right else ["slim balanced bfloat16", "bitdelta balanced of a difference bfloat16"]
    assert gpu_check.quantised(tmp_path, backend, shape=(96, 96)) == wrong
    assert {"levels_bf16", "sums_bf16"} <= set(backend.launched)


def test_peers_that_are_not_there(tmp_path, monkeypatch):
    """The kernel's launches are caught; without the peers, that is said."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    backend = Runner(1 << 20)
    found = gpu_check.beside_peers(tmp_path, backend, 40_000)
    assert found["launches"] == 1
    assert all("is not installed" in found[peer]["not measured"] for peer in ("nvCOMP ANS", "CUDA C++ twin"))
    assert "launch" not in vars(backend)


def test_the_twin_has_all_its_constants():
    """What the source names in capitals is given to its compiler."""
    named = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", re.sub(r"//.*", "", gpu_twin.SOURCE.read_text())))
    assert named == set(gpu_twin.MEANT)
