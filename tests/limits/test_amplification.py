"""Small files that would cost far more than they hold: each part is decoded once, or the file is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import coder
import encode
import slimtensors
from faults import files
from slimtensors.codecs import chunk
from slimtensors.container import reader
from slimtensors.numpy import load_file
from slimtensors.reading import walking

VECTORS = Path(__file__).parents[2] / "format_spec" / "vectors"
ZERO_CODES = [0] * 2048


def coded(units: int, planes: int) -> files.Chunk:
    """Units of zeros in planes of one bit, which two tables code."""
    part = encode.encode_plane(ZERO_CODES, 1, encode.Plane(mode=2), coder.Contexts(2, ZERO_CODES, ZERO_CODES))
    return encode.PlanesChunk(units, 1, [part] * planes, b"", 0).bytes(), bytes(units)


def test_classes_of_scales_are_not_kept() -> None:
    """A header names 65536 of them in a few bytes, for each of 16 fields of each tensor."""
    count, fields, units = 4, 16, 4096
    scale: dict[str, Any] = {"chunk": 1, "dtype": "U8", "expression": 0, "name": "s", "shape": [1]}
    expressions: list[Any] = [files.BYTES]
    tensors = [scale]
    for i in range(count):
        given = [{"scale": [0, 0, i * fields + k, [65535, 0, 1, 1]]} for k in range(fields)]
        spans = [[[16, 16 * k, 1, 1]] for k in range(fields)]
        planes = [{"context": c, "plane": 1, "spans": s} for c, s in zip(given, spans, strict=True)]
        expressions.append({"record": [32, *planes]})
        tensors.append({**scale, "chunk": units, "expression": i + 1, "name": str(i), "shape": [units], "sides": [0]})
    streams = [[files.zeros(1, 64)], *[[coded(units, fields)]] * count]
    head = files.header(tensors, expressions=expressions)
    data = files.build(head, streams, [files.digest(bytes(1)), *[files.digest(bytes(units))] * count])
    slimtensors.verify(data, threads=1)  # kernels and modules are loaded by now
    tracemalloc.start()
    try:
        slimtensors.verify(data, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # 32 MiB if they are


def base_of(identity: bytes, size: int) -> dict[str, Any]:
    return {"dtype": "U8", "hints": {}, "identity": identity.hex(), "shape": [size]}


class Counting:
    """A base that is read by range."""

    def __init__(self, data: bytes) -> None:
        self.data, self.sent = data, 0

    def size(self) -> int:
        return len(self.data)

    def read_range(self, offset: int, length: int) -> bytes:
        self.sent += length
        return self.data[offset : offset + length]


def test_a_base_is_hashed_once_for_all_that_it_might_be() -> None:
    """Each of these bases has its dtype and its shape, and another identity."""
    count, size = 20, 1 << 16
    tensors = [{"dtype": "U8", "name": str(i), "pack": 0, "shape": [128]} for i in range(count)]
    bases = [base_of(files.digest(b"%d" % i), size) for i in range(count)]
    expression = {"add": [{"base": [*range(count)]}, files.BYTES]}
    packs = [{"dtype": "U8", "expression": 0}]
    head = files.header(tensors, bases=bases, packs=packs, expressions=[expression])
    data = files.build(head, [[files.zeros(128 * count, 64)]], [files.digest(bytes(128))] * count)
    base = Counting(safetensors.numpy.save({"w": np.zeros(size, np.uint8)}))
    assert len(slimtensors.dependencies(data, base=base)) == count
    assert base.sent < 3 * len(base.data)


def test_a_compressed_base_counts_what_is_stored_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what it says that it is, which nothing has checked yet: its chunks may decode to anything, or to nothing."""
    size, ties = 1 << 20, 300
    stated = {"chunk": size, "dtype": "U8", "expression": 0, "shape": [size]}
    zeros, identity = [files.zeros(size, 1024)], files.digest(bytes(size))
    names = [f"b{i}" for i in range(3)]
    base = files.build(files.header([{**stated, "name": name} for name in names]), [zeros] * 3, [identity] * 3)
    tied = [{"dtype": "U8", "expression": 1, "name": f"t{i}", "shape": [size]} for i in range(ties)]
    head = files.header(
        [{**stated, "name": "w"}, *tied],
        bases=[base_of(identity, size)],
        expressions=[{"add": [{"base": 0}, files.BYTES]}, {"ref": 0}],
    )
    data = files.build(head, [zeros], [identity] * (ties + 1))
    monkeypatch.setattr(reader, "EXPANSION_SLACK", 0)
    length = 1024 * (len(data) + len(base))
    with pytest.raises(slimtensors.LimitError, match=f"{(ties + 1) * size} bytes decoded; {length} are allowed"):
        slimtensors.safe_open(data, base=base)
    plain = safetensors.numpy.save({"w": np.zeros(size, np.uint8)})
    with slimtensors.safe_open(data, base=plain) as file:
        assert not file.get_tensor("t299").any()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each chunk that is decoded."""
    found: list[int] = []
    decode = chunk.decode_chunk

    def counting(data: Any, expression: Any, out: Any, place: Any) -> None:
        found.append(out.nbytes)
        decode(data, expression, out, place)

    monkeypatch.setattr(chunk, "decode_chunk", counting)
    return found


def interleaved(packs: int, tensors: int, length: int) -> bytes:
    """Tensors that lie in these packs by turns."""
    listed = [{"dtype": "U8", "name": f"{i:04}", "pack": i % packs, "shape": [length]} for i in range(tensors)]
    head = files.header(listed, packs=[{"dtype": "U8", "expression": 0}] * packs)
    pack = files.zeros(tensors // packs * length, 64)
    return files.build(head, [[pack]] * packs, [files.digest(bytes(length))] * tensors)


def test_scales_count_all_of_their_pack(decoded: list[int]) -> None:
    """Two packs that tensors have their scales of by turns are decoded for each."""
    size, vector = 16 << 20, VECTORS / "invalid" / "bomb_scales.slimtensors"
    for read in (slimtensors.verify, load_file, slimtensors.safe_open):
        with pytest.raises(slimtensors.LimitError, match=f"the file takes {25 * size + 48} bytes decoded"):
            read(vector)
    assert not decoded
    assert slimtensors.verify(vector, max_bytes=26 * size).tensors == 26


@pytest.mark.parametrize("threads", [1, 2])
def test_tensors_that_lie_in_packs_by_turns(threads: int, tmp_path: Path, decoded: list[int]) -> None:
    data = interleaved(3, 300, 64)
    slimtensors.verify(data, threads=threads)
    assert len(decoded) == 3
    slimtensors.decompress(data, tmp_path / "plain.safetensors", threads=threads)
    assert len(decoded) == 6
    slimtensors.salvage(data, tmp_path / "saved.safetensors", threads=threads)
    assert len(decoded) == 12
    for name in ("plain", "saved"):
        found = safetensors.numpy.load_file(tmp_path / f"{name}.safetensors")
        assert len(found) == 300
        assert not any(array.any() for array in found.values())


def test_of_packs_by_turns_one_is_damaged(tmp_path: Path, decoded: list[int]) -> None:
    data = bytearray(interleaved(3, 300, 64))
    data[-1] ^= 1  # in the last pack
    with pytest.raises(slimtensors.ChecksumError, match="Of 300 tensors 100 cannot be had: '0002', '0005'"):
        slimtensors.verify(bytes(data))
    result = slimtensors.salvage(bytes(data), tmp_path / "saved.safetensors", threads=1)
    assert [lost.name for lost in result.lost] == [f"{i:04}" for i in range(2, 300, 3)]
    assert len(decoded) < 10


def test_no_more_packs_are_kept_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "KEPT_PACKS", 3 * 6400)
    slimtensors.decompress(interleaved(3, 300, 64), tmp_path / "plain.safetensors")
    data = interleaved(4, 400, 64)
    slimtensors.verify(data)  # in the order of the packs
    with pytest.raises(slimtensors.LimitError, match="so many packs"):
        slimtensors.decompress(data, tmp_path / "refused.safetensors")
