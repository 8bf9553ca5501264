"""`offload`: a torch module whose layers are views of two buffers, decoded when their turn comes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch

from slimtensors.container.reader import Verify
from slimtensors.container.remote import is_remote, open_remote
from slimtensors.device.backend import Backend
from slimtensors.device.choice import backend_for, why_cpu
from slimtensors.errors import TensorNotFoundError, UsageError
from slimtensors.offload.checked import Checked, Run, replace_forward, uncached
from slimtensors.offload.memory import DeviceMemory, HostMemory, Memory
from slimtensors.offload.opened import OpenedLayers
from slimtensors.offload.slots import Slots
from slimtensors.offload.stored import StoredWeight
from slimtensors.on_torch.modules import check_module, load_model, missing_names, prefix_hint
from slimtensors.on_torch.tensors import as_base, check_device, torch_dtype
from slimtensors.reading.tensors import TensorFile
from slimtensors.sources.shards import Shard, weight_files
from slimtensors.stream.loader import files_of, open_all
from slimtensors.threads import thread_count

__all__ = [
    "Host", "Offloaded", "check_fits", "compressed_backend", "holders", "hosted", "load_others", "offload",
    "refuse_lacking", "refuse_taken", "refuse_without_weights",
]  # fmt: skip

Host = Literal["disk", "memory"]
HOSTS: tuple[Host, ...] = ("disk", "memory")
PINNED = "pinned"
TIES = "if it is tied to another one, tie it again, as model.tie_weights() of transformers does"  # meta devices undo it


class Offloaded(OpenedLayers):
    """What `offload` returns: it holds the files open. After `close` the layers have no weights, and raise UsageError
    until they are given some: by `model.load_state_dict(..., assign=True)`, or by another `offload`.
    """

    def __init__(self, stack: ExitStack, slots: Slots, names: list[str]) -> None:
        self.names = names  # of the layers that take turns, in the order in which they are expected to run
        self.nbytes = slots.nbytes  # of the two buffers
        self._stack, self._slots, self._lock = stack, slots, slots.lock  # the stack undoes what was done to the model

    def close(self) -> None:
        """Wait for what is under way, close the files, and give the buffers' memory back."""
        with self._lock:  # no forward is under way
            slots: Slots | None = vars(self).pop("_slots", None)  # so that nothing here holds memory
            try:
                if slots is not None:
                    slots.close()
            finally:
                self._stack.close()


