"""`safe_open`: a file's tensors one by one, as safetensors users know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakSet

import numpy as np

from slimtensors.bases.resolving import open_with
from slimtensors.container.header import Tensor
from slimtensors.container.reader import Verify
from slimtensors.container.source import to_map
from slimtensors.dtypes import DTYPES
from slimtensors.errors import UsageError
from slimtensors.packings.weight import Room
from slimtensors.reading.quantised import Numbers, Wanted, wanted_numbers
from slimtensors.reading.slicing import items_of, read_slice
from slimtensors.reading.tensors import TensorFile
from slimtensors.stream.loader import PrefetchLoader, Source
from slimtensors.stream.ordered import AHEAD_BYTES
from slimtensors.stream.plan import Plan, plan_items
from slimtensors.threads import thread_count

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from slimtensors.device.backend import Backend

__all__ = ["TensorSlice", "safe_open"]

_FRAMEWORKS = {"np": "numpy", "numpy": "numpy", "pt": "torch", "torch": "torch", "pytorch": "torch"}


class safe_open:  # noqa: N801 # the name that safetensors has given it
    """Open a slimtensors file for reading tensors one by one. Use it in a `with` statement, or close it.

    filename: a path, bytes, a binary file object, or an object with `size()` and `read_range(offset, length)`.
    framework: "np" or "pt". device: of torch tensors; anything that torch takes, None for the CPU; what is for a CUDA
    device is decoded on it where `slimtensors.torch.load_file` does so. verify: "full" checks stored and decoded bytes,
    "stored" only the stored, "none" neither. threads: for one tensor; all processors if None. mmap: map the file
    instead of reading it; only for local files that nobody truncates. backend: the same in safetensors' words, "mmap"
    or "pread"; None leaves it to `mmap`. max_bytes: decoded bytes to allow, if the file is small and holds very much.
    base: what tensors are differences from, if they are: a file or folder of either kind, an object with ranged reads,
    a mapping from names to arrays, a `BaseDir` to be searched, a function from a `Base` to one of these or None, or a
    list of such. Folders in SLIMTENSORS_BASE_DIR are searched in any case. Of a slice, only the chunks that it touches
    are read, in both files. dequantise: "F32", "F16" or "BF16" for numbers where a tensor's elements are blocks of
    GGUF, computed as gguf-py computes them in F32 and rounded once, and where bitsandbytes, compressed-tensors, GPTQ,
    AWQ or HQQ packed a weight into several tensors, as these compute it: under the name that it has in the unquantised
    model; of torch tensors also torch's dtypes of these names. False for what the file holds.
    """

    def __init__(
        self,
        filename: Any,
        framework: Literal["np", "numpy", "pt", "torch", "pytorch"] = "np",
        device: Any = "cpu",
        *,
        verify: Verify = "full",
        threads: int | None = None,
        mmap: bool = False,
        backend: str | None = None,
        max_bytes: int | None = None,
        base: Any = None,
        dequantise: Wanted | torch.dtype = False,
    ) -> None:
        if framework not in _FRAMEWORKS:
            raise UsageError(f"framework is {framework!r}; it can be 'np' or 'pt'")
        self._threads = thread_count(threads)
        self._there: Backend | None = None  # decodes on the device
        self._given_base = base
        if _FRAMEWORKS[framework] == "torch":
            from slimtensors.on_torch import tensors as torch_tensors

            device = torch_tensors.device_of(device)
            base = torch_tensors.as_base(base)
            dequantise = torch_tensors.numbers_wanted(dequantise)
            self._there = _backend(device)
            self._convert: Callable[..., Any] = lambda array, tensor: torch_tensors.from_array(
                array, tensor.dtype if self._numbers is None else self._numbers.dtype_of(tensor), device
            )
            self._convert_numbers: Callable[[Any], Any] = lambda array: torch_tensors.from_array(
                array, DTYPES[str(dequantise)], device
            )
        elif str(device) not in ("cpu", "None"):
            raise UsageError(f"NumPy arrays cannot be put on device {device!r}; use framework='pt'")
        else:
            self._convert = lambda array, _tensor: array
            self._convert_numbers = lambda array: array
        self._torch, self._device = _FRAMEWORKS[framework] == "torch", device
        self._numbers = wanted_numbers(dequantise, filename)
        self._loaders: WeakSet[PrefetchLoader] = WeakSet()
        mapped = to_map(mmap, backend)
        self._file: TensorFile = open_with(filename, base, verify=verify, mmap=mapped, max_bytes=max_bytes)
        try:
            self._packed = {} if self._numbers is None else self._numbers.packed(self._file.header)
        except UsageError:
            self._file.close()
            raise
        parts = {part for weight in self._packed.values() for part in weight.parts.values()}
        self._names = [name for name in self._file.index if name not in parts] + list(self._packed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"safe_open({self._file.reader.source.label!r}, {len(self._names)} tensors)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file can be neither copied nor pickled: keep its path, and open it in each worker")

    def close(self) -> None:
        """Close the file, and stop what is loaded from it."""
        for loader in list(self._loaders):
            loader.close()
        self._file.close()

    def keys(self) -> list[str]:
        """Names of the tensors, sorted, as safetensors gives them."""
        return sorted(self._names)

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order in which they are stored."""
        return list(self._names)

    def metadata(self) -> dict[str, str] | None:
        """The source's metadata; None if there are none, as in safetensors."""
        return dict(self._file.header.metadata) or None

    def get_tensor(self, name: str) -> Any:
        """The whole tensor."""
        from slimtensors.numpy import whole_array

        weight, room = self._packed.get(name), Room(self._file.reader.allowed_bytes)
        if weight is not None and self._numbers is not None:
            read = {part: whole_array(self._file, each, self._threads) for part, each in weight.parts.items()}
            return self._convert_numbers(weight.numbers(read, self._numbers.dtype, room))
        tensor = self._file.tensor(name)
        blocks = self._numbers is not None and self._numbers.block(tensor) is not None
        if self._there is not None and not blocks:
            from slimtensors.on_torch.device import read_there

            index = self._file.find(name)
            return read_there(self._file, [index], self._there, self._threads, self._given_base)[index]
        array = whole_array(self._file, name, self._threads)
        return self._convert(array if self._numbers is None else self._numbers.array(array, tensor, room), tensor)

    def get_tensors(self) -> dict[str, Any]:
        """All tensors, in the order in which they are stored."""
        return {name: self.get_tensor(name) for name in self.offset_keys()}

    def get_slice(self, name: str) -> TensorSlice:
        """A handle that reads parts of the tensor when it is indexed."""
        if name in self._packed:
            raise UsageError(f"tensor {name!r} is packed: slices of it as numbers cannot be had, get_tensor gives all")
        there, read = self._there, None
        if self._numbers is not None and self._numbers.block(self._file.tensor(name)) is not None:
            return NumberSlice(self._file, name, self._threads, self._convert, self._numbers)
        if there is not None:
            from slimtensors.on_torch.device import read_slice_there

            def read(index: Any) -> Any:
                return read_slice_there(self._file, name, index, there, self._device, self._threads, self._given_base)

        return TensorSlice(self._file, name, self._threads, self._convert, read)

    def prefetch(
        self,
        plan: Plan | None = None,
        *,
        device: Any = None,
        threads: int | None = None,
        ahead: int = AHEAD_BYTES,
    ) -> PrefetchLoader:
        """Start to decode tensors in the background; take them from what this returns.

        plan: which tensors, in which order: names with None for the whole tensor, a slice of the first dimension
        (step 1), or a tuple of slices of which one leaves something out. All tensors if None.
        device, threads: the handle's if None; what is for a CUDA device is decoded on it where `load_file` does so, on
        a stream of its own, and handed out for work on torch's current one. ahead: decoded bytes that may wait
        to be taken. The loader keeps to the plan's order, not to what becomes ready first. It ends with the handle.
        """
        if self._numbers is not None:
            raise UsageError("prefetch hands out blocks as they are: open the file without dequantise")
        count = self._threads if threads is None else thread_count(threads)
        device = self._device if device is None else device
        source: Source | None = None
        if self._torch:
            from slimtensors.on_torch import tensors as torch_tensors

            device = torch_tensors.device_of(device)
            backend = _backend(device)
            if backend is None:
                convert = torch_tensors.converter(device)
            else:
                from slimtensors.on_torch.ahead import as_decoded as convert
                from slimtensors.on_torch.ahead import source_there

                source = source_there(backend, count, ahead, self._given_base)
        elif str(device) not in ("cpu", "None"):
            raise UsageError(f"NumPy arrays cannot be put on device {device!r}; use framework='pt'")
        else:
            from slimtensors.numpy import as_array as convert
        loader = PrefetchLoader(plan_items(self._file, plan), count, convert, ahead, source)
        self._loaders.add(loader)
        return loader


