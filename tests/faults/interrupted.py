"""One operation over an existing good file, again and again, each time with another call of it at fault.

Run with a folder, an operation and a list of faults; prints what came of each, as JSON. It forks, so that each time
begins with the same process, warmed up.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file as save_safetensors

import slimtensors
from faults import calls
from slimtensors.numpy import save_file

FAULTS = {"kill before": calls.kill_before, "kill after": calls.kill_after, "kill within": calls.kill_within}
FAULTS |= {name: calls.fail_with(getattr(errno, name)) for name in ("ENOSPC", "EIO", "EDQUOT", "EACCES", "EINTR")}
FAULTS |= {"short": calls.fall_short}
MODE = 0o640


def tensors(seed: int) -> dict[str, np.ndarray]:
    """Four with streams of their own, and a pack."""
    generator = np.random.default_rng(seed)
    arrays = {f"large.{i}": generator.normal(size=20_000).astype(np.float32) for i in range(4)}
    return {**arrays, "small": generator.normal(size=100), "tiny": np.arange(3)}


def operation(name: str, folder: Path, seed: int) -> Callable[[Path], None]:
    """What writes to a path, with its inputs made and every import done."""
    arrays, source = tensors(seed), folder / f"source-{seed}"
    if name.startswith("save"):
        return lambda path: save_file(arrays, path, threads=2 if name == "save in threads" else 1)
    save_safetensors(arrays, source)
    if name == "compress":
        return lambda path: slimtensors.compress(source, path, threads=1)
    compressed = folder / f"compressed-{seed}"
    slimtensors.compress(source, compressed, threads=1)
    return lambda path: slimtensors.decompress(compressed, path, threads=1)


def attempt(save: Callable[[Path], None], path: Path, fault: calls.Fault, at: int) -> str:
    """How a forked process that does this ends: "saved", "killed", or the name of the error's number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            with calls.watched(fault, at):
                save(path)
            ended = "saved"
        except OSError as error:
            ended = errno.errorcode.get(error.errno or 0, repr(error))
        except BaseException as error:
            ended = repr(error)
        os.write(writer, ended.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        ended = pipe.read()
    _, status = os.waitpid(child, 0)
    return ended or ("killed" if os.WIFSIGNALED(status) else f"status {status}")


def main(folder: Path, name: str, faults: list[str]) -> dict[str, Any]:
    place = folder / "place"
    place.mkdir()
    path = place / "model"
    path.touch()
    path.chmod(MODE)
    operation(name, folder, 1)(path)
    old = path.read_bytes()
    save = operation(name, folder, 2)
    save(path)
    new = path.read_bytes()
    with calls.watched() as made:
        save(path)
    attempts = []
    for fault in faults:
        for at, call in enumerate(made, 1):
            if fault == "kill within" and call != "write":
                continue
            path.write_bytes(old)
            before = set(place.iterdir())
            ended = attempt(save, path, FAULTS[fault], at)
            now = path.read_bytes()
            left = [(p.name, stat.S_IMODE(p.stat().st_mode)) for p in set(place.iterdir()) - before]
            holds = "old" if now == old else "new" if now == new else f"{len(now)} other bytes"
            attempts.append({"fault": fault, "at": at, "call": call, "ended": ended, "holds": holds, "left": left})
    # All the files left behind are still here.
    path.write_bytes(old)
    save(path)
    assert path.read_bytes() == new
    assert stat.S_IMODE(path.stat().st_mode) == MODE
    if name != "decompress":
        slimtensors.verify(path)
    return {"made": made, "attempts": attempts, "litter": len(list(place.iterdir())) - 1}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(","))))