def offload(
    model: torch.nn.Module,
    path: Any,
    *,
    device: Any = "cpu",
    host: Literal["disk", "memory", "pinned"] = "disk",
    layers: str | None = None,
    resident: int | Collection[str] = 0,
    ahead: bool | None = None,
    threads: int | None = None,
    verify: Verify = "full",
    base: Any = None,
) -> Offloaded:
    """Keep a model's layers compressed; decode each into one of two buffers when its turn comes.

    device: "cpu"; or a CUDA device whose kernels can be used, to which the rest of the model is moved.
    model: on the CPU; the layers' parameters may be on the meta device. Buffers and all else are loaded
    and stay.
    path: what `load_model` takes. host: where the compressed bytes are kept, on the "disk", read again each time,
    in "memory", or for a CUDA device in "pinned" memory, which is read and checked here and uploaded from as it is.
    layers: the name of the ModuleList, or Sequential, whose members are the layers, such as "model.layers"; the
    longest ModuleList of the model if None, or the model itself if that is a Sequential without any. resident: layers
    that stay decoded, by name, or how many of the first ones.
    ahead: whether a layer is decoded while the one before it computes; None measures whether that is faster.
    Only inside of its own forward does a layer have its weights: at any other time `layer.weight`, `parameters()` and
    modules of the layer that are called by themselves, such as `model.layers[0].mlp(x)`, see what the buffer was last
    filled with, another layer's perhaps; what is written to them is lost. Call the layer, or read a weight from the
    files.
    One thread computes at a time: a forward of the model waits until that of another thread ends, one of a layer that
    is called by itself as well.
    On a device, hooks only ask for things: the verdict on a layer is waited for when the next one begins, and at the
    end of the model's `forward`, or of the layer's if that is called by itself. An error is raised there, before
    outputs are handed out; hooks inside the model may have seen what was computed with wrong weights.
    Inference only: training, `state_dict`, `to`, copies (`copy.deepcopy`, pickles), and parameters that a layer shares
    with another module are refused. After an error the model is as it was, but for values of what stays where a file
    turns out to be damaged as that is loaded.
    """
    refuse_taken(model)
    home = _home(device, host == PINNED)
    name, every = _layers(model, layers)
    begin = f"{name}." if name else ""
    first = {id(layer): i for i, layer in reversed(list(enumerate(every)))}  # of one that is there again
    turns = [i for i in _turns([f"{begin}{i}" for i in range(len(every))], resident) if first[id(every[i])] == i]
    if len(turns) < 2:
        what = repr(name) if name else "the model"
        raise UsageError(f"{what} has {len(turns)} layers that are not resident; at least 2 are needed to take turns")
    found, prefixes = [every[i] for i in turns], [f"{begin}{i}." for i in turns]
    path = path if host == PINNED else hosted(path, host)
    stack, before = ExitStack(), ExitStack()  # what ends with the files; what puts back the weights that were there
    try:
        files = open_all(path, stack, verify=verify, max_bytes=None, base=as_base(base))
        homes = files_of(files)
        known = [_known(layer, prefix, homes) for prefix, layer in zip(prefixes, found, strict=True)]
        _check(model, prefixes, known, homes)
        if isinstance(home, DeviceMemory) and ahead is None:
            ahead = True  # the device decodes beside what it computes; its times are not seen here
        units = [[(name, homes[name]) for name in each] for each in known]
        slots = Slots(units, thread_count(threads), ahead, home)
        if host == PINNED:
            slots.keep()
        _load_resident(model, found, path, homes, verify, base, threads, device)
        checked = Checked(model, slots.leave, slots.lock)
        stack.callback(checked.remove)
        views: dict[int, torch.nn.Parameter] = {}
        for i, layer in enumerate(found):
            for name, tensor in slots.tensors(i).items():
                # What torch computes, to the last bit, depends on whether weights require gradients, even without any.
                parameter = torch.nn.Parameter(tensor, known[i][name].parameter.requires_grad)
                views[id(parameter)] = parameter
                for own in known[i][name].names:
                    before.callback(_put, layer, own, _put(layer, own, parameter))
            stack.callback(layer.register_forward_pre_hook(partial(_enter, slots, i)).remove)
            stack.callback(replace_forward(layer, partial(_run, slots, i, checked)))
            stack.callback(layer.register_state_dict_pre_hook(_refuse_state).remove)  # type: ignore[no-untyped-call] # torch's
            stack.callback(_allow, layer)
            for module in layer.modules():  # also parts of a layer: theirs may be another layer's weights by now
                module.__reduce_ex__ = _refuse_copy  # type: ignore[method-assign] # deepcopy's and pickle's
        owned: dict[int, list[str]] = {}  # by the module that has a weight itself
        for i, layer in enumerate(found):
            for inner, _, own in (name.rpartition(".") for each in known[i].values() for name in each.names):
                owned.setdefault(id(layer.get_submodule(inner)), []).append(own)
        kinds = {(each.dtype, each.device, each.ndim) for each in views.values()}
        for module, names in holders(model, owned).items():
            # Asked of whatever holds a layer, so that nothing beside it is changed before it refuses.
            hook = module._register_load_state_dict_pre_hook(partial(_refuse_load, names))  # type: ignore[no-untyped-call] # torch's
            stack.callback(hook.remove)
            stack.callback(vars(module).pop, "_apply", None)
            module._apply = partial(_apply_unchanged, module, kinds)  # type: ignore[method-assign] # what .to() and .half() call
        for layer in found:
            stack.callback(_empty, layer, views)
        return Offloaded(stack, slots, [prefix[:-1] for prefix in prefixes])
    except BaseException:
        with before:
            stack.close()
        raise


def compressed_backend(device: Any) -> Backend | None:
    """What decodes layers on a device; None for the CPU. Raises UsageError for where none can be decoded."""
    check_device(device)
    wanted = torch.device(device)
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r}: such layers can be decoded on the CPU and on CUDA devices only")
    if wanted.type == "cuda":
        reason = why_cpu(wanted)
        if reason is not None:
            raise UsageError(f"device {device!r}: such layers have to be decoded there, but {reason}")
    found: Backend | None = backend_for(wanted)
    return found


def _home(device: Any, pinned: bool) -> Memory:
    """Where layers are decoded to. Raises UsageError for what none can be."""
    backend = compressed_backend(device)
    if backend is not None:
        return DeviceMemory(backend, pinned)
    if pinned:
        raise UsageError("host is 'pinned', which a CUDA device can upload from; on the CPU use host='memory'")
    return HostMemory()


