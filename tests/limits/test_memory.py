"""The peak of memory does not grow with the file."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file as save_safetensors

import slimtensors
from faults import processes
from slimtensors.numpy import load_file, save_file
from slimtensors.reading import tensors

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
    given = {f"t{i}": np.tile(block, SIZE // 4 // block.nbytes) for i in range(4)}
    for i, tensor in enumerate(given.values()):
        tensor[i] = i  # so that none is equal to another
    save_safetensors(given, tmp_path / "source")
    del given
    for name, made in processes.run(SCRIPT, tmp_path, 2, timeout=300).items():
        assert made["ended"] == "ok", (name, made)
        assert made["mebibytes"] < 128, (name, made)
    assert (tmp_path / "back").stat().st_size == (tmp_path / "source").stat().st_size
    for path in tmp_path.iterdir():
        path.unlink()


def test_side_planes_are_let_go_and_made_again(tmp_path, monkeypatch):
    """With room for two tensors' they are made again for nearly every chunk, by whichever thread needs them."""
    rng = np.random.default_rng(2)
    arrays = {f"t{i}": rng.normal(size=(1200, 1000)).astype(ml_dtypes.bfloat16) for i in range(5)}
    for array in arrays.values():
        array *= 2.0 ** rng.integers(-4, 4, (1200, 1))
    save_file(arrays, tmp_path / "model", preset="small")
    monkeypatch.setattr(tensors, "KEPT_SIDES", 1)
    for threads in (1, 4):
        slimtensors.verify(tmp_path / "model", threads=threads)
        found = load_file(tmp_path / "model", threads=threads)
        assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
        with slimtensors.safe_open(tmp_path / "model", threads=threads) as file:
            for row in (0, 700, 1199, 5):
                for name, array in arrays.items():
                    assert file.get_slice(name)[row].tobytes() == array[row].tobytes()
            assert len(file._file._sides) == 2
