"""Layers whose weights stay compressed on a device: the runner stands in for it, and torch computes in its memory."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

from gpu.backend import Runner
from slimtensors.errors import ChecksumError, UsageError
from slimtensors.offload import hooks, keep_compressed, offload
from slimtensors.torch import save_file, save_model


class Small(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.words = torch.nn.Embedding(90, 24)
        self.up, self.down = torch.nn.Linear(24, 40), torch.nn.Linear(40, 24)
        self.eval()

    def forward(self, x):
        return self.down(self.up(self.words(x)).relu())


class Counting(Runner):
    """Counts bytes that come from the host, and breaks the decoding of one turn."""

    def __init__(self, breaks=0):
        super().__init__(1 << 22)
        self.uploaded, self._breaks, self._turn = 0, breaks, 0

    def upload(self, data):
        self.uploaded += data.size
        return super().upload(data)

    def launch(self, kernel, blocks, buffers):
        if kernel.startswith("decode"):
            self._turn += 1
            if self._turn == self._breaks:
                return
        super().launch(kernel, blocks, buffers)


def compressed(folder, monkeypatch, backend):
    """(plain, with weights on the device, what holds them)"""
    monkeypatch.setattr("slimtensors.planning.building.PACK_TENSOR_BYTES", 2048)
    monkeypatch.setattr("slimtensors.planning.chunking.CHUNK_BYTES", 4096)
    monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
    plain, model = Small(0), Small(1)
    save_model(plain, folder / "x")
    return plain, model, keep_compressed(model, folder / "x")


def test_outputs_and_gradients(tmp_path, monkeypatch):
    backend = Counting()
    plain, model, held = compressed(tmp_path, monkeypatch, backend)
    x = torch.tensor([[3, 80, 3], [0, 89, 41]])
    assert torch.equal(model(x), plain(x))
    first, backend.uploaded = backend.uploaded, 0
    assert torch.equal(model(x), plain(x))
    stays = plain.up.weight.nbytes + plain.down.weight.nbytes
    assert first - backend.uploaded > 0.6 * stays  # work lists and the embedding's chunks come again
    given, ours = (torch.ones(2, 24, requires_grad=True) for _ in range(2))
    plain.up(given).sum().backward()
    model.up(ours).sum().backward()
    assert torch.equal(given.grad, ours.grad)
    assert torch.equal(model.down.weight, plain.down.weight)
    assert model.words(torch.empty(0, dtype=torch.int64)).shape == (0, 24)
    with pytest.raises(UsageError, match="cannot become"):
        model.half()
    twin = copy.deepcopy(model)
    twin.down.bias.data += 1
    assert torch.allclose(twin(x), model(x) + 1)  # its own layers
    assert list(inspect.signature(model.forward).parameters) == ["x"]
    held.close()
    assert "forward" not in vars(model)


@pytest.mark.parametrize("turn", [2, 3])
def test_no_output_before_the_verdict(tmp_path, monkeypatch, turn):
    """The embedding comes first."""
    backend = Counting(turn)
    plain, model, held = compressed(tmp_path, monkeypatch, backend)
    x = torch.arange(90)
    with pytest.raises(ChecksumError, match=r"'(up|down)\.weight', chunk 0: the CPU decodes it, the GPU does not"):
        model(x)
    assert torch.equal(model(x), plain(x))
    held.close()


def test_a_layer_by_itself_is_checked_at_its_end(tmp_path, monkeypatch):
    backend = Counting(1)
    plain, model, held = compressed(tmp_path, monkeypatch, backend)
    with pytest.raises(ChecksumError, match=r"'up\.weight', chunk 0"):
        model.up(torch.ones(24))
    assert torch.equal(model.up(torch.ones(24)), plain.up(torch.ones(24)))
    held.close()


class Moved(Small):
    """Writes down where it is sent, and stays."""

    def __init__(self, seed):
        super().__init__(seed)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(24, 24) for _ in range(3))
        self.norm = torch.nn.LayerNorm(24)
        self.places = []

    def to(self, place):
        self.places.append(place)
        return self


@pytest.mark.parametrize("opened", [keep_compressed, offload])
def test_after_an_error_a_model_comes_back_from_the_device(tmp_path, monkeypatch, opened):
    backend = Counting()
    monkeypatch.setattr(hooks, "why_cpu", lambda _device: None)
    monkeypatch.setattr(hooks, "backend_for", lambda _device: backend)
    model, state = Moved(0), Moved(1).state_dict()
    state["norm.weight"] = torch.randn(24)
    save_file(state, tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[data.index(state["norm.weight"].numpy().tobytes()[:16])] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ChecksumError):
        opened(model, tmp_path / "x", device="cuda")
    assert model.places == ["cuda", "cpu"]
    del state["norm.bias"]
    save_file(state, tmp_path / "y")
    with pytest.raises(UsageError, match="lack"):
        opened(model, tmp_path / "y", device="cuda")
    assert model.places == ["cuda", "cpu"], "nor is it moved for what can be known before"
