"""Section: what quantising does to outputs: how far embeddings of MiniLM turn, and how far predictions of the small
language model move, by the formats that others define and by our own quantiser; bits where both do as much.

MiniLM: the encoder's 36 matrices; 1 - cosine of embeddings of `data/sentences.txt` with those of the F32 weights, mean.
The language model: the matrices of linear layers; the Kullback-Leibler divergence of predictions, mean over tokens of
windows of the standard library's tests, and the loss on them. It was trained on the rest of the library.

Importance comes from other texts: docstrings; windows of the training text. q4_k has blocks of 256, which rows of 384
are no whole number of (llama.cpp quantises such matrices to q5_0); here its blocks go on in the next row, so that all
matrices have 4.5 bits.
"""

from __future__ import annotations

import importlib
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bench import ours
from bench.data import text
from bench.data.files import model_path, path_of
from bench.data.safefile import SafeFile
from bench.sections import Settings
from bench.timing import Record

Arrays = dict[str, np.ndarray[Any, Any]]

FORMATS = {"q8_0": 8.5, "q4_k": 4.5, "q4_0": 4.5, "nf4": 4.5, "nvfp4": 4.5, "mxfp4": 4.25}
BITS = (*np.arange(2, 4.75, 0.25), 6, 6.5, 7, 7.5)  # about these, as steps and errors
BLOCK = 256
BATCH = 16
CALIBRATION = 128  # sentences; windows
WINDOWS = 6  # batches of them to measure on
ONE_STEP, ONE_ERROR, BY_IMPORTANCE = "one step", "one error", "importance"
ONE_ERROR_SMALL = "one error, small"  # the same weights, with the preset that takes fewest bits for them


@dataclass(frozen=True)
class Model:
    """matrices: to be quantised. change: of outputs with other ones, the distance first."""

    name: str
    matrices: Arrays
    change: Callable[[Arrays], dict[str, float]]
    importance: Callable[[], dict[str, Any]]


