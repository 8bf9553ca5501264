"""Layers that take turns in two buffers: the same outputs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slimtensors
from slimtensors.offload import offload
from slimtensors.torch import save_model


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(200)
        self.up = torch.nn.Linear(200, 700)
        self.down = torch.nn.Linear(700, 200, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Model(torch.nn.Module):
    def __init__(self, layers: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(300, 200)
        self.layers = torch.nn.ModuleList(Block() for _ in range(layers))
        self.head = torch.nn.Linear(200, 300, bias=False)
        self.head.weight = self.embedding.weight
        self.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


TOKENS = torch.arange(60).reshape(2, 30)


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_the_same_outputs_bit_for_bit(tmp_path: Path, layers: int) -> None:
    model, other = Model(layers), Model(layers, 1)
    other.layers.to("meta")  # never in memory
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")
    with torch.no_grad():
        for tokens in (TOKENS, TOKENS + 5, TOKENS):
            assert torch.equal(other(tokens), model(tokens))
        assert torch.equal(other.layers[1](torch.ones(1, 200)), model.layers[1](torch.ones(1, 200)))  # out of turn
        assert torch.equal(other(TOKENS), model(TOKENS))
    for i, layer in enumerate(other.layers):  # two buffers, whatever the number of layers
        places = [parameter.data_ptr() for parameter in layer.parameters()]
        assert places == [parameter.data_ptr() for parameter in other.layers[i % 2].parameters()]
    held.close()


def test_what_is_refused(tmp_path: Path) -> None:
    save_model(Model(3), tmp_path / "x")
    model = Model(3, 1)
    held = offload(model, tmp_path / "x")
    with pytest.raises(slimtensors.UsageError, match="no_grad"):
        model(TOKENS)
    with torch.no_grad(), pytest.raises(slimtensors.UsageError, match="eval"):
        model.train()(TOKENS)
    with pytest.raises(slimtensors.UsageError, match="no state"):
        model.state_dict()
    with pytest.raises(slimtensors.UsageError, match="moved"):
        model.double()
    held.close()
    shared, smaller = Model(3), Model(3)
    shared.layers[2].up.weight = shared.layers[0].up.weight
    smaller.layers[1].up = torch.nn.Linear(200, 600)
    for wrong, message in ((shared, "shared"), (smaller, r"layers\.1\.up"), (torch.nn.Linear(2, 2), "ModuleList")):
        with pytest.raises(slimtensors.UsageError, match=message):
            offload(wrong, tmp_path / "x")
    with pytest.raises(slimtensors.UsageError, match="CPU only"):
        offload(Model(3), tmp_path / "x", device="cuda")


def test_damage_is_raised_in_the_forward_that_needs_the_layer(tmp_path: Path) -> None:
    save_model(Model(4), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    model = Model(4, 1)
    half = next(i for i in range(len(data) * 2 // 3, len(data)) if data[i])
    data[half] ^= 1
    held = offload(model, bytes(data))
    with torch.no_grad(), pytest.raises(slimtensors.ChecksumError, match=r"layers\.\d\."):
        model(TOKENS)
    held.close()
