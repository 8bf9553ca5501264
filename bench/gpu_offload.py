"""Part of gpu_check: a model whose layers are decoded on the GPU when their turn comes, beside Accelerate's way."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from slimtensors.offload import keep_compressed, offload
from slimtensors.torch import save_model

__all__ = ["offloading"]

REPEATS = 7


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work().cpu()  # waits for it
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def offloading(
    folder: Path, make: Callable[[], torch.nn.Module], workloads: dict[str, torch.Tensor], device: Any, link: float
) -> dict[str, Any]:
    """Seconds of a forward pass, with all layers on the device as they are; with layers offloaded, from memory and from
    pinned memory; and with weights that stay compressed there: over those that the compressed bytes take at `link`
    bytes a second.

    wrong: outputs that differ from those of the same model on the device.
    """
    torch.manual_seed(2)
    model = make().eval().requires_grad_(False)
    path = folder / "model.slimtensors"
    save_model(model, path)
    stored = path.stat().st_size
    result: dict[str, Any] = {"stored MB": stored / 1e6, "wrong": []}
    with torch.no_grad():
        if importlib.util.find_spec("accelerate") is not None:
            accelerate = importlib.import_module("accelerate")
            placed = accelerate.cpu_offload(copy.deepcopy(model), torch.device(device))
            for name, tokens in workloads.items():
                result[name] = {"accelerate s": _seconds(lambda given=tokens: placed(given))}  # type: ignore[misc] # of a lambda's default
        model.to(device)
        expected = {name: model(tokens.to(device)).cpu() for name, tokens in workloads.items()}
        for name, tokens in workloads.items():
            there = tokens.to(device)
            result.setdefault(name, {})["resident s"] = _seconds(lambda given=there: model(given))  # type: ignore[misc] # as above
        for kind in ("memory", "pinned", "compressed on the device"):
            other = make().eval()
            held: Any
            if kind in ("memory", "pinned"):
                held = offload(other, path, device=device, host=kind)  # type: ignore[arg-type] # one of two
            else:
                held = keep_compressed(other, path, device=device)
            for name, tokens in workloads.items():
                there = tokens.to(device)
                if not torch.equal(other(there).cpu(), expected[name]):
                    result["wrong"].append(f"{kind}, {name}")
                taken = _seconds(lambda given=there, other=other: other(given))  # type: ignore[misc] # as above
                found = result[name]
                found[kind] = {"s": taken, "of compressed bytes / link": taken / (stored / link)}
                if "accelerate s" in found:
                    found[kind]["accelerate / ours"] = found["accelerate s"] / taken
            held.close()
    return result
