"""The invalid vectors of checkpoints: sound ones with one thing broken.

It is broken before seals, digests, sizes and file ids are made, but where these are what is broken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from make_checkpoints import (
    BASE,
    DROP,
    OTHER_RUN,
    ROWS,
    RUN,
    THIRD_RUN,
    Change,
    Draft,
    Folder,
    Stored,
    above,
    basic,
    chain,
    chain_of_three,
    deep,
    inside,
    latest,
    listed,
    lists,
    many_bases,
    name_of,
    named_text,
    one_tensor,
    parted,
    plain,
    planned,
    put,
    rank_file,
    seal,
    small,
    text_of,
    tuples,
    two_listed,
    valued,
    with_differences,
)

from decode import canonical, digest, read_prefix
from writer import BYTES, Place, Source, Writer, affine, literal

BROKEN_CHECKPOINTS: dict[str, tuple[str, Callable[[], Folder]]] = {}


def add(name: str, what: str, make: Callable[[], Folder]) -> None:
    assert name not in BROKEN_CHECKPOINTS, name
    BROKEN_CHECKPOINTS[name] = what, make


# -- invalid: sections 1 and 2, the seal and the text ------------------------------------------------------------------


def sealed(name: str, what: str, change: Callable[[bytes], bytes]) -> None:
    """`change` makes the whole manifest from V."""
    add(name, what, lambda: basic().folder(change(canonical(basic().value()))))


def replaced(name: str, what: str, old: bytes, new: bytes, draft: Callable[[], Draft] = basic) -> None:
    """Changes V's text, past any canonical form, and seals it."""

    def make() -> Folder:
        text = canonical(draft().value())
        assert text.count(old) == 1, old
        return draft().folder(seal(text.replace(old, new)))

    add(name, what, make)


def changed(name: str, what: str, *changes: Change, draft: Callable[[], Draft] = basic) -> None:
    """Changes what the manifest says."""

    def make() -> Folder:
        made = draft()
        made.changes += changes
        return made.folder()

    add(name, what, make)


add("no_manifest", "files, but no manifest", lambda: {k: v for k, v in basic().folder().items() if k[0] == "r"})
sealed("seal_empty", "a manifest of no bytes", lambda _: b"")
sealed("seal_cut", "the manifest's last byte is missing", lambda value: seal(value)[:-1])
sealed("seal_newline", "a newline after the manifest", lambda value: seal(value) + b"\n")
sealed("seal_space", "white space in the seal", lambda value: seal(value).replace(b',"value"', b', "value"', 1))
sealed("seal_digest", "a digest that is not V's", lambda value: seal(value, digest(value + b"\n").hex().encode()))
sealed(
    "seal_sha", "a digest that is V's SHA-256", lambda value: seal(value, hashlib.sha256(value).hexdigest().encode())
)
sealed("seal_upper", "a digest in capital letters", lambda value: seal(value, digest(value).hex().upper().encode()))
sealed("seal_begin", "a digest under another key", lambda value: seal(value).replace(b"digest", b"blake3", 1))
sealed("seal_middle", "V under another key", lambda value: seal(value).replace(b"value", b"Value", 1))
sealed("seal_end", "the manifest's last byte is another", lambda value: seal(value)[:-1] + b"]")
sealed("seal_bare", "V without a seal", lambda value: value)
sealed(
    "seal_order",
    "V before its digest",
    lambda value: b'{"value":' + value + b',"digest":"' + digest(value).hex().encode() + b'"}',
)
sealed("json_array", "V is an array", lambda value: seal(b"[" + value + b"]"))
replaced("json_space", "white space in V", b'"format":0', b'"format": 0')
replaced(
    "json_order",
    "keys of V that are not sorted",
    b'"format":0,"objects":{"lr":1,"step":0}',
    b'"objects":{"lr":1,"step":0},"format":0',
)
replaced("json_twice", "a key of V twice", b'"format":0', b'"format":0,"format":0')
replaced("json_tensor_twice", "a tensor twice", b'"m.v":["U8",[2],1]', b'"m.v":["U8",[2],1],"m.v":["U8",[2],1]')
replaced("json_escape", "a letter of a name escaped", b'"m.v":["U8"', b'"m.\\u0076":["U8"')
replaced("json_escape_upper", "an escape in capital letters", b'"\\u001f"', b'"\\u001F"', lambda: planned("\x1f"))
replaced("json_float", "`format` is 0.0", b'"format":0', b'"format":0.0')
replaced("json_minus_zero", "`format` is -0", b'"format":0', b'"format":-0')
replaced("json_nan", "a number that is NaN", b'"planner":1', b'"planner":NaN', lambda: planned(1))
replaced(
    "json_planner_float", "a number with a fraction in `planner`", b'"planner":1', b'"planner":1.5', lambda: planned(1)
)
replaced("json_utf8", "a byte that is no UTF-8", b'"planner":"x"', b'"planner":"\xff"', lambda: planned("x"))
replaced(
    "json_surrogate", "a single surrogate in the manifest", b'"planner":"x"', b'"planner":"\xed\xa0\x80"',
    lambda: planned("x"),
)  # fmt: skip
replaced("json_after", "V and something after it", b'"format":0', b'"format":0}{"format":0')

