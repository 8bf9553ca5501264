"""Zeros put back from masks, in the runner."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpu.backend import Runner
from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.device import telling
from slimtensors.device.loading import fill_device
from slimtensors.device.masks import values_of
from slimtensors.errors import DecodedOnCpuWarning, FormatError
from slimtensors.expression import Sparse
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.scatter import make_scatter
from slimtensors.numpy import save_file
from slimtensors.reading.tensors import open_file


def scattered(mask, values, *, count=None, more=0):
    """What a kernel makes of a mask of up to 8192 units, and the status; ranks are `more` than they should be."""
    ranks, counted = values_of(mask)
    count = counted if count is None else count
    items = np.zeros(rows.SCATTER_ITEM, np.uint32)
    items[[rows.MASK_WORDS, rows.LAST_VALUE]] = mask.size, values.size - 1
    items[[rows.FILLED_FROM, rows.FILLED_TO]] = count, values.size
    out, status, cuda = np.zeros(32 * mask.size, np.uint16), np.zeros(1, np.uint32), Cuda()
    given = map(read_only, (items, mask, ranks + np.uint32(more), values))
    launch(cuda, make_scatter(cuda, Types, device, 2), 1, rows.THREADS, *given, Fresh(out), status)
    return out, status[0]


def masks(words):
    rng = np.random.default_rng(words)
    mask = rng.integers(0, 1 << 32, words, np.uint32)
    mask[1:3], mask[-1] = 0, 0xFFFFFFFF
    return mask, int(np.unpackbits(mask.view(np.uint8)).sum())


@pytest.mark.parametrize("words", [4, 32, 36, 256])
def test_units(words):
    mask, count = masks(words)
    values = np.zeros(-(-count // 128) * 128, np.uint16)
    values[:count] = np.arange(1, count + 1)
    out, status = scattered(mask, values)
    expected = np.zeros_like(out)
    expected[np.unpackbits(mask.view(np.uint8), bitorder="little").astype(bool)] = values[:count]
    assert (out == expected).all()
    assert status == 0


def test_what_fills_up_a_group_is_looked_at():
    mask, count = masks(36)
    values = np.zeros(-(-count // 128) * 128, np.uint16)
    values[-1] = 1
    assert scattered(mask, values)[1] == rows.BAD_FIELD


def test_ranks_too_large_stay_inside():
    mask, count = masks(36)
    scattered(mask, np.ones(count, np.uint16), count=count, more=1 << 20)


def pruned(path, **options):
    """A file of one sparse tensor in three chunks."""
    rng = np.random.default_rng(6)
    w = (rng.standard_normal(9000) * 0.02).astype(np.float32)
    w[rng.random(w.size) < 0.6] = 0
    save_file({"w": w}, path, **options)
    return w


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 16 * 1024)
    monkeypatch.setattr(telling, "_told", set())


def load(path, **options):
    backend = Runner(1 << 20)
    with open_file(path, **options) as file:
        assert isinstance(file.header.streams[0].expression, Sparse)
        target = backend.fresh(file.header.tensors[0].nbytes)
        fill_device(file, {0: target}, backend, threads=2)
    return target, backend.launched


def test_a_file(tmp_path):
    w = pruned(tmp_path / "a.slimtensors")
    target, launched = load(tmp_path / "a.slimtensors")
    assert target.tobytes() == w.tobytes()
    assert "scatter_u32" in launched


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_refused_as_on_the_cpu(tmp_path, seed):
    """Where stored bytes are not hashed: the same words, or the same units where the noise means nothing."""
    path = tmp_path / "a.slimtensors"
    pruned(path)
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    with open_file(path) as file:
        lengths = [record.stored_length for record in file.reader.records(0)[0]]
    at = len(data) - sum(lengths) + int(rng.integers(16, lengths[0] if seed % 2 else 96))
    data[at] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(data)
    with open_file(path, verify="none") as file:
        try:
            expected = file.read(0, 1).tobytes()
        except FormatError as error:
            expected = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecodedOnCpuWarning)
        try:
            found = load(path, verify="none")[0].tobytes()
        except FormatError as error:
            found = str(error)
    assert found == expected
