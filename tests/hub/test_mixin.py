"""Torch modules with `ModelHubMixin`: saved, pushed, loaded again, whole and in shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hub import Client, HubServer
from slimtensors import compress

SCRIPT = """if True:
    import json, sys, warnings
    import torch
    from pathlib import Path
    from slimtensors_hub import ModelHubMixin

    class Model(torch.nn.Module, ModelHubMixin, license="mit", tags=["tiny"]):
        def __init__(self, width: int = 8, tied: bool = True):
            super().__init__()
            self.first = torch.nn.Linear(width, width, bias=False)
            self.second = torch.nn.Linear(width, width)
            self.tied = torch.nn.Linear(width, width, bias=False)
            self.tied.weight = self.first.weight

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))

    torch.manual_seed(0)
    model = Model(width=256).bfloat16()
    here = Path(sys.argv[1])
    model.save_pretrained(here / "whole")
    loaded = Model.from_pretrained(here / "whole")
    assert same(loaded.bfloat16(), model) and not loaded.training
    assert loaded.first.weight is loaded.tied.weight

    model.save_pretrained(here / "shards", max_shard_size="100KB")
    assert same(Model.from_pretrained(str(here / "shards")).bfloat16(), model)
    try:
        model.save_pretrained(here / "shards", base=here / "shards")
    except ValueError as error:
        assert "is of the base" in str(error), error
    else:
        raise AssertionError("the base would be lost")
    assert same(Model.from_pretrained(str(here / "shards")).bfloat16(), model)
    model.push_to_hub("alice/sharded", max_shard_size="100KB", private=True)
    assert same(Model.from_pretrained("alice/sharded").bfloat16(), model)

    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.004
    model.push_to_hub("alice/tuned", base="alice/sharded")
    assert same(Model.from_pretrained("alice/tuned", force_download=True).bfloat16(), model)
    assert same(Model.from_pretrained("alice/tuned", local_files_only=True).bfloat16(), model)

    # Saved and pushed at once, with the same options twice.
    options = {"preset": "small", "base": "hf://alice/sharded", "max_shard_size": "1KB"}
    model.save_pretrained(here / "both", push_to_hub=True, repo_id="alice/both", **options)
    assert same(Model.from_pretrained("alice/both").bfloat16(), model)
    assert model._slimtensors_options is None
    print("done")
