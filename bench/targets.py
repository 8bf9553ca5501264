"""The figures asked of slimtensors, and whether a result meets them.

All speeds are ratios within one run on one machine. A figure that was not measured is
shown as such; it is never a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.query import Result, value

Figure = Callable[[Result], "float | None"]


@dataclass(frozen=True)
class Target:
    """One figure: `seen` finds it in a result; lower is better for sizes and waits, higher for ratios of speed."""

    name: str
    seen: Figure
    must: float
    aim: float | None = None
    unit: str = "x"
    lower: bool = False

    def meets(self, seen: float, asked: float) -> bool:
        return seen <= asked if self.lower else seen >= asked

    def verdict(self, seen: float | None) -> str:
        if seen is None:
            return "not measured"
        if not self.meets(seen, self.must):
            return "MISS"
        return "pass" if self.aim is None or not self.meets(seen, self.aim) else "pass, aim met"


def _divide(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _percent(dataset: str, preset: str) -> Figure:
    return lambda result: value(result, "sizes", "percent", dataset=dataset, codec=f"slimtensors {preset}")


def _against(section: str, preset: str, operation: str, peer: str = "zipnn", **labels: object) -> Figure:
    """Our GB/s over the peer's, one thread, BF16, the peer without anything we leave out."""

    def seen(result: Result) -> float | None:
        common = {"dataset": "minilm-bf16", "operation": operation, "threads": 1} | labels
        mine = {"codec": f"slimtensors {preset}", "verify": "none"}
        if operation == "encode":
            mine["self_check"] = False  # type: ignore[assignment] # a label may be a bool
        return _divide(
            value(result, section, "gbps", **common, **mine), value(result, section, "gbps", **common, codec=peer)
        )

    return seen


def _alone(preset: str, operation: str) -> Figure:
    """Our codec without container and digests over ZipNN, which makes none."""

    def seen(result: Result) -> float | None:
        common = {"dataset": "minilm-bf16", "threads": 1}
        ours = {"codec": f"slimtensors {preset}", "operation": f"{operation}, codec alone"}
        mine = value(result, "speed", "gbps", **common, **ours)
        return _divide(mine, value(result, "speed", "gbps", **common, codec="zipnn", operation=operation))

    return seen


def _of_memcpy(preset: str) -> Figure:
    def seen(result: Result) -> float | None:
        common = {"dataset": "minilm-bf16", "operation": "decode fresh"}
        mine = value(result, "speed", "gbps", **common, codec=f"slimtensors {preset}", threads=1, verify="none")
        share = _divide(mine, value(result, "speed", "gbps", **common, codec="memcpy"))
        return None if share is None else 100 * share

    return seen


def _scaling(operation: str) -> Figure:
    def seen(result: Result) -> float | None:
        labels = {"dataset": "minilm-bf16", "codec": "slimtensors balanced", "operation": operation, "verify": "none"}
        if operation == "encode":
            labels["self_check"] = False  # type: ignore[assignment] # a label may be a bool
        two, one = (value(result, "threads", "gbps", **labels, threads=n) for n in (2, 1))
        return _divide(two, one)

    return seen


def _whole_load(dataset: str) -> Figure:
    def seen(result: Result) -> float | None:
        labels = {"dataset": dataset, "threads": 2}
        codec = "slimtensors balanced"
        mine = value(result, "whole_file", "gbps", **labels, codec=codec, operation="load_file", verify="full")
        return _divide(mine, value(result, "whole_file", "gbps", **labels, codec="zipnn", operation="decode alone"))

    return seen


def _wait(operation: str) -> Figure:
    return lambda result: value(result, "startup", "seconds", codec="slimtensors", operation=operation)


def _streaming(rate: int) -> Figure:
    def seen(result: Result) -> float | None:
        labels = {"codec": "slimtensors balanced", "operation": "load_file", "mb_per_s": rate}
        share = value(result, "streaming", "efficiency", **labels)
        return None if share is None else 100 * share

    return seen


def _offloaded(workload: str) -> Figure:
    labels = {"workload": workload, "operation": "offloaded", "omp": "active"}
    return lambda result: value(result, "offload", "of_max", **labels)


def _compressed(workload: str) -> Figure:
    return lambda result: value(result, "compressed_layers", "of_file", operation="peak", workload=workload)


def _over(part: str) -> Figure:
    return lambda result: value(result, "remote", "over", codec="slimtensors balanced", part=part)


def _row_requests(result: Result) -> float | None:
    return value(result, "remote", "requests", codec="slimtensors balanced", part="row")


