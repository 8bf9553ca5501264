"""Which tensor of a base each tensor of a model is compared with, and why or why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slimtensors.bases.hinting import find_hinted
from slimtensors.bases.resolving import BaseDir, Resolver, is_function
from slimtensors.bases.tensors import BaseModel, BaseTensor, open_base
from slimtensors.codecs.casts import cast_units
from slimtensors.dtypes import CASTABLE, DType
from slimtensors.entropy.tables import cost
from slimtensors.errors import UsageError
from slimtensors.limits import MIN_BASED_BYTES, PACK_TENSOR_BYTES
from slimtensors.planning.differing import MatchedBase
from slimtensors.sources.inputs import Input, unit_count

__all__ = ["Match", "MatchReport", "Matched", "StrayRuleError", "match", "matched_bases"]

Units = npt.NDArray[Any]

AUTO = "auto"

RUNS, RUN = 8, 512  # units of a sample that tells whether two tensors are kin
MAX_RIVALS = 64  # tensors of a base that are compared by content with one that has no namesake
KIN = 0.9  # what the difference may cost of the plain tensor
CONFIRMED = 8  # tensors that a base found by hints is tried on


class StrayRuleError(UsageError):
    """A rule of a map, named by its base's side, fits nothing: likely a slip, but of one shard it may well be so."""

    def __init__(self, old: str, message: str) -> None:
        super().__init__(message)
        self.old = old


class Match(NamedTuple):
    """One tensor, what it is compared with, and how that was found; or why with nothing."""

    tensor: str
    base: str | None
    how: str


class MatchReport(NamedTuple):
    """All tensors of a model beside a base."""

    base: str | None  # where it is; None if no base was found
    matches: list[Match]
    note: str = ""  # how a base was found by hints, or why none was; whether files of it have names in common

    @property
    def matched(self) -> int:
        """Tensors that have a base."""
        return sum(each.base is not None for each in self.matches)

    def __repr__(self) -> str:
        return f"MatchReport({self.base!r}, {self.matched} of {len(self.matches)} tensors have a base)"


@dataclass
class Matched:
    """What the planner needs, and what a person is told."""

    bases: list[MatchedBase | None]
    report: MatchReport | None = None


@contextmanager
def matched_bases(
    inputs: Sequence[Input],
    base: Any,
    base_map: Mapping[str, str] | None = None,
    *,
    source: Any = None,
    metadata: Mapping[str, str] | None = None,
    base_dirs: Sequence[Any] = (),
    identify: bool = True,
) -> Iterator[Matched]:
    """Bases for the inputs, open as long as the context lasts.

    base: as for `Resolver`, one of them and any number of `BaseDir`s and functions for what it is itself made from; or
    "auto": what the model itself names, if that is found in `base_dirs` or the folders of the environment. identify:
    False for a report only, which takes no digests.
    """
    check_map(base_map)
    functions: list[Any] = []
    if isinstance(base, list):
        base_dirs = [*(each for each in base if isinstance(each, BaseDir)), *base_dirs]
        functions = [each for each in base if is_function(each)]
        named = [each for each in base if not (isinstance(each, BaseDir) or is_function(each))]
        if len(named) != 1:
            raise UsageError(f"{len(named)} bases are named; a file is made against one")
        base = named[0]
    if base is None:
        if base_map:
            raise UsageError("a map of names needs a base to map to")
        yield Matched([None] * len(inputs))
        return
    resolver = Resolver([*functions, *base_dirs])
    model: BaseModel | None = None
    try:
        if isinstance(base, str) and base == AUTO:
            model, matched = _auto(inputs, base_map, source, metadata, base_dirs, resolver)
        elif is_function(base):
            raise UsageError("a function can give the base of a file that is read; name the base itself to write one")
        else:
            model = open_base(base, resolver)
            matched = match(inputs, model, base_map)
        pairs, report = matched
        bases: list[MatchedBase | None] = []
        if identify:
            bases = [_as_matched(tensor, pair, resolver) for tensor, pair in zip(inputs, pairs, strict=True)]
        yield Matched(bases, report)
    finally:
        if model is not None:
            model.close()
        resolver.close()


def check_map(base_map: Mapping[str, str] | None) -> None:
    """Raises UsageError for what is no mapping of names."""
    if base_map is not None and not isinstance(base_map, Mapping):
        raise UsageError(f"base_map is {base_map!r:.60}; a mapping, from names in the base to names here, is needed")


def _as_matched(tensor: Input, pair: BaseTensor | None, resolver: Resolver) -> MatchedBase | None:
    """None too for what is so small that naming a base would cost more than it gains."""
    if pair is None or tensor.dtype.bytes_of(tuple(tensor.shape)) < MIN_BASED_BYTES:
        return None
    resolver.check_depth(pair)
    return MatchedBase(pair.as_base(), pair.tensor.read, resolver.files_of(pair))


