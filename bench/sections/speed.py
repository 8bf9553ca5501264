"""Section 2: one thread, pinned, process CPU time, arrays of 128 MiB; `work` also serves threads.py and isa.py.

"fresh": the decoder allocates its output, page faults included, as every peer does. "warm": into a buffer in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import ours, peers, timing, worker
from bench.data import ARRAYS, array_of
from bench.sections import Settings
from bench.timing import Case, Record


def _memcpy(array: np.ndarray) -> list[Case]:
    target = np.zeros_like(array)
    size = array.nbytes
    return [
        Case({"codec": "memcpy", "operation": "decode fresh"}, lambda _: array.copy(), nbytes=size),
        Case({"codec": "memcpy", "operation": "decode warm"}, lambda _: np.copyto(target, array), nbytes=size),
    ]


def _peer(peer: peers.ArrayPeer, array: np.ndarray, dtype: str, threads: int, encode: bool) -> list[Case]:
    size = array.nbytes
    blob = peer.encode(peer.prepare(array, dtype), dtype, threads)
    peers.check_same(peer.name, peer.decode(blob, dtype, threads), array)
    labels: Record = {"codec": peer.name, "ratio": size / len(blob), "verify": "none"}
    cases = [Case(labels | {"operation": "decode fresh"}, lambda _: peer.decode(blob, dtype, threads), nbytes=size)]
    if encode and peer.copies:
        cases.append(Case(labels | {"operation": "prepare"}, lambda _: peer.prepare(array, dtype), nbytes=size))
    if encode:
        cases.append(
            Case(
                labels | {"operation": "encode"},
                lambda data: peer.encode(data, dtype, threads),
                prepare=lambda: peer.prepare(array, dtype),
                nbytes=size,
            )
        )
    return cases


def _ours(preset: str, array: np.ndarray, threads: int, encode: bool) -> list[Case]:
    size = array.nbytes
    blob = ours.encode(array, preset, threads)
    peers.check_same(f"slimtensors {preset}", ours.decode(blob, threads, "full"), array)
    warm = np.zeros_like(array)
    labels: Record = {
        "codec": f"slimtensors {preset}",
        "ratio": size / len(blob),
        "instruction_set": ours.instruction_set(),
    }
    cases = [
        Case(
            labels | {"operation": "decode fresh", "verify": verify},
            lambda _, verify=verify: ours.decode(blob, threads, verify),  # type: ignore[misc] # mypy cannot infer a default's type here
            nbytes=size,
        )
        for verify in ("none", "full")
    ]
    cases.append(
        Case(
            labels | {"operation": "decode warm", "verify": "none"},
            lambda _: ours.decode(blob, threads, "none", warm),
            nbytes=size,
        )
    )
    if encode:
        cases += [
            Case(
                labels | {"operation": "encode", "self_check": check, "verify": "none"},
                lambda _, check=check: ours.encode(array, preset, threads, check),  # type: ignore[misc] # mypy cannot infer a default's type here
                nbytes=size,
            )
            for check in (False, True)
        ]
    return cases + (_ours_raw(preset, array, size / len(blob), encode) if threads == 1 else [])


def _ours_raw(preset: str, array: np.ndarray, ratio: float, encode: bool) -> list[Case]:
    """The codec without planning, container and digests."""
    size = array.nbytes
    chunks = ours.raw_prepare(ours.raw_encode(array, preset))
    peers.check_same(f"slimtensors {preset}, codec alone", ours.raw_decode(chunks, array, preset), array)
    labels: Record = {"codec": f"slimtensors {preset}", "verify": "none", "ratio": ratio}
    decode = labels | {"operation": "decode fresh, codec alone"}
    cases = [Case(decode, lambda _: ours.raw_decode(chunks, array, preset), nbytes=size)]
    if encode:
        labels = labels | {"operation": "encode, codec alone"}
        cases.append(Case(labels, lambda _: ours.raw_encode(array, preset), nbytes=size))
    return cases


def work(
    dataset: str,
    threads: list[int],
    wall: bool,
    repeats: int,
    mib: int,
    core: int | None,
    only: list[str] | None = None,
    encode: bool = True,
) -> list[Record]:
    """Runs in a worker. `only` names the peers wanted beside ours; memcpy always runs."""
    array, dtype = array_of(dataset, mib), ARRAYS[dataset]
    absent: list[Record] = []
    with timing.pinned(core):
        cases = _memcpy(array)
        for count in threads:
            batch: list[Case] = []
            reason = ours.missing()
            if reason:
                absent.append({"codec": "slimtensors", "missing": reason})
            else:
                for preset in ours.PRESETS:
                    batch += _ours(preset, array, count, encode)
            for peer in peers.ARRAY_PEERS:
                if (only is not None and peer.name not in only) or dtype not in peer.dtypes:
                    continue
                why = peers.missing(peer.package)
                if why:
                    absent.append({"codec": peer.name, "missing": why})
                elif count == 1 or peer.scales:
                    batch += _peer(peer, array, dtype, count, encode)
            for case in batch:
                case.labels["threads"] = count
            cases += batch
        records = timing.interleave(cases, repeats, wall)
    common: Record = {"dataset": dataset, "dtype": dtype, "clock": "wall" if wall else "process CPU"}
    return [common | record for record in [*records, *absent]]


def run(settings: Settings) -> list[Record]:
    records: list[Record] = []
    for dataset in ARRAYS:
        arguments: dict[str, Any] = {"repeats": settings.repeats, "mib": settings.mib, "core": settings.core}
        records += worker.run("speed", dataset=dataset, threads=[1], wall=False, **arguments)
    return records
