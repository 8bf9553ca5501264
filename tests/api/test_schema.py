"""The JSON schema in format_spec says what the library writes and what the vectors hold."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from api.made import structured
from slimtensors.codecs.layouts import floats
from slimtensors.container.layout import PREFIX_BYTES, read_prefix
from slimtensors.dtypes import DTYPES
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
