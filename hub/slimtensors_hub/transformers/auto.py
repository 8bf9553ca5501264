"""transformers' auto classes, with a `from_pretrained` that also loads compressed weights."""

from __future__ import annotations

from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module, resolve_trust_remote_code

from slimtensors_hub.transformers.loading import check_no_base, hub_arguments, load, not_ours, read_config
from slimtensors_hub.transformers.locating import find_weights

__all__ = ["auto_class"]


class _Compressed:
    """Put before one of transformers' auto classes."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, base: Any = None, **kwargs: Any
    ) -> Any:
        """As transformers' own, for a folder or repository whose weights may be compressed.

        Where it holds model.slimtensors, or its index, these are loaded; otherwise the call goes to transformers as it
        is. base: what the weights are differences from, if they are: a repository, or as for `slimtensors.safe_open`;
        those that the files name themselves come from the Hub, or from the folders of SLIMTENSORS_BASE_DIR, without.
        Raises FormatError for damaged weights, BaseError for a base that is missing, UsageError for a folder that
        holds plain weights of the same name too, of which one may be out of date; of such a repository it warns.
        """
        name = pretrained_model_name_or_path
        hub = hub_arguments(name, kwargs)
        weights = find_weights(name, variant=kwargs.get("variant"), hub=hub, tqdm_class=kwargs.get("tqdm_class"))
        if weights is None or not_ours(kwargs):
            check_no_base(name, base)
            return super().from_pretrained(name, *model_args, **kwargs)  # type: ignore[misc] # transformers' auto class
        code = {key: kwargs.get(key) for key in ("trust_remote_code", "code_revision")}
        config, left = read_config(name, kwargs, hub)
        left = {key: value for key, value in left.items() if key not in code}
        model_class, trusted = _model_class(cls, name, config, hub=hub, **code)
        if getattr(model_class, "config_class", None) is config.sub_configs.get("text_config", ()):
            quantised = getattr(config, "quantization_config", None)
            config = config.get_text_config()
            if quantised is not None:
                config.quantization_config = quantised
        return load(
            model_class, name, *model_args, weights=weights, config=config, hub=hub, base=base,
            trust_remote_code=trusted, **left,
        )  # fmt: skip


def auto_class(theirs: Any) -> Any:
    """One of transformers' auto classes, extended. It keeps its name: by that configs tell code in repositories."""
    return type(theirs.__name__, (_Compressed, theirs), {"__module__": __package__, "__doc__": theirs.__doc__})


def _model_class(
    auto: Any, name: Any, config: Any, *, trust_remote_code: bool | None, code_revision: str | None, hub: dict[str, Any]
) -> tuple[Any, bool]:
    """The class that an auto class stands for, and whether code of the repository may run: as transformers decides."""
    known = type(config) in auto._model_mapping
    reference = getattr(config, "auto_map", {}).get(auto.__name__)
    upstream = reference.split("--")[0] if reference and "--" in reference else None
    trust = resolve_trust_remote_code(trust_remote_code, name, known, reference is not None, upstream_repo=upstream)
    mapped = auto._model_mapping[type(config)] if known else None
    registered = mapped is not None and not _first(mapped).__module__.startswith("transformers.")
    if reference is not None and trust and not registered:
        return get_class_from_dynamic_module(reference, name, code_revision=code_revision, **hub), True
    if mapped is None:
        raise ValueError(f"Unrecognized configuration class {type(config)} for this kind of AutoModel: {auto.__name__}")
    named = {each.__name__: each for each in (mapped if isinstance(mapped, (list, tuple)) else [mapped])}
    wanted = [each for each in getattr(config, "architectures", None) or [] if each in named]
    return named[wanted[0]] if wanted else _first(mapped), bool(trust)


def _first(mapped: Any) -> Any:
    return mapped[0] if isinstance(mapped, (list, tuple)) else mapped
