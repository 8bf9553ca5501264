"""python -m bench.data.merged: LoRA adapters merged into MiniLM by PEFT's own `merge_and_unload`.

Needs requirements-merged.txt, best in an environment of its own. `merged-r<rank>-<share>-f32` and `-bf16` are merges
into the model in that dtype, whose bases are `minilm-f32` and `minilm-bf16`. The adapters sit on every linear layer of
the encoder; A as PEFT draws it, B normal, scaled so that the product's deviation is `share` per cent of the weight's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import torch

from bench.data.files import CACHE, model_path, path_of
from bench.data.safefile import SafeFile, write

RANKS, SHARES = (8, 16), (1, 5)
NAMES = tuple(f"merged-r{rank}-{share}-{dtype}" for rank in RANKS for share in SHARES for dtype in ("bf16", "f32"))
LAYERS = ("query", "key", "value", "dense")


def _adapted(model: Any) -> Iterator[Any]:
    """The layers that have an adapter."""
    for _, layer in sorted(model.named_modules()):
        if hasattr(layer, "lora_B"):
            yield layer


def _fill(layer: Any, share: float, generator: torch.Generator) -> None:
    """A B whose product with A, times the adapter's scale, deviates by `share` of what the weight does."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    draw = torch.randn(b.shape, generator=generator)
    product = draw @ a.float() * layer.scaling["default"]
    draw *= share * layer.get_base_layer().weight.float().std() / product.std()
    with torch.no_grad():
        b.copy_(draw)


def _units(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """The bits of a tensor, which NumPy has no BF16 for."""
    if dtype == "BF16":
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()


def make(name: str) -> None:
    """Writes the file `name`."""
    peft, transformers = (importlib.import_module(module) for module in ("peft", "transformers"))
    torch.set_num_threads(1)
    torch.manual_seed(4)  # of A
    _, rank, share, dtype = name.split("-")
    kind = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    model = transformers.AutoModel.from_pretrained(model_path().parent, dtype=kind)
    rank_number = int(rank.removeprefix("r"))
    config = peft.LoraConfig(
        r=rank_number, lora_alpha=2 * rank_number, target_modules=list(LAYERS), exclude_modules="pooler.*"
    )
    adapted, generator = peft.get_peft_model(model, config), torch.Generator().manual_seed(5)
    for layer in _adapted(adapted):
        _fill(layer, int(share) / 100, generator)
    state = adapted.merge_and_unload().state_dict()
    base = SafeFile(path_of(f"minilm-{dtype}"))
    arrays = (
        _units(state[spec.name], spec.dtype) if spec.is_float else base.array(spec) for spec in base.specs
    )  # position ids are no parameter
    write(CACHE / f"{name}.safetensors", base.specs, arrays)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        if not (CACHE / f"{wanted}.safetensors").exists():
            make(wanted)
