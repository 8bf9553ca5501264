"""Links lead somewhere, headings after a # included."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages.reading import PAGES, ROOT, anchors, targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            linked = page if not name else page.parent / name
            assert linked.exists(), target
            assert not heading or heading in anchors(linked), target


def test_every_guide_is_reached_from_the_readme() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in targets(ROOT / "README.md")}
    assert {page for page in PAGES if "guide" in str(page)} <= linked
