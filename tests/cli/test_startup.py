"""What is only asked for help, or looks at a file, loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.processes import run

HEAVY = ["numba", "torch", "rich", "tqdm", "numpy", "ml_dtypes"]

CODE = """
import sys
from slimtensors.cli.main import cli
try:
    cli({arguments!r}, prog_name="slimtensors")
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {heavy!r} if name in sys.modules])
"""


def loaded(*arguments: str, heavy: list[str]) -> str:
    code = CODE.format(arguments=list(arguments), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compress", "--help"], ["bench", "-h"]])
def test_help_is_light(arguments: list[str]) -> None:
    assert loaded(*arguments, heavy=HEAVY) == "[]"


def test_inspect_is_light(model: Path) -> None:
    assert run("compress", model).returncode == 0
    packed = str(model.with_suffix(".slimtensors"))
    assert loaded("inspect", packed, heavy=["numba", "torch", "tqdm"]) == "[]"
    assert loaded("inspect", packed, "--why", heavy=["numba", "torch", "tqdm"]) == "[]"
    assert loaded("inspect", packed, "--json", heavy=["numba", "torch", "tqdm", "rich"]) == "[]"


def test_demo_does_without_torch() -> None:
    assert loaded("demo", "-q", heavy=["torch"]) == "[]"


def test_version() -> None:
    from slimtensors import FORMAT_VERSION, __version__

    said = f"slimtensors {__version__}, format version {FORMAT_VERSION}"
    assert run("--version").stdout.decode().strip() == said
    module = subprocess.run([sys.executable, "-m", "slimtensors", "--version"], capture_output=True, check=True)
    assert module.stdout.decode().strip() == said
