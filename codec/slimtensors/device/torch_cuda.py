"""A CUDA device by way of torch, on torch's current stream; kernels by the driver, on the same memory and stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy.typing as npt
import torch

from slimtensors.errors import note
from slimtensors.kernels.cuda.launching import launcher

__all__ = ["TorchCuda"]

Bytes = npt.NDArray[Any]


class TorchCuda:
    """`Backend` for one device. Buffers are uint8 tensors."""

    def __init__(self, device: torch.device) -> None:
        index = device.index
        self.device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's
        self._launcher = launcher(self.device.index)
        self.capability = self._launcher.capability  # 90 is compute capability 9.0

    def staging(self, length: int) -> Bytes:
        found: Bytes = torch.empty(length, dtype=torch.uint8, pin_memory=True).numpy()
        return found

    def upload(self, data: Bytes) -> torch.Tensor:
        return torch.from_numpy(data).to(self.device, non_blocking=True)

    def send(self, target: torch.Tensor, data: Bytes) -> None:
        target.copy_(torch.from_numpy(data), non_blocking=True)

    def write(self, target: torch.Tensor, data: Bytes) -> None:
        target.copy_(torch.from_numpy(data))

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def download(self, buffer: torch.Tensor) -> Bytes:
        found: Bytes = buffer.cpu().numpy()
        return found

    def fetch(self, buffer: torch.Tensor) -> Bytes:
        there = torch.empty(buffer.numel(), dtype=torch.uint8, pin_memory=True)
        found: Bytes = there.copy_(buffer, non_blocking=True).numpy()
        return found

    def fresh(self, length: int) -> torch.Tensor:
        try:
            return torch.empty(length, dtype=torch.uint8, device=self.device)
        except torch.cuda.OutOfMemoryError as error:
            note(error, "Decoding takes work space on the GPU; SLIMTENSORS_DECODE=cpu decodes on the CPU and copies")
            raise

    def zeros(self, length: int) -> torch.Tensor:
        return torch.zeros(length, dtype=torch.uint8, device=self.device)

    def window(self, targets: Sequence[torch.Tensor]) -> tuple[Window, list[int]]:
        begin = min(target.data_ptr() for target in targets)
        begin -= begin % 8
        end = max(target.data_ptr() + target.numel() for target in targets)
        return Window(begin, end - begin), [target.data_ptr() - begin for target in targets]

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.device == self.device

    def launch(self, kernel: str, blocks: int, buffers: Sequence[torch.Tensor | Window]) -> None:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        self._launcher.launch(kernel, blocks, stream, [_range(buffer) for buffer in buffers])

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def new_queue(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # torch's

    def helpers(self, count: int) -> list[torch.cuda.Stream]:
        return [_helper(self.device, i) for i in range(count)]

    def using(self, queue: torch.cuda.Stream) -> torch.cuda.StreamContext:
        return torch.cuda.stream(queue)

    def follow(self, mark: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(mark)


@cache
def _helper(device: torch.device, _number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's


class Window:
    """A range of a device's addresses."""

    def __init__(self, address: int, length: int) -> None:
        self.address, self.length = address, length


def _range(buffer: torch.Tensor | Window) -> tuple[int, int]:
    """Address and bytes."""
    if isinstance(buffer, Window):
        return buffer.address, buffer.length
    return buffer.data_ptr(), buffer.numel()
