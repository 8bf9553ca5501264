"""Four steps of a piece of a packed plane (format_spec/coder.md, section 2)."""

from __future__ import annotations

from typing import Any

from slimtensors.kernels.cuda.seam import Device


def make_piece(types: Any, device: Device, bits: int, shift: int) -> Any:
    """piece(segment8, first, keep, group, lane): a lane's fields of the four steps of a group, `shift` bits up.

    Without bits, the piece is not there. keep: what of a unit is kept; where that is not the piece's, any bytes do.
    """
    u32 = types.uint32
    mask = (1 << bits) - 1

    @device
    def place(first: int, keep: int, group: int, lane: int) -> Any:
        seen = group if u32(keep & u32(1 << shift)) != u32(0) else u32(0)
        return u32(first + u32(u32(16 * bits) * seen) + lane)

    @device
    def none(_segment8: Any, _first: int, _keep: int, _group: int, _lane: int) -> Any:
        return u32(0), u32(0), u32(0), u32(0)

    @device
    def eight(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        at = place(first, keep, group, lane)
        a, b = u32(segment8[at]), u32(segment8[u32(at + u32(32))])
        c, d = u32(segment8[u32(at + u32(64))]), u32(segment8[u32(at + u32(96))])
        return u32(a << u32(shift)), u32(b << u32(shift)), u32(c << u32(shift)), u32(d << u32(shift))

    @device
    def cut(value: int, by: int) -> Any:
        return u32(u32(u32(value >> u32(by)) & u32(mask)) << u32(shift))

    @device
    def four(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        at = place(first, keep, group, lane)
        a, b = u32(segment8[at]), u32(segment8[u32(at + u32(32))])
        return cut(a, 0), cut(a, 4), cut(b, 0), cut(b, 4)

    @device
    def two(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        a = u32(segment8[place(first, keep, group, lane)])
        return cut(a, 0), cut(a, 2), cut(a, 4), cut(a, 6)

    @device
    def one(segment8: Any, first: int, keep: int, group: int, lane: int) -> Any:
        # two groups share 32 bytes
        a = u32(segment8[place(first, keep, u32(group & u32(0xFFFFFFFE)), lane)])
        a = u32(a >> u32(u32(group & u32(1)) << u32(2)))
        return cut(a, 0), cut(a, 1), cut(a, 2), cut(a, 3)

    return {0: none, 8: eight, 4: four, 2: two, 1: one}[bits]
