"""Weights in memory that can only be read, of which neither torch nor an array's flags may know: before, a signal."""

from __future__ import annotations

import sys

import pytest

from faults import processes

SCRIPT = """
import ctypes, json, mmap, sys, tempfile, warnings
import numpy as np, torch
import torch.distributed.checkpoint as dcp
import slimtensors.numpy, slimtensors.torch
from slimtensors.container import system
from slimtensors.torch.distributed import StorageReader, StorageWriter

folder, system._MAPPINGS = sys.argv[1:]
warnings.filterwarnings("ignore", "The given buffer is not writable")
warnings.filterwarnings("ignore", "torch.distributed is")
base = {"u": torch.randn(300, 300), "w": torch.randn(300, 300)}
moved = {name: tensor * 1.001 for name, tensor in base.items()}
data = slimtensors.torch.save(moved, base=base)
file = tempfile.TemporaryFile()
file.write(bytes(4096) + base["w"].numpy().tobytes() + bytes(4096))
file.flush()

def mapped(access):
    return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=access), dtype=torch.float32)[1024:91024].view(300, 300)

def module(tensors):
    made = torch.nn.Module()
    for name, tensor in tensors.items():
        made.register_parameter(name, torch.nn.Parameter(tensor))
    return made

def arrays(tensors):  # of these NumPy believes that they can be written to
    places = {name: (ctypes.c_float * 90000).from_address(tensor.data_ptr()) for name, tensor in tensors.items()}
    return {name: np.frombuffer(place, np.float32).reshape(300, 300) for name, place in places.items()}

def hooked(tensors):
    made = module(tensors)
    made.register_load_state_dict_post_hook(lambda *_: None)
    return made

double = slimtensors.torch.save({name: tensor.double() for name, tensor in moved.items()})
plain = slimtensors.torch.save(moved)
dcp.save(moved, storage_writer=StorageWriter(folder), no_dist=True)
ways = {
    "apply_delta": lambda to: slimtensors.torch.apply_delta(data, to),
    "columns": lambda to: slimtensors.torch.apply_delta(turned, {name: tensor.t() for name, tensor in to.items()}),
    "of a module": lambda to: slimtensors.torch.apply_delta(data, module(to)),
    "of arrays": lambda to: slimtensors.numpy.apply_delta(data, arrays(to)),
    "load_model": lambda to: slimtensors.torch.load_model(module(to), plain),
    "of another dtype": lambda to: slimtensors.torch.load_model(module(to), double),
    "by load_state_dict": lambda to: slimtensors.torch.load_model(hooked(to), plain),
    "checkpoint": lambda to: dcp.load(dict(to), storage_reader=StorageReader(folder), no_dist=True),
}
turned = slimtensors.torch.save(
    {name: tensor.t() for name, tensor in moved.items()}, base={name: tensor.t() for name, tensor in base.items()}
)
said = {}
for way, call in ways.items():
    live = {"u": base["u"].clone(), "w": mapped(mmap.ACCESS_READ)}
    try: call(live)
    except BaseException as error: said[way] = str(error).strip()  # DCP's are no Exceptions
    assert torch.equal(live["u"], base["u"]), way
    live["w"] = mapped(mmap.ACCESS_COPY)  # a file, too, but writable
    call(live)
    assert all(torch.equal(live[name], tensor) for name, tensor in moved.items()), way
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="which byte of a mapping is written to may be another one there")
@pytest.mark.parametrize("mappings", ["/proc/self/maps", "/nonexistent"])
def test_refused_before_anything_is_changed(mappings: str, tmp_path: object) -> None:
    """Also where the system does not list what is mapped."""
    said = processes.run(SCRIPT, tmp_path, mappings)
    assert len(said) == 8
    for way, words in said.items():
        assert "tensor 'w' lies in memory that can only be read" in words, way
        assert words.endswith("nothing was changed") is (way != "checkpoint"), words
