"""Layers whose weights stay compressed: the bits of plain layers, their gradients, and what is refused."""

from __future__ import annotations

import copy
import io
import operator
import pickle
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from slimtensors.errors import UsageError  # noqa: E402 # after torch is known to be there
from slimtensors.offload import CompressedEmbedding, CompressedLinear, keep_compressed  # noqa: E402
from slimtensors.reading.tensors import TensorFile  # noqa: E402
from slimtensors.torch import load_file, save_file, save_model  # noqa: E402

WORDS, WIDTH, INNER = 3000, 96, 160


class Model(torch.nn.Module):  # type: ignore[name-defined, misc] # torch is imported late
    """An embedding tied to the head, two layers with a bias and one without."""

    def __init__(self, seed: int, dtype: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, INNER), torch.nn.Linear(INNER, WIDTH)
        self.gate = torch.nn.Linear(WIDTH, INNER, bias=False)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight
        self.to(dtype)

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens)
        return self.head(self.norm(x + self.down(torch.tanh(self.up(x)) * self.gate(x))))


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return getattr(torch, request.param)


@pytest.fixture
def pair(dtype: Any, tmp_path: Path) -> tuple[Any, Path]:
    plain = Model(0, dtype)
    save_model(plain, tmp_path / "model.slimtensors")
    return plain, tmp_path / "model.slimtensors"


TOKENS = torch.arange(60).reshape(3, 20) * 47 % WORDS
TARGETS = (TOKENS.flatten() + 1) % WORDS


@pytest.mark.parametrize("host", ["memory", "disk"])
def test_outputs_have_the_same_bits(pair: tuple[Any, Path], dtype: Any, host: Any) -> None:
    plain, path = pair
    model = Model(1, dtype)
    held = keep_compressed(model, path, host=host)
    assert sorted(held.names) == ["down", "gate", "head", "up", "words"]
    assert held.nbytes == WORDS * WIDTH * dtype.itemsize  # the largest weight
    assert [name for name, _ in model.named_parameters()] == ["up.bias", "down.bias", "norm.weight", "norm.bias"]
    for _ in range(2):
        assert torch.equal(model(TOKENS), plain(TOKENS))
    with torch.no_grad():
        assert torch.equal(model(TOKENS[0, :1]), plain(TOKENS[0, :1]))
        assert model(TOKENS[:0]).shape == (0, 20, WORDS)
    held.close()


def test_weights_on_the_meta_device(pair: tuple[Any, Path], dtype: Any) -> None:
    plain, path = pair
    model = Model(1, dtype)
    model.gate.to("meta")
    held = keep_compressed(model, path)
    assert torch.equal(model(TOKENS), plain(TOKENS))
    held.close()


