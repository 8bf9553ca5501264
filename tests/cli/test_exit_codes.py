"""What is wrong, whose fault it is, what to do: one line, and the documented exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import slimtensors
from cli.processes import run
from slimtensors.cli.exits import EXIT_CODES
from slimtensors.numpy import save_file

Invoke = Callable[..., Result]

WRONG = {
    "zip": (b"PK\x03\x04" + bytes(100), "pickle"),
    "pickle": (b"\x80\x02}q\x00." + bytes(100), "old PyTorch checkpoint"),
    "gguf": (b"GGUF\x01\0\0\0" + bytes(100), "a GGUF file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "empty": (b"", "an empty file"),
    "noise": (bytes(range(255, 0, -1)), "not a safetensors file"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("verb", ["compress", "estimate", "bench"])
def test_wrong_sources_are_named(invoke: Invoke, tmp_path: Path, kind: str, verb: str) -> None:
    data, words = WRONG[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    result = invoke(verb, path)
    assert result.exit_code == 1
    assert words in result.output
    assert len(result.output.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("verb", ["decompress", "inspect", "verify"])
def test_wrong_compressed_files_are_named(invoke: Invoke, tmp_path: Path, kind: str, verb: str) -> None:
    data, words = WRONG[kind]
    path = tmp_path / "model.slimtensors"
    path.write_bytes(data)
    result = invoke(verb, path)
    assert result.exit_code == 1
    assert kind == "noise" or words in result.output
    assert len(result.output.splitlines()) == 1


def test_truncated_download(invoke: Invoke, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1000])
    result = invoke("compress", model)
    assert result.exit_code == 1
    assert "cut off" in result.output
    model.write_bytes(struct.pack("<Q", 1000) + b"{")
    assert invoke("compress", model).exit_code == 1


def test_compressed_twice(invoke: Invoke, model: Path) -> None:
    assert invoke("compress", model).exit_code == 0
    result = invoke("compress", model.with_suffix(".slimtensors"))
    assert result.exit_code == 2
    assert "compressed already" in result.output


@pytest.mark.parametrize("verb", ["compress", "decompress", "verify", "estimate"])
def test_empty_paths(invoke: Invoke, model: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set is not the folder that one is in."""
    monkeypatch.chdir(model.parent)
    ways = [("",)] if verb in ("verify", "estimate") else [("",), (model, ""), (model, "-o", "")]
    for arguments in ways:
        result = invoke(verb, *arguments)
        assert result.exit_code == 2
        assert "the path is empty" in result.output
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize(
    "arguments",
    [
        "pull me/x -o", "push m me/x --base", "convert", "convert m", "compress m --base", "compress m --importance",
        "verify m --against", "verify m --base", "estimate m --base", "rebase m n --base",
        "rebase m n --base o --old-base",
    ],
)  # fmt: skip
def test_empty_options(invoke: Invoke, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, `pull` wrote over the files of the folder that one is in, and a base was searched for there."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments.split(), "")
    assert result.exit_code == 2
    assert "the path is empty" in result.output
    assert not list(tmp_path.iterdir())


def test_standard_input(model: Path) -> None:
    """What is made of /dev/stdin has no place beside it."""
    command = [sys.executable, "-m", "slimtensors", "compress", "/dev/stdin"]
    for more, words in (([], b"/dev/stdin has no place of its own"), (["-o", model.with_name("out.slimtensors")], b"")):
        with model.open("rb") as file:
            done = subprocess.run([*command, *more], stdin=file, capture_output=True, check=False)
        assert done.returncode == (2 if words else 0), done
        assert words in done.stderr
    assert not Path("/dev/stdin.slimtensors").exists()
    done = subprocess.run([*command[:-1], "-"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"none is read from a pipe; name a file" in done.stderr
    slimtensors.decompress(model.with_name("out.slimtensors"), model.with_name("back"))
    assert model.with_name("back").read_bytes() == model.read_bytes()


def test_not_compressed(invoke: Invoke, model: Path) -> None:
    for verb in ("decompress", "inspect", "verify"):
        result = invoke(verb, model)
        assert result.exit_code == 1
        assert "slimtensors compress" in result.output


def test_damage(invoke: Invoke, model: Path) -> None:
    invoke("compress", model)
    packed = model.with_suffix(".slimtensors")
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    packed.write_bytes(data)
    assert invoke("verify", packed).exit_code == 1
    result = invoke("decompress", packed, "-o", model.with_name("out.safetensors"))
    assert result.exit_code == 1
    assert "damaged" in result.output
    packed.write_bytes(data[:-64])
    assert invoke("inspect", packed).exit_code == 1
    assert not model.with_name("out.safetensors").exists()


def test_wrong_usage(invoke: Invoke, model: Path) -> None:
    for arguments, words in [
        (["compress", model, "--preset", "tiny"], "available: fast, balanced, small"),
        (["compress", model, "--no-such"], "--no-such"),
        (["compress"], "compress --help"),
        (["compress", model, "-j", "0"], "-j"),
        (["compress", model, "-o", "-"], "-: files are read back"),
        (["compress", model, "-o", "hf://org/model/model.slimtensors"], "nothing can be saved there"),
        (["compress", model, "-o", os.devnull], "is not a regular file; name another one"),
        (["flatten", model, "hf://org/model/model.slimtensors"], "l.slimtensors: nothing can be saved there"),
        (["salvage", model, model.with_name("y.gguf")], "is made is a safetensors file: name it y.safetensors"),
        (["no-such"], "no-such"),
        (["comprss", model], "No such command 'comprss'. Did you mean 'compress'?"),
        (["compress", model, "-o", "a", "-q", "--output=b", "-q"], "-o/--output is given 2 times; it takes one value"),
        (["verify", "--base", "a", model, "--base", "b"], "--base is given 2 times; it takes one value (see `slimten"),
        (["compress", model, "-o", model], "would be replaced by what is made from it; name another file with -o"),
        (["compress", model, "-o", model.with_name("y.gguf")], "is made is a slimtensors file: name it with -o y.sl"),
        (["bench", model.parent], "a folder, not a file: name its files one by one, or use a command that takes it"),
        (["ls", model], "No such command 'ls'. Did you mean 'inspect'?"),
        (["compress", model, "no.slimtensors"], "no file no.slimtensors: name the output with -o no.slimtensors"),
        (["decompress", model, "no.gguf"], "no file no.gguf: name the output with -o no.gguf"),
        (["--no-such"], "--no-such"),
    ]:
        result = invoke(*arguments)
        assert result.exit_code == 2, arguments
        assert words in result.output
        assert len(result.output.splitlines()) == 1


def test_what_the_system_refuses(invoke: Invoke, tmp_path: Path) -> None:
    for verb in ("compress", "decompress", "inspect", "verify", "estimate", "bench"):
        result = invoke(verb, tmp_path / "missing")
        assert result.exit_code == 3
        assert "missing: No such file or directory; check the path" in result.output


def test_full_disk(invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("slimtensors.files.converting.compress", full)
    result = invoke("compress", model)
    assert result.exit_code == 3
    assert "somewhere: No space left on device; free some space, or name another place with -o" in result.output
    monkeypatch.setattr("slimtensors_hub.push", full)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # which the command sets
    result = invoke("push", model, "owner/name")  # which has no -o
    assert result.exit_code == 3
    assert "free some space, or set TMPDIR and HF_HOME to other places" in result.output


def test_a_copy_names_both_places(invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "here", None, "there")

    monkeypatch.setattr("slimtensors.files.converting.compress", full)
    assert "here to there: No space left on device" in invoke("compress", model).output


def test_self_check_and_faults(invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def failing(*_: object, **__: object) -> None:
            raise error

        return failing

    monkeypatch.setattr("slimtensors.files.converting.compress", fail(slimtensors.SelfCheckError("memory")))
    assert invoke("compress", model).exit_code == 4
    monkeypatch.setattr("slimtensors.files.converting.compress", fail(ZeroDivisionError("a bug")))
    result = invoke("compress", model)
    assert result.exit_code == 4
    assert "report" in result.output
    assert "Traceback" not in result.output
    assert "Traceback" in invoke("compress", model, "-vv").output


def test_what_may_be_repeated(invoke: Invoke, model: Path) -> None:
    once = ["-q", "-q", "-vv", "-v", "--force", "--force", "--progress", "--no-progress"]
    assert invoke("compress", model, *once, "--quantise", "q8_0", "--keep", "*bias", "--keep", "*half").exit_code == 0


def test_advice_is_in_options_that_the_command_has(invoke: Invoke, tmp_path: Path) -> None:
    base, path = {"w": np.arange(1 << 16, dtype=np.float32)}, tmp_path / "tuned.slimtensors"
    save_file({"w": base["w"] + 1}, path, base=base)
    for verb in ("inspect", "verify"):
        result = invoke(verb, path, "--max-bytes", 10)
        assert result.exit_code == 1
        assert "If you trust the file, pass --max-bytes" in result.output
    result = invoke("bench", path)
    assert result.exit_code == 1
    assert "was not found; name a folder that holds it in SLIMTENSORS_BASE_DIR\n" in result.output
    assert "give the base with --base" in invoke("verify", path).output


def test_bench_finds_bases(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it says."""
    (tmp_path / "bases").mkdir()
    base, path = {"w": np.arange(1 << 16, dtype=np.float32)}, tmp_path / "tuned.slimtensors"
    save_file(base, tmp_path / "bases" / "base.slimtensors")
    save_file({"w": base["w"] + 1}, path, base=base)
    monkeypatch.setenv("SLIMTENSORS_BASE_DIR", str(tmp_path / "bases"))
    result = invoke("bench", path, "--sample", 1, "-j", 1)
    assert result.exit_code == 0, result.output


def test_codes_are_documented(invoke: Invoke) -> None:
    text = invoke("--help").output
    for line in EXIT_CODES.splitlines()[1:]:
        assert line.strip() in text
    for code in (0, 1, 2, 3, 4, *(128 + number for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)), 141):
        assert re.search(rf"^ *{code} ", text, re.MULTILINE)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "a\x1b[31m\nb")
    assert result.returncode == 3
    assert b"\x1b" not in result.stderr
    assert result.stderr.count(b"\n") == 1


LIMITED = """
import resource, sys
from slimtensors.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
sys.argv[1:] = {arguments!r}
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
@pytest.mark.parametrize("folders", [False, True])
def test_a_file_that_the_system_does_not_take_whole_is_named(tmp_path: Path, folders: bool) -> None:
    """As of a full disk; and of several sources, which failed and which were not tried."""
    random = np.random.default_rng(0)
    for name, count in (("a", 1000), ("b", 100_000), ("c", 1000)):
        (tmp_path / name).mkdir()
        slimtensors.decompress(
            slimtensors.numpy.save({"w": random.random(count)}), tmp_path / name / "model.safetensors"
        )
    sources = [tmp_path / name if folders else tmp_path / name / f"{name}.safetensors" for name in "abc"]
    if not folders:
        for each in sources:
            (each.parent / "model.safetensors").rename(each)
    (tmp_path / "out").mkdir()
    arguments = ["compress", *map(str, sources), "-o", str(tmp_path / "out")]
    script = LIMITED.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert done.returncode == 3
    made = sorted(each.name for each in (tmp_path / "out").iterdir())
    assert len(made) == 1
    failed = tmp_path / "out" / ("b-slim/model.slimtensors" if folders else "b.slimtensors")
    assert done.stderr.splitlines() == [
        f"slimtensors: {sources[1]} failed; not tried: {sources[2]}",
        f"slimtensors: the system refused: {failed}: File too large",
    ]


def test_what_needs_torch_says_so(tmp_path: Path, model: Path) -> None:
    script = """
import sys
sys.modules["torch"] = None
from slimtensors.cli.main import main
main()
"""
    arguments = ["convert", str(model.parent), str(tmp_path / "new"), "--as", "checkpoint"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'slimtensors: wrong usage: --as needs PyTorch: pip install "slimtensors[torch]"\n'


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
@pytest.mark.parametrize("name", ["\u00e9.safetensors", "\u00e9" * 100 + "x.safetensors"])
def test_names_outside_of_the_encoding_of_the_system(tmp_path: Path, model: Path, name: str) -> None:
    source = model.rename(tmp_path / name)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for verb, given in (("compress", source), ("verify", source.with_suffix(".slimtensors"))):
        done = run(verb, os.fsencode(given), **ascii_only)
        assert done.returncode == 0, done.stderr
    back = tmp_path / "\u00fc.safetensors"
    done = run("decompress", os.fsencode(source.with_suffix(".slimtensors")), "-o", os.fsencode(back), **ascii_only)
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == source.read_bytes()
    (tmp_path / "folder").mkdir()
    source.rename(tmp_path / "folder" / name)
    folder = (tmp_path / "folder").rename(tmp_path / "\u00f6")
    done = run("compress", os.fsencode(folder), **ascii_only)
    assert done.returncode == 0, done.stderr


def test_verify_looks_at_every_path(invoke: Invoke, tmp_path: Path, sharded: Path, model: Path) -> None:
    """The exit code is the highest; what is wrong with one does not stop others."""
    sound, folder = tmp_path / "model.slimtensors", tmp_path / "sharded-slim"
    assert invoke("compress", model, "-q").exit_code == invoke("compress", sharded, "-q").exit_code == 0
    damaged = tmp_path / "damaged.slimtensors"
    data = bytearray(sound.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    absent = tmp_path / "absent.slimtensors"

    good = invoke("verify", sound, folder)
    assert good.exit_code == 0
    assert good.stdout == invoke("verify", sound).stdout + invoke("verify", folder).stdout
    one_damaged = invoke("verify", damaged, sound)
    assert one_damaged.exit_code == 1
    assert one_damaged.stderr == invoke("verify", damaged).stderr
    assert one_damaged.stdout == invoke("verify", sound).stdout
    worst = invoke("verify", absent, damaged, folder, "-q")
    assert worst.exit_code == 3
    assert worst.stdout == ""
    assert worst.stderr == invoke("verify", absent).stderr + invoke("verify", damaged).stderr

    found = json.loads(invoke("verify", "--json", absent, damaged, sound, folder).stdout)
    assert [each.pop("path") for each in found] == list(map(str, (absent, damaged, sound, folder)))
    assert [each["sound"] for each in found] == [False, False, True, True]
    assert found[1:] == [json.loads(invoke("verify", "--json", each).stdout) for each in (damaged, sound, folder)]
    assert "No such file" in found[0]["problems"][0]
    assert invoke("verify", sound, folder, "--against", model).exit_code == 2
    assert invoke("verify").exit_code == 2


def test_verify_calls_no_file_wrong_whose_base_is_missing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder and of several paths, as of one file; nor one that cannot be read."""
    monkeypatch.delenv("SLIMTENSORS_BASE_DIR", raising=False)
    one, many, base = (tmp_path / name for name in ("one.slimtensors", "many", "base.slimtensors"))
    values = np.random.default_rng(4).standard_normal(60_000).astype(np.float32)
    save_file({"a": values}, base)
    save_file({"a": values * np.float32(1 + 1e-6)}, one, base=base)
    many.mkdir()
    (many / "a.slimtensors").write_bytes(one.read_bytes())
    (many / "b.slimtensors").symlink_to("nowhere")
    alone = invoke("verify", one)
    assert (alone.exit_code, "wrong file" in alone.stderr) == (1, False)
    several = invoke("verify", one, many)
    assert several.exit_code == 1
    assert "wrong file" not in several.stderr
    assert several.stderr.startswith(alone.stderr)
    assert f"slimtensors: the system refused: {many / 'b.slimtensors'}: No such file" in several.stderr


def test_inspect_shows_what_it_can_of_several(invoke: Invoke, tmp_path: Path) -> None:
    """The exit code is the highest; --json is whole or nothing."""
    sound, damaged, absent = (tmp_path / f"{name}.slimtensors" for name in ("sound", "damaged", "absent"))
    save_file({"a": np.arange(9)}, sound)
    damaged.write_bytes(sound.read_bytes()[:90])
    result = invoke("inspect", absent, damaged, sound)
    assert result.exit_code == 3
    assert result.stdout == invoke("inspect", sound).stdout
    assert result.stderr == invoke("inspect", absent).stderr + invoke("inspect", damaged).stderr
    assert invoke("inspect", sound, damaged).exit_code == 1
    listed = invoke("inspect", sound, damaged, "--json")
    assert (listed.exit_code, listed.stdout) == (1, "")
