"""python -m bench.data.finetuned [NAME ...]: MiniLM fine-tuned, once for every learning rate and length in POINTS.

The loss is SimCSE's: a sentence, encoded twice under different dropout, has to find its other half among the batch's.
AdamW, weight decay 0.01, warmed up over 10 steps, then falling linearly to 0; weights in FP32, products in BF16.
Every run gives `finetuned-<rate>x<steps>-f32` and `-bf16`, the second rounded from the first; their bases are
`minilm-f32` and `minilm-bf16`. The run of ADAMW also gives `minilm-adamw`, as a trainer saves it: `model.*` in BF16,
and in F32 `master.*`, `exp_avg.*`, `exp_avg_sq.*`.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # its own name everywhere

from bench.data import text
from bench.data.files import CACHE, model_path
from bench.data.safefile import SafeFile, Spec, write

POINTS = (
    ("2e-5", 160),
    ("2e-6", 160),
    ("2e-5", 20),
    ("1e-5", 160),
    ("1e-4", 20),
    ("1e-4", 160),
    ("5e-4", 20),
    ("5e-4", 160),
    ("2e-3", 160),
)
ADAMW = ("2e-5", 20)
LAYERS, HEADS, WIDTH = 6, 12, 384
BATCH, LONGEST, WARM_UP = 24, 48, 10
DROPOUT = 0.1
SHARPNESS = 20  # of the softmax over cosines
UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"

Tokens = list[int]


class WordPieces:
    """The model's own vocabulary; lower case, the longest piece first."""

    def __init__(self, vocabulary: Path) -> None:
        self.number = {piece: i for i, piece in enumerate(vocabulary.read_text("utf-8").splitlines())}

    def _word(self, word: str) -> Tokens:
        pieces, begin = [], 0
        while begin < len(word):
            mark = "##" if begin else ""
            for end in range(len(word), begin, -1):
                if (number := self.number.get(mark + word[begin:end])) is not None:
                    break
            else:
                return [self.number[UNKNOWN]]
            pieces.append(number)
            begin = end
        return pieces

    def __call__(self, sentence: str) -> Tokens:
        words = re.findall(r"\w+|[^\w\s]", sentence.lower())
        inner = [number for word in words for number in self._word(word)]
        return [self.number[BEGIN], *inner[: LONGEST - 2], self.number[END]]


class Encoder(torch.nn.Module):
    """BERT's forward pass over parameters that keep the names of the file."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.named = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in weights.items()}
        for name, weight in self.named.items():
            *path, last = name.split(".")
            at: torch.nn.Module = self
            for part in path:
                if part not in dict(at.named_children()):
                    at.add_module(part, torch.nn.Module())
                at = at.get_submodule(part)
            at.register_parameter(last, weight)

    def _dropout(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, DROPOUT, self.training)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.named[name + ".weight"], self.named[name + ".bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), self.named[name + ".weight"], self.named[name + ".bias"], 1e-12)

    def _attention(self, x: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            self._linear(x, f"{name}.self.{part}").view(batch, length, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        share = DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :], dropout_p=share)
        merged = mixed.transpose(1, 2).reshape(batch, length, WIDTH)
        return self._norm(x + self._dropout(self._linear(merged, f"{name}.output.dense")), f"{name}.output.LayerNorm")

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens, self.named["embeddings.word_embeddings.weight"])
        x = x + self.named["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        x = x + self.named["embeddings.token_type_embeddings.weight"][0]
        x = self._dropout(self._norm(x, "embeddings.LayerNorm"))
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            x = self._attention(x, mask, f"{name}.attention")
            inner = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
            x = self._norm(x + self._dropout(self._linear(inner, f"{name}.output.dense")), f"{name}.output.LayerNorm")
        share = mask[..., None].float()
        return F.normalize((x.float() * share).sum(1) / share.sum(1), dim=-1)


def batch_of(pieces: list[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded tokens, and where they are none."""
    longest = max(map(len, pieces))
    tokens = torch.zeros(len(pieces), longest, dtype=torch.long)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: len(piece)] = torch.tensor(piece)
    return tokens, tokens != 0


def rate_at(step: int, steps: int, rate: float) -> float:
    """Up over WARM_UP steps, then down to 0."""
    return rate * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)


def train(rate: float, steps: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The model's float tensors after `steps` steps, and the optimiser's two moments of each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    draw = random.Random(1)  # noqa: S311  # for reproducibility, not for secrets
    tokenise, corpus = WordPieces(model_path().parent / "vocab.txt"), text.sentences()
    model = Encoder({spec.name: array for spec, array in SafeFile(model_path()) if spec.dtype == "F32"})
    optimiser = torch.optim.AdamW(model.named.values(), lr=rate, weight_decay=0.01)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate_at(step, steps, rate)
        tokens, mask = batch_of([tokenise(sentence) for sentence in draw.sample(corpus, BATCH)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one, other = model(tokens, mask), model(tokens, mask)
        loss = F.cross_entropy(SHARPNESS * one @ other.T, torch.arange(BATCH))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 20 == 0 or step == steps - 1:
            print(f"rate {rate:g}, step {step}: loss {loss.item():.2e}", file=sys.stderr, flush=True)
    weights = {name: value.detach().numpy() for name, value in model.named.items()}
    moments = {
        f"{kind}.{name}": optimiser.state[value][kind].numpy()
        for kind in ("exp_avg", "exp_avg_sq")
        for name, value in model.named.items()
        if value in optimiser.state
    }
    return weights, moments


def _save(trained: dict[str, np.ndarray], stem: str) -> None:
    for dtype, kind in (("F32", np.float32), ("BF16", ml_dtypes.bfloat16)):
        specs, arrays = [], []
        for spec, array in SafeFile(model_path()):
            new = trained[spec.name].astype(kind) if spec.name in trained else array
            specs.append(Spec(spec.name, dtype if spec.name in trained else spec.dtype, spec.shape))
            arrays.append(new)
        write(CACHE / f"{stem}-{dtype.lower()}.safetensors", specs, arrays)


def _save_state(weights: dict[str, np.ndarray], moments: dict[str, np.ndarray]) -> None:
    saved = {f"master.{name}": array for name, array in weights.items()} | moments
    saved |= {f"model.{name}": array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    kinds = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}
    specs = [Spec(name, kinds[array.dtype], array.shape) for name, array in saved.items()]
    write(CACHE / "minilm-adamw.safetensors", specs, saved.values())


NAMES = tuple(f"finetuned-{rate}x{steps}-{dtype}" for rate, steps in POINTS for dtype in ("f32", "bf16"))


def make(name: str) -> None:
    """Writes the file `name`, and its other dtype with it."""
    if name == "minilm-adamw":
        name = f"finetuned-{ADAMW[0]}x{ADAMW[1]}-bf16"
    stem = name.rpartition("-")[0]
    rate, steps = stem.removeprefix("finetuned-").rsplit("x", 1)
    weights, moments = train(float(rate), int(steps))
    _save(weights, stem)
    if (rate, int(steps)) == ADAMW:
        _save_state(weights, moments)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES[1::2]:
        if not (CACHE / f"{wanted}.safetensors").exists():
            make(wanted)
