"""`slimtensors compress`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import click

from slimtensors.cli import options

__all__ = ["command"]


@click.command("compress", short_help="Compress .safetensors or .gguf files, or folders.")
@options.path("paths", many=True)
@options.output
@options.preset
@click.option(
    "--base",
    metavar="BASE",
    callback=options.no_empty,
    help="Store differences from this file or folder, of either kind; auto: from what the model names.",
)
@options.base_map
@options.base_dirs
@click.option(
    "--quantise",
    metavar="NAME",
    help="Quantise matrices first: slim, slim-fast or lqer, our own; q8_0, q5_0, q4_0, q4_k, nf4, int8, int4, fp8, "
    "mxfp8, mxfp4, nvfp4, bfp6, spqr; or with a bound, abs=0.001 or rel=0.01; bitdelta, with --base. The file does "
    "not give its source back then, and says so.",
)
@click.option("--keep", multiple=True, metavar="PATTERN", help="Tensors not to quantise (* and ?); may be repeated.")
@click.option("--embeddings", is_flag=True, help="Quantise embeddings too.")
@click.option(
    "--importance",
    metavar="FILE",
    type=click.Path(),
    callback=options.no_empty,
    help="Of our own: how much errors count (.safetensors, .gguf).",
)
@click.option("--target-size", metavar="SIZE", callback=options.size, help="Quantise for files of this size: 4GB.")
@click.option("--target-bpw", type=float, metavar="BITS", help="Quantise to so many bits for each weight: 3.8.")
@click.option(
    "--target-error",
    type=float,
    metavar="NMSE",
    help="Quantise each matrix with at most this error, the squared differences' sum over the squares': 0.005.",
)
@options.threads
@options.force
@options.dry_run
@options.progress
@options.quiet
@options.verbose
def command(
    paths: tuple[str, ...],
    out: str | None,
    preset: str,
    base: str | None,
    base_map: dict[str, str],
    base_dirs: list[Any],
    quantise: str | None,
    keep: tuple[str, ...],
    embeddings: bool,
    importance: str | None,
    target_size: int | None,
    target_bpw: float | None,
    target_error: float | None,
    threads: int | None,
    force: bool,
    dry_run: bool,
    progress: bool | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Compress .safetensors and .gguf files, or whole folders of them.

    model.safetensors becomes model.slimtensors beside it (model.gguf model.gguf.slimtensors), checked by decoding it
    before it takes its name. A folder, or the index of its shards, becomes FOLDER-slim, with all other files copied.
    Nothing is deleted.

    With --base a fine-tune is stored as its difference from the model that it was made from, tensor by tensor, where
    that is smaller; whoever reads it needs the base too. How many tensors match is said, with a table of those that do
    not by their own name (with -v of all); --dry-run says so of all, and writes nothing.

    With a target, slim (our own quantiser, with a trellis; slim-fast: without; lqer: beside a product of low rank for
    each matrix of which that makes less) is as coarse as it asks for: a file's size in bytes, kB, MB, GB or KiB, MiB,
    GiB (of a folder, all its weight files' together), never exceeded and hit within 0.5 % where that can be (up to 5 %
    of small files); bits a quantised weight, within 1 %; or each matrix's error, at most.

    --importance names a file with numbers for weights `w` of shape [R, C]: `w` [R, C], mean squared gradients;
    `w.rows` [R] and `w.columns` [C], means of these; or `w` [C], or an imatrix of llama.cpp, mean squares of inputs.
    Steps are finer where they are larger, of rows and columns, and with --target-size and --target-bpw of tensors.

    With --quantise the weights change: matrices, and stacks of them such as experts, become what the format named makes
    of them, and load in their own dtypes. What has one dimension, is small, is a convolution, an embedding or fits
    --keep stays exact. `inspect` shows each error.

    With both, each matrix's difference from its base is what is quantised, to bitdelta (its sign, and one scale) or any
    other; sizes and errors asked for are the difference's. Tensors that are not quantised stay exact.
    """
    from slimtensors.cli.bases import bases_of_each
    from slimtensors.cli.conversions import Settings, run
    from slimtensors.cli.matches import say_matches
    from slimtensors.cli.output import lossy_summary, say, under_target
    from slimtensors.cli.progress import bar
    from slimtensors.cli.targets import settle
    from slimtensors.errors import UsageError
    from slimtensors.files.converting import compress, match_base
    from slimtensors.files.folders import COMPRESS
    from slimtensors.files.inspecting import inspect
    from slimtensors.planning.planner import check_preset
    from slimtensors.quantise.asking import NO_BASE, NoneFitsError, Target

    check_preset(preset)
    if base is None and (base_map or base_dirs):
        raise UsageError("--map and --base-dir need --base (a path, or auto)")
    target = Target(target_size, target_bpw, target_error)
    target.check()
    if quantise is None and target.asked:
        quantise = "slim"
    if quantise is None and (keep or embeddings or importance is not None):
        raise UsageError("--keep, --embeddings and --importance need --quantise, or a target")
    if quantise is not None:
        from slimtensors.quantise.recipes import quantisers_of

        quantise = quantise.lower()
        quantisers_of(quantise)
        if quantise == "bitdelta" and base is None:
            raise UsageError(NO_BASE)

    def store(source: Path, target: Path, advance: Callable[[int], object] | None, how: Mapping[str, Any]) -> None:
        compress(
            source, target, preset=preset, threads=threads, progress=advance,
            **against[source], base_dirs=base_dirs,
            on_match=None if quiet else lambda report: say_matches(source, report, whole=bool(verbose)), **how,
        )  # fmt: skip

    def work(source: Path, target: Path, advance: Callable[[int], object] | None) -> None:
        left.remove(source)
        if quantise is None:
            return store(source, target, advance, {})
        fitting = [pattern for pattern in keep if pattern in patterns[source]]
        how = asked | {"keep": fitting, "importance": importances[source]}
        try:
            chosen = not isinstance(asked["quantise"], str)  # one step for all
            with bar(None, "choosing steps", quiet=quiet or chosen, asked=progress) as look:
                store(source, target, advance, how | {"look": look})
        except NoneFitsError:  # such as the shard of the embeddings; an error if it is so of all
            if not left and not done:
                raise
            store(source, target, advance, {})
            return None if quiet else say(f"{source}: nothing in it can be quantised ({quantise}); stored exactly")
        done.append(source)
        if not quiet:
            say(f"{source}: {lossy_summary(inspect(target))}")
        return None

    conversions = settle(paths, out, COMPRESS, force=force or dry_run)
    sources = [source for each in conversions for source, _ in each.files]
    left, done = list(sources), list[Path]()
    patterns = _fitting(keep, sources)
    asked: dict[str, Any] = {
        "quantise": quantise, "embeddings": embeddings,
        "target_size": target_size, "target_bpw": target_bpw, "target_error": target_error,
    }  # fmt: skip
    if target_size is not None and len(conversions) > 1:
        raise UsageError("--target-size is for one file or folder; for several, --target-bpw gives each its share")
    importances = _importances(importance, sources, quiet=quiet)
    match = partial(match_base, base_dirs=base_dirs)
    against = bases_of_each(conversions, base, base_map, base_dirs, match)
    if target_size is not None and len(sources) > 1 and not dry_run:
        from slimtensors.files.quantising import Shard, quantiser_for
        from slimtensors.quantise.choosing import Quantise

        assert quantise is not None
        shards = [Shard(source, **against[source]) for source in sources]
        with bar(None, "choosing a step for all", quiet=quiet, asked=progress) as look:
            recipe = quantiser_for(
                shards, target_size, Quantise(quantise, keep, embeddings), importance=importance, preset=preset,
                threads=threads, base_dirs=base_dirs, look=look,
            )  # fmt: skip
        asked, importances = {"quantise": recipe, "embeddings": embeddings}, dict.fromkeys(sources)
    run(conversions, work, _amount, Settings(force, dry_run, quiet, verbose, progress))
    if target_size is not None and not (quiet or dry_run):
        (one,) = conversions
        say(f"{one.target}: {under_target(sum(made.stat().st_size for _, made in one.files), target_size)}")
    if dry_run and base is not None:
        for source in sources:
            say_matches(source, match(source, **against[source]), whole=True)


