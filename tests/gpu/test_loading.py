"""Files onto a device: every path through segments, with the runner for a GPU."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file as save_plain

import slimtensors
from gpu.backend import Runner
from slimtensors.bases.resolving import open_with
from slimtensors.device import loading, telling
from slimtensors.device.loading import fill_device
from slimtensors.errors import BaseError, ChecksumError, DecodedOnCpuWarning, FormatError
from slimtensors.expression import Delta
from slimtensors.kernels.cuda import rows
from slimtensors.numpy import save_file
from slimtensors.reading.tensors import open_file


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Several segments and slots, of tensors that the runner can do in a second."""
    monkeypatch.setattr(loading, "SEGMENT_BYTES", 8192)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 20 * 1024)
    monkeypatch.setattr(telling, "_told", set())


def tensors():
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((90, 100)) * 0.02).astype(np.float32)
    noise = rng.integers(0, 1 << 32, 1500, np.uint32).view(np.float32)  # stored as it is
    return {
        "half": (w[::-1] * 3).astype(np.float16), "whole": w, "other": w[:30] * 2, "tie": w, "bias": w[0],
        "ones": np.ones(5000, np.float32), "counts": np.arange(7000, dtype=np.int64), "noise": noise,
        "none": np.zeros((0, 3), np.float32), "flags": w.reshape(-1) > 0,
    }  # fmt: skip


def load(path, backend, **options):
    with open_file(path, **options) as file:
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(file.header.tensors)}
        fill_device(file, targets, backend, threads=2)
        return {file.header.tensors[i].name: target for i, target in targets.items()}


@pytest.mark.parametrize("preset", ["fast", "balanced"])
@pytest.mark.parametrize("verify", ["full", "none"])
def test_all_tensors(tmp_path, preset, verify):
    given, path, backend = tensors(), tmp_path / "a.slimtensors", Runner(1 << 20)
    save_file(given, path, preset=preset)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = load(path, backend, verify=verify)
    for name, array in given.items():
        assert found[name].tobytes() == array.tobytes(), name
    assert any(each.category is DecodedOnCpuWarning for each in told) == (len(told) > 0)
    assert {each.split("_")[0] for each in backend.launched} >= {"decode", "plain"}
    assert ("digest" in backend.launched) == (verify == "full")


def test_classes(tmp_path):
    """Preset small: rows of very different sizes."""
    rng, path, backend = np.random.default_rng(2), tmp_path / "a.slimtensors", Runner(1 << 21)
    sizes = np.exp2(rng.integers(-12, 1, (130, 1)))
    w = (rng.standard_normal((130, 130)) * sizes).astype(np.float16)
    save_file({"w": w}, path, preset="small")
    with open_file(path) as file:
        assert file.header.streams[file.header.tensor_stream[0]].expression.contexts
    assert load(path, backend)["w"].tobytes() == w.tobytes()
    assert "contexts_u16" in backend.launched


def fine_tune(folder):
    """A file that is a difference from a base; (the base, what it holds)."""
    rng = np.random.default_rng(4)
    base = {"w": (rng.standard_normal((64, 160)) * 0.02).astype(np.float32)}
    base["h"] = base["w"][:50].astype(np.float16)
    turns = {name: 1 + rng.integers(-4, 5, each.shape) / 2**9 for name, each in base.items()}
    given = {name: (each * turns[name]).astype(each.dtype) for name, each in base.items()}
    save_file(given, folder / "tuned.slimtensors", base=base)
    return base, given


def load_tuned(path, base, backend):
    with open_with(path, base) as file:
        assert any(isinstance(stream.expression, Delta) for stream in file.header.streams)
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(file.header.tensors)}
        fill_device(file, targets, backend, threads=2)
        return {file.header.tensors[i].name: target for i, target in targets.items()}


def test_differences(tmp_path):
    base, given = fine_tune(tmp_path)
    backend = Runner(1 << 21)
    found = load_tuned(tmp_path / "tuned.slimtensors", base, backend)
    for name, array in given.items():
        assert found[name].tobytes() == array.tobytes(), name
    assert any(each.startswith("finish") for each in backend.launched)


def test_a_merged_adapter(tmp_path):
    """Its base is moved by the product that the planner finds, on the device."""
    rng, path, backend = np.random.default_rng(6), tmp_path / "merged.slimtensors", Runner(1 << 22)
    base = (rng.standard_normal((200, 96)) * 0.02).astype(np.float16)
    product = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 96))
    merged = (base.astype(np.float32) + product.astype(np.float32) * np.float32(0.003)).astype(np.float16)
    save_file({"w": merged}, path, base={"w": base})
    with warnings.catch_warnings():
        warnings.simplefilter("error", DecodedOnCpuWarning)
        found = load_tuned(path, {"w": base}, backend)
    assert found["w"].tobytes() == merged.tobytes()
    assert "moved_f16" in backend.launched


