"""Ranks that are real processes: forked from one that has everything imported, joined by gloo, killed and starved.

Run with a folder and the names of cases; prints what came of each, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # DTensor imports it at its first use, which would be in every rank
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from faults import calls
from slimtensors.torch import save
from slimtensors.torch.distributed import StorageReader, StorageWriter
from slimtensors.torch.distributed.ranks import Ranks

Work = Callable[[int], Any]
PLACEMENTS = {"rows": Shard(0), "columns": Shard(1), "whole": Replicate()}


class Ended(NamedTuple):
    """How a rank ended: "done" and what it returned; "raised", an error's type and text; or "killed"."""

    how: str
    value: Any = None
    seconds: float = 0.0


def run(work: Work, ranks: int, *, hung: int = -1, seconds: float = 120) -> list[Ended]:
    """work(rank) in processes of their own. Whoever is left after `seconds`, or the `hung` one when all others have
    ended, is killed, and "stuck".
    """
    place = Path(os.environ["CREW_FOLDER"]) / f"join-{time.monotonic_ns()}"
    pipes, children = [], []
    sys.stdout.flush()
    for rank in range(ranks):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _be_rank(work, rank, ranks, place, writer, seconds)
        os.close(writer)
        pipes.append(reader)
        children.append(child)
    begin = time.monotonic()
    status: dict[int, int] = {}
    stuck = set()
    while len(status) < ranks:
        for rank, child in enumerate(children):
            if rank not in status:
                found, code = os.waitpid(child, os.WNOHANG)
                if found:
                    status[rank] = code
                elif time.monotonic() - begin > seconds or (rank == hung and len(status) == ranks - 1):
                    stuck.add(rank)
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    ended = []
    for rank, reader in enumerate(pipes):
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        if rank in stuck:
            ended.append(Ended("stuck"))
        else:
            ended.append(pickle.loads(data) if data else Ended("killed", os.WTERMSIG(status[rank])))  # noqa: S301 # our own child
    return ended


def _be_rank(work: Work, rank: int, ranks: int, place: Path, writer: int, seconds: float) -> None:
    import datetime

    begin = time.monotonic()
    try:
        limit = datetime.timedelta(seconds=seconds)
        store = dist.FileStore(str(place), ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=limit)
        ended = Ended("done", work(rank), time.monotonic() - begin)
    except BaseException as error:
        text = "".join(traceback.format_exception_only(error))
        ended = Ended("raised", [type(error).__name__, text], time.monotonic() - begin)
    os.write(writer, pickle.dumps(ended))
    os._exit(0)


# ---- states


def number(name: str, seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, name)))
    return torch.randn(*shape, generator=generator)


