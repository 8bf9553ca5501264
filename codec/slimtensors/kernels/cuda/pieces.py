"""Four steps of a piece of a packed plane (format_spec/coder.md, section 2)."""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda.seam import Device


def make_piece(types: Any, device: Device, bits: int, shift: int) -> tuple[Any, Any]:
    """(load, cut): the bytes that hold a lane's fields of the four steps of a group, to be asked for well before they
    are wanted; and the fields, `shift` bits up.

    load(segment8, first, keep, group, lane), cut(loaded, group). Without bits, the piece is not there. keep: what of a
    unit is kept; where that is not the piece's, any bytes do.
    """
    u32, u64 = types.uint32, types.uint64  # places of 64 bits, for what is added to them to be part of the load
    mask = (1 << bits) - 1

    @device
    def place(first: int, keep: int, group: int, lane: int) -> Any:
        seen = group if u32(keep & u32(1 << shift)) != u32(0) else u32(0)
        return u64(u32(first + u32(u32(16 * bits) * seen) + lane))

    @device
    def field(value: int, by: int) -> Any:
        return u32(u32(u32(value >> u32(by)) & u32(mask)) << u32(shift))

    @device
    def load_none(_segment8: Any, _first: int, _keep: int, _group: int, _lane: int) -> Any:
        return u32(0), u32(0), u32(0), u32(0)

    @device
    def cut_none(_loaded: Any, _group: int) -> Any:
        return u32(0), u32(0), u32(0), u32(0)

    @device
    def load_eight(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        at = place(first, keep, group, lane)
        a, b = u32(segment8[at]), u32(segment8[u64(at + u64(32))])
        return a, b, u32(segment8[u64(at + u64(64))]), u32(segment8[u64(at + u64(96))])

    @device
    def cut_eight(loaded: Any, _group: int) -> Any:
        return field(loaded[0], 0), field(loaded[1], 0), field(loaded[2], 0), field(loaded[3], 0)

    @device
    def load_four(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        at = place(first, keep, group, lane)
        return u32(segment8[at]), u32(segment8[u64(at + u64(32))]), u32(0), u32(0)

    @device
    def cut_four(loaded: Any, _group: int) -> Any:
        return field(loaded[0], 0), field(loaded[0], 4), field(loaded[1], 0), field(loaded[1], 4)

    @device
    def load_two(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        return u32(segment8[place(first, keep, group, lane)]), u32(0), u32(0), u32(0)

    @device
    def cut_two(loaded: Any, _group: int) -> Any:
        return field(loaded[0], 0), field(loaded[0], 2), field(loaded[0], 4), field(loaded[0], 6)

    @device
    def load_one(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        # two groups share 32 bytes
        return u32(segment8[place(first, keep, u32(group & u32(0xFFFFFFFE)), lane)]), u32(0), u32(0), u32(0)

    @device
    def cut_one(loaded: Any, group: int) -> Any:
        a = u32(loaded[0] >> u32(u32(group & u32(1)) << u32(2)))
        return field(a, 0), field(a, 1), field(a, 2), field(a, 3)

    found: tuple[Any, Any] = {
        0: (load_none, cut_none), 8: (load_eight, cut_eight), 4: (load_four, cut_four), 2: (load_two, cut_two),
        1: (load_one, cut_one),
    }[bits]  # fmt: skip
    return found
