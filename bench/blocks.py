"""Small tables of a result, for pages that people choose by; report.py has the long ones."""

from __future__ import annotations

import json
import math
from typing import Any

from bench import report
from bench.query import Record, Result, records, value
from bench.report import table
from bench.targets import TARGETS

GPU = report.RESULTS / "gpu"
DTYPES = {"minilm-bf16": "BF16", "minilm-f16": "FP16", "minilm-f32": "FP32", "minilm-e4m3": "FP8 E4M3"}
PRESETS = ("fast", "balanced", "small")
ALL = "bench/results/README.md"  # as README.md names it


def compared(result: Result) -> str:
    """Sizes of four dtypes, and decoding of BF16, ours beside the peers'."""
    codecs = dict.fromkeys(r["codec"] for r in records(result, "sizes"))
    rows = []
    for codec in codecs:
        sizes = [value(result, "sizes", "percent", codec=codec, dataset=dataset) for dataset in DTYPES]
        labels = {"dataset": "minilm-bf16", "codec": codec, "threads": 1}
        decoding = [r for r in records(result, "speed", operation="decode fresh", **labels) if _unchecked(r)]
        file = value(result, "whole_file", "gbps", operation="decompress", **labels)
        rows.append(
            [_bold(codec), *(_show(each, "{:.1f}") for each in sizes),
             f"{decoding[0]['gbps']:.2f}" if len(decoding) == 1 else "", _show(file, "{:.2f}")]
        )  # fmt: skip
    rows.append(["memory copied", *[""] * len(DTYPES), _show(_memcpy(result), "{:.2f}"), ""])
    note = (
        "Per cent of the plain file (MiniLM in four dtypes; every round trip compared bit for bit); GB/s of BF16 with "
        "one thread: decoding from memory into fresh memory, no digests checked, and a whole file on the disk to a "
        f"whole file ({_machines(result, 'sizes', 'speed', 'whole_file')})."
    )
    columns = ["", *DTYPES.values(), "decoded, GB/s", "file to file"]
    return f"{note}\n\n{table(columns, rows)}"


def _unchecked(record: Record) -> bool:
    return record.get("verify", "none") == "none"


def _memcpy(result: Result) -> float | None:
    return value(result, "speed", "gbps", codec="memcpy", operation="decode fresh", dataset="minilm-bf16")


def _bold(codec: str) -> str:
    return f"**{codec}**" if codec.startswith("slimtensors") else codec


def _show(seen: float | None, form: str) -> str:
    return "" if seen is None else form.format(seen)


def _machines(result: Result, *sections: str) -> str:
    """Which processor made which of these sections."""
    named: dict[str, list[str]] = {}
    for section in sections:
        if section in result["sections"]:
            named.setdefault(result["sections"][section]["machine"].split(", ")[0] + ")", []).append(f"`{section}`")
    return "; ".join(f"{', '.join(names)} on {machine}" for machine, names in named.items())


