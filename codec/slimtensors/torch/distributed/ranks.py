"""What the ranks of a save tell each other: which run it is, that all of them have finished, and whether well."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, ref

import torch
import torch.distributed as dist

from slimtensors.errors import SlimtensorsError, UsageError

__all__ = ["Ranks", "RanksMissingError"]

# Of gloo, by their ranks, made once for each set beside a default group; they end with that. Nothing here holds it: one
# that is joined later, at the same address, would meet what it left there.
_groups: WeakKeyDictionary[Any, dict[tuple[int, ...], Any]] = WeakKeyDictionary()


class RanksMissingError(SlimtensorsError):
    """Ranks did not finish their part of a save in time, or ended; nothing was committed.

    It is raised on every rank that is left, each for itself: DCP would gather errors from all ranks, and so wait for
    those that are missing, but an error that refuses to be sent ends the save at once.
    """

    def __reduce__(self) -> NoReturn:
        raise self


def _world() -> Any:
    """The default group; None where there is none."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _gloo_group(members: tuple[int, ...], timeout: float) -> Any:
    groups = _groups.setdefault(_world(), {})
    if members not in groups:
        limit = datetime.timedelta(seconds=timeout)
        groups[members] = dist.new_group(list(members), limit, "gloo", use_local_synchronization=True)
    return groups[members]


def _noted() -> Callable[[], Any] | None:
    """The default group that this process is in, without holding it."""
    world = _world()
    return None if world is None else ref(world)


class Ranks:
    """The ranks that take part in a save, or this process alone."""

    def __init__(self, process_group: Any, timeout: float) -> None:
        self._world = _noted()
        self.distributed = self._world is not None
        self.rank, self.count = 0, 1
        if not self.distributed:
            return
        self.rank, self.count = dist.get_rank(process_group), dist.get_world_size(process_group)
        if self.rank < 0:
            raise UsageError("this process is not in the process_group given")
        self._group = process_group
        if dist.get_backend(process_group) != "gloo":  # what watches over a barrier is gloo's
            members = tuple(dist.get_process_group_ranks(process_group or dist.group.WORLD))
            self._group = _gloo_group(members, timeout)
        self._first = 0 if self._group is None else dist.get_global_rank(self._group, 0)

    @classmethod
    def alone(cls) -> Ranks:
        """This process, whatever group it is in."""
        made = cls.__new__(cls)
        made._world, made.distributed, made.rank, made.count = _noted(), False, 0, 1
        return made

    @property
    def current(self) -> bool:
        """Whether the process is still in the group that it was in; it may have left that, and joined another."""
        world = _world()
        return self._world is None if world is None else self._world is not None and self._world() is world

    def agree(self, message: dict[str, Any] | None) -> dict[str, Any]:
        """Rank 0's message, on all ranks."""
        if not self.distributed:
            assert message is not None
            return message
        text = bytearray() if message is None else bytearray(json.dumps(message).encode())
        length = torch.tensor([len(text)])
        dist.broadcast(length, src=self._first, group=self._group)
        shared = torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(shared, src=self._first, group=self._group)
        found: dict[str, Any] = json.loads(shared.numpy().tobytes())
        return found

    def wait_for_all(self, seconds: float) -> str | None:
        """Until all ranks are here. What went wrong, if some are not in time, or have ended."""
        if not self.distributed:
            return None
        try:
            dist.monitored_barrier(self._group, datetime.timedelta(seconds=seconds), wait_all_ranks=True)
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return None

    def all_well(self, well: bool) -> bool:
        """Whether it went well on all ranks. Raises RuntimeError if one has ended meanwhile."""
        if not self.distributed:
            return well
        failed = torch.tensor([0 if well else 1])
        dist.all_reduce(failed, group=self._group)
        return not failed.item()