# -- invalid: section 2, the manifest ----------------------------------------------------------------------------------

changed("newer_format", "`format` 1", (["format"], 1))
changed("newer_format_keys", "`format` 2, keys of another time", (["format"], 2), (["files"], DROP), (["more"], 1))
changed("format_false", "`format` is false", (["format"], False))
changed("format_text", '`format` is "0"', (["format"], "0"))
changed("format_negative", "`format` is -1", (["format"], -1))
changed("format_null", "`format` is null", (["format"], None))
changed("key_more", "a key more", (["more"], 1))
for key in ("bases", "format", "objects", "planner"):
    changed(f"key_no_{key}", f"no `{key}`", ([key], DROP), draft=small)
changed("run_short", "a run id of 31 digits", draft=lambda: with_run(RUN[:-1]))
changed("run_long", "a run id of 33 digits", draft=lambda: with_run(RUN + "0"))
changed("run_upper", "a run id in capital letters", draft=lambda: with_run(RUN.upper()))
changed(
    "run_number",
    "a run id that is a number",
    (["run"], 1),
    (["files", 0, "name"], "rank-00000.1.slimtensors"),
    draft=lambda: called("rank-00000.1.slimtensors"),
)


def with_run(run: str) -> Draft:
    return Draft(small().files, small().tensors, run=run)


def called(*names: str, draft: Callable[[], Draft] = small) -> Draft:
    """The files are called so, and the manifest says so."""
    made = draft()
    made.names = list(names)
    made.changes += [(["files", i, "name"], name) for i, name in enumerate(names)]
    return made


add("files_none", "no files", lambda: Draft([], {}).folder())
changed("files_object", "`files` is an object", (["files"], {}), draft=lambda: Draft([], {}))
changed("file_key_more", "a file with a key more", (["files", 0, "rank"], 0))
changed("file_key_less", "a file without its size", (["files", 0, "size"], DROP))
add("file_name_rank", "a file is called as another rank's", lambda: called(name_of(1, RUN)).folder())
add(
    "file_name_order",
    "two files are called as each other's ranks",
    lambda: called(name_of(1, RUN), name_of(0, RUN), draft=basic).folder(),
)
add("file_name_run", "a file is called as another run's", lambda: called(name_of(0, OTHER_RUN)).folder())
add("file_name_six", "a rank of six digits where five do", lambda: called(f"rank-000000.{RUN}.slimtensors").folder())
add("file_name_short", "a rank of one digit", lambda: called(f"rank-0.{RUN}.slimtensors").folder())
add("file_name_other", "a name of another form", lambda: called("model.slimtensors").folder())
add("file_name_path", "a name that is a path", lambda: called(f"./{name_of(0, RUN)}").folder())
changed(
    "file_size_less",
    "a size that is one less than the file's",
    (["files", 0, "size"], len(small().files[0]) - 1),
    draft=small,
)
changed(
    "file_size_more",
    "a size that is one more than the file's",
    (["files", 0, "size"], len(small().files[0]) + 1),
    draft=small,
)
changed("file_size_text", "a size that is a string", (["files", 0, "size"], str(len(small().files[0]))), draft=small)
changed("file_id_other", "a file id that is not the file's", (["files", 0, "file_id"], "0" * 64))
changed(
    "file_id_upper",
    "a file id in capital letters",
    (["files", 0, "file_id"], read_prefix(small().files[0])[2].hex().upper()),
    draft=small,
)
changed("file_id_short", "a file id of 63 digits", (["files", 0, "file_id"], "0" * 63))
add("file_missing", "a file is not there", lambda: without(basic().folder(), name_of(1, RUN)))
add(
    "file_missing_unnamed",
    "a file is not there, of which the manifest names nothing",
    lambda: without(replace(small(), files=[*small().files, rank_file({})]).folder(), name_of(1, RUN)),
)
add(
    "file_other_unnamed",
    "another file of the same length, of which the manifest names nothing",
    lambda: {
        **replace(small(), files=[*small().files, rank_file({"u": ("U8", (1,), b"1")})]).folder(),
        name_of(1, RUN): rank_file({"u": ("U8", (1,), b"2")}),
    },
)
add(
    "file_other",
    "a file of the same length has taken another's place",
    lambda: {**small().folder(), name_of(0, RUN): rank_file({"v": ("U8", (2,), b"\2\1")})},
)
add(
    "file_damaged",
    "a bit of a chunk is another",
    lambda: {**small().folder(), name_of(0, RUN): small().files[0][:-48] + b"\3" + small().files[0][-47:]},
)


def without(folder: Folder, path: str) -> Folder:
    return {each: data for each, data in folder.items() if each != path}


# -- invalid: section 2, tensors and parts -----------------------------------------------------------------------------

