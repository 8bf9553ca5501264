"""File objects and objects with ranged reads, as sources and as destinations."""

from __future__ import annotations

import gzip
import io
import os
import socket
import tempfile
import threading

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

import slimtensors
from slimtensors.numpy import load, load_file, save, save_file

ARRAYS = {
    "large": np.random.default_rng(1).normal(size=600_000).astype(np.float32),
    "small": np.arange(10),
}
SOURCE = save_safetensors(ARRAYS)
COMPRESSED = save(ARRAYS)


class Ranges:
    """Ranged reads over bytes. `fail_at` is the number of the read that fails."""

    def __init__(self, data, fail_at=None):
        self.data = data
        self.fail_at = fail_at
        self.reads = 0

    def size(self):
        return len(self.data)

    def read_range(self, offset, length):
        self.reads += 1
        if self.reads == self.fail_at:
            raise ConnectionError("the line is dead")
        return self.data[offset : offset + length]


class NoSeek(io.RawIOBase):
    """Takes at most 1000 bytes at a time and cannot seek."""

    def __init__(self):
        self.parts = []

    def writable(self):
        return True

    def write(self, data):
        self.parts.append(bytes(data[:1000]))
        return len(self.parts[-1])


class Silent:
    """Only looks like a file object: does not say how much it took, which is all."""

    def __init__(self):
        self.parts = []

    def write(self, data):
        self.parts.append(bytes(data))


def received(write):
    """What a thread gets at the other end of a pipe or socket, while `write` writes."""
    parts = []

    def start(reader):
        def drain():
            with reader:
                parts.append(reader.read())

        thread = threading.Thread(target=drain)
        thread.start()
        return thread

    write(start)
    return b"".join(parts)


# ---- destinations


@pytest.mark.parametrize("sink", [NoSeek, Silent])
def test_objects_that_only_take_bytes(sink):
    target = sink()
    save_file(ARRAYS, target)
    assert b"".join(target.parts) == COMPRESSED
    target = sink()
    slimtensors.compress(SOURCE, target)
    packed = b"".join(target.parts)
    target = sink()
    slimtensors.decompress(packed, target)
    assert b"".join(target.parts) == SOURCE


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_pipe(buffering):
    def write(start):
        reading, writing = os.pipe()
        thread = start(os.fdopen(reading, "rb"))
        with os.fdopen(writing, "wb", buffering) as pipe:
            save_file(ARRAYS, pipe)
        thread.join()

    assert received(write) == COMPRESSED


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_socket(buffering):
    def write(start):
        ours, theirs = socket.socketpair()
        with theirs:
            thread = start(theirs.makefile("rb"))
            with ours, ours.makefile("wb", buffering=buffering) as file:
                save_file(ARRAYS, file)
            thread.join()

    assert received(write) == COMPRESSED


def test_gzip(tmp_path):
    path = tmp_path / "model.gz"
    with gzip.open(path, "wb") as file:
        save_file(ARRAYS, file)
    assert gzip.decompress(path.read_bytes()) == COMPRESSED
    with gzip.open(path, "rb") as file:  # it can seek, if slowly
        assert np.array_equal(load_file(file)["large"], ARRAYS["large"])


def test_a_file_object_gets_the_file_at_its_position():
    target = io.BytesIO(b"before|" + bytes(10))
    target.seek(7)
    save_file(ARRAYS, target)
    assert target.getvalue() == b"before|" + COMPRESSED


def test_a_pipe_that_would_block_is_an_error():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", 0) as pipe, pytest.raises(BlockingIOError):
        save_file(ARRAYS, pipe)


class Unreadable:
    """An array-like of which nobody may ask anything."""

    def __getattr__(self, name):
        raise AssertionError(name)


