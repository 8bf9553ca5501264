"""The files of gpu_check, made by several processes at once, which compile its kernels as well."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file as save_plain

import slimtensors
from slimtensors.kernels.cuda.catalogue import KERNELS
from slimtensors.kernels.cuda.machine_code import machine_code
from slimtensors.torch import save_file

__all__ = ["DTYPES", "TIMED", "Tensors", "cases", "path_of", "prepare", "quantised_files", "weights"]

SIZES = (1, 127, 128, 129, 40_000, 524_288, 1_000_007)
DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn")
PRESETS = ("fast", "balanced", "small")
QUANTISED = (
    ("slim", "balanced"), ("slim", "small"), ("slim-fast", "balanced"), ("nvfp4", "balanced"), ("q4_k", "balanced"),
    ("spqr", "balanced"),
)  # fmt: skip
DIFFERENCES = (("bitdelta", "balanced"), ("slim", "balanced"), ("q4_k", "balanced"))
SHAPE = 1030, 512  # of what is quantised
TIMED_UNITS, LARGE_UNITS = 1 << 28, 1 << 30
ONE_UNITS = 1 << 22  # of a tensor
MOST_PROCESSES = 16

Tensors = dict[str, torch.Tensor]


def weights(count: int, seed: int) -> torch.Tensor:
    """Rows of different scales, as far as there are rows."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(count, generator=generator) * 0.02
    if count % 512 == 0 and count > 1 << 16:
        w = w.view(-1, 512)
        w = w * torch.exp2(torch.randint(-6, 1, (w.shape[0], 1), generator=generator))
    return w


