"""transformers' models out of compressed files, by changing the import: the same weights, errors and reports."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
transformers = pytest.importorskip("transformers")

import slimtensors_hub.transformers as ours  # noqa: E402 # after transformers is known to be there
from hub.tiny import llama, mixture, same  # noqa: E402
from slimtensors import BaseError, ChecksumError, FormatError, UsageError, compress  # noqa: E402
from slimtensors_hub.transformers.lazy import LazyTensor  # noqa: E402

TOKENS = torch.arange(12)[None]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The same model, plain and compressed; in shards."""
    model = llama(tied=True)
    model.generation_config.max_length = 77
    model.save_pretrained(tmp_path / "plain", max_shard_size="100KB")
    ours.save_pretrained(model, tmp_path / "slim", max_shard_size="100KB")
    return tmp_path / "plain", tmp_path / "slim"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"dtype": torch.float32},
        {"dtype": "auto", "device_map": {"": "cpu"}},
        {"device_map": "auto"},
        {"attn_implementation": "eager"},
        {"num_hidden_layers": 1},  # leaves unexpected keys
        {"num_hidden_layers": 3},  # and missing ones
    ],
)
def test_arguments_mean_what_they_mean_in_transformers(folders: tuple[Path, Path], arguments: dict[str, Any]) -> None:
    plain, slim = folders
    arguments = {"output_loading_info": True, **arguments}
    model, info = ours.AutoModelForCausalLM.from_pretrained(slim, **arguments)
    wanted, wanted_info = transformers.AutoModelForCausalLM.from_pretrained(plain, **arguments)
    assert type(model) is type(wanted)
    assert info == wanted_info
    assert not model.training
    assert model.name_or_path == str(slim)
    assert model.generation_config.to_dict() == wanted.generation_config.to_dict()
    ignored = {"_name_or_path"}
    assert {key: value for key, value in model.config.to_dict().items() if key not in ignored} == {
        key: value for key, value in wanted.config.to_dict().items() if key not in ignored
    }
    assert model.lm_head.weight is model.model.embed_tokens.weight
    if arguments.get("num_hidden_layers") != 3:  # the third is random
        assert same(model, wanted)
        assert torch.equal(model(TOKENS).logits, wanted(TOKENS).logits)


def test_all_auto_classes_are_there() -> None:
    names = [name for name in dir(transformers) if name.startswith("AutoModel")]
    assert len(names) > 30
    for name in names:
        theirs, found = getattr(transformers, name), getattr(ours, name)
        assert issubclass(found, theirs)
        assert found.__name__ == name
        assert "from_pretrained" in vars(found.__mro__[1])
    assert ours.AutoTokenizer is transformers.AutoTokenizer
    with pytest.raises(AttributeError, match="from_pretrained"):
        ours.LlamaForCausalLM  # noqa: B018 # reading it is the test


def test_other_heads_and_classes(folders: tuple[Path, Path]) -> None:
    plain, slim = folders
    assert same(ours.AutoModel.from_pretrained(slim), transformers.AutoModel.from_pretrained(plain))
    model, info = ours.AutoModelForSequenceClassification.from_pretrained(slim, output_loading_info=True)
    assert info["missing_keys"] == {"score.weight"}
    found = ours.from_pretrained(transformers.LlamaForCausalLM, slim, dtype=torch.float32)
    assert found.dtype == torch.float32
    assert same(found.to(torch.bfloat16), llama(tied=True))
    del model


def test_plain_folders_go_to_transformers(folders: tuple[Path, Path]) -> None:
    plain, _ = folders
    assert same(ours.AutoModelForCausalLM.from_pretrained(plain), llama(tied=True))
    with pytest.raises(UsageError, match="base= is given"):
        ours.AutoModelForCausalLM.from_pretrained(plain, base=plain)
    (plain / "model.safetensors.index.json").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        ours.AutoModelForCausalLM.from_pretrained(plain)


