"""transformers with compressed weights: change the import, nothing else.

    from slimtensors_hub.transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("org/model")    # a repository or folder, compressed or not

All of transformers' Auto classes are here. Those of models also take `base=`, for weights that are stored as
differences from a base. Importing this module also lets transformers itself load the layout "safetensors" of
`save_pretrained`, so that pipelines work. Nothing of transformers is patched.
"""

from __future__ import annotations

from typing import Any

import transformers

from slimtensors_hub.transformers.auto import auto_class
from slimtensors_hub.transformers.loading import from_pretrained
from slimtensors_hub.transformers.saving import push_to_hub, save_pretrained  # registers a quantiser

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]


def __getattr__(name: str) -> Any:
    if name.startswith("Auto") and hasattr(transformers, name):
        found = getattr(transformers, name)
        globals()[name] = found = auto_class(found) if name.startswith("AutoModel") else found
        return found
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: it has transformers' Auto classes, {', '.join(__all__)}; "
        "import the rest from transformers, and load a class of your choice with from_pretrained(TheClass, name)"
    )


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in dir(transformers) if name.startswith("Auto"))})
