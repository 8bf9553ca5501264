"""What a file is saved over, beside and through: modes, links, names, devices, itself."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_safetensors

import slimtensors
from slimtensors import NotSlimtensorsError, UsageError
from slimtensors.numpy import load_file, save_file, stream_tensors
from slimtensors.torch import save_file as torch_save_file
from slimtensors.torch import save_model

ARRAYS = {"a": np.arange(1000.0), "b": np.ones((3, 4), np.float16)}
posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and devices of POSIX")


def assert_saved(path):
    loaded = load_file(path)
    assert loaded.keys() == ARRAYS.keys()
    assert all(np.array_equal(loaded[name], array) for name, array in ARRAYS.items())


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.slimtensors"


# ---- modes


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_a_new_file_has_the_mode_that_the_umask_leaves(mask, path):
    with umask(mask):
        save_file(ARRAYS, path)
    assert mode_of(path) == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_replaced_file_keeps_its_mode(mode, path):
    path.touch()
    path.chmod(mode)
    save_file(ARRAYS, path)
    assert mode_of(path) == mode
    assert_saved(path)


@posix
def test_the_file_is_private_until_it_is_complete(path):
    path.touch()
    path.chmod(0o666)
    seen = []

    def look(_progress):
        seen.extend(mode_of(other) for other in path.parent.iterdir() if other.suffix == ".tmp")

    source = path.with_name("source")
    save_safetensors(ARRAYS, source)
    slimtensors.compress(source, path, progress=look)
    assert set(seen) == {0o600}
    assert mode_of(path) == 0o666


@posix
@pytest.mark.parametrize(("mode", "new"), [(0o600, 0o600), (0o640, 0o640), (0o664, 0o644), (0o400, 0o600)])
def test_what_is_made_from_a_private_file_is_private(mode, new, path):
    source, back = path.with_name("source"), path.with_name("back")
    save_safetensors(ARRAYS, source)
    source.chmod(mode)
    with umask(0o022):
        slimtensors.compress(source, path)
        assert mode_of(path) == new
        path.chmod(mode)
        slimtensors.decompress(path, back)
        assert mode_of(back) == new
        path.chmod(0o644)  # a file that is replaced has a mode of its own
        slimtensors.compress(source, path)
    assert mode_of(path) == 0o644


@posix
def test_no_set_uid_set_gid_or_sticky_bit_is_given_on(path):
    path.touch()
    path.chmod(0o6777)
    save_file(ARRAYS, path)
    assert mode_of(path) == 0o777


# ---- links


@posix
def test_a_symbolic_link_is_followed_and_stays(path, tmp_path):
    target, link = tmp_path / "elsewhere" / "target", path
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to("elsewhere/target")
    save_file(ARRAYS, link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert_saved(target)
    assert [p.name for p in target.parent.iterdir()] == ["target"]


@posix
def test_a_symbolic_link_to_nothing_makes_its_target(path, tmp_path):
    path.symlink_to(tmp_path / "target")
    save_file(ARRAYS, path)
    assert path.is_symlink()
    assert_saved(tmp_path / "target")


@posix
def test_links_in_a_circle_are_refused(path, tmp_path):
    path.symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(path)
    with pytest.raises(OSError):  # noqa: PT011 # which one depends on the system
        save_file(ARRAYS, path)
    assert path.is_symlink()


@posix
def test_other_hard_links_keep_the_old_file(path, tmp_path):
    path.write_bytes(b"old")
    os.link(path, tmp_path / "other")
    save_file(ARRAYS, path)
    assert_saved(path)
    assert (tmp_path / "other").read_bytes() == b"old"


# ---- names, and what is no file


def test_the_longest_names_are_good_enough(tmp_path):
    for name in ("x" * 255, "ü" * 127, "\U0001f9e0" * 63):
        try:
            (tmp_path / name).touch()
        except OSError:
            continue  # not on this file system
        save_file(ARRAYS, tmp_path / name)
        assert_saved(tmp_path / name)
        assert len(list(tmp_path.iterdir())) == 1
        (tmp_path / name).unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"model-\xff\xfe")
    save_file(ARRAYS, path)
    assert_saved(path)


def test_strings_and_relative_paths_are_paths_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(ARRAYS, "model")
    assert_saved("model")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        save_file(ARRAYS, tmp_path / "missing" / "model")
    assert caught.value.filename == str((tmp_path / "missing").resolve())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")  # noqa: PTH112
def test_a_folder_that_takes_no_files_is_there():
    with pytest.raises(OSError, match="no new files can be made in this folder") as caught:
        save_file(ARRAYS, "/proc/self/model")
    assert caught.value.errno == errno.EROFS
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="not a regular file; open it, and give the file object"):
            save_file(ARRAYS, f"/proc/self/fd/{writing}")  # as /dev/stdout is in a pipeline
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("name", ["hf://org/model/model.slimtensors", "s3://bucket/model", "gs://bucket/model"])
def test_names_elsewhere_are_not_saved_to(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="saved to") as caught:
        save_file(ARRAYS, name)
    assert ("slimtensors_hub.push" in str(caught.value)) == name.startswith("hf")
    assert not list(tmp_path.iterdir())


def test_where_a_file_is_needed_a_folder_or_index_is_not_read(tmp_path):
    save_file(ARRAYS, tmp_path / "model.slimtensors")
    index = tmp_path / "model.slimtensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, "model.slimtensors")}))
    for given in (index, tmp_path):
        for read in (load_file, slimtensors.inspect, slimtensors.safe_open):
            with pytest.raises((NotSlimtensorsError, IsADirectoryError), match="stream_tensors") as caught:
                read(given)
            assert "load_model" in str(caught.value)
            assert getattr(caught.value, "errno", errno.EISDIR) == errno.EISDIR
        assert {name for name, _ in stream_tensors(given)} == set(ARRAYS)  # what is advised works


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        save_file(ARRAYS, tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@posix
def test_what_is_no_regular_file_is_not_replaced(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        save_file(ARRAYS, path)
    for mmap in (False, True):
        with pytest.raises(OSError, match="not a regular file"):
            load_file(path, mmap=mmap)  # and does not wait for a writer
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert len(list(path.parent.iterdir())) == 1


@posix
def test_the_null_device_survives():
    with pytest.raises(OSError, match="not a regular file"):
        save_file(ARRAYS, os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)  # noqa: PTH116 # of a name that is no Path


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written_to(path):
    path.write_bytes(b"old")
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            save_file(ARRAYS, path)
        assert path.read_bytes() == b"old"
    finally:
        path.parent.chmod(0o700)


# ---- itself


@pytest.mark.parametrize("mmap", [False, pytest.param(True, marks=posix)])
def test_a_file_is_saved_over_itself(path, mmap):
    save_file(ARRAYS, path)
    before = path.read_bytes()
    for _ in range(2):
        save_file(load_file(path, mmap=mmap), path)
        assert path.read_bytes() == before


@posix
def test_a_file_is_saved_over_itself_through_links(path, tmp_path):
    save_file(ARRAYS, path)
    soft, hard = tmp_path / "soft", tmp_path / "hard"
    soft.symlink_to(path)
    os.link(path, hard)
    for one, other in ((soft, path), (path, soft), (hard, path), (path, hard)):
        save_file(load_file(one, mmap=True), other)
        assert_saved(path)
        assert_saved(hard)
    assert soft.is_symlink()


@posix
def test_tensors_of_an_open_file_are_saved_over_it(path):
    save_file(ARRAYS, path)
    with slimtensors.safe_open(path, mmap=True) as file:
        save_file({name: file.get_tensor(name) for name in file.offset_keys()}, path)
        assert np.array_equal(file.get_tensor("a"), ARRAYS["a"])  # the handle has the file that it opened
    assert_saved(path)


def write_source(name, path):
    (save_safetensors if name == "compress" else save_file)({"w": np.ones((128, 128), np.float32)}, path)


def verb(name, source, target):
    """One of the functions that make a file of another."""
    extra = (source,) if name == "rebase" else ()
    return getattr(slimtensors, name)(source, target, *extra, **({"quantise": "q4_0"} if name == "compress" else {}))


@pytest.mark.parametrize("name", ["compress", "decompress", "flatten", "rebase", "salvage"])
@pytest.mark.parametrize("way", ["path", "soft", "hard", "source object", "target object", "both"])
@posix
def test_no_verb_replaces_its_own_source(name, way, path, tmp_path):
    """Before, `compress` with `quantise` took the only exact copy away, and `salvage` what it could not read."""
    write_source(name, path)
    before = path.read_bytes()
    (tmp_path / "soft").symlink_to(path)
    os.link(path, tmp_path / "hard")
    with path.open("r+b") as file:
        source = file if way in ("source object", "both") else path
        target = file if way in ("target object", "both") else tmp_path / way if way in ("soft", "hard") else path
        with pytest.raises(UsageError, match="would be replaced by what is made from it"):
            verb(name, source, target)
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "soft", "hard"}


def test_an_object_in_memory_is_not_written_over_its_own_source():
    save_file(ARRAYS, target := io.BytesIO())
    with pytest.raises(UsageError, match="the source would be replaced"):
        slimtensors.decompress(target, target)


# ---- names that say that a file is something else


@pytest.mark.parametrize("name", ["compress", "decompress", "flatten", "salvage"])
@pytest.mark.parametrize("wrong", [".safetensors", ".slimtensors", ".gguf"])
def test_names_of_other_kinds_are_refused(name, wrong, path, tmp_path):
    plain = name in ("decompress", "salvage")
    right = ".safetensors" if plain else ".slimtensors"
    if wrong == right:
        wrong = ".bin"  # which says nothing
    write_source(name, path)
    target = tmp_path / f"made{wrong}"
    if wrong == ".bin":
        verb(name, path, target)
        return
    with pytest.raises(UsageError, match=f"what is made is a {right[1:]} file: name it made{right}"):
        verb(name, path, os.fspath(target))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [save_file, torch_save_file, save_model], ids=["numpy", "torch", "save_model"])
def test_a_save_does_not_replace_a_file_of_another_kind_by_its_name(save, tmp_path):
    what = {torch_save_file: {"w": torch.ones(3)}, save_model: torch.nn.Linear(2, 2)}.get(save, ARRAYS)
    plain = tmp_path / "mine.safetensors"
    save_safetensors(ARRAYS, plain)
    before = plain.read_bytes()
    with pytest.raises(UsageError, match=r"what is made is a slimtensors file: name it mine\.slimtensors"):
        save(what, plain)
    assert plain.read_bytes() == before
    assert list(tmp_path.iterdir()) == [plain]
    save(what, tmp_path / "mine")
    save(what, tmp_path / "mine.bin")  # which says nothing
