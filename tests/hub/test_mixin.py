"""Torch modules with `ModelHubMixin`: saved, pushed, loaded again, whole and in shards."""

from __future__ import annotations

import json
from pathlib import Path

from hub import Client, HubServer

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
    model.push_to_hub("alice/sharded", max_shard_size="100KB", private=True)
    assert same(Model.from_pretrained("alice/sharded").bfloat16(), model)

    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.004
    model.push_to_hub("alice/tuned", base="alice/sharded")
    assert same(Model.from_pretrained("alice/tuned", force_download=True).bfloat16(), model)
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
