"""The JSON schema in format_spec says what the library writes and what the vectors hold."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from api.made import structured
from slimtensors.codecs.chunk import encode_chunk
from slimtensors.codecs.layouts import floats, usual
from slimtensors.container import schema as reader
from slimtensors.container.layout import PREFIX_BYTES, read_prefix
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError
from slimtensors.numpy import save

SPEC = Path(__file__).parents[2] / "format_spec"
VECTORS = sorted((SPEC / "vectors" / "valid").glob("*.slimtensors"))


def header_of(data: bytes) -> object:
    length = read_prefix(data[:PREFIX_BYTES], len(data)).header_length
    return json.loads(data[PREFIX_BYTES : PREFIX_BYTES + length])


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SPEC / "header.schema.json").read_text()))


def test_what_the_library_writes(schema: jsonschema.Draft202012Validator) -> None:
    schema.validate(header_of(save(structured(), {"a": "b"})))
    with pytest.raises(jsonschema.ValidationError):
        schema.validate({"tensors": [], "packs": [], "metadata": {}})


def test_side_planes_that_are_alike() -> None:
    """What one states is checked, also where another one states nearly the same."""
    side = {"chunk": 1, "dtype": "U8", "expression": 0, "shape": [1]}
    classes = {"class": [0, 1, 4]}
    plain, given = ({"bits": [{"plane": 8, **context}], "rotate": 0} for context in ({}, {"context": classes}))
    for changed in ({}, {"chunk": True}, {"shape": [True]}, {"expression": False}, {"dtype": "U9"}, {"more": 1}):
        tensors = [
            {"chunk": 1, "dtype": "F16", "expression": 1, "name": name, "shape": [1, 1], "sides": [side, last]}
            for name, last in (("a", side), ("b", side | changed))
        ]
        content = {"expressions": [plain, given], "metadata": {}, "packs": [], "tensors": tensors}
        if changed:
            with pytest.raises(FormatError):
                reader.check(content)
        else:
            assert len(set(map(id, reader.check(content).tensors[1].sides))) == 1


def test_the_vectors(schema: jsonschema.Draft202012Validator) -> None:
    assert len(VECTORS) > 20
    for path in VECTORS:
        schema.validate(header_of(path.read_bytes()))


def test_the_table_of_layouts_is_true() -> None:
    text = (SPEC / "codecs" / "floats.md").read_text()
    for name in ("BF16", "F16", "F32", "F64", "F8_E4M3"):
        for column, preset in ((1, "fast"), (2, "balanced")):
            (row,) = [line for line in text.splitlines() if line.startswith(f"| {name.split('_')[0]}")]
            cell = row.split("|")[1 + column].strip().replace("8 x 6", "8, 8, 8, 8, 8, 8")
            assert floats(DTYPES[name], preset).widths == tuple(int(width) for width in cell.split(","))


def test_the_worked_examples_are_true() -> None:
    floats_page, integers_page = ((SPEC / "codecs" / f"{name}.md").read_text() for name in ("floats", "integers"))
    alternating = np.tile(np.array([0x3F80, 0xBFC0], np.uint16), 128)
    chunk = encode_chunk(alternating, usual(DTYPES["BF16"], "balanced"))
    assert int.from_bytes(chunk[34:36], "little") == 0x1FB
    assert chunk[48:112] == bytes([0x00, 0x11]) * 32
    table = bytes.fromhex("01 03 80 10 00 80 10")
    assert chunk.count(table) == 1
    assert table.hex(" ").upper() in floats_page
    rising = encode_chunk(np.arange(512, dtype=np.uint64), usual(DTYPES["I64"], "balanced"))
    stated = "01 00 0000 00020000 0000000000000000", "0000000000000000", "0100000000000000"
    assert all(f"`{part}`" in integers_page for part in stated)
    assert rising == bytes.fromhex("".join(stated)).ljust(64, b"\0")
