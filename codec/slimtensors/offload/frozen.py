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
    """What changes it in place would be lost without a word, as when an adapter is merged, and is refused: as far as
    torch tells of it, which it does not of `set_`, of `torch.ops`, and of arrays that `numpy` makes. What is computed
    from it is a plain tensor.
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
        name, given = func.__name__, kwargs or {}
        first = args[0] if args else next(iter(given.values()), None)
        in_place = name.endswith("_") and not name.endswith("__") and name not in HARMLESS
        sets = name in CHANGES or func == torch.Tensor.data.__set__  # type: ignore[attr-defined] # torch's
        changed = first if in_place or sets or given.get("inplace") else given.get("out")
        if any(isinstance(each, cls) for each in _each(changed)):
            raise UsageError(
                "the weight of a layer that stays compressed cannot be changed: this is a copy of what its file holds. "
                "To merge adapters, or to change weights, load the model without keep_compressed"
            )
        if isinstance(first, cls) and name in PLAIN:
            args = (first.as_subclass(torch.Tensor), *args[1:])
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **given)
            if not isinstance(first, cls):
                return made
            if type(made) in (tuple, list):  # of views, as those of split
                return type(made)(each.as_subclass(cls) if _shares(each, first) else each for each in made)
            return made.as_subclass(cls) if _shares(made, first) else made  # .data, .detach(), a view


def _each(given: Any) -> Sequence[Any]:
    return given if isinstance(given, (list, tuple)) else [given]


def _shares(one: Any, other: torch.Tensor) -> bool:
    if type(one) is not torch.Tensor or one.layout != torch.strided or not one.data_ptr():
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
