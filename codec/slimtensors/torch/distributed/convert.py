"""From checkpoints of DCP, ours or its own, to safetensors or slimtensors files, and back: tensor by tensor."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from slimtensors.bases.tensors import StoredInput, base_files
from slimtensors.checkpoint.checking import check_folder
from slimtensors.checkpoint.commit import check_place
from slimtensors.checkpoint.manifest import MANIFEST, OBJECTS, STOCK, Entry, Manifest, file_name
from slimtensors.checkpoint.places import LocalPlace
from slimtensors.checkpoint.plain import check_named, check_value, dumps, parse_objects
from slimtensors.checkpoint.writing import objects_input, write_file
from slimtensors.container.source import open_source
from slimtensors.container.system import flush_folder, remove_abandoned, temporary_place
from slimtensors.container.values import object_of
from slimtensors.container.writer import Output
from slimtensors.dtypes import bytes_of
from slimtensors.errors import FormatError, UsageError, check_callable
from slimtensors.limits import CHUNK_BYTES
from slimtensors.on_torch.tensors import from_array, torch_dtype
from slimtensors.reading.tensors import open_file
from slimtensors.sources.inputs import Input, unit_count
from slimtensors.sources.safetensors_file import plain_header, read_safetensors
from slimtensors.threads import thread_count
from slimtensors.torch.distributed import values
from slimtensors.torch.distributed.assembled import OpenCheckpoint
from slimtensors.torch.distributed.stock import StockCheckpoint, write_stock
from slimtensors.writing.destinations import write_to
from slimtensors.writing.store import store

__all__ = ["Kind", "convert_checkpoint"]

Kind = Literal["checkpoint", "dcp", "safetensors", "slimtensors"]
KINDS = ("checkpoint", "dcp", "safetensors", "slimtensors")
VALUES = "values.json"  # beside weight files: what is no tensor
Progress = Callable[[int], object]


class _Content(NamedTuple):
    """What a source holds. objects and planner: encoded."""

    tensors: Sequence[Input]
    objects: dict[str, Any]
    planner: Any


def convert_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    kind: Kind,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
) -> None:
    """Write the tensors of a checkpoint, or of weight files, as something else; nothing is left if that fails.

    src: a checkpoint of ours (or a folder whose `latest.json` names one), a folder of DCP's own FileSystemWriter, a
    folder or file of safetensors or slimtensors. dst: a folder that is not there yet. kind: "checkpoint" for one of
    ours, "dcp" for what DCP's own FileSystemReader reads, "safetensors" or "slimtensors" for model files with an index
    where they are several. Nothing is written outside of dst: no `latest.json` names a checkpoint made so.
    max_shard_bytes: tensor bytes of a file, but for a tensor that is larger. progress: called
    with decoded bytes done since the last call.

    One tensor is in memory at a time, of most sources only some chunks of it. Values that are no tensors go into
    values.json beside weight files, and are taken from there. Raises UsageError for what the target cannot hold,
    FormatError for a damaged source.
    """
    check_callable("numbers of bytes", progress=progress)
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}; it can be {', '.join(map(repr, KINDS))}")
    target = Path(os.path.abspath(dst))  # noqa: PTH100 # not through links
    if target.exists():
        raise UsageError(f"{target} is there already; name a folder that is not")
    count = thread_count(threads)
    missing = [each for each in target.parents if not each.exists()]  # nearest first
    with ExitStack() as stack:
        content = _open(Path(src), stack)
        try:
            if kind == "checkpoint":
                _write_checkpoint(target, content, preset, count, max_shard_bytes, progress)
            else:
                _write_folder(target, content, kind, preset, count, max_shard_bytes, progress)
        except BaseException:
            for each in missing:
                with suppress(OSError):
                    each.rmdir()
            raise


def _open(path: Path, stack: ExitStack) -> _Content:
    if path.is_dir() and any((path / name).is_file() for name in (MANIFEST, "latest.json")):
        ours = OpenCheckpoint(LocalPlace(path))
        stack.callback(ours.close)
        return _Content(ours.inputs(), ours.objects(), ours.manifest.planner)
    if (path / STOCK).is_file():
        stock = StockCheckpoint(path)
        return _Content(stock.inputs(), stock.objects(), values.encode(stock.metadata.planner_data, "of the planner"))
    unfinished = check_folder(path, [each.name for each in path.iterdir()]) if path.is_dir() else []
    if unfinished:
        raise FormatError(unfinished[0])
    inputs: dict[str, Input] = {}
    for each in base_files(path):
        for tensor in _weights(each, stack):
            if inputs.setdefault(tensor.name, tensor) is not tensor:
                raise FormatError(f"{each}: tensor {tensor.name!r} is in another file too: name the files of one model")
    held = path / VALUES if path.is_dir() else path.with_name(VALUES)
    found = parse_objects(held.read_bytes(), canonical=False) if held.is_file() else {}
    objects, planner = object_of(found.get("objects", {}), "objects"), found.get("planner")
    check_value(planner)
    for value in objects.values():
        check_named(value)
    return _Content(list(inputs.values()), objects, planner)


def _weights(path: Path, stack: ExitStack) -> Iterator[Input]:
    if path.name.endswith(".slimtensors"):
        file = stack.enter_context(open_file(path))
        for i in range(len(file.header.tensors)):
            yield StoredInput(file, i)
    else:
        source = open_source(path)
        stack.callback(source.close)
        yield from read_safetensors(source).inputs


def _shards(tensors: Sequence[Input], most: int) -> list[list[Input]]:
    """In order, each of at most `most` bytes or of one tensor."""
    made: list[list[Input]] = [[]]
    filled = 0
    for tensor in tensors:
        size = tensor.dtype.bytes_of(tuple(tensor.shape))
        if made[-1] and filled + size > most:
            made.append([])
            filled = 0
        made[-1].append(tensor)
        filled += size
    return made


def _write_folder(
    target: Path, content: _Content, kind: str, preset: str, threads: int, most: int, progress: Progress | None
) -> None:
    remove_abandoned(target)
    made = temporary_place(target)
    try:
        made.mkdir(parents=True)
        if kind == "dcp":
            _write_dcp(made, content, progress)
        else:
            _write_files(made, content, kind, preset, threads, most, progress)
        flush_folder(made)
        made.rename(target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_files(
    folder: Path, content: _Content, kind: str, preset: str, threads: int, most: int, progress: Progress | None
) -> None:
    shards, places, total = _shards(content.tensors, most), dict[str, str](), 0
    for i, shard in enumerate(shards, 1):
        name = f"model.{kind}" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.{kind}"
        if kind == "safetensors":
            _write_safetensors(folder / name, shard, progress)
        else:
            store(shard, folder / name, {"format": "pt"}, preset, threads, True, progress=progress)
        places |= {tensor.name: name for tensor in shard}
        total += sum(tensor.dtype.bytes_of(tuple(tensor.shape)) for tensor in shard)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"model.{kind}.index.json").write_bytes(json.dumps(index, indent=2).encode() + b"\n")
    if content.objects or content.planner is not None:
        (folder / VALUES).write_bytes(dumps({"objects": content.objects, "planner": content.planner}))


def _write_safetensors(path: Path, tensors: Sequence[Input], progress: Progress | None) -> None:
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.bits, tensor.name))  # widest first: all are aligned
    specs = [
        (each.name, each.dtype.name, tuple(each.shape), each.dtype.bytes_of(tuple(each.shape))) for each in ordered
    ]

    def write(output: Output) -> None:
        output.write(plain_header(specs, {"format": "pt"}))
        for tensor in ordered:
            units, step = unit_count(tensor), CHUNK_BYTES // tensor.dtype.unit_bytes
            for start in range(0, units, step):
                data = bytes_of(tensor.read(start, min(step, units - start)))
                output.write(data)
                if progress is not None:
                    progress(len(data))

    write_to(path, write)


def _write_checkpoint(
    target: Path, content: _Content, preset: str, threads: int, most: int, progress: Progress | None
) -> None:
    place, run = LocalPlace(target), secrets.token_hex(16)
    check_place(place)
    if any(tensor.name == OBJECTS for tensor in content.tensors):
        raise UsageError(f"a tensor is called {OBJECTS!r}, which a checkpoint keeps for what is no tensor: rename it")
    entries, files = {}, []
    shards = _shards(content.tensors, most)
    try:
        for number, shard in enumerate(shards):
            inputs = list(shard)
            if number == 0 and content.objects:
                inputs.append(objects_input(content.objects))
            metadata = {"rank": str(number), "ranks": str(len(shards)), "run": run}
            files.append(
                write_file(
                    place, file_name(number, run), inputs, metadata, preset=preset, threads=threads, self_check=True,
                    durable=True, bases=[None] * len(inputs),
                )
            )  # fmt: skip
            for tensor in shard:
                shape = tuple(tensor.shape)
                entries[tensor.name] = Entry(tensor.dtype.name, shape, [[number, *(0 for _ in shape), *shape]])
                if progress is not None:
                    progress(tensor.dtype.bytes_of(shape))
        manifest = Manifest(run, files, entries, dict.fromkeys(content.objects, 0), content.planner)
        place.replace(MANIFEST, manifest.to_bytes(), durable=True)  # no `latest.json`: it is no state of a job's
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _write_dcp(folder: Path, content: _Content, progress: Progress | None) -> None:
    tensors = {tensor.name: tensor for tensor in content.tensors}

    def load(name: str) -> torch.Tensor:
        tensor = tensors[name]
        units = tensor.read(0, unit_count(tensor))
        if progress is not None:
            progress(units.nbytes)
        return from_array(units.view(tensor.dtype.numpy()).reshape(tensor.shape), tensor.dtype, "cpu")

    specs = {name: (torch_dtype(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_stock(folder, specs, content.objects, values.decode(content.planner), load)
