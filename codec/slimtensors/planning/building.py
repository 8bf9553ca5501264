"""The header's parts and the jobs of its streams, as tensors are added in order."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy.typing as npt

from slimtensors.codecs import layouts
from slimtensors.container.header import Base, Pack, Side, Tensor
from slimtensors.detect.codes import Structure, find_structure
from slimtensors.detect.packed import Packed, find_packed
from slimtensors.detect.records import with_context
from slimtensors.detect.scaled import Known, Scale, by_module, scales_of
from slimtensors.detect.steering import find_steering, in_memory
from slimtensors.detect.tails import row_flags
from slimtensors.detect.zeros import zeros_left_out
from slimtensors.dtypes import DTYPES, DType
from slimtensors.expression import Bits, Cast, Delta, Expression, FieldContext, LowRank, Ref, Sparse, Sum, bases_of
from slimtensors.gguf.blocks import Block, block_of
from slimtensors.limits import CHUNK_BYTES, PACK_BYTES, PACK_TENSOR_BYTES, STEERED_CHUNK_BYTES
from slimtensors.planning.chunking import chunk_units, table_chunk
from slimtensors.planning.differing import DeltaPlan, MatchedBase, equal_rows, plan_delta, row_classes
from slimtensors.planning.fields import Fields, choose_fields
from slimtensors.planning.packing import PackedBases, packed_bases, plan_pack
from slimtensors.planning.plan import Job
from slimtensors.quantise.quantiser import QuantisedInput
from slimtensors.sources.inputs import CopiedInput, Input, unit_count

__all__ = ["Builder"]

Units = npt.NDArray[Any]


class Builder:
    """Takes tensors in order. `jobs` and `finish_packs` are asked for after the last."""

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
            self._add_stream(index, tensor)

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
        self._note(_tensor(tensor, self.intern(record), chunk), why)

    def _add_stream(self, index: int, tensor: Input) -> None:
        """A tensor with chunks of its own: the first of the ways to store it that suits, the most particular first."""
        matched = self._matched[index]
        block = block_of(tensor.encoding, tensor.dtype.name, tuple(tensor.shape))
        if block is not None and matched is None:
            self._add_blocks(index, tensor, block)
            return
        if self.preset == "small":
            tensor = in_memory(tensor)
        chunk = chunk_units(unit_count(tensor), tensor.dtype)
        fields = choose_fields(tensor, self.preset)
        delta = None if matched is None else plan_delta(tensor, fields.bits, matched)
        if matched is not None and delta is not None:
            self._add_delta(index, tensor, matched, delta, chunk)
            return
        # Flags of rows do not exist yet: measured against is what has none.
        unflagged = layouts.floats(tensor.dtype, self.preset) if fields.row_tail else fields.bits
        structure = find_structure(tensor, unflagged)
        if structure is not None:
            self._add_structure(index, tensor, structure, chunk)
            return
        if self.preset != "small":  # whose contexts have more tables in a chunk
            chunk = table_chunk(tuple(tensor.shape), tensor.dtype) or chunk
        sparse, why = zeros_left_out(fields.sample, tensor.dtype, fields.bits, self.preset)
        if isinstance(sparse, Sparse):
            self._jobs.append(Job((index,), try_zstd=not tensor.dtype.is_float))
            self._note(_tensor(tensor, self.intern(sparse), chunk), why)
            return
        packed = None if self.preset == "fast" else self._find_packed(index, tensor, fields.bits)
        if packed is not None:
            self._add_packed(index, tensor, packed)
        else:
            self._add_fields(index, tensor, fields, chunk)

    def _find_packed(self, index: int, tensor: Input, bits: Bits) -> Packed | None:
        small = self.preset == "small"
        held = scales_of(tensor, self._modules, self._may_be_scales) if small and index not in self._scales else []
        return find_packed(tensor, bits, small=small, scales=held, known=self._known)

    def _add_fields(self, index: int, tensor: Input, fields: Fields, chunk: int) -> None:
        """Nothing but the fields of the units; of `small` in contexts, where these pay."""
        dtype, expression, why, counted = tensor.dtype, fields.bits, fields.why, None
        sides: tuple[Side, ...] = ()
        if fields.row_tail:
            *rows, length = tensor.shape
            sides = (self._side((math.prod(rows),), layouts.FLAGS),)
            self._jobs.append(Job((index,), partial(row_flags, tail=fields.row_tail), length, try_zstd=True))
        if self.preset == "small":
            wide = chunk_units(unit_count(tensor), dtype, STEERED_CHUNK_BYTES)
            steering = find_steering(tensor, self.preset, wide)
            if steering is not None:
                chunk, expression = wide, steering.steer(fields.bits, dtype, len(sides))
                for side, bits in zip(steering.sides, steering.side_bits(len(sides)), strict=True):
                    sides += (self._side(side.shape, bits),)
                    self._jobs.append(Job((index,), partial(_part, side.reshape(-1)), try_zstd=True))
                why = f"{why}; {steering.why}" if why else steering.why
                if fields.bits == layouts.floats(dtype, self.preset):  # which is what was tried
                    counted = steering.counted
        self._jobs.append(Job((index,), try_zstd=not dtype.is_float, counted=counted))
        self._note(_tensor(tensor, self.intern(expression), chunk, sides), why or f"{dtype.name} fields")

    def _side(self, shape: tuple[int, ...], bits: Bits) -> Side:
        """A side plane of bytes."""
        return Side(DTYPES["U8"], shape, min(math.prod(shape), CHUNK_BYTES), self.intern(bits))

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
        self._note(_tensor(tensor, self.intern(expression), chunk, tuple(sides)), structure.why)

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
            sides += (self._side(side.shape, layouts.BYTES),)
            self._jobs.append(Job((index,), partial(_part, side), try_zstd=True))
        self._jobs.append(Job(inputs=(index,), slow=self.preset == "small", scale=packed.scale))
        why = packed.why
        if packed.scale is not None:
            self._scales.add(packed.scale)
            why += f", of {self._inputs[packed.scale].name!r}"
        made = _tensor(tensor, self.intern(packed.record), packed.chunk, sides)
        self._note(made._replace(scale=packed.scale), why)

    def _may_be_scales(self, index: int) -> bool:
        """Whether an input is stored by itself: other tensors can have it as a side plane."""
        if index in self.without_bytes or self._matched[index] is not None:
            return False
        if isinstance(self._inputs[index], QuantisedInput):
            return False
        return index >= len(self.tensors) or self.tensors[index].scale is None

    def _add_delta(self, index: int, tensor: Input, matched: MatchedBase, plan: DeltaPlan, chunk: int) -> None:
        sides: tuple[Side, ...] = ()
        for wanted, make, bits in (
            (plan.by_row, equal_rows, layouts.FLAGS),
            (plan.classes, row_classes, layouts.BYTES),
        ):
            if wanted:
                rows = tensor.shape[0]
                sides += (self._side((rows,), bits),)
                each = unit_count(tensor) // rows
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
        self._note(_tensor(tensor, expression, chunk, sides), plan.why)


def _tensor(tensor: Input, expression: int, chunk: int, sides: tuple[Side, ...] = ()) -> Tensor:
    """The record of one with chunks of its own."""
    return Tensor(tensor.name, tensor.dtype, tuple(tensor.shape), expression, chunk, sides)


def _part(made: Units, _tensor: Input, low: int, high: int) -> Units:
    """Units [low, high) of a side plane that the plan holds."""
    return made[low:high]
