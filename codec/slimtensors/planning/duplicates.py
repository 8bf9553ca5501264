"""Tensors that are equal to earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from slimtensors.codecs.chunk import find_affine
from slimtensors.container.digest import new_identity
from slimtensors.dtypes import bytes_of
from slimtensors.limits import MAX_CHUNK_BYTES
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.sources.inputs import Input, sample_units, unit_count

__all__ = ["find_duplicates"]

FEW = 64  # units


def find_duplicates(inputs: Sequence[Input]) -> dict[int, int]:
    """Tensor -> earlier tensor of the same dtype, shape and bytes. Only tensors with equal samples are read whole."""
    # Equal sources are quantised to equal tensors.
    sources = [tensor.source if isinstance(tensor, QuantisedInput) else tensor for tensor in inputs]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for i, tensor in enumerate(sources):
        alike[tensor.dtype.name, tuple(inputs[i].shape), inputs[i].lossy].append(i)
    found: dict[int, int] = {}
    # What is equal has equal units anywhere: a few of them tell most tensors apart, for next to nothing.
    for group in _told_apart(_told_apart(alike.values(), sources, _few), sources, _sample):
        first: dict[Hashable, int] = {}
        for i, content in zip(group, _contents([sources[i] for i in group]), strict=True):
            target = first.setdefault(content, i)
            if target != i:
                found[i] = target
    return found


def _told_apart(
    groups: Iterable[list[int]], sources: Sequence[Input], key: Callable[[Input], bytes]
) -> Iterator[list[int]]:
    """Those of each group that share a key, where they are several. None that has an empty key."""
    for group in groups:
        by_key: dict[bytes, list[int]] = defaultdict(list)
        for i in group if len(group) > 1 else ():
            by_key[key(sources[i])].append(i)
        yield from (some for found, some in by_key.items() if found and len(some) > 1)


def _few(tensor: Input) -> bytes:
    units = unit_count(tensor)
    return tensor.read(units // 2, min(FEW, units - units // 2)).tobytes()


def _sample(tensor: Input) -> bytes:
    """Empty for constants and ranges: they take next to nothing each; as refs, many large ones could outgrow what a
    reader allows.
    """
    sample = sample_units(tensor)
    return b"" if find_affine(sample) is not None else bytes(new_identity(bytes_of(sample)).digest())


def _contents(group: Sequence[Input]) -> Iterator[Hashable]:
    """What two tensors share only if their bytes are equal: their place, if all of a group share one, else a digest.
    Each place is read once.
    """
    places = [tensor.place for tensor in group]
    if None not in places and len(set(places)) == 1:
        yield from places
        return
    known: dict[Hashable, bytes] = {}
    for tensor, place in zip(group, places, strict=True):
        digest = None if place is None else known.get(place)
        if digest is None:
            digest = _digest(tensor)
            known[place] = digest
        yield digest


def _digest(tensor: Input) -> bytes:
    hasher, units = new_identity(), unit_count(tensor)
    step = MAX_CHUNK_BYTES // tensor.dtype.unit_bytes
    for start in range(0, units, step):
        hasher.update(bytes_of(tensor.read(start, min(step, units - start))))
    return bytes(hasher.digest())
