"""How much errors in a module's weights count: squared gradients of a loss, summed as they arise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from slimtensors.errors import UsageError

__all__ = ["importance"]

Tensors = dict[str, torch.Tensor]


def importance(
    model: torch.nn.Module, batches: Iterable[Any], loss: Callable[[torch.nn.Module, Any], torch.Tensor]
) -> Tensors:
    """How much errors in each weight matrix count, for `slimtensors.compress(..., importance=)`.

    batches: whatever `loss` takes, one after another; of one example each if there is time, as gradients that are
    summed before they are squared tell less. loss(model, batch) gives a scalar, whose squared gradients are what
    counts. Two that serve, both without labels:

    - of a model that predicts: the negative log-likelihood, summed, of what is drawn from its own predictions; this is
      the diagonal of Fisher's matrix, and says by how much predictions change (Kullback-Leibler divergence).
    - of any other output, such as embeddings: the output times numbers drawn from -1 and 1, summed; this is the squared
      Jacobian, and says by how much the output changes (squared distance).

    Returns, of each parameter `w` of two dimensions that requires a gradient, F32 on the CPU, `w.rows` [rows] and
    `w.columns` [columns]: means over the batches, and over each row and each column, of squared gradients; of one of
    three, such as a layer's experts, rows are those of all its matrices. Save them with
    `safetensors.torch.save_file` for `slimtensors compress --importance`.

    The module is in evaluation mode meanwhile; gradients that it has are put aside, and come back. Memory: one gradient
    at a time beside what `loss` takes. Raises UsageError for a loss that is no finite scalar.
    """
    sums = {
        weight: [
            torch.zeros(size, dtype=torch.float32, device=weight.device)
            for size in (weight.shape[:-1].numel(), weight.shape[-1])
        ]
        for weight in model.parameters()
        if weight.dim() in (2, 3) and weight.requires_grad
    }
    if not sums:
        raise UsageError("the module has no parameter of two or three dimensions that requires a gradient")
    every = list(model.parameters())
    with ExitStack() as stack:
        stack.callback(_put_back, [(each, each.grad) for each in every])
        stack.callback(_set_modes, [(each, each.training) for each in model.modules()])
        model.eval()
        for each in every:
            each.grad = None
            if each.requires_grad:
                add = partial(_add, sums.get(each))
                hook = each.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call] # torch's own
                stack.callback(hook.remove)
        count = 0
        for batch in batches:
            count += 1
            with torch.enable_grad():
                found = loss(model, batch)
                if not isinstance(found, torch.Tensor) or found.dim() or not torch.isfinite(found):
                    raise UsageError(f"the loss of batch {count} is {found!r:.80}, not a finite scalar tensor")
                found.backward()  # type: ignore[no-untyped-call] # torch's own
    if not count:
        raise UsageError("there are no batches to compute importance from")
    made: Tensors = {}
    for name, weight in model.named_parameters(remove_duplicate=False):  # tied weights have two names
        if weight in sums:
            rows, columns = ((each / (count * weight.numel() / each.numel())).cpu() for each in sums[weight])
            if not (torch.isfinite(rows).all() and torch.isfinite(columns).all()):
                raise UsageError(f"gradients of {name!r} are not finite, or too large to be squared in F32")
            made[f"{name}.rows"], made[f"{name}.columns"] = rows, columns
    return made


def _add(sums: list[torch.Tensor] | None, weight: torch.Tensor) -> None:
    """Squares of the gradient that has just been computed, which is dropped."""
    gradient, weight.grad = weight.grad, None
    if sums is None or gradient is None:
        return
    squares = gradient.to_dense().float().square().flatten(0, -2)
    sums[0] += squares.sum(1)
    sums[1] += squares.sum(0)


def _put_back(gradients: list[tuple[torch.nn.Parameter, torch.Tensor | None]]) -> None:
    for weight, gradient in gradients:
        weight.grad = gradient


def _set_modes(modes: list[tuple[torch.nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training