def test_a_quantised_difference(tmp_path, monkeypatch):
    """From a base by name, and from one in a slimtensors file, which the device decodes."""
    monkeypatch.setattr("slimtensors.quantise.stacks.MIN_ELEMENTS", 1024)
    rng, backend = np.random.default_rng(8), Runner(1 << 22)
    base = (rng.standard_normal((64, 64)) * 0.02).astype(np.float16)
    tuned = (base + (rng.standard_t(4, base.shape) * 0.001)).astype(np.float16)
    save_plain({"w": tuned}, tmp_path / "tuned.safetensors")
    save_file({"w": base}, tmp_path / "base.slimtensors")
    path = tmp_path / "tuned.slimtensors"
    slimtensors.compress(tmp_path / "tuned.safetensors", path, base=tmp_path / "base.slimtensors", quantise="bitdelta")
    for given in ({"w": base}, tmp_path / "base.slimtensors"):
        with open_with(path, given) as file, warnings.catch_warnings():
            warnings.simplefilter("error", DecodedOnCpuWarning)
            target = backend.fresh(base.nbytes)
            fill_device(file, {0: target}, backend, threads=2)
            assert target.tobytes() == file.read(0, 1).tobytes()
        assert "sums_f16" in backend.launched
    assert any(each.startswith("decode") for each in backend.launched)
    with (
        open_with(path, {"w": base * 2}) as file,
        pytest.raises(BaseError, match=r"tensor 'w', chunk \d: .*it is another base"),
    ):
        fill_device(file, {0: backend.fresh(base.nbytes)}, backend, threads=1)


def test_the_wrong_base_is_refused_in_words(tmp_path):
    base, _given = fine_tune(tmp_path)
    wrong = {name: each + each.dtype.type(1) for name, each in base.items()}
    with pytest.raises(BaseError, match=r"tensor '\w', chunk \d: .*it is another base"):
        load_tuned(tmp_path / "tuned.slimtensors", wrong, Runner(1 << 21))


def one(path, **options):
    """A file of one tensor, in three chunks."""
    w = (np.random.default_rng(1).standard_normal(9000) * 0.02).astype(np.float32)
    save_file({"w": w}, path, **options)
    return w


@pytest.mark.filterwarnings("error::slimtensors.DecodedOnCpuWarning")
def test_chunks_with_two_coded_planes_go_plane_by_plane(tmp_path, monkeypatch):
    """Weights of which half are -0.0 have two; the fused kernel decodes the chunks before them."""
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 8 * 1024)
    rng = np.random.default_rng(1)
    w = rng.standard_normal(12 * 1024).astype(ml_dtypes.bfloat16)
    w[8 * 1024 :][rng.random(4 * 1024) < 0.5] = -0.0
    path, backend = tmp_path / "a.slimtensors", Runner(1 << 20)
    save_file({"w": w}, path)
    assert load(path, backend)["w"].tobytes() == w.tobytes()
    assert {each.split("_")[0] for each in backend.launched} >= {"decode", "plane", "finish"}


def test_chunks_that_a_kernel_leaves_are_told(tmp_path):
    """A plane of Zstandard: bytes of which two bits are zero."""
    path = tmp_path / "a.slimtensors"
    w = np.random.default_rng(3).integers(0, 1 << 62, 9000)
    save_file({"w": w}, path, preset="fast")
    with pytest.warns(DecodedOnCpuWarning, match=r"tensor 'w'.*modes that its kernel lacks"):
        found = load(path, Runner(1 << 20))
    assert found["w"].tobytes() == w.tobytes()


@pytest.mark.parametrize("where", ["status", "digests"])
def test_a_faulty_gpu_is_named(tmp_path, monkeypatch, where):
    path, backend = tmp_path / "a.slimtensors", Runner(1 << 20)
    one(path)
    launch = backend.launch

    def faulty(kernel, blocks, buffers):
        launch(kernel, blocks, buffers)
        if kernel.startswith("decode") and where == "status":
            buffers[-1][0] |= rows.BAD_END
        if kernel == "digest" and where == "digests":
            buffers[-1][0] ^= 1

    monkeypatch.setattr(backend, "launch", faulty)
    with pytest.raises(ChecksumError, match=r"chunk 0: the CPU decodes it, the GPU does not.*SLIMTENSORS_DECODE=cpu"):
        load(path, backend)


def test_damage_is_named_as_on_the_cpu(tmp_path):
    path = tmp_path / "a.slimtensors"
    one(path)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1  # a word of the last chunk
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"BLAKE3"):
        load(path, Runner(1 << 20))
    with pytest.raises(FormatError, match=r"tensor 'w', chunk \d: .*coded stream does not end"):
        load(path, Runner(1 << 20), verify="none")


def test_targets_that_are_not_aligned_are_filled_by_the_cpu(tmp_path):
    path, backend = tmp_path / "a.slimtensors", Runner(1 << 20)
    w = one(path)
    target = backend.fresh(w.nbytes + 8)[3 : 3 + w.nbytes]
    with open_file(path) as file:
        fill_device(file, {0: target}, backend, threads=1)
    assert target.tobytes() == w.tobytes()
    assert backend.launched == []
