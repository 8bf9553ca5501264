"""Modules to files and back: `save_model`, and `load_model`, which decodes into the parameters that are there."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy.typing as npt
import torch

from slimtensors.bases.matching import matched_bases
from slimtensors.container.reader import Verify
from slimtensors.container.source import to_map
from slimtensors.device.backend import Backend
from slimtensors.device.choice import backend_for
from slimtensors.errors import SlimtensorsError, UsageError, check_callable, note
from slimtensors.numpy import array_shape
from slimtensors.on_torch.device import read_into
from slimtensors.on_torch.kinds import why_not_plain
from slimtensors.on_torch.tensors import (
    as_base,
    check_writable_tensors,
    converter,
    device_of,
    tensor_inputs,
    torch_dtype,
)
from slimtensors.reading.scheduling import Range
from slimtensors.reading.tensors import Load, TensorFile, load_all
from slimtensors.stream.loader import PrefetchLoader, Progress, files_of, open_all
from slimtensors.stream.plan import want
from slimtensors.threads import thread_count
from slimtensors.writing.store import store

__all__ = ["check_module", "load_model", "load_state", "missing_names", "prefix_hint", "save_model"]

Tensors = Mapping[str, torch.Tensor]

MAX_NAMED = 8  # tensors in a message
COMPILED = "_orig_mod."  # in names of what torch.compile gives


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
    *,
    preset: str = "balanced",
    threads: int | None = None,
    self_check: bool = True,
    durable: bool = True,
    base: Any = None,
    base_map: Mapping[str, str] | None = None,
) -> None:
    """Save a module's state dict, tied tensors and all.

    force_contiguous: as in safetensors; tensors that are not contiguous are stored contiguous. If False they are
    refused. The other arguments: see `slimtensors.numpy.save_file`; base may be a module, too.
    """
    if not hasattr(model, "state_dict"):
        raise UsageError(f"a {type(model).__name__} has no state_dict(): save_file saves a dict of tensors")
    state = model.state_dict()
    if not force_contiguous:
        for name, tensor in state.items():
            if not tensor.is_contiguous():
                raise UsageError(f"tensor {name!r} is not contiguous; pass force_contiguous=True to store it so")
    inputs = tensor_inputs(state)
    with matched_bases(inputs, as_base(base), base_map, source=filename, metadata=metadata) as matched:
        store(inputs, filename, metadata, preset, threads, self_check, durable, bases=matched.bases)


def load_model(
    model: torch.nn.Module,
    filename: Any,
    strict: bool = True,
    device: Any = "cpu",
    *,
    verify: Verify = "full",
    threads: int | None = None,
    backend: str | None = None,
    max_bytes: int | None = None,
    base: Any = None,
    progress: Progress | None = None,
) -> tuple[list[str], list[str]]:
    """Load a file into a module; returns (missing, unexpected) names, as safetensors does.

    filename: also a folder, an index of shards, or a list of files. Parameters stay where they are, and are decoded
    into in place; only those on another device or of another dtype are decoded beside it first, one after another.
    Parameters on a CUDA device are decoded into in place as well, by the device, where `load_file` does so.
    backend: "mmap" or "pread", as in safetensors; None is "pread". device: as there; where a module that loads its
    state in a way of its own gets its tensors.

    A name that is missing in the file, but whose tensor is tied to one that is there, does not count. Raises
    RuntimeError if names are missing or unexpected and `strict`, or shapes differ, UsageError for a parameter in memory
    that can only be read, whose elements share memory, or of which this rank has a part (DTensor): before a parameter
    is touched, but where a module loads its state in a way of its own: what that lacks is only known then. If the file
    turns out to be damaged on the way, the error says which parameters are not whole.
    """
    check_module(model)
    check_callable("numbers of bytes", progress=progress)
    device = device_of(device)
    count = thread_count(threads)
    with ExitStack() as stack:
        mmap = to_map(False, backend)
        files = open_all(filename, stack, verify=verify, max_bytes=max_bytes, base=as_base(base), mmap=mmap)
        homes = files_of(files)
        held = model.state_dict()
        there = [(name, each) for name, each in held.items() if name in homes and isinstance(each, torch.Tensor)]
        check_writable_tensors(there)
        _check_whole(there)
        if not _is_plain(model, held):
            return _by_state_dict(model, homes, strict, device, count)
        _check_apart(there)
        missing, unexpected = _names(model, held, homes)
        _refuse(model, missing if strict else [], unexpected if strict else [], _mismatches(held, homes), homes)
        names = {_storage(held[name]): name for name in homes if name in held}  # of tied ones the last, as in torch
        _load_into(names.values(), held, files, count, progress)
        return missing, unexpected


def check_module(model: Any) -> None:
    """Raises UsageError for what is none."""
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"a {type(model).__name__} is no torch.nn.Module, which comes first, then the file: load_file gives a dict"
        )


def prefix_hint(names: Sequence[str], there: Collection[str]) -> str:
    """What to do if most names of a model are in its files but for something before them, as if one of the two was
    wrapped; empty if it is not that.
    """
    first = next((name for name in names if name not in there), "")
    parts = first.split(".")
    for prefix in (".".join(parts[:i]) + "." for i in range(1, len(parts))):
        if first.removeprefix(prefix) in there and _most(
            name.startswith(prefix) and name.removeprefix(prefix) in there for name in names
        ):
            inside = f"model.get_submodule({prefix[:-1]!r})"
            return f"names in the model begin with {prefix!r}, those in the files do not; take what is inside, {inside}"
    if _most(COMPILED in name and name.replace(COMPILED, "") in there for name in names):
        return f"torch.compile has put {COMPILED!r} into the model's names; take the model before it is compiled"
    for prefix in (name.removesuffix(first) for name in there if first and name.endswith(f".{first}")):
        if _most(prefix + name in there for name in names):
            outside = "model"
            for part in reversed(prefix[:-1].split(".")):
                outside = f"torch.nn.ModuleDict({{{part!r}: {outside}}})"
            return f"names in the files begin with {prefix!r}, those in the model do not; take {outside}"
    return ""


def _most(said: Iterable[bool]) -> bool:
    each = list(said)
    return 2 * sum(each) > len(each)


def missing_names(model: torch.nn.Module, homes: Mapping[str, TensorFile]) -> list[str]:
    """What `load_model` will return as missing, without loading. Nothing of a model that loads in a way of its own."""
    held = model.state_dict()
    return _names(model, held, homes)[0] if _is_plain(model, held) else []


class _Parameter:
    """A tensor of the model, to be decoded into in place."""

    def __init__(self, name: str, index: int, units: npt.NDArray[Any]) -> None:
        self.name, self.index, self.units = name, index, units
        self.left = units.size
        self.begun = False

    @property
    def wanted(self) -> Range:
        return Range(self.index, 0, self.units.size)

    def memory(self, start: int, units: int) -> npt.NDArray[Any]:
        self.begun = True
        return self.units[start : start + units]

    def put(self, start: int, found: npt.NDArray[Any]) -> None:
        self.memory(start, found.size)[:] = found


def _load_into(
    names: Iterable[str], held: Tensors, files: Sequence[TensorFile], threads: int, progress: Progress | None
) -> None:
    """Decode these tensors where they are; those that cannot be, beside them, and copy."""
    homes = files_of(files)
    there, names = _split(names, held, homes)
    direct: dict[int, list[_Parameter]] = {}
    indirect: list[str] = []
    for name in names:
        file, tensor = homes[name], held[name]
        index = file.find(name)
        if _is_direct(tensor, torch_dtype(file.header.tensors[index].dtype)):
            units = tensor.reshape(-1).view(torch.uint8).numpy().view(file.header.tensors[index].dtype.unit)
            direct.setdefault(id(file), []).append(_Parameter(name, index, units))
        else:
            indirect.append(name)
    places = [place for each in direct.values() for place in each]
    copied: set[str] = set()
    lock = threading.Lock()

    def done(load: Load) -> None:
        with lock:
            for cut in load.job.cuts:
                load.places[cut.wanted].left -= cut.units  # type: ignore[attr-defined] # all are _Parameters
            if progress is not None:
                unit = load.file.header.streams[load.job.stream].dtype.unit_bytes
                progress(sum(cut.units for cut in load.job.cuts) * unit)

    filled: list[str] = []
    try:
        for file, backend, some in there:
            filled = [file.header.tensors[i].name for i in some]
            read_into(file, some, backend, threads)
            copied.update(filled)
            if progress is not None:
                progress(sum(tensor.nbytes for tensor in some.values()))
        loads = (load for file in files for load in file.loads(direct.get(id(file), [])))
        load_all(loads, threads, files, done=done)
        with PrefetchLoader([want(homes[name], name, None) for name in indirect], threads, converter("cpu")) as loader:
            for name, made in loader:
                with torch.no_grad():
                    held[name].copy_(made)
                copied.add(name)
                if progress is not None:
                    progress(made.nbytes)
    except BaseException as error:
        others = [file.header.tensors[i].name for file, _, some in there for i in some] + indirect
        begun = [name for name in filled if name not in copied]
        unbegun = [place.name for place in places if not place.begun]
        unbegun += [name for name in others if name not in copied and name not in begun]
        text = _state(begun + [place.name for place in places if place.begun and place.left], unbegun)
        if isinstance(error, SlimtensorsError):
            raise type(error)(f"{error}. {text}") from error
        note(error, text)
        raise
    _changed([held[place.name] for place in places] + [tensor for _, _, some in there for tensor in some.values()])


def _split(
    names: Iterable[str], held: Tensors, homes: Mapping[str, TensorFile]
) -> tuple[list[tuple[TensorFile, Backend, dict[int, torch.Tensor]]], list[str]]:
    """What a device decodes where it is, by file and device; and the other names."""
    found: dict[tuple[int, torch.device], tuple[TensorFile, Backend, dict[int, torch.Tensor]]] = {}
    rest = []
    for name in names:
        file, tensor = homes[name], held[name]
        index = file.find(name)
        backend = backend_for(tensor.device)
        if backend is None or not _has_bytes(tensor, torch_dtype(file.header.tensors[index].dtype)):
            rest.append(name)
        else:
            place = found.setdefault((id(file), tensor.device), (file, backend, {}))
            place[2][index] = tensor
    return list(found.values()), rest


def _state(incomplete: list[str], unbegun: list[str]) -> str:
    """What has become of a model that was not loaded to the end."""
    said = "The model is not whole: load it again before it is used"
    if incomplete:
        said += f". Incomplete, and noise in part: {_some(incomplete)}"
    if unbegun:
        said += f". As they were: {_some(unbegun)}"
    return said


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(map(repr, names[:MAX_NAMED])) + more


def _changed(tensors: list[torch.Tensor]) -> None:
    """Tell autograd, which would not have seen it."""
    increment = getattr(torch.autograd.graph, "increment_version", None)  # torch 2.6
    if increment is not None and tensors:
        increment(tensors)


def _is_direct(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the file's bytes are the tensor's, and the CPU can write them."""
    return tensor.device.type == "cpu" and _has_bytes(tensor, dtype)