Pairs = list[BaseTensor | None]


def _auto(
    inputs: Sequence[Input],
    base_map: Mapping[str, str] | None,
    source: Any,
    metadata: Mapping[str, str] | None,
    base_dirs: Sequence[Any],
    resolver: Resolver,
) -> tuple[BaseModel | None, tuple[Pairs, MatchReport]]:
    """The first base named by the model that a sample confirms."""
    notes: list[str] = []
    for found in find_hinted(source, metadata, base_dirs, notes):
        model = open_base(found.path, resolver)
        pairs, report = match(inputs, model, base_map)
        if _confirmed(inputs, pairs):
            note = f"{found.name}, named by {found.where}, confirmed on a sample"
            for name, tensor in model.tensors.items():
                model.tensors[name] = tensor._replace(hints={"repository": found.name, **tensor.hints})
            pairs = [None if pair is None else model.tensors[pair.name] for pair in pairs]
            return model, (pairs, report._replace(note="; ".join(filter(None, [note, report.note]))))
        model.close()
        notes.append(f"{found.path}, named by {found.where}, is not what this model was made from")
    none = [Match(tensor.name, None, "no base") for tensor in inputs]
    return None, ([None] * len(inputs), MatchReport(None, none, "; ".join(notes)))


def match(
    inputs: Sequence[Input], model: BaseModel, base_map: Mapping[str, str] | None = None
) -> tuple[Pairs, MatchReport]:
    """For each tensor one of the base, or None. `base_map`: base's name -> model's name, or prefixes."""
    mapped = _mapped(inputs, model, base_map or {})
    prefix = _prefix([t.name for t in inputs if t.name not in mapped], model)
    pairs: Pairs = []
    matches: list[Match] = []
    for tensor in inputs:
        pair, how = _match(tensor, model, mapped, prefix)
        pairs.append(pair)
        matches.append(Match(tensor.name, None if pair is None else pair.name, how))
    return pairs, MatchReport(model.label, matches, _several(pairs, model))


def _several(pairs: Pairs, model: BaseModel) -> str:
    """That other files of the base have other tensors of these names; passed over as in reading: what is compressed
    beside a plain one.
    """
    others = {
        each.name: each
        for each in model.namesakes
        if each.stored is None or model.tensors[each.name].stored not in (None, each.stored)
    }
    taken = [pair for pair in pairs if pair is not None and pair.name in others]
    if not taken:
        return ""
    first = taken[0]
    return (
        f"names in several of its files: {len(taken)}, such as {first.name!r}, taken from {first.where}, not from "
        f"{others[first.name].where}; to choose, name the file, or a folder that has each name once"
    )


def _match(
    tensor: Input, model: BaseModel, mapped: Mapping[str, str], prefix: tuple[str, str]
) -> tuple[BaseTensor | None, str]:
    if not unit_count(tensor):
        return None, "no elements"
    if tensor.name in mapped:
        return _fit(tensor, model.tensors[mapped[tensor.name]], "by the map")
    if tensor.name in model.tensors:
        return _fit(tensor, model.tensors[tensor.name], "same name")
    taken, put = prefix  # the model's names begin with `taken` where the base's begin with `put`
    if (taken or put) and tensor.name.startswith(taken):
        other = put + tensor.name[len(taken) :]
        if other in model.tensors:
            how = f"without the prefix {taken!r}" if taken else f"with the prefix {put!r}"
            return _fit(tensor, model.tensors[other], how)
    return _by_content(tensor, model)


def _fit(tensor: Input, other: BaseTensor, how: str) -> tuple[BaseTensor | None, str]:
    """The pair, if a difference between them is defined."""
    shape = tuple(tensor.shape)
    if not _same_kind(tensor.dtype, other.dtype):
        return None, f"{how}, but the base has {other.dtype.name}, this one {tensor.dtype.name}"
    if len(shape) != len(other.shape) or shape[1:] != other.shape[1:]:
        return None, f"{how}, but the base has the shape {list(other.shape)}, this one {list(shape)}"
    if other.dtype != tensor.dtype:
        how += f", cast from {other.dtype.name}"
    if shape and shape[0] != other.shape[0]:
        change = shape[0] - other.shape[0]
        how += f", {abs(change)} row{'s' * (abs(change) != 1)} {'added' if change > 0 else 'removed'}"
    return other, how


def _same_kind(dtype: DType, other: DType) -> bool:
    return dtype == other or (dtype.name in CASTABLE and other.name in CASTABLE)


def _mapped(inputs: Sequence[Input], model: BaseModel, base_map: Mapping[str, str]) -> dict[str, str]:
    """Model's name -> base's name. Raises StrayRuleError."""
    names = {tensor.name for tensor in inputs}
    found: dict[str, str] = {}
    for old, new in base_map.items():
        if old in model.tensors and new in names:
            found[new] = old
            continue
        both = [
            (name, old + name[len(new) :])
            for name in names
            if (old.endswith(".") or new.endswith(".")) and name.startswith(new)
        ]
        both = [(name, other) for name, other in both if other in model.tensors]
        if not both:
            raise StrayRuleError(
                old,
                f"the map {old}={new} fits nothing: the base has no tensor {old!r}, or the model has no {new!r} "
                "(base's name = model's name; prefixes end in a dot)",
            )
        found |= dict(both)
    return found


