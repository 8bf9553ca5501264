"""Variables of the environment that take a few values: nonsense is refused by name, wherever they count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import slimtensors
import slimtensors.torch as st
from slimtensors.cli.main import cli
from slimtensors.switches import allows_http, decoder_asked_for

VERBS: list[Callable[[Any], Any]] = [
    st.load_file,
    lambda path: st.load(path.read_bytes()),
    lambda path: slimtensors.safe_open(path, framework="pt"),
    lambda path: list(st.stream_tensors(path)),
    lambda path: st.load_model(torch.nn.Linear(2, 3), path),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("switches") / "a.slimtensors"
    st.save_model(torch.nn.Linear(2, 3), made)
    return made


@pytest.mark.parametrize("verb", VERBS)
def test_a_decoder_that_there_is_not(verb: Callable[[Any], Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU as well: what works there has to work where there is one."""
    monkeypatch.setenv("SLIMTENSORS_DECODE", "gpu")
    with pytest.raises(slimtensors.UsageError, match=r"^SLIMTENSORS_DECODE is 'gpu'; it can be auto, cpu, cuda;"):
        verb(path)
    monkeypatch.setenv("SLIMTENSORS_DECODE", " CPU ")
    found = verb(path)
    if hasattr(found, "close"):
        found.close()


@pytest.mark.parametrize("address", ["http://example.org/a.slimtensors", "https://example.org/a.slimtensors"])
@pytest.mark.parametrize("value", ["yes", "true", "2", "o"])
def test_whether_http_is_allowed(address: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMTENSORS_ALLOW_HTTP", value)
    with pytest.raises(slimtensors.UsageError, match=f"^SLIMTENSORS_ALLOW_HTTP is '{value}'; it can be 0, 1;"):
        slimtensors.safe_open(address)


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many", "1 2"])
def test_a_number_of_threads(value: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMTENSORS_NUM_THREADS", value)
    with pytest.raises(slimtensors.UsageError, match=f"^SLIMTENSORS_NUM_THREADS is '{value}'; it can be a whole"):
        st.load_file(path)


def test_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIMTENSORS_DECODE", "SLIMTENSORS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    assert (decoder_asked_for(), allows_http()) == ("auto", False)
    for text, expected in {"": False, "0": False, " 1 ": True}.items():
        monkeypatch.setenv("SLIMTENSORS_ALLOW_HTTP", text)
        assert allows_http() == expected


@pytest.mark.parametrize("name", ["DECODE", "ALLOW_HTTP", "NUM_THREADS", "ISA"])
def test_env_says_so_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SLIMTENSORS_{name}", "nonsense")
    done = CliRunner().invoke(cli, ["env"])
    assert done.exit_code == 2
    assert f"SLIMTENSORS_{name}" in done.output
    assert "nonsense" in done.output