def test_a_folder_with_weights_of_both_kinds_is_refused(tmp_path: Path) -> None:
    """As when a model is loaded, trained, and saved by transformers to where it came from."""
    for name, sizes in {"whole": {}, "shards": {"max_shard_size": "100KB"}}.items():
        folder = tmp_path / name
        ours.save_pretrained(llama(), folder, **sizes)
        model = ours.AutoModelForCausalLM.from_pretrained(folder)
        torch.nn.init.ones_(model.lm_head.weight)
        model.save_pretrained(folder)
        for load in (ours.AutoModelForCausalLM.from_pretrained, partial(ours.from_pretrained, type(model))):
            with pytest.raises(UsageError, match=r"model\.safetensors was written after model.* may differ"):
                load(folder)
        (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")  # another variant
        assert same(ours.AutoModelForCausalLM.from_pretrained(folder), llama())


def test_what_the_caller_names_himself_is_left_to_transformers(folders: tuple[Path, Path]) -> None:
    for arguments in ({"state_dict": llama().state_dict()}, {"gguf_file": "model.gguf"}):
        with pytest.raises((ValueError, OSError, ImportError), match=r"state_dict|gguf|GGUF"):
            ours.AutoModelForCausalLM.from_pretrained(folders[1], **arguments)


def test_experts_are_merged(tmp_path: Path) -> None:
    ours.save_pretrained(mixture(), tmp_path / "slim")
    assert same(ours.AutoModelForCausalLM.from_pretrained(tmp_path / "slim"), mixture())


def test_variant_and_subfolder(tmp_path: Path) -> None:
    ours.save_pretrained(llama(), tmp_path / "all" / "inner", variant="fp16", max_shard_size="100KB")
    with pytest.raises(OSError, match="no file named"):
        ours.AutoModelForCausalLM.from_pretrained(tmp_path / "all", subfolder="inner")
    found = ours.AutoModelForCausalLM.from_pretrained(tmp_path / "all", subfolder="inner", variant="fp16")
    assert same(found, llama())


def test_dtype_of_the_weights_where_the_config_has_none(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "dtype"}))
    assert same(ours.AutoModelForCausalLM.from_pretrained(folders[1]), llama(tied=True))


