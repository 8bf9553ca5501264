"""Section 9: loading from a source that is slower than memory, and what `load_model` takes beside the model.

The throttled reader serves one request after another at its rate. "efficiency" is the file's bytes over rate over
seconds: 1 if the source was never idle. "of_bound": the longer of that time and of decoding from memory, over seconds.
Before each sample as much memory as any call takes is touched and given back: the host of a virtual machine may take
what is free for some seconds, and getting it again took 0.9 s for 512 MiB on ours, whoever loads. Plain safetensors is
given the best there is: all bytes read by two requests at a time, then `safetensors.torch.load`. Memory is the peak of
a process of its own, above what the model and the imports take.
"""

from __future__ import annotations

import importlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, timing, worker
from bench.data import path_of
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.memory import peak_bytes
from bench.throttle import Throttled
from bench.timing import Case, Record

DATASET = "big-512m"
RATES = (100, 500, 2000)  # MB/s
THREADS = 2


def _ours(reader: Throttled, _: Any) -> Any:
    return importlib.import_module("slimtensors.torch").load_file(reader, threads=THREADS)


def _streamed(reader: Throttled, _: Any) -> int:
    stream = importlib.import_module("slimtensors.torch").stream_tensors(reader, threads=THREADS)
    return sum(tensor.nbytes for _, tensor in stream)


def _plain(reader: Throttled, _: Any) -> Any:
    return importlib.import_module("safetensors.torch").load(bytes(reader.read_all()))


def _have_memory(nbytes: int) -> None:
    """Make the machine hold so much memory that nobody uses."""
    np.empty(nbytes, np.uint8)[::4096] = 0


def _decode_alone(data: bytes, _: Any) -> Any:
    return importlib.import_module("slimtensors.torch").load(data, threads=THREADS)


def _rates(source: Path, packed: Path, repeats: int) -> list[Record]:
    records: list[Record] = []
    have, data = partial(_have_memory, 3 * source.stat().st_size), packed.read_bytes()
    for rate in RATES:
        readers = [Throttled(path, rate * 1e6) for path in (packed, packed, source)]
        calls = [("slimtensors balanced", "load_file", _ours), ("slimtensors balanced", "stream_tensors", _streamed)]
        calls.append(("safetensors", "read and load", _plain))
        cases = [
            Case({"codec": codec, "operation": operation, "mb_per_s": rate}, partial(call, reader), have)
            for reader, (codec, operation, call) in zip(readers, calls, strict=True)
        ]
        alone: Record = {"codec": "slimtensors balanced", "operation": "decode alone", "mb_per_s": rate}
        cases.append(Case(alone, partial(_decode_alone, data), have))
        *found, decoded = timing.interleave(cases, repeats, wall=True)
        for record, reader in zip(found, readers, strict=True):
            record["efficiency"] = reader.size() / (rate * 1e6) / record["seconds"]
            if record["codec"].startswith("slimtensors"):
                record["of_bound"] = max(reader.size() / (rate * 1e6), decoded["seconds"]) / record["seconds"]
            reader.close()
        found.append(decoded)
        records += [record | {"dataset": DATASET, "threads": THREADS, "clock": "wall"} for record in found]
    return records


def skeleton(path: Path) -> Any:
    """A module whose parameters are those of a safetensors file, by name, shape and dtype."""
    torch = importlib.import_module("torch")
    root = torch.nn.Module()
    with importlib.import_module("safetensors").safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 # no mapping
            *parents, last = name.split(".")
            module = root
            for parent in parents:
                if parent not in dict(module.named_children()):
                    module.add_module(parent, torch.nn.Module())
                module = dict(module.named_children())[parent]
            like = file.get_tensor(name)
            made = torch.empty(like.shape, dtype=like.dtype)
            module.register_parameter(last, torch.nn.Parameter(made, requires_grad=False))
    return root


def work(operation: str, source: str, target: str = "") -> Record:
    """Runs in a worker: peak memory of loading a model, or of having it."""
    model = skeleton(Path(source))
    if operation == "have":
        for parameter in model.parameters():
            parameter.zero_()
        importlib.import_module("slimtensors.torch").load(
            importlib.import_module("slimtensors.torch").save({"x": next(model.parameters())[:300].clone()})
        )
    elif operation == "slimtensors":
        importlib.import_module("slimtensors.torch").load_model(model, target, threads=THREADS)
    elif operation == "slimtensors, second copy":
        model.load_state_dict(importlib.import_module("slimtensors.torch").load_file(target, threads=THREADS))
    else:
        importlib.import_module("safetensors.torch").load_model(model, source)
    return {"peak": peak_bytes(), "model": sum(parameter.nbytes for parameter in model.parameters())}


def _memory(source: Path, packed: Path) -> list[Record]:
    held = worker.run("streaming", operation="have", source=str(source))
    records = []
    for operation in ("slimtensors", "slimtensors, second copy", "safetensors"):
        seen = worker.run("streaming", operation=operation, source=str(source), target=str(packed))
        records.append(
            {
                "codec": operation,
                "operation": "load_model",
                "dataset": DATASET,
                "threads": THREADS,
                "above_mib": (seen["peak"] - held["peak"]) / (1 << 20),
                "model_mib": seen["model"] / (1 << 20),
            }
        )
    return records


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    source = path_of(DATASET)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        packed = Path(folder) / "packed.slimtensors"
        ours.compress(source, packed, "balanced", THREADS)
        source.read_bytes()  # into the page cache
        return [*_rates(source, packed, settings.repeats), *_memory(source, packed)]
