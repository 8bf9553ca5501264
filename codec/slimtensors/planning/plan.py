"""What the writer is told: a header, and how each stream's units are come by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy.typing as npt

from slimtensors.codecs.place import Counted
from slimtensors.container.header import Header
from slimtensors.container.writer import header_text
from slimtensors.planning.differing import BaseUnits
from slimtensors.sources.inputs import Input

__all__ = ["Job", "Plan", "SideMaker"]

Units = npt.NDArray[Any]
SideMaker = Callable[[Input, int, int], Units]


@dataclass(frozen=True)
class Job:
    """How one stream's units are come by.

    side: makes units [low, high) of a side plane of the one input. each: how many units of the tensor a unit of the
    side plane is for; 0 if all of it is for all of them. base: what the tensor is stored as a difference from. slow: of
    records, whether any gain is worth a slower decoder. scale: the input that is the last side plane. counted: the
    symbols of the last plane of the only chunk. chunk: gives the stored bytes of a chunk, which are not made then.
    """

    inputs: tuple[int, ...] = ()
    side: SideMaker | None = None
    each: int = 0
    base: BaseUnits | None = None
    try_zstd: bool = False
    image: bool = False
    slow: bool = False
    scale: int | None = None
    counted: Counted | None = None
    chunk: Callable[[int], bytes] | None = None


@dataclass
class Plan:
    """A header, how to fill each of its streams, and why."""

    header: Header
    jobs: list[Job]
    reasons: list[str] = field(default_factory=list)  # of each tensor
    identities: dict[int, bytes] = field(default_factory=dict)  # of tensors that are never read again
    told: int = 0  # bytes that `progress` was told of

    @cached_property
    def text(self) -> bytes:
        """The header's bytes. Raises UsageError if there is no room for so much."""
        return header_text(self.header)
