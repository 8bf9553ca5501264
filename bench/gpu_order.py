"""Instructions a GPU spends on each weight, for two orders of the elements in a block: python bench/gpu_order.py

Needs no GPU: kernels are compiled for one architecture, linked and disassembled, and the instructions of the loop over
steps counted. What is needed: `pip install "numba-cuda[cu13]==0.30.4" "cuda-toolkit==13.0.*" nvidia-cuda-nvdisasm`.

plain   element i belongs to lane i mod 32: each step stores 32 neighbours
quads   a lane's four steps are neighbours, so that it loads and stores them as one
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cuda.bindings import nvjitlink
from numba import cuda, int32, uint8, uint16, uint32, uint64

STEPS = 4  # of a group
STATE_MIN = uint32(1 << 16)
ALL = 0xFFFFFFFF


@cuda.jit(device=True, inline="always")  # type: ignore[misc]  # numba-cuda has no types
def step(table, x, words, at, below):
    """(entry, state, next word): as decode_step of kernels/cpu/decode.py, one lane."""
    entry = table[x & uint32(4095)]
    x = uint32(uint32(entry >> uint32(12) & uint32(4095)) * uint32(x >> uint32(12)) + uint32(entry & uint32(4095)))
    hungry = x < STATE_MIN
    ballot = uint32(cuda.ballot_sync(ALL, hungry))
    if hungry:
        x = uint32(x << uint32(16) | uint32(words[uint32(at + uint32(cuda.popc(uint32(ballot & below))))]))
    return entry, x, uint32(at + uint32(cuda.popc(ballot)))


@cuda.jit(device=True, inline="always")  # type: ignore[misc]  # numba-cuda has no types
def element(entry, base, rest, width):
    """16 bits: the field above the rest, rotated right by one."""
    symbol = uint32(entry >> uint32(24))
    field = uint32(symbol + base) if symbol != uint32(0) else uint32(0)
    value = uint32(field << uint32(width) | rest)
    return uint32((value >> uint32(1) | value << uint32(15)) & uint32(0xFFFF))


@cuda.jit(device=True, inline="always")  # type: ignore[misc]  # numba-cuda has no types
def begin(entries, table, states, firsts):
    """(lane, state, first word, lanes below) of a warp's block; fills the shared table."""
    i = cuda.threadIdx.x
    while i < 4096:
        table[i] = entries[i]
        i += cuda.blockDim.x
    cuda.syncthreads()
    lane = cuda.threadIdx.x & 31
    block = cuda.blockIdx.x * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5)
    below = uint32((uint32(1) << uint32(lane)) - uint32(1))
    return lane, states[block * 32 + lane], uint32(firsts[block]), below, block


def plain_8_8(entries, states, firsts, words, rest, out, groups, base):  # type: ignore[no-untyped-def]  # a kernel
    """Planes [8, 8], plain order: rest uint8, out uint16."""
    table = cuda.shared.array(4096, uint32)
    lane, x, at, below, block = begin(entries, table, states, firsts)
    i = uint32(block * groups * 128 + lane)
    for _ in range(groups):
        for _t in range(STEPS):
            entry, x, at = step(table, x, words, at, below)
            out[i] = uint16(element(entry, uint32(base), uint32(rest[i]), 8))
            i = uint32(i + uint32(32))


def quads_8_8(entries, states, firsts, words, rest, out, groups, base):  # type: ignore[no-untyped-def]  # a kernel
    """Planes [8, 8], in quads: rest uint32, out uint64."""
    table = cuda.shared.array(4096, uint32)
    lane, x, at, below, block = begin(entries, table, states, firsts)
    i = uint32(block * groups * 32 + lane)
    for _ in range(groups):
        raw = uint32(rest[i])
        low = high = uint32(0)
        for t in range(STEPS):
            entry, x, at = step(table, x, words, at, below)
            value = element(entry, uint32(base), uint32(raw & uint32(255)), 8)
            raw = uint32(raw >> uint32(8))
            if t < 2:
                low = uint32(low | value << uint32(16 * t))
            else:
                high = uint32(high | value << uint32(16 * t - 32))
        out[i] = uint64(low) | uint64(high) << uint64(32)
        i = uint32(i + uint32(32))