def _fitting(keep: Sequence[str], sources: Sequence[Path]) -> dict[Path, set[str]]:
    """Which patterns fit a tensor of each file. Raises UsageError for one that fits none of any."""
    from slimtensors.errors import UsageError

    names = {source: _names(source) if keep else [] for source in sources}
    found = {
        source: {pattern for pattern in keep if any(fnmatchcase(name, pattern) for name in names[source])}
        for source in sources
    }
    for pattern in keep:
        if not any(pattern in each for each in found.values()):
            raise UsageError(f"--keep {pattern}: there is no such tensor")
    return found


def _importances(path: str | None, sources: Sequence[Path], *, quiet: bool) -> dict[Path, str | None]:
    """The file of importances, for those of which it has any, or for all if it has none of any, which is an error.

    Says what of it is of no weight: names may have changed, or two of one tensor be told.
    """
    if path is None:
        return dict.fromkeys(sources)
    from slimtensors.cli.output import say
    from slimtensors.quantise.importance import stray

    told, names = _names(path), {source: _names(source) for source in sources}
    unknown = stray(told, [name for each in names.values() for name in each])
    if unknown and not quiet:
        say(f"{path}: {len(unknown)} of its tensors are of no weight here, the first {unknown[0]!r}")
    none = len(unknown) == len(told)
    return {source: path if none or len(stray(told, names[source])) < len(told) else None for source in sources}


def _names(path: Path | str) -> list[str]:
    from slimtensors.container.source import open_source
    from slimtensors.files.weights import open_weights

    source = open_source(path)
    try:
        return [tensor.name for tensor in open_weights(source).inputs]
    finally:
        source.close()


def _amount(path: Path) -> int:
    """The file's size; it is encoded, then decoded to check it."""
    from slimtensors.container.source import open_source
    from slimtensors.files.weights import open_weights

    source = open_source(path)
    try:
        open_weights(source)
        return source.size()
    finally:
        source.close()
