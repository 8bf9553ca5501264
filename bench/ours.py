"""slimtensors behind the calls the harness makes; everything that knows our API is in this file."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PRESETS = ("fast", "balanced")


def _package() -> Any:
    return importlib.import_module("slimtensors")


def missing() -> str | None:
    """Why slimtensors cannot be measured, or None."""
    try:
        package = _package()
        absent = [name for name in ("compress", "decompress", "encode", "decode") if not hasattr(package, name)]
    except Exception as error:  # an unfinished checkout raises anything
        return f"{type(error).__name__}: {error}"
    return f"slimtensors lacks {', '.join(absent)}" if absent else None


def version() -> str:
    """Our version, or why there is none."""
    return missing() or str(_package().__version__)


def instruction_set() -> str:
    """What the kernels were compiled for in this process."""
    try:
        return str(importlib.import_module("slimtensors.kernels.instruction_set").chosen())
    except (ImportError, AttributeError) as error:
        return f"unknown ({error})"


def lacks_base() -> str | None:
    """Why there are no deltas from a base, or None."""
    calls = (_package().compress, _package().decompress)
    return None if all("base" in inspect.signature(call).parameters for call in calls) else "no deltas from a base yet"


def lacks_preset(preset: str) -> str | None:
    """Why a preset cannot be measured, or None."""
    try:
        _package().encode(np.zeros(64, np.float32), preset=preset)
    except ValueError as error:
        return str(error)
    return None


def compress(
    source: Path,
    target: Path,
    preset: str,
    threads: int,
    self_check: bool = True,
    base: Path | None = None,
    quantise: str | None = None,
) -> None:
    """A safetensors file to ours."""
    extra: dict[str, Any] = {} if base is None else {"base": base}
    if quantise is not None:
        extra["quantise"] = quantise
    _package().compress(source, target, preset=preset, threads=threads, self_check=self_check, **extra)


def decompress(source: Path, target: Path, threads: int, base: Path | None = None) -> None:
    """Our file to the safetensors file it was made from."""
    extra = {} if base is None else {"base": base}
    _package().decompress(source, target, threads=threads, **extra)


def encode(array: np.ndarray, preset: str, threads: int, self_check: bool = False) -> bytes:
    """One array to a whole container, digests included."""
    data: bytes = _package().encode(array, preset=preset, threads=threads, self_check=self_check)
    return data


def decode(data: bytes, threads: int, verify: str = "none", out: np.ndarray | None = None) -> np.ndarray:
    """The array in a container; into `out` if given."""
    array: np.ndarray = _package().decode(data, threads=threads, verify=verify, out=out)
    return array


def stored_bits(path: Path, wanted: Callable[[str, tuple[int, ...]], bool]) -> float | None:
    """Stored bits per weight of the tensors that are wanted, if there are any."""
    tensors = [t for t in _package().inspect(path).tensors if wanted(t.name, t.shape)]
    weights = sum(math.prod(t.shape) for t in tensors)
    return 8 * sum(t.stored_bytes for t in tensors) / weights if weights else None


def share_of_differences(path: Path) -> float:
    """How many of the weights are stored as differences from a base, of 1."""
    tensors = _package().inspect(path).tensors
    based = sum(math.prod(t.shape) for t in tensors if t.base is not None)
    return based / sum(math.prod(t.shape) for t in tensors)


def load_file(path: Path, threads: int, verify: str) -> dict[str, np.ndarray]:
    """Every tensor of our file as NumPy arrays."""
    numpy_api = importlib.import_module("slimtensors.numpy")
    loaded: dict[str, np.ndarray] = numpy_api.load_file(path, verify=verify, threads=threads)
    return loaded


def load(data: bytes, threads: int, verify: str, base: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Every tensor of our file in memory; `base` holds what they are differences from."""
    numpy_api = importlib.import_module("slimtensors.numpy")
    loaded: dict[str, np.ndarray] = numpy_api.load(data, verify=verify, threads=threads, base=base)
    return loaded