def plain_6_10(entries, states, firsts, words, nibbles, crumbs, out, groups, base):  # type: ignore[no-untyped-def]  # a kernel
    """Planes [6, 10], plain order: nibbles, crumbs uint8, out uint16."""
    table = cuda.shared.array(4096, uint32)
    lane, x, at, below, block = begin(entries, table, states, firsts)
    group = uint32(block * groups)
    for _ in range(groups):
        crumb = uint32(crumbs[uint32(group * uint32(32) + uint32(lane))])
        for t in range(STEPS):
            if t % 2 == 0:
                nibble = uint32(nibbles[uint32(group * uint32(64) + uint32(32 * (t // 2) + lane))])
            entry, x, at = step(table, x, words, at, below)
            rest = uint32(nibble & uint32(15) | (crumb & uint32(3)) << uint32(4))
            nibble, crumb = uint32(nibble >> uint32(4)), uint32(crumb >> uint32(2))
            out[uint32(group * uint32(128) + uint32(32 * t + lane))] = uint16(element(entry, uint32(base), rest, 6))
        group = uint32(group + uint32(1))


def quads_6_10(entries, states, firsts, words, nibbles, crumbs, out, groups, base):  # type: ignore[no-untyped-def]  # a kernel
    """Planes [6, 10], in quads: nibbles uint16, crumbs uint8, out uint64."""
    table = cuda.shared.array(4096, uint32)
    lane, x, at, below, block = begin(entries, table, states, firsts)
    i = uint32(block * groups * 32 + lane)
    for _ in range(groups):
        nibble, crumb = uint32(nibbles[i]), uint32(crumbs[i])
        low = high = uint32(0)
        for t in range(STEPS):
            entry, x, at = step(table, x, words, at, below)
            rest = uint32(nibble & uint32(15) | (crumb & uint32(3)) << uint32(4))
            nibble, crumb = uint32(nibble >> uint32(4)), uint32(crumb >> uint32(2))
            value = element(entry, uint32(base), rest, 6)
            if t < 2:
                low = uint32(low | value << uint32(16 * t))
            else:
                high = uint32(high | value << uint32(16 * t - 32))
        out[i] = uint64(low) | uint64(high) << uint64(32)
        i = uint32(i + uint32(32))


COMMON = (uint32[::1], uint32[::1], uint32[::1], uint16[::1])
KERNELS: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
    (plain_8_8, (uint8[::1], uint16[::1])),
    (quads_8_8, (uint32[::1], uint64[::1])),
    (plain_6_10, (uint8[::1], uint8[::1], uint16[::1])),
    (quads_6_10, (uint16[::1], uint8[::1], uint64[::1])),
]


def disassembled(kernel: Callable[..., None], signature: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """The kernel in the instructions of one architecture."""
    text, _ = cuda.compile_ptx(kernel, signature, cc=capability)
    ptx = text.encode()
    options = [f"-arch=sm_{capability[0]}{capability[1]}"]
    handle = nvjitlink.create(len(options), options)
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel.ptx")
    nvjitlink.complete(handle)
    cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
    nvjitlink.get_linked_cubin(handle, cubin)
    tool = next(Path(__import__("nvidia").__path__[0]).rglob("nvdisasm"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def loop_instructions(text: str) -> list[str]:
    """The longest loop that votes: the one over groups."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(found[1])
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"BRA.*?(\.L_x_\d+)", instruction)
        if target and labels.get(target[1], end + 1) <= end:
            loops.append(instructions[labels[target[1]] : end + 1])
    return max((loop for loop in loops if any("VOTE" in i for i in loop)), key=len)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", default="9.0")
    major, minor = map(int, parser.parse_args().capability.split("."))
    print(f"sm_{major}{minor}\n\n| kernel | instructions a weight | of them loads and stores |\n|---|---|---|")
    for kernel, arrays in KERNELS:
        loop = loop_instructions(disassembled(kernel, (*COMMON, *arrays, int32, int32), (major, minor)))
        votes = sum("VOTE" in instruction for instruction in loop)
        names = collections.Counter(re.sub(r"^@!?U?P\d+\s+", "", i).split()[0].split(".")[0] for i in loop)
        memory = sum(n for name, n in names.items() if name in ("LDG", "STG", "LDS"))
        print(f"| {kernel.__name__} | {len(loop) / votes:.1f} | {memory / votes:.2f} |")


if __name__ == "__main__":
    main()