def test_what_takes_text_or_nothing_is_an_error(tmp_path):
    """Before any work is done."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for mode, words in (("r", "takes text"), ("r+", "takes text"), ("rb", "for reading only")):
        with path.open(mode) as file:
            for save in (lambda: save_file(ARRAYS, file), lambda: slimtensors.compress(Unreadable(), file)):
                with pytest.raises(slimtensors.UsageError, match=words):
                    save()
    with pytest.raises(slimtensors.UsageError, match="cannot write to int"):
        save_file(ARRAYS, 1)
    assert path.read_bytes() == b"old"


def test_what_says_less_of_itself_than_a_file():
    class Bare(io.RawIOBase):  # which says that it is not writable
        def __init__(self):
            self.written = bytearray()

        def write(self, data):
            self.written += data
            return len(data)

    bare = Bare()
    save_file(ARRAYS, bare)
    assert load_file(bytes(bare.written)).keys() == ARRAYS.keys()
    with tempfile.SpooledTemporaryFile(1 << 30) as spool:
        slimtensors.compress(SOURCE, spool)
        assert not spool._rolled
        assert load_file(spool).keys() == ARRAYS.keys()


# ---- sources


@pytest.mark.parametrize("wrap", [io.BytesIO, Ranges, bytes, bytearray, memoryview])
def test_sources(wrap, tmp_path):
    path = tmp_path / "model"
    slimtensors.compress(wrap(SOURCE), path)
    slimtensors.decompress(wrap(path.read_bytes()), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == SOURCE
    loaded = load_file(wrap(COMPRESSED))
    assert all(np.array_equal(loaded[name], array) for name, array in ARRAYS.items())
    slimtensors.verify(wrap(COMPRESSED))


def test_a_source_that_cannot_seek_is_an_error():
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b"12345678")
    with os.fdopen(reading, "rb") as pipe, pytest.raises(OSError):  # noqa: PT011 # of the standard library
        load_file(pipe)


@pytest.mark.parametrize("write", [slimtensors.compress, slimtensors.decompress])
def test_a_source_that_fails_at_any_read_leaves_no_trace(write, tmp_path):
    data = SOURCE
    if write is slimtensors.decompress:
        slimtensors.compress(SOURCE, packed := io.BytesIO())
        data = packed.getvalue()
    whole = Ranges(data)
    write(whole, tmp_path / "model", threads=1)
    (tmp_path / "model").write_bytes(b"old")
    assert whole.reads > 5
    for fail_at in range(1, whole.reads + 1):
        target = NoSeek()
        for destination in (target, tmp_path / "model"):
            with pytest.raises(ConnectionError, match="the line is dead"):
                write(Ranges(data, fail_at), destination, threads=1)
        assert not target.parts
        assert (tmp_path / "model").read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_source_that_shrinks_meanwhile(threads, tmp_path):
    source, path = tmp_path / "source", tmp_path / "model"
    source.write_bytes(SOURCE)
    path.write_bytes(b"old")

    def shrink(_done):
        os.truncate(source, 100_000)

    arrays = {f"t{i}": ARRAYS["large"] + np.float32(i) for i in range(4)}
    source.write_bytes(save_safetensors(arrays))
    with pytest.raises(slimtensors.TruncatedError, match="has changed"):
        slimtensors.compress(source, path, threads=threads, progress=shrink)
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "source"]


def test_a_source_that_changes_meanwhile(tmp_path):
    """Whatever was read of which version, what comes out is never a file with a wrong digest."""
    path = tmp_path / "model"
    reads = Ranges(SOURCE)
    slimtensors.compress(reads, io.BytesIO(), threads=1)
    path.write_bytes(b"old")
    other = save_safetensors({"large": ARRAYS["large"][::-1].copy(), "small": ARRAYS["small"][::-1].copy()})
    assert len(other) == len(SOURCE)
    for change_at in range(1, reads.reads + 1):

        class Changing(Ranges):
            def read_range(self, offset, length, change_at=change_at):
                self.reads += 1
                data = SOURCE if self.reads < change_at else other
                return data[offset : offset + length]

        try:
            slimtensors.compress(Changing(SOURCE), path, threads=1)
        except (slimtensors.SelfCheckError, slimtensors.FormatError):
            assert path.read_bytes() == b"old"
        else:
            slimtensors.verify(path)
            path.write_bytes(b"old")


def test_a_source_that_gives_too_little_or_too_much():
    class Odd(Ranges):
        extra = 0

        def read_range(self, offset, length):
            return self.data[offset : offset + length] + bytes(self.extra)

    class More(Odd):
        extra = 1

    class Less(Ranges):
        def read_range(self, offset, length):
            return self.data[offset : offset + length - 1]

    for kind in (More, Less):
        with pytest.raises(slimtensors.TruncatedError):
            load_file(kind(COMPRESSED))
        with pytest.raises(slimtensors.FormatError):
            slimtensors.compress(kind(SOURCE), io.BytesIO())


def test_bytes_may_lie_anywhere_in_memory():
    padded = bytearray(64 + len(COMPRESSED))
    for offset in range(0, 64, 7):
        view = memoryview(padded)[offset : offset + len(COMPRESSED)]
        view[:] = COMPRESSED
        assert np.array_equal(load(view)["large"], ARRAYS["large"])
