"""`ModelHubMixin`: a torch module's `save_pretrained`, `from_pretrained` and `push_to_hub`, with compressed weights."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub

from slimtensors.errors import FormatError, NotSlimtensorsError
from slimtensors.files.folders import check_base_stays
from slimtensors.files.inspecting import inspect
from slimtensors.sources.shards import read_index
from slimtensors_hub.bases import fetch_bases, hub_base, named_base
from slimtensors_hub.both_kinds import check_folder, check_repository
from slimtensors_hub.fetching import Place
from slimtensors_hub.listing import LIBRARY, parse_name
from slimtensors_hub.pulling import pinned, snapshot
from slimtensors_hub.pushing import push
from slimtensors_hub.saving import earlier_weights, put_in_place

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

__all__ = ["ModelHubMixin"]

SINGLE, PATTERN = "model.slimtensors", "model{suffix}.slimtensors"
MAX_SHARD_SIZE = "5GB"  # as huggingface_hub's
OURS = ["*.slimtensors", "*.slimtensors.index.json", "config.json"]
PLAIN = "model.safetensors"
PLAIN_INDEX = PLAIN + ".index.json"
PLAIN_FILES = [PLAIN, PLAIN_INDEX, "model-?????-of-?????.safetensors", "config.json"]


class ModelHubMixin(huggingface_hub.ModelHubMixin, library_name=LIBRARY, tags=[LIBRARY]):
    """Beside `torch.nn.Module` among a class's bases, it does what huggingface_hub's mixin for PyTorch does.

        class MyModel(nn.Module, ModelHubMixin):
            ...

        model.save_pretrained("folder")                    # model.slimtensors, config.json, README.md
        model.push_to_hub("me/model", base="org/base")
        model = MyModel.from_pretrained("me/model")

    What is larger than `max_shard_size` once it is compressed is split into several files with an index.
    """

    _slimtensors_options: dict[str, Any] | None = None  # of the save at work

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        preset: str = "balanced",
        base: Any = None,
        **kwargs: Any,
    ) -> str | None:
        """Save weights, config.json and README.md. preset, base: as for `slimtensors.torch.save_file`; the other
        arguments: huggingface_hub's. With push_to_hub=True they count for what is pushed, too.

        Weights that an earlier save left in the folder are removed once the new ones are there, plain ones too: whoever
        loads from it, with whatever library, gets the new ones or an error, never the old ones. Raises UsageError if
        these are the base.
        """
        target = Path(save_directory)
        check_base_stays(base, [target / SINGLE, *earlier_weights([SINGLE], target, plain=True)])
        # The class that is derived from hands no options to `_save_pretrained`.
        options = {"max_shard_size": max_shard_size, "preset": preset, "base": base}
        around = self._slimtensors_options  # of a save that this one is part of: `push_to_hub` saves once more
        self._slimtensors_options = options
        try:
            return super().save_pretrained(target, **kwargs, **(options if kwargs.get("push_to_hub") else {}))
        finally:
            self._slimtensors_options = around

    def _save_pretrained(self, save_directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".slimtensors-", dir=save_directory) as made:
            save_shards(_module(self).state_dict(), Path(made), **self._slimtensors_options or {})
            put_in_place(Path(made), save_directory, plain=True)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """As huggingface_hub's; one commit counts for config and weights, and bases are fetched into the cache too.
        Where there are no compressed weights, plain ones are loaded: model.safetensors, or the shards of its index.
        Raises UsageError for a folder that has both, of one name, if the plain ones are newer and not known to be what
        the others were made of; warns of a repository with both that may differ.
        The module is in evaluation mode. strict, map_location: as for PyTorchModelHubMixin; names must fit by default.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if not Path(name).is_dir():
            name, revision = parse_name(name, revision)
            revision = pinned(name, revision, Place(cache_dir, token=token, local_files_only=local_files_only))
        return super().from_pretrained(
            name,
            token=token,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            local_files_only=local_files_only,
            revision=revision,
            **kwargs,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: Any = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> Self:
        from slimtensors.on_torch.modules import load_state
        from slimtensors.torch import load_model

        find = hub_base(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        folder = Path(model_id)
        if folder.is_dir():
            check_folder(_ours(folder))
        else:
            place = Place(cache_dir, None, token, force_download, local_files_only)
            folder = snapshot(model_id, revision, place, OURS)
            if _ours(folder):
                check_repository(_ours(folder), model_id, revision, place)
                fetch_bases(sorted(folder.glob("*.slimtensors")), find)
            else:
                folder = snapshot(model_id, revision, place, PLAIN_FILES)
        plain = [] if _ours(folder) else _plain_files(folder, model_id)
        model = cls(**model_kwargs)
        module = _module(model).to(map_location)
        if plain:
            load_state(module, _plain_state(plain), strict)
        else:
            load_model(module, folder, strict=strict, base=find)
        module.eval()
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        config: Any = None,
        commit_message: str = "Model, with slimtensors",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: Any = None,
        ignore_patterns: Any = None,
        delete_patterns: Any = None,
        model_card_kwargs: dict[str, Any] | None = None,
        base: Any = None,
        verify: bool = True,
        **save: Any,
    ) -> Any:
        """Save, and `slimtensors_hub.push`: base and verify are as there, other arguments as in `save_pretrained`."""
        if delete_patterns is not None:
            raise NotImplementedError("delete_patterns: delete files with huggingface_hub.HfApi.delete_files")
        found, _ = named_base(base, Place(token=token))
        with tempfile.TemporaryDirectory(prefix="slimtensors-") as work:
            folder = Path(work) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, config=config, model_card_kwargs=model_card_kwargs, base=found, **save)
            return push(
                folder, repo_id, base=base, private=private, revision=branch, create_pr=bool(create_pr), token=token,
                commit_message=commit_message, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns,
                verify=verify,
            )  # fmt: skip


