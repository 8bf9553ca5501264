"""The tensors of a file that can be compressed."""

from __future__ import annotations

from slimtensors.container.source import ByteSource
from slimtensors.errors import NotSlimtensorsError, UsageError
from slimtensors.gguf.file import read_gguf
from slimtensors.sources.inputs import SourceFile
from slimtensors.sources.recognise import what_is
from slimtensors.sources.safetensors_file import read_safetensors

__all__ = ["open_weights"]


def open_weights(source: ByteSource) -> SourceFile:
    """The tensors of a safetensors or GGUF source. Raises NotSlimtensorsError for one of another kind, with advice."""
    kind, advice = what_is(source)
    if kind == "slimtensors":
        raise UsageError(f"{source.label} is compressed already; decompress it first, to store it another way")
    if kind == "gguf":
        return read_gguf(source)
    if kind not in ("safetensors", "of an unknown kind"):
        raise NotSlimtensorsError(
            f"{source.label} is neither safetensors nor GGUF but {kind}" + (f"; {advice}" if advice else "")
        )
    return read_safetensors(source)
