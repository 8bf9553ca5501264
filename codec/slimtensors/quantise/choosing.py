"""Which tensors are quantised: matrices of linear layers, as bitsandbytes, torchao and compressed-tensors have it, and
stacks of such matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import zip_longest

from slimtensors.codecs.environment import as_usual
from slimtensors.errors import UsageError
from slimtensors.planning.differing import MatchedBase
from slimtensors.quantise.asking import NO_BASE, NoneFitsError
from slimtensors.quantise.bounded import Bounded
from slimtensors.quantise.difference import BitDelta, OfDifference
from slimtensors.quantise.grid import Grid
from slimtensors.quantise.low_rank import LQER
from slimtensors.quantise.quantiser import QuantisedInput, Quantiser
from slimtensors.quantise.recipes import grid_of, quantisers_of
from slimtensors.quantise.stacks import MIN_ELEMENTS, matrix_of
from slimtensors.sources.inputs import Input

__all__ = ["Quantise", "chosen", "none_can", "quantised"]

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


@as_usual
def quantised(
    inputs: Sequence[Input],
    asked: Quantise,
    bases: Sequence[MatchedBase | None] = (),
    look: Callable[[int], object] | None = None,
) -> list[Input]:
    """The inputs, of which some are quantised; of those with a base, their difference from it. look: called with the
    bytes of each once it is known how it will be.

    Raises NoneFitsError if none is, UsageError if a pattern to keep fits no tensor.
    """
    quantisers = quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe]
    matrices = {matrix.name: matrix for matrix in chosen(inputs, asked)}
    if isinstance(quantisers[0], BitDelta) and not any(bases):
        raise NoneFitsError(NO_BASE)
    out = list(inputs)
    for i, (tensor, base) in enumerate(zip_longest(inputs, bases)):
        if tensor.name in matrices:
            made = _quantised(matrices[tensor.name], tensor.shape, _of_difference(quantisers, base, asked))
            out[i] = made or tensor
            if look is not None:
                look(tensor.dtype.bytes_of(tensor.shape))
    if out == list(inputs):
        raise none_can(quantisers[0], len(matrices))
    return out


def chosen(inputs: Sequence[Input], asked: Quantise) -> list[Input]:
    """What is to be quantised, if its quantiser can, as matrices. Raises UsageError as above."""
    for pattern in asked.keep:
        if not any(fnmatchcase(tensor.name, pattern) for tensor in inputs):
            raise UsageError(f"--keep {pattern}: there is no such tensor")
    found = [matrix for tensor in inputs if _chosen(tensor, asked) and (matrix := matrix_of(tensor)) is not None]
    if not found:
        raise nothing_fits((quantisers_of(asked.recipe) if isinstance(asked.recipe, str) else [asked.recipe])[0])
    return found


def nothing_fits(quantiser: Quantiser) -> NoneFitsError:
    """That no tensor is quantised."""
    return NoneFitsError(
        f"no tensor can be quantised to {quantiser.name}, which takes matrices, and stacks of them, of F32, BF16 or "
        f"F16 with {MIN_ELEMENTS} elements or more, and rows of whole blocks, that are neither kept nor embeddings "
        "(told by their names; --embeddings, embeddings=True, takes these too)"
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


def _quantised(matrix: Input, shape: Sequence[int], quantisers: Sequence[Quantiser]) -> QuantisedInput | None:
    """shape: the tensor's own."""
    for quantiser in quantisers:
        structure = quantiser.structure(matrix)
        if structure is not None:
            return QuantisedInput(matrix, quantiser, structure, shape)
    return None


def _chosen(tensor: Input, asked: Quantise) -> bool:
    if tensor.dtype.name not in DTYPES:
        return False
    if any(fnmatchcase(tensor.name, pattern) for pattern in asked.keep):
        return False
    return asked.embeddings or not _is_embedding(tensor.name.lower())


def _is_embedding(name: str) -> bool:
    return any(part in name for part in EMBEDDINGS) or name.removesuffix(".weight").split(".")[-1] in EMBEDDING_MODULES
