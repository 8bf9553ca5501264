"""Compressed models on hubs: push, pull, and read by range, with huggingface_hub.

    from slimtensors_hub import pull, push
    push("folder/", "me/model", base="org/base")
    folder = pull("me/model")

Importing this package loads neither huggingface_hub nor torch; what a name needs is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimtensors_hub.bases import hub_base
    from slimtensors_hub.converting import convert
    from slimtensors_hub.decompressing import decompressed
    from slimtensors_hub.errors import HubError
    from slimtensors_hub.mixin import ModelHubMixin
    from slimtensors_hub.pulling import pull
    from slimtensors_hub.pushing import push
    from slimtensors_hub.saving import save_pretrained

__all__ = ["HubError", "ModelHubMixin", "convert", "decompressed", "hub_base", "pull", "push", "save_pretrained"]

_HOME = {
    "HubError": "errors",
    "ModelHubMixin": "mixin",
    "convert": "converting",
    "decompressed": "decompressing",
    "hub_base": "bases",
    "pull": "pulling",
    "push": "pushing",
    "save_pretrained": "saving",
}


if not TYPE_CHECKING:  # to a type checker it would say that any name is here

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            globals()[name] = getattr(importlib.import_module(f"slimtensors_hub.{_HOME[name]}"), name)
            return globals()[name]
        raise AttributeError(f"module 'slimtensors_hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
