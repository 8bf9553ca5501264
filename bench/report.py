"""python -m bench.report [RESULT.json ...] [--readme README.md] [--plots]: results as Markdown tables and plots."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.query import Record, Result, absent, records, value
from bench.targets import TARGETS

RESULTS = Path(__file__).parent / "results"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column to the left and the others to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def _grid(found: list[Record], down: str, across: str, show: Any) -> str:
    """Records as a table of one label against another; a cell without a record stays empty."""
    columns = list(dict.fromkeys(record[across] for record in found))
    cells = {(record[down], record[across]): show(record) for record in found}
    rows = [[row] + [cells.get((row, c), "") for c in columns] for row in dict.fromkeys(r[down] for r in found)]
    return table([down, *map(str, columns)], rows)


def targets(result: Result) -> str:
    """Seen, asked, pass or miss."""
    rows = []
    for target in TARGETS:
        seen = target.seen(result)
        digits = 3 if target.unit == "%" else 2
        shown = "-" if seen is None else f"{seen:.{digits}f}{target.unit}"
        sign = "<=" if target.lower else ">="
        must = f"{sign} {target.must:g}{target.unit}" if target.must else "-"
        aim = f"{sign} {target.aim:g}{target.unit}" if target.aim is not None else "-"
        verdict = (
            target.verdict(seen) if target.must or seen is None else _aim_only(target.meets(seen, target.aim or 0))
        )
        rows.append([target.name, shown, must, aim, verdict])
    return table(["figure", "seen", "must", "aim", ""], rows)


def _aim_only(met: bool) -> str:
    return "aim met" if met else "aim missed"


def sizes(result: Result) -> str:
    found = list(records(result, "sizes"))
    note = "Per cent of the safetensors file, and bits per weight. Round trip checked bit for bit."
    rules = sorted({f"{r['codec']}: {r['rule']}" for r in found if r["rule"] != "file"})
    grid = _grid(found, "codec", "dataset", lambda r: f"{r['percent']:.2f} % ({r['bits_per_weight']:.3f} b)")
    return f"{note} Rule of counting: whole files, except {'; '.join(rules)}.\n\n{grid}"


def _operation(record: Record) -> str:
    """What was timed; what is not said was off."""
    verify = record.get("verify", "none")
    extra = [] if verify == "none" else [f"verify {verify}"]
    extra += ["self-check"] if record.get("self_check") else []
    return ", ".join([record["operation"], *extra])


def speeds(result: Result, section: str, title: str) -> str:
    """GB/s of uncompressed bytes, one table for each dataset or leg: codecs down, operations across."""
    cells = "A cell is GB/s, median, and half the range of the samples."
    checks = "No data is verified and no encoder checks itself unless a column says so; our encoder makes its digests."
    parts = [f"{title} {cells} {checks}"]
    groups = dict.fromkeys((r["dataset"], r.get("leg", "")) for r in records(result, section))
    for dataset, leg in groups:
        found = [
            {"codec": _codec(r), "operation": _operation(r), "cell": f"{r['gbps']:.2f} ±{_spread(r)}"}
            for r in records(result, section, dataset=dataset)
            if r.get("leg", "") == leg
        ]
        grid = _grid(found, "codec", "operation", lambda r: r["cell"])
        parts.append(f"**{dataset}{', ' + leg if leg else ''}**\n\n{grid}")
    return "\n\n".join(parts)


def _codec(record: Record) -> str:
    ratio = f", {record['ratio']:.4f}x" if "ratio" in record else ""
    threads = f", {record['threads']} thr" if record.get("threads", 1) > 1 else ""
    return record["codec"] + threads + ratio


def _spread(record: Record) -> str:
    """Half the range between the fastest and the slowest sample, of the median."""
    samples = record["samples"]
    return f"{50 * (max(samples) - min(samples)) / record['seconds']:.0f} %"


def startup(result: Result) -> str:
    rows = [[r["codec"], r["operation"], f"{r['seconds']:.3f}", _spread(r)] for r in records(result, "startup")]
    return "Wall time in seconds; `import` inside the interpreter, the others as whole processes.\n\n" + table(
        ["codec", "what", "s", "spread"], rows
    )


def memory(result: Result) -> str:
    rows = [
        [r["operation"], str(r["threads"]), f"{r['peak_mib']:.0f}", f"{r['imports_mib']:.0f}"]
        for r in records(result, "memory")
    ]
    return "Peak MiB on a 2 GiB file, above an interpreter with the same imports (last column).\n\n" + table(
        ["operation", "threads", "MiB", "imports alone"], rows
    )


def small(result: Result) -> str:
    return _grid(list(records(result, "small")), "codec", "dataset", lambda r: f"{r['bytes']:,} B")


def redundancy(result: Result) -> str:
    note = "Bits per weight, whole files without the base; optimiser state is counted to the weights it belongs to."
    grid = _grid(list(records(result, "redundancy")), "dataset", "codec", lambda r: f"{r['bits_per_weight']:.3f}")
    based = [
        r for r in records(result, "redundancy") if r.get("effort") is not None and r.get("differences") is not None
    ]
    rows = [
        [r["dataset"], f"{r['effort']:.4g}", f"{r['bits_per_weight']:.3f}", f"{100 * r['differences']:.0f} %"]
        for r in sorted(based, key=lambda r: (r["dataset"].split("-")[0], r["effort"]))
        if r["codec"] == "slimtensors balanced, base" and r["dataset"].endswith("-bf16")
    ]
    shares = table(["", "learning rate x steps", "bits per weight", "of the weights as differences"], rows)
    return f"{note}\n\n{grid}\n\nWhere a difference would be larger, the tensor is stored without the base:\n\n{shares}"


def quantised(result: Result) -> str:
    note = (
        "Bits per weight of MiniLM's encoder matrices, whole files. Q4_K, Q5_K, Q6_K, NVFP4 and what is no GGUF are "
        "made by plain rules (`bench/data/quantised.py`), the rest by gguf-py."
    )
    grid = _grid(list(records(result, "quantised")), "dataset", "codec", lambda r: f"{r['bits_per_weight']:.3f}")
    return f"{note}\n\n{grid}"


def from_floats(result: Result) -> str:
    note = (
        "MiniLM's encoder matrices (of q4_k: those with rows of whole blocks) from F32, whole files; one thread, "
        "processor time, from file to file, without the self-check."
    )
    rows = [
        [r["recipe"], f"{r['format_bits']:.3f}", f"{r['bits_per_weight']:.3f}",
         f"{100 * r['bits_per_weight'] / r['format_bits']:.1f} %", f"{r['nmse']:.3g}",
         f"{r['nmse_gguf_py']:.3g}" if "nmse_gguf_py" in r else "", f"{r['encode_mb_per_s']:.0f}"]
        for r in records(result, "from_floats") if "format_bits" in r
    ]  # fmt: skip
    columns = ["recipe", "format's own bits", "ours", "", "NMSE", "gguf-py's", "MB/s"]
    own = [r for r in records(result, "from_floats") if "error_of" in r]
    equal = _grid(own, "error_of", "recipe", lambda r: f"{r['bits_per_weight']:.3f} at {r['nmse']:.3g}")
    return f"{note}\n\n{table(columns, rows)}\n\nOur own quantiser, asked for that error (bits, NMSE):\n\n{equal}"


def from_floats_speed(result: Result) -> str:
    """Our own quantiser's files beside ZipNN's decode of the weights."""
    note = "Decoding from memory, BF16, one thread, processor time: GB/s of weights (best sample over ZipNN's best)."
    found = [r for r in records(result, "from_floats_speed") if "of_zipnn" in r]
    cells = _grid(found, "dataset", "codec", lambda r: f"{r['gbps']:.2f} ({r['of_zipnn']:.2f}x)")
    return f"{note}\n\n{cells}"


def sums(result: Result) -> str:
    note = (
        "MiniLM's encoder matrices as quantised differences of a fine-tune from it, whole files; the error is a share "
        "of the squares of what differs."
    )
    rows = [
        [r["of"], r["dtype"], r["recipe"], f"{r['bits_per_weight']:.3f}", f"{r['nmse_of_difference']:.3f}"]
        for r in records(result, "sums") if "nmse_of_difference" in r
    ]  # fmt: skip
    beside = [
        [r["recipe"], f"{r['bits_per_weight']:.3f}", f"{r['nmse']:.4f}", f"{r['slim_bits']:.3f}"]
        for r in records(result, "sums") if "slim_bits" in r
    ]  # fmt: skip
    return (
        f"{note}\n\n{table(['fine-tune', 'dtype', 'recipe', 'bits', 'NMSE'], rows)}\n\n"
        f"From F32:\n\n{table(['recipe', 'bits', 'NMSE', 'slim at that error'], beside)}"
    )


def end_metric(result: Result) -> str:
    note = (
        "What quantising does to outputs: MiniLM's embeddings of our sentences (1 - cosine), predictions of the small "
        "language model on held-out code (Kullback-Leibler divergence in nats a token; loss), and bits a weight with "
        "which ours does as much, between measured points. `q4_k` on MiniLM: blocks across rows. Importance is from "
        "other texts."
    )
    rows = []
    for r in records(result, "end_metric"):
        if "format_bits" in r:
            equal = [
                value(result, "end_metric", "bits_per_weight", model=r["model"], way=way, as_good_as=r["recipe"])
                for way in ("one error", "one error, small", "one step", "importance")
            ]
            rows.append(
                [f"{r['model']}, {r['recipe']}", f"{r['format_bits']:.2f}", f"{r['bits_per_weight']:.2f}",
                 f"{r['change']:.3g}", f"{r['loss']:.4f}" if "loss" in r else "",
                 *("" if each is None else f"{each:.2f}" for each in equal)]
            )  # fmt: skip
        elif r["recipe"] == "as it is" and "loss" in r:
            rows.append([f"{r['model']}, as it is", "", "", "0", f"{r['loss']:.4f}", "", "", "", ""])
    columns = [
        "", "format's own bits", "ours", "change", "loss", "slim, one error for all", "in `small`",
        "one step for all", "importance",
    ]  # fmt: skip
    return f"{note}\n\n{table(columns, rows)}"


def machine_of(result: Result, section: str) -> str:
    """Which processor made a section."""
    found: str = result["sections"][section]["machine"]
    return found.split(", ")[0] + ")"


def redundancy_speed(result: Result) -> str:
    """Ours beside ZipNN's plain decode of the same file."""
    note = (
        "Decoding whole files from memory, one thread, GB/s (best sample over ZipNN's best in the same run, on "
        f"{machine_of(result, 'redundancy_speed')}; Speed has medians, of a run of its own)."
    )
    found = list(records(result, "redundancy_speed"))
    plain = {record["beside"] + record["dataset"]: record for record in found if record["codec"] == "zipnn"}
    rows = [
        [r["dataset"], r["codec"], f"{r['gbps']:.2f}", f"{plain[r['beside'] + r['dataset']]['gbps']:.2f}",
         f"{r['of_zipnn']:.2f}x"]
        for r in found if r["codec"] != "zipnn"
    ]  # fmt: skip
    return f"{note}\n\n{table(['file', 'codec', 'GB/s', 'ZipNN', ''], rows)}"


