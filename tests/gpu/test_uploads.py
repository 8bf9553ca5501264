"""Segments that are uploaded in one queue and decoded in another, in any order that marks allow; all are needed."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.backend import Runner
from gpu.queued import Queued
from slimtensors.device import loader, loading
from slimtensors.device.decoders import DECODERS, Decoders
from slimtensors.device.loading import Kept, begin_fill
from slimtensors.device.uploads import SLOTS, Uploads
from slimtensors.errors import ChecksumError
from slimtensors.numpy import save_file
from slimtensors.reading.tensors import open_file

ASKS, UPLOADS = 0, 1  # queues of a fill
DECODE = tuple(range(2, 2 + DECODERS))
SEGMENTS = 3 * SLOTS  # late uploads are asked for only where a slot's host memory is needed again, two turns later


BESIDE, FUSED = np.uint16, np.uint8  # whose segments are decoded beside each other, by whichever kernels; and not


def saved(tmp_path, monkeypatch, dtype):
    """Tensors of a segment each."""
    monkeypatch.setattr(loading, "SEGMENT_BYTES", 1)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 256)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SEGMENTS, 300)).astype(np.uint8)
    save_file({f"w{i}": noise[i].view(dtype) for i in range(SEGMENTS)}, tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def path(tmp_path, monkeypatch):
    return saved(tmp_path, monkeypatch, BESIDE)


def filled(path, backend, *, times=1, kept=None, uploads=None):
    """Whether each tensor is as it should be, where nothing else would find out."""
    with open_file(path, verify="none") as file:
        expected = [file.read(i, 1).tobytes() for i in range(SEGMENTS)]
        targets = {i: backend.fresh(300) for i in range(SEGMENTS)}
        for _ in range(times):
            for target in targets.values():
                backend.write(target, np.zeros(300, np.uint8))
            begin_fill(file, targets, backend, 1, kept=kept, uploads=uploads).check()
        return [target.tobytes() == given for target, given in zip(targets.values(), expected, strict=True)]


@pytest.mark.parametrize(
    ("late", "dtype"), [(UPLOADS, BESIDE), (DECODE, BESIDE), ((ASKS, *DECODE), BESIDE), (UPLOADS, FUSED), (ASKS, FUSED)]
)
@pytest.mark.parametrize("keeps", [False, True])
def test_segments_take_turns(tmp_path, monkeypatch, late, keeps, dtype):
    path = saved(tmp_path, monkeypatch, dtype)
    backend = Queued(1 << 21, 1)
    backend.late = late
    if keeps:
        assert all(filled(path, backend, times=2, kept=Kept(), uploads=Uploads(backend)))
    else:
        assert all(filled(path, backend, uploads=Uploads(backend)))
        assert all(filled(path, backend))


# What is left out, and the queue that then is too late.
WAITS = [
    ("_wait_for", UPLOADS, BESIDE), ("_follow_free", DECODE, BESIDE), ("_follow_sent", UPLOADS, BESIDE),
    ("_follow_free", ASKS, FUSED), ("_follow_sent", UPLOADS, FUSED),
]  # fmt: skip


@pytest.mark.parametrize(("left_out", "late", "dtype"), WAITS)
def test_each_wait_is_needed(tmp_path, monkeypatch, left_out, late, dtype):
    """Without it, some order decodes other bytes."""
    path = saved(tmp_path, monkeypatch, dtype)
    monkeypatch.setattr(Uploads, left_out, lambda _self, _slot: None)

    def is_wrong(seed):
        backend = Queued(1 << 21, seed)
        backend.late = late
        return not all(filled(path, backend))

    assert any(is_wrong(seed) for seed in range(4))


@pytest.mark.parametrize(("left_out", "late"), [("end", DECODE), ("_begin", ASKS)])
def test_decoders_are_held_on_both_sides(path, monkeypatch, left_out, late):
    """What the caller's queue did before is done before, and what it does then sees the tensors."""
    if left_out == "end":
        monkeypatch.setattr(Decoders, "end", lambda _self: None)
    else:
        monkeypatch.setattr(Decoders, "_follow", lambda self, mark: mark == self._begin or self._backend.follow(mark))

    def is_wrong(seed):
        backend = Queued(1 << 21, seed)
        backend.late = late
        return not all(filled(path, backend, times=2, uploads=Uploads(backend)))

    assert any(is_wrong(seed) for seed in range(4))


