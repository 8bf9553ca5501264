"""Pages that quote results: tables between `<!-- bench:begin NAME -->` and `<!-- bench:end -->`, made anew by bench.report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bench import blocks, report
from bench.query import Result

PAGES = ("README.md", "bench/results/README.md", "codec/guides/*.md", "hub/guide.md")
BEGIN = "<!-- bench:begin"
BLOCK = re.compile(rf"({BEGIN} ([a-z]+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[Result], str]] = {
    "compared": blocks.compared, "chosen": blocks.chosen, "missed": blocks.missed, "presets": blocks.presets,
    "tuned": blocks.tuned, "found": blocks.found, "formats": blocks.formats, "own": blocks.own,
    "outputs": blocks.outputs, "packed": blocks.packed, "sums": report.sums, "all": report.text,
    "gpu": lambda _result: blocks.gpu(blocks.latest_gpu()), "plots": lambda _result: blocks.plots(),
}  # fmt: skip


def filled(page: str, result: Result) -> str:
    """A page with its tables made anew."""
    found, made = page.count(BEGIN), BLOCK.findall(page)
    if found != len(made):
        raise SystemExit(f"{found} places begin with {BEGIN}, {len(made)} of them are written as they should be")
    return BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]](result)}\n\n{block[3]}", page)


def of(root: Path) -> list[Path]:
    """The pages of a checkout."""
    return [path for name in PAGES for path in sorted(root.glob(name))]
