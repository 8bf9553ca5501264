"""What is printed can be read in any encoding, without a terminal, and by programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from tqdm import tqdm

import slimtensors
from cli.processes import command, environment, run, start
from slimtensors.cli.output import percent, size, speed
from slimtensors.numpy import save_file

Invoke = Callable[..., Result]

NAME = "encoder." + "very_long_name." * 12 + "é漢.weight"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A file with a long name that is not ASCII, and one that plays with markup."""
    path = tmp_path / "odd.slimtensors"
    random = np.random.default_rng(0)
    array = random.standard_normal((64, 512)).astype(np.float32)
    save_file({NAME: array, "[red]name[/red] \u202e": array[:8]}, path)
    return path


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_narrow_encodings(odd: Path, variables: dict[str, str]) -> None:
    for arguments in (
        ["inspect", odd],
        ["inspect", odd, "--why"],
        ["inspect", odd, "--json"],
        ["verify", odd],
        ["env"],
    ):
        result = run(*arguments, **variables)
        assert result.returncode == 0, result.stderr
        assert result.stderr == b""
    shown = run("inspect", odd, **variables | {"PYTHONCOERCECLOCALE": "0"}).stdout
    assert rb"\xe9\u6f22.weight" in shown
    shown.decode("ascii")


def test_tables_are_whole_without_a_terminal(odd: Path) -> None:
    text = run("inspect", odd, PYTHONIOENCODING="utf-8", COLUMNS="40").stdout.decode()
    assert NAME in text
    assert "[red]name[/red] \\u202e" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_tables_on_a_narrow_terminal(odd: Path, width: int) -> None:
    """Every cell is there, whole: names may go on in the next line, numbers may not."""
    rows = json.loads(run("inspect", odd, "--json").stdout)["tensors"]
    found = _on_a_terminal(command("inspect", odd), "stdout", width).decode()
    assert NAME in "".join(re.sub(r"[ │─].*", "", line.removeprefix(" ")) for line in found.splitlines())
    for row in rows:
        assert size(row["stored_bytes"]) in found
        assert f"{row['bits_per_weight']:.2f}" in found
    assert "…" not in found


def test_tables_of_a_folder_on_a_narrow_terminal(tmp_path: Path) -> None:
    """Files are named above their tables, which fit."""
    names = ["model-00001-of-00002.slimtensors", "model-00002-of-00002.slimtensors"]
    for k, name in enumerate(names):
        save_file({f"layers.{k}.up.weight": np.ones((4096, 1024), np.uint8)}, tmp_path / name)
    lines = _on_a_terminal(command("inspect", tmp_path), "stdout", 80).decode().splitlines()
    for k, name in enumerate(names):
        at = lines.index(f"{name}:")
        assert "bits/weight" in lines[at + 1]
        assert lines[at + 3].split()[:3] == [f"layers.{k}.up.weight", "U8", "4096x1024"]


