"""Files: names, what is refused, what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]


def test_round_trip(invoke: Invoke, model: Path) -> None:
    before = model.read_bytes()
    result = invoke("compress", model)
    assert result.exit_code == 0
    assert "model.slimtensors" in result.output
    assert model.read_bytes() == before
    packed = model.with_suffix(".slimtensors")
    assert packed.stat().st_size < 0.9 * len(before)
    assert invoke("verify", packed).exit_code == 0
    model.unlink()
    assert invoke("decompress", packed, "-q").output == ""
    assert model.read_bytes() == before
    assert packed.exists()


def test_nothing_is_overwritten(invoke: Invoke, model: Path) -> None:
    packed = model.with_suffix(".slimtensors")
    packed.write_bytes(b"precious")
    result = invoke("compress", model)
    assert result.exit_code == 2
    assert "--force" in result.output
    assert packed.read_bytes() == b"precious"
    assert invoke("compress", model, "--force").exit_code == 0
    assert invoke("decompress", packed).exit_code == 2
    result = invoke("compress", model, "-o", model, "--force")
    assert result.exit_code == 2
    assert "would be replaced" in result.output


def test_dry_run(invoke: Invoke, model: Path) -> None:
    result = invoke("compress", model, "--dry-run")
    assert result.exit_code == 0
    assert "would write" in result.output
    assert list(model.parent.iterdir()) == [model]
    packed = model.with_suffix(".slimtensors")
    packed.write_bytes(b"precious")
    taken = invoke("compress", model, "--dry-run")
    assert taken.exit_code == 0
    assert taken.output == result.output + f"{packed} is there already: needs --force\n"
    assert invoke("compress", model, "--dry-run", "--force").output == result.output
    assert packed.read_bytes() == b"precious"
    model.write_bytes(b"GGUF")
    assert invoke("compress", model, "--dry-run").exit_code == 1


def test_output_names(invoke: Invoke, model: Path) -> None:
    folder = model.parent / "out"
    folder.mkdir()
    assert invoke("compress", model, "-o", folder).exit_code == 0
    assert (folder / "model.slimtensors").exists()
    assert invoke("compress", model, "-o", model.parent / "other.x").exit_code == 0
    assert (model.parent / "other.x").exists()
    assert invoke("compress", model, "-o", f"{model.parent}/made/").exit_code == 0
    assert (model.parent / "made" / "model.slimtensors").exists()
    result = invoke("compress", model, "-o", model.parent / "no" / "such" / "x")
    assert result.exit_code == 2
    assert "make it first" in result.output


def test_several(invoke: Invoke, model: Path) -> None:
    other = model.with_name("other.safetensors")
    other.write_bytes(model.read_bytes())
    out = model.parent / "out"
    assert invoke("compress", model, other, "-o", out, "--preset", "fast").exit_code == 0
    assert sorted(each.name for each in out.iterdir()) == ["model.slimtensors", "other.slimtensors"]
    result = invoke("compress", model, model)
    assert result.exit_code == 2
    assert "both become" in result.output
    nested = model.parent / "sub"
    nested.mkdir()
    (nested / "model.safetensors").write_bytes(model.read_bytes())
    result = invoke("compress", model, nested / "model.safetensors", "-o", model.parent / "both")
    assert result.exit_code == 2
    assert "both become" in result.output
    assert not (model.parent / "both").exists()


def test_links_are_followed(invoke: Invoke, tmp_path: Path, model: Path) -> None:
    blob = model.rename(tmp_path / "0123abcd")
    model.symlink_to(blob.name)
    assert invoke("compress", model).exit_code == 0
    assert (tmp_path / "model.slimtensors").exists()
    assert model.is_symlink()
    assert invoke("compress", blob).exit_code == 0
    assert (tmp_path / "0123abcd.slimtensors").exists()