V = ["tensors", "v"]
changed("tensors_array", "`tensors` is an array", (["tensors"], []), draft=lambda: Draft([rank_file({})], {}))
changed("tensor_object", "a tensor is an object", (V, {"dtype": "U8", "parts": 0, "shape": [2]}), draft=small)
changed("tensor_two", "a tensor without parts", (V, ["U8", [2]]), draft=small)
changed("tensor_four", "a tensor of four entries", (V, ["U8", [2], 0, 0]), draft=small)
changed("dtype_unknown", "a dtype that is none", (V, ["U9", [2], 0]), draft=small)
changed("dtype_lower", "a dtype in small letters", (V, ["u8", [2], 0]), draft=small)
changed("dtype_null", "a dtype that is null", (V, [None, [2], 0]), draft=small)
changed("dtype_other", "a dtype that is not the file's", (V, ["I8", [2], 0]), draft=small)
changed("shape_other", "a shape of as many elements that is not the file's", (V, ["U8", [2, 1], 0]), draft=small)
changed("shape_number", "a shape that is a number", (V, ["U8", 2, 0]), draft=small)
changed(
    "shape_true",
    "a dimension that is true",
    (V, ["U8", [2, True], 0]),
    draft=lambda: Draft([rank_file({"v": ("U8", (2, 1), b"\1\2")})], {"v": []}),
)
changed("shape_negative", "a dimension of -1", (V, ["U8", [-1], 0]), draft=small)
changed("shape_dimension", "a dimension above 2^48, in parts without elements", draft=lambda: shaped([2**48 + 1, 0]))
changed("shape_product", "dimensions whose product is above 2^48, but for a 0", draft=lambda: shaped([2**25, 2**24, 0]))
changed("shape_seventeen", "seventeen dimensions, as no file can have", (V, ["U8", [2] + [1] * 16, 0]), draft=small)
changed("shape_bits", "three elements of four bits, as no file can have", (V, ["F4", [3], 0]), draft=small)
changed("name_empty", "a tensor of no name, in parts", draft=lambda: parted([[0, 0, 1], [0, 1, 1]], [2], name=""))
changed("name_long", "a name of 513 bytes, as no file can have", (["tensors", "n" * 513], ["U8", [2], 0]), draft=small)
changed("name_control", "a name with a control, as no file can have", (["tensors", "a\n"], ["U8", [2], 0]), draft=small)
changed(
    "name_metadata",
    "a tensor `__metadata__`, in parts",
    draft=lambda: parted([[0, 0, 1], [0, 1, 1]], [2], name="__metadata__"),
)
changed(
    "name_objects",
    "a tensor `__objects__`",
    draft=lambda: Draft([rank_file({"__objects__": ("U8", (2,), b"{}")})], {"__objects__": ["U8", [2], 0]}),
)


def shaped(shape: list[int]) -> Draft:
    """A tensor without elements, in two parts of which at least one dimension is 0 in whatever shape."""
    ones = [min(size, 1) for size in shape]
    return parted([[0, *[0] * len(shape), *ones], [0, 1, *[0] * (len(shape) - 1), *ones]], shape)


changed("parts_none", "no parts", (["tensors", "empty", 2], []))
changed("parts_object", "parts that are an object", (["tensors", "empty", 2], {}))
changed("parts_null", "parts that are null", (["tensors", "empty", 2], None))
changed("parts_true", "a file's number that is true", (["tensors", "m.v", 2], True))
changed("parts_negative", "a file's number of -1", (["tensors", "m.v", 2], -1))
changed("parts_file", "a file's number beyond the files", (["tensors", "m.v", 2], 2))
changed("part_file", "a part in a file beyond the files", (["tensors", "w", 2, 1, 0], 2))
changed("part_file_negative", "a part in file -1", (["tensors", "w", 2, 1, 0], -1))
changed("part_false", "an offset that is false", (["tensors", "w", 2, 0, 1], False))
changed("part_short", "a part of one number less", (["tensors", "w", 2, 0], [0, 0, 0, 2]))
changed("part_long", "a part of one number more", (["tensors", "w", 2, 0], [0, 0, 0, 2, 4, 0]))
changed("part_number", "a part that is a number", (["tensors", "w", 2], [0]))
changed("part_whole", "a part alone that is all, not told by its file's number", (["tensors", "m.v", 2], [[1, 0, 2]]))
changed("part_whole_scalar", "likewise of a tensor without dimensions", (["tensors", "scalar", 2], [[0]]))
changed("part_whole_empty", "likewise of a tensor without elements", (["tensors", "empty", 2], [[0, 0, 0, 0, 2]]))
for name, what, boxes in [
    ("parts_overlap", "parts that overlap, and leave nothing out", [[0, 0, 0, 2, 4], [1, 1, 0, 2, 4]]),
    ("parts_overlap_gap", "parts that overlap, and leave as much out", [[0, 0, 0, 2, 4], [1, 1, 0, 1, 4]]),
    ("parts_twice", "the same part in two files", [[0, 0, 0, 2, 4], [1, 0, 0, 2, 4], [1, 2, 0, 1, 4]]),
    ("parts_twice_gap", "a part twice, and as much left out", [[0, 0, 0, 1, 4], [1, 0, 0, 1, 4], [1, 2, 0, 1, 4]]),
    ("parts_gap", "parts that leave a row out", [[0, 0, 0, 1, 4], [1, 2, 0, 1, 4]]),
    ("parts_gap_column", "parts that leave an element out", [[0, 0, 0, 3, 3], [1, 1, 3, 2, 1]]),
    ("part_outside", "a part that reaches out, and leaves as much out", [[0, 0, 0, 2, 4], [1, 2, 1, 1, 4]]),
    ("part_outside_below", "a part below the tensor, and as much left out", [[0, 0, 0, 2, 4], [1, 3, 0, 1, 4]]),
    ("part_negative", "an offset of -1, and as much left out", [[0, 1, 0, 2, 4], [1, -1, 0, 1, 4]]),
    ("part_empty_outside", "an empty part outside the tensor", [[0, 0, 0, 2, 4], [1, 2, 0, 1, 4], [1, 4, 0, 0, 4]]),
]:  # fmt: skip
    changed(name, what, draft=lambda boxes=boxes: parted(boxes, [3, 4]))