"""


def test_a_module_is_saved_pushed_and_loaded(hub: HubServer, client: Client, tmp_path: Path) -> None:
    done = client.run("python", "-W", "error::UserWarning:slimtensors", "-c", SCRIPT, tmp_path)
    assert done.stdout.strip().endswith("done")
    whole = {path.name for path in (tmp_path / "whole").iterdir()}
    assert whole == {"model.slimtensors", "config.json", "README.md"}
    index = json.loads((tmp_path / "shards" / "model.slimtensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert shards == {path.name for path in (tmp_path / "shards").glob("*.slimtensors")}
    assert len(shards) == 2
    assert index["metadata"]["total_size"] == sum((tmp_path / "shards" / shard).stat().st_size for shard in shards)
    assert hub.store.repository("alice/sharded").private
    card = hub.store.files("alice/tuned")["README.md"].decode()
    assert "base_model: alice/sharded" in card
    assert "It is private: who may not read it cannot read this." in card
    tuned, sharded = (hub.store.files(name) for name in ("alice/tuned", "alice/sharded"))
    assert len(tuned["model.slimtensors"]) < 0.3 * sum(len(sharded[shard]) for shard in shards)
    pushed = {name: data for name, data in hub.store.files("alice/both").items() if ".slimtensors" in name}
    saved = {path.name: path.read_bytes() for path in (tmp_path / "both").glob("*.slimtensors*")}
    assert pushed == saved
    assert len(saved) > 2


PLAIN = SCRIPT.partition("    model.push_to_hub")[0] + """
    import shutil
    from safetensors.torch import save_file, save_model

    def weights(folder):
        return sorted(path.name for path in folder.iterdir() if path.name not in {"config.json", "README.md"})

    # Over all kinds of weights of an earlier day; those of other models, and other files, stay.
    mixed = here / "shards"
    for name in ["model.safetensors", "model-00001-of-00007.safetensors", "model.safetensors.index.json",
                 "model-00001-of-00009.slimtensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
                 "pytorch_model.bin.index.json", "adapter_model.safetensors", "notes.txt"]:
        (mixed / name).write_bytes(b"old")
    with torch.no_grad():
        model.second.bias += 1
    model.save_pretrained(mixed)
    assert weights(mixed) == ["adapter_model.safetensors", "model.slimtensors", "notes.txt"], weights(mixed)
    assert same(Model.from_pretrained(mixed).bfloat16(), model)
    model.save_pretrained(mixed, max_shard_size="100KB")
    assert "model.slimtensors" not in weights(mixed) and len(weights(mixed)) == 5, weights(mixed)

    # A save that fails leaves the folder's weights as they were.
    before = weights(mixed)
    try:
        model.save_pretrained(mixed, preset="tiny")
        raise AssertionError
    except ValueError:
        assert weights(mixed) == before

    plain = here / "plain"
    plain.mkdir()
    save_model(model, plain / "model.safetensors")  # of tied tensors it keeps one
    (plain / "config.json").write_text('{"width": 256}')
    assert same(Model.from_pretrained(plain).bfloat16(), model)
    sharded = here / "sharded"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sharded.mkdir()
    places = {name: f"model-0000{i + 1}-of-00004.safetensors" for i, name in enumerate(state)}
    for name, place in places.items():
        save_file({name: state[name]}, sharded / place)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (sharded / "config.json").write_text('{"width": 256}')
    assert same(Model.from_pretrained(sharded).bfloat16(), model)
    both = here / "both"
    model.save_pretrained(both)
    save_model(model, both / "model.safetensors")
    try:
        Model.from_pretrained(both)
        raise AssertionError
    except ValueError as error:
        assert "model.safetensors was written after model.slimtensors" in str(error), error

    def error(path):
        try:
            Model.from_pretrained(path)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    shutil.copytree(plain, here / "broken")
    plain = here / "broken"
    (plain / "model.safetensors").write_bytes(b"noise" * 9)
    assert error(plain).startswith("FormatError") and "model.safetensors" in error(plain), error(plain)
    (plain / "model.safetensors").rename(plain / "pytorch_model.bin")
    assert "neither *.slimtensors nor model.safetensors" in error(plain), error(plain)
    save_file({"first.weight": state["first.weight"]}, plain / "model.safetensors")
    assert "missing in the file: second.weight, second.bias" in error(plain), error(plain)
    print("done")
"""

FROM_HUB = SCRIPT.partition("    torch.manual_seed")[0] + """
    here = Path(sys.argv[1])
    expected = Model.from_pretrained(here / "plain")
    for name in ("alice/plain", "alice/sharded"):
        assert same(Model.from_pretrained(name), expected)
        assert same(Model.from_pretrained(name, local_files_only=True), expected)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert same(Model.from_pretrained("alice/both"), expected)
    assert sum("model.safetensors, weights of one name" in str(each.message) for each in seen) == 1
    warnings.simplefilter("error")
    assert same(Model.from_pretrained("alice/both", local_files_only=True), expected)
    assert same(Model.from_pretrained("alice/made"), expected)  # of the plain file beside it
    from slimtensors_hub import pull
    assert same(Model.from_pretrained(pull("alice/made")), expected)
    print("done")
"""


def test_plain_weights_are_loaded_and_none_are_left_behind(hub: HubServer, client: Client, tmp_path: Path) -> None:
    assert client.run("python", "-c", PLAIN, tmp_path).stdout.strip().endswith("done")
    shutil.copytree(tmp_path / "plain", tmp_path / "made")
    compress(tmp_path / "made" / "model.safetensors", tmp_path / "made" / "model.slimtensors")
    for name in ("plain", "sharded", "both", "made"):
        hub.store.create(f"alice/{name}")
        hub.store.add_folder(f"alice/{name}", tmp_path / name)
    assert client.run("python", "-c", FROM_HUB, tmp_path).stdout.strip().endswith("done")
