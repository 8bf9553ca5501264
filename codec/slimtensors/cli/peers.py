"""Other compressors, if they are installed, as they are meant to be used on weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.dtypes import DType

__all__ = ["PEERS", "Block", "Peer"]

Units = npt.NDArray[Any]  # flat and unsigned
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn"}


class Block(NamedTuple):
    """Tensors of one dtype and encoding, one after the other; shapes in units."""

    dtype: DType
    units: Units
    shapes: list[tuple[int, ...]]
    encoding: str | None = None


class Peer(NamedTuple):
    """`encode(block, threads)` and `decode(blob, block, threads)`; `module` is what must be there to import."""

    name: str
    module: str
    encode: Callable[[Block, int], Any]
    decode: Callable[[Any, Block, int], Any]


def _zipnn(block: Block, threads: int) -> Any:
    name = DTYPE_NAMES[block.dtype.name]
    return importlib.import_module("zipnn").ZipNN(input_format="byte", bytearray_dtype=name, threads=threads)


def _zipnn_encode(block: Block, threads: int) -> Any:
    if block.dtype.name not in DTYPE_NAMES:  # it has nothing for integers
        return block.units.tobytes()
    return _zipnn(block, threads).compress(bytearray(block.units.view(np.uint8)))  # it overwrites its input


def _zipnn_decode(blob: Any, block: Block, threads: int) -> Any:
    return blob if block.dtype.name not in DTYPE_NAMES else _zipnn(block, threads).decompress(blob)


def _zstd_encode(block: Block, threads: int) -> Any:
    zstandard = importlib.import_module("zstandard")
    compressor = zstandard.ZstdCompressor(level=3, threads=threads if threads > 1 else 0)
    return compressor.compress(block.units.view(np.uint8))


def _zstd_decode(blob: Any, _block: Block, _threads: int) -> Any:
    return importlib.import_module("zstandard").ZstdDecompressor().decompress(blob)


def _blosc2(threads: int) -> Any:
    blosc2 = importlib.import_module("blosc2")
    blosc2.set_nthreads(threads)
    return blosc2


def _blosc2_encode(block: Block, threads: int) -> Any:
    blosc2 = _blosc2(threads)
    how = {"clevel": 1, "filter": blosc2.Filter.SHUFFLE, "codec": blosc2.Codec.ZSTD}
    return blosc2.compress(block.units, typesize=block.units.itemsize, **how)


def _blosc2_decode(blob: Any, _block: Block, threads: int) -> Any:
    return _blosc2(threads).decompress(blob)


def _lz4_encode(block: Block, _threads: int) -> Any:
    return importlib.import_module("lz4.frame").compress(block.units.view(np.uint8).data)


def _lz4_decode(blob: Any, _block: Block, _threads: int) -> Any:
    return importlib.import_module("lz4.frame").decompress(blob)


def _pcodec_encode(block: Block, _threads: int) -> Any:
    pcodec = importlib.import_module("pcodec")
    numbers = block.units.astype(np.uint16) if block.dtype.unit_bytes == 1 else block.units  # it has no 8-bit numbers
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}  # nor BF16, whose bits it takes as integers
    view = numbers.view(kinds.get(block.dtype.name, numbers.dtype))
    standalone = importlib.import_module("pcodec.standalone")
    return standalone.simple_compress(view, pcodec.ChunkConfig(compression_level=8))


def _pcodec_decode(blob: Any, block: Block, _threads: int) -> Any:
    numbers = importlib.import_module("pcodec.standalone").simple_decompress(blob)
    return numbers.astype(np.uint8) if block.dtype.unit_bytes == 1 else numbers


PEERS = [
    Peer("zipnn", "zipnn", _zipnn_encode, _zipnn_decode),
    Peer("zstd -3", "zstandard", _zstd_encode, _zstd_decode),
    Peer("blosc2 shuffle+zstd -1", "blosc2", _blosc2_encode, _blosc2_decode),
    Peer("lz4", "lz4.frame", _lz4_encode, _lz4_decode),
    Peer("pcodec -8", "pcodec.standalone", _pcodec_encode, _pcodec_decode),
]
