"""Ctrl-C and termination leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cli.processes import contents, environment, run, start


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes seconds to compress."""
    folder = tmp_path_factory.mktemp("large") / "large"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(2):
        save_file({"w": random.standard_normal(20_000_000, np.float32)}, folder / f"model-{i}.safetensors")
    return folder


def stopped(large: Path, target: str, number: signal.Signals) -> subprocess.Popen[bytes]:
    """A command that gets a signal in the middle."""
    process = start("compress", large / "model-0.safetensors" if target == "file" else large, "-j", 2)
    deadline = time.monotonic() + 60
    watched = large if target == "file" else large.parent
    while not any(path.name.endswith(".tmp") and _size(path) > 1_000_000 for path in watched.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process


@pytest.mark.parametrize(
    ("target", "number", "code"),
    [
        ("file", signal.SIGINT, 130),
        ("file", signal.SIGTERM, 143),
        ("file", signal.SIGHUP, 129),
        ("folder", signal.SIGINT, 130),
    ],
)
def test_nothing_is_left(large: Path, target: str, number: signal.Signals, code: int) -> None:
    before = list(large.parent.iterdir()), sorted(contents(large))
    process = stopped(large, target, number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error == b"slimtensors: interrupted; nothing half-written is left\n"
    assert out == b""
    assert (list(large.parent.iterdir()), sorted(contents(large))) == before


LOST = """
import ctypes, importlib, os, sys
from slimtensors.cli.main import main

@ctypes.CFUNCTYPE(None)
def signalled():  # called by C code, which drops what is raised in it
    os.kill(os.getpid(), {number})

module = importlib.import_module({module!r})
real = module.{function}
def after_a_lost_signal(*args, **options):
    signalled()
    return real(*args, **options)

module.{function} = after_a_lost_signal
sys.argv[1:] = {arguments!r}
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "name", "module", "function"),
    [
        (signal.SIGTERM, 143, "compress", "slimtensors.container.system", "temporary_place"),  # before it writes
        (signal.SIGTERM, 143, "compress", "slimtensors.container.system", "flush"),  # before the file takes its name
        (signal.SIGINT, 130, "compress", "slimtensors.container.system", "flush"),
        (signal.SIGHUP, 129, "compress", "slimtensors.container.system", "flush"),
        (signal.SIGTERM, 143, "folder", "slimtensors.files.folders", "_copy"),
        (signal.SIGTERM, 143, "folder", "slimtensors.files.folders", "_put_in_place"),  # all is written
        (signal.SIGTERM, 143, "verify", "slimtensors.reading.verifying", "verify_opened"),
        (signal.SIGTERM, 143, "verify all", "slimtensors.reading.verifying", "verify_opened"),
        (signal.SIGTERM, 143, "help", "click.formatting", "wrap_text"),
    ],
)
def test_a_signal_whose_exception_is_lost_ends_the_command_too(
    model: Path, number: signal.Signals, code: int, name: str, module: str, function: str
) -> None:
    """As in llvmlite's cache of machine code, where a command is in its first second."""
    packed = model.with_suffix(".slimtensors")
    arguments = {"compress": ["compress", model, "-q"], "verify": ["verify", packed, "-q"], "help": ["--help"]}
    if name.startswith("verify"):
        assert run("compress", model, "-q").returncode == 0
    if name == "verify all":  # the first of which is damaged
        data = bytearray(packed.read_bytes())
        data[-200] ^= 1
        (model.parent / "a.slimtensors").write_bytes(data)
        arguments[name] = ["verify", model.parent, "-q"]
    if name == "folder":
        (model.parent / "config.json").write_text("{}")
        arguments["folder"] = ["compress", model.parent, "-q"]
    before = sorted(model.parent.parent.iterdir()), contents(model.parent)
    given = [str(each) for each in arguments[name]]
    script = LOST.format(number=int(number), module=module, function=function, arguments=given)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment(), check=False, timeout=60
    )
    assert done.returncode == code
    if name != "help":
        assert (done.stdout, done.stderr) == (b"", b"slimtensors: interrupted; nothing half-written is left\n")
    assert (sorted(model.parent.parent.iterdir()), contents(model.parent)) == before


@pytest.mark.parametrize("target", ["file", "folder"])
def test_what_a_killed_run_left_is_removed_by_the_next(large: Path, target: str) -> None:
    watched = large if target == "file" else large.parent
    before = {path.name for path in watched.iterdir()}
    stopped(large, target, signal.SIGKILL).communicate(timeout=60)
    (left,) = {path.name for path in watched.iterdir()} - before
    front, _, random = left.removesuffix(".tmp").rpartition("-")
    front, _, dead = front.rpartition("-")
    living, others = f"{front}-{os.getpid()}-{random}.tmp", f"{front[:-1]}-{dead}-{random}.tmp"
    strange, longer, linked = f"{front}-{dead}-{random}0.tmp", f"{left}.txt", f"{front}-{dead}-00000000.tmp"
    for name in (living, others, strange, longer):  # of a process that is there, of another machine, of somebody else
        (watched / name).mkdir()
    (watched / linked).symlink_to(watched / living)
    made = "model-0.slimtensors" if target == "file" else "large-slim"
    try:
        source = large / "model-0.safetensors" if target == "file" else large
        assert run("compress", source, "-q", "-j", 2).returncode == 0
        assert {path.name for path in watched.iterdir()} - before == {made, living, others, strange, longer, linked}
    finally:
        (watched / linked).unlink()
        for name in {path.name for path in watched.iterdir()} - before:
            path = watched / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; either may vanish meanwhile."""
    try:
        return sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0
