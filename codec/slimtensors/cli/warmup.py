"""`slimtensors warmup`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from slimtensors.cli import options

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["command", "jobs"]


@click.command("warmup", short_help="Compile all kernels now.")
@options.progress
@options.quiet
@options.verbose
def command(progress: bool | None, quiet: bool, verbose: int) -> None:
    """Compile all kernels into the cache now, so that no later run waits for it.

    Good for images of containers and for clusters, where SLIMTENSORS_CACHE_DIR says which folder to fill.
    """
    from slimtensors.cli.output import say
    from slimtensors.cli.progress import bar
    from slimtensors.kernels._jit import settled, warned
    from slimtensors.stopping import end_if_asked

    folder, why_not, advice = settled()
    if why_not is not None:
        raise OSError(f"kernels cannot be kept: {why_not}. {advice}")
    work = list(jobs())
    begin = time.perf_counter()
    with bar(len(work), "compile", quiet=quiet, asked=progress, unit="kind") as advance:
        for name, job in work:
            started = time.perf_counter()
            job()
            end_if_asked()
            if verbose and not quiet:
                say(f"{name}: {time.perf_counter() - started:.2f} s")
            if advance is not None:
                advance(1)
    if warned():  # why they are not
        raise OSError(f"kernels are not kept in {folder}")
    if not quiet:
        say(f"all kernels are ready after {time.perf_counter() - begin:.1f} s, kept in {folder}")


def jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """One for each kind of tensor that is stored and read in a way of its own."""
    import numpy as np

    from slimtensors.codecs.straight import look_up_at_once
    from slimtensors.kernels.environment import flip_here
    from slimtensors.planning.planner import PRESETS

    look_up_at_once()
    random = np.random.default_rng(0)
    weights = random.standard_normal(1 << 16) / 32
    for name in ("float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn"):
        for preset in PRESETS:
            array = _cast(weights, name)
            yield f"{name}, {preset}", _job(preset, array)
            yield f"{name} with outliers, {preset}", _job(preset, _with_outliers(array, random))
            yield f"{name} with few bits, {preset}", _job(preset, _cast(_cast(weights, "float8_e5m2"), name))
    for wide, narrow in (("float32", "bfloat16"), ("float64", "float32")):
        by_row = _cast(weights, wide).reshape(256, -1)
        by_row[::2] = _cast(by_row[::2], narrow)
        yield f"{wide} with few bits in some rows", _job("balanced", by_row)
    for name in ("uint8", "uint16", "uint32", "uint64"):
        spread = np.exp2(random.uniform(0, 8 * np.dtype(name).itemsize - 1, 1 << 16))
        yield name, _job("balanced", spread.astype(name))
        yield f"{name}, small", _job("balanced", random.integers(0, 5, 1 << 16).astype(name))
        yield f"{name}, even", _job("balanced", np.arange(1 << 16).astype(name))
    for name in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "uint8", "uint16", "uint32", "uint64"):
        for share in (0.5, 0.98):
            pruned = _cast(np.where(random.random(1 << 19) < share, 0, np.abs(np.tile(weights, 8)) * 1000), name)
            yield f"{name} with {share:.0%} zeros", _job("balanced", pruned)
    signed = np.tile(weights, 4)
    some = random.random(signed.size) < 0.5
    for name, preset in (("float16", "fast"), ("bfloat16", "fast"), ("bfloat16", "balanced")):
        for kind, kept in (("the smallest zero", np.abs(signed) > 0.02), ("some zero", some)):
            yield f"{name} with {kind}, {preset}", _job(preset, _cast(np.where(kept, signed, 0), name))
    steps, scales = random.integers(-7, 8, (256, 256)), np.abs(weights[:256, None]) + 0.01
    for name in ("float16", "bfloat16", "float32"):
        yield f"{name} of integers times scales", _job("balanced", _cast(steps * _cast(scales, name), name))
        yield f"{name} with few values", _job("balanced", _cast(steps / 8, name))
    yield "float32, none is negative", _job("balanced", _cast(weights * weights, "float32"))
    yield "bfloat16 beside its float32", _cast_job(_cast(weights, "float32"))
    for name in ("float32", "float64"):
        yield f"{name} with few decimals", _job("balanced", _cast(np.round(weights, 4), name))
    for kind in ("Q4_0", "Q5_0", "Q8_0"):
        yield f"blocks of {kind}", _blocks_job(kind, random)
    for name in ("float16", "float32", "uint8"):
        yield f"codes and their scales in {name}", _codes_job(random, name)
    yield "floats as usual", partial(flip_here, 0)
    yield "booleans", _job("balanced", random.integers(0, 50, 1 << 18) == 0)
    yield from _gpu_jobs()


def _gpu_jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """One for each kernel and kind of GPU, where there is one that runs them."""
    from slimtensors.device.choice import why_not

    if why_not() is not None:
        return
    import torch

    from slimtensors.kernels.cuda.catalogue import KERNELS
    from slimtensors.kernels.cuda.machine_code import machine_code

    kinds = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    for major, minor in sorted(kinds):
        for name in KERNELS:
            yield f"{name}, sm_{major}{minor}", partial(machine_code, name, 10 * major + minor)


def _cast(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    import ml_dtypes
    import numpy as np

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name, name))
    return array.astype(dtype)


def _with_outliers(array: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[Any]:
    """Some values of any bits at all."""
    made: npt.NDArray[Any] = array.copy()
    octets = made.view("u1").reshape(made.size, -1)
    octets[::500] = random.integers(0, 256, octets[::500].shape)
    return made


def _blocks_job(kind: str, random: np.random.Generator) -> Callable[[], None]:
    """Store and read blocks of GGUF, by scales that codes depend on."""

    def job() -> None:
        import numpy as np

        from slimtensors.gguf.blocks import BLOCKS, PREFIX
        from slimtensors.handle import safe_open
        from slimtensors.sources.inputs import ArrayInput
        from slimtensors.writing.store import store_bytes

        block = next(block for block in BLOCKS.values() if block.name == kind)
        scales = random.integers(0, 4, (1 << 13, 1))
        array = (random.integers(0, 256, (1 << 13, block.size)) >> scales).astype(np.uint8)
        array[:, 1] = scales[:, 0] + 40
        blocks = ArrayInput("blocks", array.reshape(1 << 10, -1))
        blocks.encoding = PREFIX + kind
        with safe_open(store_bytes([blocks], None, "balanced", 1, self_check=False), threads=1) as file:
            file.get_tensor("blocks")

    return job


def _codes_job(random: np.random.Generator, name: str) -> Callable[[], None]:
    """Store and read codes of four bits whose scales are another tensor, which says what codes to expect."""

    def job() -> None:
        import numpy as np

        from slimtensors.handle import safe_open
        from slimtensors.sources.inputs import ArrayInput
        from slimtensors.writing.store import store_bytes

        rows = random.standard_normal((512, 512)) ** 3 * np.exp2(np.arange(512)[:, None] % 4)
        blocks = rows.reshape(-1, 64)
        scales = np.abs(blocks).max(axis=1)
        codes = np.rint(blocks / scales[:, None] * 7 + 7).astype(np.uint8).reshape(512, -1)
        stored = scales / scales.max() * 255 if name == "uint8" else scales
        pair = [
            ArrayInput("codes", codes[:, ::2] | codes[:, 1::2] << 4),
            ArrayInput("codes.scale", stored.astype(name)),
        ]
        with safe_open(store_bytes(pair, None, "small", 1, self_check=False), threads=1) as file:
            file.get_tensor("codes")

    return job


def _cast_job(array: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Store numbers, and the same rounded to BF16, which is found to be their cast, and read that."""

    def job() -> None:
        from slimtensors.handle import safe_open
        from slimtensors.sources.inputs import ArrayInput
        from slimtensors.writing.store import store_bytes

        pair = [ArrayInput("wide", array), ArrayInput("narrow", _cast(array, "bfloat16"))]
        with safe_open(store_bytes(pair, None, "balanced", 1, self_check=False), threads=1) as file:
            file.get_tensor("narrow")

    return job


def _job(preset: str, array: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Store, read whole and in part."""

    def job() -> None:
        from slimtensors.handle import safe_open
        from slimtensors.memory import encode

        with safe_open(encode(array, preset=preset, threads=1), threads=1) as file:
            file.get_tensor("array")
            file.get_slice("array")[1:3]

    return job
