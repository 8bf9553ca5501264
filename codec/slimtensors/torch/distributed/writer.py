"""The writer that `dcp.save` and `dcp.async_save` take."""

from __future__ import annotations

import os
import secrets
import time
import warnings
from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.storage import StorageWriter as TorchStorageWriter
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from slimtensors.bases.matching import matched_bases
from slimtensors.checkpoint.commit import bases_for, check_free, commit, missing_ranks, withdraw
from slimtensors.checkpoint.manifest import OBJECTS, Entry, File, Manifest, file_name, part_name
from slimtensors.checkpoint.places import StorePlace, open_place
from slimtensors.checkpoint.writing import objects_input, write_file
from slimtensors.errors import FormatError, SlimtensorsError, UsageError, note
from slimtensors.limits import MAX_BASE_DEPTH
from slimtensors.on_torch.tensors import our_dtype, tensor_inputs
from slimtensors.planning.planner import check_preset
from slimtensors.sources.inputs import Input
from slimtensors.threads import thread_count
from slimtensors.torch.distributed import values
from slimtensors.torch.distributed.ranks import Ranks, RanksMissingError

__all__ = ["StorageWriter"]


class _Written(NamedTuple):
    """What a rank reports: few objects, since the coordinator gets one from each of perhaps thousands of ranks.

    numbers: of each part in turn, how many dimensions its tensor has, its offsets and its sizes.
    """

    run: str
    bases: list[tuple[str, str]]
    rank: int
    file: File
    tensors: list[str]  # of each part
    numbers: array[int]
    objects: list[str]

    def parts(self, number: int) -> Iterator[tuple[str, list[int]]]:
        """(tensor, part) as a manifest has them, of file `number`."""
        numbers, at = self.numbers.tolist(), 0
        for tensor in self.tensors:
            end = at + 1 + 2 * numbers[at]
            yield tensor, [number, *numbers[at + 1 : end]]
            at = end


