"""The quantisers by name."""

from __future__ import annotations

import numpy as np

from slimtensors.errors import UsageError
from slimtensors.quantise import blocks
from slimtensors.quantise.quantiser import Quantiser

__all__ = ["RECIPES", "quantiser_of"]

_ALL: list[Quantiser] = [
    blocks.Blocks("q8_0", 32, np.arange(-127, 128).astype(np.int8), blocks.q8_0, tail=13),
]
RECIPES = {each.name: each for each in _ALL}


def quantiser_of(name: str) -> Quantiser:
    """Raises UsageError for a name that there is not."""
    found = RECIPES.get(name)
    if found is None:
        raise UsageError(f"unknown quantisation {name!r:.80}; available: {', '.join(RECIPES)}")
    return found
