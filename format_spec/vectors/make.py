"""Makes `valid/`, `invalid/` and the tables of `README.md` again, byte for byte.

python format_spec/vectors/make.py            writes them
python format_spec/vectors/make.py --check    says whether they are what would be written
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "reference")]

from break_checkpoints import BROKEN_CHECKPOINTS  # noqa: E402 # after the path is set
from make_checkpoints import CHECKPOINTS, Folder  # noqa: E402
from make_invalid import INVALID  # noqa: E402
from make_valid import BASES, VALID  # noqa: E402

import checkpoint  # noqa: E402
import decode  # noqa: E402

SMALL = 64  # tensors of at most so many bytes are written out

INTRODUCTION = """# Test vectors

Small files of the format. Every decoder must read those in `valid/` and refuse those in `invalid/`.
Beside each valid file a JSON text says what it holds: for every tensor its dtype, its shape, the BLAKE3 of its bytes
and, if they are few, the bytes; the metadata; the file id; the SHA-256 of the image; what a lossy file says of its
source and its errors; of a file that has bases, which tensor of which other valid file each is. A name that begins with
`newer_` is a file that a reader refuses as needing a newer one. The bases of invalid files, as far as a reader comes to
ask for them, are tensors of valid ones; they are found by their identities.

All are made by `python format_spec/vectors/make.py` (`make_valid.py`, `make_invalid.py`) with the naive encoder of
`../reference`; this page too. In an invalid file all digests are right for what is there, except where the digest is
the fault: only the rule named finds it. Those that break a rule about the header have literal chunks, so that a reader
that lacks the rule takes the file. Where the fault leaves the decoded bytes as they were, so are their digests.

The folders in `valid/checkpoints` and `invalid/checkpoints` are checkpoints (`checkpoint.md`), or hold some and a
`latest.json`. What a reader that is given such a folder reads, all of it, is what the text beside it says; or it must
be refused. They are made by `make_checkpoints.py` and `break_checkpoints.py`; digests, sizes and file ids are right for
what is there, and files hold what the manifest says of them, but where the table says otherwise. In the texts, values
are written as in section 3 but for a few: `float` has the 64 bits as 16 digits, what is base64 there is hexadecimal,
and `paths` are a `dict`.

