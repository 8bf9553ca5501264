"""What files are quantised to: the recipe asked for, as fine as importance says and as coarse as a target asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from slimtensors.bases.matching import matched_bases
from slimtensors.container.source import ByteSource, open_source
from slimtensors.errors import UsageError
from slimtensors.files.weights import open_weights
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.duplicates import find_duplicates
from slimtensors.quantise.asking import NoneFitsError, Target
from slimtensors.quantise.choosing import Quantise, chosen, quantised
from slimtensors.quantise.importance import weighed
from slimtensors.quantise.quantiser import Quantiser
from slimtensors.quantise.recipes import smaller
from slimtensors.quantise.target import aimed
from slimtensors.sources.inputs import ArrayInput, Input, SourceFile
from slimtensors.writing.saving import Progress, SourceImage
from slimtensors.writing.store import stored_length

__all__ = ["OpenFile", "Shard", "quantiser_for", "settled"]

NO_DIGEST = bytes(32)  # of the source of a file that is measured, and not kept


class OpenFile(NamedTuple):
    """A source file, laid open, and of each of its tensors the base."""

    source: ByteSource
    found: SourceFile
    bases: Sequence[MatchedBase | None]


class Shard(NamedTuple):
    """One of several files, and its base; as for `compress`."""

    path: Any
    base: Any = None
    base_map: Mapping[str, str] | None = None


def quantiser_for(
    shards: Sequence[Shard],
    size: int,
    asked: Quantise,
    *,
    importance: Any = None,
    preset: str = "balanced",
    threads: int | None = None,
    base_dirs: Sequence[Any] = (),
    look: Progress | None = None,
) -> Quantiser:
    """One step for all shards of a model, with which they have `size` bytes together, or hardly less.

    asked and what follows it: as for `compress`. Raises UsageError if it cannot be had, or for files that are not of
    one model.
    """
    with ExitStack() as stack:
        files, owner = [], dict[str, Any]()
        for path, base, base_map in shards:
            source = stack.enter_context(closing(open_source(path)))
            found = open_weights(source)
            for tensor in found.inputs:
                if tensor.name in owner:
                    raise UsageError(
                        f"{owner[tensor.name]} and {path} both have a tensor {tensor.name!r}, and one size for all is "
                        "for the shards of one model: compress them apart, or ask for bits (--target-bpw)"
                    )
                owner[tensor.name] = path
            matched = matched_bases(
                found.inputs, base, base_map, source=path, metadata=found.metadata, base_dirs=base_dirs
            )
            files.append(OpenFile(source, found, stack.enter_context(matched).bases))
        recipe = settled(files, asked, importance, Target(size), preset, threads, look).recipe
    assert not isinstance(recipe, str)
    return recipe


def settled(
    files: Sequence[OpenFile],
    asked: Quantise,
    importance: Any,
    target: Target,
    preset: str,
    threads: int | None,
    look: Progress | None = None,
) -> Quantise:
    """What must be asked for, of each file, for all of them to have the target together.

    importance, look: as for `compress`. Raises UsageError if it cannot be had.
    """
    every = [tensor for file in files for tensor in file.found.inputs]
    chosen(every, asked)  # which raises for what is wrong with it, before anything is read
    if preset == "small" and not any(base for file in files for base in file.bases):
        asked = replace(asked, recipe=smaller(asked.recipe))
    if importance is None and not target.asked:
        return asked
    again = [find_duplicates(file.found.inputs) for file in files]
    if importance is not None:
        asked = _weighed(asked, every, importance, _ties(files, again))
    if not target.asked:
        return asked
    exact: dict[int, int] = {}  # lengths of the files in which nothing is quantised

    def length_with(tried: Quantise) -> int:
        return sum(exact[k] if k in exact else length_of(k, tried) for k in range(len(files)))

    def length_of(k: int, tried: Quantise) -> int:
        source, found, bases = files[k]
        try:
            made = quantised(found.inputs, _fitting(tried, found.inputs), bases)
        except NoneFitsError:
            if len(files) == 1:
                raise
            image = SourceImage(source, found.segments, found.kind)
            exact[k] = stored_length(found.inputs, found.metadata, preset, threads, bases=bases, image=image)
            return exact[k]
        return stored_length(made, found.metadata, preset, threads, bases=bases, near=NO_DIGEST, progress=look)

    inputs, bases = _once(files, again)
    recipe = aimed(inputs, _fitting(asked, inputs), target, length_with, bases, look).recipe
    return replace(asked, recipe=recipe, aimed=True)


def _ties(files: Sequence[OpenFile], again: Sequence[Mapping[int, int]]) -> dict[str, str]:
    """By name."""
    found: dict[str, str] = {}
    for (_, file, _), pairs in zip(files, again, strict=True):
        found |= {file.inputs[i].name: file.inputs[first].name for i, first in pairs.items()}
    return found


def _once(
    files: Sequence[OpenFile], again: Sequence[Mapping[int, int]]
) -> tuple[list[Input], list[MatchedBase | None]]:
    """Tensors and their bases, without those that are there already, and take nothing."""
    inputs, bases = list[Input](), list[MatchedBase | None]()
    for (_, found, matched), pairs in zip(files, again, strict=True):
        for i, (tensor, base) in enumerate(zip(found.inputs, matched, strict=True)):
            if i not in pairs:
                inputs.append(tensor)
                bases.append(base)
    return inputs, bases


def _fitting(asked: Quantise, inputs: Sequence[Input]) -> Quantise:
    """With those patterns of what is kept that fit any of these tensors."""
    keep = [pattern for pattern in asked.keep if any(fnmatchcase(tensor.name, pattern) for tensor in inputs)]
    return replace(asked, keep=keep)


def _weighed(asked: Quantise, inputs: Sequence[Input], importance: Any, ties: Mapping[str, str]) -> Quantise:
    if isinstance(importance, Mapping):
        told = [ArrayInput(str(name), np.asarray(each)) for name, each in importance.items()]
        return weighed(asked, inputs, told, ties)
    with closing(open_source(importance)) as source:
        return weighed(asked, inputs, open_weights(source).inputs, ties)