def merged(w: torch.Tensor, rank: int) -> torch.Tensor:
    """With an adapter added to it, as PEFT does."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(shape, generator=generator) for shape in ((w.shape[0], rank), (rank, w.shape[1])))
    return (w.float() + 3e-3 * (left @ right)).to(w.dtype)


def about_a_mean(w: torch.Tensor) -> torch.Tensor:
    """Weights about a product of low rank, whose signs and sizes it tells of."""
    return (merged(w.sign() * 0, 4) * 100 + torch.randn(w.shape, generator=torch.Generator().manual_seed(2))) * 0.02


def cases(sizes: Sequence[int] = SIZES) -> dict[str, tuple[Tensors, Tensors | None, str]]:
    """What is saved, its base, and the preset, by a name."""
    found: dict[str, tuple[Tensors, Tensors | None, str]] = {}
    for preset in PRESETS:
        made = {f"{name}.{n}": weights(n, n).to(getattr(torch, name)) for n in sizes for name in DTYPES}
        found[preset] = made, None, preset
    base = {f"{name}.{n}": weights(n, n).to(getattr(torch, name)) for n in sizes for name in DTYPES[:3]}
    tuned = {name: w + (torch.randn(w.shape, generator=torch.Generator().manual_seed(7)) * 1e-4).to(w.dtype)
             for name, w in base.items()}  # fmt: skip
    found["differences"] = tuned, base, "balanced"
    matrices = {name: w for name, w in base.items() if w.ndim == 2}
    found["merged"] = {name: merged(w, 8) for name, w in matrices.items()}, matrices, "balanced"
    generator = torch.Generator().manual_seed(9)
    odd: Tensors = {}
    for n in sizes:
        whole = torch.randint(-40, 40, (n,), generator=generator)
        odd |= {f"int8.{n}": whole.to(torch.int8), f"int64.{n}": whole**5, f"flags.{n}": whole > 0}
        odd |= {f"ternary.{n}": whole.sign().to(torch.bfloat16) * 0.5, f"codes.{n}": (whole % 16).float() * 0.0137}
        w = weights(n, n)
        if w.ndim == 2:
            about = {f"{name}.{n}": about_a_mean(w).to(getattr(torch, name)) for name in DTYPES[:3]}
            found["means"] = about, None, "small"
        odd |= {f"range.{n}": torch.arange(n), f"zeros.{n}": torch.zeros(n)}
        odd |= {f"pruned.{n}": w.clamp(min=0), f"signed zeros.{n}": w * (w > 0)}
    found["others"] = odd, None, "balanced"
    return found


def path_of(folder: Path, kind: str, name: str) -> Path:
    return folder / f"{kind}.{name.replace(' ', '_').replace(',', '')}.slimtensors"


def quantised_files(folder: Path, shape: tuple[int, int] = SHAPE) -> list[tuple[str, Path, Path | None, Tensors]]:
    """(name, path, base, the base's tensors) of what is quantised, made unless they are there."""
    w = weights(shape[0] * shape[1], 5).view(shape)
    tensors = {name: w.to(getattr(torch, name)) for name in DTYPES[:3]}
    source, tuned = folder / "plain.safetensors", folder / "tuned.safetensors"
    if not tuned.exists():
        save_plain(tensors, source)
        step = weights(w.numel(), 6).view(shape) / 20
        save_plain({name: each + step.to(each.dtype) for name, each in tensors.items()}, tuned)
    asked = [*((source, None, *each) for each in QUANTISED), *((tuned, source, *each) for each in DIFFERENCES)]
    found = []
    for given, base, recipe, preset in asked:
        name = f"{recipe} {preset}{'' if base is None else ' of a difference'}"
        path = path_of(folder, "quantised", name)
        if not path.exists():
            slimtensors.compress(given, path, quantise=recipe, preset=preset, base=base)
        found.append((name, path, base, tensors))
    return found


class Timed(NamedTuple):
    """A file of half a gigabyte, or of two, or of one matrix: how it is saved, and its base."""

    save: Callable[[Path], None]
    base: Callable[[], Tensors] | None = None


def _many(dtype: torch.dtype, units: int = TIMED_UNITS) -> Tensors:
    """One matrix many times, turned, so that none is a duplicate."""
    one = weights(ONE_UNITS, 1).to(dtype)
    return {str(i): one.roll(i, 1) for i in range(units // one.numel())}


def _matrix() -> Tensors:
    return {"w": torch.randn(4096, 4096, generator=torch.Generator().manual_seed(8)).mul_(0.02).bfloat16()}


def _tuned() -> Tensors:
    steps = torch.randn(weights(ONE_UNITS, 1).shape, generator=torch.Generator().manual_seed(5)) * 1e-4
    return {name: each + steps.to(each.dtype) for name, each in _many(torch.bfloat16).items()}


def _pruned() -> Tensors:
    return {name: each.clamp(min=0) for name, each in _many(torch.bfloat16).items()}


def _decimals() -> Tensors:
    return {name: (each * 1e3).round() / 1e3 for name, each in _many(torch.float32).items()}


def _noise() -> Tensors:
    generator = torch.Generator().manual_seed(6)
    return {"noise": torch.randint(-(1 << 63), (1 << 63) - 1, (TIMED_UNITS // 4,), generator=generator)}


def _saving(make: Callable[[], Tensors], base: Callable[[], Tensors] | None = None, preset: str = "balanced") -> Timed:
    return Timed(
        lambda path: save_file(make(), path, base=base and base(), preset=preset, self_check=False),  # type: ignore[arg-type] # a preset
        base,
    )


def _quantising(recipe: str) -> Timed:
    def save(path: Path) -> None:
        plain = path.with_suffix(".safetensors")
        save_plain(_matrix(), plain)
        slimtensors.compress(plain, path, quantise=recipe, self_check=False)
        plain.unlink()

    return Timed(save)


TIMED = {
    **{f"bfloat16, {preset}, large": _saving(partial(_many, torch.bfloat16, LARGE_UNITS), preset=preset)
       for preset in ("balanced", "small")},
    **{f"bfloat16, {preset}": _saving(partial(_many, torch.bfloat16), preset=preset) for preset in PRESETS},
    "bfloat16, one tensor of 32 MiB": _saving(_matrix, preset="fast"),
    "float32, balanced": _saving(partial(_many, torch.float32)),
    "bfloat16, differences": _saving(_tuned, partial(_many, torch.bfloat16)),
    "bfloat16, half zeros": _saving(_pruned),
    "bfloat16, merged adapter": _saving(lambda: {"w": merged(_matrix()["w"], 16)}, _matrix),
    "bfloat16, small with a mean": _saving(
        lambda: {"w": about_a_mean(weights(ONE_UNITS, 1)).bfloat16()}, preset="small"
    ),
    "float32, decimals": _saving(_decimals),
    **{f"bfloat16, {recipe}": _quantising(recipe) for recipe in ("slim", "nf4", "q4_k", "q8_0")},
    "raw": _saving(_noise),
}


def prepare(folder: Path, capability: int) -> None:
    """All files and kernels. One that cannot be made is tried again, and complained of, where it is wanted."""
    before = os.environ.get("SLIMTENSORS_NUM_THREADS")
    os.environ["SLIMTENSORS_NUM_THREADS"] = "2"  # of each process
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(MOST_PROCESSES, os.cpu_count() or 1), mp_context=spawn) as pool:
            asked = [pool.submit(_save_timed, folder, name) for name in TIMED if name.endswith("large")]
            asked += [pool.submit(_save_case, folder, name) for name in ("small", "fast", "differences", "merged")]
            asked += [pool.submit(quantised_files, folder)]
            asked += [pool.submit(_save_case, folder, name) for name in ("balanced", "means", "others")]
            asked += [pool.submit(_save_timed, folder, name) for name in TIMED if not name.endswith("large")]
            asked += [pool.submit(machine_code, name, capability) for name in KERNELS]
            for each in asked:
                if (error := each.exception()) is not None:
                    print(f"while preparing: {type(error).__name__}: {error}", flush=True)
    finally:
        if before is None:
            del os.environ["SLIMTENSORS_NUM_THREADS"]
        else:
            os.environ["SLIMTENSORS_NUM_THREADS"] = before


def _save_case(folder: Path, name: str) -> None:
    tensors, base, preset = cases()[name]
    save_file(tensors, path_of(folder, "case", name), preset=preset, base=base)  # type: ignore[arg-type] # a preset


def _save_timed(folder: Path, name: str) -> None:
    TIMED[name].save(path_of(folder, "timed", name))
