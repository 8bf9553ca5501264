"""GGUF's block types: how many weights and bytes a block has, and which fields lie where in it.

Source: ggml-common.h of llama.cpp, by way of gguf-py. Fields lie in their planes in the order of the weights that they
are for, so that a layout serves twice: to store each kind of field by itself, and to take blocks apart into numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from slimtensors.expression import Field, Record, Span

__all__ = ["BLOCKS", "PREFIX", "Block", "block_of"]

PREFIX = "GGUF_"  # of the names of encodings

Piece = tuple[int, int, int]  # bit of the first field, step between fields, width
Kind = tuple[str, Field]


class Block(NamedTuple):
    """One block type."""

    number: int  # in GGUF files
    name: str
    weights: int
    size: int  # bytes
    fields: tuple[Kind, ...]

    @property
    def ordered(self) -> list[Kind]:
        """One for each plane; codes, which may depend on others, are the last."""
        return sorted(self.fields, key=lambda kind: kind[0] == "codes")

    @property
    def record(self) -> Record:
        return Record(self.size, tuple(field for _name, field in self.ordered))

    @property
    def names(self) -> list[str]:
        """Of the record's planes."""
        return [name for name, _field in self.ordered]

    @property
    def scale(self) -> int | None:
        """The plane of the record whose fields say how codes are spread: of scales, if there are some, else of d."""
        return next((self.names.index(name) for name in ("scales", "d.high") if name in self.names), None)

    def shape(self, packed: tuple[int, ...]) -> tuple[int, ...]:
        """Of the weights, from that of the bytes."""
        return (*packed[:-1], packed[-1] // self.size * self.weights)


def _field(name: str, *spans: tuple[int, Piece] | tuple[int, Piece, Piece]) -> Kind:
    made = tuple(Span(count, tuple(pieces)) for count, *pieces in spans)
    return name, Field(made[0].width, made)


def _half(name: str, byte: int) -> tuple[Kind, ...]:
    """An F16: sign and low mantissa bits are noise, exponent and the three leading mantissa bits are not."""
    bit = 8 * byte
    return (
        _field(f"{name}.low", (1, (bit, 0, 7))),
        _field(f"{name}.high", (1, (bit + 7, 0, 8))),
        _field(f"{name}.sign", (1, (bit + 15, 0, 1))),
    )


def _plain(name: str, byte: int, count: int, width: int = 8) -> Kind:
    """Fields side by side, without gaps."""
    return _field(name, (count, (8 * byte, width if count > 1 else 0, width)))


def _nibbles(name: str, byte: int, count: int) -> Kind:
    """The lower halves of `count` bytes, then the upper ones."""
    return _field(name, (count, (8 * byte, 8, 4)), (count, (8 * byte + 4, 8, 4)))


def _shifted(name: str, byte: int, width: int, parts: int) -> Kind:
    """Of each 32 bytes, in all of them the lowest bits, then those above, and so on."""
    return _field(
        name,
        *((32, (8 * (byte + 32 * part) + low, 8, width)) for part in range(parts) for low in range(0, 8, width)),
    )


# Eight scales and eight minima of six bits in twelve bytes.
_SCALES_K = (
    _field("scales", (4, (8 * 4, 8, 6))),
    _field("scales.upper", (4, (8 * 12, 8, 4), (8 * 4 + 6, 8, 2))),
    _field("mins", (4, (8 * 8, 8, 6))),
    _field("mins.upper", (4, (8 * 12 + 4, 8, 4), (8 * 8 + 6, 8, 2))),
)


def _joined(first: Kind, second: Kind) -> Kind:
    return first[0], Field(first[1].width, first[1].spans + second[1].spans)


_SIX_BITS = (_joined(*_SCALES_K[:2]), _joined(*_SCALES_K[2:]))

_Q5_K = _field(
    "codes",
    *(
        (32, (8 * (48 + 32 * (group // 2)) + 4 * (group % 2), 8, 4), (8 * 16 + group, 8, 1))
        for group in range(8)
    ),
)  # fmt: skip
_Q6_K = _field(
    "codes",
    *(
        (32, (8 * (64 * half + 32 * (j % 2)) + 4 * (j // 2), 8, 4), (8 * (128 + 32 * half) + 2 * j, 8, 2))
        for half in range(2)
        for j in range(4)
    ),
)
_Q3_K = _field(
    "codes",
    *(
        (32, (8 * (32 + 32 * half) + 2 * j, 8, 2), (4 * half + j, 8, 1))
        for half in range(2)
        for j in range(4)
    ),
)  # fmt: skip
_Q3_K_SCALES = _field(
    "scales",
    *((4, (8 * (96 + 4 * (k % 2)) + 4 * (k // 2), 8, 4), (8 * 104 + 2 * k, 8, 2)) for k in range(4)),
)
# Four signs of seven bits and a scale of four, in each of eight words.
_SIGNS_2 = _field("signs", *((4, (8 * (6 + 8 * word), 7, 7)) for word in range(8)))
_SIGNS_3 = _field("signs", *((4, (8 * (66 + 4 * word), 7, 7)) for word in range(8)))
# The F16 of IQ1_M lies in the upper four bits of four words.
_IQ1_M_HALF = (
    _field("d.low", (1, (8 * 48 + 12, 0, 4), (8 * 50 + 12, 0, 3))),
    ("d.high", Field(8, (Span(1, ((8 * 50 + 15, 0, 1), (8 * 52 + 12, 0, 4), (8 * 54 + 12, 0, 3))),))),
    _field("d.sign", (1, (8 * 54 + 15, 0, 1))),
)

_ALL = [
    Block(2, "Q4_0", 32, 18, (*_half("d", 0), _nibbles("codes", 2, 16))),
    Block(3, "Q4_1", 32, 20, (*_half("d", 0), *_half("m", 2), _nibbles("codes", 4, 16))),
    Block(6, "Q5_0", 32, 22, (
        *_half("d", 0),
        _field("codes", (16, (8 * 6, 8, 4), (8 * 2, 1, 1)), (16, (8 * 6 + 4, 8, 4), (8 * 4, 1, 1))),
    )),
    Block(7, "Q5_1", 32, 24, (
        *_half("d", 0),
        *_half("m", 2),
        _field("codes", (16, (8 * 8, 8, 4), (8 * 4, 1, 1)), (16, (8 * 8 + 4, 8, 4), (8 * 6, 1, 1))),
    )),
    Block(8, "Q8_0", 32, 34, (*_half("d", 0), _plain("codes", 2, 32))),
    Block(10, "Q2_K", 256, 84, (
        _field("scales", (16, (0, 8, 4))), _field("mins", (16, (4, 8, 4))), _shifted("codes", 16, 2, 2),
        *_half("d", 80), *_half("m", 82),
    )),
    Block(11, "Q3_K", 256, 110, (_Q3_K, _Q3_K_SCALES, *_half("d", 108))),
    Block(12, "Q4_K", 256, 144, (*_half("d", 0), *_half("m", 2), *_SIX_BITS, _shifted("codes", 16, 4, 4))),
    Block(13, "Q5_K", 256, 176, (*_half("d", 0), *_half("m", 2), *_SIX_BITS, _Q5_K)),
    Block(14, "Q6_K", 256, 210, (_Q6_K, _plain("scales", 192, 16), *_half("d", 208))),
    Block(16, "IQ2_XXS", 256, 66, (
        *_half("d", 0),
        _field("codes", *((4, (8 * (2 + 8 * word), 8, 8)) for word in range(8))),
        _SIGNS_2,
        _field("scales", (8, (8 * 9 + 4, 64, 4))),
    )),
    Block(17, "IQ2_XS", 256, 74, (
        *_half("d", 0), _field("codes", (32, (16, 16, 8))), _field("codes.upper", (32, (24, 16, 1))),
        _field("signs", (32, (25, 16, 7))), _plain("scales", 66, 16, 4),
    )),
    Block(18, "IQ3_XXS", 256, 98, (
        *_half("d", 0), _plain("codes", 2, 64), _SIGNS_3, _field("scales", (8, (8 * 69 + 4, 32, 4))),
    )),
    Block(19, "IQ1_S", 256, 50, (
        *_half("d", 0), _plain("codes", 2, 32),
        _field("codes.upper", *((4, (8 * (34 + 2 * word), 3, 3)) for word in range(8))),
        _field("scales", (8, (8 * 35 + 4, 16, 3))), _field("shifts", (8, (8 * 35 + 7, 16, 1))),
    )),
    Block(20, "IQ4_NL", 32, 18, (*_half("d", 0), _nibbles("codes", 2, 16))),
    Block(21, "IQ3_S", 256, 110, (
        *_half("d", 0), _plain("codes", 2, 64), _plain("codes.upper", 66, 64, 1), _plain("signs", 74, 32),
        _plain("scales", 106, 8, 4),
    )),
    Block(22, "IQ2_S", 256, 82, (
        *_half("d", 0), _plain("codes", 2, 32), _plain("signs", 34, 32), _plain("codes.upper", 66, 32, 2),
        _plain("scales", 74, 16, 4),
    )),
    Block(23, "IQ4_XS", 256, 136, (
        *_half("d", 0), _field("scales", (8, (32, 4, 4), (16, 2, 2))),
        _field("codes", *(
            (16, (8 * (8 + 16 * part) + low, 8, 4)) for part in range(8) for low in (0, 4)
        )),
    )),
    Block(29, "IQ1_M", 256, 56, (
        _plain("codes", 0, 32), _field("codes.upper", (32, (8 * 32, 4, 3))), _field("shifts", (32, (8 * 32 + 3, 4, 1))),
        _field("scales", *((4, (8 * (48 + 2 * word), 3, 3)) for word in range(4))), *_IQ1_M_HALF,
    )),
    Block(34, "TQ1_0", 256, 54, (_plain("codes", 0, 48), _plain("codes.rest", 48, 4), *_half("d", 52))),
    Block(35, "TQ2_0", 256, 66, (_plain("codes", 0, 64), *_half("d", 64))),
    Block(39, "MXFP4", 32, 17, (_plain("scales", 0, 1), _nibbles("codes", 1, 16))),
    Block(40, "NVFP4", 64, 36, (
        _plain("scales", 0, 4),
        _field("codes", *((8, (8 * (4 + 8 * part) + low, 8, 4)) for part in range(4) for low in (0, 4))),
    )),
    Block(41, "Q1_0", 128, 18, (*_half("d", 0), _plain("codes", 2, 16))),
]  # fmt: skip

BLOCKS: dict[int, Block] = {block.number: block for block in _ALL}
_BY_ENCODING = {PREFIX + block.name: block for block in _ALL}


def block_of(encoding: str | None, dtype: str, shape: tuple[int, ...]) -> Block | None:
    """The block type of a tensor's encoding; None for none, for those of other formats, and where dtype and shape are
    not those of blocks.
    """
    block = None if encoding is None else _BY_ENCODING.get(encoding)
    if block is None or dtype != "U8" or not shape or shape[-1] % block.size:
        return None
    return block
