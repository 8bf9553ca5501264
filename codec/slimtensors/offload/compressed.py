"""`keep_compressed`: linear and embedding layers whose weights stay compressed, decoded for each use.

As NeuZip (arXiv 2410.20650) and DFloat11 (arXiv 2504.11651) have it: a weight is decoded into a buffer that all of them
share, used, and decoded again for the gradient of the layer's input, so that adapters beside it can be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from slimtensors.container.reader import Verify
from slimtensors.errors import UsageError
from slimtensors.numpy import array_shape
from slimtensors.offload.checked import Checked, Run, replace_forward, uncached
from slimtensors.offload.frozen import FrozenWeight
from slimtensors.offload.hooks import (
    Host,
    check_fits,
    compressed_backend,
    holders,
    hosted,
    load_others,
    refuse_taken,
    refuse_without_weights,
)
from slimtensors.offload.opened import OpenedLayers
from slimtensors.offload.stored import Buffer, StoredWeight
from slimtensors.offload.stored_there import DeviceBuffer, WeightThere
from slimtensors.on_torch.tensors import as_base
from slimtensors.reading.tensors import TensorFile
from slimtensors.stream.loader import files_of, open_all
from slimtensors.threads import thread_count

__all__ = ["CompressedEmbedding", "CompressedLayers", "CompressedLinear", "keep_compressed"]


class CompressedLayers(OpenedLayers):
    """What `keep_compressed` returns: it holds the files. After `close` the layers are plain ones without weights, and
    raise UsageError until they are given some: by `model.load_state_dict(..., assign=True)`, or by another
    `keep_compressed`.
    """

    def __init__(self, stack: ExitStack, buffer: Buffer | DeviceBuffer, names: list[str]) -> None:
        self.names = names  # of the layers
        self.nbytes = buffer.nbytes
        self._stack = stack  # undoes what was done to the model

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def keep_compressed(
    model: torch.nn.Module,
    path: Any,
    *,
    device: Any = "cpu",
    host: Host = "memory",
    threads: int | None = None,
    verify: Verify = "full",
    base: Any = None,
) -> CompressedLayers:
    """Turn a model's nn.Linear and nn.Embedding layers into ones whose weights stay compressed; load all the rest.

    model: on the CPU; the weights of such layers may be on the meta device. Subclasses of the two, embeddings with a
    max_norm, and weights that a layer of another kind shares stay as they are, and are loaded.
    device: "cpu"; or a CUDA device whose kernels can be used, to which the rest of the model is moved, and on which
    the compressed bytes of linear layers stay from their first use on. Decoding is then asked of torch's current
    stream, and the verdict on a weight is waited for as `offload` does.
    path, host: as for `offload`; compressed bytes are in "memory" unless told. verify: at every use.

    Outputs have the bits that they have with plain layers. Weights are frozen; gradients of inputs and biases are
    computed. `state_dict` decodes the weights; setting and converting them is refused.
    After an error the model is as after one of `offload`.
    """
    refuse_taken(model)
    backend = compressed_backend(device)
    layers = _layers(model)
    path = hosted(path, host)
    stack = ExitStack()
    try:
        homes = files_of(open_all(path, stack, verify=verify, max_bytes=None, base=as_base(base)))
        known = _names_in_files(model, layers, homes)
        linear = [known[name] for name, layer in layers.items() if type(layer) is torch.nn.Linear]
        most, count = max((homes[name].tensor(name).nbytes for name in linear), default=0), thread_count(threads)
        buffer: Buffer | DeviceBuffer
        if backend is None:
            buffer = shared = Buffer(most, count)
            stored = {name: StoredWeight(homes[name], name, shared) for name in set(known.values())}
        else:
            buffer = there = DeviceBuffer(most, count, backend)
            stored = {name: WeightThere(homes[name], name, there) for name in set(known.values())}
        for name, layer in layers.items():
            stored[known[name]].requires_grad = layer.weight.requires_grad
        _load_others(model, list(layers.values()), path, homes, verify, base, threads, device)
        checked = None if isinstance(buffer, Buffer) else Checked(model, buffer.check)
        if checked is not None:
            stack.callback(checked.remove)
        for name, layer in layers.items():
            layer.stored, layer.checked = stored[known[name]], checked
            layer.__class__ = CompressedLinear if type(layer) is torch.nn.Linear else CompressedEmbedding
        for module in model.modules():
            if isinstance(module, (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer)):
                stack.callback(replace_forward(module, _as_tensors))
        for module in holders(model, {id(layer): ("weight",) for layer in layers.values()}):
            if not isinstance(module, _Compressed):
                stack.callback(vars(module).pop, "_apply", None)
                module._apply = partial(_apply_to_all, module)  # type: ignore[method-assign] # what .to() and .half() call
        stack.callback(_empty, list(layers.values()))
        stack.callback(buffer.close)
        return CompressedLayers(stack, buffer, list(layers))
    except BaseException:
        stack.close()
        raise


def _as_tensors(run: Run) -> Any:
    """With weights that are taken for plain tensors: torch has a fast path for these only, whose bits are others."""
    with torch._C.DisableTorchFunctionSubclass():
        return run()


def _empty(layers: list[Any]) -> None:
    """Make plain layers of them, whose weights are on the meta device."""
    weights: dict[int, torch.nn.Parameter] = {}  # tied ones have one
    for layer in layers:
        stored = layer.stored
        del layer.stored, layer.checked
        layer.__class__ = torch.nn.Linear if isinstance(layer, torch.nn.Linear) else torch.nn.Embedding
        if id(stored) not in weights:
            shape = array_shape(stored.tensor)
            room = torch.empty(shape, dtype=stored.dtype, device="meta")
            weights[id(stored)] = torch.nn.Parameter(room, stored.requires_grad)
        layer._parameters = {"weight": weights[id(stored)], **layer._parameters}
        refuse_without_weights(layer)


def _apply_to_all(module: torch.nn.Module, convert: Any, recurse: bool = True) -> Any:
    """Convert a module, unless a layer in it refuses: before anything beside that is changed."""
    for layer in module.modules():
        if isinstance(layer, _Compressed):
            layer.check_apply(convert)
    return type(module)._apply(module, convert, recurse)  # type: ignore[no-untyped-call] # torch's


def _load_others(
    model: torch.nn.Module,
    layers: list[Any],
    path: Any,
    homes: dict[str, TensorFile],
    verify: Verify,
    base: Any,
    threads: int | None,
    device: Any,
) -> None:
    """Load all but the layers' weights, and take these out of the model, if that succeeds."""
    before = [layer._parameters.copy() for layer in layers]
    try:
        for layer in layers:
            del layer._parameters["weight"]
        load_others(model, path, homes, verify, base, threads, device)
    except BaseException:
        for layer, parameters in zip(layers, before, strict=True):
            layer._parameters = parameters
        raise


