"""The reader that `dcp.load` takes."""

from __future__ import annotations

import io
import os
from concurrent.futures import Future as OpenedLater
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader as TorchStorageReader
from torch.futures import Future

from slimtensors.checkpoint.ledger import find_any, find_checkpoint
from slimtensors.checkpoint.manifest import STOCK, Entry, Manifest
from slimtensors.checkpoint.opening import find_part, open_rank, read_objects
from slimtensors.checkpoint.places import StorePlace, open_place
from slimtensors.container.reader import Verify
from slimtensors.dtypes import DTYPES
from slimtensors.errors import FormatError, SlimtensorsError, UsageError
from slimtensors.on_torch.tensors import check_writable_tensors, from_array, our_dtype, torch_dtype
from slimtensors.reading.scheduling import Destination
from slimtensors.reading.slicing import read_slice
from slimtensors.reading.tensors import TensorFile, load_all
from slimtensors.threads import submit, thread_count
from slimtensors.torch.distributed import values
from slimtensors.torch.distributed.boxes import destination, lay_out

__all__ = ["StorageReader", "latest_checkpoint"]

MAX_FOUND = 4  # checkpoints, one after the other removed while they are read
OPEN_AT_ONCE = 16  # files; a header in memory may take as much as its file's smallest tensors
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def latest_checkpoint(path: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None) -> str | None:
    """The checkpoint at a path or URL, or the latest of those in it, as StorageReader finds it; None if there is none.

    A job asks before it loads: `dcp.load` says of a missing checkpoint only that its metadata is None. Raises
    FileNotFoundError if `latest.json` names one that is gone, FormatError for a damaged one, UsageError for what torch
    wrote: a job that began anew then would lose what was saved.
    """
    found = _find(path, storage_options)
    return None if found is None else found[0].label


def _find(path: str | os.PathLike[str], options: dict[str, Any] | None) -> tuple[StorePlace, Manifest] | None:
    place = open_place(path, options)
    found = find_any(place)
    if found is None and STOCK in place.sizes():
        raise UsageError(
            f"{path} is a checkpoint of DCP's own FileSystemWriter: read it with FileSystemReader, or "
            "make one of ours of it with convert_checkpoint (`slimtensors convert`)"
        )
    return found