def compressed_layers(result: Result) -> str:
    found = list(records(result, "compressed_layers"))
    note = (
        "Wall time of a forward pass, two threads. Memory: what is held beyond the largest weight, activations too, "
        "over the size of the file."
    )
    rows = [
        [r["workload"], r["operation"], f"{r['seconds']:.3f}", f"{r['of_resident']:.2f}"]
        for r in found
        if "seconds" in r
    ]
    peaks = [
        [
            r["workload"],
            f"{r['above_mib']:.0f}",
            f"{r['largest_mib']:.0f}",
            f"{r['file_mib']:.0f}",
            f"{r['of_file']:.2f}",
        ]
        for r in found
        if r.get("operation") == "peak"
    ]
    return (
        f"{note}\n\n{table(['', '', 's', 'of resident'], rows)}\n\n"
        f"{table(['', 'peak, MiB', 'largest weight', 'file', 'of the file'], peaks)}"
    )


def offload(result: Result) -> str:
    found = list(records(result, "offload"))
    note = (
        "Wall time of a forward pass, two threads; computing and decoding each alone beside it. Active: torch's "
        "threads spin while they wait, as they do unless OMP_WAIT_POLICY=passive."
    )
    rows = [
        [
            r["workload"], r["omp"], r["operation"], f"{r['seconds']:.3f}",
            *(f"{r[share]:.2f}" if share in r else "" for share in ("of_max", "of_sum")),
        ]
        for r in found if "seconds" in r
    ]  # fmt: skip
    parts = ("above", "buffers", "resident", "file")
    peaks = [
        [r["workload"], r["host"], *(f"{r[f'{part}_mib']:.0f}" for part in parts)]
        for r in found
        if r.get("operation") == "peak"
    ]
    return (
        f"{note}\n\n{table(['', 'OpenMP', '', 's', 'of the longer', 'of the sum'], rows)}\n\n"
        f"Peak memory, MiB, and what is in it:\n\n{table(['', 'bytes in', *parts], peaks)}"
    )