def _gain(what: str, mbit: int) -> Figure:
    return lambda result: value(result, "remote", f"{what}_gain", codec="slimtensors balanced", mbit=mbit)


def _of_hub(dataset: str) -> Figure:
    return lambda result: value(result, "remote", "of_hub", codec="wire", dataset=dataset)


def _loaded(operation: str, **labels: object) -> Figure:
    wanted = {"operation": operation, "codec": "slimtensors"} | labels
    return lambda result: value(result, "transformers_load", "of_safetensors", **wanted)


def _checkpoint(dataset: str, preset: str) -> Figure:
    labels = {"dataset": dataset, "codec": f"slimtensors {preset}", "operation": "size"}
    return lambda result: value(result, "distributed", "percent", **labels)


def _of_stock(operation: str) -> Figure:
    """Until `async_save` returns, over the plain writer."""

    def seen(result: Result) -> float | None:
        ours, stock = (
            value(result, "distributed", "seconds", operation=operation, threads=1, codec=codec)
            for codec in ("slimtensors balanced", "stock")
        )
        return _divide(ours, stock)

    return seen


def _of_zstandard(result: Result) -> float | None:
    labels = {"operation": "save", "threads": 1, "dataset": "language-adamw"}
    ours = value(result, "distributed", "least", codec="slimtensors balanced", self_check=False, **labels)
    return _divide(value(result, "distributed", "least", codec="stock, ZStandard", **labels), ours)


def _durable(result: Result) -> float | None:
    return value(result, "distributed", "over_size", operation="durable", codec="slimtensors balanced")


def _eight_of_one(result: Result) -> float | None:
    return _divide(*(_wait(f"{what}, cold kernel cache")(result) for what in ("8 first loads", "first load")))


def _size(name: str, dataset: str, preset: str, must: float) -> Target:
    return Target(f"size {name}, {preset}", _percent(dataset, preset), must, unit="%", lower=True)


def _bits(dataset: str, field: str = "bits_per_weight", base: bool = False) -> Figure:
    """The smaller of our presets' figures, since the smallest is asked."""

    def seen(result: Result) -> float | None:
        codecs = (f"slimtensors {preset}{', base' * base}" for preset in ("balanced", "small"))
        found = [value(result, "redundancy", field, dataset=dataset, codec=codec) for codec in codecs]
        return min((each for each in found if each is not None), default=None)

    return seen


def _asked(name: str, dataset: str, must: float, field: str = "bits_per_weight", base: bool = False) -> Target:
    return Target(name, _bits(dataset, field, base), must, unit=" b", lower=True)


def _redundant(dataset: str, codec: str) -> Figure:
    return lambda result: value(result, "redundancy_speed", "of_zipnn", dataset=dataset, codec=f"slimtensors {codec}")


def _own(name: str, must: float) -> Target:
    def seen(result: Result) -> float | None:
        return value(result, "from_floats", "bits_per_weight", recipe="slim", error_of=name.lower())

    return Target(f"quantised at the error of {name}, bits a weight", seen, must, unit=" b", lower=True)


def _own_decoded(codec: str, must: float) -> Target:
    def seen(result: Result) -> float | None:
        return value(result, "from_floats_speed", "of_zipnn", dataset="gauss-bf16", codec=codec)

    return Target(f"{codec} decoded, of ZipNN's BF16", seen, must)


def _as_good(model: str, said: str, ways: tuple[str, ...], must: float) -> Target:
    def seen(result: Result) -> float | None:
        labels = {"model": model, "as_good_as": "q4_k"}
        found = [value(result, "end_metric", "bits_per_weight", way=way, **labels) for way in ways]
        return min((each for each in found if each is not None), default=None)

    return Target(f"{model}, outputs as near as with Q4_K, {said}, bits a weight", seen, must, unit=" b", lower=True)


def _quantised(name: str, must: float, preset: str = "balanced") -> Target:
    def seen(result: Result) -> float | None:
        return value(result, "quantised", "bits_per_weight", dataset=name, codec=f"slimtensors {preset}")

    return Target(f"{name}, stored again, {preset}", seen, must, unit=" b", lower=True)