"""


def known_bases() -> dict[bytes, tuple[str, str, bytes]]:
    """By identity: the vector and the tensor in it that are a base, and its bytes."""
    found = {}
    for vector, tensor in BASES.items():
        data = decode.decode_file(VALID[vector][1]().join()).tensors[tensor][2]
        found[decode.digest(data)] = vector, tensor, data
    return found


def expected(data: bytes, bases: dict[bytes, tuple[str, str, bytes]]) -> dict:
    file = decode.decode_file(data, bases=lambda identity: bases[identity][2])
    named = [bases[base.identity][:2] for base in decode.read_layout(data)[0].bases]
    lossy = {name: {"max": m, "nmse": n, "recipe": recipe} for name, (recipe, n, m) in file.lossy.items()}
    tensors = {}
    for name, (dtype, shape, content) in file.tensors.items():
        tensors[name] = {"blake3": decode.digest(content).hex(), "dtype": dtype, "shape": list(shape)}
        if len(content) <= SMALL:
            tensors[name]["bytes"] = content.hex()
    return {
        **({"bases": [{"tensor": tensor, "vector": vector} for vector, tensor in named]} if named else {}),
        "file_id": file.file_id.hex(),
        "image_sha256": None if file.image is None else hashlib.sha256(file.image).hexdigest(),
        **({"lossy": {"source": file.source, "tensors": lossy}} if lossy else {}),
        "metadata": file.metadata,
        "tensors": tensors,
    }


def plain(value: object) -> object:
    """What the reference reader gives, as JSON."""
    if isinstance(value, float):
        return {"float": struct.pack(">d", value).hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, tuple):
        return {"tuple": [plain(each) for each in value]}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(each)] for key, each in value.items()]}
    if not isinstance(value, checkpoint.Tagged):
        return value
    kind, content = value.kind, value.content
    if kind in ("array", "number"):
        return {kind: [content[0], list(content[1]), content[2].hex()]}
    if isinstance(content, dict):
        return {kind: plain(content)["dict"]}
    return {kind: content.hex() if isinstance(content, bytes) else list(content) if kind == "size" else content}


def expected_checkpoint(folder: Folder) -> dict:
    with tempfile.TemporaryDirectory() as place:
        put_folder(Path(place), folder)
        found = checkpoint.read_checkpoint(Path(place))
    tensors = {}
    for name, (dtype, shape, content) in found.tensors.items():
        tensors[name] = {"blake3": decode.digest(content).hex(), "dtype": dtype, "shape": list(shape)}
        if len(content) <= SMALL:
            tensors[name]["bytes"] = content.hex()
    return {
        "bases": found.manifest.bases,
        "objects": {name: plain(value) for name, value in found.objects.items()},
        "planner": plain(found.manifest.planner),
        "run": found.manifest.run,
        "tensors": tensors,
    }


def put_folder(place: Path, folder: Folder) -> None:
    for path, data in folder.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)


def outputs() -> dict[Path, bytes]:
    out: dict[Path, bytes] = {}
    bases = known_bases()
    readme = [INTRODUCTION, "## valid\n\n| file | shows |\n|---|---|\n"]
    for name, (what, make) in sorted(VALID.items()):
        data = make().join()
        out[Path("valid", f"{name}.slimtensors")] = data
        text = json.dumps(expected(data, bases), indent=1, sort_keys=True) + "\n"
        out[Path("valid", f"{name}.json")] = text.encode()
        readme.append(f"| `{name}` | {what} |\n")
    readme.append("\n## invalid\n\n| file | what is wrong with it |\n|---|---|\n")
    for name, (what, make) in sorted(INVALID.items()):
        out[Path("invalid", f"{name}.slimtensors")] = make()
        readme.append(f"| `{name}` | {what} |\n")
    readme.append("\n## valid/checkpoints\n\n| folder | shows |\n|---|---|\n")
    for name, (what, make) in sorted(CHECKPOINTS.items()):
        folder = make()
        out |= {Path("valid", "checkpoints", name, path): data for path, data in folder.items()}
        text = json.dumps(expected_checkpoint(folder), indent=1, sort_keys=True) + "\n"
        out[Path("valid", "checkpoints", f"{name}.json")] = text.encode()
        readme.append(f"| `{name}` | {what} |\n")
    readme.append("\n## invalid/checkpoints\n\n| folder | what is wrong with it |\n|---|---|\n")
    for name, (what, make) in sorted(BROKEN_CHECKPOINTS.items()):
        out |= {Path("invalid", "checkpoints", name, path): data for path, data in make().items()}
        readme.append(f"| `{name}` | {what} |\n")
    out[Path("README.md")] = "".join(readme).encode()
    return out


def main(arguments: list[str]) -> int:
    made = outputs()
    there = {
        path.relative_to(HERE)
        for pattern in ("valid/**/*", "invalid/**/*")
        for path in HERE.glob(pattern)
        if path.suffix in (".slimtensors", ".json") and path.is_file()
    }
    if arguments == ["--check"]:
        wrong = there - made.keys()
        wrong |= {
            path for path, data in made.items() if not (HERE / path).exists() or (HERE / path).read_bytes() != data
        }
        for path in sorted(wrong):
            print(f"not as made: {path}")
        return 1 if wrong else 0
    for path in there - made.keys():
        (HERE / path).unlink()
    for folder in sorted(HERE.glob("*/checkpoints/**/"), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    for path, data in made.items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_bytes(data)
    files, folders = f"{len(VALID)} valid, {len(INVALID)} invalid", f"{len(CHECKPOINTS)} and {len(BROKEN_CHECKPOINTS)}"
    print(f"{files}; of checkpoints {folders}; {sum(map(len, made.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
