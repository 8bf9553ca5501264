"""The peers, each behind the same four calls; run as installed, nothing copied from them.

An *array peer* codes one flat array in memory. A *file peer* turns a safetensors file into its own file and back.
A peer that cannot be imported stays in the list with the reason, so that no report drops it in silence.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Buffer = Any  # bytes, bytearray, memoryview or array: whatever the peer takes and gives
FLOATS = ("F32", "BF16", "F16", "F8_E4M3")


@dataclass(frozen=True)
class ArrayPeer:
    """One codec of flat arrays."""

    name: str
    package: str
    dtypes: tuple[str, ...]
    prepare: Callable[[np.ndarray, str], Buffer]  # what the peer makes its callers do first; timed apart
    encode: Callable[[Buffer, str, int], Buffer]  # (prepared, dtype, threads)
    decode: Callable[[Buffer, str, int], Buffer]
    scales: bool = False  # has threads of its own
    copies: bool = False  # `prepare` is a copy worth timing, not a view
    note: str = ""


@dataclass(frozen=True)
class FilePeer:
    """One codec of safetensors files; `unpack` writes a safetensors file."""

    name: str
    package: str
    pack: Callable[[Path, Path, int], None]  # (source, target, threads)
    unpack: Callable[[Path, Path, int], None]
    exact_file: bool = True  # gives the file's bytes back, not only its tensors'
    scales: bool = True
    note: str = ""


def missing(package: str) -> str | None:
    """Why the package cannot be used, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except Exception as error:  # a broken build raises anything
        return f"{type(error).__name__}: {error}"
    return None


def units(array: np.ndarray) -> np.ndarray:
    """The array's bits as unsigned integers of its width."""
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


# --- ZipNN: overwrites its input, so every encode needs a copy made for it; the copy it makes inside is its own cost


def _zipnn(dtype: str, threads: int) -> Any:
    zipnn = importlib.import_module("zipnn")
    name = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn"}[dtype]
    return zipnn.ZipNN(input_format="byte", bytearray_dtype=name, threads=threads)


ZIPNN = ArrayPeer(
    "zipnn",
    "zipnn",
    FLOATS,
    prepare=lambda array, _: bytearray(array.reshape(-1).view(np.uint8)),
    encode=lambda data, dtype, threads: _zipnn(dtype, threads).compress(data),
    decode=lambda blob, dtype, threads: _zipnn(dtype, threads).decompress(blob),
    scales=True,
    copies=True,
    note="encode is net of the input copy it needs (it overwrites its input)",
)


# --- general compressors


def _zstd(level: int) -> ArrayPeer:
    def encode(data: Buffer, _dtype: str, threads: int) -> bytes:
        zstandard = importlib.import_module("zstandard")
        return bytes(zstandard.ZstdCompressor(level=level, threads=threads if threads > 1 else 0).compress(data))

    def decode(blob: Buffer, _dtype: str, _threads: int) -> bytes:
        return bytes(importlib.import_module("zstandard").ZstdDecompressor().decompress(blob))

    return ArrayPeer(f"zstd-{level}", "zstandard", FLOATS, lambda array, _: array.view(np.uint8), encode, decode)


def _blosc2(level: int) -> ArrayPeer:
    def encode(data: np.ndarray, _dtype: str, threads: int) -> bytes:
        blosc2 = importlib.import_module("blosc2")
        blosc2.set_nthreads(threads)
        shuffle, zstd = blosc2.Filter.SHUFFLE, blosc2.Codec.ZSTD
        return bytes(blosc2.compress(data, typesize=data.dtype.itemsize, clevel=level, filter=shuffle, codec=zstd))

    def decode(blob: Buffer, _dtype: str, threads: int) -> Buffer:
        blosc2 = importlib.import_module("blosc2")
        blosc2.set_nthreads(threads)
        return blosc2.decompress(blob)

    return ArrayPeer(
        f"blosc2-shuffle-zstd-{level}", "blosc2", FLOATS, lambda array, _: units(array), encode, decode, scales=True
    )


def _pcodec_encode(data: np.ndarray, _dtype: str, _threads: int) -> bytes:
    pcodec = importlib.import_module("pcodec")
    standalone = importlib.import_module("pcodec.standalone")
    return bytes(standalone.simple_compress(data, pcodec.ChunkConfig(compression_level=8)))


PCODEC = ArrayPeer(
    "pcodec-8",
    "pcodec",
    ("F32", "BF16", "F16"),
    # it has no BF16: the bits as uint16
    prepare=lambda array, dtype: array.reshape(-1).view({"F32": "f4", "F16": "f2", "BF16": "u2"}[dtype]),
    encode=_pcodec_encode,
    decode=lambda blob, *_: importlib.import_module("pcodec.standalone").simple_decompress(blob),
)


