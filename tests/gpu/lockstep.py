"""Runs kernel bodies without a GPU: the 32 threads of a warp in lock step, on plain integers.

A body comes from a factory that takes `cuda` (numba.cuda, or `Cuda` below), `types` (numba, or `Types`) and
`device` (what decorates device functions). `launch` runs it, one thread after another up to the next collective. It
raises KernelError where a GPU would hang or do what is undefined: threads of a warp at different collectives, barriers
that not all threads reach, races, what memory.py knows.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu.memory import Clock, KernelError, Memory, Stamp
from gpu.yielding import DeviceFunction, Thread, Wrapping, as_generator

WARP = 32
ALL = 0xFFFFFFFF
device = DeviceFunction


Types = SimpleNamespace(
    **{f"{'' if signed else 'u'}int{bits}": Wrapping(bits, signed) for bits in (8, 16, 32, 64) for signed in (0, 1)}
)


class Cuda:
    """What of numba.cuda the kernels use. Collectives are not here: they become `yield`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.threadIdx, self.blockIdx, self.blockDim = (SimpleNamespace(x=0) for _ in range(3))
        self.shared = SimpleNamespace(array=self._shared_array)
        self.atomic = SimpleNamespace(or_=self._atomic_or)
        self.libdevice = SimpleNamespace(byte_perm=self._byte_perm)
        self._arrays: dict[Any, Memory] = {}

    def begin_block(self, block: int) -> None:
        self.blockIdx.x = block
        self._arrays.clear()

    def _shared_array(self, shape: int, dtype: Wrapping) -> Memory:
        frame = sys._getframe(1)
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self._arrays:
            name = f"the shared array of line {frame.f_lineno}"
            self._arrays[place] = Memory(name, shape, dtype.dtype, self.clock, constant=False)
        return self._arrays[place]

    @staticmethod
    def _atomic_or(array: Memory, index: int, value: int) -> None:
        array.update(index, array.peek(index) | value)

    @staticmethod
    def _byte_perm(low: int, high: int, places: int) -> int:
        """Four of the eight bytes; each one's place in the lower three bits of a nibble."""
        found = ((high & ALL) << 32 | low & ALL).to_bytes(8, "little")
        return int.from_bytes(bytes(found[places >> 4 * i & 7] for i in range(4)), "little")

    @staticmethod
    def popc(value: int) -> int:
        return bin(value & ALL).count("1")

    @staticmethod
    def clz(value: int) -> int:
        """Of 64 bits."""
        return 64 - value.bit_length()

    @staticmethod
    def umul64hi(a: int, b: int) -> int:
        return a * b >> 64


class Fresh:
    """An argument of `launch` that a kernel must write before it reads."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def launch(
    cuda: Cuda, body: Callable[..., None], grid: int, threads: int, *arguments: Any, order: Sequence[int] | None = None
) -> None:
    """Run a kernel. Arrays that cannot be written are inputs. order: in which a block's warps run, where they may."""
    generator = as_generator(body)
    names = list(inspect.signature(body).parameters)
    given, written = [], []
    for name, argument in zip(names, arguments, strict=True):
        array = argument.array if isinstance(argument, Fresh) else argument
        if not isinstance(array, np.ndarray):
            given.append(argument)
            continue
        before, constant = None if isinstance(argument, Fresh) else array, not array.flags.writeable
        memory = Memory(name, array.size, array.dtype, cuda.clock, constant=constant, before=before)
        given.append(memory)
        if not constant:
            written.append((array, memory))
    assert threads % WARP == 0
    cuda.blockDim.x = threads
    try:
        for block in range(grid):
            cuda.begin_block(block)
            _Block(cuda, block, [generator(*given) for _ in range(threads)], order).run()
    finally:
        for array, memory in written:
            array[list(memory.cells)] = np.array(list(memory.cells.values()), array.dtype)


class _Block:
    def __init__(self, cuda: Cuda, block: int, threads: list[Thread], order: Sequence[int] | None) -> None:
        self._cuda, self._block, self._threads = cuda, block, threads
        self._order = range(len(threads) // WARP) if order is None else order
        self._answers: list[Any] = [None] * len(threads)
        self._barriers = 0
        self._warp_barriers = [0] * (len(threads) // WARP)

    def run(self) -> None:
        while True:
            reached = {warp: self._run_warp(warp) for warp in self._order}
            if len(set(reached.values())) > 1:
                raise KernelError(f"warps wait at different places: {reached}")
            if reached[self._order[0]] == "end":
                return
            self._barriers += 1

    def _run_warp(self, warp: int) -> tuple[str, int] | str:
        """Up to the next barrier of the block, or the end."""
        first = WARP * warp
        while True:
            asked = [self._resume(first + lane) for lane in range(WARP)]
            places = {a if a == "end" else a[:2] for a in asked}
            if len(places) > 1:
                raise KernelError(f"threads of one warp wait at different places: {sorted(map(str, places))}")
            place = places.pop()
            if place == "end" or place[0] == "syncthreads":
                return place
            if place[0] == "syncwarp":
                self._warp_barriers[warp] += 1
                continue
            if any(a[2] != ALL for a in asked):
                raise KernelError(f"{place[0]} in line {place[1]} with a mask other than all lanes")
            self._answers[first : first + WARP] = _exchange(place[0], [a[3:] for a in asked])

    def _resume(self, thread: int) -> Any:
        self._cuda.threadIdx.x = thread
        self._cuda.clock.now = Stamp(self._block, thread, self._barriers, self._warp_barriers[thread // WARP])
        answer, self._answers[thread] = self._answers[thread], None
        try:
            return self._threads[thread].send(answer)
        except StopIteration:
            return "end"
        except (KernelError, TypeError) as fault:  # such as a float where an integer is meant
            raise KernelError(f"block {self._block}, thread {thread}: {fault}") from fault


def _exchange(name: str, given: list[tuple[Any, ...]]) -> list[Any]:
    """What each lane gets from a collective."""
    if name == "ballot_sync":
        vote = sum(1 << lane for lane, (asked,) in enumerate(given) if asked)
        return [vote] * WARP
    sources = {
        "shfl_sync": lambda _lane, by: by % WARP,
        "shfl_up_sync": lambda lane, by: lane - by if lane >= by else lane,
        "shfl_down_sync": lambda lane, by: lane + by if lane + by < WARP else lane,
        "shfl_xor_sync": lambda lane, by: lane ^ by,
    }
    return [given[sources[name](lane, by)][0] for lane, (_value, by) in enumerate(given)]