class Recycling(Queued):
    """Gives memory that the first queue still reads for what is as long as it, as torch's allocator does."""

    def __init__(self, seed):
        super().__init__(1 << 16, seed)
        self.late = ASKS
        self.used = Runner.fresh(self, 768)
        self.used[:] = 7

    def fresh(self, length):
        return self.used if length == 768 else super().fresh(length)


@pytest.mark.parametrize("marked", [True, False])
def test_memory_is_uploaded_to_when_its_queue_is_done_with_it(monkeypatch, marked):
    if not marked:
        monkeypatch.setattr(Uploads, "_mark", lambda _self, slot: setattr(slot, "free", (ASKS, 0)))

    def keeps(seed):
        backend = Recycling(seed)
        copied, uploads = Runner.fresh(backend, 768), Uploads(backend)
        backend.copy(copied, backend.used)
        uploads.reserve(768, 1)
        uploads.send(np.zeros(768, np.uint8), staged=False)
        backend.wait(backend.mark())
        return bool((copied == 7).all())

    assert all(keeps(seed) for seed in range(8)) == marked


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_an_error_waits_for_uploads(path, monkeypatch, waits, keeps):
    """Host memory is given back, which they read."""
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # of the last segment
    path.write_bytes(bytes(data))
    if not waits:
        monkeypatch.setattr(Uploads, "wait", lambda _self: None)
        monkeypatch.setattr(Uploads, "_follow_sent", lambda _self, _slot: None)
    backend = Queued(1 << 21, 1)
    backend.late = UPLOADS
    kept = Kept() if keeps else None
    with open_file(path) as file, pytest.raises(ChecksumError, match="BLAKE3"):
        begin_fill(file, {i: backend.fresh(300) for i in range(SEGMENTS)}, backend, 1, kept=kept)
    assert (not backend.busy) == waits


@pytest.mark.parametrize("same", [True, False])
def test_a_kept_segment_is_decoded_by_the_queue_that_has_its_lists(path, monkeypatch, same):
    """Whatever queue a later fill is asked of, and without a mark; with others, some order would see no lists yet."""
    monkeypatch.setattr(loader, "LIST_SHARE", 1000)

    def is_right(seed):
        backend, kept = Queued(1 << 21, seed), Kept(on_device=True)
        backend.late = DECODE
        with open_file(path, verify="none") as file:
            targets = [{i: backend.fresh(300) for i in range(SEGMENTS)} for _ in range(2)]
            begin_fill(file, targets[0], backend, 1, kept=kept)  # nothing waits for it
            other, kept.uploaded = backend.new_queue(), None
            if not same:
                backend._helpers[1:] = backend._helpers[:0:-1]
            with backend.using(other):
                begin_fill(file, targets[1], backend, 1, kept=kept).check()
            return [each.tobytes() for each in targets[1].values()] == [file.read(i, 1).tobytes() for i in targets[1]]

    assert is_right(0) == same


@pytest.mark.parametrize("marked", [True, False])
def test_what_is_kept_is_there_for_another_queue(tmp_path, monkeypatch, marked):
    """The first fill's queue uploads lists and stored bytes, the second one's reads them."""
    monkeypatch.setattr(loader, "LIST_SHARE", 1000)
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 256)
    w = (np.random.default_rng(0).standard_normal(350) * 0.02).astype(np.float16)
    save_file({"w": w}, tmp_path / "a")

    def is_right(seed):
        backend, kept = Queued(1 << 17, seed), Kept(on_device=True)
        backend.late = ASKS
        with open_file(tmp_path / "a", verify="none") as file:
            targets = [{0: backend.fresh(700)} for _ in range(2)]
            begin_fill(file, targets[0], backend, 1, kept=kept)  # nothing waits for it
            if not marked:
                kept.uploaded = None
            with backend.using(backend.new_queue()):
                begin_fill(file, targets[1], backend, 1, kept=kept).check()
            return targets[1][0].tobytes() == w.tobytes()

    assert all(is_right(seed) for seed in range(3)) == marked
