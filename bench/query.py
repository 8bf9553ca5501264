"""Finding records in a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Result = dict[str, Any]
Record = dict[str, Any]


def records(result: Result, section: str, **labels: Any) -> Iterator[Record]:
    """Every record of a section that has all of these labels and was measured."""
    for record in result["sections"].get(section, {}).get("records", []):
        if "missing" not in record and all(record.get(key) == value for key, value in labels.items()):
            yield record


def value(result: Result, section: str, field: str, **labels: Any) -> float | None:
    """One figure, or None if nothing or more than one thing answers to the labels."""
    found = [record[field] for record in records(result, section, **labels) if field in record]
    return float(found[0]) if len(found) == 1 else None


def absent(result: Result) -> dict[str, str]:
    """Codecs that could not be run, with the reason."""
    return {
        record["codec"]: record["missing"]
        for section in result["sections"].values()
        for record in section["records"]
        if "missing" in record
    }
