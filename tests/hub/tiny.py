"""Small models of transformers with random weights, and what is compared of two."""

from __future__ import annotations

from typing import Any

torch: Any
try:
    import torch
except ImportError:  # those who use this skip without it
    torch = None


def llama(*, tied: bool = False, hidden: int = 64, dtype: str = "bfloat16", **config: Any) -> Any:
    """Two layers; hidden 512 makes even norms worth compressing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    made = LlamaConfig(
        vocab_size=1000, hidden_size=hidden, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, **config,
    )  # fmt: skip
    return LlamaForCausalLM(made).to(getattr(torch, dtype)).eval()


def mixture() -> Any:
    """Experts, which transformers stores one by one and merges when it loads them."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    made = MixtralConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    return MixtralForCausalLM(made).to(torch.bfloat16).eval()


def same(one: Any, other: Any) -> bool:
    """Whether two models have the same weights, bit for bit, under the same names."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(_bits(mine[name]), _bits(theirs[name])) for name in mine
    )


def _bits(tensor: Any) -> Any:
    return tensor.contiguous().flatten().view(torch.uint8)