def streaming(result: Result) -> str:
    note = (
        "Wall time, two threads; per cent of what the source could give in that time, and of the longer of that and "
        "decoding alone."
    )
    loads = [r for r in records(result, "streaming") if "seconds" in r]
    rows = [
        [
            f"{r['codec']} {r['operation']}", str(r["mb_per_s"]), f"{r['seconds']:.2f}",
            *(f"{100 * r[share]:.1f}" if share in r else "" for share in ("efficiency", "of_bound")),
        ]
        for r in loads
    ]  # fmt: skip
    models = [[r["codec"], f"{r['above_mib']:.0f}"] for r in records(result, "streaming", operation="load_model")]
    return (
        f"{note}\n\n{table(['', 'MB/s', 's', '%', '% of bound'], rows)}\n\n"
        f"Peak memory of loading a model beside the model itself:\n\n{table(['load_model', 'MiB'], models)}"
    )


def remote(result: Result) -> str:
    note = (
        "From a hub on localhost. Requests and bytes as the server counts them; its own: prefix, header, index, table "
        "and the chunks that hold the part. Times: the least of the samples, 10 ms before each answer; gain: against "
        "plain safetensors read the same way, over the size ratio. The Hub's own saving is emulated (its chunks, byte "
        "grouping and LZ4)."
    )
    parts = [
        [r["part"], r["dataset"], str(r["requests"]), f"{r['bytes']:,}", f"{r['own']:,}", f"{r['over']:.2f} %"]
        for r in records(result, "remote")
        if "part" in r
    ]
    times = [
        [
            f"{r['mbit']} Mbit/s", r["dataset"], r["codec"], f"{r['first']:.2f}", f"{r['whole']:.2f}",
            *(f"{r[gain]:.2f}" if r["codec"] != "safetensors" else "" for gain in ("first_gain", "whole_gain")),
        ]
        for r in records(result, "remote") if "mbit" in r
    ]  # fmt: skip
    wire = [
        [r["dataset"], f"{r['hub_percent']:.1f} %", f"{r['percent']:.1f} %", f"{r['of_hub']:.1f} %"]
        for r in records(result, "remote", codec="wire")
    ]
    return "\n\n".join(
        [
            note,
            table(["part", "file", "requests", "bytes", "its own", "above"], parts),
            table(["link", "file", "", "first tensor, s", "whole, s", "gain", "gain, whole"], times),
            table(["file", "the Hub sends", "ours", "ours of the Hub's"], wire),
        ]
    )


