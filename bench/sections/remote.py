"""Section 10: files read by range from a hub on localhost (tests/hub), in processes of their own.

Requests and bytes are counted by the server, and are exact; "own" is what the part takes in the file: prefix, header,
index, table and the chunks that hold it. Times are over a link of limited speed that all connections share, 10 ms
before each answer: the least of the samples, ours and plain safetensors by turns. Plain safetensors is read the same
way: by the same requests of up to 2 MiB, in the same threads, into arrays. "first" is the first tensor of 1 MiB or
more.

What the Hub itself saves is emulated after xet-core's published design: chunks of 64 KiB on average, 8 to 128, cut
where a rolling hash says, each kept as it is, as LZ4, or as LZ4 of its bytes grouped by four, whichever is smallest.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours, worker
from bench.data import path_of
from bench.data.files import CACHE
from bench.machine import ROOT
from bench.sections import Settings
from bench.timing import Record

MODEL, TUNED, LARGE = "minilm-bf16", "finetuned-2e-5x20-bf16", "big-512m"
LINKS = ((50, MODEL), (1000, LARGE))  # Mbit/s
WIRED = ("minilm-bf16", "minilm-f16", "minilm-f32")
LATENCY = 0.010
THREADS = 2
ROWS = "embeddings.word_embeddings.weight"
LAYER = "encoder.layer.3."
PIECE = 1 << 20
SMALLEST, LARGEST, MASK = 8 << 10, 128 << 10, (1 << 16) - 1


@contextmanager
def hub(folders: dict[str, Path], rate: float | None = None, latency: float = 0.0) -> Iterator[str]:
    """A server of these repositories; gives its address."""
    command = [sys.executable, "-m", "tests.hub", *(f"{name}={folder}" for name, folder in folders.items())]
    command += [] if rate is None else ["--rate", str(rate)]
    with subprocess.Popen(
        [*command, "--latency", str(latency)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["endpoint"]
        finally:
            server.terminate()


def _asked(endpoint: str) -> list[Any]:
    """What was asked since the last call."""
    request = urllib.request.Request(f"{endpoint}/_hub/requests", method="DELETE")  # noqa: S310 # on localhost
    with urllib.request.urlopen(f"{endpoint}/_hub/requests") as answer:  # noqa: S310 # as above
        found: list[Any] = json.load(answer)
    urllib.request.urlopen(request).close()  # noqa: S310 # as above
    return [each for each in found if "/_hub/" not in each["path"]]


def work(operation: str, name: str, **extra: Any) -> Any:
    """Runs in a worker: one of the reads that are counted, or all that are timed."""
    slimtensors = importlib.import_module("slimtensors")
    arrays = importlib.import_module("slimtensors.numpy")
    if operation == "header":
        slimtensors.inspect(name)
    elif operation == "row":
        with slimtensors.safe_open(name) as file:
            file.get_slice(ROWS)[1000:1001]
    elif operation == "layer":
        with slimtensors.safe_open(name) as file:
            loader = file.prefetch({each: None for each in file.offset_keys() if each.startswith(LAYER)})
            _drain(iter(loader))
    elif operation == "whole":
        arrays.load_file(name, base=extra.get("base"))
    elif operation == "timed":
        return _timed(name, **extra)
    return None


def _drain(stream: Iterator[tuple[str, Any]], began: float = 0.0) -> tuple[float, float]:
    """Seconds to the first large tensor, and to the end."""
    first = 0.0
    for _, array in stream:
        if not first and array.nbytes >= PIECE:
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


def _timed(name: str, plain: str, local: str, repeats: int) -> list[Record]:
    arrays = importlib.import_module("slimtensors.numpy")
    arrays.load_file(local)  # kernels are there
    importlib.import_module("huggingface_hub").get_session()
    codecs = {"slimtensors balanced": lambda: _ours(name), "safetensors": lambda: _plain(plain)}
    samples: dict[str, list[tuple[float, float]]] = {codec: [] for codec in codecs}
    for _ in range(repeats):
        for codec, load in codecs.items():
            samples[codec].append(load())
    return [
        {"codec": codec, "first": min(first for first, _ in found), "whole": min(whole for _, whole in found)}
        for codec, found in samples.items()
    ]


def _ours(name: str) -> tuple[float, float]:
    began = time.perf_counter()
    return _drain(importlib.import_module("slimtensors.numpy").stream_tensors(name, threads=THREADS), began)


def _plain(name: str) -> tuple[float, float]:
    """The tensors of a safetensors file by the requests, threads and sizes of ours; nothing is decoded."""
    threads = importlib.import_module("slimtensors.threads")
    began = time.perf_counter()
    source = importlib.import_module("slimtensors.container.source").open_source(name)
    made, left, first = {}, {}, list[float]()
    pieces = []
    for tensor in importlib.import_module("slimtensors.sources.safetensors_file").read_safetensors(source).inputs:
        size = tensor.dtype.bytes_of(tensor.shape)
        made[tensor.name] = np.empty(size, np.uint8)
        found = [(tensor.name, at, tensor.offset + at, min(PIECE, size - at)) for at in range(0, size, PIECE)]
        left[tensor.name] = len(found)
        pieces += found
    source.expect((offset, length) for _, _, offset, length in pieces)
    large = next(name for name, array in made.items() if array.nbytes >= PIECE)

    def place(piece: Any, data: Any) -> None:
        made[piece[0]][piece[1] : piece[1] + piece[3]] = data
        left[piece[0]] -= 1
        if piece[0] == large and not left[large]:
            first.append(time.perf_counter() - began)

    many = THREADS + 8  # as for ours
    threads.Pipeline(
        pieces, lambda piece: source.read(piece[2], piece[3]), place, THREADS, most=many, begin=many
    ).run()
    source.close()
    return first[0], time.perf_counter() - began


def _packed(dataset: str, base: str | None = None) -> Path:
    path = CACHE / f"{dataset}.slimtensors"
    ours.compress(path_of(dataset), path, "balanced", THREADS, False, path_of(base) if base else None)
    return path


def _folder(root: Path, **files: Path) -> Path:
    """A repository's files, by their endings."""
    root.mkdir()
    for name, path in files.items():
        (root / f"model.{name}").symlink_to(path)
    return root


