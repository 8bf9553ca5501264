"""Repositories read by range: hf:// names, tokens, redirects, commits, the cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save as save_plain

from api.made import weights
from hub import BOB, Client, HubServer
from hub.requests import Request
from slimtensors.numpy import save

FILE = "model.slimtensors"

# What every script begins with: `said(call)` gives an error as its class and its text.
BEGIN = """
import hashlib, json, sys, slimtensors
from slimtensors.numpy import load_file, stream_tensors
from slimtensors_hub.remote import spans
spans.FIRST_WAIT = 0.01
def digest(arrays):
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
def said(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
"""


def digest(arrays: dict[str, np.ndarray]) -> str:
    import hashlib

    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {f"layer{i}.weight": weights(rng, 1500, 1024).astype(ml_dtypes.bfloat16) for i in range(2)}


@pytest.fixture(scope="module")
def packed(arrays: dict[str, np.ndarray]) -> bytes:
    return save(arrays, self_check=False)


def ranges(requests: list[Request]) -> list[tuple[int, int]]:
    """Of requests that were answered with bytes."""
    found = (re.fullmatch(r"bytes=(\d+)-(\d+)", each.range or "") for each in requests if each.status == 206)
    return sorted((int(each[1]), int(each[2]) + 1) for each in found if each)


def test_requests(hub: HubServer, client: Client, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    """The hub is asked once, and gets the token; the storage gets none, and sends every byte once."""
    commit = hub.store.add("alice/tiny", {FILE: packed}, private=True)
    script = f"""{BEGIN}
print(digest(load_file('hf://alice/tiny/{FILE}')))
with slimtensors.safe_open('hf://alice/tiny@{commit}/{FILE}') as file:
    file.get_slice('layer1.weight')[1200:1201]
slimtensors.inspect('{hub.endpoint}/alice/tiny/resolve/main/{FILE}')  # its page's address
"""
    assert client.python(script) == digest(arrays)
    asked = list(hub.requests)
    starts = [at for at, each in enumerate(asked) if each.where == "hub"]
    assert len(starts) == 3
    first, *others = asked[: starts[1]]
    assert (first.where, first.path, first.status) == ("hub", f"/alice/tiny/resolve/main/{FILE}", 302)
    assert first.authorization == "Bearer hf_alice_writes"
    assert first.agent.startswith("slimtensors/")
    assert {(each.where, each.status, each.authorization) for each in others} == {("storage", 206, None)}
    assert sum(each.sent for each in others) == len(packed)
    assert [low for low, _ in ranges(others)] == [0, *(high for _, high in ranges(others)[:-1])]
    assert [each.where for each in asked[starts[1] : starts[2]]] == ["hub", "storage", "storage"]
    assert [(each.where, each.authorization is None) for each in asked[starts[2] :]] == [
        ("hub", False),
        ("storage", True),
    ]


def test_shards_of_one_commit(hub: HubServer, client: Client, arrays: dict[str, np.ndarray]) -> None:
    """A branch that moves while its files are read changes nothing."""
    places, files = {}, {}
    for number, name in enumerate(arrays):
        shard = f"model-0000{number + 1}-of-00002.slimtensors"
        files[shard], places[name] = save({name: arrays[name]}, self_check=False), shard
    files["model.slimtensors.index.json"] = json.dumps({"weight_map": places}).encode()
    commit = hub.store.add("alice/sharded", files)
    hub.faults.add(
        where="storage", then=lambda: hub.store.add("alice/sharded", dict.fromkeys(places.values(), b"another"))
    )
    assert client.python(f"{BEGIN}print(digest(dict(stream_tensors('hf://alice/sharded'))))") == digest(arrays)
    asked = [each.path for each in hub.requests if each.where == "hub"]
    assert asked[0] == "/api/models/alice/sharded"
    assert all(f"/resolve/{commit}/" in path for path in asked[1:])


def test_a_file_of_one_commit(hub: HubServer, client: Client, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    hub.store.add("alice/tiny", {FILE: packed})
    hub.faults.add(where="storage", then=lambda: hub.store.add("alice/tiny", {FILE: packed[:-64]}))
    hub.faults.add(where="storage", skip=2, status=403)  # the signature has expired: the hub is asked again
    assert client.python(f"{BEGIN}print(digest(load_file('hf://alice/tiny/{FILE}')))") == digest(arrays)
    assert [each.where for each in hub.requests].count("hub") == 2


def test_faults(hub: HubServer, client: Client, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    """Those that pass are got over; those that stay are told in a line."""
    hub.store.add("alice/tiny", {FILE: packed})
    for fault in (
        {"where": "hub", "status": 503, "times": 3},
        {"where": "hub", "status": 429},
        {"where": "storage", "status": 500, "times": 2, "skip": 1},
        {"where": "storage", "drop_after": 100_000, "times": 3},
    ):
        hub.faults.add(**fault)
    assert client.python(f"{BEGIN}print(digest(load_file('hf://alice/tiny/{FILE}')))") == digest(arrays)
    assert hub.faults.happened == 9
    hub.faults.add(where="storage", flip_at=len(packed) // 8, skip=2, times=None)
    found = client.python(f"{BEGIN}print(said(lambda: load_file('hf://alice/tiny/{FILE}')))")
    assert re.match(r"ChecksumError: tensor 'layer\d.weight', chunk \d: its \d+ bytes at offset", found), found
    hub.faults.clear()


def test_refusals(hub: HubServer, client: Client, packed: bytes) -> None:
    hub.store.add("alice/private", {FILE: packed}, private=True)
    hub.store.add("alice/gated", {FILE: packed}, gated=True)
    script = f"""{BEGIN}
for name in sys.argv[1:]:
    for read in (slimtensors.inspect, lambda name: list(stream_tensors(name.rpartition('/')[0]))):
        print(said(lambda: read(name)))
print(said(lambda: slimtensors.inspect('hf://alice/open/none.slimtensors')))
"""
    hub.store.add("alice/open", {FILE: packed})
    names = [f"hf://alice/{name}/{FILE}" for name in ("private", "gated", "none", "open@v9")]
    *said, missing = client.run("python", "-c", script, *names, token=BOB).stdout.splitlines()
    assert len(said) == 2 * len(names)
    assert all(line.startswith("RemoteError: hf://alice/") for line in said[::2]), said
    assert all(re.match(r"HubError: alice/|RemoteError: hf://alice/gated@[0-9a-f]{40}/", line) for line in said[1::2])
    login = "log in with `hf auth login`, or set HF_TOKEN"
    for line, words in zip(
        said[::2],
        [
            f"there is no such repository, or it is private: check the name, and {login} (404)",
            f"access to the repository has to be asked for on its page; then {login} (403)",
            f"there is no such repository, or it is private: check the name, and {login} (404)",
            "the repository has no such revision: check what follows the @ (404)",
        ],
        strict=True,
    ):
        assert line.endswith(words), line
    for token, words in (("hf_revoked", f"the token is not valid, or not any more (401): {login}"), (None, "(401)")):
        found = client.run("slimtensors", "inspect", names[0], token=token, check=False)
        assert (found.returncode, found.stdout) == (3, "")
        assert found.stderr.startswith(f"slimtensors: {names[0]}: ")
        assert found.stderr.endswith(words + "\n")
        assert found.stderr.count("\n") == 1
    assert "hf_" not in re.sub("hf_[a-z]+_writes", "", "".join(said)).replace("HF_TOKEN", "")
    assert missing.endswith("the repository has no such file at this revision: check the path (404)")
    found = client.run("slimtensors", "inspect", f"hf://datasets/alice/open/{FILE}", check=False)
    assert "there is no dataset alice/open, or it is private (404)" in found.stderr


def test_the_cache(hub: HubServer, client: Client, arrays: dict[str, np.ndarray], packed: bytes) -> None:
    """A file that huggingface_hub has downloaded is not asked for again, if it must be the one that is meant."""
    commit = hub.store.add("alice/tiny", {FILE: packed})
    client.run("hf", "download", "alice/tiny")
    hub.requests.clear()
    script = f"""{BEGIN}
for at in ('', '@{commit}'):
    print(digest(load_file(f'hf://alice/tiny{{at}}/{FILE}')), digest(dict(stream_tensors(f'hf://alice/tiny{{at}}'))))
if sys.argv[1] == '1':
    print(said(lambda: slimtensors.inspect('hf://alice/other/{FILE}')))
"""
    for offline, most in (("0", 4), ("1", 0)):  # a branch may have moved; where a commit is named, files are asked for
        found = client.run("python", "-c", script, offline, HF_HUB_OFFLINE=offline).stdout
        assert found.split()[:4] == [digest(arrays)] * 4
        assert len(hub.requests) == most, hub.requests.paths()
        assert hub.requests.sent() < len(packed) // 2
        hub.requests.clear()
    assert found.endswith("is not in the cache, and HF_HUB_OFFLINE forbids to ask for it; unset that\n")


def test_commands(hub: HubServer, client: Client, arrays: dict[str, np.ndarray], packed: bytes, tmp_path: Path) -> None:
    plain = save_plain(arrays)
    hub.store.add("alice/tiny", {FILE: packed})
    hub.store.add("alice/plain", {"model.safetensors": plain, "README.md": b"# plain"})
    estimated = client.run("slimtensors", "estimate", "hf://alice/plain", "--json")
    found = json.loads(estimated.stdout)
    assert found["source_bytes"] == len(plain)
    assert estimated.stderr == ""  # no terminal, no bar
    assert found["ratio"] == pytest.approx(len(packed) / len(plain), abs=0.01)
    assert hub.requests.sent() < len(plain)
    for option, bar in (("--progress", True), ("-q", False)):
        said = client.run("slimtensors", "estimate", "hf://alice/plain", option).stderr
        assert ("estimate: 100%" in said) is bar
    hub.store.add("alice/parts", {"unet/model.safetensors": plain, "text/model.slimtensors": packed})
    found = json.loads(client.run("slimtensors", "estimate", "hf://alice/parts", "--json").stdout)
    assert found["source_bytes"] == len(plain)
    assert found["files"][0]["file"].endswith("/unet/model.safetensors")
    found = json.loads(client.run("slimtensors", "verify", "hf://alice/parts", "--json").stdout)
    assert [each["file"].rpartition("@")[2][40:] for each in found["files"]] == [f"/text/{FILE}"]
    hub.store.add("alice/none", {"README.md": b"# no weights"})
    for verb, kinds in (("estimate", "*.safetensors or *.gguf"), ("verify", "*.slimtensors")):
        said = client.run("slimtensors", verb, "hf://alice/none", check=False).stderr
        assert said == f"slimtensors: wrong file: hf://alice/none holds no {kinds} file\n"
    checked = client.run("slimtensors", "verify", "hf://alice/tiny").stdout
    assert re.fullmatch(rf"hf://alice/tiny@[0-9a-f]{{40}}/{FILE}: sound, 2 tensors, .*\n", checked)
    target = tmp_path / "back.safetensors"
    saved = client.run("slimtensors", "salvage", f"hf://alice/tiny/{FILE}", tmp_path / "salvaged.safetensors").stdout
    assert f"hf://alice/tiny/{FILE} -> " in saved
    client.run("slimtensors", "decompress", f"hf://alice/tiny/{FILE}", "-o", target)
    assert target.read_bytes() == plain
    for verb, *base in (["flatten"], ["rebase", "--base", target]):
        made = tmp_path / f"{verb}.slimtensors"
        said = client.run("slimtensors", verb, f"hf://alice/tiny/{FILE}", made, *base).stdout
        assert f"hf://alice/tiny/{FILE} -> {made}: " in said
        client.run("slimtensors", "verify", made, "--against", target, *base)


def test_a_base_in_a_repository(hub: HubServer, client: Client) -> None:
    rng = np.random.default_rng(5)
    base = {"a": weights(rng, 60, 600), "b": weights(rng, 60, 600)}
    tuned = {name: (array * np.float32(1 + 2**-12)).astype(np.float32) for name, array in base.items()}
    commit = hub.store.add("alice/base", {"model.safetensors": save_plain(base)})
    hub.store.add("alice/tuned", {FILE: save(tuned, base=base, self_check=False)})
    script = f"""{BEGIN}
print(digest(load_file('hf://alice/tuned/{FILE}', base='hf://alice/base')))
print(digest(load_file('hf://alice/tuned/{FILE}', base='hf://alice/base/model.safetensors')))
slimtensors.compress('hf://alice/base/model.safetensors', sys.argv[1], base='hf://alice/base')
print(json.dumps(slimtensors.inspect(sys.argv[1]).tensors[0].base.hints))
"""
    said = client.run("python", "-c", script, client.home.parent / "x.slimtensors").stdout.split("\n")
    assert said[:2] == [digest(tuned)] * 2
    hints = {"tensor": "a", "file": "model.safetensors", "repository": "alice/base", "revision": commit}
    assert json.loads(said[2]) == hints
    file = client.home.parent / "x.slimtensors"
    missing = client.run("slimtensors", "verify", file, check=False)
    assert f"--base hf://alice/base@{commit}" in missing.stderr
    client.run("slimtensors", "verify", file, "--base", f"hf://alice/base@{commit}")


def test_a_token_that_is_none(hub: HubServer, client: Client) -> None:
    hub.store.add("alice/there", {FILE: b"never read"})
    done = client.run("slimtensors", "inspect", f"hf://alice/there/{FILE}", check=False, HF_TOKEN="hf_\u20acuro")  # noqa: S106 # nobody's
    assert done.returncode == 3
    assert "your token holds characters that no token has" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "uro" not in done.stderr
