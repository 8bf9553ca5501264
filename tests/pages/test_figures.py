"""Figures in pages are those of bench/results: `python -m bench.report --readme README.md` writes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench.pages import filled, of
from bench.report import newest

from pages.reading import ROOT


@pytest.mark.parametrize("page", of(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text()
    assert text == filled(text, newest()[1]), "stale: python -m bench.report --readme README.md"


def test_misses_are_counted_where_people_look() -> None:
    table = (ROOT / "bench/results/README.md").read_text()
    stated = re.search(r"\*\*(\d+) of \d+ figures", (ROOT / "README.md").read_text())
    assert stated is not None
    assert int(stated[1]) == table.count("| MISS |") > 0


def test_a_block_without_its_end_is_no_page() -> None:
    with pytest.raises(SystemExit, match="1 places"):
        filled("<!-- bench:begin own -->\n", newest()[1])
