"""The GPU's digests of decoded bytes, in the runner."""

from __future__ import annotations

import numpy as np
import xxhash

from gpu.chunks import read_only
from gpu.lockstep import Cuda, Fresh, Types, device, launch
from slimtensors.kernels.cpu.xxh3 import ROWS
from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.digest import make_digest


def test_as_xxhash_has_them():
    data = np.random.default_rng(0).integers(0, 1 << 64, 8 + 3 * rows.PIECE_WORDS, np.uint64)
    items = np.array([8, 0, 2, 1, 8 + 2 * rows.PIECE_WORDS, 0, 1, 0], np.uint32)
    cuda, digests = Cuda(), np.zeros(3, np.uint64)
    body = make_digest(cuda, Types, device)
    launch(cuda, body, 2, rows.THREADS, read_only(data), read_only(items), read_only(ROWS), Fresh(digests))
    pieces = data[8:].reshape(3, -1)
    expected = [xxhash.xxh3_64_intdigest(pieces[i].tobytes()) for i in (2, 0, 1)]
    assert digests.tolist() == expected