TARGETS = [
    _size("BF16", "minilm-bf16", "fast", 66.5),
    _size("BF16", "minilm-bf16", "balanced", 66.0),
    _size("FP16", "minilm-f16", "balanced", 84.7),
    _size("FP32", "minilm-f32", "balanced", 81.8),
    _size("FP8 E4M3", "minilm-e4m3", "balanced", 82.0),
    _size("BF16", "minilm-bf16", "small", 65.3),
    _size("FP16", "minilm-f16", "small", 84.3),
    _size("FP32", "minilm-f32", "small", 81.4),
    _size("FP8 E4M3", "minilm-e4m3", "small", 81.5),
    _asked("fine-tune 2e-5 x160, BF16, whole", "finetuned-2e-5x160-bf16", 1.20, base=True),
    _asked("fine-tune 2e-5 x160, BF16, encoder matrices", "finetuned-2e-5x160-bf16", 2.2, "matrices", base=True),
    _asked("fine-tune of the small language model, BF16, 2e-5", "language-ft-2e-5-bf16", 4.5, base=True),
    _asked("merged LoRA r8, BF16", "merged-r8-1-bf16", 0.5, base=True),
    _asked("merged LoRA r16, BF16", "merged-r16-1-bf16", 0.5, base=True),
    _asked("1 % of weights changed, BF16", "changed-bf16", 0.25, base=True),
    _asked("int8 rows in FP32", "dequantised-int8", 7.3),
    _asked("int4 group 128 in BF16", "dequantised-int4", 3.5),
    _asked("NF4 in BF16", "dequantised-nf4", 4.2),
    _asked("ternary in BF16", "dequantised-ternary", 1.7),
    _asked("pruned 50 %, BF16, matrices", "minilm-pruned-each-50", 5.6, "matrices"),
    _asked("pruned 70 %, BF16, matrices", "minilm-pruned-each-70", 3.5, "matrices"),
    _asked("pruned 90 %, BF16, matrices", "minilm-pruned-each-90", 1.3, "matrices"),
    _asked("pruned 2:4, BF16, matrices", "minilm-pruned-2of4", 6.3, "matrices"),
    _asked("AdamW checkpoint, bits a weight of 112", "language-adamw", 77.5),
    _own("Q8_0", 7.55),
    _own("Q4_0", 3.6),
    _own("Q4_K", 3.85),
    _own("NF4", 3.5),
    _own("NVFP4", 3.5),
    _own("MXFP4", 3.2),
    _own_decoded("slim-fast", 1.5),
    _own_decoded("slim", 0.8),
    *(
        _as_good(model, said, ways, must)
        for model in ("minilm", "language model")
        for said, ways, must in (
            ("without data", ("one step", "one error"), 3.85),
            ("with importance", ("importance",), 3.4),
        )
    ),
    _as_good("minilm", "without data, small", ("one error, small",), 3.85),
    _quantised("Q4_0", 4.10),
    _quantised("Q8_0", 8.0),
    _quantised("MXFP4", 3.95),
    _quantised("NVFP4", 4.2),
    _quantised("NF4, scales of 8 bits", 3.95),
    _quantised("int4, groups of 128", 3.40),
    _quantised("int8 rows", 7.2),
    _quantised("NVFP4", 4.2, "small"),
    _quantised("NF4, scales of 8 bits", 3.95, "small"),
    _quantised("int4, groups of 128", 3.40, "small"),
    Target("decode, classes (small), of ZipNN's", _redundant("minilm-bf16", "small"), 2),
    Target("decode, classes alone (small), of ZipNN's", _redundant("minilm-bf16, classes alone", "small"), 2),
    Target(
        "decode, means of rank 1 to 16 (small), of ZipNN's",
        _redundant("minilm-bf16, means of rank 1 to 16", "small"), 1.3,
    ),
    Target("decode, fine-tune 2e-5, of ZipNN's", _redundant("finetuned-2e-5x160-bf16", "balanced, base"), 1.5),
    Target("decode, small language model's, of ZipNN's", _redundant("language-ft-2e-5-bf16", "balanced, base"), 1.5),
    Target("decode, merged LoRA, of ZipNN's", _redundant("merged-r8-1-bf16", "balanced, base"), 1.5),
    Target("decode, pruned 50 %, of ZipNN's", _redundant("minilm-pruned-each-50", "balanced"), 2),
    Target("decode fresh, fast, of ZipNN's", _against("speed", "fast", "decode fresh"), 2.8),
    Target("decode fresh, balanced, of ZipNN's", _against("speed", "balanced", "decode fresh"), 2.3),
    Target("decode fresh, fast, of memcpy's", _of_memcpy("fast"), 0, 60, unit="%"),
    Target("decode fresh, balanced, of memcpy's", _of_memcpy("balanced"), 0, 60, unit="%"),
    Target("encode, balanced, of ZipNN's", _against("speed", "balanced", "encode"), 2.5, 4),
    Target("encode, balanced, codec alone, of ZipNN's", _alone("balanced", "encode"), 2.5, 4),
    Target("decode fresh, FP16, of ZipNN's", _against("speed", "balanced", "decode fresh", dataset="minilm-f16"), 2),
    Target("decode fresh, FP32, of ZipNN's", _against("speed", "balanced", "decode fresh", dataset="minilm-f32"), 2),
    Target("decode fresh, two threads of one", _scaling("decode fresh"), 1.6, 1.9),
    Target("decode warm, two threads of one", _scaling("decode warm"), 1.6, 1.9),
    Target("encode, two threads of one", _scaling("encode"), 1.6, 1.9),
    Target("AVX2 decode, fast, of ZipNN's", _against("isa", "fast", "decode fresh", leg="avx2"), 2.0, 3),
    Target("AVX2 decode, balanced, of ZipNN's", _against("isa", "balanced", "decode fresh", leg="avx2"), 2.0, 3),
    Target("portable decode, fast, of ZipNN's", _against("isa", "fast", "decode fresh", leg="portable"), 1.1, 1.5),
    Target(
        "portable decode, balanced, of ZipNN's", _against("isa", "balanced", "decode fresh", leg="portable"), 1.1, 1.5
    ),
    Target("load_file, 2 threads, verify full, of ZipNN's decode (45 MB)", _whole_load("minilm-bf16"), 1.5, 2.5),
    Target("load_file, 2 threads, verify full, of ZipNN's decode (512 MiB)", _whole_load("big-512m"), 1.5, 2.5),
    *(Target(f"load from {rate} MB/s, of that rate", _streaming(rate), 95, unit="%") for rate in (100, 500, 2000)),
    *(
        Target(f"offloaded, {workload}, of max(compute, decode)", _offloaded(workload), 1.15, lower=True)
        for workload in ("batch 1", "batch 16", "prefill 512")
    ),
    *(
        Target(
            f"weights that stay compressed, {workload}: memory but for the largest, of the file",
            _compressed(workload),
            1.1,
            unit="x",
            lower=True,
        )
        for workload in ("batch 1", "batch 16")
    ),
    Target("by range: requests for a row of an embedding", _row_requests, 3, unit="", lower=True),
    *(
        Target(f"by range: {part}, bytes above its own", _over(part), 2, unit="%", lower=True)
        for part in ("layer", "whole", "fine-tune, base cached")
    ),
    *(
        Target(f"by range at {mbit} Mbit/s: {said}, gain of the size ratio", _gain(what, mbit), 0.95)
        for mbit in (50, 1000)
        for what, said in (("first", "first tensor"), ("whole", "whole model"))
    ),
    *(
        Target(f"bytes of those that the Hub sends (emulated), {name}", _of_hub(dataset), 0, 100, unit="%", lower=True)
        for name, dataset in (("BF16", "minilm-bf16"), ("FP16", "minilm-f16"), ("FP32", "minilm-f32"))
    ),
    *(
        Target(f"transformers, warm page cache: {said}, of safetensors", _loaded(operation), 1.3, lower=True)
        for operation, said in (("returned", "from_pretrained returns"), ("in memory", "weights in memory"))
    ),
    *(
        Target(f"transformers, {rate} MB/s, of safetensors", _loaded("from a source", mb_per_s=rate), 1, lower=True)
        for rate in (250, 500, 1000)
    ),
    *(
        Target(f"checkpoint {dataset}, {preset}", _checkpoint(dataset, preset), must, unit="%", lower=True)
        for dataset in ("language-adamw", "minilm-adamw")
        for preset, must in (("balanced", 70), ("small", 69))
    ),
    Target("async_save returns, of stock DCP's", _of_stock("async_save returns"), 1.05, lower=True),
    Target("checkpoint saved, speed of DCP's ZStandard", _of_zstandard, 2),
    Target("checkpoint durable in a slow store, over its size's share", _durable, 1.05, lower=True),
    Target("import slimtensors", _wait("import"), 0.15, unit=" s", lower=True),
    Target("inspect, warm kernel cache", _wait("inspect, warm kernel cache"), 0.5, unit=" s", lower=True),
    Target("8 first loads at once, of one", _eight_of_one, 1.5, unit="x", lower=True),
    Target("first load ever on a machine", _wait("first load, cold kernel cache"), 6, unit=" s", lower=True),
]