def chosen(result: Result) -> str:
    """The other lines that people choose by, unfavourable ones too."""

    def bits(dataset: str, codec: str = "slimtensors balanced", field: str = "bits_per_weight") -> str:
        return _show(value(result, "redundancy", field, dataset=dataset, codec=codec), "{:.2f}")

    def based(dataset: str) -> str:
        return bits(dataset, "slimtensors balanced, base")

    def packed(name: str) -> str:
        there = value(result, "quantised", "bits_per_weight", dataset=name, codec="as it is")
        here = value(result, "quantised", "bits_per_weight", dataset=name, codec="slimtensors balanced")
        return f"{_show(here, '{:.2f}')} for {_show(there, '{:.2f}')}"

    def seconds(codec: str, operation: str, rate: int) -> str:
        found = value(result, "streaming", "seconds", codec=codec, operation=operation, mb_per_s=rate)
        return _show(found, "{:.2f} s")

    def loaded(operation: str, **labels: object) -> str:
        found = value(result, "transformers_load", "of_safetensors", codec="slimtensors", operation=operation, **labels)
        return _show(found, "{:.2f}")

    def warm(codec: str, **labels: object) -> str:
        labels = {"dataset": "minilm-bf16", "operation": "load_file"} | labels
        return _show(value(result, "whole_file", "gbps", codec=codec, **labels), "{:.1f} GB/s")

    def first(which: str) -> str:
        return _show(value(result, "startup", "seconds", codec="slimtensors", operation=which), "{:.1f} s")

    own = {
        recipe: _show(
            value(result, "from_floats", "bits_per_weight", recipe=recipe, error_of="q4_k"), "{:.2f}"
        ) for recipe in ("slim", "slim-fast")
    }  # fmt: skip
    tuned = "finetuned-2e-5x160-bf16"
    rows = [
        ["a fine-tune in BF16 as its difference from its base (2e-5, 160 steps)",
         f"{based(tuned)}; ZipNN's delta {bits(tuned, 'zipnn delta')}", "redundancy"],
        ["a LoRA of rank 8 or 16, merged, likewise", f"{based('merged-r8-1-bf16')}, {based('merged-r16-1-bf16')}", "redundancy"],
        ["half or nine tenths pruned to zero, BF16, those matrices",
         ", ".join(bits(f"minilm-pruned-each-{share}", field="matrices") for share in (50, 90)), "redundancy"],
        ["NF4, or int4 with groups of 128, held in BF16",
         f"{bits('dequantised-nf4')}, {bits('dequantised-int4')}", "redundancy"],
        ["GGUF files, given back as they were: Q4_0, Q4_K, Q8_0",
         ", ".join(map(packed, ("Q4_0", "Q4_K", "Q8_0"))), "quantised"],
        ["our own quantiser at the error of Q4_K, which takes 4.50",
         f"{own['slim']}, without trellis {own['slim-fast']}", "from_floats"],
        ["an AdamW checkpoint of a small language model, of its plain size",
         _show(value(result, "distributed", "percent", dataset="language-adamw", codec="slimtensors balanced",
                     operation="size"), "{:.0f} %"), "distributed"],
        ["decoded in memory, of ZipNN's speed: `small`, that fine-tune, half zeros",
         ", ".join(_show(value(result, "redundancy_speed", "of_zipnn", dataset=name, codec=f"slimtensors {codec}"),
                         "{:.2f}")
                   for name, codec in (("minilm-bf16", "small"), (tuned, "balanced, base"),
                                       ("minilm-pruned-each-50", "balanced"))), "redundancy_speed"],
        ["512 MiB loaded from 500 MB/s", f"{seconds('slimtensors balanced', 'load_file', 500)}, plain "
         f"{seconds('safetensors', 'read and load', 500)}", "streaming"],
        ["from a warm page cache: `load_file`, two threads, all digests",
         f"{warm('slimtensors balanced', threads=2, verify='full')}, plain {warm('safetensors')}", "whole_file"],
        ["transformers' `from_pretrained`, of plain files' time: from 500 MB/s, and from a warm page cache until all is read",
         f"{loaded('from a source', mb_per_s=500)}, **{loaded('in memory')}**", "transformers_load"],
        ["bytes over the network, of what the Hub sends of plain BF16 (emulated)",
         _show(value(result, "remote", "of_hub", dataset="minilm-bf16", codec="wire"), "{:.0f} %"), "remote"],
        ["requests for one row of an embedding",
         _show(value(result, "remote", "requests", codec="slimtensors balanced", part="row"), "{:.0f}"), "remote"],
        ["first load ever on a machine (kernels are compiled), first of a process",
         f"{first('first load, cold kernel cache')}, {first('first load, warm kernel cache')}", "startup"],
    ]  # fmt: skip
    lines = [[what, seen, f"`--only {section}`"] for what, seen, section in rows]
    return report.table(["", "", "`python -m bench.run`"], [*lines, *_gpu_lines(latest_gpu())])


def _gpu_lines(run: dict[str, Any]) -> list[list[str]]:
    """What a reader wants to know of a GPU."""
    loads, batch = run["loading"], run["offloaded"]["batch 1"]
    at_once = [loads[f"bfloat16, {preset}"]["decoding GB/s, all at once"] for preset in ("balanced", "fast")]
    nvcomp = run["peers"]["nvCOMP ANS"]["weights as <f2"]["GB/s"]
    kept = batch["pinned"]
    command = f"`{run['run']['command'].removeprefix('python -m ')}`"
    return [
        [f"{run['gpu']}: 512 MB of BF16 decoded in one launch, `balanced` and `fast`",
         f"{at_once[0]:.0f} and {at_once[1]:.0f} GB/s, nvCOMP's ANS {nvcomp:.0f}", command],
        ["`load_file(device=\"cuda\")` with files in the page cache, of safetensors' time",
         f"{1 / run['safetensors']['safetensors / ours']:.2f}", command],
        ["a token of a model offloaded to pinned memory: of the time that the link takes, of Accelerate's",
         f"{kept['of compressed bytes / link']:.2f}, {1 / kept['accelerate / ours']:.2f}", command],
    ]  # fmt: skip


def latest_gpu() -> dict[str, Any]:
    """The last run of bench.gpu_check."""
    runs: list[dict[str, Any]] = json.loads(max(GPU.glob("*.json")).read_text())["runs"]
    return runs[-1]


