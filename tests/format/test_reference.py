"""The reference decoder alone: over the vectors, over odd files, and at limits too far for vectors."""

from __future__ import annotations

import collections
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import coder
import decode
import expressions
from encode import raw_payload
from encode_odd import odd_file
from format.far import LIMITS
from format.sides import known_bases
from parts import Parts
from writer import BYTES, Source, Writer

VECTORS = Path(__file__).resolve().parents[2] / "format_spec" / "vectors"
VALID = sorted(VECTORS.glob("valid/*.slimtensors"))
INVALID = sorted(VECTORS.glob("invalid/*.slimtensors"))
ODD_FILES = 400


def test_vectors_are_there() -> None:
    assert len(VALID) >= 40
    assert len(INVALID) >= 300
    readme = (VECTORS / "README.md").read_text()
    assert all(f"| `{path.stem}` |" in readme for path in VALID + INVALID)


def test_vectors_are_as_made() -> None:
    made = subprocess.run([sys.executable, VECTORS / "make.py", "--check"], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout) == (0, ""), made.stderr


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    file = decode.decode_file(path.read_bytes(), bases=known_bases().get)
    expected = json.loads(path.with_suffix(".json").read_text())
    assert file.file_id.hex() == expected["file_id"]
    assert file.metadata == expected["metadata"]
    image = None if file.image is None else hashlib.sha256(file.image).hexdigest()
    assert image == expected["image_sha256"]
    assert file.tensors.keys() == expected["tensors"].keys()
    for name, (dtype, shape, data) in file.tensors.items():
        tensor = expected["tensors"][name]
        assert (dtype, list(shape), decode.digest(data).hex()) == (tensor["dtype"], tensor["shape"], tensor["blake3"])
        assert data.hex() == tensor.get("bytes", data.hex())


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    with pytest.raises(decode.Refused) as refused:
        decode.decode_file(path.read_bytes(), bases=known_bases().get)
    assert isinstance(refused.value, decode.NeedsNewerReader) == path.stem.startswith("newer_")
    assert str(refused.value) != "a base that was not given"  # which hides what is wrong


def test_odd_files() -> None:
    seen: collections.Counter[object] = collections.Counter()
    for seed in range(ODD_FILES):
        data, expected = odd_file(seed)
        file = decode.decode_file(data)
        assert file.tensors == expected.tensors, seed
        assert (file.metadata, file.image) == (expected.metadata, expected.image), seed
        parts = Parts.split(data)
        assert parts.join() == data, seed
        seen.update(features(parts))
    modes = [("mode", mode, p) for mode in (decode.CODED, decode.BYPASS) for p in (11, 12)]
    modes += [("mode", mode, 0) for mode in (decode.CONSTANT, decode.RAW, decode.ZSTD)]
    kinds = [("kind", kind) for kind in (decode.LITERAL, decode.AFFINE, decode.PLANES)]
    others = ["blocks", "escapes", "base", "tail", "sides", "pack", "ref", "none", "image", "several chunks", "rotate"]
    others.append("sparse")
    assert not [what for what in [*modes, *kinds, *others] if seen[what] < 5], seen


def features(parts: Parts) -> list[object]:
    """What a file has of the things the format knows."""
    out: list[object] = ["image"] if "image" in parts.json else []
    out += ["rotate" for e in parts.json["expressions"] if e.get("rotate")]
    out += ["sparse" for e in parts.json["expressions"] if "scatter" in e]
    out += ["ref" for e in parts.json["expressions"] if "ref" in e]
    for tensor in parts.json["tensors"]:
        out += [key for key in ("sides", "pack") if key in tensor] + ["none"] * (0 in tensor["shape"])
    out += ["several chunks" for stream in parts.streams if len(stream.chunks) > 1]
    for chunk in parts.chunks():
        kind, planes, _, n, _ = decode.HEAD.unpack_from(chunk.stored)
        out.append(("kind", kind))
        out += ["tail"] if planes and n % 128 else []
        for i in range(planes):
            mode, precision, base, _, blocks, escapes = decode.DESCRIPTOR.unpack_from(chunk.stored, 16 + 16 * i)
            out.append(("mode", mode, precision))
            out += ["blocks"] * (blocks > 1) + ["escapes"] * (escapes > 0) + ["base"] * (base > 0)
    return out


def test_example_of_packed_bits() -> None:
    """The example of `coder.md`, section 2."""
    payload = raw_payload([i % 64 for i in range(128)], 6)
    assert (payload[1], payload[33], payload[65]) == (0x11, 0x11, 0x88)
    assert coder.raw(payload, 6, 1) == [i % 64 for i in range(128)]


def test_example_of_bits() -> None:
    """The example of `expressions.md`, section 2."""
    split = expressions.parse_expression({"bits": [{"plane": 6}, {"plane": 10}], "rotate": 1})
    assert isinstance(split, expressions.Bits)
    assert expressions.combine([[0, 1], [0x1FC, 0x1FE]], split, 16) == [0x3F80, 0xBFC0]


def test_example_of_a_mask() -> None:
    """The example of `expressions.md`, section 3.2."""
    assert expressions.scattered([0x12], [7, 9], 8) == [0, 7, 0, 0, 9, 0, 0, 0]


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "limit"), LIMITS, ids=lambda value: getattr(value, "__name__", None))
def test_limit(make: object, limit: int) -> None:
    decode.decode_file(make(limit))
    with pytest.raises(decode.Refused):
        decode.decode_file(make(limit + 1))


def test_callers_limit() -> None:
    writer = Writer()
    writer.tensor("t", Source("U8", (100,), bytes(100), BYTES))
    writer.ref("tie", 0)
    data = writer.parts().join()
    assert len(decode.decode_file(data, max_decoded=200).tensors) == 2
    with pytest.raises(decode.Refused, match="over the limit"):
        decode.decode_file(data, max_decoded=199)


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert decode.main([str(VECTORS / "valid" / "image.slimtensors")]) == 0
    assert "t0  U8[5]" in capsys.readouterr().out
    assert decode.main([str(VECTORS / "invalid" / "magic.slimtensors")]) == 1
    assert "refused: magic" in capsys.readouterr().err