changed(
    "parts_bits",
    "elements of four bits in two parts",
    draft=lambda: parted([[0, 0, 0, 1, 2], [0, 1, 0, 1, 2]], [2, 2], "F4"),
)
changed("parts_named_twice", "a part without elements, twice in one file", draft=lambda: twice())
changed("parts_named_alike", "a tensor is called in its file as another one's part is", draft=lambda: alike())
TOP, LAST = ("I16", (2, 4), ROWS[:16]), ("I16", (1, 4), ROWS[16:])  # of `w`


def in_one_file(held: dict[str, Stored]) -> Draft:
    """`w` in two parts, of one file that holds these."""
    return Draft([rank_file(held)], {"w": ["I16", [3, 4], [[0, 0, 0, 2, 4], [0, 2, 0, 1, 4]]]})


def long_objects() -> Folder:
    text = text_of({"x": ""}).replace(b'""', b'"' + b"x" * ((1 << 24) - 7) + b'"')
    assert len(text) == (1 << 24) + 1

    def code(place: Place) -> bytes:
        return literal(place) if set(place.data) != set(b"x") else affine(ord("x"), 0)(place)

    writer = Writer()
    writer.tensor("__objects__", Source("U8", (len(text),), text, BYTES, code, 1 << 15))
    return Draft([writer.parts().join()], {}, {"x": 0}).folder()


def twice() -> Draft:
    made = parted([[0, 0, 2], [0, 2, 0]], [2])
    made.tensors["w"][2].append([0, 2, 0])
    return made


def alike() -> Draft:
    made = in_one_file({"w@0,0": TOP, "w@2,0": LAST})
    made.tensors["w@0,0"] = ["I16", [2, 4], 0]
    return made


for name, what, held in [
    ("part_missing", "a part is not in its file", {"w@0,0": TOP}),
    ("part_named_bare", "a part has the tensor's name alone", {"w": TOP, "w@2,0": LAST}),
    ("part_named_end", "a part is called by where it ends", {"w@0,0": TOP, "w@3,4": LAST}),
    ("part_named_row", "a part is called by its row alone", {"w@0,0": TOP, "w@2": LAST}),
    ("part_named_space", "a part's name has a space", {"w@0,0": TOP, "w@2, 0": LAST}),
    ("part_dtype", "a part has another dtype in its file", {"w@0,0": TOP, "w@2,0": ("U16", (1, 4), ROWS[16:])}),
    ("part_shape", "a part has another shape in its file", {"w@0,0": TOP, "w@2,0": ("I16", (4, 1), ROWS[16:])}),
    ("part_larger", "a part is larger in its file", {"w@0,0": ("I16", (3, 4), ROWS), "w@2,0": LAST}),
]:  # fmt: skip
    changed(name, what, draft=lambda held=held: in_one_file(held))
changed(
    "whole_named_part", "a whole tensor is called as a part in its file",
    draft=lambda: Draft([rank_file({"v@0": ("U8", (2,), b"\1\2")})], {"v": ["U8", [2], 0]}),
)  # fmt: skip
changed("whole_other_file", "a whole tensor is in another file", (["tensors", "m.v", 2], 0))

# -- invalid: sections 2 and 3, values ---------------------------------------------------------------------------------

