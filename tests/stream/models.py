"""Small models of layers, for tests of what decodes them one by one."""

from __future__ import annotations

import torch


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


class Chain(torch.nn.Module):
    """Layers one after another, and a last one that stays."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers, self.last = torch.nn.ModuleList(layers), torch.nn.Linear(40, 40)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.last(x)
