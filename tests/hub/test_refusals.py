"""What goes wrong with a Hub is one line with the next step; nothing half-written is left, no token gets about."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from hub import ALICE, BOB, READER, Client, HubServer
from hub.clients import Outcome, Talk
from hub.models import contents, fine_tune, plain_model
from slimtensors import UsageError
from slimtensors.numpy import save as save_compressed
from slimtensors_hub import decompressed, save_pretrained


def refused(outcome: Outcome, *words: str, error: str = "HubError") -> None:
    assert outcome.error == error, outcome
    assert "\n" not in outcome.words
    assert "hf_alice" not in outcome.words
    for word in words:
        assert word in outcome.words, outcome


def test_what_cannot_be_pulled(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    hub.store.add("alice/there", {"config.json": b"{}"})
    hub.store.add("bob/private", {"config.json": b"{}"}, private=True)
    hub.store.add("bob/gated", {"config.json": b"{}"}, gated=True)
    refused(talk("pull('alice/missing')"), "alice/missing is not there, or private", "hf auth login")
    refused(talk("pull('bob/private')"), "bob/private is not there, or private")
    refused(talk("pull('bob/gated')"), "bob/gated is gated", f"{hub.endpoint}/bob/gated")
    refused(talk("pull('alice/there', revision='gone')"), "alice/there has no revision gone", "name another one")
    refused(talk("pull('alice/there', revision='')"), "the revision is empty", error="UsageError")
    refused(talk("pull('alice/there', local_dir='')"), "local_dir is empty; the folder", error="UsageError")
    refused(talk(f"pull('alice/there', local_dir={__file__!r})"), "is not a folder", error="UsageError")
    refused(talk("pull('../there')"), "name one as OWNER/NAME", error="UsageError")
    refused(talk("pull('alice/there@')"), "name one as OWNER/NAME", error="UsageError")
    refused(talk("pull('alice/there', decompress=True, local_dir='/')"), "contain each other", error="UsageError")
    here = f"pull('alice/there', decompress=True, local_dir={str(Path(__file__).parent)!r})"
    refused(talk(here), "overwrite=True (--force) replaces", "local_dir= (on the command line -o)", error="UsageError")
    refused(talk(f"pull('alice/there', decompress=True, local_dir={__file__!r})"), "local_dir=", error="UsageError")
    out = str(tmp_path / "out")
    refused(
        talk(f"pull('alice/there', decompress=True, local_dir={out!r})"), "no .slimtensors file", error="UsageError"
    )
    config = b'{"quantization_config": {"quant_method": "slimtensors"}}'
    hub.store.add("alice/layout", {"config.json": config, "model.safetensors": bytes(100_000)})
    refused(
        talk(f"pull('alice/layout', decompress=True, local_dir={out!r})"),
        'alice/layout has the layout "safetensors"', "cannot be given back byte for byte",
        "AutoModelForCausalLM.from_pretrained('alice/layout').save_pretrained('FOLDER')", error="UsageError",
    )  # fmt: skip
    assert not Path(out).exists()
    assert not any("model.safetensors" in path for path in hub.requests.paths())  # nothing is downloaded for it
    hub.faults.add(path="/api/models", status=503, times=3)
    refused(talk("pull('alice/there')"), "answers 503; try again later")
    assert talk("pull('alice/there')").error == ""
    del hub.store.tokens[ALICE]
    refused(talk("pull('alice/there')"), "your token was refused; it may be revoked")
    assert talk("pull('alice/there', local_files_only=True)").error == ""
    hub.close()
    refused(talk("pull('alice/there')"), f"no connection to {hub.endpoint}")


@pytest.mark.parametrize(
    "path",
    ["../evil", "/evil", "a/../../evil", "a//b", "a\\..\\evil", "C:evil", "a/.git/config", "x\n", "b/", "x" * 300],
)
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    from slimtensors_hub import HubError
    from slimtensors_hub.listing import _check_path

    for good in ("model.slimtensors", "a/b c/d-e_f.json", ".gitattributes", "模型.json", "..x"):
        _check_path(good, "alice/tiny")
    with pytest.raises(HubError, match="no plain path; nothing was downloaded"):
        _check_path(path, "alice/tiny")


def test_hostile_listings_and_indexes(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    commit = hub.store.add("alice/odd", {"config.json": b"{}"})
    tree = hub.store.repository("alice/odd").commits[commit]
    tree["../../evil.json"] = tree["config.json"]
    hub.requests.clear()
    refused(talk("pull('alice/odd')"), "'../../evil.json'", "nothing was downloaded")
    assert len(hub.requests) == 1
    twice = [{"rfilename": "a", "size": 1, "blobId": "0" * 40}] * 2
    hub.faults.add(path="/api/models", answer={"id": "alice/odd", "sha": commit, "siblings": twice})
    refused(talk("pull('alice/odd')"), "lists 'a' twice")
    hub.faults.add(path="/api/models", answer={"id": "alice/odd", "sha": "../..", "siblings": []})
    refused(talk("pull('alice/odd')"), "states no commit")
    # An index that leads out of the folder, a link's text where a weight file should be.
    del tree["../../evil.json"]
    index = b'{"metadata": {}, "weight_map": {"a": "../../../config.slimtensors"}}'
    hub.store.add("alice/odd", {"model.slimtensors.index.json": index, "model.slimtensors": b"../../../etc/passwd"})
    out = str(tmp_path / "out")
    refused(talk(f"pull('alice/odd', decompress=True, local_dir={out!r})"), "64 bytes", error="TruncatedError")
    hub.store.add("bob/odd", {"model.slimtensors.index.json": index, "config.json": b"{}"})
    refused(talk(f"pull('bob/odd', decompress=True, local_dir={out!r})"), "plain file name", error="FormatError")
    assert not Path(out).exists()
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_many_files_are_listed_page_by_page(hub: HubServer, talk: Talk) -> None:
    names = [f"d{i:04}/f" for i in range(1100)]
    commit = hub.store.add("alice/many", dict.fromkeys(names, b""))
    some = [{"rfilename": name, "size": 0, "blobId": "0" * 40} for name in names[:1001]]
    hub.faults.add(path="/api/models", answer={"id": "alice/many", "sha": commit, "siblings": some})
    assert talk("found = pull('alice/many', allow_patterns='d1099/*')").error == ""
    assert talk("[path.name for path in found.glob('d*/*')]").words == "['f']"
    assert sum("/tree/" in path for path in hub.requests.paths("GET")) >= 2


def test_a_push_that_is_killed_half_way(hub: HubServer, client: Client, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    before = hub.store.add("alice/tiny", {"config.json": b"old"})
    push = f"__import__('slimtensors_hub').push({str(folder)!r}, 'alice/tiny')"
    with client.talk(tmp_path / "log.txt", TMPDIR=str(tmp_path)) as talk:
        hub.faults.add(where="storage", method="PUT", skip=1, then=talk.kill)
        assert talk(push).error == "Killed"
    assert hub.store.repository("alice/tiny").refs == {"main": before}
    hub.requests.clear()
    with client.talk(tmp_path / "log.txt") as talk:
        assert talk(push).error == ""
    assert "model.slimtensors" in hub.store.files("alice/tiny")
    assert hub.requests.paths("PUT") == []  # what had arrived is not sent again


def test_what_the_network_does_to_a_download(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    assert talk(f"push({str(folder)!r}, 'alice/tiny')").error == ""
    stored = hub.store.files("alice/tiny")["model.slimtensors"]
    tree = hub.store.repository("alice/tiny").commits[hub.store.repository("alice/tiny").refs["main"]]
    pulled = "pull('alice/tiny', cache_dir={!r})"

    def attempt(number: int) -> tuple[Outcome, Path]:
        cache = tmp_path / f"cache{number}"
        return talk(pulled.format(str(cache))), cache

    faults = [
        {"where": "storage", "drop_after": 5000, "times": 2},
        {"where": "storage", "status": 503, "times": 2},
        {"path": "/resolve/", "method": "HEAD", "status": 500, "times": 3},
        {"where": "storage", "stall_at": 1000, "delay": 1.5},  # longer than the client waits
        {"where": "storage", "flip_at": 20_000},  # huggingface_hub does not check what it gets; we do
        {"path": "/resolve/.*config.json", "method": "GET", "flip_at": 3},
    ]
    for number, fault in enumerate(faults):
        hub.faults.add(**fault)
        happened = hub.faults.happened
        outcome, cache = attempt(number)
        assert outcome.error == "", (fault, outcome)
        assert hub.faults.happened > happened
        assert {path.read_bytes() for path in cache.rglob("*") if path.name == "model.slimtensors"} == {stored}
    # The same into a folder of one's own.
    hub.faults.add(where="storage", flip_at=20_000)
    assert talk(f"pull('alice/tiny', local_dir={str(tmp_path / 'own')!r})").error == ""
    assert contents(tmp_path / "own") == hub.store.files("alice/tiny")
    # Wrong bytes every time: refused, and not left in the cache for others.
    hub.faults.add(where="storage", flip_at=20_000, times=None)
    outcome, cache = attempt(len(faults))
    refused(outcome, "model.slimtensors has not the digest", "it was removed")
    assert not [path for path in cache.rglob("*") if path.name == tree["model.slimtensors"].digest]
    hub.faults.clear()
    # A branch that moves between two requests: everything is of the commit that was found first.
    hub.faults.add(path="/resolve/", then=lambda: hub.store.add("alice/tiny", {"config.json": b"[]", "new": b""}))
    outcome, cache = attempt(len(faults) + 1)
    assert outcome.error == ""
    assert contents(folder)["config.json"] in [path.read_bytes() for path in cache.rglob("config.json")]
    assert not list(cache.rglob("new"))


def test_tokens_stay_with_the_host_that_they_are_for(hub: HubServer, talk: Talk) -> None:
    hub.store.add("alice/tiny", {"config.json": b"{}", "model.bin": bytes(1000)})
    with HubServer() as elsewhere:
        hub.faults.add(path="/resolve/", method="GET", redirect=elsewhere.endpoint, times=None)
        outcome = talk("pull('alice/tiny')")
        assert outcome.error == "HubError"
        seen = [request.authorization for request in elsewhere.requests]
        assert seen
        assert set(seen) == {None}
    assert f"Bearer {ALICE}" in [request.authorization for request in hub.requests]
    hub.faults.clear()
    assert talk("pull('alice/tiny')").error == ""  # from the storage, on another port
    assert {request.authorization for request in hub.requests if request.where == "storage"} == {None}


def test_what_cannot_be_pushed(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    push = f"push({str(folder)!r}, 'alice/tiny'"
    # Before anything is made.
    refused(talk(push + ", base='alice/missing')"), "alice/missing is not there")
    refused(talk(push + ", base='bob/private')"), "bob/private is not there")
    refused(talk(push + ", preset='huge')"), "huge", error="UsageError")
    refused(talk("push(3, 'alice/tiny')"), "a int is neither a path nor a model", error="UsageError")
    refused(talk(push + f", token={READER!r})"), "your token may only read")
    refused(talk(push + ", token='hf_nobody')"), "your token was refused")
    refused(talk(push + ", revision='next')"), "alice/tiny is not there yet", "has no revision next")
    assert not hub.store.repositories
    refused(talk(push + f", token={BOB!r})"), "your token may not do this")
    before = hub.store.add("alice/tiny", {"config.json": b"old"})
    refused(talk(push + ", revision='gone')"), "has no revision gone")
    # Half-way: the weights cannot be uploaded.
    hub.faults.add(where="storage", method="PUT", status=403, times=None)
    refused(talk(push + ")"), "alice/tiny: your token may not do this")
    hub.faults.clear()
    assert hub.store.repository("alice/tiny").refs["main"] == before
    # Somebody else commits after we have looked.
    hub.faults.add(path="/commit/", then=lambda: hub.store.add("alice/tiny", {"theirs": b""}))
    refused(talk(push + ")"), "somebody else committed meanwhile; run it again")
    assert hub.store.files("alice/tiny")["config.json"] == b"old"
    assert talk(push + ")").error == ""
    assert {"theirs", "model.slimtensors"} <= hub.store.files("alice/tiny").keys()
    # What is there is not what was sent.
    hub.faults.add(where="storage", method="GET", flip_at=100, times=None)
    refused(talk(push + ")"), "is made, but what it holds could not be verified", "has not the digest")
    assert talk(push + ", verify=False)").error == ""


def test_nothing_is_pushed_offline(hub: HubServer, client: Client, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    said = client.run("slimtensors", "push", folder, "alice/tiny", check=False, HF_HUB_OFFLINE="1")
    assert said.returncode == 3
    assert "nothing can be uploaded while HF_HUB_OFFLINE is set: unset it to push" in said.stderr
    assert not hub.requests.paths()


def test_what_a_folder_may_hold(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    """Odd entries are in nobody's way where they are left out; names that nobody could pull are not pushed."""
    folder = plain_model(tmp_path / "in")
    before = contents(folder)
    (folder / ".git").mkdir()
    os.mkfifo(folder / ".git" / "fsmonitor.ipc")
    (folder / "deep" / ".git").write_text("gitdir: elsewhere")  # of a submodule, or a work tree
    (folder / "gone.bin").symlink_to("nowhere")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "a:b.txt").write_bytes(b"")
    (folder / "line\nend").write_bytes(b"")
    push = f"push({str(folder)!r}, 'alice/tiny', ignore_patterns="
    refused(talk(push + "['elsewhere', '*:*', 'line*'])"), "No such file", error="FileNotFoundError")
    refused(talk(push + "['gone.bin', '*:*', 'line*'])"), "a link to a folder", error="UsageError")
    refused(talk(push + "['gone.bin', 'elsewhere', 'line*'])"), "a:b.txt", "rename it", error="UsageError")
    refused(talk(push + "['gone.bin', 'elsewhere', '*:*'])"), r"line\nend", "rename it", error="UsageError")
    assert not hub.store.repositories
    assert talk(push + "['gone.bin', 'elsewhere', '*:*', 'line*'])").error == ""
    out = tmp_path / "out"
    assert talk(f"pull('alice/tiny', decompress=True, local_dir={str(out)!r})").error == ""
    assert {**contents(out), ".gitattributes": b""} == {**before, ".gitattributes": b""}