def hosted(path: Any, host: str) -> Any:
    """The files where they are, or in memory."""
    if host not in HOSTS:
        raise UsageError(f"host is {host!r}; on the CPU it can be {' or '.join(map(repr, HOSTS))}")
    if host == "disk":
        return path
    found = weight_files(path)
    return [Shard(_held(file) if isinstance(file, (str, os.PathLike)) else file, names) for file, names in found]


def _held(path: Any) -> bytes | memoryview:
    """A file in memory."""
    if not is_remote(path):
        return Path(path).read_bytes()
    source = open_remote(path)
    try:
        return source.read(0, source.size()).data
    finally:
        source.close()


def _turns(names: list[str], resident: int | Collection[str]) -> list[int]:
    """Which layers take turns."""
    if isinstance(resident, int) and resident >= 0:
        return list(range(resident, len(names)))
    if isinstance(resident, (str, int, float)) or not set(resident) <= set(names):
        raise UsageError(f"resident is {resident!r}; it can be a number from 0 up, or names such as {names[:2]}")
    return [i for i, name in enumerate(names) if name not in resident]


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not say what it returns
def _enter(slots: Slots, layer: int, module: torch.nn.Module, inputs: Any) -> None:
    _refuse_training(module.training)
    first = next((each for each in inputs if isinstance(each, torch.Tensor)), None)
    slots.enter(layer, 0 if first is None else first.numel())


@torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call] # as above
def _run(slots: Slots, layer: int, checked: Checked, run: Run) -> Any:
    """A layer's forward. Outside of the model's another thread may have entered a layer since the hook, and the hook is
    not called by who calls `forward`.
    """
    with slots.lock, uncached():
        if not slots.is_there(layer):
            _refuse_training(False)
            slots.enter(layer)
        outputs = run()
        if not slots.is_there(layer):
            raise UsageError("an offloaded layer has called another one, or itself: its own weights were gone then")
        if not checked.runs:
            slots.leave()
        return outputs


def _allow(layer: torch.nn.Module) -> None:
    """What is refused of an offloaded layer."""
    for module in layer.modules():
        vars(module).pop("__reduce_ex__", None)


def _empty(layer: torch.nn.Module, views: dict[int, torch.nn.Parameter]) -> None:
    """Take the weights away, which are views of the buffers; others, that it was given since, are its own.

    views: by id.
    """
    gone: dict[int, torch.nn.Parameter] = {}
    for name, parameter in list(layer.named_parameters(remove_duplicate=False)):
        if id(parameter) not in views:
            continue
        if id(parameter) not in gone:
            gone[id(parameter)] = torch.nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        _put(layer, name, gone[id(parameter)])
    refuse_without_weights(layer)


def refuse_without_weights(layer: torch.nn.Module) -> None:
    """Have a layer say that it has been closed, for as long as its weights are on the meta device."""
    if _refuse_closed not in layer._forward_pre_hooks.values():  # of a time before
        layer.register_forward_pre_hook(_refuse_closed)


@torch.compiler.disable  # type: ignore[untyped-decorator] # as above
def _refuse_closed(module: torch.nn.Module, _inputs: Any) -> None:
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UsageError(
            "the layer has had no weights since what `offload` or `keep_compressed` returned was closed: call that "
            "again, or model.load_state_dict(slimtensors.torch.load_file(path), strict=False, assign=True)"
        )
    for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _refuse_closed]:
        del module._forward_pre_hooks[key]  # it has weights, and is a module like others


def _refuse_training(training: bool) -> None:
    if training or torch.is_grad_enabled():
        raise UsageError("an offloaded layer does not keep its weights: call model.eval() and use torch.no_grad()")
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call] # torch's
        raise UsageError("an offloaded layer cannot be traced: its weights are other layers' at other times")


def _refuse_state(_module: torch.nn.Module, _prefix: str, _keep: bool) -> NoReturn:
    raise UsageError(
        "an offloaded layer has no state of its own: its file has it, slimtensors.torch.load_file gives it; to load "
        "another file, close what `offload` returned"
    )