def state(seed: int, *, blank: bool = False, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """A state of distributed tensors, plain ones and values; with nothing in it if it is to be loaded."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = plan or PLACEMENTS
    made: dict[str, Any] = {}
    for name, placement in plan.items():
        full = number(name, seed, 37, 53)
        made[name] = distribute_tensor(torch.zeros_like(full) if blank else full, mesh, [placement])
    large = number("large", seed, 900, 700).to(torch.bfloat16)
    made["large"] = distribute_tensor(torch.zeros_like(large) if blank else large, mesh, [plan["rows"]])
    made["plain"] = torch.zeros(11) if blank else number("plain", seed, 11)
    made["extra"] = {"step": 0 if blank else seed, "betas": (0.9, 0.95), "name": b"\x00\xff", "none": None}
    return made


def same(found: dict[str, Any], seed: int) -> bool:
    """Whether a loaded state is the one made with a seed."""
    for name in PLACEMENTS:
        if not torch.equal(found[name].full_tensor(), number(name, seed, 37, 53)):
            return False
    if not torch.equal(found["large"].full_tensor(), number("large", seed, 900, 700).to(torch.bfloat16)):
        return False
    extra = {"step": seed, "betas": (0.9, 0.95), "name": b"\x00\xff", "none": None}
    return torch.equal(found["plain"], number("plain", seed, 11)) and found["extra"] == extra


def saver(root: Path, seed: int, *, name: str = "", **options: Any) -> Callable[[], None]:
    """A save with everything made, so that faults hit the save alone."""
    made = state(seed)
    writer = StorageWriter(root / (name or f"step-{seed}"), threads=1, **options)
    return lambda: dcp.save(made, storage_writer=writer) and None


def load(root: Path, plan: dict[str, Any] | None = None) -> int:
    """The seed of the latest state; -1 if it is none that was saved."""
    found = state(0, blank=True, plan=plan)
    dcp.load(found, storage_reader=StorageReader(root, threads=1))
    seed = found["extra"]["step"]
    return seed if same(found, seed) else -1


def loads(root: Path, ranks: int) -> list[int]:
    """What the ranks of a new job find."""
    return [each.value for each in run(lambda _: load(root), ranks)]


# ---- cases


def resharding(root: Path) -> Any:
    """4 ranks save, 2 load and save, 3 load, 1 loads; each time cut another way."""
    shifted = {"rows": Shard(1), "columns": Shard(0), "whole": Shard(0)}
    found = [run(lambda _: saver(root, 1)(), 4)]

    def again(_: int) -> int:
        made = state(0, blank=True, plan=shifted)
        dcp.load(made, storage_reader=StorageReader(root))
        right = same(made, 1)
        made["extra"]["step"] = 2
        for name in (*PLACEMENTS, "large"):
            seeded = number(name, 2, *made[name].shape).to(made[name].dtype)
            made[name] = distribute_tensor(seeded, made[name].device_mesh, made[name].placements)
        made["plain"] = number("plain", 2, 11)
        dcp.save(made, storage_writer=StorageWriter(root / "step-2", keep=1))
        return 1 if right else -1

    found.append(run(again, 2))
    found.append(run(lambda _: load(root), 3))
    found.append(run(lambda _: load(root, shifted), 1))
    return [[each.value if each.how == "done" else each for each in one] for one in found] + [
        sorted(each.name for each in root.iterdir())
    ]


def two_dimensions(root: Path) -> Any:
    """A mesh of 2 x 2 saves blocks; 4 ranks in a row, and one alone, load them."""

    def blocks(placements: Sequence[Any], mesh: Any, seed: int | None) -> DTensor:
        full = torch.zeros(45, 51) if seed is None else number("x", seed, 45, 51)
        return distribute_tensor(full, mesh, placements)

    def write(_: int) -> None:
        mesh = init_device_mesh("cpu", (2, 2))
        dcp.save({"x": blocks([Shard(0), Shard(1)], mesh, 3)}, storage_writer=StorageWriter(root / "a"))

    def read(_: int) -> bool:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        right = []
        for placement in (Shard(0), Shard(1), Replicate()):
            made = {"x": blocks([placement], mesh, None)}
            dcp.load(made, storage_reader=StorageReader(root))
            right.append(torch.equal(made["x"].full_tensor(), number("x", 3, 45, 51)))
        return all(right)

    return [each.how for each in run(write, 4)], *([each.value for each in run(read, ranks)] for ranks in (4, 1))


def model_and_optimiser() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(40, 70), torch.nn.ReLU(), torch.nn.Linear(70, 10))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> float:
    torch.manual_seed(seed)
    loss = model(torch.randn(16, 40)).square().mean()
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


def fsdp(root: Path) -> Any:
    """FSDP2 trains on 4 ranks, saves in the background, goes on; 2 and 3 ranks resume and see the same losses."""

    def train(_: int) -> list[float]:
        model, optimiser = model_and_optimiser()
        for seed in range(3):
            step(model, optimiser, seed)
        group = dist.new_group(backend="gloo")  # training goes on talking meanwhile
        weights, moments = get_state_dict(model, optimiser)
        pending = dcp.async_save(
            {"model": weights, "optimiser": moments}, process_group=group,
            storage_writer=StorageWriter(root / "a", process_group=group),
        )  # fmt: skip
        after = [step(model, optimiser, seed) for seed in (3, 4)]
        pending.result()
        return after

    def resume(_: int) -> list[float]:
        model, optimiser = model_and_optimiser()
        weights, moments = get_state_dict(model, optimiser)
        found = {"model": weights, "optimiser": moments}
        dcp.load(found, storage_reader=StorageReader(root))
        set_state_dict(model, optimiser, model_state_dict=found["model"], optim_state_dict=found["optimiser"])
        return [step(model, optimiser, seed) for seed in (3, 4)]

    return [[each.value for each in run(work, ranks)] for work, ranks in ((train, 4), (resume, 2), (resume, 3))]


def disk_full(root: Path) -> Any:
    """Rank 2 may not write more than 100 kB."""
    run(lambda _: saver(root, 1)(), 4)

    def limited(rank: int) -> None:
        import resource

        attempt = saver(root, 2)
        if rank == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        attempt()

    ended = run(limited, 4)
    left = sorted(each.name for each in root.iterdir())
    before = loads(root, 1)
    again = run(lambda _: saver(root, 2)(), 4)
    return {
        "errors": [each.value for each in ended],
        "left": left,
        "loads": before,
        "again": [each.how for each in again],
        "then": sorted(each.name.split(".")[0] for each in (root / "step-2").iterdir()),
    }


def hanging(root: Path) -> Any:
    """Rank 1 never comes back from resolving its data."""
    run(lambda _: saver(root, 1)(), 4)

    def hang(rank: int) -> None:
        attempt = saver(root, 2, timeout=2)
        if rank == 1:
            writing = StorageWriter._write
            StorageWriter._write = lambda *given: time.sleep(1000) or writing(*given)  # type: ignore[method-assign]
        attempt()

    ended = run(hang, 4, hung=1)
    return {"errors": [each.value for each in ended], "ended": [each.how for each in ended], "loads": loads(root, 1)}


def killed(root: Path) -> Any:
    """Ranks die at some of the calls that a save makes to the system; the last good checkpoint loads each time."""
    good = root / "good"
    counted = [each.value for each in run(lambda _: _count(saver(good, 1)), 4)]
    chosen = {"coordinator": (0, counted[0] - 30), "other": (2, counted[2] // 2)}
    return [one_kill(good, root / name, {rank: (calls.kill_before, at)}) for name, (rank, at) in chosen.items()]


def _count(attempt: Callable[[], None]) -> int:
    with calls.watched() as seen:
        attempt()
    return len(seen)


def one_kill(
    good: Path, root: Path, faults: dict[int, tuple[calls.Fault, int]], *, over: bool = False
) -> dict[str, Any]:
    """A save beside a good checkpoint, or over it, in which these ranks die at these calls: how all ended, and what
    loads then.
    """
    shutil.copytree(good, root)

    def attempt(rank: int) -> None:
        save_it = saver(root, 2, timeout=10, name="step-1" if over else "step-2")
        with calls.watched(*faults[rank]) if rank in faults else contextlib.nullcontext():
            save_it()

    begin = time.monotonic()
    ended = run(attempt, 4, seconds=20)
    return {
        "ended": [each.how for each in ended],
        "errors": sorted({each.value[0] for each in ended if each.how == "raised"}),
        "seconds": time.monotonic() - begin,
        "loads": loads(root, 1)[0],
    }


def alone(root: Path) -> Any:
    """no_dist=True within a job: one rank saves by itself. A writer for another group than DCP's is refused."""

    def work(rank: int) -> str:
        if rank == 1:
            dcp.save({"x": torch.ones(3)}, storage_writer=StorageWriter(root / "a"), no_dist=True)
        pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        try:
            dcp.save({"x": torch.ones(3)}, storage_writer=StorageWriter(root / "b"), process_group=pairs[rank // 2])
        except dcp.api.CheckpointException as error:
            return str(error)[-200:]
        return ""

    found = {"x": torch.zeros(3)}
    ended = run(work, 4)
    dcp.load(found, storage_reader=StorageReader(root / "a"))
    return [each.value for each in ended], float(found["x"].sum())


def long_message(_: Path) -> Any:
    """What rank 0 says, however long the path in it."""

    def work(rank: int) -> int:
        return len(Ranks(None, 60).agree({"error": "漢" * 5000} if rank == 0 else None)["error"])

    return [each.value for each in run(work, 3)]


def joined_again(root: Path) -> Any:
    """Ranks that leave their group and join another one, twice, and save in each: by a writer that they had, and by a
    new one. Groups are of a backend that a barrier cannot watch, so that one of gloo is made beside them.
    """

    def work(rank: int) -> list[int]:
        writer, found = None, []
        for turn, ranks in enumerate((2, 2, 2, 1), 1):
            dist.barrier()
            dist.destroy_process_group()
            if rank >= ranks:
                break
            store = dist.FileStore(str(root / f"join-{turn}"), ranks)
            dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=ranks)
            writer = writer or StorageWriter(threads=1, timeout=30)
            for number_, each in enumerate((writer, StorageWriter(threads=1, timeout=30))):
                seed = 10 * turn + number_
                dcp.save(state(seed), storage_writer=each, checkpoint_id=root / f"step-{seed}")
                found.append(load(root))
        return found

    return [[each.how, each.value] for each in run(work, 2, seconds=60)]


CASES = {
    each.__name__: each
    for each in (alone, long_message, resharding, two_dimensions, fsdp, joined_again, disk_full, hanging, killed)
}


def main(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # of torch, about its own functions
    os.environ["CREW_FOLDER"] = str(folder)
    torch.set_num_threads(1)
    save({"x": torch.randn(300, 300), "y": torch.randn(300, 300).bfloat16()})  # the kernels
    found = {}
    for name in names:
        (folder / name).mkdir()
        begin = time.monotonic()
        found[name] = CASES[name](folder / name)
        print(name, round(time.monotonic() - begin, 1), file=sys.stderr)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:] or list(CASES))))