changed("objects_array", "`objects` is an array", (["objects"], []), draft=small)
changed("objects_file", "a value in a file beyond the files", (["objects", "step"], 2))
changed("objects_true", "a file's number of a value that is true", (["objects", "lr"], True))
changed("objects_negative", "a value in file -1", (["objects", "lr"], -1))
changed(
    "objects_tensor", "a value of a tensor's name",
    draft=lambda: Draft([rank_file({"v": ("U8", (2,), b"\1\2")}, text_of({"v": 1}))], {"v": ["U8", [2], 0]}, {"v": 0}),
)  # fmt: skip
changed("objects_missing", "a value that its file does not hold", (["objects", "other"], 0))
changed("objects_other_file", "a value that another file holds", (["objects", "step"], 1))
changed("objects_no_tensor", "values of a file that holds none", (["objects", "x"], 0), draft=small)
changed("objects_dtype", "`__objects__` is of I8", draft=lambda: named_text(b"", ("I8", (7,), b'{"x":1}')))
changed("objects_shape", "`__objects__` has two dimensions", draft=lambda: named_text(b"", ("U8", (1, 7), b'{"x":1}')))
add("objects_long", "`__objects__` of 2^24 + 1 bytes", lambda: long_objects())
for name, what, text in [
    ("array", "is an array", b'["x"]'),
    ("cut", "is cut", b'{"x":1'),
    ("after", "has something after it", b'{"x":1}{}'),
    ("space", "has white space", b'{"x": 1}'),
    ("newline", "ends in a newline", b'{"x":1}\n'),
    ("twice", "has a name twice", b'{"x":1,"x":1}'),
    ("escape", "has an escape that is not needed", b'{"\\u0078":1}'),
    ("slash", "has a slash escaped", b'{"x":"\\/"}'),
    ("surrogate", "has a surrogate as an escape", b'{"x":"\\ud800"}'),
    ("ascii", "has a letter outside ASCII as an escape", b'{"x":"\\u00e9"}'),
    ("utf8", "has a byte that is no UTF-8", b'{"x":"\xff"}'),
    ("bom", "begins with a byte order mark", b'\xef\xbb\xbf{"x":1}'),
    ("float", "has a number with a fraction", b'{"x":0.5}'),
    ("exponent", "has a number with an exponent", b'{"x":1e2}'),
    ("nan", "has a number that is NaN", b'{"x":NaN}'),
    ("minus_zero", "has -0", b'{"x":-0}'),
    ("digits", "has a number of 4301 digits", b'{"x":1' + b"0" * 4300 + b"}"),
    ("negative_digits", "has a negative number of 4301 digits", b'{"x":-1' + b"0" * 4300 + b"}"),
]:
    add(f"text_{name}", f"the text of values {what}", lambda text=text: named_text(text).folder())
