"""Models of transformers and Accelerate, decoded layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

import slimtensors
from slimtensors.offload import LazyState, keep_compressed, offload
from slimtensors.torch import save_file, save_model
from stream.models import TOKENS, Model


def test_accelerate_takes_states_that_are_decoded_when_asked(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = Model(3)
    save_model(model, tmp_path / "x")
    with LazyState(tmp_path / "x") as state, torch.no_grad():
        other = accelerate.cpu_offload(Model(3, 1), torch.device("cpu"), state_dict=state)
        assert torch.equal(other(TOKENS), model(TOKENS))
        whole = {"": "disk"}
        other = accelerate.dispatch_model(Model(3, 1), whole, state_dict=state, offload_index={})
        assert other.layers[0].up.weight.is_meta  # dropped, and decoded at each use
        assert torch.equal(other(TOKENS), model(TOKENS))


@pytest.mark.parametrize("lacks", ["head.weight", "embedding.weight"])
@pytest.mark.filterwarnings("default")  # of other libraries
def test_accelerate_finds_tied_weights_by_either_name(tmp_path: Path, lacks: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = Model(3)
    save_file({name: each for name, each in model.state_dict().items() if name != lacks}, tmp_path / "x")
    with torch.no_grad():
        expected = model(TOKENS)
        for map_ in (None, {"": "disk"}, {"embedding": "cpu", "layers": "disk", "head": "disk"}):
            other = Model(3, 0 if map_ and len(map_) > 1 else 1)  # what stays is what it was
            with LazyState(tmp_path / "x", model=other) as state:
                assert lacks in state
                assert sorted(state) == sorted(model.state_dict())
                if map_ is None:
                    other = accelerate.cpu_offload(other, torch.device("cpu"), state_dict=state)
                else:
                    other = accelerate.dispatch_model(other, map_, state_dict=state, offload_index={})
                assert other.layers[0].up.weight.is_meta
                for _ in range(2):
                    assert torch.equal(other(TOKENS), expected)
        with LazyState(tmp_path / "x") as state:
            other = accelerate.cpu_offload(Model(3, 1), torch.device("cpu"), state_dict=state)
            with pytest.raises(KeyError, match=rf"no tensor '{lacks}'; .* LazyState\(path, model=model\)"):
                other(TOKENS)
    larger = Model(4)
    with pytest.raises(slimtensors.UsageError, match=r"no tensor 'layers\.3\.norm\.weight'$"):
        LazyState(tmp_path / "x", model=larger)


@pytest.mark.filterwarnings("default")  # as above
def test_models_that_are_made_empty(tmp_path: Path) -> None:
    """Only what stays is given memory."""
    accelerate, transformers = pytest.importorskip("accelerate"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=500,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    save_file({name: each for name, each in model.state_dict().items() if name != "lm_head.weight"}, tmp_path / "x")
    for opened in (offload, keep_compressed):
        with accelerate.init_empty_weights():
            other = transformers.LlamaForCausalLM(config).eval()
        with pytest.raises(slimtensors.UsageError, match=r"'lm_head\.weight'.* model\.tie_weights\(\)"):
            opened(other, tmp_path / "x")
        assert all(each.is_meta for each in other.parameters())  # as it was
        other.tie_weights()
        with opened(other, tmp_path / "x"), torch.no_grad():
            assert torch.equal(other(TOKENS)[0], model(TOKENS)[0])
        with torch.device("meta"):
            other = transformers.LlamaForCausalLM(config)
        with pytest.raises(slimtensors.UsageError, match=r"inv_freq' stays, .* of a buffer, make it in memory"):
            opened(other, tmp_path / "x")


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.filterwarnings("default")  # of other libraries
def test_models_of_transformers(tmp_path: Path, ahead: bool) -> None:
    transformers = pytest.importorskip("transformers")
    llama = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, tie_word_embeddings=True,
    )  # fmt: skip
    bert = transformers.BertConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4, vocab_size=500
    )
    for kind, config in ((transformers.LlamaForCausalLM, llama), (transformers.BertModel, bert)):
        torch.manual_seed(3)
        model, other = kind(config).eval(), kind(config).eval()
        save_model(model, tmp_path / "x")
        held = offload(other, tmp_path / "x", ahead=ahead)
        with torch.no_grad():
            for tokens in (TOKENS, TOKENS[:1, :1]):
                assert torch.equal(other(tokens)[0], model(tokens)[0])
            if kind is transformers.LlamaForCausalLM:
                given = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
                assert torch.equal(other.generate(TOKENS, **given), model.generate(TOKENS, **given))
        held.close()


@pytest.mark.filterwarnings("default")  # as above
def test_the_minilm(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    slimtensors.compress(minilm, tmp_path / "x")
    model, turns, stays = (
        transformers.BertModel(transformers.BertConfig.from_pretrained(minilm.parent)).eval() for _ in range(3)
    )
    model.load_state_dict(safetensors.torch.load_file(minilm), strict=False)
    held = offload(turns, tmp_path / "x")
    assert held.names == [f"encoder.layer.{i}" for i in range(6)]
    kept = keep_compressed(stays, tmp_path / "x")
    given = {"input_ids": TOKENS * 100, "attention_mask": (TOKENS % 7 > 0).long()}
    with torch.no_grad():
        expected = model(**given).last_hidden_state
        assert torch.equal(turns(**given).last_hidden_state, expected)
        assert torch.equal(stays(**given).last_hidden_state, expected)
    held.close()
    kept.close()
