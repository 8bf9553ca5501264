"""The kernels of records against naive twins, on layouts of every kind."""

from __future__ import annotations

import numpy as np

from slimtensors.kernels.cpu import records
from slimtensors.kernels.status import BAD_ARGUMENT, OK

# first field, number, step, bit, bit of the field, width
LAYOUTS = [
    (18, 32, [(0, 16, 8, 16, 0, 4), (16, 16, 8, 20, 0, 4)]),  # nibbles
    (18, 1, [(0, 1, 0, 0, 0, 16)]),  # a field of two bytes
    (34, 32, [(0, 32, 8, 16, 0, 8)]),  # bytes
    (22, 32, [(0, 16, 8, 48, 0, 4), (0, 16, 1, 16, 4, 1), (16, 16, 8, 52, 0, 4), (16, 16, 1, 32, 4, 1)]),
    (100, 70, [(0, 70, 8, 8, 3, 5)]),  # more than two vectors, shifted within the field
    (66, 4, [(0, 4, 7, 64, 0, 7)]),  # across bytes
    (7, 2, [(0, 2, 20, 3, 0, 16)]),
    (1, 8, [(0, 8, 1, 0, 0, 1)]),
]


def naive_put(fields: np.ndarray, per: int, runs: np.ndarray, size: int, data: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(data, bitorder="little")
    for record in range(data.size // size):
        for first, count, step, bit, shift, width in runs.tolist():
            for i in range(count):
                value = int(fields[record * per + first + i]) >> shift
                for k in range(width):
                    bits[8 * size * record + bit + i * step + k] |= value >> k & 1
    return np.packbits(bits, bitorder="little")


def check_records(rng: np.random.Generator) -> list[np.ndarray]:
    found = []
    for size, per, rows in LAYOUTS:
        runs = np.array(rows, np.int64)
        for dtype in (np.uint8, np.uint16):
            if int((runs[:, 4] + runs[:, 5]).max()) > 8 * np.dtype(dtype).itemsize:
                continue
            for count, spare in ((1, 0), (3, 0), (9, 128)):
                fields = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, count * per + spare).astype(dtype)
                data = np.zeros(count * size, np.uint8)
                assert records.put_fields(fields, per, runs, size, data) == OK
                assert np.array_equal(data, naive_put(fields, per, runs, size, np.zeros_like(data)))
                back = np.zeros_like(fields)
                assert records.cut_fields(data, per, runs, size, back) == OK
                kept = np.zeros(per, np.int64)
                for first, number, _step, _bit, shift, width in runs.tolist():
                    kept[first : first + number] |= (1 << width) - 1 << shift
                assert np.array_equal(back[: count * per], fields[: count * per] & np.tile(kept, count).astype(dtype))
                assert not back[count * per :].any()
                # What is there already stays, and what else is in the data comes to nothing.
                data[:] = 255
                assert records.cut_fields(data, per, runs, size, back) == OK
                assert np.array_equal(back[: count * per], np.tile(kept, count).astype(dtype))
                found += [data, back]
                check_refusals(fields, per, runs, size, data)
        check_contexts(rng)
        check_given_scales(rng)
    return found


def check_refusals(fields: np.ndarray, per: int, runs: np.ndarray, size: int, data: np.ndarray) -> None:
    """Whatever reaches out of its record or its fields."""
    wrong = [(fields[: data.size // size * per - 1], per, runs, size, data), (fields, per, runs, size + 1, data)]
    wrong += [(fields, per, runs, 0, data), (fields, 0, runs, size, data)]
    wrong += [(fields, per, runs[:, :5].copy(), size, data)]
    for column, value in ((0, -1), (0, per), (1, 0), (1, per + 1), (2, -1), (2, 1 << 40), (3, -1), (3, 8 * size)):
        changed = runs.copy()
        changed[-1, column] = value
        wrong.append((fields, per, changed, size, data))
    for column, value in ((4, -1), (4, 64), (5, 0), (5, 65)):
        changed = runs.copy()
        changed[0, column] = value
        wrong.append((fields, per, changed, size, data))
    for numbers in wrong[1:]:
        if numbers[3] and numbers[4].size % numbers[3] == 0 and numbers[3] != size:
            continue  # another size that divides as well
        assert records.put_fields(*numbers) == BAD_ARGUMENT
        given, *middle, target = numbers
        assert records.cut_fields(target, *middle, given) == BAD_ARGUMENT
    assert records.put_fields(*wrong[0]) == BAD_ARGUMENT


def check_means(given: np.ndarray) -> None:
    lift, out = 1 << 8 * given.itemsize - 1, np.empty(given.size, np.uint16)
    for each, before in ((1, 0), (7, 0), (7, 3), (50, 49), (400, 0)):
        assert records.less_means(given, each, before, lift, out) == OK
        groups = np.split(given.astype(int), range(each - before, given.size, each))
        want = np.concatenate([group + lift - group.sum() // max(group.size, 1) for group in groups])
        assert np.array_equal(out, want)
    for wrong in ((0, 0, lift), (7, -1, lift), (7, 7, lift), (7, 0, -1), (7, 0, (1 << 16) + 1), (400, 0, 0)):
        assert records.less_means(given, *wrong, out) == BAD_ARGUMENT
    assert records.less_means(given, 7, 0, lift, out[1:]) == BAD_ARGUMENT


def check_given_scales(rng: np.random.Generator) -> None:
    """Classes of records by the units of another tensor, and added to what their fields have."""
    classes = rng.integers(0, 64, 9).astype(np.uint8)
    for dtype in (np.uint8, np.uint16, np.uint32):
        units = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, 20).astype(dtype)
        units[:3] = 0, 17, np.iinfo(dtype).max
        for each, at, shift, first in ((1, 0, 0, 9), (3, 7, 2, 0), (5, 96, 31, 0), (20, 1, 0, 65535)):
            out = np.empty(min(30, 20 * each - at), np.uint8)
            assert records.scale_classes(units, classes, each, at, shift, first, out) == OK
            which = (units[(at + np.arange(out.size)) // each].astype(np.int64) >> shift) - first
            assert np.array_equal(out, classes[np.clip(which, 0, 8)])
        for wrong in ((0, 0, 0, 0), (1, -1, 0, 0), (1, 1, 0, 0), (1, 0, 32, 0), (1, 0, -1, 0), (1, 0, 0, -1)):
            assert records.scale_classes(units, classes, *wrong, np.empty(20, np.uint8)) == BAD_ARGUMENT
        assert records.scale_classes(units, classes[:0], 1, 0, 0, 0, np.empty(20, np.uint8)) == BAD_ARGUMENT
    for each in (1, 31, 64, 100):
        out = rng.integers(0, 256, 9 * each).astype(np.uint8)
        for most in (0, 20, 63):
            want = np.minimum(out.astype(int) + np.repeat(classes, each), most)
            assert records.add_to_records(classes, each, most, out) == OK
            assert np.array_equal(out, want)
    high = classes | np.uint8(64)
    for wrong in ((classes, 0, 5), (classes, 99, 5), (classes, 100, 64), (classes, 100, -1), (high, 100, 5)):
        assert records.add_to_records(*wrong, out) == BAD_ARGUMENT


def check_contexts(rng: np.random.Generator) -> None:
    for dtype in (np.uint8, np.uint16):
        given = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, 50).astype(dtype)
        check_means(given >> 1)
        out = np.empty(350, np.uint8)
        assert records.field_contexts(given, 7, 2, 9, 20, out) == OK
        assert np.array_equal(out, np.repeat(np.clip((given.astype(int) >> 2) - 9, 0, 19), 7))
        lengths, others = [(0, 2, 9, 20), (6, 2, 9, 20)], [(7, -1, 9, 20), (7, 16, 9, 20), (7, 2, -1, 20)]
        for wrong in (*lengths, *others, (7, 2, 9, 0), (7, 2, 9, 257)):
            assert records.field_contexts(given, *wrong, out) == BAD_ARGUMENT
