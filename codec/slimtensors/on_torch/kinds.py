"""Which torch tensors are no plain memory, and what to do with them before they can be saved."""

from __future__ import annotations

import torch

__all__ = ["why_not_plain"]

# Kinds of tensors around others, by the method that gives what is inside, and how a user calls it.
_INSIDE = (
    ("full_tensor", ".full_tensor() for the whole of it, or .to_local() for this rank's share"),  # DTensor
    ("local_tensor", ".local_tensor()"),  # ShardedTensor
    ("get_mask", ".get_data() and .get_mask()"),  # MaskedTensor
    ("dequantize", ".dequantize(), or the tensors that it is made of"),  # torchao; torch.Tensor has it too
)


def why_not_plain(tensor: torch.Tensor) -> str | None:
    """Why it has no memory of its own that could be saved, and what to save in its place; None if it has.

    In the order in which questions can be asked: of some kinds torch does not even say the shape.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor):
        return "is one of torch.func or of a compiler, at work on it right now: save it outside of the function"
    if torch.nn.parameter.is_lazy(tensor):
        return "is not initialised yet, as in lazy modules: call the module once, and then save"
    if tensor.is_nested:
        return "is a nested tensor: save the tensors that .unbind() gives, each under a name of its own"
    if _around_others(tensor):
        return _of_class(tensor)
    if tensor.is_meta:
        return "is on the device meta: it has no content; load or initialise it on another device first"
    if tensor.layout != torch.strided:
        return f"is {tensor.layout}: save what .to_dense() gives"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}): save .int_repr(), and scale and zero point beside it, or .dequantize()"
    if tensor._is_zerotensor():
        return "is a gradient that is zero without having memory: save torch.zeros_like(...) of what it belongs to"
    if tensor.device.type in ("cpu", "cuda") and tensor.untyped_storage().nbytes() < _extent(tensor):
        return "has lost its memory (its storage was made smaller, as FSDP does between uses): gather it first"
    return None


def _around_others(tensor: torch.Tensor) -> bool:
    """Whether its class says itself what operations do: its memory, by torch, need not be its content then."""
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _of_class(tensor: torch.Tensor) -> str:
    kind = type(tensor)
    name = f"is a {kind.__module__}.{kind.__qualname__}"
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(tensor, FakeTensor):
        return f"{name}: it has a shape, but no content; make the real one first, outside of FakeTensorMode"
    for method, call in _INSIDE:
        if getattr(kind, method, None) is not getattr(torch.Tensor, method, None):
            return f"{name}, not plain memory: save what is inside, by {call}"
    return f"{name}, a class with operations of its own, not plain memory: save the plain tensors inside"


def _extent(tensor: torch.Tensor) -> int:
    """Bytes that its storage has to have."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + last + 1) * tensor.element_size()
