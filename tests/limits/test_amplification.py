"""Small files that would cost far more than they hold: each part is decoded once, or the file is refused."""

from __future__ import annotations

import struct
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
from slimtensors.bases import resolving
from slimtensors.bases import tensors as base_tensors
from slimtensors.bases.resolving import open_with
from slimtensors.codecs import chunk
from slimtensors.container import reader
from slimtensors.expression import bases_of
from slimtensors.numpy import load, load_file, save, save_file
from slimtensors.reading import base_units, tensors, walking

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


@pytest.mark.parametrize("threads", [1, 2])
def test_packs_that_are_not_kept_are_decoded_again(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """Those that are needed last; how much, is bounded as all that the file decodes to is."""
    monkeypatch.setattr(walking, "KEPT_PACKS", 3 * 6400)
    path = tmp_path / "plain.safetensors"
    slimtensors.decompress(interleaved(3, 300, 64), path, threads=threads)
    assert len(decoded) == 3
    data = interleaved(4, 400, 64)
    slimtensors.verify(data, threads=threads, max_bytes=4 * 6400)  # in the order of the packs
    assert len(decoded) == 7
    slimtensors.decompress(data, path, threads=threads)
    taken = len(decoded) - 7
    assert 4 < taken < 200
    assert not any(array.any() for array in safetensors.numpy.load_file(path).values())
    decoded.clear()
    again = (taken - 4) * 6400
    with pytest.raises(slimtensors.LimitError, match=rf"decoded again; {again - 1} are allowed\. .*max_bytes={again}$"):
        slimtensors.decompress(data, tmp_path / "refused.safetensors", max_bytes=again - 1)
    assert not decoded
    slimtensors.decompress(data, path, max_bytes=again)


def test_work_for_bases_of_packs_counts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "KEPT_PACKS", 0)
    monkeypatch.setattr(resolving, "KEPT_PACKS", 0)  # nor are those of bases kept
    top, *below = chain(tmp_path, packs=2, members=8, depth=2)
    with open_with(top, below) as file:
        numbers = file.header.pack_stream
        work = [base_units.chunk_work(file, number).decoded for number in numbers]
        own = [file.header.streams[number].units for number in numbers]
        plan = walking._plan_packs(file, numbers * 2)
        assert plan == ({0, 1, 2, 3}, {visit: [numbers[visit % 2]] for visit in range(4)})
        assert min(work) > 0
        file.reader.allowed_bytes = sum(work + own)
        walking._plan_packs(file, numbers * 2)
        file.reader.allowed_bytes -= 1
        with pytest.raises(slimtensors.LimitError, match=f"{sum(work + own)} bytes would be decoded again"):
            walking._plan_packs(file, numbers * 2)


