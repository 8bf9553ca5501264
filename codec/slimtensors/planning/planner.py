"""What becomes of each tensor: its expression, its chunks, what it shares. Looks at samples; reads whole only what
may be a duplicate.

The plan is all that the header holds, so the header's size is known before the first chunk is made. A chunk that
breaks the plan is stored in another way (`codecs.chunk`), so a plan may be wrong about a tensor without harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.codecs.place import Counted
from slimtensors.container.header import Base, Header, Image, Pack, Side, Tensor
from slimtensors.container.values import check_metadata, check_name
from slimtensors.container.writer import header_text
from slimtensors.detect.casts import find_casts
from slimtensors.detect.codes import Structure, find_structure
from slimtensors.detect.packed import Packed, find_packed
from slimtensors.detect.records import with_context
from slimtensors.detect.scaled import Known, Scale, by_module, scales_of
from slimtensors.detect.steering import find_steering, in_memory
from slimtensors.detect.tails import row_flags, trailing_zeros
from slimtensors.detect.zeros import integer_fields, is_plain, zeros_left_out
from slimtensors.dtypes import DTYPES, DType
from slimtensors.errors import FormatError, UsageError
from slimtensors.expression import Bits, Cast, Delta, Expression, FieldContext, LowRank, Ref, Sparse, Sum, bases_of
from slimtensors.gguf.blocks import Block, block_of
from slimtensors.limits import (
    CHUNK_BYTES,
    MAX_DIMENSIONS,
    MAX_TENSORS,
    PACK_BYTES,
    PACK_TENSOR_BYTES,
    STEERED_CHUNK_BYTES,
)
from slimtensors.planning.chunking import chunk_units, table_chunk
from slimtensors.planning.differing import (
    BaseUnits,
    DeltaPlan,
    MatchedBase,
    equal_rows,
    plan_delta,
    row_classes,
)
from slimtensors.planning.duplicates import find_duplicates
from slimtensors.planning.packing import PackedBases, packed_bases, plan_pack, without_strangers
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.sources.inputs import CopiedInput, Input, sample_units, unit_count

__all__ = ["PRESETS", "BaseUnits", "Job", "MatchedBase", "Plan", "make_plan"]

PRESETS = ("fast", "balanced", "small")

GLANCE = 512  # units of each run that are looked at first; most floats need no more

Units = npt.NDArray[Any]
SideMaker = Callable[[Input, int, int], Units]


@dataclass(frozen=True)
class Job:
    """How one stream's units are come by.

    side: makes units [low, high) of a side plane of the one input. each: how many units of the tensor a unit of the
    side plane is for; 0 if all of it is for all of them. base: what the tensor is stored as a difference from. slow: of
    records, whether any gain is worth a slower decoder. scale: the input that is the last side plane. counted: the
    symbols of the last plane of the only chunk. chunk: gives the stored bytes of a chunk, which are not made then.
    """

    inputs: tuple[int, ...] = ()
    side: SideMaker | None = None
    each: int = 0
    base: BaseUnits | None = None
    try_zstd: bool = False
    image: bool = False
    slow: bool = False
    scale: int | None = None
    counted: Counted | None = None
    chunk: Callable[[int], bytes] | None = None


@dataclass
class Plan:
    """A header, how to fill each of its streams, and why."""

    header: Header
    jobs: list[Job]
    reasons: list[str] = field(default_factory=list)  # of each tensor
    identities: dict[int, bytes] = field(default_factory=dict)  # of tensors that are never read again
    told: int = 0  # bytes that `progress` was told of

    @cached_property
    def text(self) -> bytes:
        """The header's bytes. Raises UsageError if there is no room for so much."""
        return header_text(self.header)


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
    inputs are lossy. bases: of each input, the tensor that it may be
    a difference from. progress: called with half the bytes of each tensor that was compared with its base, which takes
    about as long as to encode it.
    """
    check_preset(preset)
    metadata = dict(metadata or {})
    _check_inputs(inputs, metadata)
    matched = without_strangers(inputs, bases or [None] * len(inputs), partial(layouts.usual, preset=preset))
    builder, told = _Builder(preset, inputs, matched), 0
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


class _Builder:
    """The header's parts, as tensors are added in order."""

    def __init__(self, preset: str, inputs: Sequence[Input], matched: Sequence[MatchedBase | None]) -> None:
        self.preset = preset
        self.without_bytes: Collection[int] = ()  # inputs that are stored as another one
        self._inputs = inputs
        self._modules: dict[str, list[Scale]] = by_module(inputs) if preset == "small" else {}
        self._known: list[Known] = []  # what scales tell
        self._scales: set[int] = set()  # inputs that hold the scales of others
        self.bases: list[Base] = []
        self._base_places: dict[Base, int] = {}
        self._matched = matched
        self.expressions: list[Expression] = []
        self.tensors: list[Tensor] = []
        self.packs: list[Pack] = []
        self.reasons: list[str] = []
        self.image_jobs: list[Job] = []
        self._positions: dict[Expression, int] = {}
        self._jobs: list[Job | int] = []  # an int is a pack, whose tensors are known only at the end
        self._pack_inputs: list[list[int]] = []
        self._open_packs: dict[tuple[DType, bool], tuple[int, int]] = {}  # by dtype and based: (pack, bytes so far)
        self._pack_bases: dict[int, PackedBases] = {}  # of packs that are differences

    def intern(self, expression: Expression) -> int:
        """The expression's place in the header's list."""
        if expression not in self._positions:
            self._positions[expression] = len(self.expressions)
            self.expressions.append(expression)
        return self._positions[expression]

    def jobs(self) -> list[Job]:
        """One per stream, in the header's order."""
        made = []
        for job in self._jobs:
            if isinstance(job, int):
                zstd = not self.packs[job].dtype.is_float
                base = self._pack_bases.get(job)
                made.append(Job(inputs=tuple(self._pack_inputs[job]), base=base, try_zstd=zstd))
            else:
                made.append(job)
        return made + self.image_jobs

    def add(self, index: int, tensor: Input, same_as: int | None) -> None:
        """Decide one tensor."""
        name, dtype, shape = tensor.name, tensor.dtype, tuple(tensor.shape)
        size = dtype.bytes_of(shape)
        if size == 0:
            self._note(Tensor(name, dtype, shape), "no elements")
        elif same_as is not None:
            self._note(
                Tensor(name, dtype, shape, self.intern(Ref(same_as))), f"equal to {self.tensors[same_as].name!r}"
            )
        elif isinstance(tensor, QuantisedInput):
            chunk = tensor.structure.chunk or chunk_units(unit_count(tensor), dtype)
            self._add_structure(index, tensor, tensor.structure, chunk)
        elif isinstance(tensor, CopiedInput):
            self._add_copy(index, tensor)
        elif size < PACK_TENSOR_BYTES:
            self._add_to_pack(index, Tensor(name, dtype, shape), size)
        else:
            self._add_stream(index, tensor, shape)

    def add_cast(self, tensor: Input, source: int) -> None:
        """A tensor that is another one, earlier or later, converted."""
        cast = Tensor(tensor.name, tensor.dtype, tuple(tensor.shape), self.intern(Cast(source)))
        self._note(cast, f"tensor {source} converted to {tensor.dtype.name}")

    def _note(self, tensor: Tensor, why: str) -> None:
        self.tensors.append(tensor)
        self.reasons.append(why)

    def _add_to_pack(self, index: int, tensor: Tensor, size: int) -> None:
        based = self._matched[index] is not None
        pack, filled = self._open_packs.get((tensor.dtype, based), (-1, PACK_BYTES))
        if filled + size > PACK_BYTES:
            pack, filled = len(self.packs), 0
            bits = layouts.usual(tensor.dtype, self.preset)
            self.packs.append(Pack(tensor.dtype, self.intern(bits)))
            self._pack_inputs.append([])
            self._jobs.append(pack)
        self._open_packs[tensor.dtype, based] = pack, filled + size
        self._pack_inputs[pack].append(index)
        packed = Tensor(tensor.name, tensor.dtype, tensor.shape, pack=pack)
        self._note(packed, f"smaller than {PACK_TENSOR_BYTES // 1024} KiB: shares a chunk")

    def finish_packs(self, inputs: Sequence[Input]) -> None:
        """Make packs whose tensors have bases differences from these, where that takes less."""
        for number, (pack, held) in enumerate(zip(self.packs, self._pack_inputs, strict=True)):
            bases, plain = packed_bases(inputs, held, self._matched), self.expressions[pack.expression]
            bits = plan_pack(inputs, held, bases, plain) if bases is not None and isinstance(plain, Bits) else None
            if bases is None or bits is None:
                continue
            positions = tuple(self._base(base) for base, _ in bases.members)
            self.packs[number] = Pack(pack.dtype, self.intern(Delta(bits, positions)))
            self._pack_bases[number] = bases
            for i in held:
                self.reasons[i] += ", as differences from their bases"

    def _base(self, matched: MatchedBase) -> int:
        """The base's place in the header's list."""
        place = self._base_places.setdefault(matched.base, len(self.bases))
        if place == len(self.bases):
            self.bases.append(matched.base)
        return place

    def _add_blocks(self, index: int, tensor: Input, block: Block) -> None:
        """A tensor of blocks: each kind of field in a plane of its own."""
        records = unit_count(tensor) // block.size
        chunks = -(-records * block.size // CHUNK_BYTES)
        chunk = -(-records // chunks) * block.size
        record, why = block.record, f"blocks of {block.name}, field by field"
        small = self.preset == "small"
        if block.scale is not None:
            record = with_context(tensor, record, block.scale, chunk, slow=small)
            context = record.fields[-1].context
            if isinstance(context, FieldContext):
                why += ", codes given the size of their scale" + (" beside its row's" if context.mean else "")
        self._jobs.append(Job(inputs=(index,), slow=small))
        self._note(Tensor(tensor.name, tensor.dtype, tuple(tensor.shape), self.intern(record), chunk), why)

    def _add_stream(self, index: int, tensor: Input, shape: tuple[int, ...]) -> None:
        dtype, units = tensor.dtype, unit_count(tensor)
        block = block_of(tensor.encoding, dtype.name, shape)
        if block is not None and self._matched[index] is None:
            self._add_blocks(index, tensor, block)
            return
        chunk = chunk_units(units, dtype)
        tail, by_row, why = 0, False, ""
        small = self.preset == "small"
        if small:
            tensor = in_memory(tensor)
        sample = sample_units(tensor, GLANCE)
        if not dtype.is_float or not is_plain(sample):
            sample = sample_units(tensor)
        if dtype.is_float:
            tail, by_row, why = trailing_zeros(tensor, sample, units, layouts.most_tail(dtype, self.preset))
            bits = layouts.floats(dtype, self.preset, tail, by_row)
            if not tail and not int(sample.max()) >> (dtype.unit_bits - 1):
                bits, why = layouts.unsigned(dtype, self.preset), "none is negative"
        else:
            bits = layouts.usual(dtype, self.preset)
            if dtype.unit_bits == 16 or dtype.unit_bits == 32:
                bits, why = integer_fields(sample, dtype)
        sides: tuple[Side, ...] = ()
        matched = self._matched[index]
        delta = None if matched is None else plan_delta(tensor, bits, matched)
        if matched is not None and delta is not None:
            self._add_delta(index, tensor, matched, delta, chunk)
            return
        # Rows that lack bits are told by a side plane, which does not exist yet: measured against is what has none.
        structure = find_structure(tensor, layouts.floats(dtype, self.preset) if by_row else bits)
        if structure is not None:
            self._add_structure(index, tensor, structure, chunk)
            return
        if not small:  # whose contexts have more tables in a chunk
            chunk = table_chunk(shape, dtype) or chunk
        expression, why_sparse = zeros_left_out(sample, dtype, bits, self.preset)
        if isinstance(expression, Sparse):
            by_row, why = False, why_sparse
        if by_row:
            rows = math.prod(shape[:-1])
            sides = (Side(DTYPES["U8"], (rows,), min(rows, CHUNK_BYTES), self.intern(layouts.FLAGS)),)
            self._jobs.append(Job((index,), partial(row_flags, tail=tail), shape[-1], try_zstd=True))
        packed = None
        if self.preset != "fast" and expression is bits:
            held = scales_of(tensor, self._modules, self._may_be_scales) if small and index not in self._scales else []
            packed = find_packed(tensor, bits, small=small, scales=held, known=self._known)
        if packed is not None:
            self._add_packed(index, tensor, packed)
            return
        wide = chunk_units(units, dtype, STEERED_CHUNK_BYTES)
        steering = find_steering(tensor, self.preset, wide) if small and expression is bits else None
        counted = None
        if steering is not None:
            chunk = wide
            expression = steering.steer(bits, dtype, len(sides))
            for side, side_bits in zip(steering.sides, steering.side_bits(len(sides)), strict=True):
                sides += (Side(DTYPES["U8"], side.shape, min(side.size, CHUNK_BYTES), self.intern(side_bits)),)
                self._jobs.append(Job((index,), partial(_part, side.reshape(-1)), try_zstd=True))
            why = f"{why}; {steering.why}" if why else steering.why
            if bits == layouts.floats(dtype, self.preset):  # which is what was tried
                counted = steering.counted
        self._jobs.append(Job(inputs=(index,), try_zstd=not dtype.is_float, counted=counted))
        planned = Tensor(tensor.name, dtype, shape, self.intern(expression), chunk, sides)
        self._note(planned, why or f"{dtype.name} fields")

    def _add_structure(self, index: int, tensor: Input, structure: Structure, chunk: int) -> None:
        sides = []
        for table in structure.tables:
            units = math.prod(table.shape)
            bits = table.bits or layouts.usual(table.dtype, self.preset)
            if table.dtype.name == "F32":
                tail = min(table.tail, layouts.most_tail(table.dtype, self.preset))
                bits = layouts.floats(table.dtype, self.preset, tail)
            sides.append(Side(table.dtype, table.shape, chunk_units(units, table.dtype), self.intern(bits)))
            self._jobs.append(Job((index,), table.make, table.each, try_zstd=table.try_zstd))
        expression, base = structure.expression, None
        if bases_of(expression):
            base = self._matched[index]
            assert isinstance(expression, Sum)
            assert base is not None
            expression = replace(expression, plus=self._base(base))
        self._jobs.append(Job(inputs=(index,), base=base))
        place = self.intern(expression)
        made = Tensor(tensor.name, tensor.dtype, tuple(tensor.shape), place, chunk, tuple(sides))
        self._note(made, structure.why)

    def _add_copy(self, index: int, tensor: CopiedInput) -> None:
        expressions, made = tensor.expressions, tensor.tensor
        assert made.expression is not None
        sides = tuple(each._replace(expression=self.intern(expressions[each.expression])) for each in made.sides)
        for k, units in enumerate(tensor.sides()):
            make = partial(_part, units.reshape(-1))
            self._jobs.append(Job((index,), make, chunk=partial(tensor.chunk, k)))
        self._jobs.append(Job((index,), chunk=partial(tensor.chunk, len(sides))))
        place = self.intern(expressions[made.expression])
        self._note(made._replace(expression=place, sides=sides), "as another file stores it")

    def _add_packed(self, index: int, tensor: Input, packed: Packed) -> None:
        """Codes of quantised weights."""
        sides: tuple[Side, ...] = ()
        for side in packed.sides:
            sides += (Side(DTYPES["U8"], side.shape, min(side.size, CHUNK_BYTES), self.intern(layouts.BYTES)),)
            self._jobs.append(Job((index,), partial(_part, side), try_zstd=True))
        self._jobs.append(Job(inputs=(index,), slow=self.preset == "small", scale=packed.scale))
        record, why, shape = self.intern(packed.record), packed.why, tuple(tensor.shape)
        if packed.scale is not None:
            self._scales.add(packed.scale)
            why += f", of {self._inputs[packed.scale].name!r}"
        self._note(Tensor(tensor.name, tensor.dtype, shape, record, packed.chunk, sides, packed.scale), why)

    def _may_be_scales(self, index: int) -> bool:
        """Whether an input is stored by itself: other tensors can have it as a side plane."""
        if index in self.without_bytes or self._matched[index] is not None:
            return False
        if isinstance(self._inputs[index], QuantisedInput):
            return False
        return index >= len(self.tensors) or self.tensors[index].scale is None

    def _add_delta(self, index: int, tensor: Input, matched: MatchedBase, plan: DeltaPlan, chunk: int) -> None:
        sides: tuple[Side, ...] = ()
        shape = tuple(tensor.shape)
        for wanted, make, bits in (
            (plan.by_row, equal_rows, layouts.FLAGS),
            (plan.classes, row_classes, layouts.BYTES),
        ):
            if wanted:
                sides += (Side(DTYPES["U8"], (shape[0],), min(shape[0], CHUNK_BYTES), self.intern(bits)),)
                each = unit_count(tensor) // shape[0]
                self._jobs.append(Job((index,), partial(make, matched=matched), each, try_zstd=True))
        moved = None
        if plan.factors is not None:
            factors = plan.factors
            for units, bits in ((factors.left, factors.left_bits), (factors.right, factors.right_bits)):
                dtype = DTYPES[f"I{8 * units.itemsize}"]
                sides += (Side(dtype, units.shape, chunk_units(units.size, dtype), self.intern(bits)),)
                self._jobs.append(Job((index,), partial(_part, units.reshape(-1))))
            moved = LowRank(0, 1, factors.shift)
        self._jobs.append(Job((index,), base=matched, try_zstd=not tensor.dtype.is_float))
        expression = self.intern(Delta(plan.bits, self._base(matched), moved))
        self._note(Tensor(tensor.name, tensor.dtype, shape, expression, chunk, sides), plan.why)


def _part(made: Units, _tensor: Input, low: int, high: int) -> Units:
    """Units [low, high) of a side plane that the plan holds."""
    return made[low:high]
