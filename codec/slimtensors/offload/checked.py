"""A module's forward with something around it: a verdict on what a device has decoded, before outputs are handed out;
one thread at a time, where layers share buffers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch

__all__ = ["Checked", "Run", "replace_forward", "uncached"]

Run = Callable[[], Any]


def replace_forward(module: torch.nn.Module, around: Callable[[Run], Any]) -> Callable[[], None]:
    """Put around(run) in the place of a module's forward, where run() is the one before; returns what undoes that. What
    somebody has put around it since goes on.

    No hook: those that end something are not called after an interrupt.
    """
    before, plain = vars(module).get("forward"), type(module).forward

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call] # as torch has it
    @wraps(plain)
    def forward(self_: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return around(partial(plain, self_, *args, **kwargs) if before is None else partial(before, *args, **kwargs))

    module.forward = ours = MethodType(forward, module)  # a copy's is the copy's

    def undo() -> None:
        nonlocal around
        around = _run
        if vars(module).get("forward") is ours:
            del module.forward
            if before is not None:
                module.forward = before

    return undo


@contextmanager
def uncached() -> Iterator[None]:
    """Keep autocast from keeping a converted copy of each weight that is used."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _run(run: Run) -> Any:
    return run()


class Checked:
    """A model's forward, at whose end there is a verdict on all that it has used. Copies of the model share it.

    lock: held by the thread that is inside.
    """

    def __init__(
        self, model: torch.nn.Module, check: Callable[[], None], lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self.check = check
        self._lock = nullcontext() if lock is None else lock
        self._local = threading.local()
        self.remove = replace_forward(model, self._run)  # puts the model's own forward back

    def __deepcopy__(self, _memo: object) -> Checked:
        return self

    @property
    def runs(self) -> bool:
        """Whether this thread is inside."""
        return getattr(self._local, "runs", False)

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call] # as above
    def _run(self, run: Run) -> Any:
        with self._lock:
            outer, self._local.runs = self.runs, True
            try:
                outputs = run()
            finally:
                self._local.runs = outer
            self.check()
            return outputs
