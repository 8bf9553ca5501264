"""The model in BF16 with weights set to zero, as pruning by magnitude does, and what our files of it take.

    python -m bench.data.pruned        makes the files, prints a table

Encoder matrices (two dimensions, not embeddings) lose their smallest weights: a share of each (`each`), a share of all
together (`all`), two of every four neighbours in a row (`2:4`), or whole rows, columns or blocks of 16 x 16 by their
norms. Nothing is drawn by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

import slimtensors
from bench.data.files import CACHE, cast
from bench.data.safefile import Spec, write

Mask = np.ndarray
BLOCK = 16

# bits per weight asked of the encoder matrices
ASKED = {"each-50": 5.6, "each-70": 3.5, "each-90": 1.3, "all-50": 5.6, "all-70": 3.5, "all-90": 1.3, "2:4": 6.3}


def is_pruned(spec: Spec) -> bool:
    return spec.is_float and len(spec.shape) == 2 and "encoder" in spec.name


def smallest(scores: np.ndarray, share: float) -> Mask:
    """True for what is kept: all but the `share` of lowest score; equals in order of place."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores, axis=None, kind="stable")[: round(share * scores.size)]] = False
    return kept.reshape(scores.shape)


def two_of_four(scores: np.ndarray) -> Mask:
    fours = scores.reshape(-1, 4)
    rank = np.argsort(np.argsort(-fours, axis=1, kind="stable"), axis=1, kind="stable")
    return (rank < 2).reshape(scores.shape)


def blocks(scores: np.ndarray) -> Mask:
    rows, columns = (n // BLOCK for n in scores.shape)
    sums = (scores**2).reshape(rows, BLOCK, columns, BLOCK).sum((1, 3))
    return smallest(sums, 0.5).repeat(BLOCK, 0).repeat(BLOCK, 1)


def rows(scores: np.ndarray) -> Mask:
    return np.broadcast_to(smallest((scores**2).sum(1), 0.5)[:, None], scores.shape)


def columns(scores: np.ndarray) -> Mask:
    return np.broadcast_to(smallest((scores**2).sum(0), 0.5), scores.shape)


MASKS: dict[str, Callable[[np.ndarray], Mask]] = {
    **{f"each-{p}": lambda scores, p=p: smallest(scores, p / 100) for p in (10, 30, 50, 70, 90)},
    "2:4": two_of_four,
    "blocks": blocks,
    "rows": rows,
    "columns": columns,
}


def model() -> list[tuple[Spec, np.ndarray]]:
    pairs = sorted(cast("BF16"), key=lambda pair: (-pair[1].itemsize, pair[0].name))
    return [(spec, np.array(array)) for spec, array in pairs]


def threshold(pairs: list[tuple[Spec, np.ndarray]], share: float) -> float:
    """The magnitude below which `share` of all weights of the encoder matrices lie."""
    every = np.concatenate([np.abs(array.astype(np.float32)).ravel() for spec, array in pairs if is_pruned(spec)])
    return float(np.partition(every, round(share * every.size))[round(share * every.size)])


def made() -> Iterator[tuple[str, list[tuple[Spec, np.ndarray]]]]:
    pairs = model()
    kinds: dict[str, Callable[[np.ndarray], Mask]] = dict(MASKS)
    for percent in (50, 70, 90):
        least = threshold(pairs, percent / 100)
        kinds[f"all-{percent}"] = lambda scores, least=least: scores >= least
    for name, keep in kinds.items():
        yield name, [(spec, prune(array, keep) if is_pruned(spec) else array) for spec, array in pairs]


def prune(array: np.ndarray, keep: Callable[[np.ndarray], Mask]) -> np.ndarray:
    return np.where(keep(np.abs(array.astype(np.float32))), array, ml_dtypes.bfloat16(0))


def main() -> None:
    print("| pruned | zeros | matrices, bits per weight | asked | whole file, bits per weight | matrices' storage |")
    print("|---|---|---|---|---|---|")
    for name, pairs in made():
        path = CACHE / f"minilm-pruned-{name.replace(':', 'of')}.safetensors"
        write(path, [spec for spec, _ in pairs], (array for _, array in pairs))
        out = path.with_suffix(".slimtensors")
        slimtensors.compress(path, out)
        report = slimtensors.inspect(out)
        pruned = {spec.name for spec, _ in pairs if is_pruned(spec)}
        tensors = [tensor for tensor in report.tensors if tensor.name in pruned]
        weights = sum(array.size for spec, array in pairs if spec.name in pruned)
        stored = sum(tensor.stored_bytes for tensor in tensors)
        zeros = sum(np.count_nonzero(array == 0) for spec, array in pairs if spec.name in pruned) / weights
        storage = max(tensors, key=lambda tensor: tensor.stored_bytes).storage
        asked = ASKED.get(name, "")
        whole = 8 * report.file_bytes / sum(array.size for _, array in pairs)
        print(f"| {name} | {zeros:.1%} | {8 * stored / weights:.3f} | {asked} | {whole:.3f} | {storage} |")
        out.unlink()


if __name__ == "__main__":
    main()