def _layers(model: torch.nn.Module) -> dict[str, Any]:
    """The layers whose weights can stay compressed, each once."""
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear or (type(module) is torch.nn.Embedding and module.max_norm is None)
    }
    ours = {id(module) for module in found.values()}
    others = {
        id(parameter)
        for module in model.modules()
        for own, parameter in module._parameters.items()
        if id(module) not in ours or own != "weight"
    }
    found = {name: module for name, module in found.items() if id(module._parameters.get("weight")) not in others}
    if not found:
        raise UsageError("the model has no nn.Linear or nn.Embedding whose weight could stay compressed")
    return found


def _names_in_files(model: torch.nn.Module, layers: Mapping[str, Any], homes: dict[str, Any]) -> dict[str, str]:
    """What the files call each layer's weight; of tied ones, which share a parameter, any name will do."""
    tied: dict[int, list[str]] = {}
    ours = {id(layer): layer for layer in layers.values()}
    for name, module in model.named_modules(remove_duplicate=False):  # layers may be there by several names, too
        if id(module) in ours:
            tied.setdefault(id(module.weight), []).append(f"{name}.weight" if name else "weight")
    known = {}
    for name, layer in layers.items():
        names = tied[id(layer.weight)]
        known[name] = next((each for each in names if each in homes), names[0])
        check_fits(known[name], layer.weight, model, homes)
    return known


