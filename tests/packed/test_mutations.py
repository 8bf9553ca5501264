"""Packed weights with parts, metadata or config of other shapes, dtypes and values: numbers, or a clear error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import slimtensors
from packed.made import (
    CONFIG,
    METADATA,
    Arrays,
    ao_float8,
    ao_int8,
    ao_mx,
    ao_nvfp4,
    aqlm,
    awq,
    bitnet,
    four_bits,
    gptq,
    hqq,
    numbers_of,
    sparse,
    words,
)

MAKERS: list[Callable[[], Arrays]] = [
    four_bits, words, gptq, awq, hqq, sparse, bitnet, ao_int8, ao_float8, ao_mx, partial(ao_mx, True),
    partial(ao_nvfp4, True), aqlm,
]  # fmt: skip
DTYPES = [
    np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_, ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e8m0fnu,
]  # fmt: skip
VALUES = [None, 0, -1, 3, 1 << 70, 1.5, "x", "float8_e4m3fn", [], [1, 1], [0, 0, 0], {}, {"_data": "float16"}, True]


def another(array: Any, chance: random.Random) -> Any:
    """An array of another shape or dtype."""
    given = np.asarray(array)
    sizes = tuple(chance.choice([1, 2, 3, 4, 8]) for _ in range(chance.randrange(5)))
    return chance.choice([
        lambda: given.reshape(-1),
        lambda: np.zeros(sizes, given.dtype),
        lambda: given.astype(np.float32).astype(chance.choice(DTYPES)),
        lambda: np.zeros(chance.choice([(0,), (1 << 40, 0), (0, 3)]), given.dtype),
        lambda: np.expand_dims(given, chance.randrange(given.ndim + 1)),
        lambda: given[:-1] if given.ndim else given,
    ])()  # fmt: skip


def change(made: Arrays, chance: random.Random) -> None:
    name = chance.choice(list(made))
    if name == METADATA:
        state = json.loads(made[METADATA]["w.weight"])
        values = chance.choice([state, state["_data"]])
        values[chance.choice(list(values))] = chance.choice([*VALUES, "Int8Tensor", "MXTensor"])
        made[METADATA]["w.weight"] = json.dumps(state)
    elif name == CONFIG:
        made[CONFIG][chance.choice(list(made[CONFIG]))] = chance.choice(VALUES)
    else:
        made[name] = another(made[name], chance)


@pytest.mark.filterwarnings("ignore:.*encountered in cast")  # of what the mutation converts
@pytest.mark.parametrize("make", MAKERS)
def test_mutations(make: Callable[[], Arrays], tmp_path: Path) -> None:
    chance, refused = random.Random(6), 0
    for _ in range(15):
        made = make()
        for _ in range(chance.randrange(1, 3)):
            change(made, chance)
        try:
            numbers_of(made, tmp_path, chance.choice(["F32", "F16", "BF16"]))
        except slimtensors.UsageError as error:
            refused += "without dequantise" in str(error)
    assert refused
