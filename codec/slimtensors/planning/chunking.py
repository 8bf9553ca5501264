"""How many of a tensor's units make a chunk."""

from __future__ import annotations

import math

from slimtensors.dtypes import DType
from slimtensors.limits import BLOCK_BYTES, BLOCK_UNITS, CHUNK_BYTES

__all__ = ["chunk_units", "table_chunk"]

TALL = 4  # times as many rows as columns, from where on a matrix is taken for a table of rows


def chunk_units(units: int, dtype: DType, most: int | None = None) -> int:
    """Units of a chunk: as few chunks of up to `most` bytes (CHUNK_BYTES) as can be, all of about one length."""
    limit = (CHUNK_BYTES if most is None else most) // dtype.unit_bytes
    chunks = -(-units // limit)
    each = -(-units // chunks)
    return units if chunks == 1 else min(limit, -(-each // 512) * 512)


def table_chunk(shape: tuple[int, ...], dtype: DType) -> int:
    """Units of a chunk of a table of which single rows are wanted, such as an embedding: whole rows, in four blocks,
    which decode in step; fewer take more room. 0: it is no table, or its rows do not fit.
    """
    if len(shape) != 2 or shape[0] <= TALL * shape[1]:
        return 0
    row = math.prod(shape[1:])
    limit, step = 4 * max(BLOCK_BYTES // dtype.unit_bytes, BLOCK_UNITS), math.lcm(row, 512)
    chunks = -(-shape[0] * row // limit)
    each = -(-shape[0] * row // chunks)
    return min(-(-each // step), limit // step) * step if chunks > 1 else 0
