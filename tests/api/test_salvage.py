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
from gguf_files.made import packed, write
from slimtensors.limits import MAX_INDEX_BYTES
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
    """Nothing is allocated for a header and an index that are not there."""
    claimed = bytearray(sound[:1000])
    claimed[16:24] = (1 << 50).to_bytes(8, "little")
    claimed[28:32] = MAX_INDEX_BYTES.to_bytes(4, "little")
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


class Failing:
    """A file on a disk with bad blocks, some of which are read a few times first."""

    def __init__(self, data: bytes, bad: dict[int, int], code: int = errno.EIO) -> None:
        self.data, self.bad, self.code = data, dict(bad), code

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        for place in self.bad:
            if offset <= place < offset + length:
                self.bad[place] -= 1
                if self.bad[place] < 0:
                    raise OSError(self.code, "the disk said no")
        return self.data[offset : offset + length]


def test_a_disk_that_does_not_read_all(sound: bytes) -> None:
    for needs, begin, _ in chunks(sound):  # the first lie within what is read ahead of whole files
        out = io.BytesIO()
        report = slimtensors.salvage(Failing(sound, {begin + 5: 0}), out)
        assert {each.name for each in report.lost} == needs
        assert "disk said no" in report.lost[0].why
        assert load(out.getvalue()).keys() == TENSORS.keys() - needs
    out = io.BytesIO(b"before")
    with pytest.raises(OSError, match="disk said no"):  # not the file's fault
        slimtensors.salvage(Failing(sound, {begin + 5: 0}, errno.EACCES), out)
    assert out.getvalue() == b"before"


def test_a_bad_block_in_the_table(sound: bytes) -> None:
    """Only the tensor whose records it holds is lost."""
    with open_file(sound) as file:
        at = file.reader.table_at
    report = slimtensors.salvage(Failing(sound, {at + 1: 0}), io.BytesIO())
    assert [each.name for each in report.lost] == ["large", "tied"]


def test_a_disk_that_gets_worse(sound: bytes) -> None:
    """What was whole at first, and then is not, is no zeros that nobody is told of."""
    first, second = [begin for needs, begin, _ in chunks(sound) if needs == {"large", "tied"}][:2]
    for times in range(1, 8):
        out = io.BytesIO(b"before")
        try:
            report = slimtensors.salvage(Failing(sound, {first: 0, second: times}), out, zeros=True, threads=1)
        except OSError:
            assert out.getvalue() == b"before"
            continue
        found = load(out.getvalue())
        for name, spans in {each.name: each.zeros for each in report.lost}.items():
            expected = TENSORS[name].copy().reshape(-1)
            for low, high in spans:
                expected[low:high] = 0
            assert name not in found or np.array_equal(found[name].reshape(-1), expected)


def test_a_table_beyond_the_file() -> None:
    """Nothing is allocated for records of which a file that was cut off has none."""
    data = ours.save({"zeros": np.zeros((1 << 20, 64), np.float32), "noise": TENSORS["half"]})
    with open_file(data) as file:
        at = file.reader.table_at
    with pytest.raises(slimtensors.TruncatedError, match="its table"):
        salvaged(data[: at + 8], zeros=True, max_bytes=1 << 30)


def test_elements_that_share_bytes() -> None:
    """F6: what lies partly in a damaged chunk is lost."""
    from slimtensors.container.header import Tensor
    from slimtensors.dtypes import DTYPES
    from slimtensors.files.salvaging import _elements

    six = Tensor("six", DTYPES["F6_E2M3"], (4096, 1024))
    assert _elements(six, [(1, 2)]) == ((1, 3),)
    assert _elements(six, [(0, 3), (3, 4)]) == ((0, 6),)
    assert _elements(Tensor("four", DTYPES["F4"], (8,)), [(1, 3)]) == ((2, 6),)
    assert _elements(Tensor("wide", DTYPES["F32"], (8,)), [(1, 3)]) == ((1, 3),)


def test_salvaged_once_more(sound: bytes) -> None:
    """What was lost before stays named."""
    damaged = bytearray(sound)
    places = {next(iter(sorted(needs))): begin for needs, begin, _ in chunks(sound)}
    damaged[places["few"] + 20] ^= 1
    of_large = [begin for needs, begin, _ in chunks(sound) if needs == {"large", "tied"}]
    damaged[of_large[0] + 100] ^= 1
    _, _, first = salvaged(bytes(damaged), zeros=True)
    out = io.BytesIO()
    slimtensors.compress(first, out)
    again = bytearray(out.getvalue())
    place = next(begin for needs, begin, _ in reversed(chunks(bytes(again))) if "large" in needs)
    again[place + 100] ^= 1
    report, _, second = salvaged(bytes(again), zeros=True)
    (late,) = report.lost[0].zeros
    metadata = json.loads(second[8 : 8 + int.from_bytes(second[:8], "little")])["__metadata__"]
    assert json.loads(metadata["slimtensors.lost"]) == ["few"]
    spans = json.loads(metadata["slimtensors.zeros"])["large"]
    assert len(spans) == 2
    assert list(late) == spans[1]
    _, _, third = salvaged(bytes(again))
    metadata = json.loads(third[8 : 8 + int.from_bytes(third[:8], "little")])["__metadata__"]
    assert set(json.loads(metadata["slimtensors.lost"])) == {"few", *report_names(report)}
    assert report_names(report).isdisjoint(json.loads(metadata.get("slimtensors.zeros", "{}")))


@pytest.mark.parametrize("zeros", ['{"few":[[1e999,2]]}', '{"few":[[NaN,2]]}', '{"few":[1]}', "[1]", "{", "1"])
def test_what_others_wrote_in_the_place_of_zeros(zeros: str) -> None:
    """It is left out, and stops nothing."""
    data = bytearray(ours.save({"few": TENSORS["few"], "bias": TENSORS["bias"]}, {"slimtensors.zeros": zeros}))
    data[{frozenset(needs): begin for needs, begin, _ in chunks(bytes(data))}[frozenset({"few"})] + 20] ^= 1
    report, found, _ = salvaged(bytes(data))
    assert report_names(report) == {"few"}
    np.testing.assert_array_equal(found["bias"], TENSORS["bias"])


def report_names(report: slimtensors.Salvaged) -> set[str]:
    return {each.name for each in report.lost}


def test_blocks_of_gguf(minilm: Path, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", {"w": (packed(minilm, "Q4_0"), "Q4_0")})
    slimtensors.compress(tmp_path / "model.gguf", tmp_path / "model.gguf.slimtensors")
    _, _, data = salvaged((tmp_path / "model.gguf.slimtensors").read_bytes())
    assert json.loads(metadata_of(tmp_path / "out", data)["slimtensors.encodings"]) == {"w": "GGUF_Q4_0"}


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


def test_a_damaged_base_is_no_damage_of_the_file(tmp_path: Path) -> None:
    ours.save_file({"w": TENSORS["half"]}, tmp_path / "base.slimtensors")
    tuned = {"w": TENSORS["half"] + (RNG.random((900, 512)) < 0.01).astype(np.float16)}
    ours.save_file(tuned, tmp_path / "tuned.slimtensors", base=tmp_path / "base.slimtensors")
    base = bytearray((tmp_path / "base.slimtensors").read_bytes())
    base[-300] ^= 1
    (tmp_path / "base.slimtensors").write_bytes(base)
    with pytest.raises(slimtensors.BaseError, match="its base cannot be read") as caught:
        slimtensors.verify(tmp_path / "tuned.slimtensors", base=tmp_path / "base.slimtensors")
    assert "salvage" not in str(caught.value)
