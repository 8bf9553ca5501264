"""A save planner for many ranks: what DCP's default planner does, told to the coordinator in few objects."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, WriteItem

from slimtensors.errors import UsageError
from slimtensors.torch.distributed import values

__all__ = ["SavePlanner"]

Box = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # shape, offsets, sizes


class _Told(NamedTuple):
    """A rank's plan. common: JSON of names, dtypes and mappings, as a rule the same on all ranks.

    numbers: of each item in turn, how many dimensions it has, or -1 if it is no tensor; its shape, offsets and sizes.
    """

    common: bytes
    numbers: array[int]

    def boxes(self) -> Iterator[Box | None]:
        numbers, at = self.numbers.tolist(), 0
        while at < len(numbers):
            n = numbers[at]
            if n < 0:
                yield None
                at += 1
                continue
            a, b, c, end = (at + 1 + n * k for k in range(4))
            yield tuple(numbers[a:b]), tuple(numbers[b:c]), tuple(numbers[c:end])
            at = end


class SavePlanner(DefaultSavePlanner):
    """Plans as DefaultSavePlanner does, at a fraction of the coordinator's time where there are hundreds of ranks:
    `dcp.save(state, storage_writer=StorageWriter(path), planner=SavePlanner())`.

    What several ranks hold is written by the one that has least to write. Only for StorageWriter, which checks that
    parts cover their tensors.
    """

    def create_local_plan(self) -> SavePlan:
        """This rank's plan; its items stay here."""
        plan = super().create_local_plan()
        self._items: list[WriteItem] = plan.items
        numbers, dtypes = array("q"), []
        for item in plan.items:
            data = item.tensor_data
            if data is None:
                numbers.append(-1)
                dtypes.append("")
            else:
                numbers.extend((len(data.size), *data.size, *data.chunk.offsets, *data.chunk.sizes))
                dtypes.append(str(data.properties.dtype).removeprefix("torch."))
        names = [item.index.fqn for item in plan.items]
        mappings = values.encode(plan.planner_data, "of the planner")
        common = json.dumps([names, dtypes, mappings]).encode()
        return SavePlan([], planner_data=_Told(common, numbers))

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Which items each rank writes, by their numbers, and what there is in all."""
        told: list[_Told] = [plan.planner_data for plan in all_plans]
        common = {each: json.loads(each) for each in {one.common for one in told}}
        state: dict[str, Any] = {}
        first: dict[tuple[str, tuple[int, ...]], int] = {}  # which rank's which item has it, as one number
        several: dict[int, list[tuple[int, int]]] = {}  # by that number: (rank, item) of all that have it
        kept, filled = [array("q") for _ in told], [0] * len(told)
        for rank, one in enumerate(told):
            names, dtypes, _ = common[one.common]
            items = kept[rank]
            for number, (name, dtype, box) in enumerate(zip(names, dtypes, one.boxes(), strict=True)):
                here = rank << 32 | number
                found = first.setdefault((name, () if box is None else box[1]), here)
                if found == here:
                    items.append(number)
                    filled[rank] += self._note(state, name, dtype, box)
                elif found in several:
                    several[found].append((rank, number))
                else:
                    several[found] = [(found >> 32, found & 0xFFFFFFFF), (rank, number)]
        _share_out(several, told, kept, filled)
        mappings: dict[str, Any] = {}
        for _, _, found in common.values():
            mappings |= values.decode(found) or {}
        metadata = Metadata(state, mappings)
        self.global_plan = [replace(plan, planner_data=items) for plan, items in zip(all_plans, kept, strict=True)]
        self.metadata = metadata
        return self.global_plan, metadata

    def _note(self, state: dict[str, Any], name: str, dtype: str, box: Box | None) -> int:
        """Add a part to what there is; returns its elements."""
        if box is None:
            state[name] = BytesStorageMetadata()
            return 0
        shape, offsets, sizes = box
        found = state.get(name)
        if found is None:
            kind = TensorProperties(dtype=getattr(torch, dtype))
            found = state[name] = TensorStorageMetadata(kind, torch.Size(shape), [])
        if found.size != shape:
            raise UsageError(f"tensor {name!r} is {list(found.size)} on one rank and {list(shape)} on another")
        found.chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
        return math.prod(sizes)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """The items that fell to this rank."""
        items = [self._items[number] for number in new_plan.planner_data]
        self.plan = replace(new_plan, items=items, planner_data=None)
        return self.plan


def _share_out(
    several: dict[int, list[tuple[int, int]]], told: list[_Told], kept: list[array[int]], filled: list[int]
) -> None:
    """What several ranks have, and the first of them was given: the largest first, to the one that has the fewest
    elements so far.
    """
    boxes = {rank: list(told[rank].boxes()) for rank in {code >> 32 for code in several}}
    sized = []
    for code, ranks in several.items():
        rank, number = code >> 32, code & 0xFFFFFFFF
        box = boxes[rank][number]
        size = 0 if box is None else math.prod(box[2])
        filled[rank] -= size
        sized.append((size, code, ranks))
    given: dict[int, set[int]] = {}  # by rank, what is taken from it again
    for size, code, ranks in sorted(sized, key=lambda each: (-each[0], each[1])):
        rank, number = min(ranks, key=lambda each: filled[each[0]])
        filled[rank] += size
        if rank != code >> 32:
            given.setdefault(code >> 32, set()).add(code & 0xFFFFFFFF)
            kept[rank].append(number)
    for rank, numbers in given.items():
        kept[rank] = array("q", (number for number in kept[rank] if number not in numbers))
