"""The last run of bench.gpu_check: all tables, and the lines that people choose by."""

from __future__ import annotations

import json
from typing import Any

from bench.report import RESULTS, table

FOLDER = RESULTS / "gpu"


def lines(run: dict[str, Any]) -> list[list[str]]:
    """What a reader wants to know of a GPU."""
    loads, batch = run["loading"], run["offloaded"]["batch 1"]
    at_once = [loads[f"bfloat16, {preset}"]["decoding GB/s, all at once"] for preset in ("balanced", "fast")]
    nvcomp = run["peers"]["nvCOMP ANS"]["weights as <f2"]["GB/s"]
    kept = batch["pinned"]
    command = f"`{run['run']['command'].removeprefix('python -m ')}`"
    return [
        [
            f"{run['gpu']}: 512 MB of BF16 decoded in one launch, `balanced` and `fast`",
            f"{at_once[0]:.0f} and {at_once[1]:.0f} GB/s, nvCOMP's ANS {nvcomp:.0f}",
            command,
        ],
        [
            "`load_file(device=\"cuda\")` with files in the page cache, of safetensors' time",
            f"{1 / run['safetensors']['safetensors / ours']:.2f}",
            command,
        ],
        [
            "a token of a model offloaded to pinned memory: of the time that the link takes, of Accelerate's",
            f"{kept['of compressed bytes / link']:.2f}, {1 / kept['accelerate / ours']:.2f}",
            command,
        ],
    ]


def latest() -> dict[str, Any]:
    """The last run of bench.gpu_check."""
    runs: list[dict[str, Any]] = json.loads(max(FOLDER.glob("*.json")).read_text())["runs"]
    return runs[-1]


def tables(run: dict[str, Any]) -> str:
    """The last check of a GPU."""
    loading = [
        [name, f"{100 * r['stored / decoded']:.1f} %", f"{r['decoding GB/s, all at once']:.0f}",
         f"{r['from pinned GB/s']:.0f}", f"{r['from pinned / floor of the link']:.2f}", f"{r['load GB/s']:.1f}"]
        for name, r in run["loading"].items()
    ]  # fmt: skip
    places = ("memory", "pinned", "compressed on the device")
    layers = [
        [workload, f"{1e3 * r['resident s']:.1f}", f"{1e3 * r['accelerate s']:.0f}",
         *(f"{1e3 * r[place]['s']:.0f} ({r[place]['of compressed bytes / link']:.2f})" for place in places)]
        for workload, r in run["offloaded"].items() if isinstance(r, dict)
    ]  # fmt: skip
    peers, beside, rates = run["peers"], run["safetensors"], run["GB/s"]
    head = (
        f"{run['gpu']}, torch {run['torch']}; `{run['run']['command']}`, {run['run']['when']}, commit "
        f"{run['run']['commit'][:10]}. Copies: from pinned memory {rates['pinned copy']:.0f} GB/s, on the device "
        f"{rates['device copy']:.0f}. GB/s of decoded bytes; checked against the CPU's decoder, wrong: "
        f"{len(run['wrong'])}."
    )
    columns = ["file", "stored", "kernels, all at once", "from pinned memory", "of the link's floor", "loaded"]
    others = (
        f"nvCOMP's ANS, BF16: {peers['nvCOMP ANS']['weights as <f2']['GB/s']:.0f} GB/s. A kernel's twin in CUDA C++: "
        f"{peers['CUDA C++ twin']['twin / ours']:.2f} of our time. `load_file` of a file in the page cache: "
        f"{1e3 * beside['ours s']:.0f} ms, safetensors {1e3 * beside['safetensors s']:.0f}."
    )
    offloaded = (
        f"Offloaded layers ({run['offloaded']['stored MB']:.0f} MB compressed): a forward pass, ms (over the time in "
        "which the link brings the compressed bytes)."
    )
    passes = table(["", "resident", "Accelerate", *(f"ours, {place}" for place in places)], layers)
    return "\n\n".join([head, table(columns, loading), others, offloaded, passes])
