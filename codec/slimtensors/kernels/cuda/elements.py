"""Unit by unit, around the coder: raw and constant planes, what selects a unit's table, and what finishes a unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimtensors.kernels.cuda import rows
from slimtensors.kernels.cuda.decode import make_begin
from slimtensors.kernels.cuda.rows import NOWHERE, THREADS
from slimtensors.kernels.cuda.seam import Device
from slimtensors.kernels.cuda.share import make_share


def make_fields(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel: the fields of a raw or constant plane into units. segment8 uint8, items uint32."""
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    begin = make_begin(types, device)

    @device
    def packed(segment8: Any, first: int, width: int, groups: int, i: int) -> Any:
        """Field i of a raw plane (format_spec/coder.md, section 2)."""
        step, lane = u32(i >> u32(5)), u32(i & u32(31))
        field, above = u32(0), u32(0)
        for power in range(4):
            bits, each = u32(8 >> power), u32(power)  # 2^each steps to 32 bytes
            if u32(width & bits) != u32(0):
                at = u32(u32(first + u32(u32(step >> each) << u32(5))) + lane)
                turn = u32(bits * u32(step & u32(u32(u32(1) << each) - u32(1))))
                cut = u32(u32(u32(segment8[at]) >> turn) & u32(u32(u32(1) << bits) - u32(1)))
                field = u32(field | u32(cut << above))
                # 32 * ceil(4 * groups / 2^each) bytes
                full = u32(u32(groups << u32(2)) + u32(u32(u32(1) << each) - u32(1)))
                first = u32(first + u32(u32(full >> each) << u32(5)))
                above = u32(above + bits)
        return field

    def fields(segment8: Any, items: Any, out: Any) -> None:
        item = u32(u32(cuda.blockIdx.x) * u32(rows.FIELDS_ITEM))
        target, count = out[begin(items, item) :], i32(items[u32(item + u32(rows.UNITS))])
        start, groups = items[u32(item + u32(rows.UNIT_AT))], items[u32(item + u32(rows.GROUPS_ALL))]
        shift, width = items[u32(item + u32(rows.FIELD_SHIFT))], items[u32(item + u32(rows.FIELD_WIDTH))]
        above, value = items[u32(item + u32(rows.FIELD_ABOVE))], items[u32(item + u32(rows.VALUE))]
        for i in range(i32(cuda.threadIdx.x), count, i32(THREADS)):
            field = packed(segment8, value, width, groups, u32(start + u32(i))) if width != u32(0) else value
            below = unit(target[u32(i)]) if above != u32(0) else unit(0)
            target[u32(i)] = unit(below | unit(unit(field) << unit(shift)))

    return fields


def make_rotated_left(types: Any, device: Device, unit_bytes: int) -> Any:
    """rotated_left(value): by one bit."""
    unit, bits = types.uint64 if unit_bytes == 8 else types.uint32, 8 * unit_bytes
    mask = (1 << bits) - 1

    @device
    def rotated_left(value: int) -> Any:
        return unit(unit(unit(value << unit(1)) | unit(value >> unit(bits - 1))) & unit(mask))

    return rotated_left


def make_contexts(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel: the context of each unit. items uint32, sides uint8, bases of the unit's size, contexts uint8."""
    u32, i32 = types.uint32, types.int32
    unit = types.uint64 if unit_bytes == 8 else types.uint32
    share = make_share(cuda, types, device)
    begin, rotated_left = make_begin(types, device), make_rotated_left(types, device, unit_bytes)

    @device
    def of_base(items: Any, item: int, base: int) -> Any:
        # clamp(floor(rotate_left(base) / 2^shift) - first, 0, tables - 1)
        shifted = unit(rotated_left(base) >> unit(items[u32(item + u32(rows.CONTEXT_SHIFT))]))
        value, first = u32(shifted & unit(0xFFFF)), items[u32(item + u32(rows.FIRST))]
        found = u32(value - first) if value > first else u32(0)
        return min(found, u32(items[u32(item + u32(rows.TABLES))] - u32(1)))

    def contexts_of(items: Any, sides: Any, bases: Any, contexts: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = contexts[begin(items, item) :]
        base, tables = bases[begin(items, u32(item + u32(rows.BASE_AT))) :], items[u32(item + u32(rows.TABLES))]
        length, column = items[u32(item + u32(rows.LENGTH))], items[u32(item + u32(rows.COLUMN_AT))]
        row, of_rows = items[u32(item + u32(rows.ROW_AT))], items[u32(item + u32(rows.ROWS_FROM))]
        of_columns, most = items[u32(item + u32(rows.COLUMNS_FROM))], items[u32(item + u32(rows.MOST_CLASS))]
        for i in range(first_unit, end, i32(THREADS)):
            # The unit's place, from its row's start on.
            place = u32(column + u32(i))
            found = of_base(items, item, unit(base[u32(i)])) if tables != u32(0) else u32(0)
            if of_rows != u32(NOWHERE):
                turn = u32(place // length)
                class_ = u32(sides[u32(of_rows + u32(row + turn))])
                found = u32(found + u32(class_ * max(tables, u32(1))))
                if of_columns != u32(NOWHERE):
                    at = u32(of_columns + u32(place - u32(turn * length)))
                    found = u32(found + u32(sides[at]))
            target[u32(i)] = min(found, most)

    return contexts_of


def make_finish(cuda: Any, types: Any, device: Device, unit_bytes: int) -> Callable[..., None]:
    """A kernel: units rotated right, or added to their base. items uint32, bases and out of the unit's size."""
    u32, i32 = types.uint32, types.int32
    unit, bits = types.uint64 if unit_bytes == 8 else types.uint32, 8 * unit_bytes
    high, mask = 1 << bits - 1, (1 << bits) - 1
    begin, share = make_begin(types, device), make_share(cuda, types, device)

    @device
    def in_order(u: int) -> Any:
        # o(u) = u + 2^(b-1) if u < 2^(b-1), else 2^b - 1 - u
        return unit(u | unit(high)) if u < unit(high) else unit(unit(mask) - u)

    @device
    def out_of_order(o: int) -> Any:
        return unit(o - unit(high)) if o >= unit(high) else unit(unit(mask) - o)

    @device
    def signed(z: int) -> Any:
        # d = z / 2 if z is even, else -(z + 1) / 2
        half = unit(z >> unit(1))
        return unit(unit(mask) - half) if unit(z & unit(1)) != unit(0) else half

    def finish(items: Any, bases: Any, out: Any) -> None:
        _number, item, first_unit, end = share(items)
        target = out[begin(items, item) :]
        base = bases[begin(items, u32(item + u32(rows.BASE_AT))) :]
        ordered, added = items[u32(item + u32(rows.ORDERED))], items[u32(item + u32(rows.ADDED))]
        rotated = items[u32(item + u32(rows.ROTATED))]
        for i in range(first_unit, end, i32(THREADS)):
            value = unit(target[u32(i)])
            if rotated != u32(0):
                value = unit(unit(value >> unit(1)) | unit(value << unit(bits - 1)))
            if added != u32(0):
                from_ = unit(base[u32(i)])
                if ordered != u32(0):
                    value = out_of_order(unit(unit(in_order(from_) + signed(value)) & unit(mask)))
                else:
                    value = unit(from_ + signed(value))
            target[u32(i)] = value

    return finish