@pytest.mark.parametrize("compressed", [False, True])
def test_links_out_of_a_pushed_folder(talk: Talk, tmp_path: Path, compressed: bool) -> None:
    """Weights, and indexes that are written anew, may lie elsewhere; what goes as it is may not."""
    folder, shards = tmp_path / "in", ("a", "b")
    folder.mkdir()
    kind = "slimtensors" if compressed else "safetensors"
    for name in shards:
        made = (save if not compressed else save_compressed)({name: np.arange(90_000)})
        (tmp_path / f"{name}.{kind}").write_bytes(made)
        (folder / f"{name}.{kind}").symlink_to(tmp_path / f"{name}.{kind}")
    index = f"model.{kind}.index.json"
    (tmp_path / index).write_text(json.dumps({"weight_map": {name: f"{name}.{kind}" for name in shards}}))
    (folder / index).symlink_to(tmp_path / index)
    push = f"push({str(folder)!r}, 'alice/tiny'"
    if compressed:
        refused(talk(push + ")"), index, "out of the folder, and is not copied", error="UsageError")
        (folder / index).unlink()
    assert talk(push + ")").error == ""
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    refused(talk(push + ")"), "notes.txt", "out of the folder, and is not copied", error="UsageError")
    assert talk(push + ", ignore_patterns='notes.txt')").error == ""


