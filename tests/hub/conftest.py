"""A Hub for each test, and clients in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub import ALICE, Client, HubServer
from hub.clients import Talk


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


@pytest.fixture
def talk(client: Client, tmp_path: Path) -> Iterator[Talk]:
    """Alice's Python. What it says or logs, tracebacks and all, never holds her token."""
    log = tmp_path / "log.txt"
    with client.talk(log, HF_DEBUG="0", HF_HUB_VERBOSITY="debug", HF_HUB_DOWNLOAD_TIMEOUT="1") as talk:
        talk("from slimtensors_hub import convert, errors, pull, push; errors.PAUSE = 0.01")
        yield talk
    assert ALICE not in log.read_text()
