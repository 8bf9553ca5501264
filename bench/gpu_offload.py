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

from bench.sections.offload import WORDS, plain_model
from bench.sections.offload import WORKLOADS as SHAPES
from slimtensors.offload import keep_compressed, offload
from slimtensors.torch import save_model

__all__ = ["WORKLOADS", "large_model", "offloading"]

REPEATS = 7
WIDTH, INNER, LAYERS = 4096, 14336, 8  # layers as an 8B Llama has them, of 470 MB
WORKLOADS = {name: torch.arange(n * each).reshape(n, each) % WORDS for name, (n, each) in SHAPES.items()}


def large_model(filled: bool) -> torch.nn.Module:
    """In BF16; random, or with weights of linear layers that are nowhere, for a file to fill."""
    with torch.device("cuda" if filled else "meta"):
        model: torch.nn.Module = plain_model(WIDTH, INNER, LAYERS).to(torch.bfloat16)
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            if filled:
                torch.nn.init.normal_(module.weight, std=0.02)
        elif not filled and next(module.parameters(recurse=False), None) is not None:
            module.to_empty(device="cpu", recurse=False)
    return model.cpu() if filled else model


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work().cpu()  # waits for it
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def offloading(
    folder: Path, make: Callable[[bool], torch.nn.Module], workloads: dict[str, torch.Tensor], device: Any, link: float
) -> dict[str, Any]:
    """make: a model; its weights are of no matter unless it is asked for them.

    Seconds of a forward pass, with all layers on the device as they are; with layers offloaded, from memory and from
    pinned memory; and with weights that stay compressed there: over those that the compressed bytes take at `link`
    bytes a second.

    wrong: outputs that differ from those of the same model on the device.
    """
    torch.manual_seed(2)
    model = make(True).eval().requires_grad_(False)
    path = folder / "model.slimtensors"
    save_model(model, path, self_check=False)
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
            other = make(False).eval().requires_grad_(False)
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
