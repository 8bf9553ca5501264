"""`save_pretrained` for models of transformers, in either layout."""

from __future__ import annotations

from typing import Any, Literal

from slimtensors.errors import UsageError
from slimtensors_hub.saving import save_compressed
from slimtensors_hub.transformers.payloads import save_payloads

__all__ = ["Layout", "save_pretrained"]

Layout = Literal["slimtensors", "safetensors"]


def save_pretrained(
    model: Any,
    save_directory: Any,
    *,
    layout: Layout = "slimtensors",
    preset: str = "balanced",
    base: Any = None,
    threads: int | None = None,
    self_check: bool = True,
    **kwargs: Any,
) -> None:
    """`model.save_pretrained(save_directory, **kwargs)` with compressed weights.

    layout: "slimtensors" writes model.slimtensors, or shards and their index: what `from_pretrained` here loads, and
    `slimtensors decompress` turns into the files that transformers would have written. "safetensors" writes valid
    .safetensors files whose tensors are the compressed ones, each a 1-D U8 tensor under its own name. transformers
    itself, pipelines too, loads them once this module is imported; without, it raises an error of mismatched sizes. It
    decodes one tensor after another, and takes no base.
    preset, base, threads, self_check: as for `slimtensors.compress`. kwargs: variant, max_shard_size of plain bytes.

    The folder keeps its old files until the new ones are complete. Raises UsageError if plain weights of the same name
    are in it.
    """
    if layout == "slimtensors":
        save_compressed(
            model, save_directory, preset=preset, base=base, threads=threads, self_check=self_check, **kwargs
        )
    elif layout == "safetensors":
        if base is not None:
            raise UsageError("layout 'safetensors' takes no base; use layout 'slimtensors' for differences")
        save_payloads(model, save_directory, preset=preset, threads=threads, self_check=self_check, **kwargs)
    else:
        raise UsageError(f"layout is {layout!r}; it can be slimtensors or safetensors")
