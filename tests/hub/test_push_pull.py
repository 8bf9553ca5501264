"""push, pull and convert between folders and a Hub on localhost, each in a process of its own."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from hub import BOB, READER, Client, HubServer
from hub.clients import Outcome, Talk
from hub.models import contents, fine_tune, plain_model, sharded_model


def done(outcome: Outcome) -> str:
    """What a line came to; it must have gone well."""
    assert outcome.error == "", outcome
    return outcome.words


def slim(client: Client, *args: object, **options: object):
    return client.run("slimtensors", *args, **options)  # type: ignore[arg-type]


def test_a_folder_there_and_back(hub: HubServer, client: Client, tmp_path: Path) -> None:
    folder = sharded_model(tmp_path / "in")
    said = slim(client, "push", folder, "alice/tiny", "--private")
    assert said.stdout.startswith(f"{hub.endpoint}/alice/tiny/commit/")
    assert hub.store.repository("alice/tiny").private
    files = hub.store.files("alice/tiny")
    plain = contents(folder)
    for name in ("config.json", "deep/vocabulary.bin"):
        assert files[name] == plain[name]
    assert not any(name.endswith(".safetensors") for name in files)
    shards = set(json.loads(files["model.slimtensors.index.json"])["weight_map"].values())
    assert shards == {name for name in files if name.endswith(".slimtensors")}
    assert len(shards) == 2
    tree = hub.store.repository("alice/tiny").commits[hub.store.repository("alice/tiny").refs["main"]]
    assert all(tree[shard].large for shard in shards)
    assert b"*.slimtensors filter=lfs" in files[".gitattributes"]

    other = Client(hub, tmp_path / "other")  # somebody else's machine
    slim(other, "pull", "alice/tiny", "--decompress", "-o", tmp_path / "out")
    back = contents(tmp_path / "out")
    assert b"slimtensors" not in back.pop(".gitattributes")
    assert back == plain
    # So it is with what was compressed here and uploaded by the hub's own command, which knows nothing of us.
    slim(client, "compress", folder, "-o", tmp_path / "slim")
    client.run("hf", "upload", "alice/by-hand", tmp_path / "slim")
    slim(other, "pull", "alice/by-hand", "--decompress", "-o", tmp_path / "hand")
    assert {**contents(tmp_path / "hand"), ".gitattributes": b""} == {**plain, ".gitattributes": b""}
    # And that command gives what is there.
    other.run("hf", "download", "alice/tiny", "--local-dir", tmp_path / "hf")
    assert contents(tmp_path / "hf") == files
    # Without --decompress the folder in the cache is printed, and nothing is downloaded twice.
    hub.requests.clear()
    cached = Path(slim(other, "pull", "alice/tiny").stdout.strip())
    assert contents(cached) == files
    assert not any("GET /files" in path or "GET /alice" in path for path in hub.requests.paths())


def test_the_card_says_what_it_is_and_keeps_what_it_said(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    done(talk(f"push({str(folder)!r}, 'alice/tiny')"))
    done(talk("import huggingface_hub, json; card = huggingface_hub.ModelCard.load('alice/tiny')"))
    said = ast.literal_eval(done(talk("[card.data.to_dict(), card.text]")))
    assert said[0] == {"license": "mit", "library_name": "slimtensors", "tags": ["slimtensors", "tiny"]}
    assert said[1].startswith("# A model\n\nNo line end\n")
    assert "| `model.slimtensors` | 132.3 kB |" in said[1]
    assert "slimtensors pull alice/tiny --decompress" in said[1]
    # Pushed once more from what was pulled, nothing of ours is there twice.
    card = hub.store.files("alice/tiny")["README.md"]
    done(talk("push(pull('alice/tiny'), 'alice/again')"))
    again = hub.store.files("alice/again")["README.md"]
    assert again == card.replace(b"alice/tiny", b"alice/again").replace(b"-o tiny", b"-o again")


def test_a_difference_names_its_base_and_fetches_it(hub: HubServer, client: Client, tmp_path: Path) -> None:
    base = hub.store.add_folder("bob/base", plain_model(tmp_path / "base"))
    hub.store.add("bob/base", {"config.json": b"{}"})  # main moves on
    folder = fine_tune(tmp_path / "in")
    slim(client, "push", folder, "alice/tuned", "--base", f"bob/base@{base}")
    files = hub.store.files("alice/tuned")
    assert len(files["model.slimtensors"]) < 0.2 * len(contents(folder)["model.safetensors"])
    assert b"base_model: bob/base" in files["README.md"]
    assert base.encode() in files["README.md"]

    other = Client(hub, tmp_path / "other")
    hub.requests.clear()
    slim(other, "pull", "alice/tuned", "--decompress", "-o", tmp_path / "out", token=BOB)
    assert contents(tmp_path / "out")["model.safetensors"] == contents(folder)["model.safetensors"]
    fetched = [path for path in hub.requests.paths("HEAD") if path.startswith("/bob/base")]
    assert fetched == [f"/bob/base/resolve/{base}/model.safetensors"]  # of that commit, and nothing else
    # Cached: everything again without a network, for Python too.
    hub.close()
    slim(other, "pull", "alice/tuned", "--decompress", "-o", tmp_path / "off", HF_HUB_OFFLINE="1")
    assert contents(tmp_path / "off") == contents(tmp_path / "out")
    names = other.python(
        "from slimtensors_hub import hub_base, pull; from slimtensors.torch import stream_tensors\n"
        "print(sorted(name for name, _ in stream_tensors(pull('alice/tuned'), base=hub_base())))",
        HF_HUB_OFFLINE="1",
    )
    assert names == "['layers.0.bias', 'layers.0.weight']"


def test_commands_look_for_bases_in_the_cache(hub: HubServer, client: Client, tmp_path: Path) -> None:
    """As `pull` leaves them; what is not there is not downloaded, but it is said how to."""
    base = hub.store.add_folder("bob/base", plain_model(tmp_path / "base"))
    slim(client, "push", fine_tune(tmp_path / "in"), "alice/tuned", "--base", "bob/base")
    reader, place = Client(hub, tmp_path / "reader"), f"hf://bob/base@{base}"
    folder = Path(slim(reader, "pull", "alice/tuned").stdout.strip())
    (copy := tmp_path / "copy").mkdir()
    file = copy / "model.slimtensors"
    file.write_bytes((folder / file.name).read_bytes())
    hub.requests.clear()
    for command in (
        ("verify", folder), ("verify", file), ("deps", file), ("decompress", file),
        ("flatten", file, copy / "flat.slimtensors"), ("salvage", file, copy / "whole.safetensors"),
        ("rebase", file, copy / "moved.slimtensors", "--base", tmp_path / "base"),
        ("bench", file, "--sample", "1", "-j", "1", "-q"),
    ):  # fmt: skip
        slim(reader, *command)
    assert contents(copy)["model.safetensors"] == contents(tmp_path / "in")["model.safetensors"]
    other = Client(hub, tmp_path / "other")
    for command in ("verify", "deps"):
        missing = slim(other, command, file, check=False)
        assert missing.returncode == 1
        assert f"--base {place}" in missing.stdout + missing.stderr
    missing = slim(other, "rebase", file, copy / "no.slimtensors", "--base", tmp_path / "in", check=False)
    assert f"--old-base {place}" in missing.stderr
    assert "--base " not in missing.stderr.replace("--old-base ", "")
    missing = slim(other, "bench", file, check=False)
    assert "Needed is" in missing.stderr or "was not found" in missing.stderr
    assert "SLIMTENSORS_BASE_DIR" in missing.stderr
    assert "base=" not in missing.stderr
    assert "--base" not in missing.stderr
    short = slim(other, "verify", file, "--base", "bob/base", check=False)
    assert (short.returncode, short.stderr.count("--base hf://bob/base")) == (2, 1)
    assert hub.requests.paths() == []


def test_a_map_of_what_lies_in_one_shard(hub: HubServer, client: Client, tmp_path: Path) -> None:
    folder, base = sharded_model(tmp_path / "in"), plain_model(tmp_path / "base")
    shard = folder / "model-00001-of-00002.safetensors"
    renamed = {name.replace("layers.0.", "old."): array for name, array in load_file(shard).items()}
    save_file(renamed, base / "model.safetensors")
    hub.store.add_folder("bob/base", base)
    ask = ("push", folder, "alice/tuned", "--base", "bob/base", "--map")
    said = slim(client, *ask, "old.=layers.7.", check=False)
    assert said.returncode == 2
    assert "the map old.=layers.7. fits nothing" in said.stderr
    assert not any("alice/tuned" in key for key in hub.store.repositories)
    slim(client, *ask, "old.=layers.0.")
    sizes = [len(data) for name, data in sorted(hub.store.files("alice/tuned").items()) if ".slimtensors" in name]
    assert sizes[0] < 0.1 * shard.stat().st_size < sizes[1]


def test_a_base_that_is_a_difference_itself(hub: HubServer, client: Client, tmp_path: Path) -> None:
    hub.store.add_folder("bob/base", plain_model(tmp_path / "base"))
    middle, last = fine_tune(tmp_path / "middle"), fine_tune(tmp_path / "last", factor=1.003)
    slim(client, "push", middle, "alice/middle", "--base", "bob/base")
    other = Client(hub, tmp_path / "other")  # whose cache has none of it
    slim(other, "push", last, "alice/last", "--base", "alice/middle")
    files = hub.store.files("alice/last")
    assert len(files["model.slimtensors"]) < 0.2 * len(contents(last)["model.safetensors"])
    assert b"base_model: alice/middle" in files["README.md"]
    slim(Client(hub, tmp_path / "third"), "pull", "alice/last", "--decompress", "-o", tmp_path / "out")
    assert contents(tmp_path / "out")["model.safetensors"] == contents(last)["model.safetensors"]


def test_a_base_that_not_everybody_can_read(hub: HubServer, client: Client, tmp_path: Path) -> None:
    hub.store.add_folder("bob/gated", plain_model(tmp_path / "base"), gated=True)
    hub.store.repository("bob/gated").granted.add("alice")
    said = slim(client, "push", fine_tune(tmp_path / "in"), "alice/tuned", "--base", "bob/gated")
    assert "the base bob/gated is gated" in said.stderr
    assert b"It is gated: who may not read it cannot read this." in hub.store.files("alice/tuned")["README.md"]
    # Who has no access is told so, in a line, and nothing is left.
    other = Client(hub, tmp_path / "other")
    said = slim(other, "pull", "alice/tuned", "--decompress", "-o", tmp_path / "out", check=False, token=READER)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert f"bob/gated is gated, and your account has no access yet: ask for it at {hub.endpoint}" in said.stderr
    assert not (tmp_path / "out").exists()


def test_convert_makes_a_repository_or_a_pull_request(
    hub: HubServer, talk: Talk, client: Client, tmp_path: Path
) -> None:
    folder = plain_model(tmp_path / "in")
    hub.store.add_folder("bob/plain", folder)
    before = hub.store.files("bob/plain")
    done(talk("convert('bob/plain')"))
    files = hub.store.files("alice/plain-slim")
    assert b"base_model: bob/plain" in files["README.md"]
    done(talk(f"pull('alice/plain-slim', decompress=True, local_dir={str(tmp_path / 'out')!r})"))
    assert contents(tmp_path / "out") == before
    hub.store.add("bob/secret", {"model.safetensors": folder / "model.safetensors"}, private=True)
    hub.store.repository("bob/secret").granted.add("alice")
    done(talk("convert('bob/secret')"))  # what not everybody can read does not get about
    assert hub.store.repository("alice/secret-slim").private
    assert not hub.store.repository("alice/plain-slim").private
    said = slim(client, "convert", "hf://bob/plain", "--create-pr")
    assert said.stdout.strip() == f"{hub.endpoint}/bob/plain/discussions/1"
    assert hub.store.files("bob/plain") == before
    proposed = hub.store.files("bob/plain", "refs/pr/1")
    assert "model.safetensors" not in proposed
    done(talk(f"pull('bob/plain@refs/pr/1', decompress=True, local_dir={str(tmp_path / 'pr')!r})"))
    assert contents(tmp_path / "pr") == before


@pytest.mark.parametrize("switch", ["", "0", "1"])
def test_bars_as_of_the_other_commands(switch: str, client: Client, tmp_path: Path) -> None:
    """-q and --progress count for more than switches, and no terminal means no bars."""
    folder = plain_model(tmp_path / "in")
    (tmp_path / "alice").mkdir()
    variables = {"HF_HUB_DISABLE_PROGRESS_BARS": switch} if switch else {}
    if switch == "1":
        variables["TQDM_DISABLE"] = "1"
    options = {"-q": False, "--no-progress": False, "-v": False, "--progress": True}
    if switch:
        options = {"0": {"-q": False}, "1": {"--progress": True}}[switch]
    whole = tqdm.format_sizeof((folder / "model.safetensors").stat().st_size)
    for option, bars in options.items():
        name = "alice/" + option.strip("-")
        pushed = slim(client, "push", folder, name, option, **variables)
        assert ("Compressing model.safetensors: 100%" in pushed.stderr) == bars, pushed.stderr
        assert (f"{whole}/{whole} " in pushed.stderr) == bars, pushed.stderr
        pulled = slim(client, "pull", name, "--decompress", "-o", tmp_path / name, option, **variables)
        assert ("Decompressing model.slimtensors: 100%" in pulled.stderr) == bars, pulled.stderr
        assert bars or (pushed.stderr, pulled.stderr) == ("", "")


def test_pushing_replaces_the_plain_file_of_that_name(hub: HubServer, talk: Talk, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    hub.store.add_folder("alice/tiny", folder)
    hub.store.add("alice/tiny", {"other.safetensors": b"stays"})
    hub.store.repository("alice/tiny").refs["next"] = hub.store.repository("alice/tiny").refs["main"]
    done(talk(f"push({str(folder)!r}, 'alice/tiny', revision='next')"))
    assert "model.safetensors" in hub.store.files("alice/tiny")
    names = hub.store.files("alice/tiny", "next").keys()
    assert {"model.slimtensors", "other.safetensors"} <= names
    assert "model.safetensors" not in names
