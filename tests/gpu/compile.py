"""Compiles every kernel for every GPU that is promised, without one: python tests/gpu/compile.py

Fails where a kernel needs more registers than leave a multiprocessor full, keeps any of them in memory, uses floats, or
takes more instructions for a weight than it did. Needs what bench/requirements-gpu.txt lists.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from slimtensors.kernels.cuda.catalogue import KERNELS
from slimtensors.kernels.cuda.machine_code import assemble, machine_code, ptx_of

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
COUNTED = 90  # whose instructions are counted
STEPS = 4  # of a group
# Instructions of the loop over groups, for each weight; those that are skipped as a rule are counted, too.
MOST = {
    "decode_u16_8_8": 42, "decode_u16_6_10": 50, "decode_u16_4_12": 46, "decode_u32_8_8_8_8": 46,
    "decode_u32_8_8_6_10": 56, "decode_u8_1_7": 42, "decode_u8_8": 36,
    "plane_u8": 60, "plane_u16": 60, "plane_u32": 60, "plane_u64": 70,
    "bypass_u16": 90, "bypass_u32": 90, "bypass_u64": 100,
}  # fmt: skip


class Compiled(NamedTuple):
    registers: int
    spilled: int  # bytes
    shared: int  # bytes
    instructions: float | None  # for each weight, of the loop that votes


def number(pattern: str, text: str) -> int:
    return sum(int(found) for found in re.findall(pattern, text))


def loop_of(code: bytes) -> list[str]:
    """The shortest loop with at least four votes: the one over groups. Without a table in shared memory the first one:
    jumps back from the slow ways past collectives, which lie behind it, look like loops.
    """
    tool = next(Path(__import__("nvidia").__path__[0]).rglob("nvdisasm"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
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
    voting = [loop for loop in loops if votes(loop) >= STEPS]
    if not any("LDS" in each for each in instructions):
        return voting[0]
    return min((loop for loop in voting if any("LDS" in each for each in loop)), key=len)


def votes(loop: list[str]) -> int:
    return sum("VOTE" in each for each in loop)


def compiled(name: str, ptx: str, capability: int) -> Compiled:
    code, log = assemble(ptx, capability, KERNELS[name].registers)
    loop = loop_of(code) if capability == COUNTED and name.startswith(("decode", "plane", "bypass")) else []
    return Compiled(
        number(r"Used (\d+) registers", log),
        number(r"(\d+) bytes spill", log) + number(r"(\d+) bytes stack frame", log),
        number(r"(\d+) bytes smem", log),
        len(loop) / STEPS if loop else None,
    )


def faults_of(name: str, ptx: str, found: Compiled) -> list[str]:
    faults = []
    if re.search(r"\.f(32|64)\b", ptx):
        faults.append("floats: an int64 met a uint64")
    if not 0 < found.registers <= KERNELS[name].registers:
        faults.append(f"{found.registers} registers, {KERNELS[name].registers} are allowed")
    if found.spilled:
        faults.append(f"{found.spilled} bytes of registers kept in memory")
    if found.instructions is not None and found.instructions > MOST.get(name, 0):
        faults.append(f"{found.instructions:.1f} instructions a weight, {MOST.get(name, 0)} are allowed")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="kernels whose names begin so", default="")
    wanted = parser.parse_args().only
    began, failed = time.perf_counter(), False
    names = " | ".join(f"sm_{each}" for each in CAPABILITIES)
    print(f"| kernel | {names} | shared | instructions a weight, sm_{COUNTED} |")
    print("|---" * (len(CAPABILITIES) + 3) + "|")
    for name in KERNELS:
        if not name.startswith(wanted):
            continue
        ptx = ptx_of(name)
        rows = {each: compiled(name, ptx, each) for each in CAPABILITIES}
        each_faults = {each: faults_of(name, ptx, found) for each, found in rows.items()}
        registers = " | ".join(str(found.registers) for found in rows.values())
        count = rows[COUNTED].instructions
        counted = "" if count is None else f"{count:.1f}"
        print(f"| {name} | {registers} | {rows[COUNTED].shared} | {counted} |", flush=True)
        for capability, faults in each_faults.items():
            for fault in faults:
                failed = True
                print(f"FAULT: {name}, sm_{capability}: {fault}")
    if "twin".startswith(wanted):
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from bench.gpu_twin import compile_twin

        print("the twin in CUDA C++, bytes:", *(len(compile_twin(each)) for each in CAPABILITIES))
    kept = machine_code(next(iter(KERNELS)), COUNTED)
    if machine_code(next(iter(KERNELS)), COUNTED) != kept or not kept:
        failed = True
        print("FAULT: machine code that was kept is not what it was")
    print(f"registers of a thread; {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