def test_a_reader_that_leaves(odd: Path) -> None:
    process = start("inspect", odd)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert error == b""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams(model: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    made = model.with_suffix(".slimtensors")
    for args in (["compress", model], ["inspect", "--why", made], ["env"], ["inspect", "x"]):
        done = subprocess.run(
            command(*args), env=environment(), preexec_fn=close, check=False, timeout=300,
            **{name: subprocess.PIPE for number, name in ((1, "stdout"), (2, "stderr")) if number not in closed},
        )  # fmt: skip
        assert done.returncode == (3 if args[-1] == "x" else 0), done
        assert done.stdout or 1 in closed or args[-1] == "x"
        assert not done.stderr or args[-1] == "x", done.stderr
    slimtensors.verify(made)  # nothing was said into the file


def test_json_keys(invoke: Invoke, model: Path) -> None:
    invoke("compress", model)
    packed = model.with_suffix(".slimtensors")
    report = json.loads(invoke("inspect", packed, "--json", "--why").output)
    assert set(report) == {
        "file", "file_id", "format_version", "file_bytes", "decoded_bytes", "ratio", "chunks", "source_format",
        "metadata", "tensors", "lossy_source_sha256", "overhead_bytes",
    }  # fmt: skip
    assert report["lossy_source_sha256"] is None
    assert set(report["tensors"][0]) == {
        "name", "dtype", "shape", "expression", "storage", "chunks", "decoded_bytes", "stored_bytes",
        "bits_per_weight", "why",
    }  # fmt: skip
    assert report["file_bytes"] == packed.stat().st_size
    assert report["metadata"] == {"format": "pt"}
    report = json.loads(invoke("estimate", model, "--json").output)
    assert set(report) == {"preset", "source_bytes", "compressed_bytes", "ratio", "other_bytes", "files"}
    report = json.loads(invoke("verify", packed, "--json").output)
    assert report["sound"]
    assert set(report["files"][0]) == {
        "file", "file_id", "tensors", "chunks", "decoded_bytes", "source_sha256", "lossy",
    }  # fmt: skip


def test_progress(model: Path) -> None:
    """On stderr, where it is asked for or stderr is a terminal; never with -q."""
    shown = b"model.safetensors:"
    target = ["-o", model.with_name("x"), "--force"]
    assert shown not in run("compress", model, *target).stderr
    assert shown in run("compress", model, *target, "--progress").stderr
    assert shown not in run("compress", model, *target, "--progress", "-q").stderr
    assert b"100%" in run("compress", model, *target, "--progress", PYTHONIOENCODING="ascii").stderr
    whole = tqdm.format_sizeof(model.stat().st_size)  # though each byte is encoded, then decoded to check it
    assert f"{whole}/{whole} ".encode() in run("compress", model, *target, "--progress").stderr
    for switch, expected in (("0", True), ("1", False)):
        found = _on_a_terminal(command("compress", model, *target), HF_HUB_DISABLE_PROGRESS_BARS=switch)
        assert (shown in found) is expected


def test_names_steer_no_terminal_by_bars(model: Path) -> None:
    odd = model.rename(model.with_name("e\x1b[31mvil.safetensors"))
    shown = run("compress", odd, "--progress").stderr
    assert b"vil.safetensors:" in shown
    assert b"\x1b[31m" not in shown


BARS = """
from slimtensors.cli.progress import bar
from huggingface_hub.utils import tqdm
with tqdm(total=9, desc="theirs") as shown:
    shown.update(9)
for name, asked in (("ours", None), ("asked", True)):
    with bar(9, name, quiet=False, asked=asked) as advance:
        if advance is not None:
            advance(9)
"""


@pytest.mark.parametrize("name", ["HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"])
@pytest.mark.parametrize("value", ["", "0", "1", "false", "true", "Yes", "off"])
def test_switches_mean_what_they_mean_to_their_libraries(name: str, value: str) -> None:
    """TQDM_DISABLE=0 shows no bars with tqdm either. Who asks for bars by an option gets them."""
    found = _on_a_terminal([sys.executable, "-c", BARS], **{name: value})
    assert (b"ours: 100%" in found) is (b"theirs: 100%" in found)
    assert b"asked: 100%" in found


def test_other_variables_of_tqdm() -> None:
    found = _on_a_terminal([sys.executable, "-c", BARS], TQDM_ASCII=" #")
    assert b"ours: 100%|#" in found
    assert b"asked: 100%|#" in found


def _on_a_terminal(arguments: list[str], stream: str = "stderr", width: int = 80, **variables: str) -> bytes:
    """What a process writes to a terminal that is its stderr, or another stream."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    made = environment(PYTHONIOENCODING="utf-8", **variables)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
    subprocess.run(arguments, **streams, env=made, check=True, timeout=60)
    os.set_blocking(ours, False)
    os.close(theirs)
    try:
        return os.read(ours, 1 << 16)
    except (BlockingIOError, OSError):
        return b""
    finally:
        os.close(ours)


def test_speeds_are_in_one_unit() -> None:
    assert [speed(n, 1) for n in (0, 83_700_000, 99_960_000, 120e6, 32e9)] == [
        "0.0 MB/s", "83.7 MB/s", "100 MB/s", "120 MB/s", "32000 MB/s",
    ]  # fmt: skip


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 9_994, 99_960, 999_600, 30_000_000, 2.5e12)] == [
        "0 B", "999 B", "1.00 kB", "9.99 kB", "100 kB", "1.00 MB", "30.0 MB", "2.50 TB",
    ]  # fmt: skip
    assert percent(1, 3) == "33.3 %"
    assert percent(0, 0) == "-"
