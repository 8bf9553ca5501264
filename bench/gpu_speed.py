"""Part of gpu_check: kernels beside the time in which the device copies as many bytes, and loading beside the link."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.gpu_files import TIMED, Tensors, path_of
from slimtensors.device.loading import Kept, begin_fill, fill_device
from slimtensors.resolving import open_with
from slimtensors.threads import thread_count
from slimtensors.torch_device import resident_of
from slimtensors.torch_tensors import as_base

__all__ = ["link_rates", "loading", "onto"]

REPEATS = 20
LOADS = 5


def onto(path: Path, backend: Any, base: Tensors | None = None) -> dict[str, Any]:
    """All tensors of a file, as bytes on the device. base: used there, if it is there."""
    with open_with(path, as_base(base)) as file:
        tensors = file.header.tensors
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(tensors)}
        fill_device(file, targets, backend, thread_count(None), resident=resident_of(base, backend))
        return {tensors[i].name: target for i, target in targets.items()}


def link_rates(backend: Any) -> dict[str, float]:
    """Bytes a second of a copy within the device, read and written, and from pinned memory."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    pinned = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source)
    within = _median(lambda: target.copy_(source))
    up = _median(lambda: target[: pinned.numel()].copy_(pinned, non_blocking=True))
    del backend
    return {"device copy": 2 * source.numel() / within, "pinned copy": pinned.numel() / up}


def _median(work: Callable[[], object]) -> float:
    """Seconds on torch's current stream, by events."""
    found = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(found)


def _timed(backend: Any) -> tuple[Any, dict[str, list[tuple[Any, Any]]]]:
    """A backend that notes when each kernel began and ended."""
    events: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    class Timed(type(backend)):  # type: ignore[misc] # whatever backend it is
        def launch(self, kernel: str, blocks: int, buffers: Sequence[Any]) -> None:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            super().launch(kernel, blocks, buffers)
            end.record()
            events[kernel].append((begin, end))

    return Timed(backend.device), events


def _seconds(work: Callable[[], object], backend: Any) -> float:
    """How long it takes, to the end of what it asked of the device."""
    began = time.perf_counter()
    work()
    backend.wait(backend.mark())
    return time.perf_counter() - began


def _from_pinned(path: Path, backend: Any, base: Tensors | None) -> tuple[float, float]:
    """Seconds from stored bytes in pinned memory to checked tensors; and of them, until all has been asked for."""
    totals, asked = [], []
    with open_with(path, as_base(base)) as file:
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(file.header.tensors)}
        kept = Kept()
        for _ in range(LOADS + 1):
            torch.cuda.synchronize()
            began = time.perf_counter()
            given = {"kept": kept, "resident": resident_of(base, backend)}
            filling = begin_fill(file, targets, backend, thread_count(None), **given)
            asked.append(time.perf_counter() - began)
            filling.check()
            totals.append(time.perf_counter() - began)
    return statistics.median(totals[1:]), statistics.median(asked[1:])


def loading(folder: Path, backend: Any, rates: dict[str, float], names: Sequence[str] = tuple(TIMED)) -> dict[str, Any]:
    """For each file: GB/s of decoded bytes from the page cache and from pinned memory, both also of what the link would
    bring; each kernel's time, and the time in which the device copies what is stored and what is decoded.
    """
    link, result = rates["pinned copy"], dict[str, Any]()
    for name in names:
        path, timed = path_of(folder, "timed", name), TIMED[name]
        if not path.exists():
            timed.save(path)
        base = None if timed.base is None else {name: each.cuda() for name, each in timed.base().items()}
        decoded = sum(len(each) for each in onto(path, backend, base).values())  # loads kernels
        stored = path.stat().st_size
        loads = [_seconds(lambda path=path, base=base: onto(path, backend, base), backend) for _ in range(LOADS)]  # type: ignore[misc] # of a lambda's default
        pinned, asked = _from_pinned(path, backend, base)
        noting, events = _timed(backend)
        onto(path, noting, base)
        torch.cuda.synchronize()
        kernels = {kernel: sum(a.elapsed_time(b) for a, b in pairs) for kernel, pairs in events.items()}
        decoding = sum(taken for kernel, taken in kernels.items() if kernel != "digest")
        result[name] = {
            "stored / decoded": stored / decoded,
            "load GB/s": decoded / statistics.median(loads) / 1e9,
            "load / floor of the link": stored / link / statistics.median(loads),
            "from pinned GB/s": decoded / pinned / 1e9,
            "from pinned / floor of the link": stored / link / pinned,
            "asking / all": asked / pinned,
            "kernels ms": kernels,
            "decoding GB/s": decoded / max(decoding, 1e-6) / 1e6,
            "copying as much GB/s": decoded / ((stored + decoded) / rates["device copy"]) / 1e9,
        }
        print(f"{name}: {result[name]}", flush=True)
    return result