def test_an_embedding_decodes_the_chunks_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(20000, 128))
    weight = model[0].weight.detach().clone()
    save_model(model, tmp_path / "words.slimtensors")
    held = keep_compressed(model, tmp_path / "words.slimtensors", verify="none")
    decoded, decode = [], TensorFile.decode_stored

    def counted(self: TensorFile, number: int, chunk: int, data: Any, out: Any) -> None:
        decoded.append(chunk)
        decode(self, number, chunk, data, out)

    monkeypatch.setattr(TensorFile, "decode_stored", counted)
    file = model[0].stored._file
    stream = file.header.streams[file.header.tensor_stream[0]]
    assert stream.chunks > 5
    for wanted in ([0], [19999, 3, 2, 19999], [7, 8, 9]):
        assert torch.equal(model(torch.tensor(wanted)), weight[wanted])
        assert set(decoded) <= {row * 128 // stream.chunk for row in wanted}
        decoded.clear()
    assert held.nbytes == 0  # rows take no buffer
    held.close()


class Adapter(torch.nn.Module):  # type: ignore[name-defined, misc] # as above
    """LoRA beside a frozen layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = layer
        self.a = torch.nn.Linear(layer.in_features, 4, bias=False)
        self.b = torch.nn.Linear(4, layer.out_features, bias=False)

    def forward(self, x: Any) -> Any:
        return self.layer(x) + self.b(self.a(x))


def train(model: Any) -> list[float]:
    """The losses of three steps."""
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TARGETS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_adapters_train_as_beside_plain_layers(tmp_path: Path) -> None:
    plain, model = Model(0, torch.float32), Model(1, torch.float32)
    save_model(plain, tmp_path / "model.slimtensors")
    held = keep_compressed(model, tmp_path / "model.slimtensors")
    losses = []
    for each in (plain, model):
        each.requires_grad_(False)
        each.up, each.gate = Adapter(each.up), Adapter(each.gate)
        each.down.bias.requires_grad_(True)
        losses.append(train(each))
    assert losses[0][0] == losses[1][0]
    assert losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(model.get_parameter(name), parameter)
    held.close()


def test_gradients_of_inputs_under_autocast(tmp_path: Path) -> None:
    layer = torch.nn.Linear(40, 30)
    save_model(layer, tmp_path / "layer.slimtensors")
    model = torch.nn.Sequential(copy.deepcopy(layer))
    held = keep_compressed(model[0], tmp_path / "layer.slimtensors")
    x, y = (torch.ones(2, 40, requires_grad=True) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model(x), layer(y)
    assert torch.equal(found, expected)
    found.float().sum().backward()
    expected.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, y.grad, rtol=0.02, atol=0.02)
    held.close()


def test_gradients_of_gradients(pair: tuple[Any, Path], dtype: Any) -> None:
    held = keep_compressed(model := Model(1, dtype), pair[1])
    found = []
    for each in (pair[0], model):
        x = torch.full((2, WIDTH), 0.5, dtype=dtype, requires_grad=True)
        y = each.gate(torch.tanh(each.up(x)[:, :WIDTH]))
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([gradient, *torch.autograd.grad(gradient.square().sum(), (x, each.up.bias))])
    torch.testing.assert_close(found[1], found[0])
    held.close()


def test_gradients_after_close(pair: tuple[Any, Path], dtype: Any) -> None:
    held = keep_compressed(model := Model(1, dtype), pair[1])
    x = torch.ones(2, WIDTH, dtype=dtype, requires_grad=True)
    loss = model.gate(x).sum()
    held.close()
    with pytest.raises(UsageError, match="was closed"):
        loss.backward()


def test_the_bits_of_inputs_that_are_not_contiguous(pair: tuple[Any, Path], dtype: Any) -> None:
    model = Model(1, dtype)
    torch.manual_seed(7)
    x = torch.randn(5, WIDTH, 33, dtype=dtype).mT
    with keep_compressed(model, pair[1]), torch.no_grad():
        assert torch.equal(model.gate(x), pair[0].gate(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_fast_path_of_encoders(tmp_path: Path) -> None:
    """Which torch takes with plain tensors only: what it gives for padding is something else."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    plain = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 2)).eval()
    save_model(plain, tmp_path / "x")
    model, x = copy.deepcopy(plain), torch.randn(2, 10, 64)
    padded = torch.arange(10) >= torch.tensor([[10], [6]])
    with keep_compressed(model, tmp_path / "x"), torch.no_grad():
        expected = plain[0](x, src_key_padding_mask=padded)
        for each in (model[0], copy.deepcopy(model)[0]):
            assert torch.equal(each(x, src_key_padding_mask=padded), expected)
    assert "forward" not in vars(model[0])


def test_threads_share_the_buffer(pair: tuple[Any, Path], dtype: Any) -> None:
    plain, path = pair
    held = keep_compressed(model := Model(1, dtype), path, verify="none")
    same: list[bool] = []

    def run(tokens: Any) -> None:
        with torch.no_grad():
            expected = plain(tokens)
            same.extend(torch.equal(model(tokens), expected) for _ in range(10))

    threads = [threading.Thread(target=run, args=(TOKENS + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 40
    held.close()


def test_state_copies_and_pickles(pair: tuple[Any, Path], dtype: Any) -> None:
    plain, path = pair
    held = keep_compressed(model := Model(1, dtype), path)
    for weight in (plain.up.weight, model.up.weight, None):
        with pytest.raises(UsageError, match="cannot be set"):
            model.up.weight = weight
    state = model.state_dict()
    assert set(state) == set(plain.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    assert torch.equal(model.up.weight, plain.up.weight)
    assert isinstance(model.up, CompressedLinear)
    assert isinstance(model.words, CompressedEmbedding)
    assert "compressed" in repr(model)
    copied = copy.deepcopy(model)
    assert copied.up.stored is model.up.stored
    assert torch.equal(copied(TOKENS), plain(TOKENS))
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(model)
    model.load_state_dict({name: t for name, t in state.items() if "bias" in name or "norm" in name})
    with pytest.raises(RuntimeError, match=r"up\.weight stays compressed"):
        model.load_state_dict(state)
    model.to("cpu").to(dtype).train().eval()
    for each in (model, copied):
        with pytest.raises(UsageError, match="cannot become"):
            each.double()
        assert each.norm.weight.dtype == dtype  # nor was what comes before the layer that refuses
    with pytest.raises(UsageError, match="has layers that stay compressed already"):
        keep_compressed(copied, path)
    expected = plain(TOKENS)
    held.close()
    with pytest.raises(UsageError, match="was closed"):
        copied(TOKENS)
    with pytest.raises(UsageError, match="was closed"):
        copied.up(torch.ones(1, WIDTH, dtype=dtype))
    copied.to_empty(device="cpu")  # calls the same with a keyword
    with keep_compressed(model, path):
        assert torch.equal(model(TOKENS), expected)
    model.load_state_dict(load_file(path), assign=True)
    assert pickle.dumps(model)
    assert torch.equal(model(TOKENS), expected)
    assert (type(model.up), type(model.words)) == (torch.nn.Linear, torch.nn.Embedding)
    model.double()


def test_a_weight_cannot_be_changed(pair: tuple[Any, Path]) -> None:
    """It is a copy: what is done to it would be lost. What is made from it is a tensor like others."""
    model = Model(1, pair[0].up.weight.dtype)
    held = keep_compressed(model, pair[1])
    weight, expected = model.up.weight, pair[0].up.weight.detach()
    for change in (
        lambda: weight.mul_(2), lambda: weight.data.mul_(2), lambda: weight[1:].t().add_(1),
        lambda: torch.nn.init.zeros_(weight), lambda: weight.copy_(expected), lambda: setattr(weight, "data", expected),
        lambda: operator.setitem(weight, 0, 1), lambda: operator.iadd(weight.detach(), 1),
        lambda: torch.add(expected, 1, out=weight), lambda: torch.nn.init.kaiming_uniform_(weight),
        lambda: weight.split(80)[1].add_(1), lambda: next(iter(weight)).zero_(), model.up.reset_parameters,
        lambda: torch.nn.functional.dropout(weight, inplace=True), lambda: torch._foreach_add_([weight], 1),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="cannot be changed"):
            change()
    assert torch.equal(weight, expected)
    assert torch.equal(torch.zeros_like(expected).copy_(weight), expected)
    written = io.BytesIO()
    torch.save(weight, written)
    written.seek(0)
    assert torch.equal(weight.to_sparse().to_dense(), expected)
    for plain in (weight + 0, weight.clone(), copy.deepcopy(weight), torch.load(written)):
        assert type(plain) is torch.Tensor
        assert torch.equal(plain.mul_(1), expected)
    held.close()


def test_compiled_where_weights_are_looked_at(tmp_path: Path) -> None:
    """As T5 does for its dtype, and heads that share the embedding's weight."""

    class Looks(torch.nn.Module):  # type: ignore[name-defined, misc] # torch is imported late
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up = torch.nn.Embedding(600, 512), torch.nn.Linear(512, 512)

        def forward(self, tokens: Any) -> Any:
            x = self.up(self.words(tokens)).to(self.up.weight.dtype)
            return torch.nn.functional.linear(x, self.words.weight)

    plain, model = Looks(), Looks()
    save_model(plain, tmp_path / "x")
    held = keep_compressed(model, tmp_path / "x")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="eager")(tokens), plain(tokens))
    held.close()


@pytest.mark.parametrize("lacks", ["one.weight", "other.weight"])
def test_a_layer_by_several_names(tmp_path: Path, lacks: str) -> None:
    plain, model = (torch.nn.ModuleDict({"one": each, "other": each}) for each in (torch.nn.Linear(8, 8) for _ in "ab"))
    save_file({name: each for name, each in plain.state_dict().items() if name != lacks}, tmp_path / "x")
    with keep_compressed(model, tmp_path / "x") as held:
        assert held.names == ["one"]
        assert torch.equal(model["other"](torch.ones(8)), plain["one"](torch.ones(8)))


def test_what_stays_as_it_is(tmp_path: Path) -> None:
    class Own(torch.nn.Linear):  # type: ignore[name-defined, misc] # as above
        pass

    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 8, max_norm=1.0), Own(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    )
    model[2].weight = model[1].weight
    save_model(model, tmp_path / "model.slimtensors")
    plain = copy.deepcopy(model)
    held = keep_compressed(model, tmp_path / "model.slimtensors")
    assert held.names == ["3"]
    assert torch.equal(model(torch.arange(9)), plain(torch.arange(9)))
    held.close()


def test_refused_before_anything_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.slimtensors"
    plain = Model(0, torch.float32)
    save_model(plain, path)
    model = Model(1, torch.float32)
    before = model(TOKENS)
    state = plain.state_dict()
    lacks = {name: t.clone() for name, t in state.items() if name not in ("gate.weight", "head.weight")}
    no_norm = {name: t.clone() for name, t in state.items() if name not in ("norm.bias", "head.weight")}
    wide = {name: t.double() for name, t in state.items() if name != "head.weight"}
    for i, (tensors, match) in enumerate([(lacks, "no tensor 'gate.weight'"), (no_norm, "norm.bias"), (wide, "F64")]):
        save_file(tensors, tmp_path / f"{i}.slimtensors")
        with pytest.raises(UsageError, match=match):
            keep_compressed(model, tmp_path / f"{i}.slimtensors")
        assert type(model.up) is torch.nn.Linear
        assert len(list(model.parameters())) == len(list(plain.parameters()))
    assert torch.equal(model.gate.weight, Model(1, torch.float32).gate.weight)
    assert before.shape == model(TOKENS).shape
    monkeypatch.setattr("slimtensors.device.choice.why_not", lambda _index: "no kernel works")
    for asked, reason in (("auto", "no kernel works"), ("cuda", "no kernel works"), ("cpu", "DECODE is cpu")):
        monkeypatch.setenv("SLIMTENSORS_DECODE", asked)
        with pytest.raises(UsageError, match=f"have to be decoded there, but .*{reason}$"):
            keep_compressed(model, path, device="cuda")
        assert type(model.up) is torch.nn.Linear
    with pytest.raises(UsageError, match="host"):
        keep_compressed(model, path, host="pinned")  # type: ignore[arg-type] # what is wrong here
    with pytest.raises(UsageError, match=r"no nn\.Linear"):
        keep_compressed(torch.nn.LayerNorm(3), path)
    held = keep_compressed(model, path)
    for wrong in (-1, WORDS):
        with pytest.raises(IndexError, match=f"index of {wrong} into {WORDS}"):
            model(torch.tensor([0, wrong, 5]))
    with pytest.raises(UsageError, match=r"indices are torch\.float32"):
        model(torch.ones(2))
    held.close()


def test_peft_trains_beside_compressed_layers(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain, model = Model(0, torch.float32), Model(1, torch.float32)
    save_model(plain, tmp_path / "model.slimtensors")
    held = keep_compressed(model, tmp_path / "model.slimtensors")
    losses = []
    for each in (plain, model):
        torch.manual_seed(3)
        tuned = peft.get_peft_model(each, peft.LoraConfig(r=4, target_modules=["up", "down"]))
        losses.append(train(tuned))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for merge in (tuned.merge_adapter, partial(tuned.merge_and_unload, safe_merge=True)):
        with pytest.raises(UsageError, match="load the model without keep_compressed"):
            merge()
    held.close()
