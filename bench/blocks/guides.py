"""Tables of the guides."""

from __future__ import annotations

import math

from bench.blocks import DTYPES, show
from bench.query import Result, records, value
from bench.report import table

PRESETS = ("fast", "balanced", "small")


def presets(result: Result) -> str:
    """Sizes by preset, and how fast BF16 is decoded."""

    def decoding(preset: str) -> float | None:
        if preset == "small":  # of whole files, both beside ZipNN in one run
            found = [
                value(result, "redundancy_speed", "of_zipnn", dataset="minilm-bf16", codec=f"slimtensors {each}")
                for each in ("small", "balanced")
            ]
        else:
            labels = {"dataset": "minilm-bf16", "operation": "decode fresh", "threads": 1, "verify": "none"}
            found = [
                value(result, "speed", "gbps", codec=f"slimtensors {each}", **labels) for each in (preset, "balanced")
            ]
        return found[0] / found[1] if found[0] and found[1] else None

    rows = [
        [f"`{preset}`", *(show(value(result, "sizes", "percent", codec=f"slimtensors {preset}", dataset=d), "{:.2f} %")
                          for d in DTYPES), show(decoding(preset))]
        for preset in PRESETS
    ]  # fmt: skip
    return table(["preset", *DTYPES.values(), "BF16 decoded, of `balanced`'s speed"], rows)


def tuned(result: Result) -> str:
    """Fine-tunes by how far they moved."""
    peers = {"slimtensors balanced, base": "slimtensors", "XOR, byte planes, zstd-3": "XOR, zstd-3",
             "zipnn delta": "ZipNN's delta", "slimtensors balanced": "without a base"}  # fmt: skip
    based = records(result, "redundancy", codec="slimtensors balanced, base")
    rows = [
        [_readable(r["dataset"]), *(
            show(value(result, "redundancy", "bits_per_weight", dataset=r["dataset"], codec=codec))
            for codec in peers
        )]
        for r in sorted(based, key=lambda r: (_readable(r["dataset"]).split(",")[0], r["bits_per_weight"]))
    ]  # fmt: skip
    return table(["BF16, bits a weight", *peers.values()], rows)


def _readable(dataset: str) -> str:
    kind, _, rest = dataset.removesuffix("-bf16").removesuffix("-1").partition("-")
    return {
        "finetuned": f"MiniLM, AdamW {rest.replace('x', ', ')} steps",
        "language": f"small language model, AdamW {rest.removeprefix('ft-')}",
        "merged": f"MiniLM, merged LoRA of rank {rest.removeprefix('r')}",
        "changed": "MiniLM, 1 % of weights changed",
    }[kind]


def found(result: Result) -> str:
    """What is found without being asked for."""
    names = {
        "minilm-pruned-each-50": "half zero, BF16", "minilm-pruned-each-70": "70 % zero, BF16",
        "minilm-pruned-each-90": "90 % zero, BF16", "minilm-pruned-2of4": "two of four zero, BF16",
        "dequantised-int8": "int8 by row, FP32", "dequantised-int4": "int4 by 128, BF16",
        "dequantised-nf4": "NF4, BF16", "dequantised-ternary": "ternary, BF16",
    }  # fmt: skip
    codecs = {"slimtensors balanced": "slimtensors", "bigsmall": "BigSmall", "zipnn": "ZipNN",
              "byte planes, zstd-3": "zstd-3"}  # fmt: skip
    rows = [
        [said, *(show(value(result, "redundancy", "bits_per_weight", dataset=name, codec=codec))
                 for codec in codecs),
         show(value(result, "redundancy", "matrices", dataset=name, codec="slimtensors balanced"))]
        for name, said in names.items()
    ]  # fmt: skip
    return table(["bits a weight, whole files", *codecs.values(), "ours, changed matrices alone"], rows)


def formats(result: Result) -> str:
    """What --quantise takes."""
    rows = [
        [f"`{r['recipe']}`", f"{r['format_bits']:g}", f"{r['bits_per_weight']:.2f}", f"{_decibels(r['nmse']):.1f}"]
        for r in records(result, "from_floats") if "format_bits" in r
    ]  # fmt: skip
    return table(["`--quantise`", "the format's bits", "bits here", "error (NMSE), dB"], rows)


def own(result: Result) -> str:
    """Our own quantiser at the errors that formats have."""
    rows = []
    for r in records(result, "from_floats", recipe="slim"):
        if "error_of" in r:
            form = value(result, "from_floats", "format_bits", recipe=r["error_of"])
            fast = value(result, "from_floats", "bits_per_weight", recipe="slim-fast", error_of=r["error_of"])
            rows.append([f"`{r['error_of']}`", f"{_decibels(r['nmse']):.2f}", show(form, "{:g}"),
                         f"{r['bits_per_weight']:.2f}", show(fast)])  # fmt: skip
    return table(["at the error of", "NMSE, dB", "the format's bits", "`slim`", "`slim-fast`"], rows)


def _decibels(nmse: float) -> float:
    return 10 * math.log10(nmse)


def outputs(result: Result) -> str:
    """Bits with which outputs move as little as with Q4_K."""

    def least(model: str, *ways: str) -> str:
        labels = {"model": model, "as_good_as": "q4_k"}
        seen = [value(result, "end_metric", "bits_per_weight", way=way, **labels) for way in ways]
        return show(min((each for each in seen if each is not None), default=None))

    rows = [
        [said, least(model, "one error", "one step"), least(model, "importance")]
        for model, said in (("minilm", "MiniLM"), ("language model", "small language model"))
    ]
    return table(["", "no data", "with importance"], rows)


def packed(result: Result) -> str:
    """Files that are quantised already."""
    codecs = ("as it is", "slimtensors balanced", "slimtensors small", "zstd-19")
    names = dict.fromkeys(r["dataset"] for r in records(result, "quantised"))
    rows = [
        [name, *(show(value(result, "quantised", "bits_per_weight", dataset=name, codec=codec))
                 for codec in codecs)]
        for name in names
    ]  # fmt: skip
    return table(["bits a weight, whole files", "there", "here", "`small`", "zstd-19"], rows)
