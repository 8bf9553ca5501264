"""Progress bars as huggingface_hub shows them: with its class, and not where its switches say so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["bar"]


@contextmanager
def bar(total: int, label: str, tqdm_class: Any = None) -> Iterator[Callable[[int], object]]:
    """What to call with each number of bytes done, from any thread."""
    from huggingface_hub.utils import tqdm

    lock = threading.Lock()
    with (tqdm_class or tqdm)(total=total, desc=label, unit="B", unit_scale=True) as shown:

        def advance(done: int) -> None:
            with lock:
                shown.update(min(done, total - shown.n))

        yield advance
        advance(total)  # what is stored once is done once, so the sum may fall short