def test_decoding_is_done_in_the_threads_of_transformers(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    plain = LazyTensor.__getitem__

    def watched(self: LazyTensor, index: Any) -> Any:
        assert self._name not in seen, "decoded twice"
        seen[self._name] = threading.current_thread().name
        return plain(self, index)

    monkeypatch.setattr(LazyTensor, "__getitem__", watched)
    ours.AutoModelForCausalLM.from_pretrained(folders[1])
    assert len(seen) == 20
    assert all("ThreadPoolExecutor" in name for name in seen.values())
    seen.clear()
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    ours.AutoModelForCausalLM.from_pretrained(folders[1])
    assert set(seen.values()) == {"MainThread"}


def test_differences_from_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = llama(), llama()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 1e-4 * torch.randn_like(parameter)
    base.save_pretrained(tmp_path / "base" / "plain")
    ours.save_pretrained(tuned, tmp_path / "tuned", base=tmp_path / "base" / "plain")
    whole = tmp_path / "whole"
    ours.save_pretrained(tuned, whole)
    sizes = [(folder / "model.slimtensors").stat().st_size for folder in (tmp_path / "tuned", whole)]
    assert sizes[0] < 0.7 * sizes[1]
    assert same(ours.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", base=tmp_path / "base" / "plain"), tuned)
    with pytest.raises(BaseError, match="was not found"):
        ours.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    monkeypatch.setenv("SLIMTENSORS_BASE_DIR", str(tmp_path / "base"))
    assert same(ours.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned"), tuned)


def test_damaged_weights_and_indexes(folders: tuple[Path, Path]) -> None:
    slim = folders[1]
    threads = threading.active_count()
    shard = sorted(slim.glob("*.slimtensors"))[0]
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-5000] + bytes(1000) + sound[-4000:])
    with pytest.raises((ChecksumError, FormatError), match=r"chunk|stored"):
        ours.AutoModelForCausalLM.from_pretrained(slim)
    shard.write_bytes(sound)
    index = slim / "model.slimtensors.index.json"
    places = json.loads(index.read_text())
    for wrong in ("../plain/model.slimtensors", "missing.slimtensors", "/etc/passwd"):
        changed = places | {"weight_map": dict.fromkeys(places["weight_map"], wrong)}
        index.write_text(json.dumps(changed))
        with pytest.raises(FormatError, match=r"not a plain file name|not there"):
            ours.AutoModelForCausalLM.from_pretrained(slim)
    index.write_text("{")
    with pytest.raises(FormatError, match="no weight_map"):
        ours.AutoModelForCausalLM.from_pretrained(slim)
    assert threading.active_count() <= threads + 2


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_the_repository_runs_only_if_it_is_trusted(folders: tuple[Path, Path]) -> None:
    slim = folders[1]
    config = json.loads((slim / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (slim / "config.json").write_text(json.dumps(config))
    (slim / "own.py").write_text(CODE)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        ours.AutoModelForCausalLM.from_pretrained(slim, trust_remote_code=False)
    model = ours.AutoModelForCausalLM.from_pretrained(slim, trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert same(model, llama(tied=True))


def test_offloaded_to_the_disk(folders: tuple[Path, Path], tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu",
              "model.layers.0": "cpu", "model.layers.1": "disk"}  # fmt: skip
    model = ours.AutoModelForCausalLM.from_pretrained(folders[1], device_map=places, offload_folder=tmp_path / "off")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(folders[0])
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, wanted(TOKENS).logits)


def test_saving_again_replaces_shards_and_refuses_plain_ones(folders: tuple[Path, Path]) -> None:
    plain, slim = folders
    ours.save_pretrained(llama(tied=True), slim)
    assert sorted(path.name for path in slim.glob("model*")) == ["model.slimtensors"]
    assert same(ours.AutoModelForCausalLM.from_pretrained(slim), llama(tied=True))
    before = sorted(path.name for path in plain.iterdir())
    with pytest.raises(UsageError, match="out of date"):
        ours.save_pretrained(llama(tied=True), plain)
    assert sorted(path.name for path in plain.iterdir()) == before
    for wrong in ({"safe_serialization": False}, {"push_to_hub": True}, {"preset": "tiny"}, {"layout": "zip"}):
        with pytest.raises(UsageError):
            ours.save_pretrained(llama(), slim.parent / "new", **wrong)
        assert not (slim.parent / "new").exists()
    assert sorted(path.name for path in slim.parent.iterdir()) == ["plain", "slim"]


def test_saved_files_decompress_to_those_of_transformers(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from slimtensors import decompress

    plain, slim = folders
    for shard in sorted(slim.glob("*.slimtensors")):
        restored = tmp_path / shard.with_suffix(".safetensors").name
        decompress(shard, restored)
        assert restored.read_bytes() == (plain / restored.name).read_bytes()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT reads it of transformers
def test_a_folder_with_an_adapter_beside_the_weights(folders: tuple[Path, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain, slim = folders
    torch.manual_seed(1)
    adapted = peft.get_peft_model(llama(tied=True), peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    for folder in (plain, slim):
        for path in (tmp_path / "adapter").glob("adapter*"):
            shutil.copy(path, folder)
    wanted = transformers.AutoModelForCausalLM.from_pretrained(plain)
    found = ours.AutoModelForCausalLM.from_pretrained(slim)
    assert torch.equal(found(TOKENS).logits, wanted(TOKENS).logits)
    assert not torch.equal(found(TOKENS).logits, llama(tied=True)(TOKENS).logits)


def test_one_changed_line_of_a_compressed_file(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "model")
    compress(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "model.slimtensors")
    assert same(ours.AutoModelForCausalLM.from_pretrained(tmp_path / "model"), llama())