for name, what, value in [
    ("no_key", "an object without a key", {}),
    ("two_keys", "an object of two keys", {"float": "1.0", "tuple": []}),
    ("unknown", "a kind that is none", {"set": []}),
    ("nested", "257 arrays in each other", lists(257)),
    ("nested_tuples", "258 objects and arrays in each other", tuples(258)),
    ("float_number", "a float that is a number", {"float": 1}),
    ("float_empty", "a float of no digits", {"float": ""}),
    ("float_space", "a float with a space", {"float": " 0.5"}),
    ("float_newline", "a float with a newline", {"float": "0.5\n"}),
    ("float_underline", "a float with an underline", {"float": "1_0.0"}),
    ("float_plus", "a float with a plus", {"float": "+0.5"}),
    ("float_point", "a float that begins with its point", {"float": ".5"}),
    ("float_point_last", "a float that ends with its point", {"float": "5."}),
    ("float_capital", "a float whose exponent is a capital letter", {"float": "1E5"}),
    ("float_exponent", "a float whose exponent has no digits", {"float": "1e"}),
    ("float_hex", "a float in hexadecimal digits", {"float": "0x1"}),
    ("float_infinity", "an infinite float, spelled out", {"float": "infinity"}),
    ("float_capital_nan", "a float NaN in capital letters", {"float": "NaN"}),
    ("float_minus_nan", "a negative nan", {"float": "-nan"}),
    ("float_digits", "a float of digits of another script", {"float": "\u0661.5"}),
    ("float_large", "a float beyond the largest", {"float": "1.8e308"}),
    ("float_long", "a float of 33 characters", {"float": "0." + "0" * 30 + "1"}),
    ("tuple_text", "a tuple that is a string", {"tuple": "ab"}),
    ("tuple_inner", "a tuple of what is no value", {"tuple": [{"set": []}]}),
    ("size_number", "a size that is a number", {"size": 2}),
    ("size_text", "a size of strings", {"size": ["2"]}),
    ("size_true", "a size with true", {"size": [True]}),
    ("size_negative", "a size of -1", {"size": [-1]}),
    ("size_large", "a size of 2^63", {"size": [1 << 63]}),
    ("dict_object", "a dict that is an object", {"dict": {"a": 1}}),
    ("dict_pair", "a dict of a pair of three", {"dict": [["a", 1, 2]]}),
    ("dict_single", "a dict of a key alone", {"dict": [["a"]]}),
    ("dict_text", "a dict of a string of two", {"dict": ["ab"]}),
    ("dict_twice", "a dict with a key twice", {"dict": [["a", 1], ["a", 1]]}),
    ("dict_twice_tuple", "a dict with a tuple as a key twice", {"dict": [[{"tuple": [1]}, 1], [{"tuple": [1]}, 2]]}),
    ("dict_twice_nan", "a dict with nan as a key twice", {"dict": [[{"float": "nan"}, 1], [{"float": "nan"}, 2]]}),
    ("dict_key_list", "a dict with a list as a key", {"dict": [[[1], 1]]}),
    ("dict_key_dict", "a dict with a dict as a key", {"dict": [[{"dict": []}, 1]]}),
    ("dict_key_paths", "a dict with paths as a key", {"dict": [[{"paths": []}, 1]]}),
    ("dict_key_array", "a dict with an array as a key", {"dict": [[{"array": ["|u1", [], "AA=="]}, 1]]}),
    ("dict_key_inner", "a dict with a tuple of a list as a key", {"dict": [[{"tuple": [[]]}, 1]]}),
    ("ordered_twice", "an ordered dict with a key twice", {"ordered": [["a", 1], ["a", 1]]}),
    ("counter_twice", "a counter with a key twice", {"counter": [["a", 1], ["a", 1]]}),
    ("paths_object", "paths that are an object", {"paths": {"a": 1}}),
    ("paths_number", "a path that is a number", {"paths": [7]}),
    ("paths_none", "a path of nothing", {"paths": [[]]}),
    ("paths_alone", "a path without dots, as an array", {"paths": [["a"]]}),
    ("paths_other", "a place that has no dot", {"paths": [["a.b", 2]]}),
    ("paths_falling", "dots that do not rise", {"paths": [["a.b.c", 3, 1]]}),
    ("paths_same", "a dot twice", {"paths": [["a.b", 1, 1]]}),
    ("paths_negative", "a place from the end", {"paths": [["a.b", -2]]}),
    ("paths_beyond", "a place behind the name", {"paths": [["a.b", 3]]}),
    ("paths_true", "a place that is true", {"paths": [["a.b", True]]}),
    ("paths_bytes", "a place counted in bytes", {"paths": [["\u00e9.b", 2]]}),
    ("paths_units", "a place counted in units of 16 bits", {"paths": [["\U0001f600.b", 2]]}),
    ("paths_twice", "a name twice", {"paths": ["a.b", ["a.b", 1]]}),
    ("bytes_number", "bytes that are a number", {"bytes": 0}),
    ("bytes_character", "base64 of another alphabet", {"bytes": "_-__"}),
    ("bytes_padding", "base64 without its end", {"bytes": "AA"}),
    ("bytes_more_padding", "base64 with more than its end", {"bytes": "AAA=="}),
    ("bytes_bits", "base64 whose unused bits are set", {"bytes": "AB=="}),
    ("bytes_newline", "base64 with a newline", {"bytes": "AAAA\nAAAA"}),
    ("array_two", "an array without its shape", {"array": ["<i2", "AAA="]}),
    ("array_dtype_null", "an array of dtype null", {"array": [None, [1], "AAAAAAAA8D8="]}),
    ("array_dtype_bare", "a dtype without the order of its bytes", {"array": ["f4", [1], "AAAAAA=="]}),
    ("array_dtype_name", "a dtype by its name", {"array": ["float32", [1], "AAAAAA=="]}),
    ("array_dtype_big", "a dtype with its bytes the other way round", {"array": [">f4", [1], "AAAAAA=="]}),
    ("array_dtype_single", "a dtype of one byte with an order", {"array": ["<u1", [1], "AA=="]}),
    ("array_dtype_text", "a dtype of text", {"array": ["<U1", [1], "AAAAAA=="]}),
    ("array_dtype_object", "a dtype of objects", {"array": ["|O", [1], "AAAAAAAAAAA="]}),
    ("array_dtype_time", "a dtype of times", {"array": ["<M8", [1], "AAAAAAAAAAA="]}),
    ("array_short", "fewer bytes than the shape has", {"array": ["<i2", [2], "AAA="]}),
    ("array_long", "more bytes than the shape has", {"array": ["<i2", [1], "AAAAAA=="]}),
    ("array_shape_number", "a shape that is a number", {"array": ["<i2", 1, "AAA="]}),
    ("array_shape_free", "a dimension of -1", {"array": ["<i2", [-1], "AAA="]}),
    ("array_shape_true", "a dimension that is true", {"array": ["<i2", [True], "AAA="]}),
    ("array_shape_many", "65 dimensions", {"array": ["|u1", [1] * 65, "AA=="]}),
    ("array_shape_large", "a dimension above 2^48 beside a 0", {"array": ["|u1", [0, 2**48 + 1], ""]}),
    ("array_shape_product", "a product of dimensions above 2^48 beside a 0", {"array": ["|u1", [2**24, 0, 2**25], ""]}),
    ("array_bool", "a truth value of 2", {"array": ["|b1", [1], "Ag=="]}),
    ("number_shape", "a number of one dimension", {"number": ["<i2", [1], "AAA="]}),
    ("dtype_number", "a dtype that is a number", {"dtype": 1}),
    ("dtype_dotted", "a dtype with `torch.`", {"dtype": "torch.float32"}),
    ("dtype_empty", "a dtype of no name", {"dtype": ""}),
    ("dtype_long", "a dtype of 65 letters", {"dtype": "a" * 65}),
    ("device_number", "a device that is a number", {"device": 0}),
    ("device_digit", "a device that begins with a digit", {"device": "0cpu"}),
    ("device_long", "a device of 33 letters", {"device": "a" * 33}),
    ("device_capital", "a device in capital letters", {"device": "CPU"}),
    ("device_zeros", "a device's number with a zero in front", {"device": "cuda:01"}),
    ("device_no_number", "a device without the number behind its colon", {"device": "cuda:"}),
    ("device_negative", "a device's number of -1", {"device": "cuda:-1"}),
    ("device_large", "a device's number of 128", {"device": "cuda:128"}),
    ("stream_inner", "a stream within a list", [{"stream": "AA=="}]),
    ("stream_base64", "a stream that is not base64", {"stream": "?"}),
]:
    add(f"value_{name}", f"a value: {what}", lambda value=value: valued(value).folder())
