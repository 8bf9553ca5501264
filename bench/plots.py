"""Three plots of a result, saved beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from bench.query import Result, records

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, PEER = "#c0392b", "#7f8c8d"


def _colour(codec: str) -> str:
    return OURS if codec.startswith("slimtensors") else PEER


def sizes(result: Result) -> Any:
    """One panel per dataset, codecs by size."""
    found = list(records(result, "sizes"))
    datasets = list(dict.fromkeys(r["dataset"] for r in found))
    figure, panels = plt.subplots(1, len(datasets), figsize=(4 * len(datasets), 3.6), squeeze=False)
    for panel, dataset in zip(panels[0], datasets, strict=True):
        rows = sorted((r for r in found if r["dataset"] == dataset), key=lambda r: -r["percent"])
        places = np.arange(len(rows))
        panel.barh(places, [r["percent"] for r in rows], color=[_colour(r["codec"]) for r in rows])
        panel.set_yticks(places, [r["codec"] for r in rows], fontsize=7)
        for place, row in zip(places, rows, strict=True):
            panel.text(row["percent"], place, f"{row['percent']:.2f} ", ha="right", va="center", color="w", fontsize=7)
        panel.set_xlim(0, 100)
        panel.set_title(dataset, fontsize=9)
        panel.set_xlabel("% of the safetensors file", fontsize=8)
    return figure


def speed_against_size(result: Result, dataset: str = "minilm-bf16") -> Any:
    """Decoding into a fresh array, one thread: right and down is better."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for row in records(result, "speed", dataset=dataset, operation="decode fresh"):
        if "ratio" not in row or row.get("verify", "none") != "none":
            continue
        place = row["gbps"], 100 / row["ratio"]
        axes.scatter(*place, color=_colour(row["codec"]))
        below = row["codec"] in ("zstd-3", "pcodec-8")  # close to another
        axes.annotate(row["codec"], place, xytext=(4, -10 if below else 4), textcoords="offset points", fontsize=7)
    for row in records(result, "speed", dataset=dataset, operation="decode fresh", codec="memcpy"):
        axes.axvline(row["gbps"], color=PEER, linestyle=":", label="memcpy")
        axes.legend(fontsize=7)
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])  # room for the name of the fastest
    axes.set_xlabel("decode into a fresh array, GB/s of output, one thread, no digests")
    axes.margins(y=0.12)
    axes.set_ylabel("size, % of the array")
    axes.set_title(f"{dataset}, {result['machine']['cpu']['model']}", fontsize=9)
    return figure


def bits_against_training(result: Result) -> Any:
    """Bits per weight of BF16 fine-tunes against learning rate times steps, one panel for each model."""
    tuned = [r for r in records(result, "redundancy") if r["effort"] is not None and r["dataset"].endswith("-bf16")]
    models = sorted({r["dataset"].split("-")[0] for r in tuned})
    figure, panels = plt.subplots(1, len(models), figsize=(5.5 * len(models), 4), squeeze=False)
    for panel, model in zip(panels[0], models, strict=True):
        found = sorted((r for r in tuned if r["dataset"].startswith(model)), key=lambda r: r["effort"])
        for codec in dict.fromkeys(r["codec"] for r in found):
            points = [(r["effort"], r["bits_per_weight"]) for r in found if r["codec"] == codec]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=codec)
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("learning rate x steps")
        panel.set_ylabel("bits per weight")
        panel.set_title({"finetuned": "MiniLM", "language": "small language model"}[model], fontsize=9)
        panel.legend(fontsize=6)
    return figure


def draw(result: Result, path: Path) -> None:
    """Writes <result>-sizes.png, -speed.png and -training.png, those for which there are numbers."""
    for name, section, make in (
        ("sizes", "sizes", sizes),
        ("speed", "speed", speed_against_size),
        ("training", "redundancy", bits_against_training),
    ):
        if any(records(result, section)):
            figure = make(result)
            figure.tight_layout()
            figure.savefig(path.with_name(f"{path.stem}-{name}.png"), dpi=130, metadata={"Software": None})
            plt.close(figure)
