"""Section 10: a model whose layers are decoded when their turn comes, on the CPU, against one that is resident.

A model in the shape of a Llama, of several hundred MB in BF16, with random weights; the one of transformers where that
is installed, else the same layers in plain torch. Each workload is timed resident ("compute"), its layers decoded and
nothing computed ("decode"), and offloaded: decoded ahead, before its turn, and as measured by the library. All in turn,
in one process, compressed bytes in memory. "of_max": seconds over the longer of compute and decode; "of_sum": over both
together, which is the floor where each of the two uses all cores. The legs are OpenMP's waiting policies: threads of
torch that spin between two layers take the cores that decoding wants. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import gc
import importlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench import ours, timing, worker
from bench.data.files import CACHE
from bench.sections import Settings
from bench.sections.memory import peak_bytes
from bench.timing import Case, Record

WIDTH, INNER, LAYERS, HEADS, WORDS = 1024, 3072, 16, 16, 2000
WORKLOADS = {"batch 1": (1, 1), "batch 16": (16, 1), "prefill 512": (1, 512)}  # sequences, tokens of each
POLICIES = ("active", "passive")  # of OpenMP's threads that wait
THREADS = 2
MODES = {"offloaded": None, "offloaded, ahead": True, "offloaded, in turn": False}


def _transformers() -> Any:
    """A Llama on the meta device, or None."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return None
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        vocab_size=WORDS, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def plain_model(width: int = WIDTH, inner: int = INNER, layers: int = LAYERS) -> Any:
    """The same sizes in plain torch, without positions."""
    torch = importlib.import_module("torch")
    linear = partial(torch.nn.Linear, bias=False)

    class Block(torch.nn.Module):  # type: ignore[name-defined, misc] # torch is imported late
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = torch.nn.RMSNorm(width), torch.nn.RMSNorm(width)
            self.query, self.key, self.value, self.out = (linear(width, width) for _ in range(4))
            self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

        def forward(self, x: Any) -> Any:
            y = self.before(x)
            heads = [each(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)]
            found = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=x.shape[1] > 1)
            x = x + self.out(found.transpose(1, 2).flatten(2))
            y = self.after(x)
            return x + self.down(torch.nn.functional.silu(self.gate(y)) * self.up(y))

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc] # as above
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(WORDS, width)
            self.layers = torch.nn.ModuleList(Block() for _ in range(layers))

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens)
            for layer in self.layers:
                x = layer(x)
            return x @ self.embedding.weight.T

    return Model()


def build(seed: int) -> Any:
    """The model, in BF16."""
    torch = importlib.import_module("torch")
    torch.manual_seed(seed)
    model = _transformers() or plain_model()
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def _decode(held: Any) -> None:
    """All layers, by the calls that offloading makes."""
    for layer in range(LAYERS):
        held._slots._fill(layer)


def _times(path: str, repeats: int) -> list[Record]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    offload, torch_api = (importlib.import_module(f"slimtensors.{name}") for name in ("offload", "torch"))
    resident = build(0)
    torch_api.load_model(resident, path)
    models = {mode: build(1) for mode in MODES}
    held = {
        mode: offload.offload(models[mode], path, host="memory", ahead=ahead, threads=THREADS)
        for mode, ahead in MODES.items()
    }
    gc.collect()
    records: list[Record] = []
    for workload, (sequences, tokens) in WORKLOADS.items():
        given = torch.arange(sequences * tokens).reshape(sequences, tokens) % WORDS
        cases = [Case({"operation": "compute"}, lambda _, given=given: resident(given))]
        cases.append(Case({"operation": "decode"}, lambda _: _decode(held["offloaded"])))
        cases += [Case({"operation": mode}, lambda _, mode=mode, given=given: models[mode](given)) for mode in MODES]
        compute, decode, *found = timing.interleave(cases, repeats, wall=True)
        both = compute["seconds"], decode["seconds"]
        for record in found:
            record |= {"of_max": record["seconds"] / max(both), "of_sum": record["seconds"] / sum(both)}
        expected = resident(given)
        for mode in MODES:
            assert torch.equal(_output(expected), _output(models[mode](given)))
        records += [{"workload": workload} | record for record in (compute, decode, *found)]
    for each in held.values():
        each.close()
    return records


def _output(result: Any) -> Any:
    return result if hasattr(result, "shape") else result[0]


def _peak(path: str, workload: str, host: str) -> Record:
    """Above what imports, kernels and an empty model take: buffers, what is resident, activations, held bytes."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    offload, torch_api = (importlib.import_module(f"slimtensors.{name}") for name in ("offload", "torch"))
    with torch.device("meta"):
        model = plain_model().to(torch.bfloat16).eval()
    torch_api.load(torch_api.save({"x": torch.randn(1000, 1000).bfloat16()}))  # the kernels
    torch.nn.functional.linear(*(torch.ones(1000, 1000, dtype=torch.bfloat16) for _ in range(2)))
    before = peak_bytes()
    model.embedding.to_empty(device="cpu").requires_grad_(False)
    held = offload.offload(model, path, host=host, threads=THREADS)
    sequences, tokens = WORKLOADS[workload]
    given = torch.arange(sequences * tokens).reshape(sequences, tokens) % WORDS
    for _ in range(2):
        model(given)
    resident = model.embedding.weight.nbytes
    return {"above": peak_bytes() - before, "buffers": held.nbytes, "resident": resident}


def work(what: str, path: str, **arguments: Any) -> Any:
    """Runs in a worker."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        return _times(path, **arguments) if what == "times" else _peak(path, **arguments)


def run(settings: Settings) -> list[Record]:
    reason = ours.missing()
    if reason:
        return [{"codec": "slimtensors", "missing": reason}]
    save_model = importlib.import_module("slimtensors.torch").save_model
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        timed, plain = Path(folder) / "timed.slimtensors", Path(folder) / "plain.slimtensors"
        kind = "transformers" if _transformers() is not None else "plain torch"
        save_model(build(2), timed)
        save_model(plain_model().to(importlib.import_module("torch").bfloat16), plain)
        common: Record = {"codec": "slimtensors balanced", "threads": THREADS, "clock": "wall", "model": kind}
        records: list[Record] = []
        for policy in POLICIES:
            legs = {} if policy == "active" else {"OMP_WAIT_POLICY": policy}  # active: as torch comes
            found = worker.run("offload", legs, what="times", path=str(timed), repeats=settings.repeats)
            records += [common | {"omp": policy} | record for record in found]
        for workload in WORKLOADS:
            for host in ("disk", "memory"):
                seen = worker.run("offload", what="peak", path=str(plain), workload=workload, host=host)
                seen["file"] = plain.stat().st_size if host == "memory" else 0
                mib = {f"{name}_mib": nbytes / (1 << 20) for name, nbytes in seen.items()}
                labels = {"model": "plain torch", "operation": "peak", "workload": workload, "host": host}
                records.append(common | labels | mib)
        return records
