"""Say what a file is when it is not what it should be, and what to do about it. Looks at bytes; opens nothing."""

from __future__ import annotations

from slimtensors.container.layout import MAGIC
from slimtensors.container.source import ByteSource
from slimtensors.errors import FormatError, NotSlimtensorsError, SlimtensorsError, TruncatedError

__all__ = ["explain", "what_is"]

LOOK = 512
JSON = "a JSON text"
MAX_SAFETENSORS_HEADER = 100_000_000

_TO_SAFETENSORS = (
    "loading a pickle can run code, so it is never opened here; if you trust it, convert it: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
)

_STARTS = [
    (b"PK\x03\x04", "a zip archive, probably PyTorch's pickle format (.pt, .bin, .ckpt)", _TO_SAFETENSORS),
    (b"\x80\x02", "a Python pickle, probably an old PyTorch checkpoint", _TO_SAFETENSORS),
    (b"\x80\x03", "a Python pickle", _TO_SAFETENSORS),
    (b"\x80\x04", "a Python pickle", _TO_SAFETENSORS),
    (b"\x80\x05", "a Python pickle", _TO_SAFETENSORS),
    (b"ZN", "a ZipNN file", "decompress it with zipnn first"),
    (b"BGSM", "a BigSmall file", "decompress it with bigsmall first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "decompress it with zstd first"),
    (b"\x1f\x8b", "a gzip file", "decompress it with gunzip first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "convert it to safetensors first"),
    (b"\x93NUMPY", "a NumPy .npy file", "load it with numpy.load and save it with slimtensors.numpy.save_file"),
]


def what_is(source: ByteSource) -> tuple[str, str]:
    """(kind, advice): kind is "slimtensors", "safetensors", "gguf", or words for a person; advice may be empty."""
    size = source.size()
    if size == 0:
        return "an empty file", "download or copy it again"
    start = source.read(0, min(size, LOOK)).tobytes()
    if start.startswith(MAGIC):
        return "slimtensors", ""
    if start[:4] == MAGIC[:4]:
        return "a slimtensors file whose line ends were changed in transfer", "transfer it again in binary mode"
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return "safetensors", ""
    if start.startswith(b"GGUF"):
        return "gguf", ""
    for magic, kind, advice in _STARTS:
        if start.startswith(magic):
            return kind, advice
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        advice = "the download was redirected to a page: check the address and your login"
        return "a web page, not the file itself", advice
    if text.startswith((b"{", b"[")):
        return JSON, "an index of shards? then give its folder"
    return "of an unknown kind", ""


def explain(source: ByteSource, error: FormatError) -> SlimtensorsError:
    """A better error for a file that is not slimtensors at all; otherwise the same one, with the file's name."""
    try:
        kind, advice = what_is(source)
    except (SlimtensorsError, OSError):
        kind, advice = "slimtensors", ""
    if kind == "slimtensors":
        return type(error)(f"{source.label}: {error}") if source.label not in str(error) else error
    if kind == "safetensors":
        advice = "it is not compressed: load it with safetensors, or compress it with `slimtensors compress`"
        kind = "a safetensors file"
    if kind == "gguf":
        advice = "it is not compressed: load it with what reads GGUF, or compress it with `slimtensors compress`"
        kind = "a GGUF file"
    if isinstance(error, TruncatedError) and kind == "of an unknown kind":
        return TruncatedError(f"{source.label}: {error}")
    if kind == JSON:
        advice = (
            "an index of shards? stream_tensors, load_model, apply_delta and `slimtensors verify`, `inspect`, `deps`, "
            "`decompress`, `flatten`, `rebase` and `salvage` take it, load_file and safe_open one shard after the other"
        )
    rest = f"; {advice}" if advice else ""
    return NotSlimtensorsError(f"{source.label} is not a slimtensors file but {kind}{rest}")
