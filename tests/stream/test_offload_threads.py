"""Offloaded models, and threads that compute with them at once."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtensors.offload import offload
from slimtensors.torch import save_model
from stream.models import TOKENS, Block, Model


def in_threads(work: Any, threads: int = 3) -> list[Any]:
    """What work() gave, or raised, in each of some threads that begin together."""
    found, together = [], threading.Barrier(threads)

    def run() -> None:
        together.wait()
        try:
            with torch.no_grad():
                found.append(work())
        except Exception as error:
            found.append(error)

    started = [threading.Thread(target=run) for _ in range(threads)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    return found


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_threads_that_compute_at_once(tmp_path: Path, ahead: bool, whole: bool) -> None:
    """With the model, and with its layers outside of the model's forward, while a layer lets other threads run."""

    class Slow(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return super().forward(x)

    model, other = Model(5), Model(5, 1)
    for layer in other.layers:
        layer.__class__ = Slow
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=ahead)
    forward = other if whole else partial(Model.forward, other)
    with torch.no_grad():
        expected = model(TOKENS)
    for given in in_threads(lambda: [torch.equal(forward(TOKENS), expected) for _ in range(8)]):
        assert given == [True] * 8
    held.close()


def test_another_thread_enters_between_the_hook_and_the_forward(tmp_path: Path) -> None:
    model, other = Model(4), Model(4, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=False)
    x = torch.ones(1, 200)

    def interrupted(*_: Any) -> None:
        handle.remove()
        assert isinstance(in_threads(lambda: other.layers[2](x), 1)[0], torch.Tensor)

    handle = other.layers[0].register_forward_pre_hook(interrupted)
    with torch.no_grad():
        assert torch.equal(other.layers[0](x), model.layers[0](x))
    held.close()


def test_a_forward_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """Nor does one that is interrupted, after which torch calls no hooks."""
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x")

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    for module in (other.layers[1], other.layers[1].up, other.head):
        handle = module.register_forward_pre_hook(fails)
        with torch.no_grad(), pytest.raises(KeyboardInterrupt):
            other(TOKENS)
        handle.remove()
        with torch.no_grad():
            expected = model(TOKENS)
        assert all(torch.equal(given, expected) for given in in_threads(lambda: other(TOKENS)))
    held.close()


def test_no_thread_to_decode_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = Model(3), Model(3, 1)
    save_model(model, tmp_path / "x")
    held = offload(other, tmp_path / "x", ahead=True, threads=1)

    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with torch.no_grad():
        assert torch.equal(other(TOKENS), model(TOKENS))
    monkeypatch.undo()
    held.close()
