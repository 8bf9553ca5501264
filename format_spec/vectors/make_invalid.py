"""The invalid vectors: sound files with one thing broken, and the digests over it made right again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from math import prod

from make_valid import (
    COMPRESSED_FRAME,
    COMPRESSED_PLAIN,
    NIBBLES,
    apart,
    bf16_base,
    bits,
    blocks,
    classed_records,
    classes_round,
    classes_source,
    delta,
    delta_matmul,
    delta_pack,
    factor_source,
    factors,
    joined_records,
    lined_scales,
    little,
    looked_up,
    lossy,
    mean,
    mean_source,
    moved_by,
    noise,
    one,
    raw_block_frame,
    read_ahead,
    rows_source,
    scaled_records,
    side,
    skewed,
    sparse_of,
    summed,
    with_scales,
)
from make_valid import (
    add as add_base,
)

import decode
from coder import LOW_STATE
from decode import BYPASS, CODED, CONSTANT, HEAD, LITERAL, PLANES, RAW, ZSTD, digest
from encode import (
    Coded,
    CodedParts,
    Plane,
    PlanesChunk,
    affine_chunk,
    bypass_symbol,
    encode_block,
    even_table,
    finish,
    literal_chunk,
    raw_payload,
    table_bytes,
    to_units,
)
from expressions import DTYPES, RESERVED, parse_expression
from parts import Parts, StreamParts
from parts import chunk_of as chunk_of_bytes
from writer import BYTES, BaseTensor, Place, Scale, Source, Writer, affine, front, literal, planes

INVALID: dict[str, tuple[str, Callable[[], bytes]]] = {}
DROP = object()


def add(name: str, what: str, make: Callable[[], bytes]) -> None:
    assert name not in INVALID, name
    INVALID[name] = (what, make)


def invalid(what: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """For those that need more than an expression."""

    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        add(make.__name__, what, make)
        return make

    return register


# -- the files that are broken ---------------------------------------------------------------------------------------


def basic() -> Parts:
    """A tensor in two literal chunks, a tie to it, a pack of two, an empty tensor, metadata, an image."""
    writer = Writer({"k": "v"})
    own = writer.tensor("a", Source("U16", (6,), b"abcdefghijkl", bits(8, 8), literal, 4))
    pack = writer.pack("U8", BYTES)
    writer.pack_member("b", pack, (3,), b"123")
    writer.ref("c", own)
    writer.empty("d", "F32", (0,))
    writer.pack_member("e", pack, (2,), b"45")
    rest = [(0, 3), b"gap", (4, 1)]
    writer.image([writer.front(rest), *rest], BYTES, literal)
    return writer.parts()


def rows() -> Parts:
    return one(rows_source(bytes([1, 0, 1, 1, 0, 0, 1, 0]), 50, Plane(RAW), Plane(RAW)))


def edit(parts: Parts, *changes: tuple[Sequence[str | int], object]) -> bytes:
    """Changes values of the header, each named by its path."""
    for path, value in changes:
        place = parts.json
        for key in path[:-1]:
            place = place[key]
        if value is DROP:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    parts.set_json()
    return parts.join()


def literals(parts: Parts) -> Parts:
    """The same tensors, all chunks literal: these decode whatever becomes of an expression."""
    for chunk in parts.chunks():
        n = HEAD.unpack_from(chunk.stored)[3]
        chunk.stored = literal_chunk(chunk.decoded, len(chunk.decoded) // n)
    return parts


def without_side(parts: Parts, number: int, *changes: tuple[Sequence[str | int], object]) -> bytes:
    """The first tensor has a side plane less, its chunks are literal, and something else is changed."""
    literals(parts)
    del parts.streams[number], parts.json["tensors"][0]["sides"][number]
    return edit(parts, *changes)


def edited(data: bytes, *changes: tuple[Sequence[str | int], object]) -> bytes:
    return edit(Parts.split(data), *changes)


def header(
    name: str, what: str, *changes: tuple[Sequence[str | int], object], base: Callable[[], Parts] = basic
) -> None:
    """A rule about the header, which nothing else in the file needs."""
    add(name, what, lambda: edit(literals(base()), *changes))


def text(name: str, what: str, old: bytes, new: bytes) -> None:
    """Changes the header's text, past any canonical form."""

    def make() -> bytes:
        parts = basic()
        assert parts.header.count(old) == 1, old
        parts.header = parts.header.replace(old, new)
        return parts.join()

    add(name, what, make)


def parts_with(name: str, what: str, change: Callable[[Parts], None], base: Callable[[], Parts] = basic) -> None:
    def make() -> bytes:
        parts = base()
        change(parts)
        return parts.join()

    add(name, what, make)


def put(thing: object, **values: object) -> None:
    for key, value in values.items():
        assert hasattr(thing, key)
        setattr(thing, key, value)


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


# -- container.md, section 2: prefix ---------------------------------------------------------------------------------

add("file_empty", "no bytes", lambda: b"")
add("file_prefix_cut", "63 bytes", lambda: basic().join()[:63])
add("file_prefix_alone", "64 bytes: the prefix of a longer file", lambda: basic().join()[:64])
add("file_cut_in_header", "cut in the header", lambda: basic().join()[:200])
add("file_cut_by_one", "the last byte is missing", lambda: basic().join()[:-1])
add("file_cut_by_64", "the last 64 bytes are missing", lambda: basic().join()[:-64])
add("file_trailing_byte", "a zero byte after the end, `file_length` as before", lambda: basic().join() + b"\0")
parts_with(
    "file_trailing_64",
    "64 zero bytes after the last chunk, `file_length` counts them",
    lambda p: put(p, trailing=bytes(64)),
)
parts_with("magic", "one bit of the magic", lambda p: put(p, magic=flip(p.magic, 7)))
parts_with(
    "magic_newlines",
    "the magic after a transfer as text: CR LF became LF",
    lambda p: put(p, magic=b"\x89SLM\n\x1a\n\0"),
)
parts_with("newer_version", "version 1", lambda p: put(p, version=1))
parts_with("newer_features", "a bit of `features`", lambda p: put(p, features=1))
parts_with("newer_features_high", "the highest bit of `features`", lambda p: put(p, features=1 << 31))
parts_with(
    "file_length_less", "`file_length` is 64 less than the file", lambda p: put(p, file_length=len(p.join()) - 64)
)
parts_with("file_length_more", "`file_length` is 1 more than the file", lambda p: put(p, file_length=len(p.join()) + 1))
parts_with(
    "file_length_high",
    "`file_length` is wrong in its upper half alone",
    lambda p: put(p, file_length=len(p.join()) + (1 << 32)),
)
parts_with("header_length_over_limit", "`header_length` is 16 MiB + 1", lambda p: put(p, header_length=(16 << 20) + 1))
parts_with(
    "header_length_beyond_file", "the header ends behind the file", lambda p: put(p, header_length=len(p.join()))
)
parts_with(
    "header_length_less", "`header_length` is 1 too small, file id over what it says", lambda p: shift_header(p, -1)
)
parts_with(
    "header_length_more", "`header_length` is 1 too large, file id over what it says", lambda p: shift_header(p, 1)
)
parts_with(
    "index_length_over_limit", "`index_length` is 312 * 2^17 + 41", lambda p: put(p, index_length=312 * (1 << 17) + 41)
)
parts_with("index_length_beyond_file", "`index_length` is 2^32 - 1", lambda p: put(p, index_length=0xFFFFFFFF))
parts_with(
    "index_length_more", "32 bytes more in the index than the header implies", lambda p: put(p, index_tail=bytes(32))
)
parts_with("index_length_less", "the index lacks its last identity", lambda p: put(p, identities=p.identities[:-1]))
parts_with("file_id", "one bit of the file id", lambda p: put(p, file_id=flip(p.join()[32:64], 31, 128)))


def shift_header(parts: Parts, by: int) -> None:
    data = parts.join()
    header_length, index_length = len(parts.header) + by, struct.unpack_from("<I", data, 28)[0]
    begin = struct.pack("<8sIIQII", parts.magic, 0, 0, len(data), header_length, index_length)
    put(parts, header_length=header_length, file_id=digest(begin, data[64 : 64 + header_length + index_length]))


# -- section 3: the header's text ------------------------------------------------------------------------------------

text("json_not_utf8", "a byte FF in a string", b'"k":"v"', b'"k":"\xff"')
text("json_overlong_utf8", "an overlong form of `/` in a string", b'"k":"v"', b'"k":"\xc0\xaf"')
text("json_surrogate_utf8", "a surrogate written in UTF-8", b'"k":"v"', b'"k":"\xed\xa0\x80"')
text("json_surrogate_escape", "a lone surrogate as an escape", b'"k":"v"', b'"k":"\\ud800"')
text("json_escaped_letter", "a letter as `\\u0041`", b'"k":"v"', b'"k":"\\u0041"')
text("json_escaped_pair", "U+1F600 as a pair of escapes", b'"k":"v"', b'"k":"\\ud83d\\ude00"')
text("json_escaped_slash", "`/` as `\\/`", b'"k":"v"', b'"k":"\\/"')
text("json_escaped_delete", "U+007F as `\\u007f`", b'"k":"v"', b'"k":"\\u007f"')
text("json_escape_upper_case", "`\\u001F` in upper case", b'"k":"v"', b'"k":"\\u001F"')
text("json_escape_long", "a newline as `\\u000a` instead of `\\n`", b'"k":"v"', b'"k":"\\u000a"')
text("json_control", "a control character as itself", b'"k":"v"', b'"k":"\x01"')
text("json_space", "a space after a colon", b'"metadata":', b'"metadata": ')
text(
    "json_newline_end",
    "a newline after the last brace",
    b'"pack":0,"shape":[2]}]}',
    b'"pack":0,"shape":[2]}]}\n',
)
text(
    "json_byte_order_mark", "a byte order mark before the first brace", b'{"expressions"', b'\xef\xbb\xbf{"expressions"'
)
text("json_two_values", "a second value behind the first", b'"pack":0,"shape":[2]}]}', b'"pack":0,"shape":[2]}]}{}')
text("json_cut", "the last brace is missing", b'"pack":0,"shape":[2]}]}', b'"pack":0,"shape":[2]}]')
text("json_trailing_comma", "a comma before a closing bracket", b'"shape":[2]', b'"shape":[2,]')
text("json_duplicate_key", "a key twice with the same value", b'"metadata":{"k":"v"}', b'"metadata":{"k":"v","k":"v"}')
text("json_duplicate_key_first", "a key twice with two values", b'"shape":[2]', b'"shape":[1],"shape":[2]')
text("json_duplicate_top_key", "`packs` twice", b'"packs":[', b'"packs":[],"packs":[')
text("json_unsorted", "keys in another order", b'"pack":0,"shape":[2]', b'"shape":[2],"pack":0')
text(
    "json_sorted_utf16",
    "keys sorted by UTF-16 units, not code points: U+10000 before U+FFFF",
    b'{"k":"v"}',
    '{"\U00010000":"","\uffff":""}'.encode(),
)
text("json_float", "a float in a shape", b'"shape":[2]', b'"shape":[2.0]')
text("json_exponent", "a number with an exponent", b'"shape":[2]', b'"shape":[2e0]')
text("json_negative", "a negative number", b'"pack":0,"shape":[2]', b'"pack":-1,"shape":[2]')
text("json_minus_zero", "-0", b'"pack":0,"shape":[2]', b'"pack":-0,"shape":[2]')
text("json_leading_zero", "a number with a leading zero", b'"shape":[2]', b'"shape":[02]')
text("json_plus", "a number with a sign", b'"shape":[2]', b'"shape":[+2]')
text("json_nan", "NaN", b'"shape":[2]', b'"shape":[NaN]')
text("json_infinity", "Infinity", b'"shape":[2]', b'"shape":[Infinity]')
text(
    "json_number_2_64",
    "a dimension of 2^64 + 2, which is 2 modulo 2^64",
    b'"shape":[2]',
    b'"shape":[18446744073709551618]',
)
text("json_number_endless", "a number of 5000 digits", b'"shape":[2]', b'"shape":[' + b"2" * 5000 + b"]")
text("json_true", "true for 1", b'"rotate":0},{"ref":0}', b'"rotate":true},{"ref":0}')
text("json_null", "null for a value", b'"pack":0,"shape":[2]', b'"pack":null,"shape":[2]')
text("json_single_quotes", "single quotes", b'"k":"v"', b"'k':\"v\"")
text("json_comment", "a comment", b'"metadata":{', b'"metadata":/**/{')
parts_with("json_nothing", "no header at all", lambda p: put(p, header=b""))
parts_with("json_deep", "3000 nested arrays", lambda p: put(p, header=b"[" * 3000 + b"]" * 3000))
parts_with("json_deep_objects", "1200 nested objects in `metadata`", lambda p: put(p, header=deep_metadata(p.header)))
parts_with("json_array", "an array of the header", lambda p: put(p, header=b"[" + p.header + b"]"))
parts_with("json_utf16", "the header in UTF-16", lambda p: put(p, header=p.header.decode().encode("utf-16-le")))


def deep_metadata(text: bytes) -> bytes:
    return text.replace(b'"v"', b'{"":' * 1200 + b'"v"' + b"}" * 1200)


# -- the header's values ---------------------------------------------------------------------------------------------

header("key_unknown_top", "an unknown key at the top", (["extra"], {}))
header("key_missing_metadata", "no `metadata`", (["metadata"], DROP))
header("key_missing_packs", "no `packs`, where none is needed", (["packs"], DROP), base=rows)
header("key_unknown_tensor", "an unknown key of a tensor", (["tensors", 0, "offset"], 0))
header("key_unknown_pack", "an unknown key of a pack", (["packs", 0, "chunk"], 5))
header("key_unknown_side", "an unknown key of a side plane", (["tensors", 0, "sides", 0, "name"], "s"), base=rows)
header("key_unknown_image", "an unknown key of the image", (["image", "name"], "model.safetensors"))
header("key_missing_shape", "a tensor without `shape`", (["tensors", 3, "shape"], DROP))
header("key_chunk_and_pack", "a tensor with a stream and a pack", (["tensors", 0, "pack"], 0))
header("key_chunk_alone", "`chunk` without `expression`", (["tensors", 0, "expression"], DROP))
header("key_sides_on_tie", "a tie with side planes", (["tensors", 2, "sides"], []))
header("key_image_null", "`image` is null", (["image"], None))
header("type_tensors", "`tensors` is an object", (["tensors"], {}))
header("type_metadata_value", "a number in the metadata", (["metadata", "k"], 1))
header("type_metadata", "`metadata` is an array", (["metadata"], []))
header("type_name", "a name that is a number", (["tensors", 3, "name"], 4))
header("type_shape", "a shape that is a number", (["tensors", 1, "shape"], 3))
header("type_dtype", "a dtype that is an array", (["tensors", 3, "dtype"], []))
header("type_expression", "`expression` is the expression itself", (["tensors", 0, "expression"], bits(8, 8)))
header("dtype_unknown", "dtype `F128`", (["tensors", 3, "dtype"], "F128"))
header("dtype_lower_case", "dtype `f32`", (["tensors", 3, "dtype"], "f32"))
header("name_empty", "an empty name", (["tensors", 3, "name"], ""))
header("name_long", "a name of 513 bytes", (["tensors", 3, "name"], "n" * 513))
header("name_long_utf8", "a name of 257 characters and 514 bytes", (["tensors", 3, "name"], "\u00e9" * 257))
header("name_control", "a name with U+0000", (["tensors", 3, "name"], "d\0"))
header("name_delete", "a name with U+007F", (["tensors", 3, "name"], "d\x7f"))
header("name_metadata", "the name `__metadata__`", (["tensors", 3, "name"], "__metadata__"))
header("name_twice", "two tensors of one name", (["tensors", 3, "name"], "a"))
header("shape_17", "17 dimensions", (["tensors", 0, "shape"], [1] * 16 + [6]))
header("shape_dimension_limit", "a dimension of 2^48 + 1, beside a 0", (["tensors", 3, "shape"], [0, 2**48 + 1]))
header("shape_product_limit", "a product of 2^49, beside a 0", (["tensors", 3, "shape"], [2**24, 0, 2**25]))
add("shape_not_whole_bytes", "three elements of F4", lambda: one(Source("F4", (3,), b"x", BYTES)).join())
header("shape_wrap", "a product of 2^64 elements", (["tensors", 3, "shape"], [2**16] * 4 + [0]))
header("elements_without_keys", "a tensor with elements and nothing that holds them", (["tensors", 3, "shape"], [1]))
header("expression_out_of_range", "`expression` is the number of expressions", (["tensors", 0, "expression"], 3))
header(
    "expression_ref_with_stream", "a tensor with a stream whose expression is a ref", (["tensors", 0, "expression"], 2)
)
header(
    "expression_bits_without_stream",
    "a tensor without a stream whose expression is no ref",
    (["tensors", 2, "expression"], 0),
)
header("expression_ref_pack", "a pack whose expression is a ref", (["packs", 0, "expression"], 2))
header("expression_ref_image", "an image whose expression is a ref", (["image", "expression"], 2))
header("chunk_0", "chunks of 0 units", (["tensors", 0, "chunk"], 0))


@invalid("a tensor without elements that has a stream of no chunks")
def elements_none_with_stream() -> bytes:
    parts = basic()
    parts.streams.insert(2, type(parts.streams[0])([]))
    return edit(parts, (["tensors", 3, "chunk"], 1), (["tensors", 3, "expression"], 0))


header(
    "elements_none_in_pack",
    "a tensor without elements in a pack",
    (["tensors", 3, "dtype"], "U8"),
    (["tensors", 3, "pack"], 0),
)


@invalid("a tie to a tensor without elements, and itself without")
def elements_none_tie() -> bytes:
    writer = Writer()
    writer.ref("tie", writer.empty("none", "F32", (0,)))
    return writer.parts().join()


header(
    "chunk_over_limit_units",
    "chunks of 2^23 + 1 units of two bytes, for a tensor of six",
    (["tensors", 0, "chunk"], (1 << 23) + 1),
    base=lambda: one(Source("U16", (6,), b"abcdefghijkl", bits(8, 8))),
)


@invalid("one chunk of 16 MiB + 1 byte")
def chunk_over_limit() -> bytes:
    count = (16 << 20) + 1
    stored = affine_chunk(0, 0, count, 1)
    parts = one(Source("U8", (1,), b"\0", BYTES))
    chunk = parts.chunks()[0]
    put(chunk, stored=stored, decoded_length=count)
    return edit(parts, (["tensors", 0, "chunk"], count), (["tensors", 0, "shape"], [count]))


# -- packs -----------------------------------------------------------------------------------------------------------


def two_packs() -> Parts:
    writer = Writer()
    for i in range(2):
        writer.pack_member(f"p{i}", writer.pack("U8", BYTES), (2,), b"xy")
    return writer.parts()


header("pack_out_of_range", "a pack that is not there", (["tensors", 4, "pack"], 1))
header(
    "pack_order",
    "packs not in the order of their first tensors",
    (["tensors", 0, "pack"], 1),
    (["tensors", 1, "pack"], 0),
    base=two_packs,
)
header("pack_unused", "a pack without tensors", (["packs"], [{"dtype": "U8", "expression": 1}] * 2))
header("pack_dtype", "a tensor whose dtype is not its pack's", (["tensors", 4, "dtype"], "I8"))
header(
    "pack_scatter",
    "a pack with scatter",
    (["expressions", 1], {"bits": [{"scatter": [0, {"plane": 8}]}], "rotate": 0}),
)


# -- expressions.md --------------------------------------------------------------------------------------------------