def missed(result: Result) -> str:
    """How many of the figures asked are missed."""
    verdicts = [target.verdict(target.seen(result)) for target in TARGETS if target.must]
    absent = verdicts.count("not measured")
    rest = f", {absent} not measured" if absent else ""
    return (
        f"**{verdicts.count('MISS')} of {len(verdicts)} figures that we set ourselves are missed**{rest}: "
        f"[which ones]({ALL}#asked-and-seen)."
    )


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
        [f"`{preset}`", *(_show(value(result, "sizes", "percent", codec=f"slimtensors {preset}", dataset=d), "{:.2f} %")
                          for d in DTYPES), _show(decoding(preset), "{:.2f}")]
        for preset in PRESETS
    ]  # fmt: skip
    return table(["preset", *DTYPES.values(), "BF16 decoded, of `balanced`'s speed"], rows)


def tuned(result: Result) -> str:
    """Fine-tunes by how far they moved."""
    peers = {"slimtensors balanced, base": "slimtensors", "XOR, byte planes, zstd-3": "XOR, zstd-3",
             "zipnn delta": "ZipNN's delta", "slimtensors balanced": "without a base"}  # fmt: skip
    found = [r for r in records(result, "redundancy", codec="slimtensors balanced, base")]
    rows = [
        [_readable(r["dataset"]), *(
            _show(value(result, "redundancy", "bits_per_weight", dataset=r["dataset"], codec=codec), "{:.2f}")
            for codec in peers
        )]
        for r in sorted(found, key=lambda r: (_readable(r["dataset"]).split(",")[0], r["bits_per_weight"]))
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
        [said, *(_show(value(result, "redundancy", "bits_per_weight", dataset=name, codec=codec), "{:.2f}")
                 for codec in codecs),
         _show(value(result, "redundancy", "matrices", dataset=name, codec="slimtensors balanced"), "{:.2f}")]
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
            rows.append([f"`{r['error_of']}`", f"{_decibels(r['nmse']):.2f}", _show(form, "{:g}"),
                         f"{r['bits_per_weight']:.2f}", _show(fast, "{:.2f}")])  # fmt: skip
    return table(["at the error of", "NMSE, dB", "the format's bits", "`slim`", "`slim-fast`"], rows)


def _decibels(nmse: float) -> float:
    return 10 * math.log10(nmse)


def outputs(result: Result) -> str:
    """Bits with which outputs move as little as with Q4_K."""

    def least(model: str, *ways: str) -> str:
        labels = {"model": model, "as_good_as": "q4_k"}
        seen = [value(result, "end_metric", "bits_per_weight", way=way, **labels) for way in ways]
        return _show(min((each for each in seen if each is not None), default=None), "{:.2f}")

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
        [name, *(_show(value(result, "quantised", "bits_per_weight", dataset=name, codec=codec), "{:.2f}")
                 for codec in codecs)]
        for name in names
    ]  # fmt: skip
    return table(["bits a weight, whole files", "there", "here", "`small`", "zstd-19"], rows)


def gpu(run: dict[str, Any]) -> str:
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
    return "\n\n".join(
        [
            f"{run['gpu']}, torch {run['torch']}; `{run['run']['command']}`, {run['run']['when']}, commit "
            f"{run['run']['commit'][:10]}. Copies: from pinned memory {rates['pinned copy']:.0f} GB/s, on the device "
            f"{rates['device copy']:.0f}. GB/s of decoded bytes; checked against the CPU's decoder, wrong: "
            f"{len(run['wrong'])}.",
            table(
                ["file", "stored", "kernels, all at once", "from pinned memory", "of the link's floor", "loaded"],
                loading,
            ),
            f"nvCOMP's ANS, BF16: {peers['nvCOMP ANS']['weights as <f2']['GB/s']:.0f} GB/s. A kernel's twin in CUDA "
            f"C++: {peers['CUDA C++ twin']['twin / ours']:.2f} of our time. `load_file` of a file in the page cache: "
            f"{1e3 * beside['ours s']:.0f} ms, safetensors {1e3 * beside['safetensors s']:.0f}.",
            f"Offloaded layers ({run['offloaded']['stored MB']:.0f} MB compressed): a forward pass, ms (over the time "
            "in which the link brings the compressed bytes).",
            table(["", "resident", "Accelerate", *(f"ours, {place}" for place in places)], layers),
        ]
    )


def plots() -> str:
    """The plots beside the newest result."""
    stem = report.newest()[0].stem
    names = [name for name in ("sizes", "speed", "training") if (report.RESULTS / f"{stem}-{name}.png").exists()]
    return "\n\n".join(f"![{name}]({stem}-{name}.png)" for name in names)