# --- OpenZL: graphs put together by hand from its own nodes


def _openzl_graph(oz: Any, compressor: Any, dtype: str) -> Any:
    entropy = oz.graphs.Entropy()(compressor)
    planes = oz.nodes.TransposeSplit()(compressor, entropy)
    if dtype == "BF16":
        return oz.nodes.BFloat16Deconstruct()(compressor, entropy, entropy)
    if dtype == "F32":
        return oz.nodes.Float32Deconstruct()(compressor, planes, entropy)
    if dtype == "F16":  # its Float16Deconstruct pads the 11 remaining bits to 16
        return oz.nodes.ConvertNumToStructLE()(compressor, planes)
    return entropy


def _openzl_encode(data: np.ndarray, dtype: str, _threads: int) -> bytes:
    oz = importlib.import_module("openzl.ext")
    compressor, context = oz.Compressor(), oz.CCtx()
    compressor.select_starting_graph(_openzl_graph(oz, compressor, dtype))
    context.ref_compressor(compressor)
    context.set_parameter(oz.CParam.FormatVersion, oz.MAX_FORMAT_VERSION)
    kind = oz.Type.Serial if dtype == "F8_E4M3" else oz.Type.Numeric
    return bytes(context.compress([oz.Input(kind, data)]))


OPENZL = ArrayPeer(
    "openzl",
    "openzl",
    FLOATS,
    prepare=lambda array, _: units(array),
    encode=_openzl_encode,
    decode=lambda blob, *_: importlib.import_module("openzl.ext").DCtx().decompress(blob)[0].content.as_bytes(),
    note="float deconstruction or byte planes, order-0 entropy; untrained, one frame, so not its best",
)

# --- file peers


def _bigsmall_pack(source: Path, target: Path, threads: int) -> None:
    importlib.import_module("bigsmall").compress(source, target, workers=threads, progress=False)


def _bigsmall_unpack(source: Path, target: Path, _threads: int) -> None:
    importlib.import_module("bigsmall").decompress(source, target, progress=False)


BIGSMALL = FilePeer(
    "bigsmall",
    "bigsmall",
    _bigsmall_pack,
    _bigsmall_unpack,
    exact_file=False,
    note="mode balanced, its default; only its encoder takes a number of threads",
)


def _z4ai_pack(source: Path, target: Path, threads: int) -> None:
    z4ai = importlib.import_module("z4ai.safetensors")
    z4ai.compress_file(str(source), str(target), threads=threads, workers=threads)


def _z4ai_unpack(source: Path, target: Path, threads: int) -> None:
    importlib.import_module("z4ai.safetensors").decompress_file(str(source), str(target), workers=threads)


Z4AI = FilePeer("z4ai", "z4ai", _z4ai_pack, _z4ai_unpack)

ZSTD_1, ZSTD_3 = _zstd(1), _zstd(3)
BLOSC2 = _blosc2(1)  # level 5, its default, came out larger on every file
ARRAY_PEERS = [ZIPNN, ZSTD_1, ZSTD_3, BLOSC2, PCODEC, OPENZL]
FILE_PEERS = [BIGSMALL, Z4AI]
WHOLE_FILE = {"zstd-1", "zstd-3"}  # array peers without a notion of dtype: the file is one array of bytes


def packed_tensors(peer: ArrayPeer, source: Any, threads: int = 1) -> int:
    """Bytes of a safetensors file coded tensor by tensor: its header, and for each tensor the smaller of the peer's
    bytes and the tensor's own. Every coded tensor is decoded and compared."""
    total: int = source.header_bytes
    for spec, array in source:
        if spec.dtype in peer.dtypes and array.size:
            flat = array.reshape(-1)
            blob = peer.encode(peer.prepare(flat, spec.dtype), spec.dtype, threads)
            check_same(peer.name, peer.decode(blob, spec.dtype, threads), flat)
            total += min(len(blob), array.nbytes)
        else:
            total += array.nbytes
    return total


def check_same(name: str, decoded: Buffer, array: np.ndarray) -> None:
    """Raises unless the decoded bytes are those of the array."""
    got = decoded.reshape(-1).view(np.uint8) if isinstance(decoded, np.ndarray) else np.frombuffer(decoded, np.uint8)
    if not np.array_equal(got, array.reshape(-1).view(np.uint8)):
        raise RuntimeError(f"{name} did not give back what it was given")


def version(package: str) -> str:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def versions() -> dict[str, str]:
    """The version of every peer, or why there is none."""
    packages = {peer.package for peer in [*ARRAY_PEERS, *FILE_PEERS]} | {"safetensors", "torch"}
    reasons = {package: missing(package) for package in sorted(packages)}
    return {package: f"missing ({why})" if why else version(package) for package, why in reasons.items()}


if __name__ == "__main__":
    print(json.dumps(versions(), indent=1))
