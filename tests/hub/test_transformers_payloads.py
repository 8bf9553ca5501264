"""The layout "safetensors": transformers itself loads it once it knows the quantiser, and raises where it does not."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402 # after torch is known to be there
from safetensors.torch import save_file  # noqa: E402

import slimtensors_hub.transformers as ours  # noqa: E402
from hub.tiny import llama, mixture, same  # noqa: E402
from slimtensors import UsageError, decode  # noqa: E402
from slimtensors_hub.transformers.payloads import from_payload, is_payload, to_payload  # noqa: E402


def stored(folder: Path) -> dict[str, Any]:
    """The tensors of a folder's files, as safetensors reads them."""
    found: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
    return found


@pytest.mark.parametrize("size", ["5GB", "100KB"])
@pytest.mark.parametrize("make", [llama, lambda: llama(tied=True), lambda: llama(hidden=512), mixture])
def test_transformers_loads_it(make: Any, size: str, tmp_path: Path) -> None:
    ours.save_pretrained(make(), tmp_path / "model", layout="safetensors", max_shard_size=size)
    for arguments in ({}, {"dtype": torch.float32}, {"device_map": "auto"}):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", output_loading_info=True, **arguments
        )
        assert not any(info.values())
        assert same(model, make().to(arguments.get("dtype", torch.bfloat16)))
        assert not hasattr(model.config, "quantization_config")
    if size != "5GB":
        index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(tmp_path / "model").values())


def test_payloads_are_what_encode_makes(tmp_path: Path) -> None:
    ours.save_pretrained(llama(dtype="float32"), tmp_path / "model", layout="safetensors")
    state, seen = llama(dtype="float32").state_dict(), stored(tmp_path / "model")
    assert seen.keys() == state.keys()
    for name, tensor in seen.items():
        if is_payload(tensor):
            assert (decode(tensor.numpy().tobytes()) == state[name].numpy()).all()
        else:
            assert torch.equal(tensor, state[name])
    assert 0 < sum(is_payload(tensor) for tensor in seen.values()) < len(seen)  # small norms stay as they are


def test_the_model_is_a_plain_one_afterwards(tmp_path: Path) -> None:
    ours.save_pretrained(llama(), tmp_path / "model", layout="safetensors")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    llama().save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


STOCK = """
import sys
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
        print("loaded")
    except RuntimeError as error:
        print(str(error).split(",")[0])
assert not any(name.startswith("slimtensors") for name in sys.modules)
"""


def test_stock_transformers_raises(tmp_path: Path) -> None:
    """It warns of an unknown quantiser and goes on: what stops it must be the shapes."""
    for name, model in {
        "every": llama(hidden=512, dtype="float32"), "tied": llama(tied=True, hidden=512, dtype="float32"),
        "some": llama(),
    }.items():  # fmt: skip
        ours.save_pretrained(model, tmp_path / name, layout="safetensors")
        packed = [is_payload(tensor) for tensor in stored(tmp_path / name).values()]
        assert all(packed) == (name != "some")
    folders = [str(tmp_path / name) for name in ("every", "tied", "some")]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *folders], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout.splitlines() == ["You set `ignore_mismatched_sizes` to `False`"] * 3, done.stderr


def test_pipelines(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(1000)}, "w0"))
    words.pre_tokenizer = Whitespace()
    special = {"eos_token": "w1", "pad_token": "w2"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)
    for layout in ("safetensors", "plain"):
        if layout == "plain":
            llama().save_pretrained(tmp_path / layout)
        else:
            ours.save_pretrained(llama(), tmp_path / layout, layout=layout)
        tokenizer.save_pretrained(tmp_path / layout)
    told = [
        transformers.pipeline("text-generation", str(tmp_path / layout))("w5 w6 w7", max_new_tokens=8, do_sample=False)
        for layout in ("safetensors", "plain")
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(64, 64, dtype=torch.bfloat16) if hasattr(torch, "randn") else None,
        torch.zeros(5000),
        torch.zeros(3, 0),
        torch.tensor(2.5),
        torch.arange(200, dtype=torch.uint8),  # looks like a payload, so is always made one
        torch.zeros(0, dtype=torch.uint8),
        torch.randn(50, 50).to(torch.float8_e4m3fn),
        torch.randint(0, 3, (40, 40), dtype=torch.uint8),
    ],
)
def test_each_tensor_comes_back(tensor: Any) -> None:
    made = to_payload(tensor)
    assert is_payload(made) or made is tensor
    found = from_payload(made)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_a_payload_never_has_the_shape_of_its_tensor() -> None:
    size = len(to_payload(torch.zeros(4096, dtype=torch.uint8)))
    for length in range(size - 8, size + 8):  # all of them are that long
        tensor = torch.zeros(length, dtype=torch.int32)
        made = to_payload(tensor)
        assert made.shape != tensor.shape
        assert torch.equal(from_payload(made), tensor)


def test_damaged_payloads_raise(tmp_path: Path) -> None:
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    ours.save_pretrained(llama(), tmp_path / "model", layout="safetensors")
    path = tmp_path / "model" / "model.safetensors"
    tensors = stored(tmp_path / "model")
    name = next(name for name, tensor in tensors.items() if is_payload(tensor))
    tensors[name][-100:-50] ^= 1
    save_file(tensors, path, {"format": "pt"})
    transformers.utils.logging.add_handler(handler)
    with pytest.raises(RuntimeError, match="CONVERSION"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    transformers.utils.logging.remove_handler(handler)
    assert f"destined for {name}" in told.getvalue()
    assert "do not have their BLAKE3 digest: the file is damaged" in told.getvalue()


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no base"):
        ours.save_pretrained(llama(), tmp_path / "model", layout="safetensors", base=tmp_path)
    adapted = llama()
    adapted.add_adapter(pytest.importorskip("peft").LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UsageError, match="not for adapters"):
        ours.save_pretrained(adapted, tmp_path / "model", layout="safetensors")
    quantised = llama()
    quantised.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(UsageError, match="room for one quantiser"):
        ours.save_pretrained(quantised, tmp_path / "model", layout="safetensors")
    assert list(tmp_path.iterdir()) == []
    ours.save_pretrained(llama(), tmp_path / "model")
    with pytest.raises(UsageError, match="out of date"):
        ours.save_pretrained(llama(), tmp_path / "model", layout="safetensors")
    assert sorted(path.suffix for path in (tmp_path / "model").iterdir()) == [".json", ".json", ".slimtensors"]
