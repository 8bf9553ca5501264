"""GGUF files as gguf-py writes them: MiniLM's tensors quantised by it, and blocks of the types that it only reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.numpy import load_file

Array = npt.NDArray[Any]

# What gguf-py turns into numbers, blocks of bits apart from plain floats.
TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
]  # fmt: skip
MADE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]  # and what it makes of numbers
WEIGHTS = "encoder.layer.0.intermediate.dense.weight"  # 1536 rows of 384
LONG_ROWS = "encoder.layer.0.output.dense.weight"  # 384 rows of 1536


@cache
def weights(model: Path, name: str = LONG_ROWS) -> Array:
    return load_file(model)[name].astype(np.float32)


def packed(model: Path, kind: str, rows: int = 384) -> Array:
    """uint8[rows, bytes]: MiniLM's weights where gguf-py can quantise them, else blocks of plausible bytes."""
    number = GGMLQuantizationType[kind]
    if kind in MADE:
        return gguf.quants.quantize(weights(model)[:rows], number)
    size = GGML_QUANT_SIZES[number][1]
    return blocks(kind, rows * 1536 // GGML_QUANT_SIZES[number][0]).reshape(rows, -1, size).reshape(rows, -1)


def blocks(kind: str, count: int, seed: int = 0) -> Array:
    """uint8[count, bytes of a block]: bits that are not uniform."""
    rng = np.random.default_rng([seed, GGMLQuantizationType[kind]])
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    return (rng.integers(0, 256, (count, size)) & rng.integers(0, 256, (count, size))).astype(np.uint8)


def write(path: Path, tensors: Mapping[str, tuple[Array, str]], *, metadata: bool = True, alignment: int = 0) -> Path:
    """A file of these tensors; an array of bytes is of the type named, others are what they are."""
    writer = gguf.GGUFWriter(path, "bert")
    if alignment:
        writer.add_custom_alignment(alignment)
    if metadata:
        writer.add_name("made for a test")
        writer.add_context_length(512)
        writer.add_token_list(["[PAD]", "été", "\U0001f600", *map(str, range(500))])
        writer.add_token_scores([0.5] * 503)
        writer.add_array("nested.is_not", [True, False])
        writer.add_chat_template("{{ messages }}" * 1000)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=GGMLQuantizationType[kind] if kind else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
