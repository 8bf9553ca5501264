"""The server on localhost is a Hub to the client as it is: huggingface_hub and its command, unmodified."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hub import ALICE, BOB, READER, Client, HubServer

LARGE = bytes(range(256)) * 1000
FILES = {"config.json": b"{}", "model.safetensors": LARGE, "deep/er/note.txt": b"text"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def test_the_command_downloads_what_is_there(hub: HubServer, client: Client, tmp_path: Path) -> None:
    commit = hub.store.add("alice/tiny", FILES)
    client.run("hf", "download", "alice/tiny", "--local-dir", tmp_path / "out")
    files = contents(tmp_path / "out")
    assert files.pop(".gitattributes")
    assert files == FILES
    large = [request for request in hub.requests if request.where == "storage"]
    assert [request.sent for request in large] == [len(LARGE)]
    assert all(request.authorization is None for request in large)
    assert {request.authorization for request in hub.requests if "/resolve/" in request.path} == {f"Bearer {ALICE}"}
    sha = client.python("from huggingface_hub import HfApi; print(HfApi().model_info('alice/tiny').sha)")
    assert sha == commit


def test_the_command_uploads_and_the_server_holds_it(hub: HubServer, client: Client, tmp_path: Path) -> None:
    for path, data in FILES.items():
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(data)
    client.run("hf", "upload", "alice/new", tmp_path / "in", "--private")
    files = hub.store.files("alice/new")
    assert files.pop(".gitattributes")
    assert files == FILES
    assert hub.store.repository("alice/new").private
    tree = hub.store.repository("alice/new").commits[hub.store.repository("alice/new").refs["main"]]
    assert tree["model.safetensors"].digest == hashlib.sha256(LARGE).hexdigest()
    assert not tree["config.json"].large
    # The same bytes again need not travel.
    hub.requests.clear()
    client.run("hf", "upload", "alice/new", tmp_path / "in")
    assert sum(request.received for request in hub.requests) < len(LARGE)


def test_large_uploads_come_in_parts(client: Client, hub: HubServer, tmp_path: Path) -> None:
    hub.part_size = 100_000
    (tmp_path / "large.bin").write_bytes(LARGE)
    client.run("hf", "upload", "alice/parts", tmp_path / "large.bin", "large.bin")
    assert hub.store.files("alice/parts")["large.bin"] == LARGE
    assert sum(path.startswith("/upload/") for path in hub.requests.paths("PUT")) == 3


def test_pull_requests_branches_and_old_revisions(hub: HubServer, client: Client) -> None:
    old = hub.store.add("alice/tiny", {"config.json": b"1"})
    client.python(f"""if True:
        from huggingface_hub import HfApi, hf_hub_download
        api = HfApi()
        def write(data, **options):
            return api.upload_file(path_or_fileobj=data, path_in_repo="config.json", repo_id="alice/tiny", **options)
        api.create_branch("alice/tiny", branch="next")
        write(b"2", revision="next")
        assert write(b"3", create_pr=True).pr_num == 1
        assert len(api.list_repo_refs("alice/tiny", include_pull_requests=True).pull_requests) == 1
        for revision, text in [("main", "1"), ("next", "2"), ("refs/pr/1", "3"), ("{old}", "1")]:
            assert open(hf_hub_download("alice/tiny", "config.json", revision=revision)).read() == text, revision
    """)


def test_who_may_read_and_write(hub: HubServer, client: Client, tmp_path: Path) -> None:
    hub.store.add("alice/private", {"config.json": b"{}"}, private=True)
    hub.store.add("alice/gated", {"config.json": b"{}"}, gated=True)
    script = (
        "from huggingface_hub import HfApi, hf_hub_download\n"
        "def name(call, *args, **options):\n"
        "    try: call(*args, **options); return ''\n"
        "    except Exception as error: return type(error).__name__\n"
        "import json\n"
        "print(json.dumps([name(hf_hub_download, 'alice/private', 'config.json'), name(hf_hub_download, 'alice/gated', "
        "'config.json'), name(HfApi().upload_file, path_or_fileobj=b'x', path_in_repo='x', repo_id='alice/gated')]))"
    )
    denied = ["RepositoryNotFoundError", "GatedRepoError", "HfHubHTTPError"]
    assert json.loads(client.python(script, token=ALICE)) == ["", "", ""]
    other = Client(hub, tmp_path / "other")
    assert json.loads(other.python(script, token=BOB)) == denied
    assert json.loads(other.python(script, token=READER)) == denied
    del hub.store.tokens[ALICE]  # revoked: what is in the cache stays readable, and nothing else
    assert json.loads(other.python(script, token=ALICE)) == ["HfHubHTTPError"] * 3


def test_faults_come_once_and_the_client_sees_them(hub: HubServer, client: Client) -> None:
    hub.store.add("alice/tiny", FILES)
    hub.faults.add(where="storage", drop_after=1000)  # the client tries again
    hub.faults.add(method="HEAD", path="/resolve/", status=503)
    get = "from huggingface_hub import hf_hub_download; print(hf_hub_download('alice/tiny', 'model.safetensors'))"
    assert Path(client.python(get)).read_bytes() == LARGE
    assert hub.faults.happened >= 1
    assert [request.sent for request in hub.requests if request.where == "storage"] == [1000, len(LARGE)]
    hub.faults.clear()
    hub.faults.add(where="storage", flip_at=20_000)  # it does not check what it gets
    seen = Path(client.python(get.replace("')", "', force_download=True)", 1))).read_bytes()
    assert [at for at, byte in enumerate(LARGE) if byte != seen[at]] == [20_000]
