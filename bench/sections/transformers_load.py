"""Section 12: transformers loads a model of some 500 MB, compressed and plain (bench/requirements-transformers.txt).

Llama with Gaussian rows in BF16; wall time, two cores, page cache warm. transformers maps plain files, reading nothing:
"returned" is when from_pretrained returns, "in memory" when each page of each weight has been touched as well, which is
what a first forward pass does. Sources of a given rate are readers that never answer faster (throttle.py); plain bytes
are read from them by two requests at a time, and the model is then mapped from the page cache: no loader of plain files
can do better.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench import ours, timing, worker
from bench.data.files import CACHE
from bench.sections import Settings
from bench.throttle import Throttled
from bench.timing import Case, Record

RATES = (250, 500, 1000)  # MB/s
PAGE = 4096


def make(folder: str) -> dict[str, int]:
    """The model, in three folders; gives the bytes of each one's weights."""
    torch, transformers, mine = _libraries()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=15, num_attention_heads=16,
        num_key_value_heads=8, dtype="bfloat16",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # rows of different scales, as trained ones have
                parameter.copy_(torch.randn_like(parameter) * 0.02 * torch.exp(0.3 * torch.randn(len(parameter), 1)))
    model.to(torch.bfloat16)
    model.save_pretrained(Path(folder) / "safetensors")
    mine.save_pretrained(model, Path(folder) / "slimtensors")
    mine.save_pretrained(model, Path(folder) / "payloads", layout="safetensors")
    return {path.parent.name: path.stat().st_size for path in Path(folder).glob("*/model.*tensors")}


def _libraries() -> Any:
    names = ("torch", "transformers", "slimtensors_hub.transformers")
    found = [importlib.import_module(name) for name in names]
    found[1].utils.logging.disable_progress_bar()
    return found


def _touched(load: Any) -> Any:
    torch, *_ = _libraries()
    model = load()
    for parameter in model.parameters():
        parameter.detach().flatten().view(torch.uint8)[::PAGE].sum()
    return model


def _plain_from(path: Path, rate: float) -> Any:
    _, transformers, _ = _libraries()
    source = Throttled(path, rate)
    source.read_all()
    source.close()
    return transformers.LlamaForCausalLM.from_pretrained(path.parent)


def _ours_from(path: Path, rate: float) -> Any:
    _, transformers, _ = _libraries()
    source = Throttled(path, rate)
    config = transformers.AutoConfig.from_pretrained(path.parent)
    loading = importlib.import_module("slimtensors_hub.transformers.loading")
    model = loading.load(transformers.LlamaForCausalLM, path.parent, weights=source, config=config, hub={})
    source.close()
    return model


def work(folder: str, repeats: int | None = None) -> Any:
    """Runs in a worker: makes the model, or without that measures it."""
    if repeats is None:
        return make(folder)
    _, transformers, mine = _libraries()
    root = Path(folder)
    stock = transformers.AutoModelForCausalLM.from_pretrained
    loads = {
        "safetensors": partial(stock, root / "safetensors"),
        "slimtensors": partial(mine.AutoModelForCausalLM.from_pretrained, root / "slimtensors"),
        "slimtensors, layout safetensors": partial(stock, root / "payloads"),
    }
    groups = [
        [Case({"codec": leg, "operation": operation}, lambda _, load=load, ends=ends: ends(load))
         for leg, load in loads.items()]
        for operation, ends in (("returned", lambda load: load()), ("in memory", _touched))
    ]  # fmt: skip
    plain, packed = root / "safetensors" / "model.safetensors", root / "slimtensors" / "model.slimtensors"
    for rate in RATES:
        labels = {"operation": "from a source", "mb_per_s": rate}
        groups.append(
            [
                Case({"codec": "safetensors"} | labels, lambda _, r=rate * 1e6: _plain_from(plain, r)),
                Case({"codec": "slimtensors"} | labels, lambda _, r=rate * 1e6: _ours_from(packed, r)),
            ]
        )
    records = []
    for cases in groups:
        found = timing.interleave(cases, repeats, wall=True)
        records += [record | {"of_safetensors": record["seconds"] / found[0]["seconds"]} for record in found]
    return records


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason is None and importlib.util.find_spec("transformers") is None:
        reason = "transformers is not installed"
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        sizes = worker.run("transformers_load", folder=folder)
        found = worker.run("transformers_load", folder=folder, repeats=settings.repeats)
    common: Record = {"clock": "wall", "threads": 2, "verify": "full"}
    mb = {f"{kind}_mb": size / 1e6 for kind, size in sizes.items()}
    return [common | record | mb for record in found]
