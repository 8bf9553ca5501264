"""What is kept of a file's tensors between the times that they are decoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from slimtensors.device.backend import Buffer
from slimtensors.device.bases import Wanted
from slimtensors.device.segments import Bundle, Listed
from slimtensors.device.tasks import Segment

__all__ = ["Held", "Kept", "Lists", "Plan"]

Array = npt.NDArray[Any]


class Lists(NamedTuple):
    """Of a segment's work, for targets that lie in some way to one another."""

    at: list[int]  # the first byte of each part
    bases_at: list[int]  # of each part's base
    given: Listed
    here: Bundle
    there: dict[str, Buffer] | None  # on the device, if they stay there


class Held:
    """Of a segment: stored bytes of whole chunks in the host's memory, and their masks, where they have any."""

    def __init__(self, staging: Array, masks: list[Array | None]) -> None:
        self.staging, self.masks = staging, masks
        self.stored: Buffer = None  # on the device, if it stays there
        self.lists: Lists | None = None
        self.wanted: list[Wanted | None] | None = None  # bases, once it is known
        self.sound: int | None = None  # XXH3 of what its kernels left when it was found to be right


class Plan(NamedTuple):
    """What kernels decode, and tensors that they do not."""

    segments: list[Segment]
    others: list[int]


class Kept:
    """What `begin_fill` keeps of a file's tensors between calls: stored bytes, in memory that uploads are fast from, or
    on the device as well; what kernels are told of them, also on the device if it is little; and what the CPU has
    decoded.
    """

    def __init__(self, on_device: bool = False) -> None:
        self.on_device = on_device
        self.plans: dict[Any, Plan] = {}  # by what was asked for
        self.segments: dict[Segment, Held] = {}
        self.decoded: dict[int, Array] = {}  # by tensor
        self.uploaded: Any = None  # a mark behind what is on the device