class _Compressed:
    """What the two kinds of layers have in common."""

    stored: StoredWeight
    checked: Checked | None  # of a model on a device

    @property
    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not say what it returns
    def weight(self) -> torch.Tensor:
        """A copy of the weight, decoded at each look-up. It cannot be changed."""
        return self.stored.fresh().as_subclass(FrozenWeight)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise UsageError("the weight of a layer that stays compressed is what its file holds, and cannot be set")
        super().__setattr__(name, value)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc] # of the module beside it
        destination[f"{prefix}weight"] = self.stored.fresh()

    def _load_from_state_dict(
        self, state: Any, prefix: str, local: Any, strict: bool, missing: Any, unexpected: Any, errors: list[str]
    ) -> None:
        if f"{prefix}weight" in state:
            errors.append(f"{prefix}weight stays compressed: it is what its file holds, and cannot be set")
            state = {name: value for name, value in state.items() if name != f"{prefix}weight"}
        super()._load_from_state_dict(  # type: ignore[misc] # as above
            state, prefix, local, strict, missing, unexpected, errors
        )

    def check_apply(self, convert: Any) -> None:
        """Raises UsageError if a conversion would change the weight."""
        like = torch.empty(0, dtype=self.stored.dtype, device=self.stored.device)
        made = convert(like)
        if (made.dtype, made.device) != (like.dtype, like.device):
            raise UsageError(
                f"a layer that stays compressed is {like.dtype} on {like.device} and cannot become {made.dtype} on "
                f"{made.device}: convert the model before its weights are saved"
            )

    def _apply(self, convert: Any, recurse: bool = True) -> Any:
        """What .to() and .half() call."""
        self.check_apply(convert)
        return super()._apply(convert, recurse)  # type: ignore[misc] # as above

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, compressed"  # type: ignore[misc] # as above


class CompressedLinear(_Compressed, torch.nn.Linear):  # type: ignore[override] # the weight is a property
    """nn.Linear whose weight stays compressed. `keep_compressed` makes them."""

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not say what it returns
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # the name that torch gives it
        stored, checked = self.stored, self.checked  # gone, if another thread closes the files meanwhile
        made: torch.Tensor = _Product.apply(input, self.bias, stored)  # type: ignore[no-untyped-call] # torch's
        if checked is not None and not checked.runs:
            checked.check()
        return made


class CompressedEmbedding(_Compressed, torch.nn.Embedding):  # type: ignore[override] # as above
    """nn.Embedding whose weight stays compressed: the chunks that hold the rows asked for are decoded."""

    @torch.compiler.disable  # type: ignore[untyped-decorator] # as above
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # as above
        if input.dtype not in (torch.int64, torch.int32):
            raise UsageError(f"indices are {input.dtype}; an embedding takes torch.int64 or torch.int32")
        wanted, where = torch.unique(input, return_inverse=True)
        rows = wanted.tolist()
        if rows and not 0 <= rows[0] <= rows[-1] < self.num_embeddings:
            raise IndexError(f"an index of {rows[-1] if rows[0] >= 0 else rows[0]} into {self.num_embeddings} rows")
        return torch.nn.functional.embedding(where, self.stored.rows(rows))


class _Product(torch.autograd.Function):
    """x W^T + b. The weight is not kept for the gradient of x, but decoded again: by then the buffer holds another."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, stored: StoredWeight) -> torch.Tensor:
        ctx.stored, ctx.dtypes = stored, (x.dtype, None if bias is None else bias.dtype)
        with stored.buffer.lock, uncached():
            # What torch computes, to the last bit, depends on whether weights require gradients, even without any.
            weight = stored.shared().requires_grad_(stored.requires_grad)
            made = torch.nn.functional.linear(x, weight, bias)
            stored.done()
            return made

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            # Under autocast the gradient has another dtype than the weight.
            of_x = _Transposed.apply(gradient.to(ctx.stored.dtype), ctx.stored).to(ctx.dtypes[0])  # type: ignore[no-untyped-call] # torch's
        if ctx.needs_input_grad[1]:
            of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0).to(ctx.dtypes[1])
        return of_x, of_bias, None


class _Transposed(torch.autograd.Function):
    """g W, the gradient of a product; its own is a product."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, stored: StoredWeight) -> torch.Tensor:
        ctx.stored = stored
        with stored.buffer.lock:
            made = gradient @ stored.shared()
            stored.done()
            stored.settle()
            return made

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        made: torch.Tensor = _Product.apply(gradient, None, ctx.stored)  # type: ignore[no-untyped-call] # as above
        ctx.stored.settle()
        return made, None
