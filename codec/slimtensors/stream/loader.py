"""What streams tensors to a caller: a loader for one open file, a generator for files on a disk."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from slimtensors.bases.resolving import open_with
from slimtensors.container.header import Tensor
from slimtensors.container.reader import Verify
from slimtensors.errors import TensorNotFoundError, check_callable
from slimtensors.reading.tensors import TensorFile, open_each
from slimtensors.stream.ordered import AHEAD_BYTES, Ordered
from slimtensors.stream.plan import Plan, Wanted, plan_items, want

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Convert", "InOrder", "PrefetchLoader", "Source", "files_of", "open_all", "stream_files"]

Convert = Callable[[Any, Tensor, tuple[int, ...]], Any]  # units, what they are of, and the shape wanted
Source = Callable[[Sequence[Wanted]], "InOrder"]
Progress = Callable[[int], object]  # called with decoded bytes handed out since the last call


class InOrder(Protocol):
    """What decodes ahead; `Ordered`, or what takes its place for another device."""

    def take(self, item: int) -> Any: ...

    def left(self) -> Iterator[int]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class PrefetchLoader:
    """The tensors of a plan, decoded ahead in the background: what `safe_open.prefetch` returns.

    Each is handed out once, by `take` or by iterating. Unlike safetensors', which hands them out as they become ready,
    iteration keeps to the plan's order: so what is decoded ahead is bounded, and two runs are alike. Use it in a `with`
    statement, or `close` it.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        threads: int,
        convert: Convert,
        ahead: int = AHEAD_BYTES,
        source: Source | None = None,
    ) -> None:
        self._wanted = wanted
        self._item = {each.name: item for item, each in enumerate(wanted)}
        self._convert = convert
        self._ordered: InOrder = Ordered(wanted, threads, ahead) if source is None else source(wanted)
        # The threads keep what they work on alive, so a loader that is dropped has to stop them.
        self._drop = weakref.finalize(self, self._ordered.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._wanted)

    def __repr__(self) -> str:
        return f"PrefetchLoader({len(self)} tensors)"

    def names(self) -> list[str]:
        """The names that this loader hands out, in the plan's order."""
        return [each.name for each in self._wanted]

    def take(self, name: str) -> Any:
        """A tensor, or the part of it that was planned; waits for it. Those before it are decoded first, and held."""
        if name not in self._item:
            raise TensorNotFoundError(f"the plan has no tensor {name!r}")
        return self._take(self._item[name])

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(name, tensor) in the plan's order; what has been taken already is passed over."""
        for item in self._ordered.left():
            yield self._wanted[item].name, self._take(item)

    def close(self) -> None:
        """Stop, and let go of what was not taken. What was taken stays as it is."""
        self._drop.detach()
        self._ordered.close()

    def _take(self, item: int) -> Any:
        each = self._wanted[item]
        return self._convert(self._ordered.take(item), each.file.header.tensors[each.tensor], each.shape)


def stream_files(
    target: Any,
    convert: Convert,
    threads: int,
    *,
    plan: Plan | None = None,
    verify: Verify = "full",
    max_bytes: int | None = None,
    base: Any = None,
    ahead: int = AHEAD_BYTES,
    progress: Progress | None = None,
    source: Source | None = None,
) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of all files, in order; closing the generator stops everything.

    source: what decodes them, if it is not `Ordered`; what it gives is what `convert` takes.
    """
    check_callable("numbers of bytes", progress=progress)
    with ExitStack() as stack:
        files = open_all(target, stack, verify=verify, max_bytes=max_bytes, base=base)
        wanted = _planned(files, plan)
        with PrefetchLoader(wanted, threads, convert, ahead, source) as prefetched:
            for each, (name, tensor) in zip(wanted, prefetched, strict=True):
                if progress is not None:
                    progress(each.nbytes)
                yield name, tensor


def open_all(
    target: Any, stack: ExitStack, *, verify: Verify, max_bytes: int | None, base: Any, mmap: bool = False
) -> list[TensorFile]:
    """Open the files of a model, until the stack is closed: see `open_each`."""
    return open_each(
        target, stack, lambda one: open_with(one, base, verify=verify, mmap=mmap, max_bytes=max_bytes)
    )


def files_of(files: Sequence[TensorFile]) -> dict[str, TensorFile]:
    """Which file has which tensor."""
    return {name: file for file in files for name in file.index}


def _planned(files: Sequence[TensorFile], plan: Plan | None) -> list[Wanted]:
    if plan is None:
        return [each for file in files for each in plan_items(file, None)]
    homes = files_of(files)
    unknown = [name for name in plan if name not in homes]
    if unknown:
        if len(files) == 1:
            files[0].find(unknown[0])
        raise TensorNotFoundError(f"none of {len(files)} files has a tensor {unknown[0]!r}")
    return [want(homes[name], name, part) for name, part in plan.items()]