def _module(model: Any) -> torch.nn.Module:
    """What holds the weights: itself, or what it is wrapped around."""
    import torch

    inner = model.module if hasattr(model, "module") else model
    if not isinstance(inner, torch.nn.Module):
        raise TypeError(f"{type(model).__name__} must derive from torch.nn.Module as well as from ModelHubMixin")
    return inner


def _ours(folder: Path) -> list[Path]:
    """Compressed weights, and indexes that name some."""
    return [path for pattern in OURS[:2] for path in sorted(folder.glob(pattern))]


def _plain_files(folder: Path, name: str) -> list[Path]:
    """The plain weights of a model, as huggingface_hub and transformers name them."""
    if (folder / PLAIN_INDEX).is_file():
        _, places = read_index(folder / PLAIN_INDEX, ".safetensors")
        return [folder / shard for shard in sorted(set(places.values()))]
    if (folder / PLAIN).is_file():
        return [folder / PLAIN]
    raise NotSlimtensorsError(
        f"{name} holds no weights that can be loaded: neither *.slimtensors nor {PLAIN}; of pickles (.bin, .pt) make "
        ".safetensors files first"
    )


def _plain_state(files: list[Path]) -> dict[str, torch.Tensor]:
    """What plain files hold. Raises FormatError, which names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            state |= load_file(path)
        except SafetensorError as error:  # noqa: PERF203 # which names no file
            raise FormatError(f"{path}: {error}; fetch the file again") from None
    return state


def save_shards(
    state: dict[str, torch.Tensor],
    folder: Path,
    *,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    preset: str = "balanced",
    base: Any = None,
) -> None:
    """A state dict into model.slimtensors, or if that is larger than `max_shard_size` into shards and their index.

    Compressed sizes are known once all is compressed; what must be split is compressed once more.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    from slimtensors.torch import save_file

    metadata = {"format": "pt"}
    whole = folder / SINGLE
    save_file(state, whole, metadata, preset=preset, base=base)
    sizes = {each.name: round(each.stored_bytes) for each in inspect(whole).tensors}
    storages = {name: (t.untyped_storage().data_ptr(), t.device) if t.numel() else None for name, t in state.items()}
    # What it splits need not be tensors: names stand for them.
    split = split_state_dict_into_shards_factory(
        {name: (name,) for name in state},
        get_storage_size=lambda name: sizes[name[0]],
        get_storage_id=lambda name: storages[name[0]],
        filename_pattern=PATTERN,
        max_shard_size=max_shard_size,
    )
    if not split.is_sharded:
        return
    whole.unlink()
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, metadata, preset=preset, base=base)
    stored = sum((folder / file).stat().st_size for file in split.filename_to_tensors)
    index = {"metadata": {"total_size": stored}, "weight_map": split.tensor_to_filename}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model.slimtensors.index.json").write_text(text, encoding="utf-8")
