"""The peak of memory does not grow with the file."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file as save_safetensors

from faults import processes

SIZE = 512 << 20
SCRIPT = """
import json, sys, time
from pathlib import Path
from faults.measured import measure, warm_up
import slimtensors
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
warm_up(folder)
source, path, back = folder / "source", folder / "model", folder / "back"
made = {
    "compress": measure(lambda: slimtensors.compress(source, path, threads=threads, durable=False)),
    "verify": measure(lambda: slimtensors.verify(path, threads=threads)),
    "decompress": measure(lambda: slimtensors.decompress(path, back, threads=threads, durable=False)),
}
print(json.dumps(made))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_a_large_file_takes_a_few_chunks_per_thread(tmp_path):
    block = np.random.default_rng(1).normal(size=1 << 23).astype(np.float32).view(np.uint32) >> 16
    block = block.astype(np.uint16).view(np.float16)  # as BF16 is distributed
    tensors = {f"t{i}": np.tile(block, SIZE // 4 // block.nbytes) for i in range(4)}
    for i, tensor in enumerate(tensors.values()):
        tensor[i] = i  # so that none is equal to another
    save_safetensors(tensors, tmp_path / "source")
    del tensors
    for name, made in processes.run(SCRIPT, tmp_path, 2, timeout=300).items():
        assert made["ended"] == "ok", (name, made)
        assert made["mebibytes"] < 128, (name, made)
    assert (tmp_path / "back").stat().st_size == (tmp_path / "source").stat().st_size
    for path in tmp_path.iterdir():
        path.unlink()