def _has_bytes(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the file's bytes are the tensor's."""
    return (
        tensor.dtype == dtype
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and (tensor.numel() == 0 or tensor.data_ptr() % tensor.element_size() == 0)
    )


def _is_plain(model: torch.nn.Module, held: Mapping[str, Any]) -> bool:
    """Whether loading its state is copying tensors, name by name, and nothing else."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in held.items():
        if name not in own or not isinstance(tensor, torch.Tensor) or _storage(tensor) != _storage(own[name].detach()):
            return False
    for module in model.modules():
        loads = type(module)._load_from_state_dict
        if module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks:
            return False
        if type(module).load_state_dict is not torch.nn.Module.load_state_dict:
            return False
        if not loads.__module__.startswith("torch.nn.modules."):
            return False
    return True


def _check_whole(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raises UsageError for a DTensor, as FSDP2 and tensor parallelism make them."""
    for name, tensor in tensors:
        if hasattr(type(tensor), "full_tensor"):
            raise UsageError(
                f"tensor {name!r} is a {type(tensor).__name__}, of which this rank has a part: load the model before "
                "it is sharded, or give load_file's tensors to torch.distributed.checkpoint.state_dict's "
                "set_model_state_dict with full_state_dict=True; nothing was changed"
            )


def _check_apart(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raises UsageError for what torch does not write to, since several elements are at one place."""
    for name, tensor in tensors:
        if why_not_plain(tensor) is None and any(
            length > 1 and step == 0 for length, step in zip(tensor.shape, tensor.stride(), strict=True)
        ):
            raise UsageError(
                f"tensor {name!r} cannot be written to: several of its elements share memory, as after expand(): put a "
                "copy in its place, made by clone(); nothing was changed"
            )


def _names(model: torch.nn.Module, held: Tensors, homes: Mapping[str, TensorFile]) -> tuple[list[str], list[str]]:
    """(missing, unexpected)."""
    meta = [name for name, tensor in held.items() if tensor.is_meta]
    if meta:
        raise UsageError(
            f"{_some(meta)}: on the meta device, where nothing can be loaded to; "
            "call model.to_empty(device=...) first, and set what its files do not hold"
        )
    # What torch would miss: not all that there is. Some modules copy counters to themselves at that.
    with torch.inference_mode(any(tensor.is_inference() for tensor in held.values())):
        expected = model.load_state_dict({}, strict=False).missing_keys
    loaded = {_storage(tensor) for name, tensor in held.items() if name in homes}
    missing = [name for name in expected if name not in homes and _storage(held[name]) not in loaded]
    return missing, [name for name in homes if name not in held]


def _mismatches(held: Tensors, homes: Mapping[str, TensorFile]) -> list[str]:
    found = []
    for name, tensor in held.items():
        if name in homes:
            shape = array_shape(homes[name].tensor(name))
            if shape != tuple(tensor.shape):
                found.append(f"    {name}: {list(shape)} in the file, {list(tensor.shape)} in the model")
    return found


def _refuse(
    model: torch.nn.Module,
    missing: list[str],
    unexpected: list[str],
    mismatches: list[str],
    there: Collection[str],
) -> None:
    lines = [f"    missing in the file: {', '.join(missing)}"] if missing else []
    lines += [f"    not in the model: {', '.join(unexpected)}"] if unexpected else []
    lines += ["    of another shape:", *mismatches] if mismatches else []
    hint = prefix_hint([name for name, _ in model.named_parameters()], there) if missing else ""
    lines += [f"    {hint}"] if hint else []
    if lines:
        raise RuntimeError("\n".join([f"error in loading the weights of {type(model).__name__}:", *lines]))


def _by_state_dict(
    model: torch.nn.Module, homes: Mapping[str, TensorFile], strict: bool, device: Any, threads: int
) -> tuple[list[str], list[str]]:
    """For modules that load their state in a way of their own: with a second copy of it."""
    wanted = [want(file, name, None) for name, file in homes.items()]
    with PrefetchLoader(wanted, threads, converter(device)) as loader:
        state = dict(loader)
    return load_state(model, state, strict)


def load_state(model: torch.nn.Module, state: Tensors, strict: bool) -> tuple[list[str], list[str]]:
    """`load_state_dict`, with what `load_model` returns and raises: of tied tensors one will do."""
    result = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    loaded = {_storage(tensor) for name, tensor in own.items() if name in state and isinstance(tensor, torch.Tensor)}
    missing = [
        name for name in result.missing_keys
        if not isinstance(own.get(name), torch.Tensor) or _storage(own[name]) not in loaded
    ]  # fmt: skip
    unexpected = list(result.unexpected_keys)
    if strict:
        _refuse(model, missing, unexpected, [], state)
    return missing, unexpected


def _storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
