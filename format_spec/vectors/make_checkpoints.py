"""The valid vectors of checkpoints: folders of small files that show one thing each; and what these are made with."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from decode import CONSTANT, canonical, digest, read_prefix
from encode import Plane
from expressions import DTYPES
from writer import BYTES, BaseTensor, Source, Writer, planes

Stored = tuple[str, tuple[int, ...], bytes]
Folder = dict[str, bytes]  # by path
Change = tuple[Sequence[str | int], object]

RUN, OTHER_RUN, THIRD_RUN = "00112233445566778899aabbccddeeff", "fedcba98765432100123456789abcdef", "3" * 32
DROP = object()

CHECKPOINTS: dict[str, tuple[str, Callable[[], Folder]]] = {}


def add(name: str, what: str, make: Callable[[], Folder]) -> None:
    assert name not in CHECKPOINTS, name
    CHECKPOINTS[name] = what, make


# -- material --------------------------------------------------------------------------------------------------------


def text_of(objects: dict[str, object]) -> bytes:
    return json.dumps(objects, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def rank_file(tensors: dict[str, Stored], text: bytes | None = None, kept: Stored | None = None) -> bytes:
    """A file with these tensors as literals; `text`: of its `__objects__`, which may be `kept` as another tensor."""
    writer = Writer()
    if text is not None:
        tensors = {**tensors, "__objects__": kept or ("U8", (len(text),), text)}
    for name, (dtype, shape, data) in tensors.items():
        if data:
            writer.tensor(name, Source(dtype, shape, data, BYTES))
        else:
            writer.empty(name, dtype, shape)
    return writer.parts().join()


def seal(value: bytes, stated: bytes | None = None) -> bytes:
    return b'{"digest":"' + (stated or digest(value).hex().encode()) + b'","value":' + value + b"}"


def name_of(rank: int, run: str) -> str:
    return f"rank-{rank:05}.{run}.slimtensors"


def put(value: dict, changes: Sequence[Change]) -> None:
    """Changes values, each named by its path."""
    for path, new in changes:
        place = value
        for key in path[:-1]:
            place = place[key]
        if new is DROP:
            del place[path[-1]]
        else:
            place[path[-1]] = new


@dataclass
class Draft:
    """A checkpoint on its way: its files as they are, and what its manifest says of them."""

    files: list[bytes]
    tensors: dict[str, list]
    objects: dict[str, int] = field(default_factory=dict)
    planner: object = None
    bases: list[list[str]] = field(default_factory=list)
    run: str = RUN
    changes: list[Change] = field(default_factory=list)  # of what the manifest says
    names: list[str] | None = None  # what the files are called; None: as the manifest does

    def value(self) -> dict:
        files = [
            {"file_id": read_prefix(data)[2].hex(), "name": name_of(rank, self.run), "size": len(data)}
            for rank, data in enumerate(self.files)
        ]
        value = {"bases": self.bases, "files": files, "format": 0, "objects": self.objects, "planner": self.planner}
        value = deepcopy({**value, "run": self.run, "tensors": self.tensors})
        put(value, self.changes)
        return value

    def folder(self, manifest: bytes | None = None) -> Folder:
        value = self.value()
        names = self.names or [name_of(rank, self.run) for rank in range(len(self.files))]
        sealed = seal(canonical(value)) if manifest is None else manifest
        return {"manifest.json": sealed, **dict(zip(names, self.files, strict=True))}


ROWS = bytes(range(24))  # of `w`, I16 [3, 4]


def basic() -> Draft:
    """Two ranks: a tensor in two parts, whole ones in either file, one without elements, one without dimensions."""
    first = {
        "w@0,0": ("I16", (2, 4), ROWS[:16]),
        "empty": ("BF16", (0, 2), b""),
        "scalar": ("F32", (), b"\0\0\x80\x3f"),
    }
    second = {"w@2,0": ("I16", (1, 4), ROWS[16:]), "m.v": ("U8", (2,), b"\1\2")}
    files = [rank_file(first, text_of({"step": 7})), rank_file(second, text_of({"lr": {"float": "0.1"}, "a": None}))]
    tensors = {
        "w": ["I16", [3, 4], [[0, 0, 0, 2, 4], [1, 2, 0, 1, 4]]],
        "empty": ["BF16", [0, 2], 0],
        "scalar": ["F32", [], 0],
        "m.v": ["U8", [2], 1],
    }
    return Draft(files, tensors, {"step": 0, "lr": 1}, {"paths": ["w", ["m.v", 1]]})


def small() -> Draft:
    """One rank, one tensor."""
    return Draft([rank_file({"v": ("U8", (2,), b"\1\2")})], {"v": ["U8", [2], 0]})


def parted(boxes: list[list[int]], shape: Sequence[int], dtype: str = "I16", name: str = "w") -> Draft:
    """One tensor in such parts, which are in their files."""
    files: list[dict[str, Stored]] = [{} for _ in range(1 + max(box[0] for box in boxes))]
    d = len(shape)
    for number, *rest in boxes:
        offsets, sizes = rest[:d], tuple(rest[d:])
        count = 1
        for size in sizes:
            count *= size
        data = bytes(k % 251 for k in range(count * DTYPES[dtype][0] // 8))
        called = name if list(sizes) == list(shape) else f"{name}@{','.join(map(str, offsets))}"
        assert called not in files[number], called
        files[number][called] = dtype, sizes, data
    return Draft([rank_file(file) for file in files], {name: [dtype, list(shape), boxes]})


def valued(value: object) -> Draft:
    """One named value."""
    return named_text(text_of({"x": value}))


def named_text(text: bytes, kept: Stored | None = None) -> Draft:
    return Draft([rank_file({}, text, kept)], {}, {"x": 0})


def planned(planner: object) -> Draft:
    return Draft(small().files, small().tensors, planner=planner)


# -- several checkpoints ---------------------------------------------------------------------------------------------

BASE = bytes(range(128))


def difference(data: bytes, base: bytes) -> Source:
    """U8 [128], all units the same above those of a base."""
    expression = {"add": [{"base": 0}, {"bits": [{"plane": 8}], "rotate": 0}]}
    given = BaseTensor("U8", (128,), base, {"tensor": "w"})
    return Source("U8", (128,), data, expression, planes(Plane(CONSTANT)), base=given)


def above(base: bytes, step: int) -> bytes:
    return bytes((unit + step) % 256 for unit in base)


def with_differences(tensors: dict[str, tuple[bytes, bytes | None]]) -> bytes:
    """A file of tensors U8 [128], each plain or a difference from its base."""
    writer = Writer()
    for name, (data, base) in tensors.items():
        writer.tensor(name, difference(data, base) if base else Source("U8", (128,), data, BYTES))
    return writer.parts().join()


def one_tensor(file: bytes, run: str = RUN, bases: Sequence[Sequence[str]] = ()) -> Draft:
    return Draft([file], {"w": ["U8", [128], 0]}, bases=[list(base) for base in bases], run=run)


def plain(data: bytes = BASE, run: str = RUN) -> Draft:
    return one_tensor(with_differences({"w": (data, None)}), run)


def inside(**checkpoints: Draft) -> Folder:
    return {f"{name}/{path}": data for name, draft in checkpoints.items() for path, data in draft.folder().items()}


def latest(name: str, *known: tuple[str, str], bases: Sequence[str] = ()) -> dict:
    """V of `latest.json`: `known` are names and runs, the last has `bases`."""
    each = [{"bases": [], "name": n, "number": i + 1, "run": run} for i, (n, run) in enumerate(known)]
    if each:
        each[-1]["bases"] = list(bases)
    return {"format": 0, "known": each, "latest": name}


def listed(value: object, folder: Folder) -> Folder:
    return {"latest.json": seal(canonical(value)), **folder}


def chain(bases: Sequence[Sequence[str]] = (("s1", OTHER_RUN),), first: Draft | None = None) -> Folder:
    """`s2` is a difference from `s1`, and the latest."""
    made = with_differences({"w": (above(BASE, 1), BASE)})
    folder = inside(s1=first or plain(run=OTHER_RUN), s2=one_tensor(made, RUN, bases))
    return listed(latest("s2", ("s1", OTHER_RUN), ("s2", RUN), bases=["s1"]), folder)


def deep(differences: int) -> Folder:
    """`t` is this many differences above plain bytes, which are in the farthest of eight bases, or above that again in
    the nearest.
    """
    runs = [f"{i:032x}" for i in range(8)]
    steps = [above(BASE, i) for i in range(differences + 1)]
    folder: Folder = {}
    for i, run in enumerate(runs, differences - 8):  # from the farthest
        held: dict[str, tuple[bytes, bytes | None]] = {"t": (steps[i], steps[i - 1] if i else None)}
        if run == runs[-1] and differences > 8:
            held["u"] = steps[0], None
        folder[f"s{i}/{name_of(0, run)}"] = with_differences(held)
    names = [f"s{i}" for i in range(differences - 8, differences)]
    bases = list(zip(names[::-1], runs[::-1], strict=True))
    last = Draft([with_differences({"t": (steps[-1], steps[-2])})], {"t": ["U8", [128], 0]})
    last.bases = [list(base) for base in bases]
    return listed(latest("last", ("last", RUN), bases=names[::-1]), {**folder, **inside(last=last)})


# -- valid -----------------------------------------------------------------------------------------------------------

add(
    "two_ranks",
    "two ranks: a tensor in parts, whole ones, one without elements, one without dimensions, values in both files; one "
    "that the manifest does not name",
    lambda: basic().folder(),
)
add("least", "one rank that has nothing: no tensor, no value", lambda: Draft([rank_file({})], {}).folder())
add(
    "blocks",
    "parts that are the cells of a grid, and parts that are none, in any order; three dimensions",
    lambda: two_tensors(
        parted([[1, 2, 2, 1, 2], [0, 0, 0, 2, 2], [0, 2, 0, 1, 2], [1, 0, 2, 2, 2]], (3, 4)),
        parted(
            [[0, 0, 0, 0, 1, 2, 2], [1, 0, 2, 0, 2, 1, 3], [0, 1, 0, 1, 1, 2, 2], [1, 0, 0, 2, 1, 2, 1],
             [1, 1, 0, 0, 1, 2, 1]],
            (2, 3, 3), "F32", "pinwheel",
        ),
    ).folder(),
)  # fmt: skip
add(
    "empty_parts",
    "parts without elements: beside a part that is all, beside others at the same place, and in a tensor that has none",
    lambda: two_tensors(
        parted([[0, 0, 1], [1, 1, 0]], (1,)),
        parted([[0, 0, 0, 0, 1], [1, 0, 1, 0, 2], [1, 0, 0, 0, 1]], (0, 3), "F64", "none"),
        parted([[0, 0, 2], [0, 2, 0], [1, 0, 0], [1, 2, 2]], (4,), "U8", "some"),
    ).folder(),
)
add(
    "names",
    "names of tensors with `@` and of 512 bytes; of values: empty, with controls, beyond 512 bytes; files hold more",
    lambda: names(),
)
add(
    "dtypes",
    "a tensor of each dtype, whole; parts of those whose elements are whole bytes",
    lambda: dtypes(),
)
add(
    "values",
    "every kind of value, one within others; numbers of any length; single surrogates; keys in no order",
    lambda: values(),
)
add(
    "values_limits",
    "values at their limits: 256 arrays in each other, a number of 4300 digits, numbers of 64 bits and 32 characters",
    lambda: values_limits(),
)
add("stream", "a value of bytes that only a planner understands", lambda: valued({"stream": "AAEC"}).folder())
add(
    "unnamed_values",
    "values that the manifest does not name, beside one that it does: no sense in one, a `stream` in a list in another",
    lambda: named_text(
        text_of({"a": {"nonsense": 1}, "x": 1, "y": [{"stream": "AAEC"}], "z": {"float": "x", "tuple": 1}})
    ).folder(),
)
add(
    "unnamed_damaged",
    "a file with a damaged chunk, of a tensor that the manifest does not name; and a file of which it names nothing",
    lambda: damaged_unnamed(),
)
add(
    "planner",
    "a planner's values: negative numbers, keys sorted, tuples that their names tell",
    lambda: planned(
        {"dict": [[{"tuple": ["a", -1]}, -(1 << 70)], ["p", {"paths": ["w", ["m.v", 1], ["..", 0, 1], "m.x"]}]]}
    ).folder(),
)
add("latest", "a folder whose `latest.json` names one of two", lambda: two_listed())
add(
    "latest_run",
    "the latest checkpoint is of another run than `latest.json` says: it was saved again before a crash",
    lambda: listed(latest("s1", ("s1", OTHER_RUN)), inside(s1=plain())),
)
add("chain", "a difference from the checkpoint before", lambda: chain())
add(
    "chain_no_manifest",
    "a difference from a checkpoint of which the file is there, but no manifest any more",
    lambda: {path: data for path, data in chain().items() if path != "s1/manifest.json"},
)
add(
    "chain_of_three",
    "a difference from a checkpoint that is one itself; bytes that are in all three",
    lambda: chain_of_three(),
)
add("chain_of_eight", "eight differences on each other", lambda: deep(8))
add(
    "chain_back",
    "a difference from a checkpoint of which a tensor is a difference from bytes that it has as another tensor, too",
    lambda: chain_back(),
)
add("bases_eight", "eight bases, names of 1 and 200 characters, one of which is needed", lambda: many_bases(8))


def damaged_unnamed() -> Folder:
    """`other` lies last in the first file; in the second, `__objects__` is no JSON."""
    file = rank_file({"v": ("U8", (2,), b"\1\2"), "other": ("U8", (64,), b"o" * 64)})
    at = file.rindex(b"o")
    return Draft([file[:at] + b"p" + file[at + 1 :], rank_file({}, b"{")], small().tensors).folder()


def two_tensors(*drafts: Draft) -> Draft:
    """Those of several drafts, each in files of its own."""
    files: list[bytes] = []
    tensors: dict[str, list] = {}
    for draft in drafts:
        for name, (dtype, shape, boxes) in draft.tensors.items():
            tensors[name] = [dtype, shape, [[box[0] + len(files), *box[1:]] for box in boxes]]
        files += draft.files
    return Draft(files, tensors)


def names() -> Folder:
    long = "\u00e9" * 256
    held = {"w@0": ("U8", (1,), b"\1"), "w@1": ("U8", (1,), b"\2"), "@": ("U8", (1,), b"\3"), long: ("U8", (1,), b"\4")}
    other = {"w@0": ("U8", (2,), b"\5\6"), "not named": ("U8", (1,), b"\7")}
    whole = {name: ["U8", [1], 0] for name in ("@", long)}
    draft = Draft(
        [rank_file(held, text_of({"": 1, "\n\0": 2, "x" * 600: 3, "not named": 4})), rank_file(other)],
        {**whole, "w": ["U8", [2], [[0, 0, 1], [0, 1, 1]]], "w@0": ["U8", [2], 1]},
        dict.fromkeys(["", "\n\0", "x" * 600], 0),
    )
    return draft.folder()


def dtypes() -> Folder:
    held: dict[str, Stored] = {}
    tensors: dict[str, list] = {}
    for name, (width, _) in DTYPES.items():
        data = bytes(k * 37 % 256 if name != "BOOL" else k % 2 for k in range(width))
        held[name] = name, (2, 4), data
        tensors[name] = [name, [2, 4], 0]
        if width % 8 == 0:
            half = width // 2
            held |= {f"parts {name}@{row},0": (name, (1, 4), data[row * half :][:half]) for row in (0, 1)}
            tensors[f"parts {name}"] = [name, [2, 4], [[0, 0, 0, 1, 4], [0, 1, 0, 1, 4]]]
    return Draft([rank_file(held)], tensors).folder()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def values() -> Folder:
    floats = ["0.1", "-0.0", "1e-320", "1.7976931348623157e+308", "nan", "inf", "-inf", "1e0", "007", "1e4"]
    objects = {
        "z plain": [None, True, False, 0, -1, 1 << 70, -(1 << 70), "", "\u00e4\udc00\ud800\n\x7f/\"\\", []],
        "floats": [{"float": text} for text in floats],
        "tuple": {"tuple": [1, {"tuple": []}, [{"tuple": ["a"]}]]},
        "size": {"size": [2, 0, (1 << 63) - 1]},
        "dict": {
            "dict": [
                [1, "a"], [{"tuple": [2, None]}, [3]], ["b", {"dict": []}], [{"float": "0.5"}, {"bytes": ""}],
                [{"bytes": "AP8="}, 0], [{"size": [1]}, 1], [{"device": "cpu"}, {"dtype": "bfloat16"}], [None, None],
                [{"number": ["<i2", [], "BwA="]}, 2],
            ]
        },
        "ordered": {"ordered": [["b", 1], ["a", 2]]},
        "counter": {"counter": [["b", 1], ["a", -2]]},
        "paths": {"paths": [["a.b.c", 1], "d", ["..", 0, 1], "e.f", "", ["\U0001f600.x", 1]]},
        "bytes": {"bytes": "AAH/"},
        "arrays": [
            {"array": [dtype, shape, encoded(bytes(k % 2 for k in range(size)))]}
            for dtype, shape, size in [
                ("|b1", [3], 3), ("|i1", [2, 2], 4), ("|u1", [0], 0), ("<i2", [], 2), ("<i4", [1], 4), ("<i8", [1], 8),
                ("<u2", [2, 0, 1 << 40], 0), ("<u4", [1], 4), ("<u8", [1], 8), ("<f2", [3], 6), ("<f4", [1, 1, 1], 4),
                ("<f8", [1], 8), ("<c8", [1], 8), ("<c16", [1], 16),
            ]
        ],
        "numbers": [{"number": ["<f4", [], "zczMPQ=="]}, {"number": ["|b1", [], "AQ=="]}],
        "dtypes": [{"dtype": name} for name in ("float32", "bfloat16", "int64", "float8_e4m3fn", "complex64", "bool")],
        "devices": [{"device": name} for name in ("cpu", "cuda", "cuda:0", "cuda:127", "meta")],
    }  # fmt: skip
    return Draft([rank_file({}, text_of(objects))], {}, dict.fromkeys(objects, 0)).folder()


def lists(levels: int) -> object:
    value: object = []
    for _ in range(levels - 1):
        value = [value]
    return value


def values_limits() -> Folder:
    objects = {
        "nested": lists(256),
        "tuples": tuples(256),
        "digits": -(10**4300 - 1),
        "float": {"float": "0." + "0" * 29 + "1"},
        "dimensions": {"array": ["|u1", [1] * 32, "AA=="]},
    }
    return Draft([rank_file({}, text_of(objects))], {}, dict.fromkeys(objects, 0), planner=lists(256)).folder()


def tuples(levels: int) -> object:
    """An even number of objects and arrays in each other."""
    value: object = {"tuple": []}
    for _ in range(levels // 2 - 1):
        value = {"tuple": [value]}
    return value


def two_listed() -> Folder:
    folder = inside(s1=plain(run=OTHER_RUN), s2=small())
    return listed(latest("s2", ("s1", OTHER_RUN), ("s2", RUN)), folder)


def chain_of_three() -> Folder:
    zero = {"same": (BASE, None), "w": (above(BASE, 9), None)}
    one = {"same": (BASE, BASE), "w": (above(BASE, 10), above(BASE, 9))}
    two = {"same": (BASE, BASE), "w": (above(BASE, 12), above(BASE, 10))}
    both = {"same": ["U8", [128], 0], "w": ["U8", [128], 0]}
    bases = [["s1", OTHER_RUN], ["s0", THIRD_RUN]]
    return listed(
        latest("s2", ("s0", THIRD_RUN), ("s1", OTHER_RUN), ("s2", RUN), bases=["s1", "s0"]),
        inside(
            s0=Draft([with_differences(zero)], both, run=THIRD_RUN),
            s1=Draft([with_differences(one)], both, bases=bases[1:], run=OTHER_RUN),
            s2=Draft([with_differences(two)], both, bases=bases),
        ),
    )


def chain_back() -> Folder:
    """As where two tensors began as zeros, and one stayed so."""
    zeros = bytes(128)
    held = [
        {"a": (zeros, None), "b": (zeros, None)},
        {"a": (zeros, None), "b": (above(zeros, 1), zeros)},
        {"a": (zeros, zeros), "b": (above(zeros, 3), above(zeros, 1))},
    ]
    bases = [["s1", OTHER_RUN], ["s0", THIRD_RUN]]
    folder = {
        f"{name}/{name_of(0, run)}": with_differences(tensors)
        for (name, run), tensors in zip(bases, held[1::-1], strict=True)
    }
    both = {"a": ["U8", [128], 0], "b": ["U8", [128], 0]}
    last = Draft([with_differences(held[2])], both, bases=bases)
    return listed(latest("s2", ("s2", RUN), bases=["s1", "s0"]), {**folder, **inside(s2=last)})


def many_bases(count: int) -> Folder:
    names = ["1", "s" * 200, *(f"s-{i}" for i in range(count - 2))]
    runs = [f"{i:032x}" for i in range(count)]
    made = with_differences({"w": (above(BASE, 1), BASE)})
    folder = inside(last=one_tensor(made, RUN, list(zip(names, runs, strict=True))))
    for i, (name, run) in enumerate(zip(names, runs, strict=True)):
        data = BASE if i == 1 else above(BASE, 100 + i)
        folder[f"{name}/{name_of(0, run)}"] = with_differences({"w": (data, None)})
    return listed(latest("last", ("last", RUN), bases=names), folder)
