"""Both readers over every vector, and over odd files; what a plain load of an invalid file does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import decode
import slimtensors
import slimtensors.numpy
from encode_odd import odd_file
from format.far import LIMITS
from format.sides import Content, Refusal, by_library, by_reference
from slimtensors.errors import FormatError

VECTORS = Path(__file__).resolve().parents[2] / "format_spec" / "vectors"
VALID = sorted(VECTORS.glob("valid/*.slimtensors"))
INVALID = sorted(VECTORS.glob("invalid/*.slimtensors"))
ODD_SEEDS = range(10_000, 10_400)

# A load hands out tensors that agree with their chunks' digests. What only `verify` finds: identities and faults of
# the image.
ONLY_VERIFY = {
    "cast_identity",
    "chunks_exchanged",
    "identity_pack_member",
    "image_array",
    "image_bom",
    "image_cut",
    "image_dtype",
    "image_entry",
    "image_fewer",
    "image_gap_moved",
    "image_more",
    "image_name",
    "image_no_literal",
    "image_none",
    "image_place",
    "image_place_end",
    "image_place_missing",
    "image_place_three",
    "image_place_true",
    "image_sha",
    "image_shape",
    "image_shape_float",
    "image_shape_text",
    "image_short",
    "image_twice",
    "image_two_faces",
    "image_utf16",
}

INVALID_NAMES = [path.stem for path in INVALID]


def test_vectors_are_there() -> None:
    assert len(VALID) >= 40
    assert len(INVALID) >= 300
    assert {path.stem for path in INVALID} >= ONLY_VERIFY


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    content = by_library(path.read_bytes())
    assert content == by_reference(path.read_bytes())
    assert isinstance(content, Content)
    expected = json.loads(path.with_suffix(".json").read_text())
    assert content.file_id.hex() == expected["file_id"]
    assert content.metadata == expected["metadata"]
    assert (content.image and hashlib.sha256(content.image).hexdigest()) == expected["image_sha256"]
    assert content.tensors.keys() == expected["tensors"].keys()
    stated = {name: {"max": m, "nmse": n, "recipe": recipe} for name, (recipe, n, m) in content.lossy.items()}
    assert (content.source, stated) == tuple(expected.get("lossy", {"source": None, "tensors": {}}).values())
    for name, (dtype, shape, data) in content.tensors.items():
        tensor = expected["tensors"][name]
        assert (dtype, list(shape), decode.digest(data).hex()) == (tensor["dtype"], tensor["shape"], tensor["blake3"])


def invalid(name: str) -> bytes:
    return (VECTORS / "invalid" / f"{name}.slimtensors").read_bytes()


@pytest.mark.parametrize("name", INVALID_NAMES)
def test_invalid(name: str) -> None:
    refusal = by_library(invalid(name))
    assert isinstance(refusal, Refusal)
    assert refusal.newer == name.startswith("newer_"), refusal.reason


@pytest.mark.parametrize("name", INVALID_NAMES)
def test_invalid_is_not_loaded(name: str) -> None:
    if name in ONLY_VERIFY:
        slimtensors.numpy.load(invalid(name), threads=1)
        return
    with pytest.raises(FormatError):
        slimtensors.numpy.load(invalid(name), threads=1)


def test_odd_files() -> None:
    for seed in ODD_SEEDS:
        data, expected = odd_file(seed)
        content = by_library(data)
        assert isinstance(content, Content), (seed, content)
        assert (content.tensors, content.metadata, content.image) == (
            expected.tensors,
            expected.metadata,
            expected.image,
        ), seed


@pytest.mark.parametrize(("make", "limit"), LIMITS, ids=lambda value: getattr(value, "__name__", None))
def test_limit(make: Callable[[int], bytes], limit: int) -> None:
    slimtensors.verify(make(limit), threads=1)
    with pytest.raises(FormatError):
        slimtensors.verify(make(limit + 1), threads=1)
