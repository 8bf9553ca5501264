"""Part of gpu_check: kernels beside the time in which the device copies as many bytes, and loading beside the link."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file as load_plain
from safetensors.torch import save_file as save_plain

from bench.gpu_files import TIMED, Tensors, path_of
from bench.gpu_peers import median_ms
from slimtensors.bases.resolving import open_with
from slimtensors.device import loading as device_loading
from slimtensors.device.loading import Kept, begin_fill, fill_device
from slimtensors.on_torch.device import resident_of
from slimtensors.on_torch.tensors import as_base
from slimtensors.threads import thread_count
from slimtensors.torch import load_file

__all__ = ["beside_safetensors", "kernel_times", "link_rates", "loading", "onto"]

LOADS = 5
AT_ONCE = 1 << 30  # stored bytes, for launches that fill a device; what is usual leaves it half empty


def onto(path: Path, backend: Any, base: Tensors | None = None) -> dict[str, Any]:
    """All tensors of a file, as bytes on the device. base: used there, if it is there."""
    with open_with(path, as_base(base)) as file:
        tensors = file.header.tensors
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(tensors)}
        fill_device(file, targets, backend, thread_count(None), resident=resident_of(base, backend))
        return {tensors[i].name: target for i, target in targets.items()}


def link_rates() -> dict[str, float]:
    """Bytes a second of a copy within the device, read and written, and from pinned memory."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    pinned = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source)
    within = median_ms(lambda: target.copy_(source))
    up = median_ms(lambda: target[: pinned.numel()].copy_(pinned, non_blocking=True))
    return {"device copy": 2e3 * source.numel() / within, "pinned copy": 1e3 * pinned.numel() / up}


def _launches(path: Path, backend: Any, base: Tensors | None) -> list[tuple[str, int, list[Any]]]:
    """What a file's kernels are launched with, stored bytes on the device."""
    found: list[tuple[str, int, list[Any]]] = []

    class Noting(type(backend)):  # type: ignore[misc] # whatever backend it is
        def launch(self, kernel: str, blocks: int, buffers: Sequence[Any]) -> None:
            found.append((kernel, blocks, list(buffers)))  # which keeps them
            super().launch(kernel, blocks, buffers)

    with open_with(path, as_base(base)) as file:
        targets = {i: backend.fresh(tensor.nbytes) for i, tensor in enumerate(file.header.tensors)}
        resident = resident_of(base, backend)
        noting = Noting(backend.device)
        begin_fill(file, targets, noting, thread_count(None), resident=resident, kept=Kept(on_device=True)).check()
        found.append(("", 0, list(targets.values())))
    return found


def kernel_times(path: Path, backend: Any, base: Tensors | None) -> dict[str, float]:
    """Milliseconds of each kernel, all of a file's launches of it one after another, again and again."""
    launches = _launches(path, backend, base)
    found: dict[str, float] = {}
    for kernel in dict.fromkeys(name for name, _, _ in launches if name):
        mine = [each for each in launches if each[0] == kernel]

        def work(mine: list[tuple[str, int, list[Any]]] = mine) -> None:
            for each in mine:
                backend.launch(*each)

        work()
        found[kernel] = median_ms(work)
    return found


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
    bring; each kernel's time, in launches of the usual size and in one for all; and what a device makes that copies
    what is stored and what is decoded in the same time.
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
        kernels = kernel_times(path, backend, base)
        with mock.patch.multiple(device_loading, SEGMENT_BYTES=AT_ONCE, DECODED_BYTES=4 * AT_ONCE):
            at_once = kernel_times(path, backend, base)
        decoding, all_at_once = (sum(each.values()) - each.get("digest", 0) for each in (kernels, at_once))
        result[name] = {
            "stored / decoded": stored / decoded,
            "load GB/s": decoded / statistics.median(loads) / 1e9,
            "load / floor of the link": stored / link / statistics.median(loads),
            "from pinned GB/s": decoded / pinned / 1e9,
            "from pinned / floor of the link": stored / link / pinned,
            "asking / all": asked / pinned,
            "kernels ms": kernels,
            "decoding GB/s": decoded / decoding / 1e6,
            "decoding GB/s, all at once": decoded / all_at_once / 1e6,
            "kernels ms, all at once": at_once,
            "copying as much GB/s": decoded / ((stored + decoded) / rates["device copy"]) / 1e9,
        }
        print(f"{name}: {result[name]}", flush=True)
    return result


def beside_safetensors(folder: Path, name: str = "bfloat16, balanced") -> dict[str, float]:
    """Seconds of `load_file` onto the device by safetensors and by us, from the page cache, in turn."""
    path, plain, timed = path_of(folder, "timed", name), folder / "beside.safetensors", TIMED[name]
    if not path.exists():
        timed.save(path)
    save_plain(load_file(path), plain)
    found: dict[str, list[float]] = {"safetensors s": [], "ours s": []}
    for _ in range(LOADS):
        for kind, load, source in (("safetensors s", load_plain, plain), ("ours s", load_file, path)):
            began = time.perf_counter()
            tensors = load(source, device="cuda")
            torch.cuda.synchronize()
            found[kind].append(time.perf_counter() - began)
            del tensors
    plain.unlink()
    seconds = {kind: statistics.median(each) for kind, each in found.items()}
    return seconds | {"safetensors / ours": seconds["safetensors s"] / seconds["ours s"]}
