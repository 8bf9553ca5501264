"""A state dict that decodes what is asked for, each time: for libraries that place and drop weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from slimtensors.container.reader import Verify
from slimtensors.errors import TensorNotFoundError
from slimtensors.numpy import whole_array
from slimtensors.offload.hooks import Host, hosted, refuse_lacking
from slimtensors.offload.opened import Opened
from slimtensors.on_torch.modules import check_module
from slimtensors.on_torch.tensors import as_base, from_array
from slimtensors.stream.loader import files_of, open_all
from slimtensors.threads import thread_count

__all__ = ["LazyState"]


class LazyState(Opened, Mapping[str, torch.Tensor]):
    """name -> tensor on the CPU, decoded at each look-up and not kept. For Accelerate: `cpu_offload(state_dict=...)`.

    path, host: as for `offload`. model: whose state it is, before it is dispatched: parameters that are tied are found
    by each of their names, where files have one of these. Use it in a `with` statement, or `close` it when the model is
    no longer used.
    """

    def __init__(
        self,
        path: Any,
        *,
        model: torch.nn.Module | None = None,
        host: Host = "disk",
        threads: int | None = None,
        verify: Verify = "full",
        base: Any = None,
    ) -> None:
        self._threads = thread_count(threads)
        path = hosted(path, host)
        with ExitStack() as stack:
            self._homes = files_of(open_all(path, stack, verify=verify, max_bytes=None, base=as_base(base)))
            self._names = {name: name for name in self._homes}  # in the files, by what is asked for
            if model is not None:
                self._add_ties(model)
            self._stack = stack.pop_all()

    def __repr__(self) -> str:
        return f"LazyState({len(self)} tensors)"

    def _add_ties(self, model: torch.nn.Module) -> None:
        check_module(model)
        tied: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            tied.setdefault(id(parameter), []).append(name)
        for names in tied.values():
            found = next((name for name in names if name in self._homes), None)
            if found is None:
                refuse_lacking(names[0], model, self._homes)
            self._names.update((name, self._names.get(name, found)) for name in names)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise TensorNotFoundError(
                f"the files have no tensor {name!r}; if it is tied to another one of the model, give the model, before "
                "it is dispatched: LazyState(path, model=model)"
            )
        found = self._names[name]
        file = self._homes[found]
        return from_array(whole_array(file, found, self._threads), file.tensor(found).dtype, "cpu")

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