def _counts(root: Path) -> list[Record]:
    packed, tuned = _packed(MODEL), _packed(TUNED, MODEL)
    model, fine_tune = _folder(root / "model", slimtensors=packed), _folder(root / "tuned", slimtensors=tuned)
    folders = {"alice/model": model, "alice/tuned": fine_tune}
    layer = ours.names(packed, LAYER)
    cases = [
        ("header", "model", ours.part_bytes(packed, []), {}),
        ("row", "model", ours.part_bytes(packed, [ROWS], (1000, 1001)), {}),
        ("layer", "model", ours.part_bytes(packed, layer), {}),
        ("whole", "model", packed.stat().st_size, {}),
        ("fine-tune, base cached", "tuned", tuned.stat().st_size, {"base": str(path_of(MODEL))}),
    ]
    records: list[Record] = []
    with hub(folders) as endpoint, tempfile.TemporaryDirectory() as home:
        for part, repository, own, extra in cases:
            _asked(endpoint)
            operation = "whole" if part.startswith("fine-tune") else part
            name = f"hf://alice/{repository}/model.slimtensors"
            worker.run("remote", _environment(endpoint, home), operation=operation, name=name, **extra)
            asked = _asked(endpoint)
            sent = sum(each["sent"] for each in asked)
            records.append(
                {"codec": "slimtensors balanced", "part": part, "requests": len(asked), "bytes": sent, "own": own,
                 "over": 100 * (sent / own - 1), "dataset": TUNED if extra else MODEL}
            )  # fmt: skip
    return records


def _environment(endpoint: str, home: str) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1"}


def _times(root: Path, repeats: int) -> list[Record]:
    records: list[Record] = []
    for rate, dataset in LINKS:
        source, packed = path_of(dataset), _packed(dataset)
        folder = _folder(root / dataset, slimtensors=packed, safetensors=source)
        with hub({"alice/x": folder}, rate * 1e6 / 8, LATENCY) as endpoint, tempfile.TemporaryDirectory() as home:
            found = worker.run(
                "remote", _environment(endpoint, home), operation="timed", name="hf://alice/x/model.slimtensors",
                plain="hf://alice/x/model.safetensors", local=str(packed), repeats=repeats,
            )  # fmt: skip
        plain = next(each for each in found if each["codec"] == "safetensors")
        ratio = source.stat().st_size / packed.stat().st_size
        for each in found:
            shares = {f"{what}_gain": plain[what] / each[what] / ratio for what in ("first", "whole")}
            records.append({**each, **shares, "mbit": rate, "dataset": dataset, "ratio": ratio})
    return records


def wired(data: bytes) -> int:
    """Bytes of a file as the Hub's own storage keeps and sends it, about; what it finds twice counts twice."""
    block = importlib.import_module("lz4.frame")
    total = at = 0
    for end in _cuts(np.frombuffer(data, np.uint8)):
        chunk = data[at:end]
        grouped = b"".join(chunk[k::4] for k in range(4))
        total += min(len(chunk), len(block.compress(chunk)), len(block.compress(grouped)))
        at = end
    return total


def _cuts(data: Any) -> list[int]:
    """Where chunks end: a gear hash of the last 64 bytes has 16 zeros, or the chunk is as long as may be."""
    numba = importlib.import_module("numba")
    gear = np.random.default_rng(0).integers(0, 1 << 63, 256, np.uint64)

    @numba.njit  # type: ignore[untyped-decorator] # numba has no types
    def cut(data: Any, gear: Any, found: Any) -> int:
        count, start, hashed = 0, 0, np.uint64(0)
        for at in range(data.size):
            hashed = (hashed << np.uint64(1)) + gear[data[at]]
            length = at + 1 - start
            if length >= LARGEST or (length >= SMALLEST and not (hashed >> np.uint64(48)) & np.uint64(MASK)):
                found[count] = at + 1
                count, start, hashed = count + 1, at + 1, np.uint64(0)
        if start < data.size:
            found[count] = data.size
            count += 1
        return count

    found = np.empty(data.size // SMALLEST + 2, np.int64)
    return found[: cut(data, gear, found)].tolist()


def _wire() -> list[Record]:
    try:
        importlib.import_module("lz4.frame")
    except ImportError as error:
        return [{"codec": "hub", "missing": str(error)}]
    records: list[Record] = []
    for dataset in WIRED:
        data = path_of(dataset).read_bytes()
        mine, theirs = _packed(dataset).stat().st_size, wired(data)
        records.append(
            {"codec": "wire", "dataset": dataset, "hub_percent": 100 * theirs / len(data),
             "percent": 100 * mine / len(data), "of_hub": 100 * mine / theirs}
        )  # fmt: skip
    return records


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder)
        return [*_counts(root), *_times(root, settings.repeats), *_wire()]
