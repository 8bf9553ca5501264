"""Small tables of a result, for pages that people choose by; report.py has the long ones."""

from __future__ import annotations

DTYPES = {"minilm-bf16": "BF16", "minilm-f16": "FP16", "minilm-f32": "FP32", "minilm-e4m3": "FP8 E4M3"}


def show(seen: float | None, form: str = "{:.2f}") -> str:
    """A figure, or nothing where there is none."""
    return "" if seen is None else form.format(seen)
