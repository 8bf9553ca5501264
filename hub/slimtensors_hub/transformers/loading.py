"""`from_pretrained` for a given class: transformers loads the model, and indexes our tensors for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import find_adapter_config_file, is_peft_available
from transformers.utils.hub import resolve_revision

from slimtensors.errors import UsageError
from slimtensors_hub.bases import hub_base, named_base
from slimtensors_hub.both_kinds import check_folder, check_repository
from slimtensors_hub.fetching import Place
from slimtensors_hub.transformers.lazy import first_float, open_lazily
from slimtensors_hub.transformers.locating import HUB_ARGUMENTS, find_weights

__all__ = ["check_no_base", "from_pretrained", "hub_arguments", "load", "not_ours", "read_config"]

# What AutoConfig would take for attributes of the config.
_NOT_FOR_CONFIG = ("dtype", "torch_dtype", "quantization_config", "generation_config", "output_loading_info")


def from_pretrained(
    model_class: Any, pretrained_model_name_or_path: Any, *model_args: Any, base: Any = None, **kwargs: Any
) -> Any:
    """`model_class.from_pretrained(...)`, for weights that may be compressed.

    pretrained_model_name_or_path: a folder or a repository. Where it holds model.slimtensors, or its index, these
    weights are loaded; otherwise the call goes to transformers as it is. base: what the weights are differences from,
    if they are: a repository, or as for `slimtensors.safe_open`. All other arguments are transformers'. Raises
    UsageError for a folder that holds newer plain weights of the same name, not known to be what these were made of,
    and warns of a repository with both that may differ.
    """
    name = pretrained_model_name_or_path
    hub = hub_arguments(name, kwargs)
    weights = find_weights(name, variant=kwargs.get("variant"), hub=hub, tqdm_class=kwargs.get("tqdm_class"))
    if weights is None or not_ours(kwargs):
        check_no_base(name, base)
        return model_class.from_pretrained(name, *model_args, **kwargs)
    config, kwargs = read_config(name, kwargs, hub, model_class.config_class)
    return load(model_class, name, *model_args, weights=weights, config=config, hub=hub, base=base, **kwargs)


def hub_arguments(name: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' arguments about repositories, the revision resolved: all files are then of one commit."""
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
    known = {key: hub[key] for key in ("token", "local_files_only", "cache_dir") if key in hub}
    revision = resolve_revision(name, hub.get("revision"), **known)
    return hub if revision is None else hub | {"revision": revision}


def read_config(name: Any, kwargs: dict[str, Any], hub: dict[str, Any], reader: Any = AutoConfig) -> tuple[Any, Any]:
    """The model's config, and the arguments that are left for the model, as transformers' auto classes do it."""
    left = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
    config = left.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return config, left
    own = {key: left.pop(key) for key in _NOT_FOR_CONFIG if key in left}
    config, left = reader.from_pretrained(config or name, return_unused_kwargs=True, **hub, **left)
    return config, left | own


def not_ours(kwargs: Mapping[str, Any]) -> bool:
    """Whether the caller names weights himself, which transformers then loads, or refuses."""
    return any(kwargs.get(key) is not None for key in ("gguf_file", "state_dict"))


def check_no_base(name: Any, base: Any) -> None:
    """Refuse a base for what has no compressed weights."""
    if base is not None:
        raise UsageError(f"base= is given, but {name} holds no model.slimtensors that could need it; leave it out")


def bases(base: Any, hub: Mapping[str, Any]) -> list[Any]:
    """Where bases are looked for: what the caller names, then the repositories that the files' headers name."""
    place = _place(hub)
    given, _ = named_base(base, place)
    find = hub_base(cache_dir=place.cache_dir, token=place.token, local_files_only=place.local_files_only)
    return [*(given if isinstance(given, list) else [] if given is None else [given]), find]


def _place(hub: Mapping[str, Any]) -> Place:
    return Place(**{key: hub[key] for key in ("cache_dir", "token", "local_files_only") if key in hub})


def load(
    model_class: Any, name: Any, *model_args: Any, weights: Path, config: Any, hub: Mapping[str, Any], base: Any = None,
    **kwargs: Any,
) -> Any:  # fmt: skip
    """The model, and its loading info if that is asked for, from compressed weights.

    transformers takes a state dict only without a name, so what it would find by the name is found here: the
    generation config, and adapters that lie beside the weights.
    """
    for handled in ("variant", "use_safetensors", "tqdm_class"):
        kwargs.pop(handled, None)
    adapter = dict(kwargs.pop("adapter_kwargs", None) or {})
    if Path(str(name)).is_dir():
        check_folder([weights])
    else:
        check_repository([weights], str(name), hub.get("revision"), _place(hub), hub.get("subfolder", ""))
    with open_lazily(weights, bases(base, hub)) as tensors:
        if kwargs.get("dtype", kwargs.get("torch_dtype", "auto")) in (None, "auto") and config.dtype is None:
            kwargs.pop("torch_dtype", None)
            kwargs["dtype"] = first_float(tensors)
        found = model_class.from_pretrained(None, *model_args, config=config, state_dict=tensors, **kwargs)
    model = found[0] if kwargs.get("output_loading_info") else found
    model.name_or_path = model.config.name_or_path = str(name)
    if kwargs.get("generation_config") is None and model.can_generate() and hasattr(model, "adjust_generation_fn"):
        everything: dict[str, Any] = dict.fromkeys(HUB_ARGUMENTS)
        everything |= {"force_download": False, "local_files_only": False, "subfolder": "", **hub}
        trust = kwargs.get("trust_remote_code")
        model.adjust_generation_fn(None, True, None, name, **everything, trust_remote_code=trust)
    if is_peft_available() and find_adapter_config_file(name, **{**hub, **adapter}) is not None:
        model.load_adapter(name, adapter_name=kwargs.get("adapter_name", "default"), adapter_kwargs=adapter)
    return found
