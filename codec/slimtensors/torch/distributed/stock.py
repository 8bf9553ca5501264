"""Checkpoints of DCP's own FileSystemWriter, read and written tensor by tensor.

Their `.metadata` is a pickle, and is not unpickled (stock_metadata.py). Items are read by torch with weights_only=True.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from slimtensors.checkpoint.manifest import STOCK
from slimtensors.container.lossy import Lossy
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError, UsageError
from slimtensors.on_torch.tensors import our_dtype, tensor_inputs
from slimtensors.torch.distributed import values
from slimtensors.torch.distributed.stock_metadata import read_metadata

__all__ = ["StockCheckpoint", "StockInput", "write_stock"]


class _Reader(filesystem.FileSystemReader):
    """Torch's reader over metadata that are read already."""

    def __init__(self, folder: pathlib.Path, found: metadata.Metadata) -> None:
        super().__init__(folder)
        self.set_up_storage_reader(found, True)


class _Into(LoadPlanner):
    """Puts what is read where it is told."""

    def __init__(self, tensor: torch.Tensor | None = None) -> None:
        self.tensor, self.stream = tensor, b""

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        found = self.tensor
        assert found is not None
        for axis, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            found = found.narrow(axis, offset, length)
        return found

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        del read_item
        self.stream = value.getvalue()

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None: ...
    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None: ...
    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan


class StockCheckpoint:
    """A folder that DCP's FileSystemWriter has filled."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.label = str(folder)
        self.metadata = read_metadata(folder / STOCK)
        self._reader = _Reader(folder, self.metadata)
        self._last: tuple[str, torch.Tensor] | None = None  # one tensor in memory at a time

    def inputs(self) -> list[StockInput]:
        """Its tensors. Raises UsageError for a dtype that has no place here."""
        found = self.metadata.state_dict_metadata.items()
        return [StockInput(self, name, each) for name, each in found if isinstance(each, TensorStorageMetadata)]

    def objects(self) -> dict[str, Any]:
        """What is no tensor, encoded. Raises UsageError for what only a pickle could hold."""
        found = {}
        for name, each in self.metadata.state_dict_metadata.items():
            if isinstance(each, TensorStorageMetadata):
                continue
            index, into = MetadataIndex(name), _Into()
            no = torch.Size([0])
            self._read([ReadItem(LoadItemType.BYTE_IO, index, no, index, no, no)], into)
            try:
                value = torch.load(io.BytesIO(into.stream), weights_only=True)
            except Exception as error:
                raise UsageError(
                    f"{self.label}: {name!r} holds more than plain values, and is not unpickled: {error}"
                ) from None
            found[name] = values.encode(value, name)
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """A whole one."""
        if self._last is None or self._last[0] != name:
            self._last = None
            entry = self.metadata.state_dict_metadata[name]
            assert isinstance(entry, TensorStorageMetadata)
            try:
                made = torch.empty(entry.size, dtype=entry.properties.dtype)
            except RuntimeError as error:  # sizes are what the metadata say
                raise FormatError(f"{self.label}: no memory has room for {name!r}: {error}") from None
            items = []
            for number, chunk in enumerate(entry.chunks):
                index = MetadataIndex(name, chunk.offsets, number)
                zeros = torch.Size([0] * len(chunk.sizes))
                items.append(ReadItem(LoadItemType.TENSOR, index, chunk.offsets, index, zeros, chunk.sizes))
            wrong = FormatError(f"{self.label}: the parts of tensor {name!r} do not cover it, or overlap")
            if sum(chunk.sizes.numel() for chunk in entry.chunks) != made.numel():
                raise wrong
            self._read(items, _Into(made))
            if len(entry.chunks) > 1 and not _covered(entry):
                raise wrong
            self._last = name, made
        return self._last[1]

    def _read(self, items: list[ReadItem], into: _Into) -> None:
        try:
            self._reader.read_data(LoadPlan(items), into).wait()
        except Exception as error:  # whatever torch makes of damaged or hostile items
            name = items[0].storage_index.fqn if items else ""
            raise FormatError(f"{self.label}: {name!r} cannot be read: {type(error).__name__}: {error}") from None


def _covered(entry: TensorStorageMetadata) -> bool:
    """Whether each element is in a part."""
    found = torch.zeros(entry.size, dtype=torch.bool)
    for chunk in entry.chunks:
        found[tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))] = True
    return bool(found.all())


class StockInput:
    """A tensor of a stock checkpoint; all of it is loaded when some of it is read, and let go for the next one."""

    encoding: str | None = None
    lossy: Lossy | None = None

    def __init__(self, checkpoint: StockCheckpoint, name: str, found: TensorStorageMetadata) -> None:
        self.name, self.shape = name, tuple(found.size)
        ours = our_dtype(found.properties.dtype)
        if not ours or DTYPES[ours].packed:
            raise UsageError(f"tensor {name!r}: dtype {found.properties.dtype} cannot be stored")
        self.dtype: DType = DTYPES[ours]
        self._checkpoint = checkpoint

    @property
    def place(self) -> Hashable:
        return None

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        (whole,) = tensor_inputs({self.name: self._checkpoint.tensor(self.name)})
        return whole.read(start, count)


class _LazyPlanner(DefaultSavePlanner):
    """Plans with tensors that have no memory; each is loaded when it is written."""

    def __init__(self, load: Callable[[str], torch.Tensor], mappings: Any) -> None:
        super().__init__(flatten_state_dict=False)
        self._load, self._kept = load, mappings

    def create_global_plan(self, all_plans: Any) -> Any:
        plans, found = super().create_global_plan(all_plans)
        found.planner_data = self._kept
        return plans, found

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type == WriteItemType.BYTE_IO:
            return super().resolve_data(write_item)
        return self._load(write_item.index.fqn)


def write_stock(
    folder: pathlib.Path, specs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], objects: Mapping[str, Any],
    mappings: Any, load: Callable[[str], torch.Tensor],
) -> None:  # fmt: skip
    """What DCP's own reader reads: it pickles what is no tensor, as torch does."""
    import warnings

    state: dict[str, Any] = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in specs.items()
    }
    state |= {name: values.decode(each) for name, each in objects.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        planner, writer = _LazyPlanner(load, mappings), filesystem.FileSystemWriter(folder)
        try:
            save(state, storage_writer=writer, planner=planner, no_dist=True)
        except CheckpointException as error:  # what it wraps tells more
            for found, _ in error.failures.values():
                raise found from None
            raise
