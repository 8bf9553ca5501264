"""Compressed and plain weights of one name: which are refused, which are loaded, and how much is read to tell."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hub import Client, HubServer
from slimtensors import UsageError, compress
from slimtensors.numpy import save_file as save_compressed
from slimtensors_hub import both_kinds
from slimtensors_hub.both_kinds import check_folder

NOW = time.time()


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(seed).standard_normal((128, 256)).astype(np.float32)}


def aged(path: Path, seconds: int) -> Path:
    os.utime(path, (NOW - seconds, NOW - seconds))
    return path


def ours(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.slimtensors*"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    save_file(weights(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("quantise", [None, "int8"])
def test_what_was_compressed_beside_its_source_is_loaded(plain: Path, quantise: str | None) -> None:
    """By whatever order in which a copy of the folder was made."""
    slim = plain.with_suffix(".slimtensors")
    compress(plain, slim, quantise=quantise)
    aged(plain, 50)
    for age in (0, 100):
        check_folder([aged(slim, age)])
    save_file(weights(1), plain)
    with pytest.raises(UsageError, match=r"written after model\.slimtensors .* may differ"):
        check_folder([slim])


def test_what_was_saved_from_memory_is_refused_only_if_plain_weights_are_newer(plain: Path) -> None:
    slim = plain.with_suffix(".slimtensors")
    save_compressed(load_file(plain), slim)  # of what it was made nothing is known
    aged(plain, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_folder([aged(slim, 0)])
        check_folder([aged(slim, 50)])
    with pytest.raises(UsageError) as refused:
        check_folder([aged(slim, 100)])
    words = str(refused.value)
    assert "may differ" in words
    assert "each may be the only copy" in words
    assert "remove" not in words
    assert "out of date" not in words
    plain.rename(plain.with_name("model.fp16.safetensors"))  # another variant
    check_folder([slim])


def test_the_hubs_cache_is_warned_of(tmp_path: Path) -> None:
    """Its times are those of downloads."""
    blobs = [tmp_path / "blobs" / (digit * 64) for digit in "ab"]
    blobs[0].parent.mkdir()
    save_compressed(weights(), blobs[0])
    save_file(weights(), blobs[1])
    (folder := tmp_path / "snapshot").mkdir()
    for blob, kind in zip(blobs, ("slimtensors", "safetensors"), strict=True):
        (folder / f"model.{kind}").symlink_to(blob)
    for age in (0, 100):
        aged(blobs[0], 50)
        aged(blobs[1], age)
        with pytest.warns(UserWarning, match="may differ"):
            check_folder(ours(folder))


@pytest.mark.parametrize("newer", [False, True])
def test_each_file_is_read_once_at_most(tmp_path: Path, newer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"model-0000{i}-of-00004" for i in range(1, 5)]
    for i, name in enumerate(names):
        path = tmp_path / f"{name}.safetensors"
        save_file(weights(i), path)
        compress(path, path.with_suffix(".slimtensors"))
        aged(path, 0 if newer else 100)
        aged(path.with_suffix(".slimtensors"), 50)
    for kind in ("slimtensors", "safetensors"):
        (tmp_path / f"model.{kind}.index.json").write_text("{}")
        aged(tmp_path / f"model.{kind}.index.json", 50)
    hashed, opened = [], []

    def counted(function: Callable[..., object], calls: list[str]) -> Callable[..., object]:
        def call(path: Path, *args: object, **options: object) -> object:
            calls.append(path.name)
            return function(path, *args, **options)

        return call

    monkeypatch.setattr(both_kinds, "matches", counted(both_kinds.matches, hashed))
    monkeypatch.setattr(both_kinds, "open_file", counted(both_kinds.open_file, opened))
    check_folder(ours(tmp_path))
    assert hashed == ([f"{name}.safetensors" for name in names] if newer else [])
    assert opened == ([f"{name}.slimtensors" for name in names] if newer else [])


CHECK = """
import sys, time, warnings
from pathlib import Path
from slimtensors_hub.both_kinds import check_repository
from slimtensors_hub.fetching import Place
warnings.simplefilter("error")
begin = time.monotonic()
check_repository(sorted(Path(sys.argv[1]).glob("*.slimtensors")), "alice/" + sys.argv[2], None, Place())
print(time.monotonic() - begin)
"""


def test_repositories(hub: HubServer, client: Client, plain: Path, tmp_path: Path) -> None:
    compress(plain, plain.with_suffix(".slimtensors"), quantise="int8")
    for name in ("lossy", "other"):
        hub.store.create(f"alice/{name}")
        hub.store.add(f"alice/{name}", {path.name: path.read_bytes() for path in (plain, *ours(tmp_path))})
    client.run("python", "-c", CHECK, tmp_path, "lossy")  # which states what it was made of
    save_file(weights(1), plain)
    hub.store.add("alice/other", {plain.name: plain.read_bytes()})
    said = client.run("python", "-c", CHECK, tmp_path, "other", check=False).stderr
    assert "alice/other holds model.slimtensors and model.safetensors, weights of one name that may differ" in said
    hub.faults.add(path="/api/models", status=503, times=None)
    hub.requests.clear()
    assert float(client.run("python", "-c", CHECK, tmp_path, "other").stdout) < 1
    assert len(hub.requests.paths()) == 1
