"""Section 13: checkpoints of torch.distributed.checkpoint, ours beside stock, its ZStandard extension, its safetensors.

What is saved is a trainer's state under AdamW: BF16 weights, and in F32 weights and two moments, of the small language
model and of MiniLM. One process, since each rank does the same with its part. Every size is of a whole checkpoint
folder, which was loaded again and compared.

- save: seconds of processor time of one thread, all writers in turn, flushing to the disk left out; the least of all,
  since other work can only add to it. Ours without and with its self-check, which decodes everything once more.
- async_save: seconds until the call returns, and what a training loop of matrix products, one thread, takes during the
  save, over what it takes alone, wall time, for as many steps as fill the save. By turns; the least of each.
- durable: seconds until a save to a store of 50 MB/s is complete, wall time; over that of the plain state.
- memory: the peak above what there was before the save, in a process of its own.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, timing, worker
from bench.data import SafeFile, path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.memory import peak_bytes
from bench.timing import Record

DATASETS = ("language-adamw", "minilm-adamw")
STORE_BYTES = 50e6  # a second
TARGET = "language-adamw"  # what is timed: its moments are dense, where most of MiniLM's embedding never moved
PLAIN = "stock"


def state_of(dataset: str) -> dict[str, Any]:
    """The tensors of a file, in memory."""
    torch = importlib.import_module("torch")
    kinds = {"BF16": torch.bfloat16, "F32": torch.float32}
    made = {}
    for spec, array in SafeFile(path_of(dataset)):
        flat = torch.from_numpy(np.array(array).reshape(-1).view(np.uint8))
        made[spec.name] = flat.view(kinds[spec.dtype]).reshape(spec.shape)
    return made


def writers(*, check: bool = True) -> dict[str, Callable[[str], Any]]:
    """Storage writers by what they are called; each is given a folder. One thread, nothing flushed."""
    dcp = importlib.import_module("torch.distributed.checkpoint")
    filesystem = importlib.import_module("torch.distributed.checkpoint.filesystem")
    zstandard = importlib.import_module("torch.distributed.checkpoint._extension").ZStandard
    mine = importlib.import_module("slimtensors.torch.distributed").StorageWriter
    plain: dict[str, Any] = {"sync_files": False, "thread_count": 1}
    names = filesystem.SerializationFormat
    made: dict[str, Callable[[str], Any]] = {
        PLAIN: lambda path: dcp.FileSystemWriter(path, **plain),
        "stock, ZStandard": lambda path: dcp.FileSystemWriter(path, _extensions=[zstandard()], **plain),
        "stock, safetensors": lambda path: dcp.FileSystemWriter(path, serialization_format=names.SAFETENSORS, **plain),
    }
    for preset in ("balanced", "small"):
        made[f"slimtensors {preset}"] = lambda path, preset=preset: mine(
            path, preset=preset, threads=1, durable=False, self_check=check
        )
    return made


def reader(codec: str, path: str) -> Any:
    """What reads a checkpoint of that writer."""
    dcp = importlib.import_module("torch.distributed.checkpoint")
    if codec.startswith("slimtensors"):
        return importlib.import_module("slimtensors.torch.distributed").StorageReader(path, threads=1)
    if codec == "stock, safetensors":
        return dcp.HuggingFaceStorageReader(path)
    extension = importlib.import_module("torch.distributed.checkpoint._extension")
    registry = extension.ExtensionRegistry()
    registry.register(extension.ZStandard)
    return dcp.FileSystemReader(path, _extension_registry=registry)


def save(state: dict[str, Any], writer: Any) -> None:
    importlib.import_module("torch.distributed.checkpoint").save(state, storage_writer=writer, no_dist=True)


def size_of(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def _sizes(folder: Path) -> list[Record]:
    torch = importlib.import_module("torch")
    dcp = importlib.import_module("torch.distributed.checkpoint")
    records: list[Record] = []
    for dataset in DATASETS:
        if not (CACHE / f"{dataset}.safetensors").exists():  # they take long to make: bench/data
            records.append({"dataset": dataset, "codec": "all", "missing": f"{dataset} was not made"})
            continue
        state = state_of(dataset)
        raw = sum(each.nbytes for each in state.values())
        for number, (codec, make) in enumerate(writers().items()):
            place = folder / f"{dataset}-{number}" / "a"
            record: Record = {"dataset": dataset, "codec": codec, "operation": "size"}
            save(state, make(str(place)))
            back = {name: torch.zeros_like(each) for name, each in state.items()}
            try:
                dcp.load(back, storage_reader=reader(codec, str(place)), no_dist=True)
                if not all(torch.equal(back[name], each) for name, each in state.items()):
                    raise RuntimeError("what was loaded is not what was saved")
                record |= {"bytes": size_of(place), "percent": 100 * size_of(place) / raw}
            except (Exception, dcp.api.CheckpointException) as error:  # stock has no reader for its safetensors
                record |= {"bytes": size_of(place), "percent": 100 * size_of(place) / raw, "load": f"{error}"[:200]}
            records.append(record)
            shutil.rmtree(place.parent)
    return records


def _speed(folder: Path, repeats: int) -> list[Record]:
    state = state_of(TARGET)
    nbytes = sum(each.nbytes for each in state.values())
    cases = []
    for check in (False, True):
        for codec, make in writers(check=check).items():
            if check and not codec.startswith("slimtensors"):
                continue
            place = folder / f"{codec}-{check}".replace(" ", "-").replace(",", "") / "a"
            labels = {"dataset": TARGET, "codec": codec, "operation": "save", "self_check": check, "threads": 1}

            def again(_: Any, make: Any = make, place: Path = place) -> None:
                save(state, make(str(place)))

            cases.append(timing.Case(labels, again, nbytes=nbytes))
    with timing.pinned(0):
        found = timing.interleave(cases, repeats, wall=False)
    for case, record in zip(cases, found, strict=True):
        record |= {"least": min(case.seconds), "least_gbps": nbytes / min(case.seconds) / 1e9}
    return found


def _loop(steps: int, pair: Any) -> float:
    """Seconds for some steps of what computes all the time."""
    begin = time.perf_counter()
    for _ in range(steps):
        pair @ pair
    return time.perf_counter() - begin


def _async(folder: Path, repeats: int) -> list[Record]:
    torch = importlib.import_module("torch")
    dcp = importlib.import_module("torch.distributed.checkpoint")
    mine = importlib.import_module("slimtensors.torch.distributed").StorageWriter
    torch.set_num_threads(1)
    state, pair = state_of(TARGET), torch.randn(384, 384)
    makers: dict[tuple[str, int], Callable[[str], Any]] = {(PLAIN, 1): writers()[PLAIN]}
    for threads in (1, 2):
        makers["slimtensors balanced", threads] = lambda path, threads=threads: mine(
            path, threads=threads, durable=False
        )
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {key: [] for key in makers}
    for turn in range(repeats + 1):
        for key, make in makers.items():
            begin = time.perf_counter()
            pending = dcp.async_save(state, storage_writer=make(str(folder / "-".join(map(str, key)) / "a")))
            blocked = time.perf_counter() - begin
            steps, begin = 0, time.perf_counter()
            while not pending.done():
                _loop(10, pair)
                steps += 10
            during = time.perf_counter() - begin
            pending.result()
            alone = _loop(steps, pair)
            if turn:
                found[key].append((blocked, during / alone, during))
    records = []
    for (codec, threads), seen in found.items():
        blocked, slower, during = (min(each) for each in zip(*seen, strict=True))
        common = {"dataset": TARGET, "codec": codec, "threads": threads, "clock": "wall"}
        records += [
            common | {"operation": "async_save returns", "seconds": blocked, "samples": [each[0] for each in seen]},
            common
            | {
                "operation": "loop during a save",
                "of_alone": slower,
                "seconds": during,
                "samples": [e[1] for e in seen],
            },
        ]
    return records


def _durable(repeats: int) -> list[Record]:
    importlib.import_module("bench.slow_store")
    fsspec = importlib.import_module("torch.distributed.checkpoint._fsspec_filesystem")
    mine = importlib.import_module("slimtensors.torch.distributed").StorageWriter
    state = state_of(TARGET)
    makers = {
        (PLAIN, 1): lambda path: fsspec.FsspecWriter(path, sync_files=False),
        ("slimtensors balanced", 2): lambda path: mine(path, threads=2),
    }
    seconds: dict[Any, list[float]] = {key: [] for key in makers}
    sizes = {}
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for _ in range(repeats):
            for key, make in makers.items():
                place = Path(folder) / key[0].replace(" ", "-") / "a"
                begin = time.perf_counter()
                save(state, make(f"slow://{place}"))
                seconds[key].append(time.perf_counter() - begin)
                sizes[key] = size_of(place)
    plain, small = (min(seconds[key]) for key in makers)
    ratio = sizes["slimtensors balanced", 2] / sizes[PLAIN, 1]
    return [
        {
            "dataset": TARGET, "codec": codec, "threads": threads, "operation": "durable", "clock": "wall",
            "seconds": min(seconds[codec, threads]), "samples": seconds[codec, threads], "mb_per_s": STORE_BYTES / 1e6,
            "of_plain": min(seconds[codec, threads]) / plain, "size_of_plain": sizes[codec, threads] / sizes[PLAIN, 1],
        }
        | ({"over_size": small / plain / ratio} if codec != PLAIN else {})
        for codec, threads in makers
    ]  # fmt: skip


def work(what: str, codec: str = "", threads: int = 1, repeats: int = 1) -> Any:
    """Runs in a worker."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if what == "sizes":
            return _sizes(Path(folder))
        if what == "speed":
            return _speed(Path(folder), repeats)
        if what == "async":
            return _async(Path(folder), repeats)
        if what == "durable":
            return _durable(min(repeats, 3))
        torch = importlib.import_module("torch")
        made = writers()
        if codec.startswith("slimtensors"):
            mine = importlib.import_module("slimtensors.torch.distributed").StorageWriter
            made[codec] = lambda path: mine(path, threads=threads)
        save({"x": torch.randn(1000, 300), "y": torch.randn(1000, 300).bfloat16()}, made[codec](f"{folder}/warm"))
        state = state_of(TARGET)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what there is now
        before = peak_bytes()
        save(state, made[codec](f"{folder}/a"))
        return {"above": peak_bytes() - before}


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    records: list[Record] = []
    for what in ("speed", "async", "durable", "sizes"):
        records += worker.run("distributed", what=what, repeats=settings.repeats)
    for codec, threads in (
        (PLAIN, 1),
        ("stock, ZStandard", 1),
        ("slimtensors balanced", 1),
        ("slimtensors balanced", 2),
    ):
        seen = worker.run("distributed", what="memory", codec=codec, threads=threads)
        labels = {"dataset": TARGET, "codec": codec, "threads": threads, "operation": "memory"}
        records.append(labels | {"above_mib": seen["above"] / (1 << 20)})
    return records
