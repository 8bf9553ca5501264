"""A state dict that decodes what is asked for, each time: for libraries that place and drop weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from slimtensors.container.reader import Verify
from slimtensors.numpy import whole_array
from slimtensors.offload.hooks import Host, hosted
from slimtensors.on_torch.tensors import as_base, from_array
from slimtensors.stream.loader import files_of, open_all
from slimtensors.threads import thread_count

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LazyState"]


class LazyState(Mapping[str, torch.Tensor]):
    """name -> tensor on the CPU, decoded at each look-up and not kept. For Accelerate: `cpu_offload(state_dict=...)`.

    path, host: as for `offload`. Use it in a `with` statement, or `close` it when the model is no longer used.
    """

    def __init__(
        self, path: Any, *, host: Host = "disk", threads: int | None = None, verify: Verify = "full", base: Any = None
    ) -> None:
        self._threads = thread_count(threads)
        path = hosted(path, host)
        with ExitStack() as stack:
            self._homes = files_of(open_all(path, stack, verify=verify, max_bytes=None, base=as_base(base)))
            self._stack = stack.pop_all()

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._homes[name]
        return from_array(whole_array(file, name, self._threads), file.tensor(name).dtype, "cpu")

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
