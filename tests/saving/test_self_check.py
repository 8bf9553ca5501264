"""A faulty encoder, memory or disk: what is written is decoded and compared before it takes its place."""

from __future__ import annotations

import io

import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

import slimtensors
from slimtensors.container import reader, system
from slimtensors.numpy import load_file, save, save_file
from slimtensors.sources.inputs import ArrayInput
from slimtensors.writing import saving
from slimtensors.writing.store import store

GENERATOR = np.random.default_rng(1)
ARRAYS = {
    "floats": GENERATOR.normal(size=20_000).astype(np.float32),
    "halves": GENERATOR.normal(size=40_001).astype(np.float16),
    "integers": GENERATOR.integers(0, 1000, 20_000),
    "constant": np.full(20_000, 7, np.int32),
    "small": np.arange(7.0),
}
SAVES = {
    "save": lambda path, **options: save_file(ARRAYS, path, **options),
    "compress": lambda path, **options: slimtensors.compress(save_safetensors(ARRAYS), path, **options),
}
FLIPS = 100


def chosen(seed):
    return np.random.default_rng(seed)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def flip_in_chunk(monkeypatch, wanted, choose):
    """Flip a bit of the encoder's `wanted`-th result."""
    encode = saving.encode_chunk
    made = []

    def faulty(*arguments, **options):
        data = bytes(encode(*arguments, **options))
        made.append(data)
        return flipped(data, choose.integers(8 * len(data))) if len(made) == wanted else data

    monkeypatch.setattr(saving, "encode_chunk", faulty)
    return made


@pytest.mark.parametrize("how", SAVES)
def test_a_bit_flipped_in_any_chunk_is_found(how, path, monkeypatch):
    made = flip_in_chunk(monkeypatch, 0, chosen(0))
    SAVES[how](io.BytesIO(), threads=1)
    monkeypatch.undo()
    assert len(made) >= len(ARRAYS)
    choose = chosen(1)
    for flip in range(FLIPS):
        with monkeypatch.context() as patched:
            flip_in_chunk(patched, 1 + flip % len(made), choose)
            with pytest.raises(slimtensors.SelfCheckError, match="left as it was"):
                SAVES[how](path, threads=1)
        assert_untouched(path)


@pytest.mark.parametrize("how", SAVES)
def test_without_self_check_reading_finds_it(how, path, monkeypatch):
    choose = chosen(2)
    for flip in range(FLIPS):
        with monkeypatch.context() as patched:
            flip_in_chunk(patched, 1 + flip % len(ARRAYS), choose)
            SAVES[how](path, threads=1, self_check=False)
        with pytest.raises(slimtensors.FormatError):
            slimtensors.verify(path)
        with pytest.raises(slimtensors.FormatError):
            load_file(path)


@pytest.mark.parametrize("how", SAVES)
def test_a_bit_flipped_on_the_way_to_the_disk_is_found(how, path, monkeypatch):
    write = system.TemporaryOutput.write
    choose = chosen(3)
    lengths = []

    def record(self, data):
        lengths.append(len(data))
        write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(system.TemporaryOutput, "write", record)
        SAVES[how](path, threads=1)
    path.write_bytes(b"old")
    # The first write is a gap that the last one fills.
    for flip in range(FLIPS):
        wanted, calls = 1 + flip % (len(lengths) - 1), []

        def faulty(self, data, wanted=wanted, calls=calls):
            if len(calls) == wanted:
                data = flipped(data, choose.integers(8 * len(data)))
            calls.append(len(data))
            write(self, data)

        with monkeypatch.context() as patched:
            patched.setattr(system.TemporaryOutput, "write", faulty)
            with pytest.raises(slimtensors.SelfCheckError):
                SAVES[how](path, threads=1)
        assert_untouched(path)


def test_bytes_are_checked_too(monkeypatch):
    flip_in_chunk(monkeypatch, 1, chosen(4))
    with pytest.raises(slimtensors.SelfCheckError):
        save(ARRAYS)


def test_a_limit_is_no_fault_of_the_machine(path, monkeypatch):
    for name in ("EXPANSION", "EXPANSION_SLACK"):
        monkeypatch.setattr(reader, name, 0)
    with pytest.raises(slimtensors.SelfCheckError, match="fault of slimtensors, not of this machine: please") as told:
        save_file(ARRAYS, path)
    assert "memory and processor" not in str(told.value)
    assert_untouched(path)


def test_nothing_is_sent_on_if_the_check_fails(monkeypatch):
    flip_in_chunk(monkeypatch, 1, chosen(5))
    target = io.BytesIO()
    with pytest.raises(slimtensors.SelfCheckError):
        save_file(ARRAYS, target)
    assert target.getvalue() == b""


def test_arrays_that_change_while_they_are_saved(path):
    """As a training step would do to a checkpoint saved beside it."""
    arrays = {name: array.copy() for name, array in ARRAYS.items()}

    changed = []

    def change(_done):
        if not changed:
            changed.append(True)
            arrays["floats"][:] = 0
            arrays["halves"][:] = 0

    inputs = [ArrayInput(name, array) for name, array in arrays.items()]
    store(inputs, path, None, "balanced", 1, self_check=True, progress=change)
    slimtensors.verify(path)  # some of one step, some of another; but what was read is what is stored
