"""What is whole of a damaged file: all of it, and nothing else."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load

import slimtensors
import slimtensors.numpy as ours
from slimtensors.reading.tensors import open_file

RNG = np.random.default_rng(5)
TENSORS = {
    "large": RNG.standard_normal((3000, 200)).astype(np.float32),
    "tied": np.empty(0, np.float32),
    "half": RNG.standard_normal((900, 512)).astype(np.float16),
    "sparse": np.where(RNG.random((600, 400)) < 0.7, 0, RNG.standard_normal((600, 400))).astype(np.float16),
    "classed": (RNG.standard_normal((800, 512)) * 2.0 ** RNG.integers(-6, 6, (800, 1))).astype(np.float32),
    "few": RNG.integers(0, 3, (512, 512)).astype(np.float32) * np.float32(0.37),
    "bias": RNG.standard_normal(100).astype(np.float32),
    "norm": RNG.standard_normal(50).astype(np.float32),
    "empty": np.empty((0, 4), np.float32),
}
TENSORS["tied"] = TENSORS["large"]


@pytest.fixture(scope="module")
def sound() -> bytes:
    return ours.save(TENSORS, metadata={"made": "here"}, preset="small")


def chunks(data: bytes) -> list[tuple[set[str], int, int]]:
    """Of every chunk: the tensors that need it, where it begins, its stored bytes."""
    with open_file(data) as file:
        header, found = file.header, []
        for number, stream in enumerate(header.streams):
            needs = {
                tensor.name
                for i, tensor in enumerate(header.tensors)
                for main in [header.tensor_stream[header.holder(i)]]
                if main is not None and (main == number or number in header.needed_streams.get(main, []))
            }
            records, positions = file.reader.records(number)
            found += [(needs, positions[i], records[i].stored_length) for i in range(stream.chunks)]
    return found


def salvaged(data: bytes, **options: Any) -> tuple[slimtensors.Salvaged, dict[str, np.ndarray], bytes]:
    out = io.BytesIO()
    report = slimtensors.salvage(data, out, **options)
    return report, load(out.getvalue()), out.getvalue()


def metadata_of(path: Path, data: bytes) -> dict[str, str]:
    path.write_bytes(data)
    with safe_open(path, "numpy") as file:
        return dict(file.metadata())


def test_every_chunk_in_turn(sound: bytes, tmp_path: Path) -> None:
    places = chunks(sound)
    assert len(places) >= 10
    assert {"large", "tied"} in [needs for needs, _, _ in places]
    assert {"bias", "norm"} in [needs for needs, _, _ in places]
    assert [needs for needs, _, _ in places].count({"classed"}) >= 3  # two side planes
    for needs, begin, length in places:
        damaged = bytearray(sound)
        damaged[begin + length // 3] ^= 4
        report, found, data = salvaged(bytes(damaged), threads=2)
        assert {each.name for each in report.lost} == needs
        assert found.keys() == TENSORS.keys() - needs
        assert report.tensors == len(found)
        assert report.decoded_bytes == sum(each.nbytes for each in found.values())
        for name, array in found.items():
            np.testing.assert_array_equal(array, TENSORS[name])
        metadata = metadata_of(tmp_path / "out", data)
        assert metadata["made"] == "here"
        assert set(json.loads(metadata["slimtensors.lost"])) == needs
        with pytest.raises(slimtensors.FormatError, match=f"Of 9 tensors {len(needs)} cannot be had.*salvage"):
            slimtensors.verify(bytes(damaged))


def test_cut_off(sound: bytes) -> None:
    places = chunks(sound)
    start = min(begin for _, begin, _ in places)
    for cut in [*(begin for _, begin, _ in places), *(begin + length - 1 for _, begin, length in places)]:
        gone = set().union(*(needs for needs, begin, length in places if begin + length > cut))
        report, found, _ = salvaged(sound[:cut])
        assert found.keys() == TENSORS.keys() - gone
        assert {each.name for each in report.lost} == gone
        assert all("offset" in each.why or "ends" in each.why for each in report.lost)
    with pytest.raises(slimtensors.TruncatedError, match="salvage"):
        slimtensors.verify(sound[:-1])
    with pytest.raises(slimtensors.TruncatedError, match="inside its header"):
        salvaged(sound[: start // 4])


def test_lengths_beyond_the_file(sound: bytes) -> None:
    """Nothing is allocated for a header and an index of terabytes."""
    claimed = bytearray(sound[:1000])
    claimed[16:24] = (1 << 50).to_bytes(8, "little")
    claimed[28:32] = (0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(slimtensors.TruncatedError, match="inside its header"):
        salvaged(bytes(claimed))


def test_zeros_for_what_is_lost(sound: bytes, tmp_path: Path) -> None:
    of_large = [(begin, length) for needs, begin, length in chunks(sound) if needs == {"large", "tied"}]
    assert len(of_large) > 2
    damaged = bytearray(sound)
    damaged[of_large[1][0] + 100] ^= 1
    report, found, data = salvaged(bytes(damaged), zeros=True)
    assert [each.name for each in report.lost] == ["large", "tied"]
    ((first, end),) = report.lost[0].zeros
    assert 0 < first < end < TENSORS["large"].size
    expected = TENSORS["large"].copy().reshape(-1)
    expected[first:end] = 0
    for name in ("large", "tied"):
        np.testing.assert_array_equal(found[name].reshape(-1), expected)
    np.testing.assert_array_equal(found["half"], TENSORS["half"])
    metadata = metadata_of(tmp_path / "out", data)
    assert json.loads(metadata["slimtensors.zeros"]) == {"large": [[first, end]], "tied": [[first, end]]}
    assert "slimtensors.lost" not in metadata

    for begin, _ in of_large:
        damaged[begin + 200] ^= 1
    report, found, _ = salvaged(bytes(damaged), zeros=True)
    assert [each.zeros for each in report.lost] == [(), ()]
    assert found.keys() == TENSORS.keys() - {"large", "tied"}


def test_a_sound_file_and_one_with_nothing_whole(sound: bytes) -> None:
    report, found, data = salvaged(sound)
    assert report.lost == ()
    assert found.keys() == TENSORS.keys()
    assert b"slimtensors.lost" not in data[:2000]

    alone = ours.save({"half": TENSORS["half"]})
    damaged = bytearray(alone)
    damaged[-200] ^= 1
    out = io.BytesIO(b"before")
    with pytest.raises(slimtensors.ChecksumError, match="'half', chunk"):
        slimtensors.salvage(bytes(damaged), out)
    assert out.getvalue() == b"before"


def test_a_damaged_header(sound: bytes, tmp_path: Path) -> None:
    damaged = bytearray(sound)
    damaged[200] ^= 1
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"before")
    with pytest.raises(slimtensors.ChecksumError, match="header or index"):
        slimtensors.salvage(bytes(damaged), target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


class Failing(io.BytesIO):
    """A file on a disk with a bad block."""

    def __init__(self, data: bytes, begin: int, end: int, code: int) -> None:
        super().__init__(data)
        self.bad, self.code = (begin, end), code

    def read(self, length: int | None = -1, /) -> bytes:
        at = self.tell()
        data = super().read(length)
        if at < self.bad[1] and at + len(data) > self.bad[0]:
            raise OSError(self.code, "the disk said no")
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(memoryview(buffer).cast("B")))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)


def test_a_disk_that_does_not_read_all(sound: bytes) -> None:
    needs, begin, _ = next(place for place in chunks(sound) if place[0] == {"half"})
    out = io.BytesIO()
    report = slimtensors.salvage(Failing(sound, begin + 5, begin + 6, errno.EIO), out)
    assert {each.name for each in report.lost} == needs
    assert "disk said no" in report.lost[0].why
    assert load(out.getvalue()).keys() == TENSORS.keys() - needs
    out = io.BytesIO(b"before")
    with pytest.raises(OSError, match="disk said no"):  # not the file's fault
        slimtensors.salvage(Failing(sound, begin + 5, begin + 6, errno.EACCES), out)
    assert out.getvalue() == b"before"


def test_a_base_that_is_not_there() -> None:
    base = {"w": TENSORS["half"]}
    tuned = {"w": TENSORS["half"] + (RNG.random((900, 512)) < 0.01).astype(np.float16), "new": TENSORS["few"]}
    data = ours.save(tuned, base=base)
    report, found, _ = salvaged(data)
    assert [each.name for each in report.lost] == ["w"]
    assert "base" in report.lost[0].why
    np.testing.assert_array_equal(found["new"], tuned["new"])
    report, found, _ = salvaged(data, base=base)
    assert report.lost == ()
    np.testing.assert_array_equal(found["w"], tuned["w"])