@pytest.mark.parametrize("order", ["as they were", "backwards", "mixed"])
def test_ties_to_more_packs_than_are_kept(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """An average of the weights beside them, which is the same yet: its file is made, checked and given back."""
    rng = np.random.default_rng(5)
    places = {"as they were": np.arange(40), "backwards": np.arange(40)[::-1], "mixed": rng.permutation(40)}[order]
    model = [rng.normal(size=8000).astype(np.float32) for _ in range(40)]
    average = {f"average.{i:02}": model[place] for i, place in enumerate(places)}
    model_and_average = {f"model.{i:02}": array for i, array in enumerate(model)} | average
    source, stored, back = (tmp_path / name for name in ("a.safetensors", "b.slimtensors", "c.safetensors"))
    safetensors.numpy.save_file(model_and_average, source)
    monkeypatch.setattr(walking, "KEPT_PACKS", 512 << 10)
    slimtensors.compress(source, stored)
    with open_with(stored, None) as file:
        packs = len(file.header.packs)
        assert 4 < packs < 20
        assert len(file.header.refs) == 40
    decoded.clear()
    slimtensors.decompress(stored, back, threads=1)
    assert back.read_bytes() == source.read_bytes()
    assert packs < len([size for size in decoded if size > 100_000]) <= (packs * 2 if order != "mixed" else 60)
    assert slimtensors.verify(stored).tensors == 80


def difference(units: int) -> files.Chunk:
    """Of nothing, from a base of zeros: a constant plane."""
    head = struct.pack("<BBHIQ", 2, 1, 0, units, files.decoded_digest(bytes(units)))
    plane = struct.pack("<BBHIII", 0, 0, 0, 0, 0, 0)
    stored = head + plane + bytes(units % 128) + bytes(64)
    return stored + files.padding(len(stored)), bytes(units)


def chain(folder: Path, packs: int, members: int, depth: int) -> list[Path]:
    """Files of packs: each member of a pack of differences has its base in another pack of the file below, by turns."""
    lengths = [[128 + packs * level + pack for pack in range(packs)] for level in range(depth + 1)]
    paths = []
    for level, own in enumerate(lengths):
        tensors = [
            {"dtype": "U8", "name": f"{pack:02}.{i:03}", "pack": pack, "shape": [own[pack]]}
            for pack in range(packs)
            for i in range(members)
        ]
        more: dict[str, Any] = {"packs": [{"dtype": "U8", "expression": 0}] * packs}
        made = [files.zeros(members * n, 64) for n in own]
        if level < depth:
            more["bases"] = [base_of(files.digest(bytes(n)), n) for n in lengths[level + 1]]
            more["expressions"] = [{"add": [{"base": [i % packs for i in range(members)]}, files.BYTES]}]
            made = [difference(members * n) for n in own]
        identities = [files.digest(bytes(own[pack])) for pack in range(packs) for _ in range(members)]
        paths.append(folder / f"{level}.slimtensors")
        paths[-1].write_bytes(files.build(files.header(tensors, **more), [[each] for each in made], identities))
    return paths


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For packs of bases."""
    monkeypatch.setattr(resolving, "KEPT_PACKS", 0)


@pytest.mark.usefixtures("no_room")
def test_packs_of_differences_from_packs_of_differences(tmp_path: Path, decoded: list[int]) -> None:
    """Each pack that one needs is decoded once for it, not once for each member."""
    top, *below = chain(tmp_path, packs=2, members=8, depth=4)
    found = load_file(top, base=below, threads=1)
    assert len(found) == 16
    assert not any(array.any() for array in found.values())
    assert len(decoded) <= 2 + 4 + 8 + 16 + 32


def test_packs_of_bases_are_kept(tmp_path: Path, decoded: list[int]) -> None:
    """While there is room each is decoded once for all."""
    top, *below = chain(tmp_path, packs=16, members=16, depth=8)
    found = load_file(top, base=below, threads=1)
    assert len(found) == 256
    assert not any(array.any() for array in found.values())
    assert len(decoded) == 9 * 16


@pytest.mark.parametrize("room", [0, 70_000])
def test_a_chain_that_would_take_for_ever(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """What it would take is told from headers alone."""
    monkeypatch.setattr(resolving, "KEPT_PACKS", room)
    top, *below = chain(tmp_path, packs=16, members=16, depth=8)
    with pytest.raises(slimtensors.LimitError, match=r"bytes would be decoded of bases and theirs.*`flatten` a base"):
        load_file(top, base=below)
    with pytest.raises(slimtensors.LimitError) as told:
        slimtensors.verify(top, base=below)
    assert "cannot be had" not in str(told.value)
    assert not decoded


@pytest.mark.usefixtures("no_room")
def test_max_bytes_reaches_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own bases may take more than is allowed of themselves, too."""
    for module in (reader, tensors, base_tensors):
        monkeypatch.setattr(module, "EXPANSION", 16)
        monkeypatch.setattr(module, "EXPANSION_SLACK", 0)
    top, *below = chain(tmp_path, packs=4, members=4, depth=5)
    with pytest.raises(slimtensors.LimitError, match="pass max_bytes"):
        load_file(top, base=below)
    with pytest.raises(slimtensors.LimitError, match="pass max_bytes"):
        load_file(below[0], base=below[1:])
    found = load_file(top, base=below, max_bytes=10_000_000)
    assert len(found) == 16
    # Less than a base decodes to takes nothing from the base.
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(units).astype(np.float32) for name, units in (("w", 100_000), ("x", 1000))}
    base, state["x"] = save(state), state["x"] * np.float32(1.0001)
    assert np.array_equal(load(save({"x": state["x"]}, base=base), base=base, max_bytes=4000)["x"], state["x"])