for name, what, value in [
    ("unknown", "a kind that is none", {"set": []}),
    ("inner", "a kind that is none, within others", {"dict": [["a", [{"set": []}]]]}),
    ("two_keys", "an object of two keys", {"float": "1.0", "tuple": []}),
    ("stream", "a stream", {"stream": "AA=="}),
    ("nested", "257 arrays in each other", lists(257)),
    ("paths", "a place that has no dot", {"paths": [["a.b", 2]]}),
]:
    add(f"planner_{name}", f"in `planner`: {what}", lambda value=value: planned(value).folder())

# -- invalid: section 2, bases -----------------------------------------------------------------------------------------


def based(name: str, what: str, bases: object, folder: Callable[[], Folder] = dict) -> None:
    """A checkpoint that needs none, with such `bases`, whose files are there as far as they are named by the text."""

    def make() -> Folder:
        made = plain()
        made.changes.append((["bases"], bases))
        return listed(latest("s2", ("s2", RUN)), {**folder(), **inside(s1=plain(run=OTHER_RUN), s2=made)})

    add(name, what, make)


based("bases_object", "`bases` is an object", {})
based("bases_null", "`bases` is null", None)
based("base_name_alone", "a base without its run", [["s1"]])
based("base_three", "a base of three", [["s1", OTHER_RUN, 0]])
based("base_text", "a base that is a string of two", ["s1"])
based("base_own_run", "this checkpoint's own run", [["s2", RUN]])
based(
    "base_run_upper",
    "a base's run in capital letters",
    [["s1", "ABCDEF" + OTHER_RUN[6:].upper()]],
    lambda: {f"s1/{name_of(0, 'ABCDEF' + OTHER_RUN[6:].upper())}": with_differences({"w": (BASE, None)})},
)
based(
    "base_run_short",
    "a base's run of 31 digits",
    [["s1", OTHER_RUN[:-1]]],
    lambda: {f"s1/{name_of(0, OTHER_RUN[:-1])}": with_differences({"w": (BASE, None)})},
)
for name, what, path in [
    ("here", "is a path", "s1/."),
    ("inner", "is a path to a folder in another", "s1/s1"),
    ("dot", "is a dot", "."),
    ("hidden", "begins with a dot", ".s1"),
    ("dash", "begins with a dash", "-s1"),
    ("comma", "has a comma", "s,1"),
]:
    there = {f"{path}/{name_of(0, OTHER_RUN)}": with_differences({"w": (BASE, None)})}
    based(f"base_{name}", f"a base's name {what}", [[path, OTHER_RUN]], lambda there=there: there)
add("bases_nine", "nine bases, all there", lambda: many_bases(9))
add("base_missing", "the base's file is not there", lambda: without(chain(), f"s1/{name_of(0, OTHER_RUN)}"))
add("base_run", "the base's file is of another run than `bases` says", lambda: chain(first=plain(run=THIRD_RUN)))
add(
    "base_bytes",
    "the base's file holds another tensor of the name",
    lambda: chain(first=plain(above(BASE, 3), OTHER_RUN)),
)
add("base_not_listed", "a difference, and no base is listed", lambda: chain(bases=()))
add(
    "base_not_there",
    "a base that is not there, beside the one that is needed",
    lambda: chain(bases=[["s1", OTHER_RUN], ["s0", THIRD_RUN]]),
)
add("base_other_rank", "the base is in the file of another rank", lambda: other_rank())
add("base_of_base", "the base is a difference from a checkpoint that is not listed", lambda: base_of_base())
add("base_itself", "the base's only tensor of these bytes is a difference from such a one", lambda: itself())
add("base_nine_deep", "nine differences on each other", lambda: deep(9))
add("base_damaged", "a bit of a chunk of the base is another", lambda: damaged_base())


def other_rank() -> Folder:
    empty, first = with_differences({}), with_differences({"w": (BASE, None)})
    made = with_differences({"w": (above(BASE, 1), BASE)})
    last = Draft([made, empty], {"w": ["U8", [128], 0]}, bases=[["s1", OTHER_RUN]])
    return listed(
        latest("s2", ("s1", OTHER_RUN), ("s2", RUN)),
        inside(s1=Draft([empty, first], {"w": ["U8", [128], 1]}, run=OTHER_RUN), s2=last),
    )


