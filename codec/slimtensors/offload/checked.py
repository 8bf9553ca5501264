"""When the verdict is waited for on what a device has decoded: before outputs are handed out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

import torch

__all__ = ["Checked"]


class Checked:
    """A model's forward, at whose end there is a verdict on all that it has used. Copies of the model share it."""

    def __init__(self, model: torch.nn.Module, check: Callable[[], None]) -> None:
        self.check = check
        self._local = threading.local()
        self._model, self._before = model, vars(model).get("forward")
        before, plain = self._before, type(model).forward

        @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call] # as torch has it
        @wraps(plain)
        def forward(self_: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            outer, self._local.runs = self.runs, True
            try:
                outputs = plain(self_, *args, **kwargs) if before is None else before(*args, **kwargs)
            finally:
                self._local.runs = outer
            check()
            return outputs

        model.forward = MethodType(forward, model)  # a copy's is the copy's

    def __deepcopy__(self, _memo: object) -> Checked:
        return self

    @property
    def runs(self) -> bool:
        """Whether this thread is inside."""
        return getattr(self._local, "runs", False)

    def remove(self) -> None:
        """Put the model's own forward back."""
        del self._model.forward
        if self._before is not None:
            self._model.forward = self._before

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not say what it returns
    def leave(self, _module: torch.nn.Module, _inputs: Any, _outputs: Any) -> None:
        """A layer's forward ends: if nobody checks later, now."""
        if not self.runs:
            self.check()