def test_tensors_in_another_order_at_each_level(monkeypatch: pytest.MonkeyPatch, decoded: list[int]) -> None:
    """Each pack of a level has tensors of all packs of the one below."""
    monkeypatch.setattr(tensors, "EXPANSION_SLACK", 0)
    monkeypatch.setattr(tensors, "EXPANSION", 8)
    monkeypatch.setattr(resolving, "MAX_TRIED_BASES", 100)
    rng, names = np.random.default_rng(0), [f"{i:03}" for i in range(512)]
    state = {name: rng.standard_normal(512).astype(np.float32) for name in names}
    files_of_levels = [save(state)]
    for _ in range(3):
        tuned = {name: state[name] * np.where(rng.random(512) < 0.1, 1.001, 1) for name in rng.permutation(names)}
        tuned = {name: array.astype(np.float32) for name, array in tuned.items()}
        files_of_levels.append(save(tuned, base=state))
        state = tuned
    *below, top = files_of_levels
    decoded.clear()
    found = load(top, base=below, threads=1)
    assert all(np.array_equal(found[name], array) for name, array in state.items())
    assert len(decoded) == 4 * 4


def test_a_base_whose_tensors_are_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made from it decodes each of its packs once."""
    rng, names = np.random.default_rng(0), [f"{i:03}" for i in range(512)]
    state = {name: rng.standard_normal(512).astype(np.float32) for name in names}
    base, found = Counting(save(state)), dict[tuple[object, int], int]()
    decode = tensors.TensorFile.decode_stored

    def counting(self: Any, number: int, *given: Any, **more: Any) -> None:
        if self.reader.source.label == "Counting":
            found[self, number] = found.get((self, number), 0) + 1
        decode(self, number, *given, **more)

    monkeypatch.setattr(tensors.TensorFile, "decode_stored", counting)
    save({name: state[name] * np.float32(1.0001) for name in rng.permutation(names)}, base=base, threads=1)
    assert set(found.values()) == {1}


def test_long_chains_without_branches_take_a_little_for_each_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "EXPANSION_SLACK", 0)
    rng, path = np.random.default_rng(1), tmp_path / "0.slimtensors"
    state = {f"{i}": rng.normal(size=1000 + i).astype(np.float32) for i in range(100)}
    state["large"] = rng.normal(size=1_000_000).astype(np.float32)
    save_file(state, path)
    for level in range(1, 9):
        state = {name: array * np.where(rng.random(array.shape) < 0.1, 1.001, 1) for name, array in state.items()}
        state = {name: array.astype(np.float32) for name, array in state.items()}
        base, path = path, tmp_path / f"{level}.slimtensors"
        save_file(state, path, base=[base, slimtensors.BaseDir(tmp_path)], preset=("small", "fast")[level % 2])
    found = load_file(path, base=slimtensors.BaseDir(tmp_path))
    assert all(np.array_equal(found[name], array) for name, array in state.items())
    with open_with(path, slimtensors.BaseDir(tmp_path)) as file:
        streams = [i for i, stream in enumerate(file.header.streams) if bases_of(stream.expression)]
        taken = sum(base_units.chunk_work(file, i).decoded * file.header.streams[i].chunks for i in streams)
    size = sum(array.nbytes for array in state.values())
    assert 7 * size < taken < 12 * size