def _refuse_load(names: frozenset[str], state: Any, prefix: str, local: Any, *_: Any) -> None:
    if not local.get("assign_to_params_buffers", False) and any(f"{prefix}{name}" in state for name in names):
        raise UsageError(
            "an offloaded layer's weights are what its file holds: pass assign=True to give layers weights of their "
            "own, which stay in memory, or leave theirs out of the state"
        )


def holders(model: torch.nn.Module, own: Mapping[int, Sequence[str]]) -> dict[torch.nn.Module, frozenset[str]]:
    """Every module that has some weights, or holds one that has, and what it calls these.

    own: by the id of a module, its own names of its weights.
    """
    found = {}
    for module in model.modules():
        names = [
            f"{path}.{name}" if path else name
            for path, each in module.named_modules(remove_duplicate=False)
            for name in own.get(id(each), ())
        ]
        if names:
            found[module] = frozenset(names)
    return found


def _apply_unchanged(
    module: torch.nn.Module, kinds: set[tuple[torch.dtype, torch.device, int]], convert: Any, recurse: bool = True
) -> Any:
    """Convert a module, unless offloaded layers would not stay what they are. kinds: of their parameters."""
    for dtype, device, ndim in kinds:
        like = torch.empty((2,) * ndim, dtype=dtype, device=device)
        if convert(like) is not like or (like.is_cpu and like.is_shared()):
            raise UsageError(
                "an offloaded layer cannot be moved or converted: its parameters are views of a shared buffer"
            )
    return type(module)._apply(module, convert, recurse)  # type: ignore[no-untyped-call] # torch's


def refuse_taken(model: torch.nn.Module) -> None:
    """Raises UsageError for what is no module, and for one whose weights have been taken already."""
    check_module(model)
    for module in model.modules():
        if getattr(vars(module).get("_apply"), "func", None) is _apply_unchanged:
            raise UsageError(
                "the model has offloaded layers already: close what `offload` returned for them first, or make another "
                "model"
            )
        if isinstance(vars(module).get("stored"), StoredWeight):
            raise UsageError(
                "the model has layers that stay compressed already: close what `keep_compressed` returned for them "
                "first, or make another model"
            )


def _refuse_copy(*_: Any) -> NoReturn:
    raise UsageError(
        "an offloaded layer can neither be copied nor pickled: its weights are in its file, and a buffer has them only "
        "while it runs; make another model and `offload` that, or copy this one before"
    )


def _layers(model: torch.nn.Module, asked: str | None) -> tuple[str, list[torch.nn.Module]]:
    """The name of the list that is asked for, else of the longest ModuleList, and its members. Raises UsageError."""
    lists = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.ModuleList)}
    if asked is None:
        if not lists and isinstance(model, torch.nn.Sequential):
            return "", list(model)
        if not lists:
            others = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Sequential)]
            raise UsageError(
                "the model has no ModuleList, so its layers are not known; name a Sequential with layers=, of which it "
                f"has {', '.join(map(repr, others)) or 'none'}"
            )
        name = max(lists, key=lambda name: len(lists[name]))
        return name, list(lists[name])
    try:
        found: torch.nn.Module | None = model.get_submodule(asked)
    except AttributeError:
        found = None
    if not isinstance(found, (torch.nn.ModuleList, torch.nn.Sequential)):
        known = ", ".join(map(repr, lists)) or "none"
        said = repr(asked) if isinstance(asked, str) else f"a {type(asked).__name__}"
        raise UsageError(f"layers is {said}, which names no ModuleList or Sequential; ModuleLists are: {known}")
    return asked, list(found)


class _Known(NamedTuple):
    """A parameter of a layer, and its names there: several, if it is tied."""

    parameter: torch.nn.Parameter
    names: list[str]


def _known(layer: torch.nn.Module, prefix: str, homes: dict[str, TensorFile]) -> dict[str, _Known]:
    """A layer's parameters by what the files call them; of several names any that they have will do."""
    found: dict[int, _Known] = {}
    for own, parameter in layer.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), _Known(parameter, [])).names.append(own)
    return {
        prefix + next((own for own in each.names if prefix + own in homes), each.names[0]): each
        for each in found.values()
    }