def test_a_base_that_is_gone_is_named(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    commit = hub.store.add_folder("bob/base", plain_model(tmp_path / "base"))
    folder = fine_tune(tmp_path / "in")
    assert talk(f"push({str(folder)!r}, 'alice/tuned', base='bob/base')").error == ""
    other = str(tmp_path / "other")
    out = str(tmp_path / "out")
    pull = f"pull('alice/tuned', cache_dir={other!r}, decompress=True, local_dir={out!r}"
    repository = hub.store.repository("bob/base")
    kept = repository.commits.pop(commit)
    refused(talk(pull + ")"), f"of bob/base at revision {commit}", "bob/base has no revision", error="BaseError")
    assert not Path(out).exists()
    # Another file under the base's name: its digest tells.
    entry = hub.store.keep((tmp_path / "in" / "model.safetensors").read_bytes(), large=True)
    repository.commits[commit] = {**kept, "model.safetensors": entry}
    refused(talk(pull + ")"), "model.slimtensors", error="BaseError")
    assert not Path(out).exists()
    # The base from somewhere else helps.
    base = str(tmp_path / "base")
    assert talk(pull + f", base={base!r})").error == ""
    assert contents(Path(out))["model.safetensors"] == contents(folder)["model.safetensors"]


@pytest.mark.skipif(
    int(version("huggingface_hub").partition(".")[0]) < 1, reason="files are read by range with huggingface_hub 1.0"
)
@pytest.mark.parametrize("what", ["other tensors", "no weights"])
def test_a_file_that_has_no_such_base_is_not_fetched(hub: HubServer, talk: Talk, tmp_path: Path, what: str) -> None:
    """A header may name anything that its reader may read, of any size: its own header is looked at first."""
    commit = hub.store.add_folder("bob/base", plain_model(tmp_path / "base"))
    folder = fine_tune(tmp_path / "in")
    assert talk(f"push({str(folder)!r}, 'alice/tuned', base='bob/base')").error == ""
    other = bytes(4 << 20)
    if what == "other tensors":
        other = save({"other": np.zeros((1024, 1024), np.float32)})
    repository = hub.store.repository("bob/base")
    entry = hub.store.keep(other, large=True)
    repository.commits[commit] = {**repository.commits[commit], "model.safetensors": entry}
    hub.requests.clear()
    reader, out = Client(hub, tmp_path / "reader"), tmp_path / "out"  # with a cache that does not have the old one
    done = reader.run("slimtensors", "pull", "alice/tuned", "--decompress", "-o", out, check=False)
    assert done.returncode == 1
    assert "is not fetched" in done.stderr
    assert not out.exists()
    assert not list(reader.home.rglob("models--bob--base"))
    assert hub.requests.sent() < len(other) // 2


def test_what_is_neither_a_folder_nor_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.slimtensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"model\.slimtensors is a file, .*slimtensors\.decompress"):
        decompressed(tmp_path / "model.slimtensors").__enter__()
    with pytest.raises(UsageError, match=r"a dict has no save_pretrained of its own.*save_model"):
        save_pretrained({}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hints_of_bases_are_names_or_nothing() -> None:
    from slimtensors.container.header import Base
    from slimtensors.dtypes import DTYPES
    from slimtensors_hub.bases import origin_of

    good = Base(DTYPES["BF16"], (1,), bytes(32), {"repository": "a/b", "revision": "0" * 40, "file": "x/m.safetensors"})
    assert origin_of(good) == ("a/b", "0" * 40, "x/m.safetensors")
    bad = [
        ("repository", "../b"), ("repository", "a/b/c"), ("repository", "https://evil/x"), ("repository", ""),
        ("revision", "main"), ("revision", "../" + "0" * 37), ("file", "../m.safetensors"), ("file", "/m.safetensors"),
        ("file", "m.bin"), ("file", "x/../../m.safetensors"), ("file", "x//m.safetensors"), ("file", ".m.safetensors"),
    ]  # fmt: skip
    for key, value in bad:
        assert origin_of(good._replace(hints={**good.hints, key: value})) is None, (key, value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "HF_HUB_DOWNLOAD_TIMEOUT is 'soon'; it can be a whole number of seconds"),
        ("HF_HUB_ETAG_TIMEOUT", "-1", "HF_HUB_ETAG_TIMEOUT is '-1'; it can be a whole number of seconds"),
        ("HF_ENDPOINT", "hub.example.org", "it can be an address such as https://huggingface.co"),
        ("HF_ENDPOINT", "", "HF_ENDPOINT is ''; it can be an address"),
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT: http://[::1 is not an address"),
    ],
)
def test_variables_that_make_no_sense(hub: HubServer, client: Client, name: str, value: str, words: str) -> None:
    """Of huggingface_hub, which ends with an error of Python there."""
    hub.store.add("alice/there", {"config.json": b"{}"})
    for command in (("pull", "alice/there"), ("inspect", "hf://alice/there/model.slimtensors")):
        done = client.run("slimtensors", *command, check=False, **{name: value})
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_token_that_is_none(hub: HubServer, client: Client) -> None:
    hub.store.add("alice/there", {"config.json": b"{}"})
    done = client.run("slimtensors", "pull", "alice/there", check=False, HF_TOKEN="hf_\u20acuro")  # noqa: S106 # nobody's
    assert done.returncode == 3
    assert "your token holds characters that no token has: log in with `hf auth login`" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "uro" not in done.stderr