def _prefix(names: Sequence[str], model: BaseModel) -> tuple[str, str]:
    """(prefix of the model's names, prefix of the base's), one of them empty, that makes the most names equal."""
    votes: Counter[tuple[str, str]] = Counter()
    missing = [name for name in names if name not in model.tensors]
    wanted = set(missing)
    for name in missing:
        for begin in _parts(name):
            if name[len(begin) :] in model.tensors:
                votes[begin, ""] += 1
    for name in model.tensors:
        for begin in _parts(name):
            if name[len(begin) :] in wanted:
                votes["", begin] += 1
    if not votes:
        return "", ""
    # Of equals the shorter, and a prefix of the model's rather than of the base's.
    return min(votes, key=lambda pair: (-votes[pair], len(pair[0]) + len(pair[1]), pair))


def _parts(name: str) -> Iterator[str]:
    """All beginnings that end in a dot."""
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1]
        at = name.find(".", at + 1)


def _by_content(tensor: Input, model: BaseModel) -> tuple[BaseTensor | None, str]:
    """A tensor of another name and of the same dtype and rows whose sample is near: a tied head against an untied."""
    if tensor.dtype.bytes_of(tuple(tensor.shape)) < PACK_TENSOR_BYTES:
        return None, "no tensor of that name"
    shape = tuple(tensor.shape)
    rivals = [each for each in model.tensors.values() if each.dtype == tensor.dtype and each.shape == shape]
    best, least = None, KIN
    for rival in rivals[:MAX_RIVALS]:
        share = kinship(tensor, rival)
        if share < least:
            best, least = rival, share
    if best is None:
        return None, "no tensor of that name, and none of like content"
    return best, "by content, under another name"


def _confirmed(inputs: Sequence[Input], pairs: Pairs) -> bool:
    """Whether the largest pairs are kin, most of them."""
    large = [(t, p) for t, p in zip(inputs, pairs, strict=True) if p is not None]
    large.sort(key=lambda both: -unit_count(both[0]))
    tried = large[:CONFIRMED]
    return bool(tried) and 2 * sum(kinship(t, p) < KIN for t, p in tried) > len(tried)


def kinship(tensor: Input, other: BaseTensor) -> float:
    """Bits of the difference / bits of the plain tensor, guessed on a sample; inf for samples without units."""
    common = min(unit_count(tensor), unit_count(other.tensor))
    step = max(1, common // RUNS)
    starts = range(0, common, step) if common > RUNS * RUN else (0,)
    count = min(RUN if common > RUNS * RUN else common, step if common > RUNS * RUN else common)
    mine = np.concatenate([tensor.read(s, min(count, common - s)) for s in starts])
    theirs = np.concatenate([other.tensor.read(s, min(count, common - s)) for s in starts])
    theirs = cast_units(theirs, other.dtype, tensor.dtype)
    plain = _plain_bits(mine, tensor.dtype)
    return _difference_bits(mine, theirs, tensor.dtype) / plain if plain else 1.0


def _plain_bits(units: Units, dtype: DType) -> float:
    """Of the top byte (exponents, for floats rotated by their sign) its entropy, and the bits below it."""
    bits = dtype.unit_bits
    one = units.dtype.type(1)
    rotated = (units << one) | (units >> units.dtype.type(bits - 1)) if dtype.is_float else units
    top = (rotated >> units.dtype.type(bits - 8)).astype(np.uint8)
    return float(cost(np.bincount(top, minlength=256))) + units.size * (bits - 8)


def _difference_bits(units: Units, base: Units, dtype: DType) -> float:
    """Of the differences' bit lengths their entropy, and the bits below the first."""
    d = _ordered(units, dtype) - _ordered(base, dtype)
    one, top = d.dtype.type(1), d.dtype.type(dtype.unit_bits - 1)
    z = (d << one) ^ (np.zeros_like(d) - (d >> top))
    lengths = np.zeros(z.size, np.int64)
    for bit in range(dtype.unit_bits):
        lengths += z >= d.dtype.type(1 << bit)
    return float(cost(np.bincount(lengths, minlength=65))) + float(np.maximum(lengths - 1, 0).sum())


def _ordered(units: Units, dtype: DType) -> Units:
    """o(u) = u + 2^(b-1) if u < 2^(b-1), else 2^b - 1 - u; integers as they are."""
    if not dtype.is_float:
        return units
    half = units.dtype.type(1 << (dtype.unit_bits - 1))
    return np.where(units < half, units + half, ~units)
