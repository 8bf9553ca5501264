"""Making a checkpoint visible, when every file of it is where it belongs (format_spec/checkpoint.md, section 4)."""

from __future__ import annotations

import warnings
from contextlib import suppress

from slimtensors.checkpoint.ledger import LATEST, MAX_LEDGER_BYTES, Ledger, clear, is_there, read_ledger, read_manifest
from slimtensors.checkpoint.manifest import BOTH_KINDS, MANIFEST, NAME, STOCK, Manifest, file_name, run_of
from slimtensors.checkpoint.places import StorePlace
from slimtensors.errors import FormatError, LimitError, NewerFormatError, SlimtensorsError, UsageError, note

__all__ = ["RetentionWarning", "bases_for", "check_free", "check_place", "commit", "missing_ranks", "withdraw"]


DAMAGED = f"{LATEST}.damaged"


class RetentionWarning(UserWarning):
    """A checkpoint was committed, but what it replaces or outlives could not be removed."""


def check_free(place: StorePlace, *, overwrite: bool) -> None:
    """Raises UsageError if a checkpoint may not be saved there; NewerFormatError if `latest.json` is a newer one."""
    above = place.parent()
    if above is None:
        raise UsageError(f"{place.label} is no place for a checkpoint: name a folder in it")
    check_place(place)
    needing = _known_above(above)[0].needing(place.name)
    if needing:
        raise UsageError(f"{place.label} is the base of {', '.join(needing)}: save under another name")
    if STOCK in place.sizes():
        raise UsageError(f"{place.label} holds a checkpoint that torch wrote ({STOCK}): {BOTH_KINDS}")
    if not overwrite and read_manifest(place) is not None:
        raise UsageError(f"{place.label} holds a checkpoint already: name another place, or pass overwrite=True")


def _known_above(above: StorePlace) -> tuple[Ledger, str]:
    """`latest.json` above a checkpoint, and what is wrong with it; then an empty one takes its place: a job must not
    lose what it does now because what it saved before is damaged. Raises NewerFormatError.
    """
    try:
        return read_ledger(above), ""
    except NewerFormatError:
        raise
    except FormatError as error:
        return Ledger(""), str(error)


def _set_aside(above: StorePlace, durable: bool) -> None:
    """A copy, which stores can make too, for who wants to look; of one beyond all bounds nothing but the name. As long
    as it is there, files of runs that the new list does not know are not removed: others may be made from them.
    """
    data = b""
    with suppress(LimitError):
        data = above.read(LATEST, MAX_LEDGER_BYTES)
    above.replace(DAMAGED, data, durable=durable)


def check_place(place: StorePlace) -> None:
    """Raises UsageError for a name that no checkpoint can have."""
    if not NAME.fullmatch(place.name):
        raise UsageError(f"{place.name!r} is no name for a checkpoint: up to 200 letters, digits and ._=+- are")


def bases_for(place: StorePlace, ranks: int, full_every: int) -> list[tuple[str, str]]:
    """(name, run) of what a new checkpoint may be a difference from, nearest first; none if it has to be a full one."""
    above = place.parent()
    if full_every == 1 or above is None:
        return []
    latest = _known_above(above)[0].latest
    if not latest or latest == place.name:
        return []
    try:
        before = read_manifest(above.child(latest))
    except FormatError:
        return []
    if before is None or len(before.files) != ranks or len(before.bases) + 1 >= full_every:
        return []
    chain = [(latest, before.run), *before.bases]
    if place.name in [name for name, _ in chain]:
        return []
    whole = all(not missing_ranks(above.child(name), run, ranks) for name, run in chain)
    return chain if whole else []  # else no difference from it could be made, or read


def missing_ranks(place: StorePlace, run: str, ranks: int) -> list[int]:
    """The ranks whose files of a run are not there."""
    there = place.sizes()
    return [rank for rank in range(ranks) if file_name(rank, run) not in there]


def commit(place: StorePlace, manifest: Manifest, *, keep: int | None = None, durable: bool = True) -> None:
    """Write the manifest, when all its files are there, then `latest.json`; then remove what is not needed any more.

    Raises SlimtensorsError if a file is not as it was reported. An error after the manifest was written says so: the
    checkpoint can be loaded by its own name. keep: how many checkpoints to keep, of those that are still
    there; all if None. Only those that `latest.json` knows are ever removed, and none that a kept one needs.
    """
    there = place.sizes()
    for rank, file in enumerate(manifest.files):
        if there.get(file.name) != file.size:
            raise SlimtensorsError(
                f"{place.label}/{file.name}, which rank {rank} wrote with {file.size} bytes, "
                + (f"has {there[file.name]}" if file.name in there else "is not there")
                + ": do all ranks see the same storage?"
            )
    above = place.parent()
    assert above is not None
    place.replace(MANIFEST, manifest.to_bytes(), durable=durable)
    try:
        ledger, damage = _known_above(above)
        runs = {each.run for each in ledger.known}
        if damage:
            _set_aside(above, durable)
        ledger.add(place.name, manifest.run, tuple(name for name, _ in manifest.bases))
        above.replace(LATEST, ledger.to_bytes(), durable=durable)
    except Exception as error:
        note(error, f"the checkpoint {place.label} is whole, but {above.label}/{LATEST} does not name it")
        raise
    if damage:  # and so is which files others are made from: all stay
        warnings.warn(f"{place.label} is saved, and a new list of checkpoints begun: {damage}", stacklevel=2)
        return
    try:
        beside = above.sizes()
        _reclaim(place, there, manifest.run, runs if DAMAGED in beside else None)
        for name in beside:
            if _is_temporary(name, LATEST):
                above.remove(name)
        if keep is not None:
            _retain(above, ledger, keep, durable)
    except Exception as error:
        text = f"{place.label} is saved, but old files could not be removed: {error}"
        warnings.warn(text, RetentionWarning, stacklevel=2)


def withdraw(place: StorePlace, run: str, *, new: bool) -> None:
    """Remove what a save wrote that could not be committed, and the folder if it was new. Nothing, if its manifest is
    there all the same, or in a store, where a request that failed may have an effect later.
    """
    if not place.reads_back:
        return
    found = read_manifest(place)
    if found is None or found.run != run:
        for name in place.sizes():
            if run_of(name) == run:
                place.remove(name)
        if new:
            place.remove_if_empty()


def _reclaim(place: StorePlace, there: dict[str, int], run: str, known: set[str] | None) -> None:
    """What saves to this place left behind that did not finish, or that this one replaces. known: the only runs whose
    files may be removed, if not all are.
    """
    for name in there:
        old = run_of(name) not in (None, run) and (known is None or run_of(name) in known)
        if old or _is_temporary(name, MANIFEST):
            place.remove(name)
    place.abandon(run)


def _is_temporary(name: str, of: str) -> bool:
    """Whether this was to become the file `of`, but did not."""
    return name.startswith(f".{of}.") and name.endswith(".tmp")


def _retain(above: StorePlace, ledger: Ledger, keep: int, durable: bool) -> None:
    new = ledger.latest
    gone = ledger.beyond(keep, lambda each: each.name == new or is_there(above, each))
    for each in reversed(gone):  # what is made from another one first
        old = above.child(each.name)
        manifest = read_manifest(old)
        if manifest is None or manifest.run == each.run:  # else somebody else's is there now
            clear(old, {each.run})
        ledger.drop(each.name)
    if gone:
        above.replace(LATEST, ledger.to_bytes(), durable=durable)
