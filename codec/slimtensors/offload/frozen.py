"""A decoded copy of a weight that stays compressed: it can be read, and says so to whoever would change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from slimtensors.errors import UsageError

__all__ = ["FrozenWeight"]

CHANGES = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}
CHANGES |= {"__setitem__", "__ilshift__", "__irshift__"}
HARMLESS = {"requires_grad_", "rename_", "share_memory_"}  # change no element
PLAIN = {"__deepcopy__", "__reduce_ex__"}  # ask what class it is


class FrozenWeight(torch.Tensor):
    """What changes it in place would be lost without a word, as when an adapter is merged, and is refused. What is
    computed from it is a plain tensor.
    """

    @classmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not say what it returns
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.__name__
        first = args[0] if args else None
        in_place = name.endswith("_") and not name.endswith("__") and name not in HARMLESS
        changes = in_place or name in CHANGES or func == torch.Tensor.data.__set__  # type: ignore[attr-defined] # torch's
        if isinstance(first if changes else (kwargs or {}).get("out"), cls):
            raise UsageError(
                "the weight of a layer that stays compressed cannot be changed: this is a copy of what its file holds. "
                "To merge adapters, or to change weights, load the model without keep_compressed"
            )
        if isinstance(first, cls) and name in PLAIN:
            args = (first.as_subclass(torch.Tensor), *args[1:])
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
            if isinstance(first, cls) and type(made) is torch.Tensor and made.data_ptr() and _shares(made, first):
                return made.as_subclass(cls)  # .data, .detach(), a view
        return made


def _shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
