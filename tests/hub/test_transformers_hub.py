"""transformers and a Hub on localhost: pushed by one process, loaded by another, with the bases that files name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
pytest.importorskip("transformers")

from hub import BOB, Client, HubServer  # after transformers is known to be there

ROOT = Path(__file__).parents[1]
START = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
PUSH = (
    START
    + """
import warnings
import torch
from hub.tiny import llama
from slimtensors_hub.transformers import push_to_hub
base, tuned = llama(tied=True), llama(tied=True)
base.generation_config.max_length = 77
with torch.no_grad():
    for parameter in tuned.parameters():
        parameter += 1e-4 * torch.randn_like(parameter)
push_to_hub(base, "alice/base", max_shard_size="100KB", private=True)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    push_to_hub(tuned, "alice/tuned", base="alice/base")
assert any("private" in str(each.message) for each in seen)
push_to_hub(base, "alice/payloads", layout="safetensors")
torch.save({"base": base.state_dict(), "tuned": tuned.state_dict()}, sys.argv[1])
"""
)
LOAD = (
    START
    + """
import torch, transformers
from slimtensors_hub.transformers import AutoModel, AutoModelForCausalLM
wanted = torch.load(sys.argv[1])
def check(model, name):
    state = model.state_dict()
    assert state.keys() == wanted[name].keys()
    assert all(torch.equal(state[key], wanted[name][key]) for key in state)
local = {"local_files_only": True} if "offline" in sys.argv else {}
model = AutoModelForCausalLM.from_pretrained("alice/tuned", **local)
check(model, "tuned")
assert model.name_or_path == model.config._name_or_path == "alice/tuned"
model = AutoModelForCausalLM.from_pretrained("alice/base", revision="main", **local)
check(model, "base")
assert model.generation_config.max_length == 77
payloads = transformers.AutoModelForCausalLM.from_pretrained("alice/payloads", **local)
check(payloads, "base")
payloads.save_pretrained(sys.argv[2] + "/plain")  # as `pull --decompress` advises
assert "quantization_config" not in open(sys.argv[2] + "/plain/config.json").read()
check(transformers.AutoModelForCausalLM.from_pretrained(sys.argv[2] + "/plain"), "base")
if "offline" not in sys.argv:
    AutoModel.from_pretrained("alice/base", cache_dir=sys.argv[2])
    for name, arguments in (("alice/none", {}), ("alice/base", {"revision": "nowhere"})):
        try:
            AutoModel.from_pretrained(name, **arguments)
        except OSError as error:
            print(name, type(error).__name__)
print("good")
"""
)


def test_pushed_and_loaded(hub: HubServer, client: Client, tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state.pt", tmp_path / "elsewhere"
    client.run("python", "-c", PUSH, state)
    files = hub.store.files("alice/base")
    assert sum(name.endswith(".slimtensors") for name in files) == 3
    assert not any(name.endswith(".safetensors") for name in files)
    assert len(hub.store.files("alice/tuned")["model.slimtensors"]) < sum(
        len(data) for name, data in files.items() if name.endswith(".slimtensors")
    )
    assert "model.safetensors" in hub.store.files("alice/payloads")
    reader = Client(hub, tmp_path / "reader")
    done = reader.run("python", "-c", LOAD, state, elsewhere)
    assert done.stdout.splitlines() == [f"{name} OSError" for name in ("alice/none", "alice/base")] + ["good"]
    assert next(elsewhere.rglob("*.slimtensors")).is_file()
    hub.requests.clear()
    reader.run("python", "-c", LOAD, state, elsewhere, "offline", HF_HUB_OFFLINE="1")
    assert hub.requests.paths() == []
    stranger = Client(hub, tmp_path / "stranger").run("python", "-c", LOAD, state, elsewhere, check=False, token=BOB)
    assert stranger.returncode == 1
    assert "alice/base" in stranger.stderr.splitlines()[-1]
    hub.store.add("alice/tuned", {"model.safetensors": b"of another day"})
    load = "from slimtensors_hub.transformers import AutoModel; AutoModel.from_pretrained('alice/tuned')"
    said = reader.run("python", "-c", load).stderr
    assert "alice/tuned holds model.slimtensors and model.safetensors, weights of one name that may differ" in said
    assert BOB not in stranger.stderr
