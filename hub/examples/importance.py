"""How much errors in a model's weights count, from texts: a file for `slimtensors compress --importance`.

    pip install ".[torch]" transformers                         # in a checkout
    python hub/examples/importance.py FOLDER TEXTS.txt importance.safetensors
    slimtensors compress FOLDER --target-bpw 3.4 --importance importance.safetensors

FOLDER has a model of transformers or sentence-transformers. TEXTS.txt has a text in each line, of the kind that the
model is for; a few hundred do. A model that predicts words is asked by how much its predictions change, any other by
how much its output does: the mean over a text, of length 1 for sentence-transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from slimtensors.torch import importance

Batch = dict[str, torch.Tensor]
Loss = Callable[[Any, Batch], torch.Tensor]


def predictions(model: Any, batch: Batch) -> torch.Tensor:
    """Of words drawn from the model's own predictions, the negative log-likelihood: Fisher's matrix."""
    logits = model(**batch).logits.float().flatten(0, 1)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
    return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")


def output(model: Any, batch: Batch) -> torch.Tensor:
    """Of the mean over a text, with random signs, the sum: the squared Jacobian."""
    return signed_sum(model(**batch).last_hidden_state.float().mean(1))


def direction(model: Any, batch: Batch) -> torch.Tensor:
    """The same of the mean's direction, which is what sentence-transformers compares."""
    return signed_sum(torch.nn.functional.normalize(model(**batch).last_hidden_state.float().mean(1), dim=-1))


def signed_sum(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * (2 * torch.randint(2, numbers.shape, device=numbers.device) - 1)).sum()


def loaded(folder: Path) -> tuple[Any, Loss]:
    """The model, and its loss."""
    architectures = AutoConfig.from_pretrained(folder).architectures or [""]
    if architectures[0].endswith("ForCausalLM"):
        return AutoModelForCausalLM.from_pretrained(folder), predictions
    return AutoModel.from_pretrained(folder), direction if (folder / "modules.json").exists() else output


def renamed(found: dict[str, torch.Tensor], folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """By the names that weights have in the folder's files, which may begin with the model's kind."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    made = {}
    for key, tensor in found.items():
        weight, _, part = key.rpartition(".")
        for name in (weight, f"{prefix}.{weight}"):
            if name in names:
                made[f"{name}.{part}"] = tensor
    if not made:
        raise SystemExit(f"no weight of the model has a name that is in {folder}/*.safetensors")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=256, help="texts to use (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="of a text at most (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    texts = [line for line in asked.texts.read_text("utf-8").splitlines() if line.strip()][: asked.most]
    if not texts:
        raise SystemExit(f"{asked.texts} has no texts")
    model, loss = loaded(asked.folder)
    tokenise = AutoTokenizer.from_pretrained(asked.folder)
    torch.manual_seed(0)

    def batches() -> Iterator[Batch]:
        for text in texts:
            found = tokenise(text, return_tensors="pt", truncation=True, max_length=asked.tokens)
            yield {name: tensor.to(asked.device) for name, tensor in found.items()}

    found = renamed(importance(model.to(asked.device), batches(), loss), asked.folder, model.base_model_prefix)
    save_file(found, asked.out)
    print(f"{asked.out}: importance of {len(found) // 2} weights, from {len(texts)} texts")


if __name__ == "__main__":
    main()
