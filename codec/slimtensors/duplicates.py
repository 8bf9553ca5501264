"""Tensors that are equal to earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from slimtensors.codecs.chunk import find_affine
from slimtensors.container.digest import new_identity
from slimtensors.dtypes import bytes_of
from slimtensors.inputs import Input, sample_units, unit_count
from slimtensors.limits import MAX_CHUNK_BYTES
from slimtensors.quantise.quantiser import QuantisedInput

__all__ = ["find_duplicates"]


def find_duplicates(inputs: Sequence[Input]) -> dict[int, int]:
    """Tensor -> earlier tensor of the same dtype, shape and bytes. Only tensors with equal samples are read whole."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    # Equal sources are quantised to equal tensors.
    sources = [tensor.source if isinstance(tensor, QuantisedInput) else tensor for tensor in inputs]
    for i, tensor in enumerate(sources):
        sample = sample_units(tensor)
        # Constants and ranges take next to nothing each; as refs, many large ones could outgrow what a reader allows.
        if sample.size and find_affine(sample) is None:
            digest = new_identity(bytes_of(sample)).digest()
            alike[tensor.dtype.name, tuple(tensor.shape), inputs[i].lossy, digest].append(i)
    found: dict[int, int] = {}
    for group in alike.values():
        first: dict[Hashable, int] = {}
        for i in group if len(group) > 1 else ():
            target = first.setdefault(_whole(sources[i], [sources[k] for k in group]), i)
            if target != i:
                found[i] = target
    return found


def _whole(tensor: Input, group: Sequence[Input]) -> Hashable:
    """What two tensors share only if their bytes are equal: their place, if all of a group share one, else a digest."""
    if tensor.place is not None and all(other.place == tensor.place for other in group):
        return tensor.place
    hasher, units = new_identity(), unit_count(tensor)
    step = MAX_CHUNK_BYTES // tensor.dtype.unit_bytes
    for start in range(0, units, step):
        hasher.update(bytes_of(tensor.read(start, min(step, units - start))))
    return bytes(hasher.digest())
