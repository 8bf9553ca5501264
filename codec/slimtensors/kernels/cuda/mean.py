"""What a mean says of units (format_spec/coder.md, section 7.1): a higher class, and which sign to expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share

BIAS = 256  # of what a steer holds: more than any class


def make_steer(cuda: Any, types: Any, device: Device) -> Callable[..., None]:
    """A kernel: the class of each unit, lifted by its mean, and what says which sign to expect; as the CPU's
    `steer_units` has them.

    items uint32, sides uint8, factors uint16, contexts uint8, steers uint16
    """
    u32, u64, i32 = types.uint32, types.uint64, types.int32
    begin, share = make_begin(types, device), make_share(cuda, types, device)

    @device
    def product(factors: Any, items: Any, item: int, row: int, column: int) -> Any:
        """s, modulo 2^16"""
        first, stride = items[u32(item + u32(rows.MEAN))], items[u32(item + u32(rows.STRIDE))]
        one, s = u32(first + row), u32(0)
        # The columns' factors follow those of the rows.
        other = u32(u32(u32(first + stride) - items[u32(item + u32(rows.LENGTH))]) + column)
        for _ in range(i32(items[u32(item + u32(rows.MEAN_RANK))])):
            s = u32(s + u32(u32(factors[one]) * u32(factors[other])))
            one, other = u32(one + stride), u32(other + stride)
        return u32(s & u32(0xFFFF))

    @device
    def logarithm(size: int) -> Any:
        # l = 4 e + floor(4 |s| / 2^e) - 4 with e = floor(log2 |s|)
        e = u32(u32(63) - u32(cuda.clz(u64(size))))
        return u32(u32(u32(e << u32(2)) + u32(u32(size << u32(2)) >> e)) - u32(4))

    def steer(items: Any, sides: Any, factors: Any, contexts: Any, steers: Any) -> None:
        _number, item, first_unit, end = share(items)
        at = begin(items, item)
        target, told = contexts[at:], steers[at:]
        length, column = items[u32(item + u32(rows.LENGTH))], items[u32(item + u32(rows.COLUMN_AT))]
        row, of_rows = items[u32(item + u32(rows.ROW_AT))], items[u32(item + u32(rows.ROWS_FROM))]
        of_columns, steps_at = items[u32(item + u32(rows.COLUMNS_FROM))], items[u32(item + u32(rows.LIFTS))]
        for i in range(first_unit, end, i32(THREADS)):
            place = u32(column + u32(i))
            its_row = u32(row + u32(place // length))
            its_column = u32(place % length)
            k = u32(u32(sides[u32(of_rows + its_row)]) + u32(sides[u32(of_columns + its_column)]))
            s, lifted, found = product(factors, items, item, its_row, its_column), k, u32(0)
            if s != u32(0):
                negative = u32(s >> u32(15))
                size = logarithm(u32(u32(0x10000) - s) if negative != u32(0) else s)
                for step in range(i32(items[u32(item + u32(rows.LIFT_COUNT))])):
                    if size >= u32(factors[u32(steps_at + u32(step))]):
                        lifted = u32(lifted + u32(1))
                found = u32(u32(u32(u32(size + u32(BIAS)) - k) << u32(1)) | negative)
            target[u32(i)] = u32(lifted & u32(0xFF))
            told[u32(i)] = u32(found & u32(0xFFFF))

    return steer


def make_signs(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel: the context of each unit's sign. items uint32, steers uint16, units, contexts uint8."""
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin, share = make_begin(types, device), make_share(cuda, types, device)

    def signs(items: Any, steers: Any, units: Any, contexts: Any) -> None:
        _number, item, first_unit, end = share(items)
        at = begin(items, item)
        target, told = contexts[at:], steers[at:]
        source = units[begin(items, u32(item + u32(rows.BASE_AT))) :]
        first, tables = items[u32(item + u32(rows.FIRST))], items[u32(item + u32(rows.TABLES))]
        below, octave_bits = items[u32(item + u32(rows.FIELD_FROM))], items[u32(item + u32(rows.OCTAVE_BITS))]
        for i in range(first_unit, end, i32(THREADS)):
            # floor((floor(4 * field / octave) + l + 256 - k - first) / 2)
            field, steer = u32(unit(source[u32(i)]) >> unit(below)), u32(told[u32(i)])
            likely = u32(u32(u32(field << u32(2)) >> octave_bits) + u32(steer >> u32(1)))
            found = u32(u32(likely - first) >> u32(1)) if likely >= first and steer >= u32(2) else u32(0)
            target[u32(i)] = min(found, u32(tables - u32(1)))

    return signs


def make_flip(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel: signs that are those of a negative mean are the other ones. items uint32, steers uint16, out."""
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin, share = make_begin(types, device), make_share(cuda, types, device)

    def flip(items: Any, steers: Any, out: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        told = steers[begin(items, u32(item + u32(rows.BASE_AT))) :]
        for i in range(first_unit, end, i32(THREADS)):
            target[u32(i)] = unit(unit(target[u32(i)]) ^ unit(u32(told[u32(i)]) & u32(1)))

    return flip
