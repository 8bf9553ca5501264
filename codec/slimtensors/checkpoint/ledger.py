"""Which checkpoints lie beside each other, which is the latest, and which may go: the file latest.json above them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from slimtensors.checkpoint.manifest import (
    BOTH_KINDS,
    MANIFEST,
    STOCK,
    Manifest,
    check_checkpoint,
    check_run,
    check_version,
    need,
    number,
    run_of,
    seal,
    unseal,
    with_keys,
)  # fmt: skip
from slimtensors.checkpoint.places import StorePlace
from slimtensors.errors import FormatError, NewerFormatError, UsageError
from slimtensors.limits import MAX_MANIFEST_BYTES

__all__ = [
    "LATEST",
    "MAX_LEDGER_BYTES",
    "Known",
    "Ledger",
    "find_any",
    "find_checkpoint",
    "is_there",
    "read_ledger",
    "read_manifest",
    "remove",
]  # fmt: skip

LATEST = "latest.json"
VERSION = 0
MAX_LEDGER_BYTES = 1 << 24
MAX_OFFERED = 5  # names of checkpoints that are there, where the latest is not


class Known(NamedTuple):
    """A checkpoint that was committed. bases: names of those without which it cannot be read."""

    name: str
    number: int  # rises from save to save
    run: str
    bases: tuple[str, ...] = ()


@dataclass
class Ledger:
    """What `latest.json` says."""

    latest: str
    known: list[Known] = field(default_factory=list)  # by number

    def find(self, name: str) -> Known | None:
        return next((each for each in self.known if each.name == name), None)

    def needing(self, name: str) -> list[str]:
        """The checkpoints that have this one as a base."""
        return [each.name for each in self.known if name in each.bases]

    def add(self, name: str, run: str, bases: tuple[str, ...]) -> None:
        """A new latest one; what had its name is gone."""
        number = max((each.number for each in self.known), default=0) + 1
        self.known = [each for each in self.known if each.name != name] + [Known(name, number, run, bases)]
        self.latest = name

    def drop(self, name: str) -> None:
        self.known = [each for each in self.known if each.name != name]
        if self.latest == name:
            self.latest = self.known[-1].name if self.known else ""

    def beyond(self, keep: int, there: Callable[[Known], bool]) -> list[Known]:
        """Those that are neither among the newest `keep` of those that are there, nor a base of one of these."""
        kept = islice(filter(there, reversed(self.known)), keep)
        needed = {name for each in kept for name in (each.name, *each.bases)}
        return [each for each in self.known if each.name not in needed]

    def to_bytes(self) -> bytes:
        known = [{**each._asdict(), "bases": list(each.bases)} for each in self.known]
        return seal({"format": VERSION, "known": known, "latest": self.latest})


def read_ledger(above: StorePlace) -> Ledger:
    """Empty if there is none. Raises FormatError for a damaged one."""
    try:
        value = unseal(above.read(LATEST, MAX_LEDGER_BYTES))
        check_version(value, "the list of checkpoints")
        found = with_keys(value, "format known latest", "the list of checkpoints")
        need(isinstance(found["known"], list), "known is not an array")
        known = [_known(each) for each in found["known"]]
        need(len({each.name for each in known}) == len(known), "a checkpoint is named twice")
        need([each.number for each in known] == sorted({each.number for each in known}), "numbers do not rise")
        latest = found["latest"]
        need(latest == "" if not known else latest in [each.name for each in known], "the latest is not known")
    except (FileNotFoundError, NotADirectoryError):
        return Ledger("")
    except FormatError as error:
        raise type(error)(
            f"{above.label}/{LATEST}: {error}. Checkpoints can still be loaded by their own names; "
            + ("delete the file, and " if isinstance(error, NewerFormatError) else "")
            + "the next save makes a new one"
        ) from None
    return Ledger(latest, known)


def _known(value: object) -> Known:
    found = with_keys(value, "bases name number run", "a known checkpoint")
    need(isinstance(found["bases"], list), "bases is not an array")
    bases = tuple(check_checkpoint(base) for base in found["bases"])
    count = number(found["number"], 1 << 53, "the number of a checkpoint")
    return Known(check_checkpoint(found["name"]), count, check_run(found["run"]), bases)


def read_manifest(place: StorePlace) -> Manifest | None:
    """None if no checkpoint was committed there. Raises FormatError for a damaged manifest."""
    try:
        data = place.read(MANIFEST, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Manifest.parse(data, f"{place.label}/{MANIFEST}")


def is_there(above: StorePlace, known: Known) -> bool:
    """Whether a known checkpoint is still there. Raises FormatError if another run wrote there too, and it is damaged.

    One listing, as a rule: manifests of many ranks are large, and this is asked at each save.
    """
    place = above.child(known.name)
    there = place.sizes()
    runs = {run_of(name) for name in there} - {None}
    if MANIFEST not in there or known.run not in runs:
        return False
    if len(runs) == 1:
        return True
    found = read_manifest(place)
    return found is not None and found.run == known.run


def find_checkpoint(place: StorePlace) -> tuple[StorePlace, Manifest]:
    """The checkpoint at a place, or the latest of those in it. Raises FileNotFoundError if there is neither."""
    found = find_any(place)
    if found is None:
        raise FileNotFoundError(
            f"{place.label} holds no checkpoint: neither {MANIFEST} nor {LATEST} is there. "
            "A save that did not finish leaves none: name an earlier one"
        )
    return found


def find_any(place: StorePlace) -> tuple[StorePlace, Manifest] | None:
    """As `find_checkpoint`, but None where there never was one. Raises FileNotFoundError if the latest one is gone."""
    found = read_manifest(place)
    if found is not None:
        _check_one_kind(place)
        return place, found
    ledger = read_ledger(place)
    if not ledger.latest:
        return None
    while (found := read_manifest(place.child(ledger.latest))) is None:
        seen, ledger = ledger.latest, read_ledger(place)
        if not ledger.latest:  # the last one was removed meanwhile
            return None
        if ledger.latest != seen:  # a job went on meanwhile, and kept few
            continue
        before = (each for each in reversed(ledger.known) if each.name != ledger.latest and is_there(place, each))
        others = [each.name for each in islice(before, MAX_OFFERED)]
        raise FileNotFoundError(
            f"{place.label}/{LATEST} names {ledger.latest}, which is not there"
            + (f"; name another one: {', '.join(others)}" if others else "")
        )
    inner = place.child(ledger.latest)
    _check_one_kind(inner)
    return inner, found


def _check_one_kind(place: StorePlace) -> None:
    """Raises UsageError if torch's own manifest lies beside ours."""
    try:
        there = place.sizes()
    except OSError:  # who may read need not be allowed to list
        return
    if STOCK in there:
        raise UsageError(f"{place.label} holds {MANIFEST} and torch's own {STOCK}: {BOTH_KINDS}")


def remove(place: StorePlace, *, durable: bool = True) -> None:
    """Remove a checkpoint: first its manifest, so that it is gone at once, then its files, and nothing that it does not
    name. Raises UsageError if another one needs it as a base.
    """
    above = place.parent()
    ledger = Ledger("") if above is None else read_ledger(above)
    needing = ledger.needing(place.name)
    if needing:
        raise UsageError(f"{place.label} is the base of {', '.join(needing)}; remove these first, or save them whole")
    manifest = read_manifest(place)
    if manifest is None and ledger.find(place.name) is None:
        raise UsageError(f"{place.label} holds no checkpoint")
    known = ledger.find(place.name)
    clear(place, {run for run in (manifest and manifest.run, known and known.run) if run})
    if above is not None and known is not None:
        ledger.drop(place.name)
        above.replace(LATEST, ledger.to_bytes(), durable=durable)


def clear(place: StorePlace, runs: set[str]) -> None:
    """Remove what these runs wrote."""
    place.remove(MANIFEST)
    for name in place.sizes():
        if run_of(name) in runs:
            place.remove(name)
    place.remove_if_empty()