def save_file(tensors: dict[str, np.ndarray], path: Path, preset: str) -> None:
    """Arrays to our file."""
    importlib.import_module("slimtensors.numpy").save_file(tensors, path, preset=preset)


def _plan(array: np.ndarray, preset: str) -> tuple[Any, int]:
    """The usual layout of the array's dtype, and the units of a chunk."""
    dtype = importlib.import_module("slimtensors.dtypes").from_numpy(array.dtype)
    bits = importlib.import_module("slimtensors.codecs.layouts").floats(dtype, preset)
    return bits, importlib.import_module("slimtensors.planning.chunking").chunk_units(array.size, dtype)


def _aligned(data: bytes) -> np.ndarray:
    """As bytes at an address that 64 divides, where a reader would put them."""
    room = np.empty(len(data) + 64, np.uint8)
    begin = -room.ctypes.data % 64
    room[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
    return room[begin : begin + len(data)]


def raw_encode(array: np.ndarray, preset: str) -> list[bytes]:
    """The codec alone, one chunk after the other on one thread: no planning, no container, no digests."""
    encode_chunk = importlib.import_module("slimtensors.codecs.chunk").encode_chunk
    bits, step = _plan(array, preset)
    units = array.reshape(-1).view(f"<u{array.dtype.itemsize}")
    return [encode_chunk(units[i : i + step], bits) for i in range(0, units.size, step)]


def raw_prepare(chunks: list[bytes]) -> list[np.ndarray]:
    """What raw_decode takes."""
    return [_aligned(chunk) for chunk in chunks]


def raw_decode(chunks: list[np.ndarray], like: np.ndarray, preset: str) -> np.ndarray:
    """The codec alone, into a fresh array of the same shape and dtype as `like`."""
    decode_chunk = importlib.import_module("slimtensors.codecs.chunk").decode_chunk
    bits, step = _plan(like, preset)
    out = np.empty_like(like)
    units = out.reshape(-1).view(f"<u{out.dtype.itemsize}")
    for i, chunk in enumerate(chunks):
        decode_chunk(chunk, bits, units[i * step : (i + 1) * step])
    return out


def names(path: Path, start: str) -> list[str]:
    """Tensors of a file of ours whose names begin so."""
    with importlib.import_module("slimtensors.reading.tensors").open_file(path, verify="none") as file:
        return [name for name in file.index if name.startswith(start)]


def means(path: Path) -> dict[str, int]:
    """Of the tensors of a file of ours that have classes of rows and columns: the rank of their mean, 0 without one."""
    found = {}
    with importlib.import_module("slimtensors.reading.tensors").open_file(path, verify="none") as file:
        for index, tensor in enumerate(file.header.tensors):
            number = file.header.tensor_stream[index]
            for context in () if number is None else file.header.streams[number].bits.contexts:
                if type(context).__name__ == "ClassContext":
                    found[tensor.name] = 0 if context.mean is None else context.mean.rank
    return found


def part_bytes(path: Path, tensors: list[str], rows: tuple[int, int] | None = None) -> int:
    """What tensors take in a file of ours: prefix, header, index, table, and every chunk that holds some of them.

    rows: of the first dimension, if not all of it is wanted.
    """
    scheduling = importlib.import_module("slimtensors.reading.scheduling")
    with importlib.import_module("slimtensors.reading.tensors").open_file(path, verify="none") as file:
        ranges = []
        for name in tensors:
            tensor = file.tensor(name)
            row = tensor.units // tensor.shape[0] if tensor.shape else tensor.units
            low, high = rows or (0, tensor.units // row)
            ranges.append(scheduling.Range(file.index[name], low * row, (high - low) * row))
        jobs = scheduling.schedule(file.header, ranges, file.reader.records)
        return int(file.reader.chunks_at + sum(job.length for job in jobs))
