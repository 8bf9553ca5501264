"""What systems other than this one say, each for the call that says it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import slimtensors
from slimtensors.container import system
from slimtensors.files.folders import COMPRESS, carry_out, plan_folder
from slimtensors.numpy import load_file, save_file
from slimtensors.threads import thread_count

Refusing = Callable[..., Any]


def refusing(number: int, calls: list[str] | None = None) -> Refusing:
    def refuse(*_arguments: Any, **_named: Any) -> Any:
        if calls is not None:
            calls.append("refused")
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(("number", "final"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.ENOTSUP, False)])
def test_a_mac_s_disk_fails(number: int, final: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync alone stops at the drive's cache, so it stands in only where there is no F_FULLFSYNC."""
    path, calls, flushed = tmp_path / "m.slimtensors", list[str](), list[int]()
    save_file({"a": np.zeros(3)}, path)
    fsync = os.fsync
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "fcntl", SimpleNamespace(F_FULLFSYNC=51, fcntl=refusing(number, calls)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(descriptor), fsync(descriptor)))
    if final:
        with pytest.raises(OSError, match=os.strerror(number)):
            save_file({"a": np.ones(3)}, path)
        assert not flushed
    else:
        save_file({"a": np.ones(3)}, path)
        assert len(flushed) == 2  # file and folder
    assert calls
    assert load_file(path)["a"][0] == (0 if final else 1)
    assert list(tmp_path.iterdir()) == [path]


def test_windows_waits_for_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace, waits = tmp_path / "m.slimtensors", os.replace, list[float]()
    save_file({"a": np.zeros(3)}, path)
    monkeypatch.setattr(system, "_WINDOWS", True)
    monkeypatch.setattr(system.time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", refusing(errno.EACCES))
    with pytest.raises(PermissionError, match="as long as it is open, in this program or another: close it") as caught:
        save_file({"a": np.ones(3)}, path)
    assert caught.value.filename == str(path)
    assert sum(waits) > 1
    assert load_file(path)["a"][0] == 0
    assert list(tmp_path.iterdir()) == [path]

    def later(*places: Any) -> None:
        return replace(*places) if len(waits) > 8 else refusing(errno.EACCES)()

    monkeypatch.setattr(os, "replace", later)
    save_file({"a": np.ones(3)}, path)
    assert load_file(path)["a"][0] == 1


def test_windows_refuses_to_open_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", refusing(errno.EACCES))
    with pytest.raises(IsADirectoryError, match="a folder, not a file"):
        slimtensors.safe_open(tmp_path, framework="numpy")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PermissionError):
        slimtensors.safe_open(tmp_path / "file", framework="numpy")


def test_what_windows_allows_few_to_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    system.lend(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    monkeypatch.setattr(os, "symlink", refusing(errno.EPERM))
    system.lend(source, tmp_path / "second")
    assert (tmp_path / "second").samefile(source)
    assert not (tmp_path / "second").is_symlink()
    monkeypatch.setattr(os, "link", refusing(errno.EXDEV))
    system.lend(source, tmp_path / "copy")
    assert not (tmp_path / "copy").samefile(source)
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_a_folder_and_its_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content of folders before the name that makes them count, and that name after it."""
    source, target, flushed = tmp_path / "source", tmp_path / "target", list[tuple[str, bool]]()

    def told(folder: Path) -> None:
        flushed.append((folder.name, target.exists()))

    def convert(_source: Path, made: Path) -> None:
        save_file({"a": np.zeros(3)}, made)

    (source / "inner").mkdir(parents=True)
    (source / "inner" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("slimtensors.files.folders.flush_folder", told)
    carry_out(plan_folder(source, COMPRESS), target, convert)
    inner, (made, there), outer = flushed
    assert inner == ("inner", False)
    assert made.startswith(".target.")
    assert not there
    assert outer == (tmp_path.name, True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["150000 100000"], 2),
        (["50000 100000"], 1),
        (["max 100000"], 64),
        (["-1", "100000"], 64),
        (["300000", "100000"], 3),
        ([], 64),
    ],
)
def test_a_container_s_share(
    files: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / f"file{k}") for k in range(max(1, len(files)))]
    for name, text in zip(names, files, strict=False):
        Path(name).write_text(text + "\n")
    monkeypatch.setattr(system, "_QUOTAS", (names,))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)), raising=False)
    monkeypatch.delenv("SLIMTENSORS_NUM_THREADS", raising=False)
    assert system.usable_processors() == expected
    assert thread_count(None) == min(expected, 16)
