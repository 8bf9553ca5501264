"""What becomes of each tensor: its expression, its chunks, what it shares. Looks at samples; reads whole only what
may be a duplicate.

The plan is all that the header holds, so the header's size is known before the first chunk is made. A chunk that
breaks the plan is stored in another way (`codecs.chunk`), so a plan may be wrong about a tensor without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from slimtensors.codecs import layouts
from slimtensors.container.header import Header, Image
from slimtensors.container.values import check_metadata, check_name
from slimtensors.detect.casts import find_casts
from slimtensors.errors import FormatError, UsageError
from slimtensors.limits import CHUNK_BYTES, MAX_DIMENSIONS, MAX_TENSORS
from slimtensors.planning.building import Builder
from slimtensors.planning.differing import MatchedBase
from slimtensors.planning.duplicates import find_duplicates
from slimtensors.planning.packing import without_strangers
from slimtensors.planning.plan import Job, Plan
from slimtensors.sources.inputs import Input

__all__ = ["PRESETS", "check_preset", "make_plan"]

PRESETS = ("fast", "balanced", "small")


def make_plan(
    inputs: Sequence[Input],
    *,
    preset: str = "balanced",
    metadata: dict[str, str] | None = None,
    segments: Sequence[int | tuple[int, int]] | None = None,
    bases: Sequence[MatchedBase | None] | None = None,
    progress: Callable[[int], object] | None = None,
    source: str = "safetensors",
    near: bytes | None = None,
) -> Plan:
    """Plan a file. Raises UsageError for what no file can hold.

    segments: of the source image, if there is one; source: its format. near: the SHA-256 of the source file, if some
    inputs are lossy. bases: of each input, the tensor that it may be a difference from. progress: called with half the
    bytes of each tensor that was compared with its base, which takes about as long as to encode it.
    """
    check_preset(preset)
    metadata = dict(metadata or {})
    _check_inputs(inputs, metadata)
    matched = without_strangers(inputs, bases or [None] * len(inputs), partial(layouts.usual, preset=preset))
    builder, told = Builder(preset, inputs, matched), 0
    same = find_duplicates(inputs)
    casts = find_casts(inputs, same)
    builder.without_bytes = same.keys() | casts.keys()
    lossy = any(tensor.lossy is not None for tensor in inputs)
    if lossy and near is None:
        raise UsageError("some tensors are lossy, and the SHA-256 of their source is not known: compress its file")
    for i, tensor in enumerate(inputs):
        if i in casts:
            builder.add_cast(tensor, casts[i].source)
        else:
            builder.add(i, tensor, same.get(i))
            if tensor.encoding is not None:
                builder.tensors[-1] = builder.tensors[-1]._replace(encoding=tensor.encoding)
            if tensor.lossy is not None:
                builder.tensors[-1] = builder.tensors[-1]._replace(lossy=tensor.lossy)
            if progress is not None and matched[i] is not None:
                half = tensor.dtype.bytes_of(tensor.shape) // 2
                progress(half)
                told += half
    builder.finish_packs(inputs)
    image = None
    if segments is not None:
        literal = 32 + sum(s for s in segments if isinstance(s, int))
        image = Image(source, tuple(segments), min(literal, CHUNK_BYTES), builder.intern(layouts.BYTES))
        builder.image_jobs.append(Job(try_zstd=True, image=True))
    header = Header(
        builder.expressions, builder.tensors, builder.packs, metadata, image, builder.bases, near if lossy else None
    )
    identities = {i: cast.identity for i, cast in casts.items()}
    return Plan(header, builder.jobs(), builder.reasons, identities, told)


def check_preset(preset: str) -> None:
    """Raises UsageError unless it can be had."""
    if preset in PRESETS:
        return
    raise UsageError(f"unknown preset {preset!r}; available: {', '.join(PRESETS)}")


def _check_inputs(inputs: Sequence[Input], metadata: dict[str, str]) -> None:
    if len(inputs) > MAX_TENSORS:
        raise UsageError(f"{len(inputs)} tensors; one file holds at most {MAX_TENSORS}: save them in several")
    try:
        check_metadata(metadata)
        for tensor in inputs:
            check_name(tensor.name)
            if len(tensor.shape) > MAX_DIMENSIONS:
                raise UsageError(
                    f"tensor {tensor.name!r} has {len(tensor.shape)} dimensions; a file holds at most "
                    f"{MAX_DIMENSIONS}: reshape it"
                )
        for text in [*(tensor.name for tensor in inputs), *metadata, *metadata.values()]:
            if not text.isascii():
                _check_text(text)
    except FormatError as error:
        raise UsageError(str(error)) from None
    names = {tensor.name for tensor in inputs}
    if len(names) != len(inputs):
        raise UsageError("two tensors have the same name")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r:.80} holds half a surrogate pair, which is no text: rename it") from None