def transformers_load(result: Result) -> str:
    note = (
        "Seconds until a model of some 500 MB in BF16 is there, two cores. transformers maps plain files and reads "
        "nothing until weights are used: `in memory` touches them."
    )
    rows = [
        [r["operation"] + (f", {r['mb_per_s']} MB/s" if "mb_per_s" in r else ""), r["codec"], f"{r['seconds']:.2f}",
         f"{r['of_safetensors']:.2f}x"]
        for r in records(result, "transformers_load")
    ]  # fmt: skip
    return f"{note}\n\n{table(['', 'file', 's', 'of safetensors'], rows)}"


def distributed(result: Result) -> str:
    """Checkpoints of torch.distributed.checkpoint, ours beside stock."""
    found = list(records(result, "distributed"))
    note = (
        "Saves: processor time of one thread, or wall time where `async_save` or a store of 50 MB/s is measured; "
        "least sample. Sizes: per cent of the tensors' bytes."
    )
    times = [
        [r["codec"] + (", self-check" if r.get("self_check") else ""), r["operation"], str(r["threads"]),
         f"{r.get('least', min(r['samples'])):.3f}"]
        for r in found if r["operation"] in ("save", "async_save returns", "durable")
    ]  # fmt: skip
    sized = _grid([r for r in found if r["operation"] == "size"], "codec", "dataset", lambda r: f"{r['percent']:.1f} %")
    return f"{note}\n\n{table(['', '', 'threads', 's'], times)}\n\n{sized}"


def merged(results: list[Result]) -> Result:
    """Each section from the first result that has it; a section is one run on one machine."""
    sections: dict[str, Any] = {}
    for result in results:
        for name, section in result["sections"].items():
            sections.setdefault(name, {**section, "machine": _machine(result["machine"])})
    return {**results[0], "sections": sections}


