"""Section: files that are quantised already, beside their own size and Zstandard's."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from bench import ours
from bench.data import quantised
from bench.sections import Settings
from bench.timing import Record

ZSTD_LEVELS = (3, 19)
PRESETS = ("balanced", "small")


def run(_settings: Settings) -> list[Record]:
    records: list[Record] = []
    reason = ours.missing()
    zstandard = importlib.import_module("zstandard")
    for name in quantised.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            source, packed, back = (Path(folder) / each for each in ("source", "packed", "back"))
            weights = quantised.make(name, source)
            data = source.read_bytes()
            sizes: dict[str, int] = {"as it is": len(data)}
            for level in ZSTD_LEVELS:
                sizes[f"zstd-{level}"] = len(zstandard.ZstdCompressor(level).compress(data))
            if reason is None:
                library = importlib.import_module("slimtensors")
                for preset in PRESETS:
                    library.compress(source, packed, preset=preset)
                    library.decompress(packed, back)
                    if back.read_bytes() != data:
                        raise RuntimeError(f"slimtensors did not give {name} back")
                    sizes[f"slimtensors {preset}"] = packed.stat().st_size
                    packed.unlink()
                    back.unlink()
            else:
                records += [{"dataset": name, "codec": f"slimtensors {p}", "missing": reason} for p in PRESETS]
            for codec, size in sizes.items():
                records.append(
                    {
                        "dataset": name,
                        "codec": codec,
                        "bytes": size,
                        "weights": weights,
                        "bits_per_weight": 8 * size / weights,
                        "percent": 100 * size / len(data),
                    }
                )
    return records
