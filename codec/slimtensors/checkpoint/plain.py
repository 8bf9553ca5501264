"""What is no tensor, as JSON: whether it is well formed (format_spec/checkpoint.md, section 3). What it stands for is
made of it in `slimtensors.torch.distributed.values`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from slimtensors.container.values import array_of, object_of, shape_of
from slimtensors.errors import FormatError
from slimtensors.expression.values import integer

__all__ = ["check_named", "check_value", "dumps", "parse_objects"]

MAX_NESTING = 256  # arrays and objects: what reads them goes down as deep
MAX_NUMBER = 10**4300  # what Python turns into text, and back, without being asked to
MAX_ENTRIES = 1 << 28

_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
_ARRAY = re.compile(r"\|b1|\|[iu]1|<[iu][248]|<f(2|4|8|16)|<c(8|16|32)")
_DTYPE = re.compile("[a-z0-9_]{1,64}")
_DEVICE = re.compile("[a-z][a-z0-9_]{0,31}(:(0|[1-9][0-9]?|1[01][0-9]|12[0-7]))?")
_NO_KEYS = {"dict", "ordered", "counter", "paths", "array"}


def parse_objects(data: bytes, *, canonical: bool = True) -> dict[str, Any]:
    """The values of a file, by name. canonical: whether a text that would be written otherwise is refused, as in the
    tensor of a checkpoint's file. Raises FormatError.
    """
    try:
        found = json.loads(data.decode(errors="surrogatepass"), parse_float=_no_float, parse_constant=_no_float)
        same = not canonical or dumps(found) == data
    except (ValueError, RecursionError) as error:
        raise FormatError(f"what is no tensor is not JSON: {error}") from None
    if not same:
        raise FormatError("what is no tensor is not in canonical form (no white space, no key twice)")
    return object_of(found, "what is no tensor")


def dumps(values: dict[str, Any]) -> bytes:
    """The text that a file holds."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="surrogatepass")


def check_named(value: Any) -> None:
    """Raises FormatError unless it is a value that has a name."""
    if isinstance(value, dict) and value.keys() == {"stream"}:
        _base64(value["stream"])
    else:
        check_value(value)


def check_value(value: Any) -> None:
    """Raises FormatError unless it is a value, itself or within others."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, (list, dict))]:
        depth += 1
        if depth > MAX_NESTING:
            raise FormatError(f"a stored value is nested too deeply: more than {MAX_NESTING} arrays and objects")
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    _check(value)


def _no_float(text: str) -> NoReturn:
    raise FormatError(f"what is no tensor has the number {text[:40]}; only integers are allowed")


def _refuse(kind: str, why: str) -> NoReturn:
    raise FormatError(f"a stored value of kind {kind!r} is malformed: {why}")


def _check(value: Any) -> None:
    if type(value) is int and abs(value) >= MAX_NUMBER:
        raise FormatError("a stored number has more than 4300 digits")
    if isinstance(value, list):
        for each in value:
            _check(each)
    if not isinstance(value, dict):
        return
    if len(value) != 1:
        raise FormatError(f"a stored value has the keys {sorted(value)[:5]}; one is expected")
    ((kind, content),) = value.items()
    if kind not in _KINDS:
        raise FormatError(f"a stored value is of kind {kind[:40]!r}, which is none")
    _KINDS[kind](content)


def _items(content: Any, what: str) -> list[Any]:
    return array_of(content, what, MAX_ENTRIES)


def _float(content: Any) -> None:
    if content in ("nan", "inf", "-inf"):
        return
    if not isinstance(content, str) or len(content) > 32 or not _FLOAT.fullmatch(content):
        _refuse("float", repr(content)[:80])
    if not math.isfinite(float(content)):
        _refuse("float", f"{content} is beyond all numbers")


def _tuple(content: Any) -> None:
    for each in _items(content, "a tuple"):
        _check(each)


def _size(content: Any) -> None:
    for each in _items(content, "a size"):
        integer(each, 0, (1 << 63) - 1, "a dimension")


def _pairs(content: Any) -> None:
    keys = set()
    for pair in _items(content, "a mapping"):
        if len(_items(pair, "a pair")) != 2:
            _refuse("dict", "a pair is not a key and a value")
        key, each = pair
        _check_key(key)
        _check(key)
        _check(each)
        keys.add(key if type(key) is str else (json.dumps(key),))
    if len(keys) != len(content):
        _refuse("dict", "a key is there twice")


def _check_key(value: Any) -> None:
    """What may be one: nothing that can be changed."""
    if isinstance(value, list) or (isinstance(value, dict) and value.keys() & _NO_KEYS):
        _refuse("dict", "a key that is none")
    if isinstance(value, dict) and isinstance(value.get("tuple"), list):
        for each in value["tuple"]:
            _check_key(each)


def _paths(content: Any) -> None:
    names = set()
    for item in _items(content, "paths"):
        if isinstance(item, list) and len(item) > 1:
            name, *dots = item
        else:
            name, dots = item, []
        if not isinstance(name, str):
            _refuse("paths", "not a name and places in it")
        before = -1
        for dot in dots:
            if name[integer(dot, before + 1, len(name) - 1, "the place of a dot")] != ".":
                _refuse("paths", f"no dots of {name!r:.80} in order")
            before = dot
        names.add(name)
    if len(names) != len(content):
        _refuse("paths", "a name is there twice")


def _base64(content: Any) -> bytes:
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
    except ValueError as error:
        _refuse("bytes", str(error))
    if base64.b64encode(data).decode() != content:
        _refuse("bytes", "not base64 as it is written")
    return data


def _array(content: Any) -> None:
    if len(_items(content, "an array")) != 3:
        _refuse("array", "not a dtype, a shape and numbers")
    dtype, shape, data = content
    if not isinstance(dtype, str) or not _ARRAY.fullmatch(dtype):
        _refuse("array", f"dtype {dtype!r:.40}")
    found = _base64(data)
    if math.prod(shape_of(shape, 64)) * int(dtype[2:]) != len(found):
        _refuse("array", f"{len(found)} bytes for {dtype}{shape}")
    if dtype == "|b1" and not set(found) <= {0, 1}:
        _refuse("array", "a truth value is neither 0 nor 1")


def _number(content: Any) -> None:
    _array(content)
    if content[1]:
        _refuse("number", f"of shape {content[1]}")


def _matching(kind: str, pattern: re.Pattern[str]) -> Callable[[Any], None]:
    def check(content: Any) -> None:
        if not isinstance(content, str) or not pattern.fullmatch(content):
            _refuse(kind, repr(content)[:80])

    return check


_KINDS: dict[str, Callable[[Any], object]] = {
    "float": _float,
    "tuple": _tuple,
    "size": _size,
    "dict": _pairs,
    "ordered": _pairs,
    "counter": _pairs,
    "paths": _paths,
    "bytes": _base64,
    "array": _array,
    "number": _number,
    "dtype": _matching("dtype", _DTYPE),
    "device": _matching("device", _DEVICE),
}
