"""Segments of real encoded chunks, and decoding them by the GPU's kernels in the runner."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.expression import Bits
from slimtensors.kernels.cpu import worklist
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import Layout, make_decode
from slimtensors.kernels.cuda.plain import make_plain
from slimtensors.kernels.status import OK

UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class WorkList(NamedTuple):
    items: np.ndarray
    block_rows: np.ndarray
    tables: np.ndarray
    plain: np.ndarray
    becomes: np.ndarray


def read_only(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def segment_of(chunks: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(chunks), np.uint8).copy()


def list_work(segment: np.ndarray, chunks: list[tuple[int, int, int, int]], bits: Bits, unit_bytes: int) -> WorkList:
    """The work of chunks (first byte, length, units, first unit out)."""
    plan = np.array([unit_bytes, bits.rotate, len(bits.widths), *bits.widths], np.int64)
    items, block_rows, plain = (np.zeros(4096, np.uint32) for _ in range(3))
    tables, used = np.zeros(256 * 64, np.uint16), np.zeros(worklist.LISTS, np.int64)
    becomes, scratch = np.zeros(len(chunks), np.uint8), np.zeros(1000, np.int64)
    ends = np.zeros(len(chunks), np.int64)
    asked = np.array(chunks, np.int64).reshape(-1)
    status = worklist.list_chunks(segment, asked, plan, items, block_rows, tables, plain, used, scratch, becomes, ends)
    assert status == OK
    counts = used.tolist()
    return WorkList(
        read_only(items[: rows.ITEM * counts[0]]),
        read_only(block_rows[: rows.BLOCK_ROW * counts[1]]),
        read_only(tables[: 256 * counts[2]]),
        read_only(plain[: rows.PLAIN_ITEM * counts[3]]),
        becomes,
    )


def decode(segment: np.ndarray, work: WorkList, layout: Layout, out: np.ndarray, order=None) -> np.ndarray:
    """Run the kernels; returns the items' statuses."""
    cuda = Cuda()
    segment = read_only(segment)
    items = work.items.size // rows.ITEM
    status = np.zeros(items, np.uint32)
    views = (segment, segment.view(np.uint16), segment.view(np.uint32))
    body = make_decode(cuda, Types, device, layout)
    launch(
        cuda, body, items, rows.CODER_THREADS, *views, work.items, work.block_rows, work.tables, Fresh(out), status,
        order=order,
    )  # fmt: skip
    plain = work.plain.size // rows.PLAIN_ITEM
    body = make_plain(cuda, Types, device)
    launch(cuda, body, plain, rows.THREADS, segment.view(UNITS[layout.unit_bytes]), work.plain, Fresh(out))
    return status
