"""Tensors that are decoded when they are indexed, as transformers indexes the slices of safetensors files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from slimtensors.errors import UsageError
from slimtensors.numpy import load_arrays
from slimtensors.on_torch.tensors import as_base, from_array, torch_dtype
from slimtensors.reading.slicing import read_slice
from slimtensors.reading.tensors import TensorFile
from slimtensors.stream.loader import files_of, open_all
from slimtensors.threads import thread_count

if TYPE_CHECKING:
    import torch

__all__ = ["LazyTensor", "first_float", "open_lazily"]


class LazyTensor:
    """A tensor of an open file. Used from several threads: each decodes what it asks for by itself; the thread that
    opened the file is not among transformers' workers, and decodes with all threads.
    """

    def __init__(self, file: TensorFile, name: str, users: _Users) -> None:
        self._file, self._name, self._users = file, name, users
        self._tensor = file.tensor(name)

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The tensor's dtype, by safetensors' name: "F32", "BF16"."""
        return self._tensor.dtype.name

    def __getitem__(self, index: Any) -> torch.Tensor:
        with self._users.one() as threads:
            if index is Ellipsis:
                array = load_arrays(self._file, threads, names=[self._name])[self._name]  # a parameter, which stays
            else:
                array = read_slice(self._file, self._name, index, threads)
        return from_array(array, self._tensor.dtype, "cpu")


class _Users:
    """Who is decoding: transformers does not wait for its threads when loading fails, but files may be closed only when
    nobody reads them.
    """

    def __init__(self) -> None:
        self._opener, self._threads = threading.get_ident(), thread_count(None)
        self._changed = threading.Condition()
        self._count, self._closed = 0, False

    @contextmanager
    def one(self) -> Iterator[int]:
        """While a tensor is decoded: with how many threads."""
        with self._changed:
            if self._closed:
                raise UsageError("the model's files are closed")
            self._count += 1
        try:
            yield self._threads if threading.get_ident() == self._opener else 1
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            while self._count:
                self._changed.wait()


@contextmanager
def open_lazily(target: Any, base: Any) -> Iterator[dict[str, LazyTensor]]:
    """The tensors of a model's weight files, by name; each file is opened once, and closed in the end."""
    with ExitStack() as stack:
        files = open_all(target, stack, verify="full", max_bytes=None, base=as_base(base))
        users = _Users()
        stack.callback(users.close)
        yield {name: LazyTensor(file, name, users) for name, file in files_of(files).items()}


def first_float(tensors: dict[str, LazyTensor]) -> torch.dtype | None:
    """The dtype that a model without one in its config gets: that of its first tensor of floats, as in transformers."""
    for each in tensors.values():
        if each.get_dtype()[:1] == "F" or each.get_dtype() == "BF16":
            return torch_dtype(each._tensor.dtype)
    return None
