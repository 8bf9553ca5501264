"""Which tensors are quantised: matrices of linear layers, as bitsandbytes, torchao and compressed-tensors have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import zip_longest

from slimtensors.errors import UsageError
from slimtensors.planning.differing import MatchedBase
from slimtensors.quantise.asking import NO_BASE, NoneFitsError
from slimtensors.quantise.bounded import Bounded
from slimtensors.quantise.difference import BitDelta, OfDifference
from slimtensors.quantise.grid import Grid
from slimtensors.quantise.low_rank import LQER
from slimtensors.quantise.quantiser import QuantisedInput, Quantiser
from slimtensors.quantise.recipes import grid_of, quantisers_of
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Quantise", "chosen", "none_can", "quantised"]

MIN_ELEMENTS = 1 << 14  # smaller matrices save next to nothing
EMBEDDINGS = ("embed", "wte", "wpe", "lm_head")  # in the names of embeddings and of what turns them back into words
EMBEDDING_MODULES = ("shared", "emb", "position", "positions")  # whole names of such modules, as T5, BART and RWKV have
DTYPES = ("F32", "BF16", "F16")
ERROR_OF_DIFFERENCES = 0.1  # NMSE, of what differs, where nothing is said; weights' own would leave out nearly all


@dataclass(frozen=True)
class Quantise:
    """What `compress` was asked for.

    recipe: a name, or a quantiser. keep: names or patterns (`*` and `?`) of tensors that stay as they are. embeddings:
    whether embeddings are quantised too. aimed: whether the recipe has the step or error that was asked for.
    """

    recipe: str | Quantiser
    keep: Sequence[str] = ()
    embeddings: bool = False
    aimed: bool = False


def quantised(inputs: Sequence[Input], asked: Quantise, bases: Sequence[MatchedBase | None] = ()) -> list[Input]:
    """The inputs, of which some are quantised; of those with a base, their difference from it.

    Raises NoneFitsError if none is, UsageError if a pattern to keep fits no tensor.
    """
    quantisers = quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe]
    names = {tensor.name for tensor in chosen(inputs, asked)}
    if isinstance(quantisers[0], BitDelta) and not any(bases):
        raise NoneFitsError(NO_BASE)
    out = [
        (_quantised(tensor, _of_difference(quantisers, base, asked)) if tensor.name in names else None) or tensor
        for tensor, base in zip_longest(inputs, bases)
    ]
    if out == list(inputs):
        raise none_can(quantisers[0], len(names))
    return out


def chosen(inputs: Sequence[Input], asked: Quantise) -> list[Input]:
    """What is to be quantised, if its quantiser can. Raises UsageError as above."""
    for pattern in asked.keep:
        if not any(fnmatchcase(tensor.name, pattern) for tensor in inputs):
            raise UsageError(f"--keep {pattern}: there is no such tensor")
    found = [tensor for tensor in inputs if _chosen(tensor, asked)]
    if not found:
        raise nothing_fits((quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe])[0])
    return found


def nothing_fits(quantiser: Quantiser) -> NoneFitsError:
    """That no tensor is quantised."""
    return NoneFitsError(
        f"no tensor can be quantised to {quantiser.name}, which takes matrices of F32, BF16 or F16 with "
        f"{MIN_ELEMENTS} elements or more, and rows of whole blocks, that are neither kept nor embeddings (told by "
        "their names; --embeddings, embeddings=True, takes these too)"
    )


def none_can(quantiser: Quantiser, count: int) -> NoneFitsError:
    """That none of those chosen can be quantised so: of blocks for their shape, of all others for their numbers."""
    grid = grid_of(quantiser)
    if isinstance(quantiser, Bounded):
        why = "that would take more than 65536 codes, or their numbers are all zero or not finite; ask for more"
    elif grid is not None:
        why = f"no step keeps an error of {grid.error:g}, or their numbers are all zero; ask for more"
    else:
        return nothing_fits(quantiser)
    return NoneFitsError(f"none of the {count} tensors chosen can be quantised to {quantiser.name}: {why}")


def _of_difference(quantisers: Sequence[Quantiser], base: MatchedBase | None, asked: Quantise) -> Sequence[Quantiser]:
    """Those for a tensor that has a base."""
    if base is None:
        return quantisers
    first = quantisers[0]
    if isinstance(first, Bounded):
        raise UsageError(f"{first.name} is a bound for weights, and cannot be kept by a sum with a base; leave one out")
    if isinstance(first, LQER):
        raise UsageError(f"{first.name} adds a product of its own, to which no base can be added; for this, take slim")
    if isinstance(first, Grid):  # codes within a sum have no classes
        quantisers = [replace(first, classes=False, error=first.error if asked.aimed else ERROR_OF_DIFFERENCES)]
    return [OfDifference(each, base, bound=asked.aimed) for each in quantisers]


def _quantised(tensor: Input, quantisers: Sequence[Quantiser]) -> QuantisedInput | None:
    for quantiser in quantisers:
        structure = quantiser.structure(tensor)
        if structure is not None:
            return QuantisedInput(tensor, quantiser, structure)
    return None


def _chosen(tensor: Input, asked: Quantise) -> bool:
    if tensor.dtype.name not in DTYPES or len(tensor.shape) != 2 or unit_count(tensor) < MIN_ELEMENTS:
        return False
    if any(fnmatchcase(tensor.name, pattern) for pattern in asked.keep):
        return False
    return asked.embeddings or not _is_embedding(tensor.name.lower())


def _is_embedding(name: str) -> bool:
    return any(part in name for part in EMBEDDINGS) or name.removesuffix(".weight").split(".")[-1] in EMBEDDING_MODULES
