"""Fields of a repeated pattern of bytes, plane by plane (format_spec/records.md).

    runs    int64[k, 6]   where bits of fields lie: first field in the record, number of fields, step, bit of the
            record, bit of the field, width; a step between two fields is in bits
    fields  uint8 or uint16 [records * per + what follows]   `per` fields for each record
    data    uint8[records * size]

All return OK, or BAD_ARGUMENT if runs reach out of their record or fields, or lengths disagree.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimtensors.kernels._jit import inlined, kernel
from slimtensors.kernels.cpu.blocks import LANES
from slimtensors.kernels.simd.lanes import as_in, first_lanes, select
from slimtensors.kernels.simd.memory import load, store
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

FIRST, COUNT, STEP, BIT, SHIFT, WIDTH = range(6)
MAX_RECORD = 4096  # bytes; keeps all products small


@inlined
def sound(runs: Array, per: int, size: int, fields: Array, data: Array) -> bool:
    """Whether every bit that is named lies in its record and its fields."""
    if not 1 <= size <= MAX_RECORD or not 1 <= per <= 8 * size or data.size % size != 0:
        return False
    if fields.size < data.size // size * per or runs.shape[1] != 6:
        return False
    bits = fields.itemsize * 8
    for k in range(runs.shape[0]):
        first, count, step = runs[k, FIRST], runs[k, COUNT], runs[k, STEP]
        if not 0 <= first < per or not 1 <= count <= per - first or not 0 <= step <= 8 * size:
            return False
        if not 1 <= runs[k, WIDTH] <= bits - runs[k, SHIFT] or not 0 <= runs[k, SHIFT] < bits:
            return False
        if runs[k, BIT] < 0 or runs[k, BIT] + (count - 1) * step + runs[k, WIDTH] > 8 * size:
            return False
    return True


@kernel
def put_fields(fields: Array, per: int, runs: Array, size: int, data: Array) -> int:
    """data |= the fields' bits, each in its place."""
    if not sound(runs, per, size, fields, data):
        return BAD_ARGUMENT
    for record in range(data.size // size):
        for k in range(runs.shape[0]):
            first, count, step = record * per + int(runs[k, FIRST]), int(runs[k, COUNT]), int(runs[k, STEP])
            begin, shift, width = int(runs[k, BIT]), int(runs[k, SHIFT]), int(runs[k, WIDTH])
            at, inside = record * size + begin // 8, begin % 8
            mask = (1 << width) - 1
            done = 0
            if step == 8 and inside + width <= 8:
                # One field a byte: 32 at once, as long as neither array ends within them.
                while done < count and first + done + LANES <= fields.size and at + done + LANES <= data.size:
                    bits = as_in(data, load(fields, first + done) >> shift & mask) << inside
                    before = load(data, at + done)
                    store(data, at + done, select(first_lanes(min(count - done, LANES)), before | bits, before))
                    done += LANES
            for i in range(done, count):
                value = (int(fields[first + i]) >> shift & mask) << (begin + i * step) % 8
                byte = record * size + (begin + i * step) // 8
                # what is left has at most as many bytes as the width reaches into, and these are in the record
                while value != 0:
                    data[byte] |= value & 255
                    value >>= 8
                    byte += 1
    return OK


@kernel
def cut_fields(data: Array, per: int, runs: Array, size: int, fields: Array) -> int:
    """The inverse: fields |= their bits of the data."""
    if not sound(runs, per, size, fields, data):
        return BAD_ARGUMENT
    for record in range(data.size // size):
        for k in range(runs.shape[0]):
            first, count, step = record * per + int(runs[k, FIRST]), int(runs[k, COUNT]), int(runs[k, STEP])
            begin, shift, width = int(runs[k, BIT]), int(runs[k, SHIFT]), int(runs[k, WIDTH])
            at, inside = record * size + begin // 8, begin % 8
            mask = (1 << width) - 1
            done = 0
            if step == 8 and inside + width <= 8:
                while done < count and first + done + LANES <= fields.size and at + done + LANES <= data.size:
                    bits = as_in(fields, load(data, at + done) >> inside & mask) << shift
                    before = load(fields, first + done)
                    store(fields, first + done, select(first_lanes(min(count - done, LANES)), before | bits, before))
                    done += LANES
            for i in range(done, count):
                bit = begin + i * step
                byte, value = record * size + bit // 8, 0
                for b in range((bit % 8 + width + 7) // 8):
                    value |= int(data[byte + b]) << 8 * b
                fields[first + i] |= (value >> bit % 8 & mask) << shift
    return OK


@kernel
def less_means(given: Array, each: int, before: int, lift: int, out: Array) -> int:
    """out (uint16) = given + lift - the mean, rounded down, of its group of `each` of `given` (uint8 or uint16); of the
    first group `before` are not there, and the last may be shorter. BAD_ARGUMENT where one would not fit.
    """
    if each < 1 or not 0 <= before < each or out.size != given.size or not 0 <= lift <= 1 << 16:
        return BAD_ARGUMENT
    for group in range(-before, given.size, each):
        begin, end = max(group, 0), min(group + each, given.size)
        total, least, most = 0, 1 << 16, 0
        for i in range(begin, end):
            found = int(given[i])
            total, least, most = total + found, min(least, found), max(most, found)
        moved = lift - total // (end - begin)
        if least + moved < 0 or most + moved >= 1 << 16:
            return BAD_ARGUMENT
        for i in range(begin, end):
            out[i] = int(given[i]) + moved
    return OK


@kernel
def scale_classes(units: Array, classes: Array, each: int, at: int, shift: int, first: int, out: Array) -> int:
    """What records, from number `at`, have of a scale: out[i] = classes[(units[(at + i) / each] >> shift) - first], or
    the first or last of the classes.

    units uint8, 16 or 32 [n], one for `each` records; classes uint8[k]; out uint8[records]
    """
    if each < 1 or at < 0 or at + out.size > units.size * each or not 0 <= shift < 32 or first < 0 or classes.size < 1:
        return BAD_ARGUMENT
    for i in range(out.size):
        found = (int(units[(at + i) // each]) >> shift) - first
        out[i] = classes[min(max(found, 0), classes.size - 1)]
    return OK


@kernel
def add_to_records(classes: Array, each: int, most: int, out: Array) -> int:
    """out[i] = min(out[i] + classes[i / each], most), all uint8; most is below 64 and so are the classes."""
    if each < 1 or out.size != classes.size * each or not 0 <= most < 64:
        return BAD_ARGUMENT
    for record in range(classes.size):
        found, end = classes[record], (record + 1) * each
        if found >= 64:
            return BAD_ARGUMENT
        i = record * each
        while i + LANES <= end:
            value = load(out, i)
            value = select(value < most, value, (value & 0) + most) + found
            store(out, i, select(value < most, value, (value & 0) + most))
            i += LANES
        while i < end:
            out[i] = min(min(int(out[i]), most) + int(found), most)
            i += 1
    return OK


@kernel
def field_contexts(given: Array, each: int, shift: int, first: int, tables: int, out: Array) -> int:
    """Of every field of `given` (uint8 or uint16), for the next `each` of out (uint8): the table that it selects."""
    if each < 1 or out.size != given.size * each or not 0 <= shift < 16 or not 1 <= tables <= 256 or first < 0:
        return BAD_ARGUMENT
    for i in range(given.size):
        found = min(max((int(given[i]) >> shift) - first, 0), tables - 1)
        for j in range(i * each, (i + 1) * each):
            out[j] = found
    return OK
