"""README, the guides and other pages of ours, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["GUIDES", "PAGES", "ROOT", "Snippet", "anchors", "snippets", "targets"]

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "codec" / "guides").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CHANGELOG.md", "bench/README.md", "bench/results/README.md")),
    *(ROOT / name for name in ("codec/README.md", "codec/slimtensors/kernels/README.md")),
    *(ROOT / name for name in ("hub/README.md", "hub/guide.md", "format_spec/README.md")),
    *GUIDES,
    *sorted((ROOT / "codec" / "decisions").glob("*.md")),
    ROOT / "hub" / "decisions.md",
]


class Snippet(NamedTuple):
    heading: str
    language: str
    code: str


def snippets(page: Path) -> list[Snippet]:
    """Every fenced block, with the heading that it stands under."""
    heading, found, fence = "", list[Snippet](), None
    for line in page.read_text().splitlines():
        if fence is None and line.startswith("```"):
            fence, lines = line.removeprefix("```"), list[str]()
        elif fence is not None and line == "```":
            found.append(Snippet(heading, fence, "\n".join(lines) + "\n"))
            fence = None
        elif fence is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert fence is None, f"{page}: a block without its end"
    return found


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links may name after a #: headings, as renderers of Markdown spell them."""
    found = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def targets(page: Path) -> list[str]:
    """What a page links to."""
    return re.findall(r"\]\(([^)\s]+)\)", _prose(page))