def _backend(device: torch.device) -> Backend | None:
    """What decodes on a torch device, if anything does."""
    from slimtensors.device.choice import backend_for

    found: Backend | None = backend_for(device)
    return found


class TensorSlice:
    """What `get_slice` returns: index it to read, with integers, slices and `...`, and of the first dimension also with
    a list, an array or a tensor of integers. Only the chunks that are touched are read.
    """

    def __init__(
        self,
        file: TensorFile,
        name: str,
        threads: int,
        convert: Callable[..., Any],
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file = file
        self._name = name
        self._threads = threads
        self._convert = convert
        self._tensor: Tensor = file.tensor(name)
        self._read = read

    def __repr__(self) -> str:
        return f"TensorSlice({self._name!r}, {self.get_dtype()}{self.get_shape()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a slice of an open file can be neither copied nor pickled: keep the path, and open it in each worker"
        )

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The tensor's dtype, by safetensors' name: "F32", "BF16"."""
        return self._tensor.dtype.name

    def __getitem__(self, index: Any) -> Any:
        if self._read is not None:
            return self._read(index)
        return self._convert(read_slice(self._file, self._name, index, self._threads), self._tensor)


class NumberSlice(TensorSlice):
    """A slice of numbers, of a tensor whose elements are blocks: whole rows of these are read."""

    def __init__(
        self, file: TensorFile, name: str, threads: int, convert: Callable[..., Any], numbers: Numbers
    ) -> None:
        super().__init__(file, name, threads, convert)
        self._numbers = numbers

    def get_shape(self) -> list[int]:
        return list(self._numbers.shape_of(self._tensor))

    def get_dtype(self) -> str:
        return self._numbers.dtype.name

    def __getitem__(self, index: Any) -> Any:
        shown = self._tensor._replace(dtype=self._numbers.dtype, shape=self._numbers.shape_of(self._tensor))
        *rows, last = items_of(shown, index, self._name)
        packed = read_slice(self._file, self._name, tuple(rows), self._threads)
        found = self._numbers.array(packed, self._tensor, Room(self._file.reader.allowed_bytes))[..., last]
        return self._convert(np.ascontiguousarray(found).reshape(found.shape), self._tensor)
