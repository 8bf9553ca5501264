"""Tables of README.md: sizes and decoding beside peers, what else people choose by, and how much is missed."""

from __future__ import annotations

from bench.blocks import DTYPES, gpu, show
from bench.query import Record, Result, records, value
from bench.report import machine_of, table
from bench.targets import TARGETS

ALL = "bench/results/README.md"


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
            [_bold(codec), *(show(each, "{:.1f}") for each in sizes),
             f"{decoding[0]['gbps']:.2f}" if len(decoding) == 1 else "", show(file)]
        )  # fmt: skip
    rows.append(["memory copied", *[""] * len(DTYPES), show(_memcpy(result)), ""])
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


def _machines(result: Result, *sections: str) -> str:
    """Which processor made which of these sections."""
    named: dict[str, list[str]] = {}
    for section in sections:
        if section in result["sections"]:
            named.setdefault(machine_of(result, section), []).append(f"`{section}`")
    return "; ".join(f"{', '.join(names)} on {machine}" for machine, names in named.items())


def chosen(result: Result) -> str:
    """The other lines that people choose by, unfavourable ones too."""
    lines = [[what, seen, f"`--only {section}`"] for what, seen, section in (*_small(result), *_fast(result))]
    return table(["", "", "`python -m bench.run`"], [*lines, *gpu.lines(gpu.latest())])


Line = tuple[str, str, str]  # what, seen, the section that measures it
OURS, BASED = {"codec": "slimtensors balanced"}, {"codec": "slimtensors balanced, base"}
TUNED = "finetuned-2e-5x160-bf16"


def _small(result: Result) -> list[Line]:
    def bits(dataset: str, field: str = "bits_per_weight", **labels: object) -> str:
        return show(value(result, "redundancy", field, dataset=dataset, **(labels or OURS)))

    def packed(name: str) -> str:
        there, here = (
            show(value(result, "quantised", "bits_per_weight", dataset=name, **codec))
            for codec in ({"codec": "as it is"}, OURS)
        )
        return f"{here} for {there}"

    slim, fast = (
        show(value(result, "from_floats", "bits_per_weight", recipe=recipe, error_of="q4_k"))
        for recipe in ("slim", "slim-fast")
    )
    checkpoint = value(result, "distributed", "percent", dataset="language-adamw", operation="size", **OURS)
    return [
        (
            "a fine-tune in BF16 as its difference from its base (2e-5, 160 steps)",
            f"{bits(TUNED, **BASED)}; ZipNN's delta {bits(TUNED, codec='zipnn delta')}",
            "redundancy",
        ),
        (
            "a LoRA of rank 8 or 16, merged, likewise",
            f"{bits('merged-r8-1-bf16', **BASED)}, {bits('merged-r16-1-bf16', **BASED)}",
            "redundancy",
        ),
        (
            "half or nine tenths pruned to zero, BF16, those matrices",
            f"{bits('minilm-pruned-each-50', 'matrices')}, {bits('minilm-pruned-each-90', 'matrices')}",
            "redundancy",
        ),
        (
            "NF4, or int4 with groups of 128, held in BF16",
            f"{bits('dequantised-nf4')}, {bits('dequantised-int4')}",
            "redundancy",
        ),
        (
            "GGUF files, given back as they were: Q4_0, Q4_K, Q8_0",
            f"{packed('Q4_0')}, {packed('Q4_K')}, {packed('Q8_0')}",
            "quantised",
        ),
        (
            "our own quantiser at the error of Q4_K, which takes 4.50",
            f"{slim}, without trellis {fast}",
            "from_floats",
        ),
        (
            "an AdamW checkpoint of a small language model, of its plain size",
            show(checkpoint, "{:.0f} %"),
            "distributed",
        ),
    ]


def _fast(result: Result) -> list[Line]:
    def of_zipnn(dataset: str, **labels: object) -> str:
        return show(value(result, "redundancy_speed", "of_zipnn", dataset=dataset, **labels))

    def seconds(operation: str, **labels: object) -> str:
        return show(value(result, "streaming", "seconds", operation=operation, mb_per_s=500, **labels), "{:.2f} s")

    def warm(**labels: object) -> str:
        found = value(result, "whole_file", "gbps", dataset="minilm-bf16", operation="load_file", **labels)
        return show(found, "{:.1f} GB/s")

    def loaded(operation: str, **labels: object) -> str:
        labels |= {"codec": "slimtensors", "operation": operation}
        return show(value(result, "transformers_load", "of_safetensors", **labels))

    def first(which: str) -> str:
        operation = f"first load, {which} kernel cache"
        return show(value(result, "startup", "seconds", codec="slimtensors", operation=operation), "{:.1f} s")

    decoded = f"whole files decoded in memory on {machine_of(result, 'redundancy_speed')}"
    plain = [of_zipnn("minilm-bf16", codec=f"slimtensors {preset}") for preset in ("balanced", "small")]
    return [
        (
            f"{decoded}, of ZipNN's speed: `balanced`, `small`, that fine-tune, half zeros",
            ", ".join([*plain, of_zipnn(TUNED, **BASED), of_zipnn("minilm-pruned-each-50", **OURS)]),
            "redundancy_speed",
        ),
        (
            "512 MiB loaded from 500 MB/s",
            f"{seconds('load_file', **OURS)}, plain {seconds('read and load', codec='safetensors')}",
            "streaming",
        ),
        (
            "from a warm page cache: `load_file`, two threads, all digests",
            f"{warm(threads=2, verify='full', **OURS)}, plain {warm(codec='safetensors')}",
            "whole_file",
        ),
        (
            "transformers' `from_pretrained` from 500 MB/s, of plain files' time",
            loaded("from a source", mb_per_s=500),
            "transformers_load",
        ),
        (
            "the same from a warm page cache, until all weights are in memory",
            f"**{loaded('in memory')}**",
            "transformers_load",
        ),
        (
            "bytes over the network, of what the Hub sends of plain BF16 (emulated)",
            show(value(result, "remote", "of_hub", dataset="minilm-bf16", codec="wire"), "{:.0f} %"),
            "remote",
        ),
        (
            "requests for one row of an embedding",
            show(value(result, "remote", "requests", part="row", **OURS), "{:.0f}"),
            "remote",
        ),
        (
            "first load ever on a machine (kernels are compiled), first of a process",
            f"{first('cold')}, {first('warm')}",
            "startup",
        ),
    ]


def missed(result: Result) -> str:
    """How many of the figures asked are missed."""
    verdicts = [target.verdict(target.seen(result)) for target in TARGETS if target.must]
    absent = verdicts.count("not measured")
    rest = f", {absent} not measured" if absent else ""
    return (
        f"**{verdicts.count('MISS')} of {len(verdicts)} figures that we set ourselves are missed**{rest}: "
        f"[which ones]({ALL}#asked-and-seen)."
    )