class StorageWriter(TorchStorageWriter, BlockingAsyncStager):
    """Writes one compressed file for each rank, and then the manifest that makes them a checkpoint.

    path: a new folder for each save, or an URL that fsspec knows, such as s3://bucket/run/step-100; `checkpoint_id` of
    `dcp.save` takes its place. A checkpoint that is there already is replaced as a whole (overwrite=False: refused).
    Beside it, in the folder above, `latest.json` names the latest one.

    preset, threads, self_check, durable: as for `slimtensors.torch.save_file`; with a store, where nothing can be read
    back before it counts, self_check decodes each chunk before it is sent. threads: for each rank; it bounds what a
    save in the background takes from training. keep: of the checkpoints that `latest.json` names, keep this many, and
    what they need. full_every: store only every n-th save in full and those between as differences from the save
    before, which loading then needs too; n is at most 8, and 1, the default, stores all in full. A rank that cannot
    read what it saved before stores in full as well, and warns. timeout: seconds that a save may take; then all ranks
    that are left raise RanksMissingError, which names the others. process_group: the one given to `dcp.save`.
    storage_options: for fsspec.

    All ranks make one alike, as for any collective. One job at a time saves into the folder above:
    what `keep` removes may be any job's.

    `dcp.async_save` has the state copied by the writer, unless it is given a stager: as DCP's own FileSystemWriter
    copies it, each tensor by itself, before the call returns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        preset: str = "balanced",
        threads: int | None = None,
        self_check: bool = True,
        durable: bool = True,
        overwrite: bool = True,
        keep: int | None = None,
        full_every: int = 1,
        timeout: float = 1800,
        process_group: Any = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        TorchStorageWriter.__init__(self)
        BlockingAsyncStager.__init__(self)
        check_preset(preset)
        if keep is not None and keep < 1:
            raise UsageError(f"keep is {keep}; at least 1 is needed")
        if not 1 <= full_every <= MAX_BASE_DEPTH:
            raise UsageError(f"full_every is {full_every}; it can be 1 to {MAX_BASE_DEPTH}")
        if timeout <= 0:
            raise UsageError(f"timeout is {timeout}; seconds are needed")
        self._preset, self._threads = preset, thread_count(threads)
        self._self_check, self._durable, self._overwrite = self_check, durable, overwrite
        self._keep, self._full_every, self._timeout = keep, full_every, timeout
        self._storage_options = storage_options
        self._process_group = process_group
        self._ranks = self._all_ranks = Ranks(process_group, timeout)
        self._path, self._coordinator, self._new = path, True, False
        self._place: StorePlace | None = None if path is None else open_place(path, storage_options)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it can name a place."""
        return isinstance(checkpoint_id, (str, os.PathLike))

    @property
    def checkpoint_id(self) -> str | os.PathLike[str] | None:
        """Where the next save goes."""
        return self._path

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new save begins."""
        if checkpoint_id is not None:
            self._path, self._place = checkpoint_id, open_place(checkpoint_id, self._storage_options)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Raises UsageError on the coordinator if there is no place to save to."""
        del args  # kwargs have to be called so: torch looks for the name
        if not kwargs.get("use_collectives", True):
            raise UsageError("use_collectives=False: ranks that do not talk cannot commit a checkpoint as a whole")
        self._coordinator = is_coordinator
        if not self._all_ranks.current:
            self._all_ranks = Ranks(self._process_group, self._timeout)
        self._ranks = self._all_ranks
        place = self._at()
        if is_coordinator:
            check_free(place, overwrite=self._overwrite)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Raises UsageError on the coordinator if these are not the ranks that this writer knows."""
        if len(plans) == 1:
            self._ranks = Ranks.alone()  # no_dist=True
        elif len(plans) != self._ranks.count:
            raise UsageError(
                f"{len(plans)} ranks save, but the writer's process_group has {self._ranks.count}: give StorageWriter "
                "the process_group that dcp.save was given"
            )
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file; returns when all ranks have written theirs, or failed to."""
        begin = time.monotonic()
        message: dict[str, Any] | None = None
        if self._coordinator:
            try:
                bases = bases_for(self._at(), self._ranks.count, self._full_every)
                message = {"run": secrets.token_hex(16), "bases": bases, "new": not self._at().exists()}
            except Exception as error:
                message = {"error": f"{type(error).__name__}: {error}"}
        agreed = self._ranks.agree(message)
        if "error" in agreed:
            raise SlimtensorsError(agreed["error"])
        run, self._new = agreed["run"], agreed["new"]
        try:
            written = self._write(plan, planner, run, [(name, base) for name, base in agreed["bases"]])
        except BaseException:
            self._wait(run, begin, False)
            self._take_back(run)
            raise
        if not self._wait(run, begin, True):
            self._take_back(run)  # and DCP raises what the others have raised
        result = WriteResult(MetadataIndex(written.file.name), written.file.size, written)
        done: Future[list[WriteResult]] = Future()
        done.set_result([result])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit, on the coordinator, what all ranks have written."""
        written = sorted((each.storage_data for one in results for each in one), key=lambda each: each.rank)
        if [each.rank for each in written] != list(range(len(results))) or len({each.run for each in written}) != 1:
            raise SlimtensorsError(f"of {len(results)} ranks, {[each.rank for each in written]} reported one run")
        manifest = _manifest(metadata, written)
        try:
            commit(self._at(), manifest, keep=self._keep, durable=self._durable)
        except Exception:
            with suppress(Exception):  # the first one matters more
                withdraw(self._at(), manifest.run, new=self._new)
            raise

    def _at(self) -> StorePlace:
        if self._place is None:
            raise UsageError("no place to save to: give StorageWriter a path, or dcp.save a checkpoint_id")
        return self._place

    def _take_back(self, run: str) -> None:
        """Remove what this rank wrote, if that can be done, and the folder if it was new: the save has failed."""
        place = self._at()
        with suppress(Exception):  # whatever led here matters more
            place.remove(file_name(self._ranks.rank, run))
            if self._new:
                place.remove_if_empty()  # the last rank's attempt succeeds

    def _wait(self, run: str, begin: float, well: bool) -> bool:
        """For the other ranks. Whether all wrote their files. Raises RanksMissingError; files stay, which tell who is
        missing.
        """
        wrong = self._ranks.wait_for_all(max(1.0, self._timeout - (time.monotonic() - begin)))
        if wrong is None:
            try:
                return self._ranks.all_well(well)
            except RuntimeError as error:
                wrong = str(error).splitlines()[0]
        try:
            missing = missing_ranks(self._at(), run, self._ranks.count)
        except Exception as error:
            missing = []
            wrong = f"{wrong}; {error}"
        named = f"rank {', '.join(map(str, missing))} has not finished its file" if missing else wrong
        raise RanksMissingError(
            f"{self._at().label}: not saved, nothing was committed: {named} after {time.monotonic() - begin:.0f} s "
            f"(timeout={self._timeout:g}). End this job and start again from the latest checkpoint"
        )

    def _write(self, plan: SavePlan, planner: SavePlanner, run: str, bases: list[tuple[str, str]]) -> _Written:
        rank, place = self._ranks.rank, self._at()
        tensors: dict[str, torch.Tensor] = {}
        names, numbers, objects = list[str](), array("q"), {}
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                objects[item.index.fqn] = _object(planner, item)
                continue
            data = item.tensor_data
            assert data is not None
            offsets, sizes = tuple(data.chunk.offsets), tuple(data.chunk.sizes)
            name = part_name(item.index.fqn, tuple(data.size), offsets, sizes)
            if name in tensors or item.index.fqn == OBJECTS:
                raise UsageError(f"tensor {name!r}: a file can hold only one of that name; rename it")
            found = planner.resolve_data(item)
            assert isinstance(found, torch.Tensor)
            tensors[name] = _storable(found, name)
            names.append(item.index.fqn)
            numbers.extend((len(sizes), *offsets, *sizes))
        inputs: list[Input] = [*tensor_inputs(tensors, lazy=True)]
        if objects:
            inputs.append(objects_input(objects))
        above, label = place.parent(), file_name(rank, run)
        assert above is not None
        chain = [above.child(name).source(file_name(rank, base)) for name, base in bases]

        def write(chain: list[Any]) -> File:
            with matched_bases(inputs, chain[0] if chain else None, base_dirs=chain[1:]) as matched:
                return write_file(
                    place, label, inputs, {"rank": str(rank), "ranks": str(self._ranks.count), "run": run},
                    preset=self._preset, threads=self._threads, self_check=self._self_check, durable=self._durable,
                    bases=matched.bases,
                )  # fmt: skip

        try:
            try:
                file = write(chain)
            except (FormatError, FileNotFoundError) as error:
                if not chain:
                    raise
                # A job must not lose what it does now because what it saved before is damaged.
                why = f"{place.label}: rank {rank} saves in full, since what it saved before cannot be read: {error}"
                warnings.warn(why, stacklevel=2)
                file = write([])
        except Exception as error:
            note(error, f"while rank {rank} wrote {place.label}/{label}")
            raise
        return _Written(run, bases, rank, file, names, numbers, list(objects))


def _storable(tensor: torch.Tensor, name: str) -> torch.Tensor:
    found = tensor.detach()
    if our_dtype(found.dtype).startswith("F4"):
        raise UsageError(f"tensor {name!r}: {found.dtype} packs two numbers to a byte; save it as .view(torch.uint8)")
    return found


def _object(planner: SavePlanner, item: WriteItem) -> Any:
    """What is no tensor, encoded. DCP's own planner would pickle it; so it is asked for the object itself."""
    name = item.index.fqn
    look_up = getattr(planner, "lookup_object", None)
    if look_up is not None:
        return values.encode(look_up(item.index), name)
    stream = planner.resolve_data(item)
    data = b"" if isinstance(stream, torch.Tensor) else stream.getvalue()
    if data.startswith((b"PK\x03\x04", b"\x80")):
        raise UsageError(
            f"state {name}: {type(planner).__name__} gives a pickle of it, which is not stored: derive it from "
            "DefaultSavePlanner, or let resolve_data give other bytes"
        )
    return {"stream": values.encode(data, name)["bytes"]}


def _manifest(metadata: Metadata, written: list[_Written]) -> Manifest:
    parts: dict[str, list[list[int]]] = {}
    objects: dict[str, int] = {}
    for number, each in enumerate(written):
        for tensor, part in each.parts(number):
            parts.setdefault(tensor, []).append(part)
        objects |= dict.fromkeys(each.objects, number)
    tensors = {}
    for name, found in metadata.state_dict_metadata.items():
        if isinstance(found, BytesStorageMetadata):
            if name not in objects:
                raise SlimtensorsError(f"no rank has written {name!r}")
        elif isinstance(found, TensorStorageMetadata):
            shape = tuple(found.size)
            placed = sorted(parts.pop(name, []), key=lambda part: part[1:])
            tensors[name] = Entry(our_dtype(found.properties.dtype), shape, placed)
    if parts:
        raise SlimtensorsError(f"{next(iter(parts))!r} was written, but the plan does not name it")
    planner = values.encode(metadata.planner_data, "of the planner")
    return Manifest(written[0].run, [each.file for each in written], tensors, objects, planner, written[0].bases)
