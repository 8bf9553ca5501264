"""Pages that say where things are name every file and folder there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages.reading import ROOT

NAMED_ROOMS = ["bases", "files", "on_torch", "planning", "reading", "sources", "writing"]
KERNELS = "codec/slimtensors/kernels"
ROOMS = {
    "codec/README.md": ["codec/slimtensors/*", *(f"codec/slimtensors/{room}/*.py" for room in NAMED_ROOMS)],
    "hub/README.md": ["hub/slimtensors_hub/*", "hub/slimtensors_hub/*/*"],
    f"{KERNELS}/README.md": [f"{KERNELS}/*.py", f"{KERNELS}/*/*.py"],
}
UNNAMED = {"__init__.py", "__pycache__", "py.typed"}


@pytest.mark.parametrize("page", ROOMS)
def test_nothing_is_without_a_line(page: str) -> None:
    text = (ROOT / page).read_text()
    names = {path.name: path for room in ROOMS[page] for path in ROOT.glob(room) if UNNAMED.isdisjoint(path.parts)}
    assert len(names) > 10
    # A name stands by itself: `codes.py` is not told of by a line about find_codes.py.
    words = {word.strip("`,;/|()").rpartition("/")[2] for word in text.split()}
    assert sorted(str(path.relative_to(ROOT)) for name, path in names.items() if Path(name).name not in words) == []