class StorageReader(TorchStorageReader):
    """Reads a checkpoint into the tensors of a state dict, whatever the number of ranks that wrote it or read it now.

    path: a checkpoint, or the folder or URL that holds some, of which `latest.json` names the latest; `checkpoint_id`
    of `dcp.load` takes its place. Of each file, only the chunks that a rank needs are read and decoded, straight into
    contiguous tensors on the CPU. verify, threads: as for `slimtensors.safe_open`; storage_options: for fsspec.

    Where no checkpoint was committed, `read_metadata` raises FileNotFoundError, and FormatError if one is damaged; DCP
    hands on that in a CheckpointException that names the ranks, but as no type to catch: `latest_checkpoint` tells
    beforehand whether there is one. Where one process loads the latest, and the job that saves removes it meanwhile,
    the next one is read if its tensors lie alike; else FormatError says to load again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        verify: Verify = "full",
        threads: int | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._verify, self._threads, self._storage_options = verify, thread_count(threads), storage_options
        self._path = path
        self._place: StorePlace | None = None
        self._manifest: Manifest | None = None
        self._alone = False

    def __repr__(self) -> str:
        return f"StorageReader({self._path!r})"

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it can name a place."""
        return isinstance(checkpoint_id, (str, os.PathLike))

    @property
    def checkpoint_id(self) -> str | os.PathLike[str] | None:
        """What is read."""
        return self._path

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new load begins."""
        if checkpoint_id is not None:
            self._path = checkpoint_id
        self._place = self._manifest = None
        self._alone = False

    def read_metadata(self) -> Metadata:
        """What the manifest says. Raises FileNotFoundError, FormatError."""
        if self._path is None:
            raise UsageError("nothing to read: give StorageReader a path, or dcp.load a checkpoint_id")
        there = _find(self._path, self._storage_options)
        self._place, self._manifest = there or find_checkpoint(open_place(self._path, self._storage_options))
        found = self._manifest
        state: dict[str, Any] = {name: _tensor_metadata(entry) for name, entry in found.tensors.items()}
        state |= {name: BytesStorageMetadata() for name in found.objects}
        return Metadata(state, values.decode(found.planner), found)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        del is_coordinator, args, kwargs  # named as torch names them
        if not isinstance(metadata.storage_data, Manifest):
            raise UsageError("the metadata are not those that this reader read")
        self._manifest = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return replace(plan, storage_data=self._known().run)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Raises FormatError if a save came between, so that ranks would load different checkpoints."""
        self._alone = len(plans) == 1
        if len({plan.storage_data for plan in plans}) != 1:
            raise FormatError(f"{self._path}: the latest checkpoint changed while ranks looked for it; load again")
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the planner's tensors, each chunk of a file decoded once."""
        for _ in range(MAX_FOUND):
            try:
                self._read_all(plan, planner)
            except (FormatError, FileNotFoundError) as error:  # noqa: PERF203 # of four at most
                if not self._find_again(error):
                    raise
            else:
                done: Future[None] = Future()
                done.set_result(None)
                return done
        raise FormatError(self._went())

    def _went(self) -> str:
        return f"{self._path}: the latest checkpoint was removed while it was read; load again"

    def _find_again(self, error: Exception) -> bool:
        """Whether the checkpoint went while it was read, as a job that goes on saving removes it, and the latest one
        now can be read in its place: by one process, since others may have read all of theirs. Raises FormatError.
        """
        assert self._path is not None
        try:
            found = find_any(open_place(self._path, self._storage_options))
        except (SlimtensorsError, OSError):  # the first one says more
            return False
        before = self._known()
        if found is None or found[1].run == before.run:
            return False
        now = found[1]
        alike = (now.tensors, now.objects, now.planner) == (before.tensors, before.objects, before.planner)
        if not self._alone or not alike:
            raise FormatError(self._went()) from error
        self._place, self._manifest = found
        return True

    def _read_all(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        by_file: dict[int, list[_Read]] = {}
        for item in plan.items:
            read = self._locate(item)
            by_file.setdefault(read.file, []).append(read)
        numbers = iter(sorted(by_file))
        with ThreadPoolExecutor(OPEN_AT_ONCE, "slimtensors-open") as pool:
            while some := list(islice(numbers, OPEN_AT_ONCE)):
                with ExitStack() as stack:
                    opened = {}
                    for number in some:
                        opened[number] = submit(pool, self._open, number)
                        stack.callback(_close, opened[number])  # also where one before it cannot be opened
                    self._read({number: each.result() for number, each in opened.items()}, by_file, planner)

    def _known(self) -> Manifest:
        if self._manifest is None:
            raise UsageError("read_metadata comes first")
        return self._manifest

    def _open(self, number: int) -> TensorFile:
        assert self._place is not None
        return open_rank(self._place, self._known(), number, verify=self._verify)

    def _locate(self, item: ReadItem) -> _Read:
        found, name = self._known(), item.storage_index.fqn
        if item.type == LoadItemType.BYTE_IO:
            return _Read(item, found.objects[name])
        part = self._part(found.tensors[name], item)
        return _Read(item, part[0], part)

    def _part(self, entry: Entry, item: ReadItem) -> list[int]:
        wanted = [*(item.storage_index.offset or [0] * len(entry.shape))]
        hint = item.storage_index.index
        if hint is not None and hint < len(entry.parts) and entry.parts[hint][1 : 1 + len(wanted)] == wanted:
            return entry.parts[hint]
        for part in entry.parts:
            if part[1 : 1 + len(wanted)] == wanted:
                return part
        raise UsageError(f"tensor {item.storage_index.fqn!r} has no part at {wanted}")

    def _read(self, files: dict[int, TensorFile], by_file: dict[int, list[_Read]], planner: LoadPlanner) -> None:
        """The reads of some open files: in place where that can be, all at once; then the others one by one."""
        places: dict[int, list[Destination]] = {number: [] for number in files}
        filled: list[tuple[ReadItem, torch.Tensor]] = []
        others: list[tuple[TensorFile, str, ReadItem, torch.Tensor]] = []
        for number, file in files.items():
            wanted = [read.item for read in by_file[number] if read.part is None]
            objects = {}
            if wanted:
                objects = read_objects(file, [item.storage_index.fqn for item in wanted], self._threads)
            for item in wanted:
                planner.load_bytes(item, _as_stream(objects[item.storage_index.fqn]))
            for read in by_file[number]:
                if read.part is None:
                    continue
                fqn = read.item.storage_index.fqn
                name = find_part(file, fqn, self._known().tensors[fqn], read.part)
                target = planner.resolve_tensor(read.item).detach()
                place = _place(file, name, read.item, target)
                if place is None:
                    others.append((file, name, read.item, target))
                else:
                    places[number].append(place)
                filled.append((read.item, target))
        check_writable_tensors(((item.dest_index.fqn, target) for item, target in filled), so="")
        loads = (load for number, file in files.items() if places[number] for load in file.loads(places[number]))
        load_all(loads, self._threads, list(files.values()))
        for each in others:
            self._copy(*each)
        for item, target in filled:
            planner.commit_tensor(item, target)

    def _copy(self, file: TensorFile, name: str, item: ReadItem, target: torch.Tensor) -> None:
        """By way of memory of its own: to a device, to another dtype, to where memory is scattered."""
        index = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
        array: npt.NDArray[Any] = read_slice(file, name, index, self._threads)
        found = from_array(array, file.tensor(name).dtype, "cpu")
        if found.shape != target.shape:
            raise UsageError(f"tensor {name!r}: {list(found.shape)} is read for {list(target.shape)}")
        target.copy_(found)


class _Read(NamedTuple):
    """What DCP asks for, the number of the file that has it, and the part that it is in; None if it is no tensor."""

    item: ReadItem
    file: int
    part: list[int] | None = None


def _close(opened: OpenedLater[TensorFile]) -> None:
    if opened.exception() is None:
        opened.result().close()


def _tensor_metadata(entry: Entry) -> TensorStorageMetadata:
    chunks = []
    for part in entry.parts:
        _, offsets, sizes = entry.split(part)
        chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    properties = TensorProperties(dtype=torch_dtype(DTYPES[entry.dtype]))
    return TensorStorageMetadata(properties, torch.Size(entry.shape), chunks)


def _as_stream(stored: Any) -> io.BytesIO:
    """As DCP's planner expects it, which unpickles: a pickle of what was just made from JSON, and of nothing else."""
    if isinstance(stored, dict) and set(stored) == {"stream"}:
        return io.BytesIO(values.decode({"bytes": stored["stream"]}))
    stream = io.BytesIO()
    torch.save(values.decode(stored), stream)
    stream.seek(0)
    return stream


def _place(file: TensorFile, name: str, item: ReadItem, target: torch.Tensor) -> Destination | None:
    """Where the chunks go, if they can go straight into the target's memory."""
    index = file.find(name)
    tensor = file.header.tensors[index]
    if target.device.type != "cpu" or our_dtype(target.dtype) != tensor.dtype.name or not target.numel():
        return None
    if tensor.dtype.bits != tensor.dtype.unit_bits or target.is_conj() or target.is_neg():
        return None
    if tuple(target.shape) != tuple(item.lengths):
        return None
    layout = lay_out(tensor.shape, tuple(item.storage_offsets), tuple(item.lengths))
    if layout is None:
        return None
    try:
        rows = target.view(_SAME_SIZE[tensor.dtype.unit_bytes]).view(layout.rows, layout.width)
    except RuntimeError:  # its memory is not laid out in such rows
        return None
    if layout.width != 1 and rows.stride(1) != 1:
        return None
    return destination(index, layout, rows.numpy().view(tensor.dtype.unit))
