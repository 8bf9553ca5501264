"""Bases and live weights of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file as save_safetensors_file

import slimtensors
from slimtensors import BaseError, UsageError
from slimtensors.torch import apply_delta, load, load_file, save, save_file


def model(seed: int) -> torch.nn.Module:
    """Layers, one tied to another, and a buffer."""
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Embedding(300, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 300))
    made[2].weight = made[0].weight  # type: ignore[assignment] # tied
    made.register_buffer("steps", torch.arange(7))
    return made.to(torch.bfloat16)


def train(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 2e-3 * torch.randn_like(parameter, dtype=torch.float32)).to(parameter.dtype)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_module_as_base() -> None:
    base, tuned = model(0), model(0)
    train(tuned)
    saved = save(tuned.state_dict(), base=base)
    assert len(saved) < 0.5 * len(save(tuned.state_dict()))
    for given in (base, [base, model(1)]):
        assert equal(load(saved, base=given), state(tuned))
    with slimtensors.safe_open(saved, "pt", base=base) as file:
        assert torch.equal(file.get_tensor("1.weight"), tuned[1].weight)


def test_what_is_no_base(tmp_path: Path) -> None:
    """Verbs for NumPy take no module, and above all do not call it; an empty path is not the current folder."""
    base, tuned = model(0), model(0)
    train(tuned)
    saved = save(tuned.state_dict(), base=base)
    plain = save_safetensors(state(tuned))

    def called(*_: object) -> None:
        raise AssertionError("forward")

    base.forward = called  # type: ignore[assignment]
    for given, said in (
        (base, "the base is a Sequential, which verbs of slimtensors.torch take"),
        (state(base), "those of torch are for verbs of slimtensors.torch"),
        ("", "the base's path is empty"),
    ):
        for verb in (
            lambda base: slimtensors.verify(saved, base=base),
            lambda base: slimtensors.decompress(saved, tmp_path / "x", base=base),
            lambda base: slimtensors.dependencies(saved, base=base),
            lambda base: slimtensors.compress(plain, tmp_path / "x", base=base),
            lambda base: slimtensors.estimate(plain, base=base),
        ):
            with pytest.raises(UsageError, match=said):
                verb(given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("against", ["model.safetensors", "model.bf16.safetensors", "older.slimtensors"])
def test_a_folder_that_has_names_twice(tmp_path: Path, against: str) -> None:
    """A model in two dtypes, or two of its versions: the base is the one that has the digest."""
    base, tuned = state(model(0)), model(0)
    train(tuned)
    save_safetensors_file({name: tensor.double() for name, tensor in base.items()}, tmp_path / "model.safetensors")
    save_safetensors_file(base, tmp_path / "model.bf16.safetensors")
    save_file({name: tensor.half() for name, tensor in base.items()}, tmp_path / "older.slimtensors")
    saved = save(tuned.state_dict(), base=tmp_path / against)
    assert slimtensors.dependencies(saved)
    for given in (tmp_path, [tmp_path], slimtensors.BaseDir(tmp_path)):
        assert equal(load(saved, base=given), state(tuned))


def test_from_a_trainer_to_a_server() -> None:
    trainer, server = model(0), model(0)
    places = {name: tensor.data_ptr() for name, tensor in server.state_dict().items()}
    for _ in range(2):
        before = state(trainer)
        train(trainer)
        data = save(trainer.state_dict(), base=before)
        assert slimtensors.dependencies(data)
        apply_delta(data, server)
        assert equal(state(server), state(trainer))
        assert places == {name: tensor.data_ptr() for name, tensor in server.state_dict().items()}
    stale = state(server)
    with pytest.raises(BaseError, match="another version"):
        apply_delta(data, server)  # it was made against the state before
    assert equal(state(server), stale)


def test_tensors_as_base(tmp_path: object) -> None:
    module = model(1)
    before = state(module)
    train(module)
    path = f"{tmp_path}/model.slimtensors"
    save_file(module.state_dict(), path, base=before)
    assert equal(load_file(path, base=before), state(module))
    with slimtensors.safe_open(path, "pt", base=before) as file:
        assert torch.equal(file.get_slice("1.weight")[5:9], module.state_dict()["1.weight"][5:9])
    with pytest.raises(BaseError):
        load_file(path, base=model(2).state_dict())


def test_what_cannot_be_written_to_leaves_all_as_it_was() -> None:
    before = {"u": torch.randn(300, 300), "w": torch.randn(1, 300).expand(300, 300)}
    data = save({name: tensor * 1.001 for name, tensor in before.items()}, base=before)
    live = {"u": before["u"].clone(), "w": before["w"]}
    with pytest.raises(UsageError, match=r"'w' .* several of its elements share memory"):
        apply_delta(data, live)
    with torch.inference_mode():
        live["w"] = before["w"].clone()
    with pytest.raises(UsageError, match="'w' was made in inference mode"):
        apply_delta(data, live)
    with pytest.raises(UsageError, match="'w' is on the device meta"):
        apply_delta(data, {**live, "w": torch.empty(300, 300, device="meta")})
    assert torch.equal(live["u"], before["u"])
    with torch.inference_mode():
        apply_delta(data, live)
        assert equal(live, {name: tensor * 1.001 for name, tensor in before.items()})


class Copying(torch.nn.Module):
    """Its state dict gives copies."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(300, 300))
        self.how = how
        if how == "hook":
            self.register_state_dict_post_hook(lambda _module, state, *_: state.update(self.copies(state)))

    def copies(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in state.items()}

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        state = super().state_dict(*args, **kwargs)
        return self.copies(state) if self.how == "method" else state


@pytest.mark.parametrize("how", ["hook", "method"])
def test_a_module_that_gives_copies_is_refused(how: str) -> None:
    """Before, these were written to, and the module stayed as it was."""
    module, plain = Copying(how), Copying("")
    plain.load_state_dict(module.state_dict())
    data = save({"weight": module.weight.detach() * 1.001}, base=module.state_dict())
    apply_delta(data, plain)
    assert torch.equal(plain.weight, module.weight * 1.001)
    with pytest.raises(UsageError, match=r"'weight': what the module's state_dict\(\) gives is a copy"):
        apply_delta(data, module)


def test_what_the_file_does_not_have_may_be_anywhere() -> None:
    before = {"w": torch.randn(300, 300).to(memory_format=torch.contiguous_format)}
    data = save({"w": before["w"] * 1.001}, base=before)
    live = {"w": before["w"].t().contiguous().t(), "x": torch.empty(3, device="meta"), "y": torch.eye(3).to_sparse()}
    apply_delta(data, live)
    assert torch.equal(live["w"], before["w"] * 1.001)
    with pytest.raises(UsageError, match=r"'w' is torch.sparse_coo: .*; nothing was changed"):
        apply_delta(data, {**live, "w": before["w"].to_sparse()})


def test_tied_weights_that_differ_in_the_file() -> None:
    server = model(0)
    before = state(server)
    after = {name: tensor * 2 for name, tensor in before.items()}
    after["2.weight"] = before["2.weight"] * 3
    with pytest.raises(UsageError, match=r"'0\.weight' and '2\.weight' share memory"):
        apply_delta(save(after, base=before), server)
    assert equal(state(server), before)