def run(_settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason is not None:
        return [{"codec": "slimtensors", "missing": reason}]
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for make in (minilm, language_model):
            records += _of_model(make(), Path(folder))
    return records


def _of_model(model: Model, folder: Path) -> list[Record]:
    made: list[Record] = [{"model": model.name, "recipe": "as it is", **model.change({})}]
    for recipe, bits in FORMATS.items():
        rows = BLOCK if recipe == "q4_k" else 0
        found = {"format_bits": bits, **_quantised(model, folder, rows, quantise=recipe)}
        made.append({"model": model.name, "recipe": recipe, **found})
    known = folder / "importance.safetensors"
    save_file({name: each.numpy() for name, each in model.importance().items()}, known)
    for way, points in _ways(model, known).items():
        curve = [_quantised(model, folder, 0, **asked) for asked in points]
        made += [{"model": model.name, "recipe": "slim", "way": way, **each} for each in curve]
        for recipe in FORMATS:
            change = next(each["change"] for each in made if each["recipe"] == recipe)
            bits = bits_at(change, curve)
            if bits is not None:
                equal = {"bits_per_weight": bits, "change": change}
                made.append({"model": model.name, "recipe": "slim", "way": way, "as_good_as": recipe, **equal})
    return made


def _ways(model: Model, known: Path) -> dict[str, list[dict[str, Any]]]:
    """What is asked of `compress` for each point of a curve; steps are what --target-bpw looks for."""
    grid = importlib.import_module("slimtensors.quantise.grid").Grid
    deviation = np.mean([np.log2(each.std()) for each in model.matrices.values()])
    # the entropy of a Gaussian on steps of s is log2(4.13 sigma / s), the error of the trellis 0.066 s^2
    grids = [grid("slim", 8, step=float(np.exp2(deviation + math.log2(4.13) - bits))) for bits in BITS]
    errors: list[dict[str, Any]] = [{"quantise": "slim", "target_error": float(1.13 * 4**-bits)} for bits in BITS]
    return {
        ONE_STEP: [{"quantise": each} for each in grids],
        ONE_ERROR: errors,
        ONE_ERROR_SMALL: [each | {"preset": "small"} for each in errors],
        BY_IMPORTANCE: [{"quantise": each, "importance": known} for each in grids],
    }


def _quantised(model: Model, folder: Path, row: int, **asked: Any) -> Record:
    """row: length to which rows are cut first, if not 0."""
    library = importlib.import_module("slimtensors")
    source, packed, back = (folder / each for each in ("source.safetensors", "packed.slimtensors", "back.safetensors"))
    save_file({name: each.reshape(-1, row) if row else each for name, each in model.matrices.items()}, source)
    library.compress(source, packed, **asked, self_check=False)
    found = library.compare(packed, source)
    if found.lossy != len(model.matrices):
        raise RuntimeError(f"{asked}: {found.lossy} of {len(model.matrices)} matrices are quantised")
    library.decompress(packed, back)
    arrays = {name: each.reshape(model.matrices[name].shape) for name, each in load_file(back).items()}
    weights = sum(each.size for each in arrays.values())
    return {
        "bits_per_weight": 8 * packed.stat().st_size / weights,
        "weights": weights,
        "nmse": found.nmse,
        **model.change(arrays),
    }


def bits_at(change: float, curve: Sequence[Record]) -> float | None:
    """Where a curve has this change: a line, by least squares, through the logarithms of points up to four times as
    high and as low, since each of them is a throw of dice; None beyond the curve's ends.
    """
    bits = np.array([each["bits_per_weight"] for each in curve])
    logs = np.log([each["change"] / change for each in curve])
    near = np.abs(logs) < math.log(4)
    if not (logs[near].min(initial=1) < 0 < logs[near].max(initial=-1)):
        return None
    slope, offset = np.polyfit(bits[near], logs[near], 1)
    return float(-offset / slope)


def minilm() -> Model:
    torch: Any = importlib.import_module("torch")
    finetuned: Any = importlib.import_module("bench.data.finetuned")
    weights = {spec.name: np.array(each) for spec, each in SafeFile(model_path()) if spec.dtype == "F32"}
    tokenise = finetuned.WordPieces(model_path().parent / "vocab.txt")
    sentences = (Path(text.__file__).parent / "sentences.txt").read_text("utf-8").splitlines()

    def embedded(arrays: Arrays) -> Any:
        model = finetuned.Encoder(weights | arrays).eval()
        with torch.no_grad():
            batches = [sentences[at : at + BATCH] for at in range(0, len(sentences), BATCH)]
            parts = [model(*finetuned.batch_of([tokenise(each) for each in batch])) for batch in batches]
        return torch.cat(parts).double()

    plain = embedded({})

    def change(arrays: Arrays) -> dict[str, float]:
        # of vectors of length 1, 1 - cosine is half the squared distance
        return {"change": float((embedded(arrays) - plain).square().sum(1).mean() / 2)}

    def loss(model: Any, sentence: str) -> Any:
        found = model(*finetuned.batch_of([tokenise(sentence)]))
        return (found * (2 * torch.randint(2, found.shape) - 1)).sum()

    def importance() -> dict[str, Any]:
        torch.manual_seed(0)
        others = random.Random(0).sample(text.sentences(), CALIBRATION)  # noqa: S311  # for reproducibility
        found = importlib.import_module("slimtensors.torch").importance(finetuned.Encoder(weights), others, loss)
        return {name: each for name, each in found.items() if name.rpartition(".")[0] in matrices}

    matrices = {name: each for name, each in weights.items() if "encoder" in name and each.ndim == 2}
    return Model("minilm", matrices, change, importance)


def language_model() -> Model:
    torch: Any = importlib.import_module("torch")
    language: Any = importlib.import_module("bench.data.language_model")
    functional = torch.nn.functional
    source = path_of(f"language-{language.STEPS}-f32")
    weights = {spec.name: np.array(each) for spec, each in SafeFile(source)}
    windows = language.Windows(text.code(tests=True), seed=3)
    held = [windows.draw() for _ in range(WINDOWS)]

    def predicted(arrays: Arrays) -> list[Any]:
        model = language.LanguageModel()
        model.load_state_dict({name: torch.from_numpy(each) for name, each in (weights | arrays).items()})
        with torch.no_grad():
            return [functional.log_softmax(model(each[:, :-1]).double(), -1) for each in held]

    plain = predicted({})

    def change(arrays: Arrays) -> dict[str, float]:
        found = predicted(arrays)
        apart = loss = 0.0
        for old, new, tokens in zip(plain, found, held, strict=True):
            apart += float((old.exp() * (old - new)).sum(-1).mean()) / len(held)
            loss += float(functional.nll_loss(new.flatten(0, 1), tokens[:, 1:].flatten())) / len(held)
        return {"change": apart, "loss": loss}

    def loss(model: Any, tokens: Any) -> Any:
        logits = model(tokens[None, :-1])[0]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
        return functional.cross_entropy(logits, drawn, reduction="sum")

    def importance() -> dict[str, Any]:
        torch.manual_seed(0)
        model = language.LanguageModel()
        model.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
        others = language.Windows(text.code(tests=False), seed=4)
        batches = [window for _ in range(CALIBRATION // language.BATCH) for window in others.draw()]
        found = importlib.import_module("slimtensors.torch").importance(model, batches, loss)
        return {name: each for name, each in found.items() if name.rpartition(".")[0] in matrices}

    linear = ("layers.", "head.")
    matrices = {name: each for name, each in weights.items() if name.startswith(linear) and each.ndim == 2}
    return Model("language model", matrices, change, importance)
