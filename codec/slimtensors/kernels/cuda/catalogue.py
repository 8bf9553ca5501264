"""Every kernel of this folder: how it is made, and the types of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from slimtensors.kernels.cuda.decimal import MANTISSAS, make_decimals
from slimtensors.kernels.cuda.decode import LAYOUTS, Layout, make_decode
from slimtensors.kernels.cuda.digest import make_digest
from slimtensors.kernels.cuda.elements import make_contexts, make_fields, make_finish
from slimtensors.kernels.cuda.levels import make_levels, make_parities
from slimtensors.kernels.cuda.lookup import make_pick, make_scaled
from slimtensors.kernels.cuda.mean import make_flip, make_signs, make_steer
from slimtensors.kernels.cuda.moved import make_moved
from slimtensors.kernels.cuda.plain import make_plain
from slimtensors.kernels.cuda.plane import make_plane, make_tables
from slimtensors.kernels.cuda.rows import CODER_THREADS, THREADS
from slimtensors.kernels.cuda.scatter import make_scatter
from slimtensors.kernels.cuda.seam import Seam
from slimtensors.kernels.cuda.sums import make_sums

__all__ = [
    "KERNELS", "Kernel", "decimals_name", "decode_name", "levels_name", "moved_name", "plain_name", "scaled_name",
    "sized_name", "sums_name",
]  # fmt: skip

MANY_REGISTERS = 128  # GPUs before sm_90 save those of a slow way past each collective, which is never taken
WORDS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


class Kernel(NamedTuple):
    """make: a body from a seam. arrays: what its arguments, one-dimensional arrays, hold; the last `written` of them
    are written.
    """

    make: Callable[[Seam], Callable[..., None]]
    arrays: tuple[str, ...]
    written: int = 1
    threads: int = THREADS  # of a thread block
    registers: int = 96  # of a thread, at most: five thread blocks of 128 to a multiprocessor


def decode_name(layout: Layout) -> str:
    return layout.name


def plain_name(unit_bytes: int) -> str:
    return f"plain_u{8 * unit_bytes}"


def sized_name(kernel: str, unit_bytes: int) -> str:
    """Of plane, bypass, fields, contexts, signs, flip, pick, scatter, finish."""
    return f"{kernel}_u{8 * unit_bytes}"


def _decode(layout: Layout) -> Kernel:
    segment, work = ("uint8", "uint16", "uint32"), ("uint32", "uint32", "uint16")
    arrays = *segment, *work, WORDS[layout.unit_bytes], "uint32"
    return Kernel(lambda seam: make_decode(*seam, layout), arrays, 2, CODER_THREADS)


def _plain(unit_bytes: int) -> Kernel:
    unit = WORDS[unit_bytes]
    return Kernel(lambda seam: make_plain(*seam), (unit, "uint32", unit))


def scaled_name(dtype: str, *, shifted: bool = False) -> str:
    return f"{'shifted' if shifted else 'scaled'}_{dtype.lower()}"


def decimals_name(dtype: str) -> str:
    return f"decimals_{dtype.lower()}"


def levels_name(dtype: str) -> str:
    return f"levels_{dtype.lower()}"


def moved_name(dtype: str) -> str:
    return f"moved_{dtype.lower()}"


def sums_name(dtype: str) -> str:
    return f"sums_{dtype.lower()}"


SCALED = {"F32": "uint32", "BF16": "uint16", "F16": "uint16"}  # dtypes of products and of sums, and their units


def _scaled(dtype: str, *, shifted: bool = False) -> Kernel:
    given = ("uint32", "uint16", "uint32", "uint32")
    return Kernel(lambda seam: make_scaled(*seam, dtype, shifted=shifted), (*given, SCALED[dtype], "uint32"), 2)


def _levels(dtype: str) -> Kernel:
    given = ("uint32", "uint16", "uint8", "uint32")
    return Kernel(lambda seam: make_levels(*seam, dtype), (*given, SCALED[dtype]))


def _decimals(dtype: str) -> Kernel:
    unit = {"F64": "uint64", **SCALED}[dtype]
    return Kernel(lambda seam: make_decimals(*seam, dtype), ("uint32", "uint64", unit))


def _moved(dtype: str) -> Kernel:
    unit = SCALED[dtype]
    return Kernel(lambda seam: make_moved(*seam, dtype), ("uint32", "int32", unit, unit))


def _sums(dtype: str) -> Kernel:
    unit = SCALED[dtype]
    return Kernel(lambda seam: make_sums(*seam, dtype), ("uint32", "int32", unit, "uint32", unit))


def _sized(unit_bytes: int) -> dict[str, Kernel]:
    unit, work = WORDS[unit_bytes], ("uint32", "uint32", "uint32", "uint32", "uint8")
    coded = "uint16", "uint32", *work, unit, "uint32"
    made = {
        "plane": Kernel(lambda seam: make_plane(*seam, unit_bytes), coded, 2, CODER_THREADS, MANY_REGISTERS),
        "fields": Kernel(lambda seam: make_fields(*seam, unit_bytes), ("uint8", "uint32", unit)),
        "contexts": Kernel(lambda seam: make_contexts(*seam, unit_bytes), ("uint32", "uint8", unit, "uint8")),
        "pick": Kernel(lambda seam: make_pick(*seam), ("uint32", "uint16", unit, unit, "uint32"), 2),
        "scatter": Kernel(
            lambda seam: make_scatter(*seam, unit_bytes), ("uint32", "uint32", "uint32", unit, unit, "uint32"), 2
        ),
        "signs": Kernel(lambda seam: make_signs(*seam, unit_bytes), ("uint32", "uint16", unit, "uint8")),
        "flip": Kernel(lambda seam: make_flip(*seam, unit_bytes), ("uint32", "uint16", unit)),
        "finish": Kernel(lambda seam: make_finish(*seam, unit_bytes), ("uint32", unit, unit)),
    }
    if unit_bytes > 1:  # fields in mode bypass have more than eight bits
        made["bypass"] = Kernel(
            lambda seam: make_plane(*seam, unit_bytes, bypass=True), coded, 2, CODER_THREADS, MANY_REGISTERS
        )
    return {sized_name(name, unit_bytes): kernel for name, kernel in made.items()}


KERNELS: dict[str, Kernel] = {
    **{decode_name(layout): _decode(layout) for layout in LAYOUTS},
    **{plain_name(unit_bytes): _plain(unit_bytes) for unit_bytes in WORDS},
    **{name: kernel for unit_bytes in WORDS for name, kernel in _sized(unit_bytes).items()},
    **{scaled_name(dtype): _scaled(dtype) for dtype in SCALED},
    **{scaled_name(dtype, shifted=True): _scaled(dtype, shifted=True) for dtype in SCALED},
    **{levels_name(dtype): _levels(dtype) for dtype in SCALED},
    **{moved_name(dtype): _moved(dtype) for dtype in SCALED},
    **{sums_name(dtype): _sums(dtype) for dtype in SCALED},
    **{decimals_name(dtype): _decimals(dtype) for dtype in MANTISSAS},
    "parities": Kernel(lambda seam: make_parities(*seam), ("uint32", "uint16", "uint8")),
    "steer": Kernel(lambda seam: make_steer(*seam), ("uint32", "uint8", "uint16", "uint8", "uint16"), 2),
    "tables": Kernel(lambda seam: make_tables(*seam), ("uint16", "uint32"), threads=CODER_THREADS),
    "digest": Kernel(lambda seam: make_digest(*seam), ("uint64", "uint32", "uint64", "uint64")),
}