def base_of_base() -> Folder:
    folder = chain_of_three()
    made = with_differences({"w": (above(BASE, 12), above(BASE, 10))})
    return {**folder, **inside(s2=one_tensor(made, RUN, [["s1", OTHER_RUN]]))}


def itself() -> Folder:
    first = one_tensor(with_differences({"w": (BASE, BASE)}), OTHER_RUN, [["s0", THIRD_RUN]])
    return {**chain(first=first), **inside(s0=plain(run=THIRD_RUN))}


def damaged_base() -> Folder:
    folder = chain()
    path = f"s1/{name_of(0, OTHER_RUN)}"
    return {**folder, path: folder[path][:-48] + b"\3" + folder[path][-47:]}


# -- invalid: section 5 ------------------------------------------------------------------------------------------------


def latest_with(name: str, what: str, *changes: Change) -> None:
    def make() -> Folder:
        value = latest("s2", ("s1", OTHER_RUN), ("s2", RUN))
        put(value, changes)
        return listed(value, without(two_listed(), "latest.json"))

    add(name, what, make)


def latest_text(name: str, what: str, change: Callable[[bytes], bytes]) -> None:
    value = canonical(latest("s2", ("s1", OTHER_RUN), ("s2", RUN)))
    add(name, what, lambda: {**two_listed(), "latest.json": change(value)})


latest_text("latest_digest", "`latest.json`: a digest that is not V's", lambda value: seal(value, b"0" * 64))
latest_text("latest_bare", "`latest.json` without a seal", lambda value: value)
latest_text("latest_space", "`latest.json` with white space", lambda value: seal(value.replace(b",", b", ", 1)))
latest_text("latest_newline", "`latest.json` with a newline at its end", lambda value: seal(value) + b"\n")
latest_with("newer_latest", "`latest.json`: `format` 1", (["format"], 1))
latest_with("latest_format", "`latest.json`: `format` is false", (["format"], False))
latest_with("latest_key_more", "`latest.json`: a key more", (["more"], 1))
latest_with("latest_key_less", "`latest.json`: no `format`", (["format"], DROP))
latest_with("latest_unknown", "`latest` is not known", (["known", 1], DROP))
latest_with("latest_none", '`latest` is "", and there are some', (["latest"], ""))
latest_with("latest_null", "`latest` is null", (["latest"], None))
latest_with(
    "latest_path", "`latest` and its name are a path", (["latest"], "s2/../s2"), (["known", 1, "name"], "s2/../s2")
)
latest_with("known_object", "`known` is an object", (["known"], {}), (["latest"], ""))
latest_with("known_key_more", "a known checkpoint with a key more", (["known", 0, "more"], 1))
latest_with("known_key_less", "a known checkpoint without `bases`", (["known", 0, "bases"], DROP))
latest_with("known_name", "a known checkpoint's name begins with a dot", (["known", 0, "name"], ".s1"))
latest_with("known_twice", "a checkpoint is known twice", (["known", 0, "name"], "s2"))
latest_with("known_falling", "numbers fall", (["known", 0, "number"], 3))
latest_with("known_same", "two have the same number", (["known", 0, "number"], 2))
latest_with("known_negative", "a number of -1", (["known", 0, "number"], -1))
latest_with("known_large", "a number of 2^53", (["known", 1, "number"], 1 << 53))
latest_with("known_true", "a number that is true", (["known", 0, "number"], True))
latest_with("known_run", "a known run in capital letters", (["known", 0, "run"], OTHER_RUN.upper()))
latest_with("known_run_newline", "a known run ends with a newline", (["known", 0, "run"], OTHER_RUN[:-1] + "\n"))
latest_with("known_run_long", "a known run is a newline longer", (["known", 0, "run"], OTHER_RUN + "\n"))
latest_with("known_bases_text", "known `bases` are a string", (["known", 0, "bases"], "s1"))
latest_with("known_bases_pair", "a known base with its run", (["known", 1, "bases"], [["s1", OTHER_RUN]]))
for name, what, text in [
    ("path", "is a path", "../s1"),
    ("empty", "is empty", ""),
    ("long", "has 201 characters", "s" * 201),
    ("space", "has a space", "s 1"),
    ("letter", "has a letter outside ASCII", "s\u00e9"),
    ("digit", "begins with a digit outside ASCII", "\u0661"),
    ("newline", "ends with a newline", "s1\n"),
    ("number", "is a number", 1),
]:
    latest_with(f"known_base_{name}", f"a known base's name {what}", (["known", 1, "bases"], [text]))
add(
    "latest_missing", "`latest` is not there", lambda: {k: v for k, v in two_listed().items() if not k.startswith("s2")}
)
add("latest_no_manifest", "`latest` has no manifest", lambda: without(two_listed(), "s2/manifest.json"))
add("latest_empty", "a `latest.json` that knows none", lambda: listed(latest(""), inside(s2=small())))