def _check(
    model: torch.nn.Module, prefixes: list[str], known: list[dict[str, _Known]], homes: dict[str, TensorFile]
) -> None:
    """Refuse what would go wrong, before anything is changed."""
    owners: dict[int, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = next((i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), -1)
        if owners.setdefault(id(parameter), owner) != owner:
            raise UsageError(f"{name!r} is shared with another layer, or with what stays resident; refused")
    for layer in known:
        for name, each in layer.items():
            check_fits(name, each.parameter, model, homes)


def check_fits(name: str, parameter: torch.Tensor, model: torch.nn.Module, homes: dict[str, TensorFile]) -> None:
    """Raises UsageError unless the files have such a tensor."""
    if name not in homes:
        refuse_lacking(name, model, homes)
    tensor = homes[name].tensor(name)
    if tensor.shape != tuple(parameter.shape) or torch_dtype(tensor.dtype) != parameter.dtype:
        same = tensor.shape == tuple(parameter.shape)
        raise UsageError(
            f"{name!r} is {tensor.dtype.name}{list(tensor.shape)} in the file, "
            f"{parameter.dtype}{list(parameter.shape)} in the model"
            f"{f': call model.to({torch_dtype(tensor.dtype)}) first, where all of it is that' if same else ''}"
        )


def refuse_lacking(name: str, model: torch.nn.Module, homes: Mapping[str, TensorFile]) -> NoReturn:
    """Raises TensorNotFoundError."""
    hint = prefix_hint([own for own, _ in model.named_parameters()], homes)
    if not hint and model.get_parameter(name).is_meta:
        hint = TIES
    raise TensorNotFoundError(f"the files have no tensor {name!r}{f': {hint}' if hint else ''}")


def _load_resident(
    model: torch.nn.Module,
    found: list[torch.nn.Module],
    path: Any,
    homes: dict[str, TensorFile],
    verify: Verify,
    base: Any,
    threads: int | None,
    device: Any,
) -> None:
    """Load all but the layers' parameters, which are out of the way for as long as that takes."""
    held = [(module, module._parameters) for layer in found for module in layer.modules()]
    try:
        for module, _ in held:
            module._parameters = {}
        load_others(model, path, homes, verify, base, threads, device)
    finally:
        for module, parameters in held:
            module._parameters = parameters


def load_others(
    model: torch.nn.Module,
    path: Any,
    homes: dict[str, TensorFile],
    verify: Verify,
    base: Any,
    threads: int | None,
    device: Any,
) -> None:
    """Load what the model has at this moment, whatever else the files hold; what is on the meta device gets memory.
    After an error it is on the CPU again, or there.
    """
    with ExitStack() as undo:
        _make_room(model, homes, undo)
        _refuse_missing(missing_names(model, homes), model, homes)
        if torch.device(device).type != "cpu":
            undo.callback(model.to, "cpu")
            model.to(device)
        given: dict[str, Any] = {"strict": False, "verify": verify, "base": base, "threads": threads}
        _refuse_missing(load_model(model, path, **given)[0], model, homes)
        undo.pop_all()


def _make_room(model: torch.nn.Module, homes: Mapping[str, TensorFile], undo: ExitStack) -> None:
    """Give memory to what is on the meta device."""
    names: dict[int, list[str]] = {}  # of each tensor
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        if tensor.is_meta:
            names.setdefault(id(tensor), []).append(name)
    for each in names.values():
        if not any(name in homes for name in each):
            raise UsageError(
                f"{each[0]!r} stays, is on the meta device, and is in no file: {TIES}; of a buffer, make it in memory, "
                "as `with accelerate.init_empty_weights():` does"
            )
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        places: list[dict[str, Any]] = [module._parameters, module._buffers]
        for held in places:
            for own, tensor in list(held.items()):
                if tensor is not None and id(tensor) in names:
                    if id(tensor) not in made:
                        room = torch.empty_like(tensor, device="cpu")
                        parameter = isinstance(tensor, torch.nn.Parameter)
                        made[id(tensor)] = torch.nn.Parameter(room, tensor.requires_grad) if parameter else room
                    undo.callback(held.__setitem__, own, tensor)
                    held[own] = made[id(tensor)]


def _refuse_missing(names: list[str], model: torch.nn.Module, homes: Mapping[str, TensorFile]) -> None:
    if names:
        hint = prefix_hint([own for own, _ in model.named_parameters()], homes)
        more = f": {hint}" if hint else ""
        raise UsageError(f"the files lack {len(names)} tensors of the model, such as {names[0]!r}{more}")


def _put(layer: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """Returns the one that was there."""
    parent, _, last = name.rpartition(".")
    parameters: dict[str, Any] = layer.get_submodule(parent)._parameters
    before: torch.nn.Parameter = parameters[last]
    parameters[last] = parameter
    return before
