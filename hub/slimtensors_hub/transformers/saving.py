"""`save_pretrained` for models of transformers, in either layout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

from slimtensors.errors import UsageError
from slimtensors_hub import saving
from slimtensors_hub.errors import told
from slimtensors_hub.listing import api, parse_name
from slimtensors_hub.pushing import check_destination, push
from slimtensors_hub.saving import check_arguments
from slimtensors_hub.transformers.payloads import save_payloads

__all__ = ["Layout", "push_to_hub", "save_pretrained"]

Layout = Literal["slimtensors", "safetensors"]


def save_pretrained(
    model: Any,
    save_directory: Any,
    *,
    layout: Layout = "slimtensors",
    preset: str = "balanced",
    base: Any = None,
    threads: int | None = None,
    self_check: bool = True,
    **kwargs: Any,
) -> None:
    """`model.save_pretrained(save_directory, **kwargs)` with compressed weights.

    layout: "slimtensors" writes model.slimtensors, or shards and their index: what `from_pretrained` here loads, and
    `slimtensors decompress` turns into the files that transformers would have written. "safetensors" writes valid
    .safetensors files whose tensors are the compressed ones, each a 1-D U8 tensor under its own name. transformers
    itself, pipelines too, loads them once this module is imported; without, it raises an error of mismatched sizes. It
    decodes one tensor after another, and takes no base; `pull(decompress=True)` cannot give the plain files back.
    preset, base, threads, self_check: as for `slimtensors.compress`. kwargs: variant, max_shard_size of plain bytes.

    The folder keeps its old files until the new ones are complete. Raises UsageError if plain weights of the same name
    are in it.
    """
    if layout == "slimtensors":
        saving.save_pretrained(
            model, save_directory, preset=preset, base=base, threads=threads, self_check=self_check, **kwargs
        )
    elif layout == "safetensors":
        if base is not None:
            raise UsageError("layout 'safetensors' takes no base; use layout 'slimtensors' for differences")
        save_payloads(model, save_directory, preset=preset, threads=threads, self_check=self_check, **kwargs)
    else:
        raise UsageError(f"layout is {layout!r}; it can be slimtensors or safetensors")


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    layout: Layout = "slimtensors",
    preset: str = "balanced",
    base: Any = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    verify: bool = True,
    threads: int | None = None,
    **kwargs: Any,
) -> Any:
    """Save a model and upload it in one commit; gives huggingface_hub's `CommitInfo`.

    layout, preset, base, threads and kwargs: as for `save_pretrained`; base may be a repository. The others, and what
    is raised: as for `slimtensors_hub.push`, which uploads the layout "slimtensors"; verify is for that layout.
    """
    check_arguments(model, preset, kwargs)
    repo_id, revision = parse_name(repo_id, revision)
    check_destination(repo_id, revision, token)
    with tempfile.TemporaryDirectory(prefix="slimtensors-") as made:
        folder = Path(made, "model")
        if layout == "slimtensors":
            model.save_pretrained(folder, **kwargs)
            return push(
                folder, repo_id, base=base, preset=preset, private=private, revision=revision, create_pr=create_pr,
                token=token, commit_message=commit_message, verify=verify, threads=threads,
            )  # fmt: skip
        save_pretrained(model, folder, layout=layout, preset=preset, base=base, threads=threads, **kwargs)
        client = api(token)
        with told(repo_id, revision):
            client.create_repo(repo_id, private=private, exist_ok=True)
            return client.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, create_pr=create_pr,
                commit_message=commit_message or "Upload model",
            )  # fmt: skip
