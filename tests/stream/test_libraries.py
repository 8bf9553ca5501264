"""Models of transformers and Accelerate, decoded layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

import slimtensors
from slimtensors.offload import LazyState, keep_compressed, offload
from slimtensors.torch import save_model
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