header("bits_object", "`bits` is an object", (["expressions", 0, "bits"], {"plane": 16}))
header("bits_empty", "no parts", (["expressions", 0, "bits"], []))
header(
    "bits_17",
    "17 parts",
    (["expressions", 0, "bits"], [{"plane": 1}] * 17),
    (["tensors", 0, "dtype"], "U32"),
    (["tensors", 0, "shape"], [3]),
    (["tensors", 0, "chunk"], 2),
    (["expressions", 2], {"ref": 0}),
    (["tensors", 2, "dtype"], "U32"),
    (["tensors", 2, "shape"], [3]),
)
header("bits_too_wide", "parts of 17 bits for a unit of 16", (["expressions", 0], bits(8, 9)))
header("bits_too_wide_image", "parts of 9 bits for the image", (["expressions", 1], bits(9)))
header("bits_width_0", "a plane of 0 bits", (["expressions", 0], bits(8, 0)))
header(
    "bits_width_17",
    "a plane of 17 bits for a unit of 32",
    (["expressions", 0], bits(17)),
    (["tensors", 0, "dtype"], "U32"),
    (["tensors", 0, "shape"], [3]),
    (["tensors", 0, "chunk"], 2),
    (["tensors", 2, "dtype"], "U32"),
    (["tensors", 2, "shape"], [3]),
)
header("bits_rotate_2", "a rotation by 2", (["expressions", 0, "rotate"], 2))
header("bits_rotate_missing", "no `rotate`", (["expressions", 0, "rotate"], DROP))
header("bits_unknown_key", "an unknown key beside `bits`", (["expressions", 0, "order"], 0))
header("part_unknown_key", "an unknown key of a part", (["expressions", 0, "bits", 0, "signed"], 0))
header("part_unknown", "an unknown part", (["expressions", 0, "bits", 0], {"plain": 8}))
header("part_number", "a part that is a number", (["expressions", 0, "bits", 0], 8))
header("expression_plane", "a plane where an expression belongs", (["expressions", 0], {"plane": 16}))
header("expression_unknown", "an unknown expression", (["expressions", 0], {"bytes": [8, 8]}))
header("expression_empty", "an expression without keys", (["expressions", 0], {}))
header("expression_array", "an expression that is an array", (["expressions", 0], ["bits"]))
for reserved in sorted(RESERVED):
    header(
        f"newer_expression_{reserved}",
        f"the reserved name `{reserved}` for an expression",
        (["expressions", 0], {reserved: [0, 1]}),
    )
header("newer_part_hadamard", "a reserved name for a part", (["expressions", 0, "bits", 0], {"hadamard": [0, 1]}))
RAND = {"rand": [0, 1]}
for name, words, expression in (
    ("newer_mul", "the first argument of a `mul`", {"mul": [RAND, 1]}),
    ("newer_gather", "the codes of a `gather`", {"gather": [0, RAND]}),
    ("newer_mul_gather", "the codes of a `gather` within a `mul`", {"mul": [{"gather": [0, RAND]}, 1]}),
    ("newer_decimal", "the codes of a `decimal`", {"decimal": [2, RAND]}),
    ("newer_trellis", "the codes of a `trellis`", {"trellis": [1, 0x3F800000, 0, RAND]}),
    ("newer_mask", "a mask", {"scatter": [RAND, bits(8)]}),
    ("newer_scatter", "the plane of a `scatter` by rows", {"bits": [{"scatter": [0, RAND]}], "rotate": 0}),
    ("newer_add_first", "the first argument of an `add`", {"add": [RAND, bits(8)]}),
    ("rand_gather", "the side plane of a `gather`", {"gather": [RAND, bits(8)]}),
    ("rand_mul", "the scale of a `mul`", {"mul": [{"gather": [0, bits(8)]}, RAND]}),
    ("rand_mul_two", "the second scale of a `mul`", {"mul": [{"gather": [0, bits(8)]}, [1, RAND]]}),
    ("rand_offset", "the offset of a `mul`", {"add": [{"mul": [{"gather": [0, bits(8)]}, 1]}, RAND]}),
    ("rand_scatter", "the side plane of a `scatter`", {"bits": [{"scatter": [RAND, {"plane": 8}]}], "rotate": 0}),
    ("rand_trellis", "rows of a `trellis`", {"trellis": [1, 0x3F800000, 0, bits(8), RAND, 1]}),
    ("rand_decimal", "the power of a `decimal`", {"decimal": [RAND, bits(8)]}),
    ("rand_base", "the number of a base", {"add": [{"base": RAND}, bits(8)]}),
    ("rand_ref", "the number of a `ref`", {"ref": RAND}),
):
    header(name, f"an expression that is not used, with the reserved name `rand` for {words}",
           (["expressions"], [bits(8, 8), BYTES, {"ref": 0}, expression]))  # fmt: skip
header("part_mul", "`mul` for a part", (["expressions", 0, "bits", 0], {"mul": [0, 1]}))
for name, words, expression in (
    ("side", "side plane 6", {"bits": [{"scatter": [6, {"plane": 8}]}], "rotate": 0}),
    ("palette", "side plane 6, by a palette", {"gather": [6, bits(8)]}),
    ("class", "side plane 6, by a class", {"bits": [{"context": {"class": [0, 6, 1]}, "plane": 8}], "rotate": 0}),
    ("ref", "tensor 2^17", {"ref": 1 << 17}),
    ("cast", "tensor 2^17, by a cast", {"cast": 1 << 17}),
    ("base", "base 2^17", {"add": [{"base": 1 << 17}, bits(8)]}),
):
    header(f"position_{name}", f"an expression that is not used and names {words}",
           (["expressions"], [bits(8, 8), BYTES, {"ref": 0}, expression]))  # fmt: skip
ROW_SHAPE = ["tensors", 0, "sides", 0, "shape"]
SCATTER = ["expressions", 0, "bits", 1, "scatter"]

header("scatter_side_out_of_range", "scatter by a side plane that is not there", ([*SCATTER, 0], 1), base=rows)
header("scatter_three", "scatter with three entries", (SCATTER, [0, {"plane": 8}, 0]), base=rows)
header("scatter_nested", "scatter in scatter", ([*SCATTER, 1], {"scatter": [0, {"plane": 8}]}), base=rows)
header(
    "scatter_without_sides",
    "scatter of a tensor without side planes",
    (["expressions", 0, "bits", 0], {"scatter": [0, {"plane": 8}]}),
)
header(
    "scatter_side_dtype",
    "rows whose side plane is of dtype BOOL",
    (["tensors", 0, "sides", 0, "dtype"], "BOOL"),
    base=rows,
)
header("scatter_side_shape", "rows whose side plane has two dimensions", (ROW_SHAPE, [2, 4]), base=rows)
header(
    "scatter_side_shape_scalar",
    "rows whose side plane has no dimension",
    (ROW_SHAPE, []),
    base=lambda: one(rows_source(b"\1", 300, Plane(RAW), Plane(RAW))),
)
header(
    "scatter_in_side",
    "a side plane that is itself scattered",
    (["tensors", 0, "sides", 0, "expression"], 0),
    (["expressions", 0, "bits"], [{"scatter": [0, {"plane": 8}]}]),
    base=rows,
)
header(
    "side_ref",
    "a side plane that is a ref",
    (["tensors", 0, "sides", 0, "expression"], 2),
    (["expressions"], [None, BYTES, {"ref": 0}]),
    (["expressions", 0], {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}),
    base=rows,
)
header("sides_empty", "`sides` is an empty array", (["tensors", 0, "sides"], []))


def side_that_is(expression: dict, *bases: dict) -> bytes:
    """Side plane 2, of rows as 0 and 1 are, is `expression`: 16 units."""
    sides = [Source("U8", (n,), b"\1" * n, BYTES) for n in (2, 8, 16)]
    parts = [{"scatter": [k, {"plane": 8}]} for k in range(3)]
    written = one(Source("U32", (16, 16), bytes(1024), {"bits": parts, "rotate": 0}, literal, None, sides))
    written.json["expressions"].append(expression)
    if bases:
        written.json["bases"] = list(bases)
    return edit(written, (["tensors", 0, "sides", 2, "expression"], 2))


for name, words, expression in (
    ("gather", "codes of a palette", {"gather": [0, bits(1)]}),
    ("rows", "scattered by rows", {"bits": [{"scatter": [0, {"plane": 8}]}], "rotate": 0}),
    ("class", "given classes", {"bits": [{"context": {"class": [0, 1, 0]}, "plane": 8}], "rotate": 0}),
    ("record", "of records", {"record": [1, {"plane": 8, "spans": [[1, 0, 0, 8]]}]}),
):
    add(f"side_{name}", f"a side plane that is {words}", lambda e=expression: side_that_is(e))
add("side_base", "a side plane that is a difference from a base", lambda: side_that_is(
    {"add": [{"base": 0}, bits(8)]}, BaseTensor("U8", (16,), bytes(16)).entry()))  # fmt: skip


@invalid("a side plane that is a grid with scales of rows and columns")
def side_trellis() -> bytes:
    plan = [side("F32", (n,), [0x3F800000] * n) for n in (4, 4, 16)]
    plan[2].expression = {"trellis": [1, 0x3F800000, 0, bits(4), 0, 1]}
    expression = {"add": [{"mul": [{"gather": [2, bits(4)]}, 0]}, 1]}
    return one(Source("F32", (256,), bytes(1024), expression, literal, None, plan)).join()


# `scatter` by a mask

SPARSE = ["expressions", 0, "scatter"]


def sparse() -> Parts:
    """Of 256 units of 16 bits every third is left; both planes of the values raw."""
    values = [0x0101 * (i % 200 + 1) if i % 3 == 0 else 0 for i in range(256)]
    return one(Source("U16", (256,), little(values, 2), sparse_of(8, 8), planes(Plane(RAW), Plane(RAW), Plane(RAW))))


header("sparse_mask_width", "a mask of 2 bits a unit", ([*SPARSE, 0, "plane"], 2), base=sparse)
header("sparse_mask_key", "an unknown key of a mask", ([*SPARSE, 0, "side"], 0), base=sparse)
header("sparse_mask_number", "a scatter of bits by rows", ([*SPARSE, 0], 0), base=sparse)
header("sparse_mask_bits", "a mask that is `bits`", ([*SPARSE, 0], bits(1)), base=sparse)
header("sparse_one", "a mask and nothing that it scatters", (SPARSE, [{"plane": 1}]), base=sparse)
header("sparse_three", "a mask and two that it scatters", (SPARSE, [{"plane": 1}, bits(8, 8), bits(8)]), base=sparse)
header("sparse_object", "`scatter` is an object", (SPARSE, {"plane": 1}), base=sparse)
header("sparse_key", "an unknown key beside `scatter`", (["expressions", 0, "rotate"], 0), base=sparse)
header("sparse_plane", "a mask and a plane", ([*SPARSE, 1], {"plane": 16}), base=sparse)
header("sparse_ref", "a mask and a ref", ([*SPARSE, 1], {"ref": 0}), base=sparse)
header("sparse_nested", "scatter by a mask within one", ([*SPARSE, 1], sparse_of(8, 8)), base=sparse)
header("sparse_part", "scatter by a mask as a part of `bits`", (["expressions", 0, "bits", 0], sparse_of(8)))
header("sparse_empty", "a mask over `bits` without parts", ([*SPARSE, 1, "bits"], []), base=sparse)
header("sparse_16", "a mask over 16 parts", ([*SPARSE, 1, "bits"], [{"plane": 1}] * 16), base=sparse)
header("sparse_too_wide", "a mask over 17 bits for units of 16", ([*SPARSE, 1, "bits", 0, "plane"], 9), base=sparse)
header(
    "sparse_rows",
    "scatter by rows within scatter by a mask",
    (["tensors", 0, "sides"], [{"chunk": 1, "dtype": "U8", "expression": 1, "shape": [1]}]),
    (["expressions"], [sparse_of(8, 8), BYTES]),
    ([*SPARSE, 1, "bits", 1], {"scatter": [0, {"plane": 8}]}),
    base=sparse,
)
header(
    "sparse_sides",
    "side planes of a tensor that is scattered by a mask",
    (["tensors", 0, "sides"], [{"chunk": 1, "dtype": "U8", "expression": 1, "shape": [1]}]),
    (["expressions"], [sparse_of(8, 8), BYTES]),
    base=sparse,
)
header("sparse_mask_context", "a mask with a context", ([*SPARSE, 0, "context"], {"base": [8, 0, 2]}), base=sparse)
header(
    "sparse_values_context",
    "a context under a mask",
    ([*SPARSE, 1, "bits", 0, "context"], {"base": [8, 0, 2]}),
    base=sparse,
)
header("newer_sparse_rand", "the reserved name `rand` under a mask", ([*SPARSE, 1], {"rand": [0, 1]}), base=sparse)


@invalid("rows that do not divide the units")
def scatter_rows_do_not_divide() -> bytes:
    source = rows_source(bytes(8), 50, Plane(RAW), Plane(RAW))
    source.code, source.sides = literal, [Source("U8", (7,), bytes(7), BYTES)]
    return one(source).join()


@invalid("a side plane with a 2, of a row that is present")
def scatter_side_value() -> bytes:
    return literals(one(rows_source(bytes([1, 0, 2, 1]), 100, Plane(RAW), Plane(CODED)))).join()


@invalid("a side plane that no scatter names")
def sides_unused() -> bytes:
    source = rows_source(bytes([1, 0, 1, 1]), 100, Plane(RAW), Plane(CODED))
    source.sides = [source.sides[0]] * 2
    return one(source).join()


@invalid("seven side planes")
def sides_seven() -> bytes:
    expression = {"bits": [{"plane": 2}, *({"scatter": [k, {"plane": 2}]} for k in range(6))], "rotate": 0}
    sides = [Source("U8", (2,), b"\1\1", BYTES)] * 7
    return one(Source("U16", (2, 100), little(skewed(200, 60000), 2), expression, literal, None, sides)).join()


@invalid("a side plane without elements")
def side_without_elements() -> bytes:
    parts = rows()
    parts.streams[0].chunks = []
    return edit(parts, (ROW_SHAPE, [0]))


# -- ties ------------------------------------------------------------------------------------------------------------


def ties(*targets: int) -> bytes:
    """An empty tensor, two like each other, one of another dtype, and one of another shape; then ties to them."""
    writer = Writer()
    writer.empty("none", "U8", (0,))
    for i, (dtype, shape) in enumerate([("U8", (4,)), ("U8", (4,)), ("I8", (4,)), ("U8", (2, 2))]):
        writer.tensor(f"t{i}", Source(dtype, shape, b"same", BYTES))
    for i, target in enumerate(targets):
        expression = writer.expression({"ref": target})
        writer._add(f"tie{i}", "U8", (4,), b"same", expression=expression)
    return writer.parts().join()


add("ref_self", "a tie to itself", lambda: ties(5))
add("ref_later", "a tie to a later tensor", lambda: ties(6, 1))
add("ref_out_of_range", "a tie to no tensor", lambda: ties(7, 1))
add("ref_to_ref", "a tie to a tie", lambda: ties(1, 5))
add("ref_to_nothing", "a tie to a tensor without elements", lambda: ties(0))
add("ref_dtype", "a tie to a tensor of another dtype", lambda: ties(3))
add("ref_shape", "a tie to a tensor of another shape", lambda: ties(4))
header("ref_array", "`ref` is an array", (["expressions", 2], {"ref": [0]}))

# -- casts -----------------------------------------------------------------------------------------------------------


def casts_of(expression: dict, dtype: str = "BF16", shape: tuple[int, ...] = (4,), data: bytes = bytes(8)) -> bytes:
    """Tensors 0 to 4: F32, I32, without elements, a tie to the first, a cast of it. Then the one in question."""
    writer = Writer()
    writer.tensor("t0", Source("F32", (4,), bytes(16), bits(16, 16)))
    writer.tensor("t1", Source("I32", (4,), bytes(16), bits(16, 16)))
    writer.empty("t2", "F32", (0,))
    writer.ref("t3", 0)
    writer.cast("t4", 0, "F16")
    writer._add("t5", dtype, shape, data, expression=writer.expression(expression))
    return writer.parts().join()


add("cast_self", "a cast of itself", lambda: casts_of({"cast": 5}))
add("cast_out_of_range", "a cast of no tensor", lambda: casts_of({"cast": 6}))
add("cast_integers", "a cast of integers", lambda: casts_of({"cast": 1}))
add("cast_to_integers", "a cast to integers", lambda: casts_of({"cast": 0}, "I16"))
add("cast_to_float8", "a cast to F8_E4M3", lambda: casts_of({"cast": 0}, "F8_E4M3", data=bytes(4)))
add("cast_same_dtype", "a cast to the same dtype", lambda: casts_of({"cast": 0}, "F32", data=bytes(16)))
add("cast_of_nothing", "a cast of a tensor without elements", lambda: casts_of({"cast": 2}, shape=(0,), data=b""))
add("cast_of_ref", "a cast of a tie", lambda: casts_of({"cast": 3}))
add("cast_of_cast", "a cast of a cast", lambda: casts_of({"cast": 4}))
add("cast_shape", "a cast of another shape", lambda: casts_of({"cast": 0}, shape=(2, 2)))
add("cast_identity", "a cast that gives other bytes than its identity", lambda: casts_of({"cast": 0}, data=b"1" * 8))
add("ref_to_cast", "a tie to a cast", lambda: casts_of({"ref": 4}, "F16"))
header("cast_array", "`cast` is an array", (["expressions", 2], {"cast": [0]}))
header("expression_cast_pack", "a pack whose expression is a cast", (["expressions", 1], {"cast": 0}))
header("cast_with_stream", "a tensor with a stream whose expression is a cast", (["expressions", 0], {"cast": 3}))

# -- section 7: units from codes -------------------------------------------------------------------------------------


def palette_file(codes: list[int] | None = None) -> Parts:
    palette = side("U16", (5,), [9, 8, 7, 6, 500])
    codes = [v % 5 for v in range(256)] if codes is None else codes
    stored = Source("U16", (256,), bytes(512), {"gather": [0, bits(3)]}, lambda p: p.planes(Plane(RAW)).bytes(), None)
    stored.sides, stored.codes = [palette], codes
    entries = [9, 8, 7, 6, 500, 0, 0, 0]
    stored.data = little([entries[c] for c in codes], 2)
    return one(stored)


def scaled_file(scales: Sequence[int] = (0x3F800000, 0x3F000000), entry: int = 0x40000000) -> Parts:
    plan = [side("F32", (2,), [0x3F800000, entry]), side("F32", (2,), scales)]
    stored = Source("F32", (256,), bytes(1024), {"mul": [{"gather": [0, bits(1)]}, 1]})
    stored.sides, stored.codes = plan, [0] * 256
    stored.code = lambda p: p.planes(Plane(CONSTANT)).bytes()
    stored.data = little([0x3F800000] * 128 + [0x3F000000] * 128, 4)
    return one(stored)


def wide_palette() -> Parts:
    return one(Source("U64", (4,), bytes(32), {"gather": [0, bits(3)]}, sides=[side("U64", (1,), [0])]))


def decimal_file() -> Parts:
    stored = Source("F32", (256,), little([0x3F800000] * 256, 4), {"decimal": [0, bits(8)]})
    stored.codes, stored.code = [2] * 256, lambda p: p.planes(Plane(CONSTANT)).bytes()
    return one(stored)


SIDE = ["tensors", 0, "sides"]
LOOKUP = ["expressions", 0]
add("gather_code", "a code that is the number of entries", lambda: palette_file([5] + [1] * 255).join())
header("gather_one", "gather with one entry", ([*LOOKUP, "gather"], [0]), base=palette_file)
header("gather_rotate", "codes that are rotated", ([*LOOKUP, "gather", 1, "rotate"], 1), base=palette_file)
header("gather_wide", "codes of 17 bits", ([*LOOKUP, "gather", 1], bits(16, 1)), base=wide_palette)
header("gather_nested", "codes by a gather", ([*LOOKUP, "gather", 1], {"gather": [0, bits(3)]}), base=wide_palette)
header("gather_side_out_of_range", "no such side plane", ([*LOOKUP, "gather", 0], 1), base=palette_file)
header("gather_dtype", "a palette of another dtype", ([*SIDE, 0, "dtype"], "I16"), base=palette_file)
header("gather_scalar", "a palette without dimensions", ([*SIDE, 0, "shape"], []), base=palette_file)
header("gather_three", "a palette of three dimensions", ([*SIDE, 0, "shape"], [1, 1, 5]), base=palette_file)
header("gather_runs", "palettes of five runs for 256 units", ([*SIDE, 0, "shape"], [5, 1]), base=palette_file)
header(
    "gather_scatter",
    "codes of which some rows have none",
    ([*LOOKUP, "gather", 1, "bits", 0], {"scatter": [0, {"plane": 3}]}),
    base=palette_file,
)
header("gather_pack", "a pack with a palette", (["expressions", 1], {"gather": [0, BYTES]}))
header(
    "bomb_palette",
    "a palette of 2^40 entries",
    ([*SIDE, 0, "shape"], [1 << 40]),
    ([*SIDE, 0, "chunk"], 1 << 20),
    base=palette_file,
)


