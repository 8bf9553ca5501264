"""python -m bench.run [--only sizes,speed] [--repeats 7] [--out FILE]: measures, and merges into one JSON file."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.sections import Settings

SECTIONS = (
    "sizes", "speed", "threads", "isa", "whole_file", "startup", "memory", "small", "redundancy",
    "redundancy_speed", "streaming", "offload", "compressed_layers", "distributed", "remote",
    "transformers_load", "quantised", "from_floats", "from_floats_speed", "sums", "end_metric",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
SCHEMA = 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--repeats", type=int, default=7, help="samples behind each median")
    parser.add_argument("--mib", type=int, default=128, help="size of the arrays; less than 128 is for trying out")
    parser.add_argument("--core", type=int, default=0, help="core that one-thread work is pinned to")
    parser.add_argument("--out", type=Path, help="default: bench/results/<date>-<cpu>.json")
    chosen = parser.parse_args()
    chosen.sections = chosen.only.split(",")
    unknown = set(chosen.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    return chosen


def measure(section: str, settings: Settings) -> dict[str, Any]:
    """One section, with what its numbers were made on."""
    found: dict[str, Any] = machine.stamp(sys.argv[1:]) | {"versions": machine.versions()}
    begin = time.perf_counter()
    records = importlib.import_module(f"bench.sections.{section}").run(settings)
    return found | {
        "took_seconds": round(time.perf_counter() - begin, 1),
        "load_average_after": [round(x, 2) for x in os.getloadavg()],
        "records": records,
    }


def main() -> None:
    arguments = _arguments()
    settings = Settings(arguments.repeats, arguments.mib, arguments.core)
    here = machine.describe()
    out = (
        arguments.out or RESULTS / f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}-{machine.slug(here)}.json"
    )
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"schema": SCHEMA, "sections": {}}
    if result.get("machine", {}).get("cpu", {}).get("model") not in (None, here["cpu"]["model"]):
        raise SystemExit(f"{out} was made on another machine; give another --out")
    result["machine"] = here
    for section in arguments.sections:
        print(f"{section} ...", file=sys.stderr, flush=True)
        result["sections"][section] = measure(section, settings)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(report.text(report.merged([result])))
    print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
