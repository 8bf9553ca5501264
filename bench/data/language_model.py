"""python -m bench.data.language_model: a byte-level transformer of 3.4 million weights, trained on source code.

| file                                    | content                                                               |
|-----------------------------------------|-----------------------------------------------------------------------|
| language-<step>-f32, -bf16              | its weights at the steps of CHAIN: 1, 10 and 100 steps before the last |
| language-adamw                          | the last step as a trainer saves it: `model.*` BF16, and in F32       |
|                                         | `master.*`, `exp_avg.*`, `exp_avg_sq.*`                               |
| language-ft-<rate>-f32, -bf16           | the last step, fine-tuned on the standard library's tests; at the     |
|                                         | highest rates until nothing is left of it                             |

AdamW, betas 0.9 and 0.95, decay 0.1, cosine to a tenth; in FP32, on one thread.
"""

from __future__ import annotations

import math
import sys

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # its own name everywhere
from torch import nn

from bench.data import text
from bench.data.files import CACHE
from bench.data.safefile import SafeFile, Spec, write

WIDTH, LAYERS, HEADS, CONTEXT, BYTES = 256, 4, 4, 128, 256
STEPS, RATE, BATCH, WARM_UP = 600, 1.5e-3, 16, 50
CHAIN = (STEPS - 100, STEPS - 10, STEPS - 1, STEPS)
TUNE_STEPS, TUNE_RATES = 150, ("2e-5", "1e-4", "1e-3", "1e-2", "5e-2")

Weights = dict[str, np.ndarray]


class Block(nn.Module):
    """Attention and a feed-forward net, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            part.view(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.attention(self.attention_norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.feed_norm(x))))


class LanguageModel(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(BYTES, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, BYTES, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("attention_out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if deep else 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Windows:
    """Random windows of a text, the same ones for the same seed."""

    def __init__(self, source: bytes, seed: int) -> None:
        self.bytes = torch.frombuffer(bytearray(source), dtype=torch.uint8)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> torch.Tensor:
        begins = torch.randint(0, len(self.bytes) - CONTEXT - 1, (BATCH,), generator=self.generator)
        return torch.stack([self.bytes[begin : begin + CONTEXT + 1] for begin in begins]).long()


def one_step(model: LanguageModel, optimiser: torch.optim.AdamW, windows: Windows, rate: float) -> float:
    """The loss before the step."""
    optimiser.param_groups[0]["lr"] = rate
    tokens = windows.draw()
    loss = F.cross_entropy(model(tokens[:, :-1]).reshape(-1, BYTES), tokens[:, 1:].reshape(-1))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.item()


def _show(what: str, step: int, loss: float) -> None:
    if step % 50 == 0:
        print(f"{what}, step {step}: loss {loss:.3f}", file=sys.stderr, flush=True)


def _write(arrays: Weights, name: str) -> None:
    kinds = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}
    specs = [Spec(key, kinds[array.dtype], array.shape) for key, array in arrays.items()]
    write(CACHE / f"{name}.safetensors", specs, arrays.values())


def _rounded(arrays: Weights) -> Weights:
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}


def _save(model: LanguageModel, stem: str) -> Weights:
    weights = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    _write(weights, f"{stem}-f32")
    _write(_rounded(weights), f"{stem}-bf16")
    return weights


def _save_state(model: LanguageModel, optimiser: torch.optim.AdamW, weights: Weights) -> None:
    saved = {f"master.{name}": array for name, array in weights.items()}
    for moment in ("exp_avg", "exp_avg_sq"):
        for name, weight in model.named_parameters():
            saved[f"{moment}.{name}"] = optimiser.state[weight][moment].numpy()
    saved |= {f"model.{name}": array for name, array in _rounded(weights).items()}  # last, to be aligned
    _write(saved, "language-adamw")


def _rate_at(step: int) -> float:
    """Up over WARM_UP steps, then half a cosine down to a tenth."""
    return RATE * min(1.0, step / WARM_UP) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / STEPS)))


def train() -> LanguageModel:
    """Writes the chain and the trainer's checkpoint."""
    torch.manual_seed(0)
    model, windows = LanguageModel(), Windows(text.code(tests=False), seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(1, STEPS + 1):
        _show("training", step, one_step(model, optimiser, windows, _rate_at(step)))
        if step in CHAIN:
            weights = _save(model, f"language-{step}")
    _save_state(model, optimiser, weights)
    return model


def tune(start: dict[str, torch.Tensor], rate: str) -> None:
    """Writes one fine-tune of the weights `start`."""
    model, windows = LanguageModel(), Windows(text.code(tests=True), seed=2)
    model.load_state_dict(start)
    optimiser = torch.optim.AdamW(model.parameters(), lr=float(rate), weight_decay=0.01)
    for step in range(1, TUNE_STEPS + 1):
        now = float(rate) * min(1.0, step / 10) * (1 - step / (TUNE_STEPS + 1))
        _show(f"tuning at {rate}", step, one_step(model, optimiser, windows, now))
    _save(model, f"language-ft-{rate}")


NAMES = (
    *(f"language-{step}-{dtype}" for step in CHAIN for dtype in ("f32", "bf16")),
    "language-adamw",
    *(f"language-ft-{rate}-{dtype}" for rate in TUNE_RATES for dtype in ("f32", "bf16")),
)


def make(name: str) -> None:
    """Writes what is lacking of NAMES, which come from one training; fine-tunes only if `name` is one, or empty."""
    torch.set_num_threads(1)
    last = CACHE / f"language-{STEPS}-f32.safetensors"
    if last.exists():
        start = {spec.name: torch.from_numpy(np.array(array)) for spec, array in SafeFile(last)}
    else:
        start = {name: value.clone() for name, value in train().state_dict().items()}
    for rate in TUNE_RATES if "-ft-" in name or not name else ():
        if not (CACHE / f"language-ft-{rate}-bf16.safetensors").exists():
            tune(start, rate)


if __name__ == "__main__":
    make("")