def long_palette(dtype: str, shape: tuple[int, ...], units: int, expression: dict, *more: Source) -> bytes:
    """Palettes of zeros, too many for what they are of."""
    palette = Source(dtype, shape, bytes(prod(shape) * DTYPES[dtype][0] // 8), BYTES, affine(0, 0))
    of = dtype if "gather" in expression else "F32"
    data = bytes(units * DTYPES[of][0] // 8)
    return one(Source(of, (units,), data, expression, affine(0, 0), None, [palette, *more])).join()


LONG = {"gather": [0, bits(4)]}
add("gather_palette_long", "a palette of 65537 entries", lambda: long_palette("U8", (65537,), 65537, LONG))
add("gather_palettes_many", "palettes of 65792 entries together, for 65536 units",
    lambda: long_palette("U8", (256, 257), 65536, LONG))  # fmt: skip
add("gather_units", "a palette of numbers of two units", lambda: long_palette("C64", (5,), 128, LONG))
add("gather_wide_unit", "codes of 9 bits for units of 8",
    lambda: edited(long_palette("U8", (5,), 128, LONG), ([*LOOKUP, "gather", 1], bits(9))))  # fmt: skip
add("mul_palette_long", "a palette of a mul of 65537 entries", lambda: long_palette(
    "I8", (65537,), 256, {"mul": [LONG, 1]}, side("F32", (2,), [0, 0])))  # fmt: skip
header("mul_dtype", "mul in I32", (["tensors", 0, "dtype"], "I32"), base=scaled_file)
header("mul_of_bits", "mul of bits", ([*LOOKUP, "mul", 0], bits(1)), base=scaled_file)
add("mul_same_side", "one side plane for palette and scales",
    lambda: without_side(scaled_file(), 1, ([*LOOKUP, "mul", 1], 0)))  # fmt: skip
header("mul_side_unused", "a side plane too many", (LOOKUP, {"gather": [0, bits(1)]}), base=scaled_file)
header("mul_scale_dtype", "scales of I32", ([*SIDE, 1, "dtype"], "I32"), base=scaled_file)
header("mul_palette_dtype", "a palette of U32", ([*SIDE, 0, "dtype"], "U32"), base=scaled_file)
header("mul_palette_shape", "a palette of a mul in two dimensions", ([*SIDE, 0, "shape"], [1, 2]), base=scaled_file)
header("mul_scale_shape", "scales in two dimensions", ([*SIDE, 1, "shape"], [2, 1]), base=scaled_file)
add("mul_scale_nan", "a scale that is NaN", lambda: scaled_file((0x3F800000, 0x7FC00000)).join())
add("mul_entry_infinite", "an entry that is infinite, and not used", lambda: scaled_file(entry=0x7F800000).join())


def offset_file(seconds: Sequence[int] = (0x3F800000, 0x3F800000), palette: int = 0x40000000) -> Parts:
    ones = [0x3F800000, 0x3F800000]
    plan = [side("F32", (2,), numbers) for numbers in ([0, palette], ones, seconds, ones)]
    expression = {"add": [{"mul": [{"gather": [0, bits(1)]}, [1, 2]]}, 3]}
    stored = Source("F32", (256,), little([0x3F800000] * 256, 4), expression)
    stored.sides, stored.codes = plan, [0] * 256
    stored.code = lambda p: p.planes(Plane(CONSTANT)).bytes()
    return one(stored)


PRODUCT_OF = [*LOOKUP, "add", 0, "mul"]
header("mul_factors_three", "three factors of scales", ([*PRODUCT_OF, 1], [1, 2, 3]), base=offset_file)
header("mul_factors_one", "a list of one factor", ([*PRODUCT_OF, 1], [1]), base=offset_file)
add("mul_factors_same", "a scale times itself",
    lambda: without_side(offset_file(), 2, ([*PRODUCT_OF, 1], [1, 1]), ([*LOOKUP, "add", 1], 2)))  # fmt: skip
add("mul_factors_palette", "the palette as a factor",
    lambda: without_side(offset_file(), 2, ([*PRODUCT_OF, 1], [1, 0]), ([*LOOKUP, "add", 1], 2)))  # fmt: skip
header("mul_factors_dtype", "second factors of I32", ([*SIDE, 2, "dtype"], "I32"), base=offset_file)
header("mul_factors_out_of_range", "no such second factors", ([*PRODUCT_OF, 1], [1, 4]), base=offset_file)
add("add_offset_same", "offsets that are the scales",
    lambda: without_side(offset_file(), 3, ([*LOOKUP, "add", 1], 1)))  # fmt: skip
MULTIPLIED = {"mul": [{"gather": [0, bits(1)]}, 1]}
header("add_offset_missing", "a product and no offset", ([*LOOKUP, "add"], [MULTIPLIED]), base=offset_file)
header("add_offset_bits", "a product plus planes", ([*LOOKUP, "add", 1], bits(32)), base=offset_file)
header("add_offset_three", "a product plus two offsets", ([*LOOKUP, "add"], [MULTIPLIED, 2, 3]), base=offset_file)
header("add_offset_key", "a key beside the product", ([*LOOKUP, "add", 0, "base"], 0), base=offset_file)
header("add_offset_gather", "a palette plus an offset", ([*LOOKUP, "add", 0], MULTIPLIED["mul"][0]), base=offset_file)
header("mul_factors_shape", "second factors in two dimensions", ([*SIDE, 2, "shape"], [2, 1]), base=offset_file)
header("add_offset_dtype", "offsets of I32", ([*SIDE, 3, "dtype"], "I32"), base=offset_file)
header("add_offset_shape", "offsets in two dimensions", ([*SIDE, 3, "shape"], [2, 1]), base=offset_file)


def offset_by(*factors: Sequence[int]) -> bytes:
    """Offsets that are products of two factors."""
    plan = [side("F32", (len(numbers),), numbers) for numbers in ([0, 0x3F800000], [0x3F800000] * 2, *factors)]
    expression = {"add": [{"mul": [{"gather": [0, bits(1)]}, 1]}, [2, 3]]}
    return one(Source("F32", (256,), bytes(1024), expression, literal, None, plan)).join()


ONE, LARGE = 0x3F800000, 0x7F000000
add("add_offset_factors_runs", "four second factors for two offsets", lambda: offset_by([ONE] * 2, [ONE] * 4))
add("add_offset_nan", "an offset that is NaN", lambda: offset_by([ONE, 0x7FC00000], [ONE]))
add("add_offset_overflow", "factors of an offset whose product is too large", lambda: offset_by([ONE, LARGE], [LARGE]))
add("mul_factors_infinite", "factors whose product is infinite", lambda: offset_file((0x3F800000, 0x7F800000)).join())


@invalid("two scales whose product is too large, and not used")
def mul_factors_overflow() -> bytes:
    parts = offset_file()
    parts.streams[1] = Source("F32", (2,), little([0x3F800000, 0x7F000000], 4), bits(8), literal).stream()
    parts.streams[2] = Source("F32", (2,), little([0x3F800000, 0x7F000000], 4), bits(8), literal).stream()
    return parts.join()


def factors_for(number: int, rows: int) -> bytes:
    """One side plane of another length than the others."""
    parts = offset_file()
    parts.streams[number] = Source("F32", (rows,), little([0x3F800000] * rows, 4), bits(8), literal).stream()
    return edit(parts, ([*SIDE, number, "shape"], [rows]), ([*SIDE, number, "chunk"], rows))


add("mul_factors_runs", "four second factors for two scales", lambda: factors_for(2, 4))
add("add_offset_runs", "one offset for two scales", lambda: factors_for(3, 1))


def scales_for(rows: int) -> bytes:
    parts = scaled_file()
    scales = Source("F32", (rows,), little([0x3F800000] * rows, 4), bits(8), literal).stream()
    parts.streams[1] = scales
    return edit(parts, ([*SIDE, 1, "shape"], [rows]), ([*SIDE, 1, "chunk"], rows))


add("mul_runs", "three scales for 256 units", lambda: scales_for(3))
add("mul_runs_short", "a scale for four units", lambda: scales_for(64))
header("decimal_power", "a power of 23", (["expressions", 0, "decimal", 0], 23), base=decimal_file)
header("decimal_dtype", "decimals in I32", (["tensors", 0, "dtype"], "I32"), base=decimal_file)
header(
    "decimal_wide",
    "codes of 54 bits",
    (["expressions", 0, "decimal", 1], bits(16, 16, 16, 6)),
    (["tensors", 0, "dtype"], "F64"),
    base=lambda: one(Source("F64", (4,), bytes(32), {"decimal": [0, bits(8)]})),
)


def square(dtype: str, expression: dict, of: str = "U8") -> Parts:
    """16 rows and 16 columns, so that either side plane fits where the other does."""
    sides = [side(of, (16,), [1] * 16)] * 2
    return one(Source(dtype, (16, 16), bytes(256 * DTYPES[dtype][1]), expression, literal, None, sides))


def lines_of_units(rows: int, columns: int, expression: dict) -> bytes:
    """Classes for 256 bytes."""
    sides = [side("U8", (n,), [1] * n) for n in (rows, columns)]
    return one(Source("U8", (256,), bytes(256), expression, literal, None, sides)).join()


CLASSED_PLANE = {"bits": [{"context": {"class": [0, 1, 4]}, "plane": 8}], "rotate": 0}

add("decimal_wide_unit", "codes of 17 bits for units of 16", lambda: edited(
    one(Source("BF16", (4,), bytes(8), {"decimal": [0, bits(8)]})).join(), ([*LOOKUP, "decimal", 1], bits(16, 1))
))  # fmt: skip


def grid_file(rows: Sequence[int] = (0x3F800000,) * 2, columns: Sequence[int] = (0x3F800000,) * 128) -> Parts:
    plan = [side("F32", (len(rows),), rows), side("F32", (len(columns),), columns)]
    stored = Source("F32", (256,), bytes(1024), {"trellis": [8, 0x3F800000, 0, bits(4), 0, 1]})
    stored.sides, stored.codes = plan, [0] * 256
    stored.code = lambda p: p.planes(Plane(CONSTANT)).bytes()
    return one(stored)


TRELLIS = [*LOOKUP, "trellis"]
for name, words, at, value in (
    ("states_2", "a trellis of two states", 0, 2),
    ("states_0", "a trellis without states", 0, 0),
    ("step_0", "a step of 0", 1, 0),
    ("step_infinite", "a step that is infinite", 1, 0x7F800000),
    ("step_negative", "a step below 0", 1, 0xBF800000),
    ("step_float", "a step that is no integer", 1, 0.5),
    ("zero_beyond", "a zero that no code reaches", 2, 16),
    ("zero_negative", "a zero below the codes", 2, -1),
    ("rotate", "codes that are rotated", 3, {"bits": [{"plane": 4}], "rotate": 1}),
    ("of_gather", "codes by a gather", 3, {"gather": [0, bits(4)]}),
    ("side_out_of_range", "no such side plane", 5, 2),
):
    header(f"trellis_{name}", words, ([*TRELLIS, at], value), base=grid_file)
add("trellis_same_side", "one side plane for rows and columns", lambda: without_side(
    square("F32", {"trellis": [1, 1, 0, bits(4), 0, 1]}, "F32"), 1, ([*TRELLIS, 5], 0)))  # fmt: skip
header("trellis_five", "a trellis with five entries", (TRELLIS, [8, 0x3F800000, 0, bits(4), 0]), base=grid_file)
header("trellis_object", "a trellis that is no array", (TRELLIS, {"bits": 1}), base=grid_file)
header("trellis_side_unused", "side planes that it lacks", (TRELLIS, [8, 0x3F800000, 0, bits(4)]), base=grid_file)
header("trellis_wide", "codes of 17 bits", ([*TRELLIS, 3], bits(16, 1)), base=grid_file)
header("trellis_dtype", "a trellis in I32", (["tensors", 0, "dtype"], "I32"), base=grid_file)


def floats_pack(expression: dict) -> Callable[[], bytes]:
    def make() -> bytes:
        writer = Writer()
        writer.pack_member("a", writer.pack("F32", expression), (256,), bytes(1024))
        return writer.parts().join()

    return make


add("trellis_pack", "a pack with side planes", floats_pack({"trellis": [1, 1, 0, bits(4), 0, 1]}))
header("trellis_bytes", "a trellis in a pack of bytes", (["expressions", 1], {"trellis": [1, 1, 0, BYTES]}))
header("trellis_part", "`trellis` for a part", (["expressions", 0, "bits", 0], {"trellis": [8, 1, 0, BYTES]}))
header("trellis_side_dtype", "scales of I32", ([*SIDE, 1, "dtype"], "I32"), base=grid_file)
header("trellis_side_shape", "scales in two dimensions", ([*SIDE, 1, "shape"], [128, 1]), base=grid_file)
add("trellis_units", "rows times columns that are not the tensor", lambda: grid_file(columns=(0x3F800000,) * 64).join())
for name, words, number in (
    ("zero", "0", 0),
    ("negative", "below 0", 0xBF800000),
    ("infinite", "infinite", 0x7F800000),
    ("nan", "NaN", 0x7FC00000),
):  # fmt: skip
    add(f"trellis_row_{name}", f"a row's scale that is {words}", lambda n=number: grid_file((0x3F800000, n)).join())
    add(
        f"trellis_column_{name}",
        f"a column's scale that is {words}",
        lambda n=number: grid_file(columns=(0x3F800000,) * 127 + (n,)).join(),
    )
add(
    "trellis_step_overflow",
    "a row and a column whose step is infinite",
    lambda: literals(grid_file((0x3F800000, 0x7F000000), (0x3F800000,) * 127 + (0x7F000000,))).join(),
)


def classed_grid(rows: Sequence[int] = (0, 1), columns: Sequence[int] = (0,) * 128) -> Parts:
    """Two rows of codes 1 and 2, each with a table of its own."""
    codes = [1 + k % 2 for k in range(256)]
    context = {"context": {"class": [0, 1, 3]}, "plane": 4}
    expression = [1, 0x3F800000, 0, {"bits": [context], "rotate": 0}]
    numbers = [0x3F800000 if code == 1 else 0x40000000 for code in codes]
    stored = Source("F32", (256,), little(numbers, 4), {"trellis": expression}, planes(Plane(CODED)))
    stored.sides = [side("U8", (len(rows),), rows), side("U8", (len(columns),), columns)]
    stored.codes = codes
    return one(stored)


CLASSED_CODES = {"bits": [{"context": {"class": [0, 1, 3]}, "plane": 4}], "rotate": 0}
GRID_CONTEXT = [*TRELLIS, 3, "bits", 0, "context"]
header(
    "trellis_class_two",
    "classes of codes without a number of tables",
    ([*GRID_CONTEXT, "class"], [0, 1]),
    base=classed_grid,
)
header(
    "trellis_class_side",
    "classes in a side plane that is not there",
    ([*GRID_CONTEXT, "class", 1], 2),
    base=classed_grid,
)
header("trellis_class_unused", "a side plane that nothing names", ([*GRID_CONTEXT, "class", 1], 0),
       base=lambda: square("F32", {"trellis": [1, 0x3F800000, 0, CLASSED_CODES]}))  # fmt: skip
header(
    "trellis_class_tables_1",
    "classes of codes that select one table",
    ([*GRID_CONTEXT, "class", 2], 1),
    base=classed_grid,
)
header(
    "trellis_class_tables_65",
    "classes of codes that select 65 tables",
    ([*GRID_CONTEXT, "class", 2], 65),
    base=classed_grid,
)
header("trellis_class_mean", "codes with a mean", ([*GRID_CONTEXT, "mean"], [1, [1], []]), base=classed_grid)
header("trellis_class_base", "codes given a base", (GRID_CONTEXT, {"base": [8, 0, 2]}), base=classed_grid)
header(
    "trellis_class_below",
    "classes for a plane of codes that is not the last",
    ([*TRELLIS, 3, "bits"], [{"context": {"class": [0, 1, 3]}, "plane": 2}, {"plane": 2}]),
    base=classed_grid,
)
header(
    "trellis_class_gather",
    "classes for the codes of a gather",
    (["expressions", 0], {"gather": [1, {"bits": [{"context": {"class": [0, 1, 3]}, "plane": 4}], "rotate": 0}]}),
    base=classed_grid,
)
header(
    "trellis_class_sum_of",
    "classes for the codes of a grid that something is added to",
    (LOOKUP, {"add": [{"matmul": [0, 1, 1]}, {"trellis": [1, 1, 0, CLASSED_CODES]}]}),
    base=classed_grid,
)
header(
    "trellis_class_apart",
    "classes for the codes of a grid beside units apart",
    (LOOKUP, {"scatter": [{"plane": 1}, bits(8, 8, 8, 8), {"trellis": [1, 1, 0, CLASSED_CODES]}]}),
    base=classed_grid,
)
header("trellis_class_shape", "classes of two dimensions", ([*SIDE, 1, "shape"], [2, 64]), base=classed_grid)
header("trellis_class_dtype", "classes that are I8", ([*SIDE, 1, "dtype"], "I8"), base=classed_grid)
add("trellis_class_rows", "more classes of rows than rows", lambda: literals(classed_grid((0, 1, 1))).join())
add(
    "trellis_class_sum", "classes of codes of more than 255 together", lambda: classed_grid((0, 255), (1,) * 128).join()
)

# -- section 8: image ------------------------------------------------------------------------------------------------

header("image_format", "a format that is not known", (["image", "format"], "npz"))
header("image_missing_format", "no format", (["image", "format"], DROP))
FRONT: int = basic().json["image"]["segments"][0]
header("image_literal_0", "a literal segment of 0 bytes", (["image", "segments"], [FRONT, [0, 3], 3, 0, [4, 1]]))
header("image_count_0", "a segment of 0 tensors", (["image", "segments"], [FRONT, [0, 3], 3, [3, 0], [4, 1]]))
header("image_count_beyond", "a segment of tensors that are not there", (["image", "segments", 3], [4, 2]))
header(
    "image_first_beyond",
    "a segment that begins behind the tensors",
    (["image", "segments"], [FRONT, [0, 3], 3, [4, 1], [5, 1]]),
)
header("image_single", "a segment with one number", (["image", "segments", 3], [4]))
header("image_string", "a segment that is a string", (["image", "segments", 0], "head"))
header(
    "image_gap_moved",
    "the literal bytes are cut at another place: wrong SHA-256",
    (["image", "format"], "gguf"),
    (["image", "segments"], [FRONT + 1, [0, 3], 2, [4, 1]]),
)
header("image_chunk_0", "an image of chunks of 0 bytes", (["image", "chunk"], 0))


header("image_left_out", "an image without the last tensor", (["image", "segments"], [FRONT, [0, 3], 3]))
header(
    "image_left_out_between",
    "an image without a tensor between others",
    (["image", "segments"], [FRONT, [0, 1], 3, [2, 1], [4, 1]]),
)
header("image_left_out_all", "an image of literal bytes alone, beside tensors", (["image", "segments"], [FRONT + 3]))


def image_of(segments: list, *, sha: bool = True, front: Callable[[Writer], bytes] | None = None) -> bytes:
    writer = Writer()
    for i in range(3):
        writer.tensor(f"t{i}", Source("U8", (5,), bytes([65 + i] * 5), BYTES))
    writer.empty("none", "U8", (0, 2))
    if front is not None:
        segments = [front(writer), *segments]
    writer.image(segments, BYTES, literal if sha else lambda place: literal_chunk(flip(place.data, 0), 1))
    parts = writer.parts()
    if not sha:
        chunk = parts.streams[-1].chunks[0]
        length = chunk.decoded_length
        chunk.decoded_digest = decode.decoded_digest(chunk.stored[16 : 16 + length])
    return parts.join()


add("image_tensor_twice", "an image that takes a tensor twice", lambda: image_of([b"x", (0, 2), (1, 1)]))
add(
    "image_tensor_order",
    "an image whose tensors are not in the header's order",
    lambda: image_of([b"x", (1, 2), (0, 1)]),
)
WHOLE = [(0, 3)]  # after its front
add(
    "image_sha",
    "one bit of the SHA-256",
    lambda: image_of(WHOLE, sha=False, front=lambda writer: writer.front(WHOLE)),
)


def other_source(name: str, what: str, **changes: object) -> None:
    """A sound image of a safetensors file, of whose first tensor the file says something else."""
    entry = {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}
    entry = {key: value for key, value in (entry | changes).items() if value is not DROP}
    add(name, what, lambda: image_of(WHOLE, front=lambda writer: writer.front(WHOLE, {"t0": entry})))


def other_text(name: str, what: str, change: Callable[[bytes], bytes]) -> None:
    """The same with another header."""
    add(name, what, lambda: image_of(WHOLE, front=lambda writer: front(change(writer.front(WHOLE)[8:]))))


other_source("image_dtype", "a tensor that is I8 in the source file", dtype="I8")
other_source("image_shape", "a tensor of another shape in the source file", shape=[1, 5])
other_source("image_shape_float", "a tensor whose shape in the source file is no integer", shape=[5.0])
other_source("image_shape_text", "a tensor whose shape in the source file is a string", shape="5")
other_source("image_place", "a tensor that lies elsewhere in the source file", data_offsets=[5, 10])
other_source("image_place_end", "a tensor that is longer in the source file", data_offsets=[0, 6])
other_source("image_place_three", "a tensor with three places in the source file", data_offsets=[0, 5, 5])
other_source("image_place_true", "a tensor whose place in the source file is false", data_offsets=[False, 5])
other_source("image_place_missing", "a tensor without a place in the source file", data_offsets=DROP)
for name, what, more in (
    ("image_more", "a source file with a tensor more", {"t3": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
    ("image_entry", "a tensor that is a number in the source file", {"t0": 1}),
    ("image_none", "a tensor without elements that has some in the source file",
     {"none": {"dtype": "U8", "shape": [0, 2], "data_offsets": [0, 5]}}),
):  # fmt: skip
    add(name, what, lambda more=more: image_of(WHOLE, front=lambda writer: writer.front(WHOLE, more)))
other_text("image_name", "a tensor of another name in the source file", lambda text: text.replace(b'"t0"', b'"t9"'))
other_text(
    "image_fewer",
    "a source file without the tensor that has no elements",
    lambda text: text[: text.index(b', "none"')] + b"}",
)
other_text("image_twice", "a tensor that is twice in the source file", lambda text: text[:-1] + b"," + text[1:])
other_text("image_cut", "a source file whose header is no JSON", lambda text: text[:-1])
other_text("image_array", "a source file whose header is an array", lambda text: b"[" + text + b"]")
other_text("image_utf16", "a source file whose header is not UTF-8", lambda text: text.decode().encode("utf-16-le"))
other_text("image_bom", "a source file whose header begins with a byte order mark", lambda text: b"\xef\xbb\xbf" + text)
add("image_short", "a source file of seven bytes before its tensors", lambda: image_of([bytes(7), (0, 3)]))
add("image_no_literal", "a source file that begins with a tensor", lambda: image_of([(0, 3)]))
add(
    "image_two_faces",
    "a source file that has other tensors among its literal bytes, behind which the file's are",
    lambda: image_of([bytes(15), (0, 3)], front=lambda writer: writer.front(WHOLE)),
)

# -- sections 4 and 5: index and table -------------------------------------------------------------------------------


def stream_lengths(parts: Parts) -> None:
    lengths = [sum(len(chunk.stored) for chunk in stream.chunks) for stream in parts.streams]
    assert lengths[0] != lengths[1]
    for stream, length in zip(parts.streams, [lengths[1], lengths[0]], strict=False):
        stream.stored_length = length


def swap_records(parts: Parts) -> None:
    chunks = parts.streams[0].chunks
    chunks[0], chunks[1] = chunks[1], chunks[0]


def swap_bytes(parts: Parts) -> None:
    a, b = parts.streams[0].chunks[:2]
    a.stored_digest, b.stored_digest = digest(a.stored), digest(b.stored)
    a.stored, b.stored = b.stored, a.stored


def equal_chunks() -> Parts:
    return one(Source("U16", (8,), b"abcdefghijklmnop", bits(8, 8), literal, 4))


def pad(parts: Parts, byte: int) -> None:
    data = parts.join()
    rest = sum(len(chunk.stored) for chunk in parts.chunks())
    table_end = 64 + len(parts.header) + struct.unpack_from("<I", data, 28)[0] + 48 * len(parts.chunks())
    gap = len(data) - rest - table_end
    assert gap
    parts.padding = bytes(gap - 1) + bytes([byte])


parts_with("stream_lengths_exchanged", "the stored lengths of two streams are exchanged", stream_lengths)
parts_with(
    "stream_length_more",
    "a stream's stored length is 64 more than its chunks",
    lambda p: put(p.streams[0], stored_length=192),
)
parts_with(
    "stream_length_wrap",
    "stored lengths of streams that sum to the right number modulo 2^64",
    lambda p: (put(p.streams[0], stored_length=2**64 - 64), put(p.streams[1], stored_length=256)),
)
parts_with(
    "digest_table",
    "one bit of a stream's digest of its table records",
    lambda p: put(p.streams[1], table_digest=flip(p.streams[1].record()[8:], 0)),
)
parts_with(
    "digest_stored",
    "one bit of a chunk's digest of its stored bytes",
    lambda p: put(p.chunks()[1], stored_digest=flip(digest(p.chunks()[1].stored), 31)),
)
parts_with(
    "digest_decoded",
    "one bit of a chunk's digest of its decoded bytes",
    lambda p: put(p.chunks()[0], decoded_digest=p.chunks()[0].decoded_digest ^ 1),
)
parts_with(
    "digest_decoded_high",
    "the highest bit of a chunk's digest of its decoded bytes",
    lambda p: put(p.chunks()[0], decoded_digest=p.chunks()[0].decoded_digest ^ 1 << 63),
)
parts_with(
    "digest_decoded_plain",
    "a decoded digest that is XXH3-64 of the bytes themselves",
    lambda p: put(p.chunks()[0], decoded_digest=plain_xxh3(p.chunks()[0].stored[16:24])),
)
parts_with(
    "identity",
    "one bit of a tensor's identity",
    lambda p: put(p, identities=[flip(p.identities[0], 5), *p.identities[1:]]),
)
parts_with(
    "identity_pack_member",
    "one bit of the identity of a pack's tensor",
    lambda p: put(p, identities=[*p.identities[:4], flip(p.identities[4], 5)]),
)
parts_with(
    "identity_tie",
    "a tie's identity is not its target's",
    lambda p: put(p, identities=[*p.identities[:2], flip(p.identities[2], 0), *p.identities[3:]]),
)
parts_with(
    "identity_empty",
    "the identity of a tensor without elements is zero",
    lambda p: put(p, identities=[*p.identities[:3], bytes(32), p.identities[4]]),
)
parts_with("padding_after_table", "a byte of the padding after the table is not zero", lambda p: pad(p, 1))
parts_with(
    "padding_missing",
    "64 bytes of padding too many after the table",
    lambda p: put(p, padding=bytes(-(64 + len(p.header) + 32 * 5 + 40 * 3 + 48 * 4) % 64 + 64)),
)
parts_with(
    "decoded_length", "a chunk's decoded length is not its units'", lambda p: put(p.chunks()[0], decoded_length=7)
)
parts_with(
    "decoded_length_exchanged",
    "the decoded lengths of two chunks are exchanged",
    lambda p: (put(p.chunks()[0], decoded_length=4), put(p.chunks()[1], decoded_length=8)),
)
parts_with(
    "stored_length_not_64",
    "stored lengths of 63 and 65, with the bytes to match",
    lambda p: (
        put(p.chunks()[0], stored=p.chunks()[0].stored[:-1]),
        put(p.chunks()[1], stored=p.chunks()[1].stored + b"\0"),
    ),
)
parts_with("stored_length_0", "a chunk of 0 stored bytes", lambda p: put(p.chunks()[0], stored=b""))
parts_with(
    "stored_length_more",
    "a chunk's stored length is 64 more than there is for it",
    lambda p: put(p.chunks()[1], stored_length=128),
)
parts_with(
    "stored_length_less",
    "a stream's stored length is 64 more than its chunks', and the next one's as much less",
    lambda p: (put(p.streams[0], stored_length=192), put(p.streams[1], stored_length=0)),
)
parts_with(
    "stored_length_over_limit",
    "a chunk with 64 zeros more than the limit on the stored length allows",
    lambda p: put(p.chunks()[0], stored=p.chunks()[0].stored + bytes(192)),
)
parts_with(
    "chunks_exchanged", "two chunks exchanged with their records: only the identity tells", swap_records, equal_chunks
)
parts_with("chunks_bytes_exchanged", "the bytes of two chunks exchanged", swap_bytes, equal_chunks)
header(
    "table_beyond_file",
    "the table ends behind the file",
    (["tensors", 0, "chunk"], 1),
    (["tensors", 0, "shape"], [600]),
    base=lambda: one(Source("U8", (6,), b"abcdef", BYTES)),
)


def plain_xxh3(data: bytes) -> int:
    return decode.xxhash.xxh3_64_intdigest(data)


# -- section 6: chunks -----------------------------------------------------------------------------------------------

RAMP = bytes(range(100))


def stored_as(stored: bytes, data: bytes = RAMP, dtype: str = "U8", expression: dict = BYTES) -> bytes:
    """A file of one tensor in one chunk, stored as given."""
    count = len(to_units(data, {"U8": 1, "U16": 2, "U32": 4}[dtype]))
    return one(Source(dtype, (count,), data, expression, lambda _: stored)).join()


def head(kind: int, planes: int, n: int, zero: int = 0, zeros: int = 0) -> bytes:
    return HEAD.pack(kind, planes, zero, n, zeros)


add("head_kind", "a chunk of kind 3", lambda: stored_as(finish(head(3, 0, 100) + RAMP, 100)))
add(
    "head_planes_of_literal",
    "a literal that says it has a plane",
    lambda: stored_as(finish(head(LITERAL, 1, 100) + RAMP, 100)),
)
add("head_reserved", "the head's u16 is 1", lambda: stored_as(finish(head(LITERAL, 0, 100, 1) + RAMP, 100)))
add(
    "head_reserved_end",
    "the head's last byte is 1",
    lambda: stored_as(finish(head(LITERAL, 0, 100, 0, 1 << 56) + RAMP, 100)),
)
add("head_units_less", "a unit less than the reader knows", lambda: stored_as(finish(head(LITERAL, 0, 99) + RAMP, 100)))
add(
    "head_units_more", "a unit more than the reader knows", lambda: stored_as(finish(head(LITERAL, 0, 101) + RAMP, 100))
)
add("literal_cut", "a literal of 100 bytes in 64", lambda: stored_as((head(LITERAL, 0, 100) + RAMP)[:64]))
add(
    "literal_after",
    "a byte after a literal is not zero",
    lambda: stored_as(flip(finish(head(LITERAL, 0, 100) + RAMP, 100), -1)),
)
add("affine_start", "`start` is 2^8 in units of 8 bits", lambda: stored_as(affine_chunk(256, 1, 100, 1)))
add("affine_step", "`step` is 2^8 + 1 in units of 8 bits", lambda: stored_as(affine_chunk(0, 257, 100, 1)))
add("affine_after", "a byte after an affine chunk is not zero", lambda: stored_as(flip(affine_chunk(0, 1, 100, 1), 32)))
add(
    "affine_wrong",
    "an affine chunk that does not give what its digest says",
    lambda: stored_as(affine_chunk(0, 2, 100, 1)),
)
add("affine_planes", "an affine chunk that says it has a plane", lambda: stored_as(flip(affine_chunk(0, 1, 100, 1), 1)))

VALUES = skewed(512, 12)
TWELVE = bits(12)


def chunk_of(values: list[int], expression: dict, *plans: Plane, unit: int = 2) -> PlanesChunk:
    return Place(little(values, unit), unit, parse_expression(expression), 0, len(values), []).planes(*plans)


def planes_file(
    chunk: PlanesChunk | bytes, values: list[int] = VALUES, expression: dict = TWELVE, dtype: str = "U16"
) -> bytes:
    stored = chunk if isinstance(chunk, bytes) else chunk.bytes()
    return stored_as(stored, little(values, {"U8": 1, "U16": 2, "U32": 4}[dtype]), dtype, expression)


add(
    "head_kind_planes",
    "a chunk of kind 3 that would be right as planes",
    lambda: planes_file(flip(chunk_of(VALUES, TWELVE, Plane(CODED)).bytes(), 0)),
)
add(
    "planes_few_units",
    "planes in a chunk of 100 units",
    lambda: stored_as(PlanesChunk(100, 1, [Coded(CONSTANT)], RAMP).bytes()),
)
add(
    "planes_number",
    "a chunk with one plane fewer than its expression has",
    lambda: planes_file(chunk_of(VALUES, TWELVE, Plane(CODED)), expression=bits(12, 4)),
)
add(
    "planes_number_more",
    "a chunk with one plane more than its expression has",
    lambda: planes_file(chunk_of(VALUES, bits(12, 4), Plane(CODED), Plane(CONSTANT))),
)
add(
    "planes_descriptors_cut",
    "descriptors that leave the chunk",
    lambda: planes_file(finish(head(PLANES, 4, 512) + bytes(48), 1024), [0] * 512, bits(4, 4, 4, 4)),
)
add("planes_few_zeros", "no zeros after the last payload", lambda: cut_read_ahead())
add(
    "planes_few_zeros_constant",
    "fewer than 64 zeros after the descriptors, where there is no payload",
    lambda: stored_as(chunk_of([3] * 128, BYTES, Plane(CONSTANT), unit=1).bytes()[:64], b"\3" * 128),
)
add(
    "planes_after",
    "the chunk's last byte is not zero",
    lambda: planes_file(flip(chunk_of(VALUES, TWELVE, Plane(CODED)).bytes(), -1)),
)
add(
    "planes_payload_cut",
    "a payload that leaves the chunk",
    lambda: planes_file(chunk_of(VALUES, TWELVE, Plane(CODED)).bytes()[:256]),
)


@invalid("a tail that leaves the chunk")
def planes_tail_cut() -> bytes:
    values = [v % 256 for v in noise(128)] + [*range(1, 128)]
    stored = chunk_of(values, BYTES, Plane(RAW), unit=1).bytes()
    return planes_file(stored[:256], values, BYTES, "U8")  # the tail, of 127 bytes, begins at 160


def cut_read_ahead() -> bytes:
    parts = read_ahead()
    chunk = parts.chunks()[0]
    chunk.stored = chunk.stored[:-64]
    return parts.join()


@invalid("a byte of the gap between two payloads is not zero")
def planes_gap() -> bytes:
    chunk = chunk_of([v | v << 8 for v in VALUES], bits(8, 8), Plane(CODED), Plane(CODED))
    at = 48 + len(chunk.planes[0].bytes())
    assert at % 16
    return planes_file(flip(chunk.bytes(), at), [v | v << 8 for v in VALUES], bits(8, 8))


@invalid("a byte of the gap before the tail is not zero")
def planes_gap_tail() -> bytes:
    values = [*VALUES, 1, 2, 3]
    chunk = chunk_of(values, TWELVE, Plane(CODED))
    at = 32 + len(chunk.planes[0].bytes())
    assert at % 16
    return planes_file(flip(chunk.bytes(), at), values)


# descriptors: what a mode does not use is zero


def descriptor(name: str, what: str, mode: int, /, **changes: object) -> None:
    values, expression, dtype = VALUES, TWELVE, "U16"
    if mode in (RAW, ZSTD):
        expression = bits(4)
    frame = raw_block_frame(raw_payload(VALUES, 4)) if mode == ZSTD else None
    if mode == CONSTANT:
        values = [9] * 512

    def make() -> bytes:
        chunk = chunk_of(values, expression, Plane(mode, frame=frame)).replace(0, **changes)
        return planes_file(chunk, values, expression, dtype)

    add(name, what, make)


descriptor("mode_5", "a plane of mode 5", CODED, mode=5)
descriptor("mode_255", "a plane of mode 255", CODED, mode=255)
descriptor("constant_precision", "a constant plane with a precision", CONSTANT, precision=12)
descriptor("constant_length", "a constant plane with a payload", CONSTANT, payload=bytes(16))
descriptor("constant_blocks", "a constant plane with a block", CONSTANT, blocks=1)
descriptor("constant_escapes", "a constant plane with an escape", CONSTANT, escapes=1)
descriptor("raw_precision", "a raw plane with a precision", RAW, precision=11)
descriptor("raw_base", "a raw plane with a base", RAW, base=1)
descriptor("raw_blocks", "a raw plane with a block", RAW, blocks=1)
descriptor("raw_escapes", "a raw plane with an escape", RAW, escapes=1)
descriptor("raw_length_more", "a raw plane 32 bytes too long", RAW, payload=raw_payload(VALUES, 4) + bytes(32))
descriptor("zstd_precision", "a zstd plane with a precision", ZSTD, precision=12)
descriptor("zstd_base", "a zstd plane with a base", ZSTD, base=1)
descriptor("zstd_blocks", "a zstd plane with a block", ZSTD, blocks=1)
descriptor("zstd_escapes", "a zstd plane with an escape", ZSTD, escapes=1)
descriptor("coded_blocks_0", "a coded plane of 0 blocks", CODED, blocks=0)
descriptor("coded_precision_0", "a coded plane of precision 0", CODED, precision=0)
descriptor("bypass_base", "a bypass plane with a base", BYPASS, base=1)
descriptor("bypass_precision_0", "a bypass plane of precision 0", BYPASS, precision=0)
descriptor("bypass_blocks_0", "a bypass plane of 0 blocks", BYPASS, blocks=0)


@invalid("a constant that does not fit its plane")
def constant_wide() -> bytes:
    chunk = PlanesChunk(512, 2, [Coded(CONSTANT, base=16)], b"")
    return planes_file(chunk, [16] * 512, bits(4))


@invalid("a raw plane whose last 32 bytes, all zero, are left out")
def raw_length_less() -> bytes:
    values = [*VALUES[:448], *[0] * 64]
    payload = raw_payload(values, 4)
    assert not any(payload[-32:])
    return planes_file(PlanesChunk(512, 2, [Coded(RAW, payload=payload[:-32])], b""), values, bits(4))


@invalid("a raw plane of 9 bits")
def raw_wide() -> bytes:
    return planes_file(PlanesChunk(512, 2, [Coded(RAW, payload=raw_payload(VALUES, 9))], b""), expression=bits(9))


def unused_bits() -> bytes:
    payload = raw_payload([v % 2 for v in VALUES[:384]], 1)
    assert len(payload) == 64
    return flip(payload, 40, 128)


@invalid("a raw plane with one of its unused bits set")
def raw_unused_bits() -> bytes:
    values = [v % 2 for v in VALUES[:384]]
    return planes_file(PlanesChunk(384, 2, [Coded(RAW, payload=unused_bits())], b""), values, bits(1))


# zstd


def zstd(name: str, what: str, frame: bytes, values: list[int] = VALUES, width: int = 4) -> None:
    def make() -> bytes:
        return planes_file(PlanesChunk(len(values), 2, [Coded(ZSTD, payload=frame)], b""), values, bits(width))

    add(name, what, make)


PLAIN = raw_payload(VALUES, 4)
FRAME = raw_block_frame(PLAIN)
BLOCK = little([len(PLAIN) << 3 | 1], 3) + PLAIN
MAGIC = FRAME[:4]
EMPTY_FRAME = MAGIC + bytes.fromhex("2000010000")
zstd("zstd_no_content_size", "a frame that does not state its content size", MAGIC + b"\0\0" + BLOCK)
zstd(
    "zstd_content_size",
    "a frame that states and holds 32 bytes more than the plane has",
    raw_block_frame(PLAIN + bytes(32)),
)
zstd(
    "zstd_content_size_less",
    "a frame that states and holds 32 bytes less",
    MAGIC + b"\x20\xe0" + little([224 << 3 | 1], 3) + PLAIN[:224],
)
zstd(
    "zstd_block_short",
    "a frame whose block holds less than the content size",
    MAGIC + FRAME[4:7] + little([224 << 3 | 1], 3) + PLAIN[:224],
)
zstd(
    "zstd_block_long",
    "a frame whose blocks hold more than the content size",
    MAGIC + FRAME[4:7] + little([len(PLAIN) << 3], 3) + PLAIN + little([100000 << 3 | 3], 3) + b"\0",
)
zstd("zstd_two_frames", "a frame with an empty one behind it", FRAME + EMPTY_FRAME)
zstd("zstd_two_frames_first_empty", "a frame with an empty one before it", EMPTY_FRAME + FRAME)
zstd("zstd_skippable_before", "a frame with a skippable one before it", bytes.fromhex("502a4d1800000000") + FRAME)
zstd("zstd_skippable_after", "a frame with a skippable one behind it", FRAME + bytes.fromhex("502a4d1800000000"))
zstd("zstd_trailing", "a frame with a zero byte behind it", FRAME + b"\0")
zstd("zstd_cut", "a frame without its last byte", FRAME[:-1])
zstd("zstd_empty", "no frame", b"")
zstd("zstd_not_a_frame", "bytes that are no frame", bytes(64))
zstd("zstd_dictionary", "a frame that names dictionary 5", MAGIC + b"\x61\x05" + FRAME[5:7] + BLOCK)
zstd("zstd_window", "a frame with a window of more than 16 MiB", MAGIC + b"\x40\x71" + FRAME[5:7] + BLOCK)
zstd("zstd_reserved_bit", "a frame with the reserved bit of its header set", MAGIC + b"\x68" + FRAME[5:])
zstd(
    "zstd_reserved_block",
    "a frame with a block of type 3",
    MAGIC + FRAME[4:7] + little([len(PLAIN) << 3 | 7], 3) + PLAIN,
)
zstd("zstd_magicless", "a frame without its magic number", FRAME[4:])
zstd("zstd_checksum", "a frame with a wrong checksum", flip(COMPRESSED_FRAME, -1), list(COMPRESSED_PLAIN), 8)
zstd(
    "zstd_unused_bits",
    "a frame that holds a plane with an unused bit set",
    MAGIC + b"\x20\x40" + little([64 << 3 | 1], 3) + unused_bits(),
    [v % 2 for v in VALUES[:384]],
    1,
)
zstd("zstd_wide", "a zstd plane of 9 bits", raw_block_frame(raw_payload(VALUES, 9)), VALUES, 9)
zstd("bomb_zstd", "a frame that states 2^40 bytes", MAGIC + b"\xe0" + little([1 << 40], 8) + BLOCK)
zstd(
    "bomb_zstd_rle",
    "a frame that states 2 MiB and holds them as sixteen RLE blocks",
    MAGIC
    + b"\xa0"
    + little([1 << 21], 4)
    + b"".join(little([(1 << 17) << 3 | 2 | (i == 15)], 3) + b"\0" for i in range(16)),
)

# coder.md, section 3: tables


def with_table(table: bytes, values: list[int] = VALUES, frequency: list[int] | None = None, **plan: object) -> bytes:
    """A coded plane that is right by `frequency`, with the table written as given."""
    chunk = chunk_of(values, TWELVE, Plane(CODED, frequency=frequency, **plan))
    chunk.planes[0].parts.table = table
    return planes_file(chunk, values)


EVEN = even_table(VALUES, 12)
TABLE = table_bytes(EVEN)


def frequencies(table: dict[int, int]) -> list[int]:
    return [table.get(s, 0) for s in range(256)]


@invalid("a table of one symbol, whose frequency is 2^P")
def table_one_symbol() -> bytes:
    chunk = chunk_of([3] * 512, TWELVE, Plane(CODED, frequency=frequencies({3: 4096})))
    chunk.planes[0].parts.table = bytes([3, 3, 128, 32])
    return planes_file(chunk, [3] * 512)


@invalid("a table of two listed symbols, of which the second has frequency 0")
def table_whole_frequency() -> bytes:
    return with_table(bytes([3, 4, 128, 32, 0]), [3] * 512, frequencies({3: 4096}))


add(
    "table_first_0",
    "the first listed symbol has frequency 0",
    lambda: with_table(
        bytes([7, 20, 0]) + bytes([2] * 12 + [0x80 + 4072 % 128, 31]),
        [20] * 256 + [8] * 256,
        frequencies(dict.fromkeys(range(8, 20), 2) | {20: 4072}),
    ),
)
add(
    "table_last_0",
    "the last listed symbol has frequency 0",
    lambda: with_table(bytes([0, TABLE[1] + 1]) + TABLE[2:] + b"\0"),
)
add("table_order", "a table whose first symbol is above its last", lambda: with_table(bytes([9, 8]) + TABLE[2:]))
add("table_sum_less", "frequencies whose sum is 2^P - 1", lambda: with_table(table_bytes([EVEN[0] - 1, *EVEN[1:]])))
add(
    "table_sum_more",
    "frequencies whose sum is 2^P + 1, by a symbol that does not occur",
    lambda: with_table(table_bytes([*EVEN[:40], 1, *EVEN[41:]])),
)
add("table_sum_twice", "frequencies whose sum is 2 * 2^P", lambda: with_table(table_bytes([2 * f for f in EVEN])))
add(
    "table_long_form",
    "a frequency below 128 in two bytes",
    lambda: with_table(TABLE[:-1] + bytes([TABLE[-1] + 128, 0])),
)
add(
    "table_cut",
    "a table that ends with the payload",
    lambda: planes_file(PlanesChunk(512, 2, [Coded(CODED, 12, blocks=1, payload=TABLE[:6])], b"")),
)
add(
    "table_cut_in_frequency",
    "a payload that ends in a frequency of two bytes",
    lambda: planes_file(PlanesChunk(512, 2, [Coded(CODED, 12, blocks=1, payload=TABLE[:3])], b"")),
)
add(
    "table_empty",
    "a coded plane without payload",
    lambda: planes_file(PlanesChunk(512, 2, [Coded(CODED, 12, blocks=1)], b"")),
)
add(
    "table_precision",
    "a table of precision 11 in a plane of precision 12",
    lambda: with_table(table_bytes(even_table(VALUES, 11))),
)


def grown(frequency: list[int], symbol: int) -> list[int]:
    """One symbol more, at the cost of the likeliest."""
    out = list(frequency)
    out[out.index(max(out))] -= 1
    out[symbol] += 1
    return out


add(
    "table_field_wide",
    "a symbol that does not occur and whose field is 2^w",
    lambda: planes_file(chunk_of(VALUES, bits(4), Plane(CODED, frequency=grown(EVEN, 16))), expression=bits(4)),
)
add(
    "table_field_wide_base",
    "the same by a base",
    lambda: planes_file(
        chunk_of([4000 + v if v else 0 for v in VALUES], TWELVE, Plane(CODED, base=4000, frequency=grown(EVEN, 96))),
        [4000 + v if v else 0 for v in VALUES],
    ),
)
add("coded_precision_10", "precision 10", lambda: planes_file(chunk_of(VALUES, TWELVE, Plane(CODED, 10))))
add("coded_precision_13", "precision 13", lambda: planes_file(chunk_of(VALUES, TWELVE, Plane(CODED, 13))))
add(
    "coded_blocks_more",
    "a block more than groups",
    lambda: planes_file(chunk_of(VALUES, TWELVE, Plane(CODED, blocks=5))),
)

# sections 4 and 5: states, words, escapes


def carved(
    change: Callable[[CodedParts], None], values: list[int] = VALUES, *, escapes: int | None = None, **plan: object
) -> bytes:
    chunk = chunk_of(VALUES, TWELVE, Plane(CODED, **plan))
    plane = chunk.planes[0]
    change(plane.parts)
    plane.escapes = len(plane.parts.positions) if escapes is None else escapes
    return planes_file(chunk, values)


def carve(
    name: str, what: str, change: Callable[[CodedParts], None], values: list[int] = VALUES, **plan: object
) -> None:
    add(name, what, lambda: carved(change, values, **plan))


def set_at(values: list[int], at: int, value: int) -> list[int]:
    return [*values[:at], value, *values[at + 1 :]]


def words_left(parts: CodedParts) -> None:
    parts.words.append(7)
    parts.counts[-1] += 1


def words_few(parts: CodedParts) -> None:
    parts.words.pop()
    parts.counts[-1] -= 1


def words_to_neighbour(parts: CodedParts) -> None:
    parts.counts[0] += 1
    parts.counts[1] -= 1


def final_state(parts: CodedParts) -> None:
    parts.states, parts.words = encode_block(VALUES, None, EVEN, 12, LOW_STATE + 5)
    parts.counts = [len(parts.words)]


def low_state(parts: CodedParts) -> None:
    """A state below 2^16 that decodes to the same: one renormalisation of the encoder too many."""
    refills = 0
    for lane in range(32):
        s = VALUES[lane]
        start, x = sum(EVEN[:s]), parts.states[lane]
        after = EVEN[s] * (x >> 12) + x % 4096 - start
        if after >= LOW_STATE:
            break
        refills += 1
    high = after // LOW_STATE
    parts.states[lane] = (high // EVEN[s] << 12) + start + high % EVEN[s]
    parts.words.insert(refills, after % LOW_STATE)
    parts.counts[0] += 1
    assert parts.states[lane] < LOW_STATE


carve("words_left", "a word more than the block reads", words_left)
carve("words_few", "a word less than the block reads", words_few)
carve("words_none", "a payload that ends before the words", lambda p: put(p, words=[]))
carve("words_of_neighbour", "a word counted with the wrong block", words_to_neighbour, blocks=2)
carve("words_uncounted", "a word that no block counts", lambda p: p.words.append(0))
carve("words_count_more", "a word count beyond the payload", lambda p: put(p, counts=[p.counts[0] + 1000]))
carve("states_final", "final states that are not 2^16", final_state)
carve("states_low", "a state below 2^16 from which decoding would go on", low_state)
carve("coded_padding", "padding between the parts of a plane that is not zero", lambda p: put(p, padding=255))


@invalid("a payload that ends within the states")
def states_cut() -> bytes:
    chunk = chunk_of(VALUES, TWELVE, Plane(CODED))
    whole = replace(chunk.planes[0].parts, words=[]).payload()
    return planes_file(chunk.replace(0, parts=None, payload=whole[:-4]))


@invalid("word counts of two blocks that sum to the right number modulo 2^32")
def bomb_word_counts() -> bytes:
    def change(parts: CodedParts) -> None:
        total = sum(parts.counts)
        parts.counts = [0xFFFFFFFF, total + 1]

    return carved(change, blocks=2)


ESCAPED = {"escape": frozenset([4, 30, 111])}
carve(
    "escape_order",
    "escape positions that fall",
    lambda p: put(p, positions=p.positions[::-1], values=p.values[::-1]),
    **ESCAPED,
)
carve(
    "escape_twice",
    "one escape position twice",
    lambda p: put(p, positions=[p.positions[0], *p.positions[:2]], values=[p.values[0], *p.values[:2]]),
    set_at(VALUES, 111, 0),
    **ESCAPED,
)
carve(
    "escape_beyond",
    "an escape position that is `n`",
    lambda p: put(p, positions=[*p.positions[:2], 512]),
    set_at(VALUES, 111, 0),
    **ESCAPED,
)
carve(
    "escape_wide",
    "an escape's field is 2^w",
    lambda p: put(p, values=[*p.values[:2], 4096]),
    set_at(VALUES, 111, 4096),
    **ESCAPED,
)
carve(
    "escape_symbol",
    "an escape of an element that is not symbol 0",
    lambda p: put(p, positions=[VALUES.index(3)], values=[900]),
    set_at(VALUES, VALUES.index(3), 900),
)
carve("escape_many", "one escape more than floor(n / 16)", lambda _: None, escape=frozenset(range(33)))
carve("bomb_escapes", "2^32 - 1 escapes", lambda _: None, escapes=0xFFFFFFFF)


@invalid("2^32 - 1 blocks")
def bomb_blocks() -> bytes:
    return planes_file(chunk_of(VALUES, TWELVE, Plane(CODED)).replace(0, blocks=0xFFFFFFFF))


# section 6: bypass

WIDE = [v * 7 % 4096 for v in range(512)]


def bypass_file(
    symbol: int | None = None, values: list[int] = WIDE, expression: dict = TWELVE, **plan: object
) -> bytes:
    """A bypass plane whose table has one symbol more."""

    frequency = even_table([bypass_symbol(v)[0] for v in values], 12)
    chunk = chunk_of(
        values,
        expression,
        Plane(BYPASS, frequency=frequency if symbol is None else grown(frequency, symbol), **plan),
        unit=4,
    )
    return planes_file(chunk, values, expression, "U32")


add("bypass_symbol_112", "symbol 112 in a table of 16 bits", lambda: bypass_file(112, expression=bits(16)))
add("bypass_symbol_wide", "a symbol whose fields begin at 2^w", lambda: bypass_file(80))
add("bypass_width", "a bypass plane of 8 bits", lambda: bypass_file(values=[v % 256 for v in WIDE], expression=bits(8)))
add("bypass_blocks_more", "a block more than groups", lambda: bypass_file(blocks=5))
add("bypass_escapes", "a bypass plane with an escape", lambda: bypass_escape())


def bypass_escape() -> bytes:
    chunk = chunk_of(WIDE, TWELVE, Plane(BYPASS), unit=4)
    put(chunk.planes[0], escapes=1)
    put(chunk.planes[0].parts, positions=[0], values=[0])
    return planes_file(chunk, WIDE, dtype="U32")


# scatter in a chunk


def rows_chunk(rows_: bytes, plane: Coded) -> bytes:
    """128 units per row: a low plane of zeros, and the high plane as given."""
    values = [0] * (128 * len(rows_))
    source = Source(
        "U16",
        (len(rows_), 128),
        little(values, 2),
        {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0},
    )
    source.code = lambda _: PlanesChunk(len(values), 2, [Coded(CONSTANT), plane], b"").bytes()
    source.sides = [Source("U8", (len(rows_),), rows_, BYTES)]
    return one(source).join()


add("scatter_none_raw", "no row is present, and the plane is raw", lambda: rows_chunk(bytes(2), Coded(RAW)))
add(
    "scatter_none_constant",
    "no row is present, and the plane is a constant that is not 0",
    lambda: rows_chunk(bytes(2), Coded(CONSTANT, base=3)),
)
add(
    "scatter_groups",
    "a plane as long as if all rows were present",
    lambda: rows_chunk(bytes([1, 0]), Coded(RAW, payload=bytes(256))),
)


@invalid("a constant that is not 0, of present fields that do not fill their last group")
def scatter_padding_constant() -> bytes:
    expression = {"bits": [{"plane": 8}, {"scatter": [0, {"plane": 8}]}], "rotate": 0}
    stored = PlanesChunk(256, 2, [Coded(CONSTANT), Coded(CONSTANT, base=3)], b"").bytes()
    side = Source("U8", (4,), b"\1\0\0\0", BYTES)
    data = little([3 << 8] * 64 + [0] * 192, 2)
    return one(Source("U16", (4, 64), data, expression, lambda _: stored, None, [side])).join()


@invalid("a field after the last present one is not zero")
def scatter_padding() -> bytes:
    source = rows_source(bytes([1, 0, 1, 1]), 100, Plane(RAW), Plane(RAW))

    def code(place: Place) -> bytes:
        chunk = place.planes(Plane(RAW), Plane(RAW))
        put(chunk.planes[1], payload=flip(chunk.planes[1].payload, -1))
        return chunk.bytes()

    source.code = code
    return one(source).join()


# -- expressions.md, sections 5 and 7: bases and contexts ------------------------------------------------------------

ADD = ["expressions", 0, "add"]
PART = [*ADD, 1, "bits", 0]
CONTEXT = [*PART, "context"]


def classes() -> Parts:
    return one(classes_source(4, CODED))


def second_base(parts: Parts, number: int) -> bytes:
    """An expression names a base more than there are; one that is not used names the base that is there."""
    expressions = parts.json["expressions"]
    expressions.append(deepcopy(expressions[number]))
    return edit(literals(parts), (["expressions", number, "add", 0, "base"], 1))


MATMUL = {"matmul": [0, 1, 18]}
header("add_three", "add of a base and twice planes", (ADD, [{"base": 0}, bits(16), bits(16)]), base=delta)
header("add_object", "add that is no array", (ADD, {"base": 0}), base=delta)
header("add_first_plane", "add whose first argument is no base", ([*ADD, 0], bits(16)), base=delta)
header("add_base_and_more", "a base with another key", ([*ADD, 0], {"base": 0, "ref": 0}), base=delta)
header("add_base_negative", "a base that is no position", ([*ADD, 0, "base"], True), base=delta)
header("add_second_ref", "add whose second argument is a ref", ([*ADD, 1], {"ref": 0}), base=delta)
header("add_rotated", "differences that are rotated", ([*ADD, 1, "rotate"], 1), base=delta)
header("add_wide", "differences of more bits than the unit", ([*PART, "plane"], 9), base=lambda: two_parts())
header("base_missing", "an expression that names a base, and no bases", (["bases"], DROP), base=delta)
add("base_out_of_range", "the second base of one", lambda: second_base(delta(), 0))
header("bases_empty", "an empty list of bases", (["bases"], []))
header("bases_object", "bases that are no array", (["bases"], {}), base=delta)
header("base_unused", "a base that no expression uses", (["expressions", 0], bits(16)), base=delta)
header("base_key", "a base with a key too many", (["bases", 0, "path"], "/tmp"), base=delta)  # noqa: S108 - a word
header("base_hints_array", "hints that are an array", (["bases", 0, "hints"], []), base=delta)
header("base_no_hints", "a base without hints", (["bases", 0, "hints"], DROP), base=delta)
header("base_hint_number", "a hint that is no string", (["bases", 0, "hints", "tensor"], 1), base=delta)
header("base_hint_long", "a hint of 513 bytes", (["bases", 0, "hints", "file"], "n" * 513), base=delta)
header("base_hint_long_utf8", "a hint of 514 bytes", (["bases", 0, "hints", "revision"], "\u00e9" * 257), base=delta)
header("base_identity_short", "an identity of 63 digits", (["bases", 0, "identity"], "0" * 63), base=delta)
header("base_identity_upper", "an identity in capitals", (["bases", 0, "identity"], "A" * 64), base=delta)
header("base_identity_number", "an identity that is a number", (["bases", 0, "identity"], 0), base=delta)
header("base_dtype_unknown", "a base of an unknown dtype", (["bases", 0, "dtype"], "B16"), base=delta)
header("base_dtype", "a base of a dtype that its tensor has not", (["bases", 0, "dtype"], "I16"), base=delta)
header("base_columns", "a base of other rows than its tensor's", (["bases", 0, "shape"], [160, 4]), base=delta)
header("base_flat", "a base with fewer dimensions", (["bases", 0, "shape"], [640]), base=delta)
header("base_no_elements", "a base without elements", (["bases", 0, "shape"], [0, 160]), base=delta)
header("context_number", "a context that is no object", (CONTEXT, 0), base=delta)
header("context_unknown", "a context of an unknown kind", (CONTEXT, {"other": [8, 100, 20]}), base=delta)
header("context_two_kinds", "a context of two kinds", ([*CONTEXT, "class"], [0, 1, 0]), base=delta)
header("context_two", "a context with two numbers", ([*CONTEXT, "base"], [8, 100]), base=delta)
header("context_shift", "a context that shifts the whole unit away", ([*CONTEXT, "base", 0], 16), base=delta)
header("context_first", "a context whose first has 17 bits", ([*CONTEXT, "base", 1], 65536), base=delta)
header("context_tables_1", "a context with one table", ([*CONTEXT, "base", 2], 1), base=delta)
header("context_tables_65", "a context with 65 tables", ([*CONTEXT, "base", 2], 65), base=delta)
CLASSED = {"base": [8, 100, 20], "rows": [0, 5]}
header("context_rows_side", "a context of row classes without their side plane", (CONTEXT, CLASSED), base=delta)


def classed(rows: int = 4) -> Parts:
    """A file that is sound but for what is changed in it."""
    base = bf16_base()
    part = {"context": {"base": [8, 100, 20], "rows": [0, 5]}, "plane": 16}
    side = Source("U8", (rows,), bytes([0, 4, 2, 2][:rows]), BYTES, literal)
    return one(Source("BF16", (4, 160), moved_weights(base.data), add_base(part), literal, None, [side], base=base))


CLASSES = ["expressions", 1, "add", 1, "bits", 0, "context"]  # after the side plane's
ROWS, ROW_SIDE = [*CLASSES, "rows"], ["tensors", 0, "sides", 0]
header("context_rows_1", "row classes of a context: one class", ([*ROWS, 1], 1), base=classed)
header("context_rows_13", "row classes of a context: more than 256 tables", ([*ROWS, 1], 13), base=classed)
header("context_rows_65", "row classes of a context: 65", ([*CLASSES, "base", 2], 2), ([*ROWS, 1], 65), base=classed)
header("context_rows_three", "row classes of a context: three numbers", (ROWS, [0, 5, 1]), base=classed)
header("context_rows_alone", "row classes without the base's part", ([*CLASSES, "base"], DROP), base=classed)
header("context_rows_shape", "row classes of two dimensions", ([*ROW_SIDE, "shape"], [2, 2]), base=classed)
header("context_rows_dtype", "row classes that are I8", ([*ROW_SIDE, "dtype"], "I8"), base=classed)
header("newer_context", "a reserved name for a context", (CONTEXT, {"rand": [8, 100, 20]}), base=delta)
add("context_rows_uneven", "row classes of rows that do not fit", lambda of=classed: of(3).join())
PLAIN = {"bits": [{"context": {"base": [8, 0, 2]}, "plane": 16}], "rotate": 0}
header("context_plain", "a context of a base without one", (["expressions", 0], PLAIN), (["bases"], DROP), base=delta)
header("context_rest", "a context whose shift leaves 17 bits", ([*CONTEXT, "base", 0], 15), base=lambda: wide())
CLASS = ["expressions", 0, "bits", 0, "context", "class"]
header("class_octave", "an octave of 17", ([*CLASS, 2], 17), base=classes)
add(
    "class_wide", "a field that the octaves lift out of its plane, and out of it again one round lower",
    lambda: edit(classes_round(), ([*CLASS, 2], 16)),
)  # fmt: skip
header("class_side", "classes in a side plane that is not there", ([*CLASS, 1], 2), base=classes)
header("class_same", "a side plane that nothing names", ([*CLASS, 1], 0), base=lambda: square("U8", CLASSED_PLANE))
header("class_dtype", "classes that are not U8", (["tensors", 0, "sides", 0, "dtype"], "I8"), base=classes)
header("class_shape", "classes in two dimensions", (["tensors", 0, "sides", 0, "shape"], [5, 1]), base=classes)
add("class_units", "rows times columns are not the units", lambda: lines_of_units(15, 16, CLASSED_PLANE))
MEAN_PARTS = ["expressions", 0, "bits"]
SIGN, TOP = [*MEAN_PARTS, 0, "context", "sign"], [*MEAN_PARTS, 2, "context"]
MEAN, FACTORS = [*TOP, "mean"], ["tensors", 0, "sides", 2]
header("mean_number", "a mean that is no list", (MEAN, 2), base=mean)
header("mean_two", "a mean of two arguments", (MEAN, [2, [2, 1]]), base=mean)
header("mean_group_number", "groups that are no list", ([*MEAN, 1], 3), base=mean)
header("mean_step_number", "steps that are no list", ([*MEAN, 2], 3), base=mean)
header("mean_no_groups", "a mean without groups", ([*MEAN, 1], []), base=mean)
header("mean_groups_9", "nine groups", ([*MEAN, 1], [2, 1, *[0] * 7]), base=mean)
header("mean_group_65", "a group of 65 factors", ([*MEAN, 1], [65]), base=mean)
header("mean_rank_0", "a mean of no factors", ([*MEAN, 1], [0]), ([*FACTORS, "shape"], [0, 120]), base=mean)
header("mean_rank_65", "65 factors", ([*MEAN, 1], [64, 1]), ([*FACTORS, "shape"], [65, 120]), base=mean)
header("mean_rank", "more factors in groups than there are", ([*MEAN, 1], [2, 2]), base=mean)
header("mean_steps_17", "17 steps", ([*MEAN, 2], [9] * 17), base=mean)
header("mean_step_64", "a step of 64", ([*MEAN, 2], [9, 64]), base=mean)
header("mean_steps_fall", "steps that fall", ([*MEAN, 2], [9, 17, 12]), base=mean)
header("mean_side", "a mean in a side plane that is not there", ([*MEAN, 0], 3), base=mean)
header("mean_side_same", "a side plane that nothing names", ([*MEAN, 0], 1), base=mean)
header("mean_dtype", "factors that are I8", ([*FACTORS, "dtype"], "I8"), base=mean)
header("mean_shape", "factors of another shape", ([*FACTORS, "shape"], [120, 3]), base=mean)
header("mean_flat", "factors of one dimension", ([*FACTORS, "shape"], [360]), base=mean)
header("mean_unrotated", "a mean of units that are not rotated", (["expressions", 0, "rotate"], 0), base=mean)
header("mean_base", "a mean beside a base's part", (TOP, {"base": [8, 0, 2], "mean": [2, [3], []]}), base=mean)
header("mean_alone", "a mean without classes", ([*TOP, "class"], DROP), base=mean)
header("mean_below", "a mean of a part that is not the last", ([*MEAN_PARTS, 1], {
    "context": {"class": [0, 1, 4], "mean": [2, [2, 1], []]}, "plane": 5,
}), base=mean)  # fmt: skip
header("mean_rows", "a mean under scatter", ([*MEAN_PARTS, 2], {
    "scatter": [0, {"context": {"class": [0, 1, 4], "mean": [2, [2, 1], []]}, "plane": 10}],
}), base=mean)  # fmt: skip
FACTOR = ["expressions", 2, "bits", 0, "context"]  # after the tensor's and the classes'


def factor_file(rows: int = 20, columns: int = 110, groups: Sequence[int] = (3, 2)) -> Parts:
    return one(factor_source(3, Plane(CODED, 12, 2), groups=groups, rows=rows, columns=columns))


header("factor_number", "a context of factors that is no list", ([*FACTOR, "factor"], 0), base=factor_file)
header("factor_three", "a context of factors with three numbers", ([*FACTOR, "factor"], [0, 1, 3]), base=factor_file)
header("factor_first", "a context of factors whose first is 256", ([*FACTOR, "factor", 2], 256), base=factor_file)
header("factor_classes_0", "a context of factors without classes", ([*FACTOR, "factor", 3], 0), base=factor_file)
header("factor_classes_32", "a context of factors with 32 classes", ([*FACTOR, "factor", 3], 32), base=factor_file)
header("factor_more", "a context of factors that is a sign's too", ([*FACTOR, "sign"], [0, 2]), base=factor_file)
header("factor_itself", "factors given the side plane that they are", ([*FACTOR, "factor", 1], 2), base=factor_file)
header("factor_columns", "factors given rows twice, which do not fit", ([*FACTOR, "factor", 1], 0), base=factor_file)
header("factor_class", "classes in a side plane's own expression", (FACTOR, {"class": [0, 1, 0]}), base=factor_file)
header("factor_beside", "factors beside classes, in a side plane's expression", (["expressions", 2, "bits"], [
    {"context": {"factor": [0, 1, 1, 3]}, "plane": 4}, {"context": {"class": [0, 1, 0]}, "plane": 4},
]), base=factor_file)  # fmt: skip
header("factor_scatter", "factors under scatter", (["expressions", 2, "bits", 0], {
    "scatter": [0, {"context": {"factor": [0, 1, 1, 3]}, "plane": 8}],
}), base=factor_file)  # fmt: skip
header("factor_of_rows", "classes of rows given what comes after them", (["tensors", 0, "sides", 0, "expression"], 2),
       base=factor_file)  # fmt: skip
header("factor_tensor", "a context of factors for a tensor",
       (["expressions", 0, "bits", 0, "context"], {"factor": [0, 1, 1, 3]}), base=classes)  # fmt: skip
header("factor_long", "more than 64 factors, by the classes named", ([*FACTOR, "factor", 1], 0),
       base=lambda: factor_file(1, 255, (1,)))  # fmt: skip


@invalid("factors whose table is absent")
def factor_absent() -> bytes:
    def code(place: Place) -> bytes:
        chunk = place.planes(Plane(CODED, 12, 2))
        table = chunk.planes[0].parts.table
        at = first_table(table)
        length = decode.coder.read_table(table[at:], 12)[1]
        chunk.planes[0].parts.table = table[:at] + b"\1\0" + table[at + length :]
        return chunk.bytes()

    source = factor_source(3, Plane(CODED, 12, 2))
    source.sides[2].code = code
    return one(source).join()


header("sign_number", "the context of a sign that is no list", (SIGN, 380), base=mean)
header("sign_three", "the context of a sign with three numbers", (SIGN, [640, 8, 1]), base=mean)
header("sign_first", "a sign whose first has 17 bits", ([*SIGN, 0], 65536), base=mean)
header("sign_tables_1", "a sign with one table", ([*SIGN, 1], 1), base=mean)
header("sign_tables_33", "a sign with 33 tables", ([*SIGN, 1], 33), base=mean)
header("sign_octave", "a sign beside an octave of 3", ([*TOP, "class", 2], 3), base=mean)
header("sign_octave_0", "a sign beside an octave of 0", ([*TOP, "class", 2], 0), base=mean)
header("sign_wide", "the context of a sign for two bits", ([*MEAN_PARTS, 0, "plane"], 2),
       ([*MEAN_PARTS, 1, "plane"], 4), base=mean)  # fmt: skip
header("sign_second", "the context of a sign for the second part", ([*MEAN_PARTS, 1], {
    "context": {"sign": [640, 8]}, "plane": 1,
}), base=mean)  # fmt: skip
header("sign_rows", "the context of a sign under scatter", ([*MEAN_PARTS, 0], {
    "scatter": [0, {"context": {"sign": [640, 8]}, "plane": 1}],
}), base=mean)  # fmt: skip
header(
    "sign_no_mean", "a sign without a mean", ([*TOP, "mean"], DROP), (FACTORS, DROP), base=mean
)  # fmt: skip


def two_parts() -> Parts:
    base = bf16_base()
    return one(Source("BF16", (4, 160), base.data, add_base({"plane": 8}, {"plane": 8}), literal, base=base))


def wide() -> Parts:
    base = BaseTensor("F32", (256,), bytes(1024))
    part = {"context": {"base": [24, 0, 2]}, "plane": 16}
    return one(Source("F32", (256,), bytes(1024), add_base(part, {"plane": 16}), literal, base=base))


@invalid("the pack's expression has a base")
def base_pack() -> bytes:
    parts = Parts.split(basic().join())
    bases = delta().json
    parts.json["expressions"] = [*parts.json["expressions"], bases["expressions"][0]]
    parts.json["bases"] = bases["bases"]
    parts.json["packs"][0]["expression"] = len(parts.json["expressions"]) - 1
    parts.set_json()
    return parts.join()


PACKED = ["expressions", 0, "add", 0, "base"]


def packed() -> Parts:
    """A pack of two tensors with a base each; its list of bases is what is changed."""
    base = bf16_base()
    writer = Writer()
    p = writer.pack("BF16", add_base({"context": {"base": [8, 100, 20]}, "plane": 16}), planes(Plane(BYPASS, 11, 1)))
    writer.pack_member("v", p, (1, 160), moved_weights(base.data[:320]), base)
    writer.pack_member("w", p, (4, 160), moved_weights(base.data), base)
    return writer.parts()


header("pack_base_few", "one base for a pack of two tensors", (PACKED, [0]), (["bases", 1], DROP), base=packed)
header("pack_base_many", "three bases for a pack of two tensors", (PACKED, [0, 1, 1]), base=packed)
header("pack_base_none", "an empty list of bases", (PACKED, []), (["bases"], DROP), base=packed)
header("pack_base_number", "a base of a pack that is no position", (PACKED, [1, False]), base=packed)
header("pack_base_out_of_range", "the third base of two", (PACKED, [0, 2]), (["bases", 1], DROP), base=packed)
header("pack_base_unused", "a pack that names the first base twice and the second never", (PACKED, [0, 0]), base=packed)
header("pack_base_dtype", "a pack's base of another dtype", (["bases", 1, "dtype"], "I16"), base=packed)
header("pack_base_shape", "a pack's base of other rows", (["bases", 1, "shape"], [160, 4]), base=packed)
header("pack_base_shift", "a pack's context that shifts the whole unit away", (
    ["expressions", 0, "add", 1, "bits", 0, "context", "base", 0], 16), base=packed)  # fmt: skip
MOVED = ["expressions", 1, "add"]
PRODUCT = [*MOVED, 1, "matmul"]
FACTORS = ["tensors", 0, "sides"]


def products(dtype: str, data: bytes, rows: int, columns: int, *, rank: int = 1, of: str = "I16") -> bytes:
    """A tensor whose chunks are literal, with a base of its own shape and dtype."""
    base, sides = BaseTensor(dtype, (rows, columns), data), factors(of, rows, rank, columns, 3)
    return one(Source(dtype, (rows, columns), data, moved_by(0, {"plane": 8}), literal, None, sides, base=base)).join()


header("add_four", "add with four arguments", (MOVED, [{"base": 0}, MATMUL, MATMUL, bits(16)]), base=delta_matmul)
header("newer_matmul_first", "a product before its base", (MOVED, [MATMUL, {"base": 0}, bits(16)]), base=delta_matmul)
header("newer_matmul_key", "a key beside `matmul`", ([*MOVED, 1, "shift"], 18), base=delta_matmul)
header("matmul_object", "a product that is no array", (PRODUCT, {"p": 0}), base=delta_matmul)
header("matmul_two", "a product without a shift", (PRODUCT, [0, 1]), base=delta_matmul)
header("matmul_shift", "a product shifted by 61", ([*PRODUCT, 2], 61), base=delta_matmul)
header("matmul_shift_negative", "a product shifted by -1", ([*PRODUCT, 2], -1), base=delta_matmul)
header("matmul_side_out_of_range", "no such side plane", ([*PRODUCT, 1], 2), base=delta_matmul)
@invalid("a product of a side plane with itself")
def matmul_same() -> bytes:
    plan = factors("I16", 16, 16, 16, 3)
    values = {"trellis": [1, 1, 0, bits(4)]}
    expression = {"add": [{"matmul": [0, 1, 1]}, values]}
    parts = one(Source("F32", (16, 16), bytes(1024), expression, literal, None, plan))
    return without_side(parts, 1, ([*PRODUCT_SUM, 0, "matmul"], [0, 0, 1]))



header("matmul_unsigned", "factors of U16", *(([*FACTORS, i, "dtype"], "U16") for i in (0, 1)), base=delta_matmul)
header("matmul_float", "factors of F16", *(([*FACTORS, i, "dtype"], "F16") for i in (0, 1)), base=delta_matmul)
header("matmul_flat", "factors of one dimension", ([*FACTORS, 0, "shape"], [15]), base=delta_matmul)
header("matmul_inner", "factors that do not go together", ([*FACTORS, 0, "shape"], [3, 5]), base=delta_matmul)
header(
    "matmul_units",
    "a product larger than the tensor",
    ([*FACTORS, 0, "shape"], [15, 1]),
    ([*FACTORS, 1, "shape"], [1, 480]),
    base=delta_matmul,
)
header(
    "matmul_pack",
    "a product for a pack",
    (["expressions", 2, "add"], [{"base": [0, 1, 2]}, MATMUL, bits(16)]),
    base=delta_pack,
)
header("newer_add_rand", "the reserved name `rand` for a product", ([*MOVED, 1], {"rand": 0}), base=delta_matmul)
header("add_second_base", "a base between base and planes", ([*MOVED, 1], {"base": 0}), base=delta_matmul)
add("matmul_rank", "a product of rank 65", lambda: products("BF16", bytes(2 * 128), 2, 64, rank=65))
add("matmul_i16", "a product for I16", lambda: products("I16", bytes(2 * 128), 2, 64))
add("matmul_f64", "a product for F64", lambda: products("F64", bytes(8 * 128), 2, 64))


@invalid("factors of two dtypes")
def matmul_mixed() -> bytes:
    base, sides = bf16_base(), [factors("I16", 4, 3, 160, 3)[0], factors("I32", 4, 3, 160, 3)[1]]
    return one(Source("BF16", (4, 160), base.data, moved_by(0, {"plane": 16}), literal, None, sides, base=base)).join()


SUM, PRODUCT_SUM = ["expressions", 1, "add"], ["expressions", 0, "add"]
NO_BASES = (["bases"], DROP)
SIGNS = {"mul": [{"gather": [0, bits(1)]}, 1]}


def signs() -> Parts:
    """A base plus signs times a scale."""
    plan = [side("I8", (2,), [0xFF, 1]), side("F32", (2,), [0x3C23D70A, 0x3C23D70A])]
    codes = [v % 2 for v in noise(320)]
    return one(summed("BF16", (2, 160), {"base": 0}, SIGNS, codes, plan, Plane(RAW), chunk=320, base=bf16_base()))


def product_sum() -> Parts:
    """A product of factors plus levels of a grid with scales."""
    plan = [
        *factors("I16", 2, 3, 160, 30),
        side("F32", (2,), [0x3F800000] * 2),
        side("F32", (160,), [0x3F800000] * 160),
    ]
    grid = {"trellis": [1, 0x3C23D70A, 4, bits(4), 2, 3]}
    codes = [v % 9 for v in noise(320)]
    return one(summed("F32", (2, 160), {"matmul": [0, 1, 12]}, grid, codes, plan, Plane(RAW), chunk=320))


for name, words, *changes in (
    ("first", "numbers from codes plus levels", ([*SUM, 0], {"trellis": [1, 1, 0, bits(1)]}), NO_BASES),
    ("gather", "a base plus a palette", ([*SUM, 1], {"gather": [0, bits(1)]})),
    ("decimal", "a base plus decimals", ([*SUM, 1], {"decimal": [0, bits(1)]})),
    ("nested", "a base plus a base plus numbers", ([*SUM, 1], {"add": [{"base": 0}, SIGNS]})),
    ("three", "a base, a product, and numbers", (SUM, [{"base": 0}, MATMUL, SIGNS])),
    ("two_values", "a base plus two numbers", (SUM, [{"base": 0}, SIGNS, SIGNS])),
    ("one", "numbers from codes plus nothing", (SUM, [{"trellis": [1, 1, 0, bits(1)]}]), NO_BASES),
    ("list", "a list of bases", ([*SUM, 0, "base"], [0])),
    ("key", "a key beside the base", ([*SUM, 0, "ref"], 0)),
    ("value_key", "a key beside the numbers", ([*SUM, 1, "bits"], [])),
    ("base_shape", "a base of other rows", (["bases", 0, "shape"], [160, 4])),
    ("base_dtype", "a base of integers", (["bases", 0, "dtype"], "I16")),
    ("dtype", "numbers from codes in F64", (["tensors", 0, "dtype"], "F64")),
    ("runs", "scales of another dtype", (["tensors", 0, "sides", 1, "dtype"], "I32")),
    ("side_unused", "side planes that a grid lacks", ([*SUM, 1], {"trellis": [1, 1, 0, bits(1)]})),
):
    header(f"sum_{name}", words, *changes, base=signs)
add("sum_base_out_of_range", "the second base of one", lambda: second_base(signs(), 1))
header("newer_sum", "the reserved name `rand` plus numbers", ([*SUM, 0], {"rand": 0}), NO_BASES, base=signs)
for name, words, changes in (
    ("matmul_side", "a factor that is a scale too", ([*PRODUCT_SUM, 0, "matmul", 0], 2)),
    ("matmul_two", "a product without a shift", ([*PRODUCT_SUM, 0, "matmul"], [0, 1])),
    ("matmul_shape", "factors that do not go together", (["tensors", 0, "sides", 0, "shape"], [3, 2])),
    ("matmul_dtype", "factors of F16", (["tensors", 0, "sides", 0, "dtype"], "F16")),
    ("matmul_rows", "rows of a grid in two dimensions", (["tensors", 0, "sides", 2, "shape"], [2, 1])),
):
    header(f"sum_{name}", words, changes, base=product_sum)
header("newer_sum_bits", "a product plus planes", ([*PRODUCT_SUM, 1], bits(32)), base=product_sum)
header("newer_sum_key", "a key beside `matmul`", ([*PRODUCT_SUM, 0, "shift"], 12), base=product_sum)


@invalid("a chunk that states the digest of another base")
def sum_base_digest() -> bytes:
    parts = signs()
    chunk = parts.chunks()[2]
    put(chunk, stored=chunk.stored[:8] + bytes(8) + chunk.stored[16:])
    return parts.join()


@invalid("a chunk without a base that states a digest of one")
def sum_matmul_digest() -> bytes:
    parts = product_sum()
    chunk = parts.chunks()[4]
    put(chunk, stored=chunk.stored[:8] + b"\1" + chunk.stored[9:])
    return parts.join()


@invalid("a scale that is NaN")
def sum_scale() -> bytes:
    parts = signs()
    parts.streams[1] = Source("F32", (2,), little([0x3C23D70A, 0x7FC00000], 4), bits(8), literal).stream()
    return parts.join()


def shorter_palette(parts: Parts) -> bytes:
    """Of three entries the last, which codes name, is left out."""
    parts.streams[0] = Source("I8", (2,), bytes([0xFF, 1]), BYTES, literal).stream()
    return edit(parts, ([*SIDE, 0, "shape"], [2]), ([*SIDE, 0, "chunk"], 2))


@invalid("a code of a mul beyond the palette")
def mul_code() -> bytes:
    plan = [side("I8", (3,), [0xFF, 1, 2]), side("F32", (1,), [0x3C23D70A])]
    codes, values = [v % 3 for v in noise(320)], {"mul": [{"gather": [0, bits(2)]}, 1]}
    return shorter_palette(one(looked_up("BF16", values, codes, plan, Plane(RAW))))


@invalid("a code beyond the palette")
def sum_code() -> bytes:
    plan = [side("I8", (3,), [0xFF, 1, 2]), side("F32", (1,), [0x3C23D70A])]
    codes, values = [v % 3 for v in noise(320)], {"mul": [{"gather": [0, bits(2)]}, 1]}
    parts = one(summed("BF16", (2, 160), {"base": 0}, values, codes, plan, Plane(RAW), chunk=320, base=bf16_base()))
    return shorter_palette(parts)


def pack_of(expression: dict) -> bytes:
    parts = Parts.split(packed().join())
    parts.json["expressions"][0] = expression
    if expression["add"][0]["base"] == 0:
        del parts.json["bases"][1]
    parts.set_json()
    return parts.join()


GRID = {"trellis": [1, 0x3C23D70A, 4, bits(4)]}
add("sum_pack", "a pack that is a sum", lambda: pack_of({"add": [{"base": 0}, GRID]}))
add("sum_pack_list", "a pack that is a sum with a list of bases", lambda: pack_of({"add": [{"base": [0, 1]}, GRID]}))
header("sum_side", "a side plane that is a sum", (["expressions", 0], {"add": [{"base": 0}, GRID]}), base=signs)
for name, words, expression in (
    ("sum_image", "an image that is a sum", {"add": [{"base": 0}, GRID]}),
    ("image_base", "an image that is a difference from a base", {"add": [{"base": 0}, bits(8)]}),
):
    header(name, words, (["expressions"], [bits(8, 8), BYTES, {"ref": 0}, expression]), (["image", "expression"], 3),
           (["bases"], [bf16_base().entry()]))  # fmt: skip


def outliers(marked: Sequence[int] = (0, 7, 130)) -> Parts:
    """Units apart from signs times a scale."""
    plan = [side("I8", (2,), [0xFF, 1]), side("F32", (2,), [0x3C23D70A, 0x3C23D70A])]
    codes = [v % 2 for v in noise(320)]
    modes = [Plane(RAW), *[Plane(RAW if marked else CONSTANT)] * 2, Plane(RAW)]
    return one(apart("BF16", SIGNS, codes, plan, marked, *modes, chunk=320))


APART = ["expressions", 0, "scatter"]
for name, words, at, value in (
    ("gather", "units apart from a palette", 2, {"gather": [0, bits(1)]}),
    ("base", "units apart from a sum", 2, {"add": [{"base": 0}, SIGNS]}),
    ("bits", "units apart from planes", 2, bits(1)),
    ("mask", "a mask of two bits", 0, {"plane": 2}),
    ("rows", "units apart of which some rows have none", 1, {"bits": [{"scatter": [0, {"plane": 8}]}], "rotate": 0}),
    ("many", "17 planes", 1, {"bits": [{"plane": 1}] * 15, "rotate": 0}),
    ("side", "a scale that is not there", 2, {"mul": [{"gather": [0, bits(1)]}, 2]}),
):
    header(f"apart_{name}", words, ([*APART, at], value), base=outliers)
header("apart_four", "a scatter of four", (APART, [{"plane": 1}, bits(8, 8), SIGNS, SIGNS]), base=outliers)
header("apart_dtype", "units apart in I16", (["tensors", 0, "dtype"], "I16"), base=outliers)
header("newer_apart", "the reserved name `rand` for what is elsewhere", ([*APART, 2], {"rand": 0}), base=outliers)


@invalid("units after the last one of the mask that are not zero, beside codes")
def apart_after() -> bytes:
    def code(place: Place) -> bytes:
        chunk = place.planes(Plane(RAW), Plane(RAW), Plane(RAW), Plane(RAW))
        payload = bytearray(chunk.planes[1].payload)
        payload[-1] = 1
        chunk.planes[1].payload = bytes(payload)
        return chunk.bytes()

    parts = outliers()
    plan = [side("I8", (2,), [0xFF, 1]), side("F32", (2,), [0x3C23D70A, 0x3C23D70A])]
    source = apart("BF16", SIGNS, [v % 2 for v in noise(320)], plan, (0, 7, 130), Plane(RAW), chunk=320)
    source.code = code
    parts.streams[-1] = source.stream()
    return parts.join()


header("base_list", "a list of bases for a tensor with chunks of its own", ([*ADD, 0, "base"], [0]), base=delta)
header("pack_base_side", "a pack whose differences want row flags", (
    ["expressions", 0, "add", 1, "bits", 0], {"scatter": [0, {"plane": 16}]}), base=packed)  # fmt: skip


@invalid("a pack's chunk that states the digest of its first tensor's base alone")
def pack_base_digest() -> bytes:
    parts = packed()
    chunk = parts.chunks()[0]
    stated = decode.decoded_digest(bf16_base().data[:320])
    put(chunk, stored=chunk.stored[:8] + stated.to_bytes(8, "little") + chunk.stored[16:])
    return parts.join()


def delta_with(change: Callable[[PlanesChunk], None], source: Source | None = None) -> bytes:
    """The file `delta`, its chunk changed before it is put together."""
    base = bf16_base()
    part = {"context": {"base": [8, 100, 20]}, "plane": 16}
    source = source or Source("BF16", (4, 160), moved_weights(base.data), add_base(part), base=base)
    plans = [Plane(CODED, 11, 1, base=299)] if source.base is None else [Plane(BYPASS, 11, 1)]

    def code(place: Place) -> bytes:
        chunk = place.planes(*plans)
        change(chunk)
        return chunk.bytes()

    source.code = code
    return one(source).join()


def moved_weights(data: bytes) -> bytes:
    return little((v + i % 3 for i, v in enumerate(to_units(data, 2))), 2)


@invalid("a chunk made for another base")
def base_digest() -> bytes:
    return delta_with(lambda chunk: put(chunk, base_digest=chunk.base_digest ^ 1))


@invalid("a chunk of differences that states no digest of its base")
def base_digest_0() -> bytes:
    return delta_with(lambda chunk: put(chunk, base_digest=0))


@invalid("a literal chunk that states a digest of a base")
def base_digest_literal() -> bytes:
    parts = delta()
    chunk = parts.chunks()[0]
    stored = bytearray(literal_chunk(bytes(1280), 2))
    stored[8] = 1
    put(chunk, stored=bytes(stored), decoded_digest=decode.decoded_digest(bytes(1280)))
    return parts.join()


def first_table(payload: bytes) -> int:
    """Where the first table begins that is there."""
    at = 0
    while payload[at : at + 2] == b"\1\0":
        at += 2
    return at


@invalid("a unit's context selects a table that is absent")
def context_absent() -> bytes:
    def change(chunk: PlanesChunk) -> None:
        table = chunk.planes[0].parts.table
        at = first_table(table)
        length = decode.coder.read_table(table[at:], 11)[1]
        chunk.planes[0].parts.table = table[:at] + b"\1\0" + table[at + length :]

    return delta_with(change)


@invalid("the first table of a context is marked as the same as the one before it")
def context_same_first() -> bytes:
    def change(chunk: PlanesChunk) -> None:
        chunk.planes[0].parts.table = b"\2\0" + chunk.planes[0].parts.table.removeprefix(b"\1\0")

    return delta_with(change)


@invalid("a table marked as the same as an absent one is selected")
def context_same_absent() -> bytes:
    def change(chunk: PlanesChunk) -> None:
        table = chunk.planes[0].parts.table
        at = first_table(table)
        length = decode.coder.read_table(table[at:], 11)[1]
        chunk.planes[0].parts.table = table[:at] + b"\2\0" + table[at + length :]

    return delta_with(change)


@invalid("a row's class that is not below the number of classes")
def context_rows_class() -> bytes:
    base = bf16_base()
    part = {"context": {"base": [8, 100, 20], "rows": [0, 4]}, "plane": 16}
    side = Source("U8", (4,), bytes([0, 4, 2, 2]), BYTES, literal)
    source = Source("BF16", (4, 160), moved_weights(base.data), add_base(part), literal, None, [side], base=base)
    return one(source).join()


@invalid("the tables of a context are one too few")
def context_table_lacking() -> bytes:
    def change(chunk: PlanesChunk) -> None:
        chunk.planes[0].parts.table = chunk.planes[0].parts.table.removeprefix(b"\1\0")

    return delta_with(change)


@invalid("a table of a context does not sum to 2^P")
def context_table_sum() -> bytes:
    def change(chunk: PlanesChunk) -> None:
        table = bytearray(chunk.planes[0].parts.table)
        at = first_table(table)
        table[at + 2] ^= 1
        chunk.planes[0].parts.table = bytes(table)

    return delta_with(change)


@invalid("a table of classes with a symbol whose field is 2^w before it is moved")
def class_table_wide() -> bytes:
    source = classes_source(4, CODED)
    frequency = [0] * 256
    frequency[:12], frequency[213] = [170] * 12, 2048 - 170 * 12
    assert 299 + 213 == 1 << 9
    source.code = planes(Plane(CODED, 11, 1, base=299, frequency=frequency))
    source.expression["bits"][0]["plane"] = 9
    source.expression["bits"][0]["context"]["class"][2] = 0
    source.data = little((min(v, 310) for v in to_units(source.data, 2)), 2)
    return one(source).join()


@invalid("classes of row and column that are more than 255 together")
def class_sum() -> bytes:
    source = classes_source(0, CODED)
    source.sides[0].data = bytes([0, 3, 250, 9, 1])
    source.code = literal
    return one(source).join()


@invalid("classes of row and column, and steps, that are more than 255 together")
def mean_sum() -> bytes:
    source = mean_source()
    source.sides[0].data = bytes([247] + [0] * 19)
    source.code = literal
    return one(source).join()


def signs_with(change: Callable[[Coded], None]) -> bytes:
    """The file `mean`, the plane of signs changed."""
    source = mean_source()

    def code(place: Place) -> bytes:
        chunk = place.planes(Plane(CODED, 11, 1), Plane(RAW), Plane(CODED, 12, 2, base=351))
        change(chunk.planes[0])
        return chunk.bytes()

    source.code = code
    return one(source).join()


@invalid("a sign whose table is absent")
def sign_absent() -> bytes:
    def change(plane: Coded) -> None:
        table = plane.parts.table
        at = first_table(table)
        length = decode.coder.read_table(table[at:], 11)[1]
        plane.parts.table = table[:at] + b"\1\0" + table[at + length :]

    return signs_with(change)


@invalid("a sign's table with a symbol for a field of two bits")
def sign_symbol() -> bytes:
    def change(plane: Coded) -> None:
        table = bytearray(plane.parts.table)
        at = first_table(table)
        length = decode.coder.read_table(bytes(table[at:]), 11)[1]
        table[at : at + length] = bytes([0, 2, *b"\x80\x07", 1, *b"\xff\x08"])
        plane.parts.table = bytes(table)

    return signs_with(change)


@invalid("signs in mode bypass")
def sign_bypass() -> bytes:
    return signs_with(lambda plane: put(plane, mode=BYPASS))


@invalid("a stream of signs that is damaged")
def sign_damaged() -> bytes:
    def change(plane: Coded) -> None:
        plane.parts.words[1] ^= 1

    return signs_with(change)


# scatter by a mask in a chunk


def sparse_with(mask: Coded, *values: Coded, units: Sequence[int] = ()) -> bytes:
    """256 units of 16 bits, unless given."""
    units = units or [0] * 256
    stored = PlanesChunk(len(units), 2, [mask, *values], b"").bytes()
    expression = sparse_of(*[8] * max(1, len(values)))
    return one(Source("U16", (len(units),), little(units, 2), expression, lambda _: stored)).join()


def mask_plane(*fields: int, groups: int = 1) -> Coded:
    return Coded(RAW, payload=bytes(fields).ljust(128 * groups, b"\0"))


def value_plane(*fields: int, groups: int = 1) -> Coded:
    return Coded(RAW, payload=bytes(fields).ljust(128 * groups, b"\0"))


FEW = [5, 0, 6, 0, 0, 7] + [0] * 250

add(
    "sparse_mask_padding",
    "a field after the mask's last is not zero",
    lambda: sparse_with(mask_plane(0x25, *[0] * 31, 1), value_plane(5, 6, 7), units=FEW),
)
add(
    "sparse_mask_padding_constant",
    "a constant mask that is not 0, of fields that do not fill their last group",
    lambda: sparse_with(Coded(CONSTANT, base=255), value_plane(*[5] * 256, groups=2), units=[5] * 256),
)
add(
    "sparse_mask_wide",
    "a constant mask that does not fit 8 bits",
    lambda: sparse_with(Coded(CONSTANT, base=256), Coded(CONSTANT), units=[0] * 1024),
)
add(
    "sparse_mask_bypass",
    "a mask in mode bypass",
    lambda: sparse_with(Coded(BYPASS, 12, blocks=1, payload=bytes(256)), value_plane(5, 6, 7), units=FEW),
)
add(
    "sparse_mask_groups",
    "a mask with a field for every unit",
    lambda: sparse_with(mask_plane(0x25, groups=8), value_plane(5, 6, 7), units=[*FEW, *[0] * 768]),
)
add(
    "sparse_values_padding",
    "a value after the last bit of the mask is not zero",
    lambda: sparse_with(mask_plane(0x25), value_plane(5, 6, 7, 8), units=FEW),
)
add(
    "sparse_values_padding_constant",
    "a constant that is not 0, of values that do not fill their last group",
    lambda: sparse_with(mask_plane(0x25), Coded(CONSTANT, base=5), units=[5, 0, 5, 0, 0, 5] + [0] * 250),
)
add(
    "sparse_values_groups",
    "values for all units of the body",
    lambda: sparse_with(mask_plane(0x25), value_plane(5, 6, 7, groups=2), units=FEW),
)
add(
    "sparse_values_few",
    "no values, though the mask has bits",
    lambda: sparse_with(mask_plane(0x25), Coded(RAW), units=FEW),
)
add(
    "sparse_none_raw",
    "a mask of zeros, and values in mode raw",
    lambda: sparse_with(Coded(CONSTANT), Coded(RAW)),
)
add(
    "sparse_none_constant",
    "a mask of zeros, and values of a constant that is not 0",
    lambda: sparse_with(Coded(CONSTANT), Coded(CONSTANT, base=5)),
)
add(
    "sparse_none_coded",
    "a mask of zeros, and coded values",
    lambda: sparse_with(Coded(CONSTANT), Coded(CODED, 12, blocks=1, payload=bytes(256))),
)
add(
    "sparse_no_mask",
    "a chunk of the values' planes alone",
    lambda: sparse_with(value_plane(5, 6, 7)),
)


# -- section 9: bombs by the header's numbers ------------------------------------------------------------------------


@invalid("41 ties to a tensor of 8 MiB: over 1024 times the file and 256 MiB")
def bomb_ties() -> bytes:
    size = 8 << 20
    writer = Writer()
    writer.tensor("t", Source("U8", (size,), bytes(size), BYTES, affine(0, 0)))
    for i in range(41):
        writer.ref(f"{i}", 0)
    return writer.parts().join()


@invalid("ties and an image of 8 KiB of literal bytes: with all of these one byte over the limit of bomb_ties")
def bomb_image() -> bytes:
    def made(size: int, more: int) -> Parts:
        writer = Writer()
        for name, n in (("t", size), ("u", more)):
            writer.tensor(name, Source("U8", (n,), bytes(n), BYTES, affine(0, 0)))
        for i in range(ties):
            writer.ref(f"{i}", 0)
        writer.image([bytes(8192), (0, 2 + ties)], BYTES, literal, kind="gguf")
        return writer.parts()

    ties, size, more, over = 34, 8 << 20, 20000, 0
    while over != 1:
        data = made(size, more).join()
        over = (ties + 1) * size + more + 8192 - (len(data) << 10) - (256 << 20)
        size += -((over - 1) // (ties + 1)) if abs(over) > 1000 else 0
        more += 1 - over if abs(over) <= 1000 else 0
    return data


@invalid("24 tensors of records given a unit of a pack of 16 MiB: each time all of the pack counts")
def bomb_scales() -> bytes:
    size = 16 << 20
    writer = Writer()
    pack = writer.pack("U8", BYTES, affine(0, 0))
    for name, n in (("scale", 1), ("other", size - 1)):
        writer.pack_member(name, pack, (n,), bytes(n))
    plane = {"context": {"scale": [0, 0, 0, [1, 0, 1, 1]]}, "plane": 8, "spans": [[2, 0, 8, 8]]}
    for i in range(24):
        scale = Scale(0, bytes(1), 1)
        writer.tensor(f"{i}", Source("U8", (2,), bytes(2), {"record": [2, plane]}, literal, scale=scale))
    return writer.parts().join()


@invalid("a chunk of 16 MiB in 64 stored bytes")
def bomb_affine() -> bytes:
    parts = one(Source("U8", (100,), RAMP, BYTES, affine(0, 1)))
    put(parts.chunks()[0], stored=affine_chunk(0, 1, 16 << 20, 1)[:64], decoded_length=16 << 20)
    return edit(parts, (["tensors", 0, "chunk"], 16 << 20), (["tensors", 0, "shape"], [16 << 20]))


header(
    "bomb_chunks",
    "2^47 chunks of one unit",
    (["tensors", 0, "chunk"], 1),
    (["tensors", 0, "shape"], [2**47]),
    (["tensors", 2, "shape"], [2**47]),
)
header(
    "bomb_shape",
    "a tensor of 2^48 elements in chunks of 16 MiB",
    (["tensors", 0, "chunk"], 8 << 20),
    (["tensors", 0, "shape"], [2**48]),
    (["tensors", 2, "shape"], [2**48]),
)
header("bomb_pack", "a pack of 2^40 units", (["tensors", 4, "shape"], [2**40]))
header(
    "bomb_image_literal",
    "an image of 2^48 literal bytes",
    (["image", "segments", 0], 2**48),
    (["image", "chunk"], 16 << 20),
)
@invalid("a pack of 8192 tensors of 2^48 elements of 8 bytes, and one of one: 8 bytes modulo 2^64")
def bomb_pack_wrap() -> bytes:
    data = bytes(8)
    shapes = [[2**48]] * 8192 + [[1]]
    tensors = [{"dtype": "U64", "name": f"{i}", "pack": 0, "shape": shape} for i, shape in enumerate(shapes)]
    value = {
        "expressions": [bits(16, 16, 16, 16)], "metadata": {}, "packs": [{"dtype": "U64", "expression": 0}],
        "tensors": tensors,
    }  # fmt: skip
    stream = StreamParts([chunk_of_bytes(literal_chunk(data, 8), data)])
    return Parts(decode.canonical(value), [stream], [bytes(32)] * 8192 + [digest(data)]).join()


header("bomb_side", "a side plane of 2^40 rows", (ROW_SHAPE, [2**40]), base=rows)


# records

RECORD = ["expressions", 0, "record"]
WHOLE_BYTES = {"record": [1, {"plane": 8, "spans": [[1, 0, 0, 8]]}]}


def nibbles() -> Parts:
    return one(Source("U8", (1440,), blocks(80, 18), NIBBLES, planes(Plane(RAW), Plane(CODED), Plane(CODED))))


def pieces() -> Parts:
    """Two planes, the second given the first, which is even, so that every other table is absent."""
    data = bytes(v & 0xFE if i % 2 == 0 else v for i, v in enumerate(blocks(4096, 2)))
    second = {"context": {"field": [0, 0, 0, 16]}, "plane": 4, "spans": [[2, 8, 4, 4]]}
    expression = {"record": [2, {"plane": 8, "spans": [[1, 0, 0, 8]]}, second]}
    return one(Source("U8", (8192,), data, expression, planes(Plane(RAW), Plane(CODED))))


def nibble_header(name: str, what: str, *changes: tuple[Sequence[str | int], object]) -> None:
    header(f"record_{name}", what, *changes, base=nibbles)


FIRST_SPAN = [*RECORD, 3, "spans", 0]
nibble_header("object", "a record that is an object", (RECORD, {"size": 18}))
nibble_header("size_only", "a record without fields", (RECORD, [18]))
nibble_header("size_0", "records of no bytes", ([*RECORD, 0], 0))
nibble_header("size_513", "records of 513 bytes", ([*RECORD, 0], 513))
nibble_header("size_17", "records of 17 bytes whose fields take 18", ([*RECORD, 0], 17))
nibble_header("gap", "bits that belong to no field", ([*RECORD, 0], 20))
nibble_header("overlap", "two spans that share bits", ([*RECORD, 3, "spans", 1, 1], 16))
nibble_header("shared", "two fields that share a bit", ([*RECORD, 1, "spans"], [[1, 1, 0, 7]]))
nibble_header("plain_plane", "a field without spans", ([*RECORD, 1], {"plane": 7}))
nibble_header("key", "an unknown key of a field", ([*RECORD, 1, "scatter"], 0))
nibble_header("spans_empty", "a field of no spans", ([*RECORD, 1, "spans"], []))
nibble_header("spans_object", "spans that are an object", ([*RECORD, 1, "spans"], {}))
nibble_header("span_number", "a span that is a number", ([*RECORD, 1, "spans", 0], 7))
nibble_header("span_three", "a span of three integers", ([*RECORD, 1, "spans", 0], [1, 0, 7]))
nibble_header("span_no_fields", "a span of no fields", ([*FIRST_SPAN, 0], 0))
nibble_header("span_count", "more fields than a record has bits", ([*FIRST_SPAN, 0], 145))
nibble_header("span_bit", "a field beyond the end of its record", ([*FIRST_SPAN, 1], 144))
nibble_header("span_bit_negative", "a field before its record", ([*FIRST_SPAN, 1], -1))
nibble_header("span_step", "fields that overlap each other", ([*FIRST_SPAN, 2], 3))
nibble_header("span_step_of_one", "a step of a single field", ([*RECORD, 1, "spans", 0, 2], 8))
nibble_header("span_width", "a span wider than its plane", ([*FIRST_SPAN, 3], 5))
nibble_header("span_width_0", "a piece of no bits", ([*RECORD, 1, "spans", 0], [1, 0, 0, 7, 16, 0, 0]))
nibble_header("width_17", "a plane of 17 bits", ([*RECORD, 1, "plane"], 17))
nibble_header("chunk", "a chunk that is not whole records", (["tensors", 0, "chunk"], 1439))
nibble_header("units", "a tensor that is not whole records", (["tensors", 0, "shape"], [1439]))
nibble_header("beside", "an unknown key beside `record`", (["expressions", 0, "rotate"], 0))
nibble_header("rotated", "a record within `bits`", (["expressions", 0], {"bits": [NIBBLES], "rotate": 0}))
header(
    "record_17_fields",
    "records of 17 fields",
    (RECORD, [17, *({"plane": 8, "spans": [[1, 8 * i, 0, 8]]} for i in range(17))]),
    base=nibbles,
)
header(
    "record_sides",
    "a record with side planes",
    (["tensors", 0, "sides"], [{"chunk": 1, "dtype": "U8", "expression": 1, "shape": [1]}]),
    (["expressions"], [NIBBLES, BYTES]),
    base=nibbles,
)
header("record_image", "an image of records", (["expressions", 1], WHOLE_BYTES))


@invalid("a chunk of records of more than 4 MiB")
def record_chunk_limit() -> bytes:
    count = 18 << 18
    parts = one(Source("U8", (18,), bytes(18), NIBBLES))
    stored, decoded = affine_chunk(0, 0, count, 1), decode.decoded_digest(bytes(count))
    put(parts.chunks()[0], stored=stored, decoded_length=count, decoded_digest=decoded)
    parts.identities = [digest(bytes(count))]
    return edit(parts, (["tensors", 0, "chunk"], count), (["tensors", 0, "shape"], [count]))


GIVEN = [*RECORD, 2, "context"]
header("record_context_later", "a context by the field itself", ([*GIVEN, "field", 0], 1), base=pieces)
header(
    "record_context_first",
    "a context of the first field",
    ([*RECORD, 1, "context"], {"field": [0, 0, 0, 2]}),
    base=pieces,
)
header("record_context_shift", "a context's shift of 16", ([*GIVEN, "field", 1], 16), base=pieces)
header("record_context_tables_1", "a context of one table", ([*GIVEN, "field", 3], 1), base=pieces)
header("record_context_tables_65", "a context of 65 tables", ([*GIVEN, "field", 3], 65), base=pieces)
header("record_context_five", "a context of five numbers", ([*GIVEN, "field"], [0, 0, 0, 16, 0]), base=pieces)
header("record_context_base", "a context of a base in a record", (GIVEN, {"base": [0, 0, 2]}), base=pieces)
header("record_context_wide", "a context whose first has 17 bits", ([*GIVEN, "field", 2], 65536), base=pieces)
header("newer_field", "a reserved name for a field", ([*RECORD, 1], {"view": 8}), base=pieces)
for name, what, over in (
    ("0", "a context by the mean of no records", 0),
    ("65537", "a context by the mean of 65537 records", 65537),
    ("true", "a context by a mean that is true", True),
    ("array", "a context by a mean that is an array", [0]),
):
    header(f"record_mean_{name}", what, ([*GIVEN, "mean"], over), base=pieces)
header("record_mean_alone", "a mean without a field", (GIVEN, {"mean": 3}), base=pieces)
header(
    "record_mean_wide",
    "a context by the mean of fields of 16 bits",
    ([*GIVEN, "mean"], 3),
    base=lambda: one(
        Source("U8", (300,), bytes(300), {"record": [3, {"plane": 16, "spans": [[1, 0, 0, 16]]}, {
            "context": {"field": [0, 0, 0, 16]}, "plane": 4, "spans": [[2, 16, 4, 4]],
        }]})
    ),
)  # fmt: skip
header(
    "record_context_multiple",
    "a field given one of which there are more",
    ([*RECORD, 1], {"plane": 4, "spans": [[2, 0, 4, 4]]}),
    ([*RECORD, 2, "plane"], 8),
    ([*RECORD, 2, "spans"], [[1, 8, 0, 8]]),
    base=pieces,
)
CLASSES = [*RECORD, 1, "context", "class"]
CLASSED_SIDE = ["tensors", 0, "sides"]


def classed() -> Parts:
    return one(classed_records())


header("record_mean_class", "a mean beside classes", ([*RECORD, 1, "context", "mean"], 3), base=classed)
header("record_class_two", "row and column classes without a number of tables", (CLASSES, [0, 1]), base=classed)
header("record_class_side", "classes in a side plane that is not there", ([*CLASSES, 1], 2), base=classed)
BYTES_CLASSED = {"record": [1, {"context": {"class": [0, 1, 4]}, "plane": 8, "spans": [[1, 0, 0, 8]]}]}
header("record_class_unused", "a side plane that no field names", ([*CLASSES, 1], 0),
       base=lambda: square("U8", BYTES_CLASSED))  # fmt: skip
header("record_class_tables_1", "row and column classes that select one table", ([*CLASSES, 2], 1), base=classed)
header("record_class_tables_65", "row and column classes that select 65 tables", ([*CLASSES, 2], 65), base=classed)
header(
    "record_class_both",
    "a field given another and row and column",
    ([*RECORD, 1, "context"], {"class": [0, 1, 5], "field": [0, 0, 0, 2]}),
    base=classed,
)
add("record_class_rows", "more classes of rows than rows", lambda: lines_of_units(17, 16, BYTES_CLASSED))
header("record_class_shape", "classes of two dimensions", ([*CLASSED_SIDE, 1, "shape"], [2, 60]), base=classed)
header("record_class_dtype", "classes that are I8", ([*CLASSED_SIDE, 1, "dtype"], "I8"), base=classed)


@invalid("row and column classes of a record's fields of more than 255 together")
def record_class_sum() -> bytes:
    source = classed_records()
    source.sides[0].data = bytes([255, *source.sides[0].data[1:]])
    source.sides[1].data = bytes([1, *source.sides[1].data[1:]])
    return one(source).join()


LINES = [*RECORD, 1, "context", "lines"]


def joined() -> Parts:
    return one(joined_records())


header("record_lines_two", "lines without a number of tables", (LINES, [0, 120]), base=joined)
header("record_lines_columns_0", "lines of no columns", ([*LINES, 1], 0), base=joined)
header("record_lines_columns", "columns that leave other rows than there are", ([*LINES, 1], 100), base=joined)
header("record_lines_all", "columns that leave no rows", ([*LINES, 1], 160), base=joined)
@invalid("2^32 + 16 columns of 32 lines: rows times columns are the fields modulo 2^64")
def record_lines_wrap() -> bytes:
    plane = {"context": {"lines": [0, 2**32 + 16, 4]}, "plane": 8, "spans": [[1, 0, 0, 8]]}
    sides = [side("U8", (32,), [1] * 32)]
    return one(Source("U8", (256,), bytes(256), {"record": [1, plane]}, literal, None, sides)).join()


header("record_lines_tables_1", "lines that select one table", ([*LINES, 2], 1), base=joined)
header("record_lines_tables_65", "lines that select 65 tables", ([*LINES, 2], 65), base=joined)
header("record_lines_dtype", "lines that are I8", ([*CLASSED_SIDE, 0, "dtype"], "I8"), base=joined)
header("record_lines_shape", "lines of two dimensions", ([*CLASSED_SIDE, 0, "shape"], [2, 80]), base=joined)
header("record_lines_side", "lines in a side plane that is not there", ([*LINES, 0], 1), base=joined)
header("record_lines_class", "lines beside classes", ([*RECORD, 1, "context", "class"], [0, 0, 5]), base=joined)


@invalid("row and column classes in one side plane of more than 255 together")
def record_lines_sum() -> bytes:
    source = joined_records()
    source.sides[0].data = bytes([255, *source.sides[0].data[1:-1], 1])
    return one(source).join()


SCALED = ["expressions", 1, "record", 1, "context"]
SCALE = [*SCALED, "scale"]
OF_SCALE = ["tensors", 1, "sides"]


def scaled() -> Parts:
    return with_scales(scaled_records())


def scale_header(name: str, what: str, *changes: tuple[Sequence[str | int], object]) -> None:
    header(f"record_scale_{name}", what, *changes, base=scaled)


scale_header("three", "a scale of three arguments", (SCALE, [0, 7, 118]))
scale_header("number", "a scale that is a number", (SCALE, 0))
scale_header("shift", "a scale's shift of 32", ([*SCALE, 1], 32))
scale_header("first", "a scale's first of 65536", ([*SCALE, 2], 65536))
scale_header("runs_none", "a scale without classes", ([*SCALE, 3], []))
scale_header("runs_odd", "a run without a class", ([*SCALE, 3], [2, 5, 1]))
scale_header("runs_number", "runs that are a number", ([*SCALE, 3], 2))
scale_header("runs_257", "257 runs", ([*SCALE, 3], [1, 1, 1, 0] * 128 + [1, 1]))
scale_header("runs_sum", "runs of 65537 numbers", ([*SCALE, 3], [32768, 0, 32769, 1]))
scale_header("run_0", "a run of no numbers", ([*SCALE, 3, 0], 0))
scale_header("run_class", "a scale's class of 64", ([*SCALE, 3, 1], 64))
scale_header("one_table", "a scale that selects one table", ([*SCALE, 3], [4, 0]))
scale_header("class", "a scale beside two side planes of classes", ([*SCALED, "class"], [0, 0, 5]))
scale_header("mean", "a scale beside a mean", ([*SCALED, "mean"], 3))
header(
    "record_scale_two_sides", "an expression, not used, of two fields with scales in two side planes",
    (["expressions"], [bits(8, 8), BYTES, {"ref": 0}, {"record": [1, *(
        {"context": {"scale": [k, 0, 0, [1, 0, 1, 1]]}, "plane": 4, "spans": [[1, 4 * k, 0, 4]]} for k in (0, 1)
    )]}]),
)  # fmt: skip
scale_header("none", "a number for a side plane, and no scale", (SCALED, {"lines": [0, 64, 4]}))
scale_header("plane", "a scale of a side plane that is not there", ([*SCALE, 0], 1))
scale_header("missing", "a side plane that is a tensor that is not there", (OF_SCALE, [2]))
scale_header("true", "a side plane that is true", (OF_SCALE, [True]))
scale_header("itself", "a tensor that is its own side plane", (OF_SCALE, [1]))
scale_header("two", "two tensors as side planes", (OF_SCALE, [0, 0]))


def scaled_by(writer: Writer, position: int) -> bytes:
    """The codes, stored as they are, whose last side plane is a tensor of the writer."""
    source = replace(scaled_records(), code=literal)
    source.scale = Scale(position, b"", 2)
    writer.tensor("codes", source)
    return writer.parts().join()


def scale_of(name: str, what: str, dtype: str, units: int) -> None:
    """A tensor of so many units as the side plane."""

    def make() -> bytes:
        writer = Writer()
        unit = DTYPES[dtype][1]
        writer.tensor("scales", Source(dtype, (units,), bytes(range(1, 9)) * (unit * units // 8), bits(*[8] * unit)))
        return scaled_by(writer, 0)

    add(f"record_scale_{name}", what, make)


scale_of("divides", "as many units of a scale as do not divide the records", "U16", 96)
scale_of("more", "more units of a scale than records", "U16", 640)
scale_of("wide", "a scale of units of 64 bits", "U64", 160)


@invalid("two tensors that are each other's side planes")
def record_scale_circle() -> bytes:
    writer = Writer()
    for other in (1, 0):
        writer.tensor(f"w{other}", replace(scaled_records(), code=literal, scale=Scale(other, b"", 1)))
    return writer.parts().join()


@invalid("a side plane that is a tensor with another such side plane")
def record_scale_chain() -> bytes:
    writer = Writer()
    writer.tensor("scales", Source("U16", (160,), bytes(range(160)) * 2, bits(16)))
    scaled_by(writer, 0)
    writer.tensor("more", replace(scaled_records(), code=literal, scale=Scale(1, b"", 1)))
    return writer.parts().join()


@invalid("a tensor without elements as a side plane")
def record_scale_empty() -> bytes:
    writer = Writer()
    writer.empty("scales", "U16", (0,))
    return scaled_by(writer, 0)


@invalid("a tensor that is a ref as a side plane")
def record_scale_ref() -> bytes:
    writer = Writer()
    writer.tensor("scales", Source("U16", (160,), bytes(range(160)) * 2, bits(16)))
    writer.ref("again", 0)
    return scaled_by(writer, 1)


@invalid("a tensor that is a cast as a side plane")
def record_scale_cast() -> bytes:
    writer = Writer()
    writer.tensor("scales", Source("F16", (160,), bytes(range(160)) * 2, bits(16)))
    writer.cast("again", 0, "F32")
    return scaled_by(writer, 1)


@invalid("a tensor that is a difference from a base as a side plane")
def record_scale_base() -> bytes:
    writer = Writer()
    data = bytes(range(160)) * 2
    expression = {"add": [{"base": 0}, bits(16)]}
    writer.tensor("scales", Source("U16", (160,), data, expression, base=BaseTensor("U16", (160,), data)))
    return scaled_by(writer, 0)


@invalid("a part of a pack of differences from bases as a side plane")
def record_scale_pack_base() -> bytes:
    writer = Writer()
    data = bytes(range(160)) * 2
    pack = writer.pack("U16", {"add": [{"base": [0]}, bits(16)]})
    writer.pack_member("scales", pack, (160,), data, BaseTensor("U16", (160,), data))
    return scaled_by(writer, 0)


def scaled_lines() -> Parts:
    return with_scales(lined_scales())


ALL_SIDES = ["tensors", 1, "sides"]
LINED = ["expressions", 1, "record", 1, "context"]
header("record_scale_own", "a scale in a side plane of the tensor's own", ([*LINED, "scale", 0], 0), base=scaled_lines)
header("record_scale_lines", "classes in a tensor that is a side plane", ([*LINED, "lines", 0], 1), base=scaled_lines)
header(
    "record_scale_before",
    "a tensor as the first side plane of two",
    (ALL_SIDES, list(reversed(scaled_lines().json["tensors"][1]["sides"]))),
    ([*LINED, "lines", 0], 1),
    ([*LINED, "scale", 0], 0),
    base=scaled_lines,
)
header(
    "record_scale_exchanged",
    "lines in the tensor, and the scale in a side plane of its own",
    ([*LINED, "lines", 0], 1),
    ([*LINED, "scale", 0], 0),
    base=scaled_lines,
)


header("encoding_empty", "an encoding of no characters", (["tensors", 0, "encoding"], ""))
header("encoding_65", "an encoding of 65 characters", (["tensors", 0, "encoding"], "A" * 65))
header("encoding_lower", "an encoding in lower case", (["tensors", 0, "encoding"], "gguf_Q4_0"))
header("encoding_number", "an encoding that is a number", (["tensors", 0, "encoding"], 4))
header("encoding_arabic", "an encoding with a digit beyond ASCII", (["tensors", 0, "encoding"], "Q\u0664"))


@invalid("a pack of records")
def record_pack() -> bytes:
    writer = Writer()
    pack = writer.pack("U8", WHOLE_BYTES)
    writer.pack_member("a", pack, (3,), b"abc")
    return writer.parts().join()


@invalid("fields after the last record that are not zero")
def record_rest() -> bytes:
    parts = nibbles()
    chunk = parts.streams[0].chunks[0]
    at = 16 + 16 * 3 + len(raw_payload([0] * 128, 7)) - 1  # the first plane's last byte, of no record
    chunk.stored = chunk.stored[:at] + bytes([chunk.stored[at] | 8]) + chunk.stored[at + 1 :]
    return parts.join()


@invalid("a constant other than 0 of a plane of records that does not fill its groups")
def record_constant_rest() -> bytes:
    parts = one(Source("U8", (130,), bytes(130), WHOLE_BYTES, planes(Plane(CONSTANT))))
    chunk = parts.streams[0].chunks[0]
    chunk.stored = chunk.stored[:18] + b"\1" + chunk.stored[19:]
    return parts.join()


@invalid("planes of records of 100 units")
def record_few_units() -> bytes:
    return one(Source("U32", (100,), bytes(400), WHOLE_BYTES, planes(Plane(CONSTANT)))).join()


@invalid("a plane of records that selects an absent table")
def record_absent_table() -> bytes:
    parts = pieces()
    chunk = parts.streams[0].chunks[0]
    kept = bytearray(chunk.stored)
    kept[16 + 32] ^= 1  # the first field of the raw plane, which selects
    chunk.stored = bytes(kept)
    return parts.join()


# -- lossy -----------------------------------------------------------------------------------------------------------

STATED = ["tensors", 0, "lossy"]
header("lossy_no_source", "a lossy file without its source", (["lossy"], DROP), base=lossy)
header("lossy_source_key", "a lossy file with a key more", (["lossy", "sha"], ""), base=lossy)
header("lossy_source_empty", "a source of no digits", (["lossy", "source"], ""), base=lossy)
header("lossy_source_upper", "a source in capital letters", (["lossy", "source"], "A" * 64), base=lossy)
header("lossy_source_number", "a source that is a number", (["lossy", "source"], 1), base=lossy)
header("lossy_array", "`lossy` of a file is an array", (["lossy"], []), base=lossy)
header("lossy_nothing", "a lossy file of which no tensor is", (["lossy"], {"source": "0" * 64}), base=rows)
header(
    "lossy_image",
    "a lossy file that claims to give back its source",
    (["lossy"], {"source": "0" * 64}),
    (STATED, {"max": "0" * 16, "nmse": "0" * 16, "recipe": "q8_0"}),
    (["tensors", 2, "lossy"], {"max": "0" * 16, "nmse": "0" * 16, "recipe": "q8_0"}),
    (["tensors", 0, "dtype"], "F16"),
    (["tensors", 2, "dtype"], "F16"),
)
header("lossy_ref", "a tie to a lossy tensor that does not say so", (["tensors", 2, "lossy"], DROP), base=lossy)
header("lossy_cast", "a cast of a lossy tensor that does not say so", (["tensors", 3, "lossy"], DROP), base=lossy)
header("lossy_true", "`lossy` of a tensor is true", (STATED, True), base=lossy)
header("lossy_without_max", "no largest error", ([*STATED, "max"], DROP), base=lossy)
header("lossy_key", "a key more in `lossy`", ([*STATED, "mean"], "0" * 16), base=lossy)
header("lossy_short", "an error of 15 digits", ([*STATED, "nmse"], "0" * 15), base=lossy)
header("lossy_upper", "an error in capital letters", ([*STATED, "nmse"], "3F" + "0" * 14), base=lossy)
header("lossy_number", "an error that is a number", ([*STATED, "max"], 0), base=lossy)
header("lossy_negative", "an error of -0", ([*STATED, "max"], "8" + "0" * 15), base=lossy)
header("lossy_infinite", "an error that is infinite", ([*STATED, "nmse"], "7ff" + "0" * 13), base=lossy)
header("lossy_nan", "an error that is not a number", ([*STATED, "max"], "7ff8" + "0" * 12), base=lossy)
header("lossy_recipe_empty", "a recipe of no characters", ([*STATED, "recipe"], ""), base=lossy)
header("lossy_recipe_65", "a recipe of 65 characters", ([*STATED, "recipe"], "a" * 65), base=lossy)
header("lossy_recipe_upper", "a recipe in capital letters", ([*STATED, "recipe"], "Q8_0"), base=lossy)
header("lossy_recipe_number", "a recipe that is a number", ([*STATED, "recipe"], 8), base=lossy)
header(
    "lossy_dtype",
    "a lossy tensor of integers",
    (["tensors", 5, "dtype"], "U32"),
    (["tensors", 5, "lossy"], {"max": "0" * 16, "nmse": "0" * 16, "recipe": "q8_0"}),
    base=lossy,
)


@invalid("a lossy tensor without elements")
def lossy_empty() -> bytes:
    parts = basic()
    return edit(
        parts,
        (["image"], DROP),
        (["lossy"], {"source": "0" * 64}),
        (["tensors", 3, "lossy"], {"max": "0" * 16, "nmse": "0" * 16, "recipe": "q8_0"}),
    )
