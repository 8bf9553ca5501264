"""Pages quote results between `<!-- bench:begin NAME -->` and `<!-- bench:end -->`; bench.report fills them in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bench import report
from bench.blocks import gpu, guides, readme
from bench.query import Result

PAGES = ("README.md", "bench/results/README.md", "codec/guides/*.md", "hub/guide.md")
BEGIN = "<!-- bench:begin"
BLOCK = re.compile(rf"({BEGIN} ([a-z]+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[Result], str]] = {
    "compared": readme.compared,
    "chosen": readme.chosen,
    "missed": readme.missed,
    "presets": guides.presets,
    "tuned": guides.tuned,
    "found": guides.found,
    "formats": guides.formats,
    "own": guides.own,
    "outputs": guides.outputs,
    "packed": guides.packed,
    "sums": report.sums,
    "all": report.text,
    "gpu": lambda _result: gpu.tables(gpu.latest()),
    "plots": lambda _result: plots(),
}


def plots() -> str:
    """The plots beside the newest result."""
    stem = report.newest()[0].stem
    names = [name for name in ("sizes", "speed", "training") if (report.RESULTS / f"{stem}-{name}.png").exists()]
    return "\n\n".join(f"![{name}]({stem}-{name}.png)" for name in names)


def filled(page: str, result: Result) -> str:
    """A page with its tables made anew."""
    found, made = page.count(BEGIN), BLOCK.findall(page)
    if found != len(made):
        raise SystemExit(f"{found} places begin with {BEGIN}, {len(made)} of them are written as they should be")
    return BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]](result)}\n\n{block[3]}", page)


def of(root: Path) -> list[Path]:
    """The pages of a checkout."""
    return [path for name in PAGES for path in sorted(root.glob(name))]
