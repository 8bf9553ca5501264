"""What holds files open for a model, until it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn

from slimtensors.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Opened", "OpenedLayers"]


class Opened(ABC):
    """Holds files open, for as long as a `with` statement, or until `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("it holds files open and can neither be copied nor pickled: open them in each process")

    @abstractmethod
    def close(self) -> None:
        """Close the files; again, nothing more."""


class OpenedLayers(Opened):
    """Those of a model's layers. names: the layers'; nbytes: of the buffers that they are decoded to."""

    names: list[str]
    nbytes: int

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.names)} layers, buffers of {self.nbytes} bytes)"
