"""An independent mirror, olah, between clients and the server on localhost: it agrees on what a Hub says."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hub import Client, HubServer
from hub.models import contents, plain_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("olah") is None, reason="needs olah, see bench/requirements-mirror.txt"
)


@contextmanager
def mirror(hub: HubServer, folder: Path) -> Iterator[str]:
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    front, storage = (urlsplit(address).netloc for address in (hub.endpoint, hub.storage))
    own = f"127.0.0.1:{port}"
    command = [
        Path(sys.executable).with_name("olah-cli"), "--host", "127.0.0.1", "--port", port,
        "--hf-scheme", "http", "--hf-netloc", front, "--hf-lfs-netloc", storage,
        "--mirror-scheme", "http", "--mirror-netloc", own, "--mirror-lfs-netloc", own,
        "--repos-path", folder / "repositories", "--log-path", folder / "logs",
    ]  # fmt: skip
    folder.mkdir()
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, cwd=folder
        ) as process,
    ):
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / "output").read_text()
                time.sleep(0.1)
            yield f"http://{own}"
        finally:
            process.terminate()


def test_what_was_pushed_is_pulled_from_the_mirror(hub: HubServer, client: Client, tmp_path: Path) -> None:
    folder = plain_model(tmp_path / "in")
    client.run("slimtensors", "push", folder, "alice/tiny")
    files = hub.store.files("alice/tiny")
    with mirror(hub, tmp_path / "mirror") as address:
        other = Client(hub, tmp_path / "other")
        for out in ("first", "second"):
            other.run("slimtensors", "pull", "alice/tiny", "--decompress", "-o", tmp_path / out, HF_ENDPOINT=address)
            back = contents(tmp_path / out)
            assert back.pop(".gitattributes")
            assert back == contents(folder)
        other.run("hf", "download", "alice/tiny", "--local-dir", tmp_path / "hf", HF_ENDPOINT=address)
        assert contents(tmp_path / "hf") == files
        # A range of a file, as the mirror passes it on: the header is all that is read.
        name = "hf://alice/tiny/model.slimtensors"
        report = other.run("slimtensors", "inspect", name, "--json", HF_ENDPOINT=address)
        assert json.loads(report.stdout)["tensors"]
