"""Small files that would have a reader take much memory or time: refused, in little of both."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import decode
import slimtensors
from faults import files, processes
from slimtensors import limits
from slimtensors.container import layout, reader
from slimtensors.container.source import BufferSource
from slimtensors.numpy import load, save

VECTORS = Path(__file__).parents[2] / "format_spec" / "vectors" / "invalid"
MEBIBYTE = 1 << 20
MOST_MEMORY = 1024  # MiB above the interpreter with all modules and kernels loaded (RLIMIT_AS)
MOST_SECONDS = 8  # of processor time; 1 or 2 on an idle machine, for the largest headers
LONG_HEADER = limits.MAX_HEADER_BYTES
MAIN = "import runpy; runpy.run_module('faults.measured', run_name='__main__')"

linux = pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc, limited by RLIMIT_AS")


def empty(name, shape=(0,), dtype="U8"):
    return {"dtype": dtype, "name": name, "shape": list(shape)}


def one(shape, chunk=None, **more):
    return files.header([{**empty("t", shape), "chunk": chunk or 1024, "expression": 0, **more}])


def repeated(element, around=b"[%s]", length=LONG_HEADER):
    count = (length - len(around)) // (len(element) + 1)
    return around % b",".join([element] * count)


def in_header(key, element):
    keys = {"expressions": b"[]", "metadata": b"{}", "packs": b"[]", "tensors": b"[]"}
    keys[key] = b"%s"
    around = b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in keys.items()) + b"}"
    return files.sealed(repeated(element, around.replace(b"%s", b"[%s]"), LONG_HEADER - 1))


def image(segments, tensors=(), literal=b""):
    data = bytes(32) + literal
    value = {"chunk": len(data), "expression": 0, "format": "safetensors", "segments": segments}
    return files.build(files.header(tensors, image=value), [[files.literal(data)]], [files.EMPTY] * len(tensors))


def ties(count, length=16 * MEBIBYTE):
    """One tensor of zeros in as few bytes as may be, and many that are equal to it."""
    chunk = files.zeros(length, length // 1024)
    head = one([length], length)
    head["expressions"].append({"ref": 0})
    head["tensors"] += [{**empty(f"t{i}", [length]), "expression": 1} for i in range(count)]
    identity = files.digest(chunk[1])
    return files.build(head, [[chunk]], [identity] * (count + 1))


SMALL = {
    "prefix alone": lambda: files.sealed(b""),
    "header length": lambda: files.sealed(b"{}", header_length=2**32 - 1),
    "index length": lambda: files.sealed(b"{}", index_length=2**32 - 1),
    "both lengths": lambda: files.sealed(b"{}", header_length=2**24, index_length=2**32 - 1),
    "file length": lambda: files.sealed(b"{}", file_length=2**63),
    "a dimension": lambda: files.build(one([2**48], 2**20)),
    "a dimension too large": lambda: files.build(one([2**48 + 1])),
    "a product of dimensions": lambda: files.build(one([2**24, 2**24, 2**24])),
    "dimensions beside a 0": lambda: files.build(files.header([empty("t", [0, 2**48, 2**48])]), [], [files.EMPTY]),
    "17 dimensions": lambda: files.build(one([1] * 17)),
    "a chunk of one": lambda: files.build(one([2**40], 1)),
    "a chunk too large": lambda: files.build(one([2**30], 2**30)),
    "a side plane of much": lambda: files.build(
        one([2**40], 2**20, sides=[{"chunk": 1, "dtype": "U8", "expression": 0, "shape": [2**40]}])
    ),
    "a number of 10^5 digits": lambda: files.sealed(b'{"a":' + b"9" * 100_000 + b"}"),
    "a name of 1 MiB": lambda: files.build(files.header([empty("n" * MEBIBYTE)]), [], [files.EMPTY]),
    "metadata of 9 MiB": lambda: files.build(files.header([], metadata={"k": "v" * (9 * MEBIBYTE)})),
    "literal bytes of an image": lambda: image([2**48]),
    "1025 decoded for each stored": lambda: files.build(
        one([16 * MEBIBYTE], 16 * MEBIBYTE), [[files.zeros(16 * MEBIBYTE, 16 * 1024 - 64)]], [bytes(32)]
    ),
    "stored length beyond the decoded": lambda: files.build(one([64], 64), [[files.zeros(64, 320)]], [bytes(32)]),
    "ties": lambda: ties(1000),
}
LARGE = {
    "arrays in arrays": lambda: files.sealed(b"[" * LONG_HEADER),
    "objects in objects": lambda: files.sealed(b'{"a":' * (LONG_HEADER // 5)),
    "empty arrays": lambda: files.sealed(repeated(b"[]")),
    "empty objects": lambda: files.sealed(repeated(b"{}")),
    "arrays of arrays": lambda: files.sealed(repeated(b"[[[[[[[]]]]]]]")),
    "numbers": lambda: files.sealed(repeated(b"7")),
    "texts": lambda: files.sealed(repeated(b'"ab"')),
    "controls": lambda: files.sealed(b'"%s"' % (b"\\u0001" * (LONG_HEADER // 6 - 1))),
    "keys": lambda: files.sealed(files.canonical({f"{i:07}": 0 for i in range(1_300_000)})),
    "expressions": lambda: in_header("expressions", b'{"ref":0}'),
    "planes": lambda: in_header("expressions", b'{"bits":[%s],"rotate":0}' % b",".join([b'{"plane":1}'] * 16)),
    "tensors, one too many": lambda: files.build(files.header([empty(str(i)) for i in range(2**17 + 1)])),
    "most ties": lambda: ties(limits.MAX_TENSORS - 1),
    "segments": lambda: image([1] * (2**18 + 2), literal=bytes(2**18 + 2)),
}


def measured(makers, tmp_path, *ways):
    for name, make in makers.items():
        (tmp_path / name).write_bytes(make())
    return processes.run(MAIN, MOST_MEMORY, tmp_path, *ways, timeout=300)


@linux
def test_small_files_take_little_memory_and_time(tmp_path):
    for made in measured(SMALL, tmp_path, "load", "verify"):
        assert made["ended"] in ("FormatError", "LimitError"), made
        assert made["mebibytes"] < 64, made
        assert made["seconds"] < MOST_SECONDS, made


@linux
def test_the_longest_headers_take_no_more_than_is_said(tmp_path):
    for made in measured(LARGE, tmp_path, "load"):
        assert made["ended"] in ("FormatError", "LimitError"), made
        assert made["mebibytes"] < 56 * LONG_HEADER // MEBIBYTE, made  # arrays in arrays take most, by far
        assert made["seconds"] < MOST_SECONDS, made


@linux
def test_the_bombs_among_the_test_vectors(tmp_path):
    for path in VECTORS.glob("bomb_*.slimtensors"):
        shutil.copy(path, tmp_path)
    made = measured({}, tmp_path, "load", "verify")
    assert len(made) > 20
    for each in made:
        assert each["ended"] in ("FormatError", "LimitError"), each
        assert each["mebibytes"] < 128, each
        assert each["seconds"] < MOST_SECONDS, each


def test_the_longest_index():
    """It is read as a whole before the header says how long it is. A file may be mostly holes."""
    tensor, image = 40 * (1 + limits.MAX_SIDES) + 32, 40
    longest = limits.MAX_TENSORS * tensor + image
    size = longest + 1024
    start = files.sealed(b"{}", file_length=size, index_length=longest)[:64]
    assert layout.read_prefix(start, size).index_length == longest
    with pytest.raises(decode.Refused, match="file id"):
        decode.read_prefix(start.ljust(size, b"\0"))
    start = files.sealed(b"{}", file_length=size, index_length=longest + 1)[:64]
    with pytest.raises(slimtensors.LimitError, match="the index is"):
        layout.read_prefix(start, size)
    with pytest.raises(decode.Refused, match="limit"):
        decode.read_prefix(start.ljust(size, b"\0"))


class Holes(BufferSource):
    """What is given, and zeros behind it."""

    taken = 0

    def size(self):
        return 1 << 44

    def read(self, offset, length):
        self.taken += length
        found = np.zeros(length, np.uint8)
        given = bytes(self._data[offset : offset + length])
        found[: len(given)] = np.frombuffer(given, np.uint8)
        return found


def test_little_is_read_ahead_of_a_file_of_holes():
    source = Holes(files.sealed(b"[" * MEBIBYTE, file_length=1 << 44))
    with pytest.raises(slimtensors.FormatError, match="the header"):
        reader.Reader(source)
    assert MEBIBYTE < source.taken < 64 * MEBIBYTE


def test_an_image_takes_each_tensor_once():
    """Else a small file gives back a source of any size, and whoever lists its tensors has them 2^35 times."""
    tensors = [empty(str(i)) for i in range(100)]
    for segments in ([[0, 100]] * 100, [[0, 2], [1, 1]], [[1, 1], [0, 1]]):
        with pytest.raises(slimtensors.FormatError, match="segment"):
            slimtensors.safe_open(image(segments, tensors))


def test_max_bytes():
    arrays = {"a": np.zeros(10**6), "b": np.ones(10**6)}
    data = save(arrays)
    for refuse in (0, 1, 16 * 10**6 - 1):
        with pytest.raises(slimtensors.LimitError, match="max_bytes"):
            load(data, max_bytes=refuse)
    assert load(data, max_bytes=16 * 10**6).keys() == arrays.keys()
    # More than 1024 times the file and 256 MiB: only if the caller says so.
    many = ties(300, MEBIBYTE)
    with pytest.raises(slimtensors.LimitError, match=f"{301 * MEBIBYTE} bytes decoded"):
        slimtensors.safe_open(many)
    with slimtensors.safe_open(many, max_bytes=301 * MEBIBYTE) as file:
        assert not file.get_tensor("t299").any()
    assert slimtensors.verify(many, max_bytes=301 * MEBIBYTE).tensors == 301


def test_constants_of_any_size_keep_the_rule_of_1024():
    for size in (1, 127, 128, 65536, 10**6, 10**8 + 7):
        data = save({"a": np.zeros(size, np.uint8)})
        assert size / 1024 <= len(data) <= size / 970 + 1200  # with their records
        with slimtensors.safe_open(data) as file:
            assert file.get_slice("a")[-1] == 0


def test_ties_of_what_takes_hardly_any_bytes_can_be_read():
    """Each counts, and 1024 times the file would not do: its chunks are longer than they need be."""
    zeros = np.zeros(96 * MEBIBYTE, np.uint8)
    zeros[1::MEBIBYTE] = 1
    data = save({str(i): zeros for i in range(4)})
    assert 2 / 1024 < len(data) / zeros.nbytes < 2.2 / 1024
    with slimtensors.safe_open(data) as file:
        assert file.get_slice("3")[:5].tolist() == [0, 1, 0, 0, 0]
    few = zeros[: MEBIBYTE // 4]
    with pytest.raises(slimtensors.UsageError, match="of which only 262144 are not those of others over again"):
        save({str(i): few for i in range(2100)})


def test_checked_bases_allow_more(monkeypatch, tmp_path):
    base = np.random.default_rng(1).integers(0, 256, 3 * MEBIBYTE, np.uint8)
    changed = base.copy()
    changed[5] ^= 1
    data = save({str(i): changed for i in range(20)}, base={"0": base}, self_check=False)
    monkeypatch.setattr(reader, "EXPANSION_SLACK", 0)
    monkeypatch.setattr(decode, "FREE_BYTES", 0)
    by_identity = {decode.digest(base.tobytes()): base.tobytes()}
    assert len(decode.decode_file(data, bases=by_identity.get).tensors) == 20
    assert (load(data, base={"0": base})["19"] == changed).all()
    assert slimtensors.verify(data, base={"0": base}).tensors == 20
    for name, content in (("tuned.slimtensors", data), ("base.slimtensors", save({"0": base}))):
        (tmp_path / name).write_bytes(content)  # the search meets the file itself, which is passed over
    assert (load(data, base=slimtensors.BaseDir(tmp_path))["19"] == changed).all()
    with pytest.raises(decode.Refused, match="over the limit"):
        decode.decode_file(data)
    for bases in ({}, {"base": {"0": changed}}, {"base": {"0": base}, "max_bytes": 10 * changed.nbytes}):
        with pytest.raises(slimtensors.LimitError, match=f"{20 * changed.nbytes} bytes decoded"):
            load(data, **bases)


def test_errors_have_a_length_to_be_read():
    """Whatever they quote."""
    long = "x" * MEBIBYTE
    for head in (
        files.header([empty("t", dtype=long)]),
        files.header([{**empty("t"), long: 0}]),
        files.header([empty(long)]),
        {**one([1]), "expressions": [{"ref": long}]},
        {**one([1]), "expressions": [{long: 0}]},
        {**one([1]), "metadata": {long: 0}},
    ):
        with pytest.raises(slimtensors.FormatError) as refused:
            load(files.build(head, [], [files.EMPTY]))
        assert len(str(refused.value)) < 1200
