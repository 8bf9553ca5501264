"""What a segment on its way to a GPU costs the processor: python bench/device_asks.py

The device is one that does nothing, so none is needed: its memory is the host's, nothing is copied, and kernels leave
what they left the first time, when the digests were computed by the CPU. Milliseconds a segment of up to 32 MiB of
stored bytes: asking (`begin_fill`) and the verdict (`Filling.check`), least of REPEATS; of what is kept, and of what is
read from the page cache.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slimtensors.bases.resolving import open_with
from slimtensors.device.loading import Filling, Kept, begin_fill
from slimtensors.kernels.cpu import xxh3
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.status import must
from slimtensors.on_torch.device import resident_of
from slimtensors.on_torch.tensors import as_base
from slimtensors.threads import thread_count
from slimtensors.torch import save_file

Array = npt.NDArray[Any]
Buffer = Any
Left = tuple[Array, Array]  # what a kernel left: where, and which words

REPEATS = 20
ALIGNMENT = 512  # of a tensor in its memory


class Window:
    """As `torch_cuda.Window`."""

    def __init__(self, address: int, length: int) -> None:
        self.address, self.length = address, length


def words(buffer: Buffer, kind: str) -> Array:
    """A buffer as numbers."""
    if isinstance(buffer, Window):
        held = (ctypes.c_uint8 * buffer.length).from_address(buffer.address)
        return np.frombuffer(held, kind, buffer.length // np.dtype(kind).itemsize)
    found: Array = buffer.numpy()[: buffer.numel() // np.dtype(kind).itemsize * np.dtype(kind).itemsize].view(kind)
    return found


class Idle:
    """`Backend`. Buffers are tensors on the CPU, so that what torch does for each slice is counted."""

    def __init__(self) -> None:
        self.begin()
        self._left: dict[int, Left] = {}  # by launch

    def begin(self) -> None:
        """Launches are counted from here, as are seconds that they take and no device would."""
        self.launches, self.seconds = 0, 0.0

    def staging(self, length: int) -> Array:
        return np.empty(length, np.uint8)

    def fresh(self, length: int) -> Buffer:
        return torch.empty(length, dtype=torch.uint8)

    def zeros(self, length: int) -> Buffer:
        return torch.zeros(length, dtype=torch.uint8)

    def upload(self, data: Array) -> Buffer:
        return torch.from_numpy(data)

    def send(self, _target: Buffer, data: Array) -> None:
        torch.from_numpy(data)

    def write(self, target: Buffer, data: Array) -> None:
        target.copy_(torch.from_numpy(data))

    def copy(self, target: Buffer, source: Buffer) -> None:
        target.copy_(source)

    def fetch(self, buffer: Buffer) -> Array:
        found: Array = buffer.clone().numpy()
        return found

    download = fetch

    def window(self, targets: Sequence[Buffer]) -> tuple[Window, list[int]]:
        begin = min(target.data_ptr() for target in targets)
        begin -= begin % 8
        end = max(target.data_ptr() + target.numel() for target in targets)
        return Window(begin, end - begin), [target.data_ptr() - begin for target in targets]

    def holds(self, _tensor: torch.Tensor) -> bool:
        return True

    def launch(self, kernel: str, _blocks: int, buffers: Sequence[Buffer]) -> None:
        self.launches += 1
        if kernel == "digest" or (kernel == "plain_u64" and isinstance(buffers[0], Window)):
            began = perf_counter()
            if self.launches not in self._left:
                self._left[self.launches] = (digested if kernel == "digest" else copied)(*buffers)
            where, what = self._left[self.launches]
            words(buffers[-1], "u8")[where] = what
            self.seconds += perf_counter() - began

    def mark(self) -> None:
        return None

    def wait(self, _mark: None) -> None:
        return None

    def follow(self, _mark: None) -> None:
        return None

    def new_queue(self) -> None:
        return None

    def helpers(self, count: int) -> list[None]:
        return [None] * count

    def using(self, _queue: None) -> nullcontext[None]:
        return nullcontext()


def digested(out: Window, items: Buffer, _secrets: Buffer, _into: Buffer) -> Left:
    """What the kernel of this name leaves."""
    where, what, data = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], words(out, "u8")
    scratch = np.empty(xxh3.STAGING, np.uint64)
    for low, high, pieces, result in words(items, "u4").reshape(-1, rows.DIGEST_ITEM).tolist():
        begin, found = low + (high << 32), np.empty(pieces, np.uint64)
        some = np.ascontiguousarray(data[begin : begin + pieces * rows.PIECE_WORDS])
        must(xxh3.hash_pieces(some, scratch, found))
        where.append(np.arange(result, result + pieces))
        what.append(found)
    return np.concatenate(where), np.concatenate(what)


def copied(out: Window, items: Buffer, _into: Buffer) -> Left:
    """As `digested`, of `plain`."""
    where, what, data = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], words(out, "u8")
    for item in words(items, "u4").reshape(-1, rows.PLAIN_ITEM).tolist():
        to, units, source = item[rows.TO], item[rows.UNITS], item[rows.FROM]
        where.append(np.arange(to, to + units))
        what.append(data[source : source + units].copy())
    return np.concatenate(where), np.concatenate(what)


Tensors = dict[str, torch.Tensor]


def cases(share: float) -> Iterator[tuple[str, str, Tensors, Tensors | None]]:
    """(name, preset, tensors, base). share: of 4096 columns and rows."""
    generator, side = torch.Generator().manual_seed(0), int(4096 * share)

    def layer(*shapes: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {f"w{i}": torch.randn(shape, generator=generator) * 0.02 for i, shape in enumerate(shapes)}

    whole = layer(*[(side, side)] * 2, *[(int(1.5 * side), side)] * 3)
    half = {name: tensor.to(torch.bfloat16) for name, tensor in whole.items()}
    yield "BF16", "fast", half, None
    yield "BF16", "balanced", half, None
    yield "F32", "balanced", {"w0": whole["w0"], "w1": whole["w1"]}, None
    odd = layer(*[(side // 4, side // 4 + 1)] * 60)
    yield "BF16, chunks with ends", "balanced", {name: tensor.to(torch.bfloat16) for name, tensor in odd.items()}, None
    pruned = torch.rand(half["w0"].shape, generator=generator) < 0.5
    yield "BF16, half zeros", "balanced", {"w0": half["w0"].masked_fill(pruned, 0), "w1": half["w1"] * ~pruned}, None
    base = {name: half[name] for name in ("w0", "w1")}
    steps = {name: torch.randn(each.shape, generator=generator) * 1e-4 for name, each in base.items()}
    tuned = {name: each + steps[name].to(each.dtype) for name, each in base.items()}
    yield "BF16, differences", "balanced", tuned, base
    yield "F32, decimals", "balanced", {name: (whole[name] * 1e3).round() / 1e3 for name in base}, None


def least(device: Idle, fill: Callable[[], Filling], repeats: int, segments: int) -> tuple[float, float]:
    """Milliseconds a segment: asking, and the verdict."""
    asking, checking = [], []
    for _ in range(repeats):
        device.begin()
        began = perf_counter()
        filling = fill()
        asked = perf_counter()
        filling.check()
        checking.append(perf_counter() - asked)
        asking.append(asked - began - device.seconds)
    return 1e3 * min(asking) / segments, 1e3 * min(checking) / segments


def measured(path: Path, base: Tensors | None, threads: int, repeats: int) -> dict[str, float]:
    """Of one file. base: as if it were on the device."""
    with open_with(path, as_base(base)) as file:
        tensors = file.header.tensors
        room = torch.empty(sum(-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors), dtype=torch.uint8)
        targets, at = {}, 0
        for i, tensor in enumerate(tensors):
            targets[i] = room[at : at + tensor.nbytes]
            targets[i].numpy()[:] = file.read(i, threads).reshape(-1).view(np.uint8)
            at += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        device, kept = Idle(), Kept()

        def fill(kept: Kept | None) -> Filling:
            return begin_fill(file, targets, device, threads, resident=resident_of(base, device), kept=kept)

        fill(kept).check()
        count = len(kept.segments)
        known = least(device, lambda: fill(kept), repeats, count)
        read = least(device, lambda: fill(None), repeats, count)
        return {
            "segments": count, "launches": device.launches / count, "kept": known[0], "kept, verdict": known[1],
            "read": read[0], "read, verdict": read[1],
        }  # fmt: skip


def table(share: float, repeats: int, threads: int) -> dict[str, dict[str, float]]:
    """Of all cases."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.slimtensors"
        for name, preset, tensors, base in cases(share):
            save_file(tensors, path, preset=preset, base=base)
            found[f"{name}, {preset}"] = measured(path, base, threads, repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    torch.set_num_threads(1)
    found = table(1.0, REPEATS, thread_count(parser.parse_args().threads))
    for name, row in found.items():
        print(f"| {name} | {' | '.join(f'{key} {value:.3g}' for key, value in row.items())} |")


if __name__ == "__main__":
    main()
