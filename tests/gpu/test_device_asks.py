"""The bench of what a segment costs the processor, on small files."""

from __future__ import annotations

from bench.device_asks import table


def test_all_cases(monkeypatch):
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 512)
    found = table(1 / 32, 2, 2)  # what the device leaves is checked by `begin_fill`'s verdict
    assert list(found) == [
        "BF16, fast", "BF16, balanced", "F32, balanced", "BF16, chunks with ends, balanced",
        "BF16, half zeros, balanced", "BF16, differences, balanced", "F32, decimals, balanced",
    ]  # fmt: skip
    assert all(value > 0 for row in found.values() for value in row.values())