def _machine(machine: dict[str, Any]) -> str:
    cpu = machine["cpu"]
    return (
        f"{cpu['model']} ({cpu['family_model']}{', virtual machine' if cpu['virtual'] == 'True' else ''}), "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"governor {machine['governor']}, transparent huge pages {machine['transparent_hugepages']}"
    )


def provenance(result: Result) -> str:
    """Machine, versions, commands, loads: no number without them."""
    lines, before = [], ""
    seen: dict[str, list[str]] = {}
    for name, section in sorted(result["sections"].items(), key=lambda item: str(item[1]["machine"])):
        if section["machine"] != before:
            before = section["machine"]
            lines.append(f"- On {before}:")
        versions = ", ".join(f"{package} {version}" for package, version in section["versions"].items())
        seen.setdefault(versions, []).append(name)
        dirty = ", uncommitted changes" if section["changed_files"] else ""
        lines.append(
            f"  - {name}: `{section['command']}`, {section['when']}, commit {section['commit'][:10]}{dirty}, load "
            f"{section['load_average_before'][0]} -> {section['load_average_after'][0]}"
        )
    lines += [f"- versions ({', '.join(names)}): {versions}" for versions, names in seen.items()]
    return "\n".join(lines)


def text(result: Result) -> str:
    """Everything measured, as Markdown."""
    speed_rule = (
        "One thread, pinned, process CPU time; uncompressed GB/s, median. `decode fresh` allocates its output; "
        "`encode` is net of `prepare` (ZipNN overwrites its input and so needs a copy)."
    )
    sections: dict[str, tuple[str, Any]] = {
        "sizes": ("Sizes", sizes),
        "speed": ("Speed", lambda r: speeds(r, "speed", speed_rule)),
        "threads": ("Two threads", lambda r: speeds(r, "threads", "Wall time, not pinned.")),
        "isa": ("Instruction sets", lambda r: speeds(r, "isa", "One CPU, our code paths restricted; CPU time.")),
        "whole_file": ("Whole files", lambda r: speeds(r, "whole_file", "Wall time, page cache warm.")),
        "startup": ("Start-up", startup),
        "memory": ("Memory", memory),
        "small": ("Many small tensors", small),
        "redundancy": ("Redundancy", redundancy),
        "redundancy_speed": ("Redundancy: decoding", redundancy_speed),
        "streaming": ("Slow sources", streaming),
        "offload": ("Offloaded layers", offload),
        "compressed_layers": ("Layers that stay compressed", compressed_layers),
        "remote": ("By range", remote),
        "transformers_load": ("transformers", transformers_load),
        "quantised": ("Quantised files", quantised),
        "from_floats": ("Quantised from floats", from_floats),
        "from_floats_speed": ("Quantised from floats, decoded", from_floats_speed),
        "sums": ("Sums", sums),
        "end_metric": ("Quantised: outputs", end_metric),
        "distributed": ("Checkpoints", distributed),
    }
    parts = ["## Asked and seen", targets(result)]
    for name, (title, render) in sections.items():
        if any(records(result, name)):
            parts += [f"## {title}", render(result)]
    missing = absent(result)
    if missing:
        parts += ["## Not run", "\n".join(f"- {codec}: {reason}" for codec, reason in missing.items())]
    return "\n\n".join([*parts, "## Made on", provenance(result)])


def newest() -> tuple[Path, Result]:
    """The newest result's place, and each section from the newest that has it."""
    paths = sorted(RESULTS.glob("*.json"), reverse=True)
    return paths[0], merged([json.loads(path.read_text()) for path in paths])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "result", nargs="*", type=Path, help="each section from the first that has it; default: the newest first"
    )
    parser.add_argument("--readme", type=Path, help="write tables between the markers of it and the pages it leads to")
    parser.add_argument("--plots", action="store_true", help="draw the plots beside the result")
    arguments = parser.parse_args()
    path, result = newest()
    if arguments.result:
        path, result = arguments.result[0], merged([json.loads(each.read_text()) for each in arguments.result])
    if arguments.plots:  # first: pages show what there is
        from bench.plots import draw

        draw(result, path)
    if arguments.readme:
        from bench import pages

        for page in pages.of(arguments.readme.resolve().parent):
            page.write_text(pages.filled(page.read_text(), result))
    if not (arguments.readme or arguments.plots):
        print(text(result))


if __name__ == "__main__":
    main()
