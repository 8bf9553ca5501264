"""Progress bars as huggingface_hub shows them: with its class, and not where its switches say so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["bar"]


@contextmanager
def bar(
    total: int, label: str, tqdm_class: Any = None, *, passes: int = 1
) -> Iterator[Callable[[int], object]]:
    """What to call with each number of bytes done, from any thread. passes: how many times each is worked on; it is
    shown once.
    """
    from huggingface_hub.utils import tqdm

    lock, gone = threading.Lock(), 0
    with (tqdm_class or tqdm)(total=total, desc=label, unit="B", unit_scale=True) as shown:

        def advance(done: int) -> None:
            nonlocal gone
            with lock:
                gone += done
                shown.update(min(gone // passes, total) - shown.n)

        yield advance
        advance(passes * total)  # what is stored once is done once, so the sum may fall short
