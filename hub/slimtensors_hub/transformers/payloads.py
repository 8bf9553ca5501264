"""The layout "safetensors": compressed tensors as tensors of a valid .safetensors file, decoded within transformers.

Every tensor keeps its name. One that is compressed is a 1-D U8 tensor, the bytes of `slimtensors.encode`; all others
are as they were. So no plain tensor may be 1-D U8, nor a payload have the shape of what it holds: whoever does not know
payloads finds a tensor of another shape, and transformers raises. config.json names this module as the quantiser; it
leaves the model as if it had been loaded from plain files.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from slimtensors.errors import FormatError, UsageError
from slimtensors.memory import NAME
from slimtensors.sources.shards import is_index
from slimtensors.torch import load, save
from slimtensors_hub.saving import check_arguments, put_in_place

__all__ = ["METHOD", "PayloadConfig", "PayloadQuantizer", "from_payload", "is_payload", "save_payloads", "to_payload"]

METHOD = "slimtensors"
CONFIG = {"quant_method": METHOD, "dequantize": True}
SUFFIX = ".safetensors"


def is_payload(tensor: torch.Tensor) -> bool:
    """Whether a tensor of such a file is a compressed one."""
    return tensor.dtype == torch.uint8 and tensor.dim() == 1


def to_payload(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
    """The compressed tensor, uint8 [bytes]; or the tensor itself, where that is not larger. options: of `save`."""
    data = save({NAME: tensor}, **options)
    if len(data) >= tensor.nbytes and not is_payload(tensor):
        return tensor
    if tuple(tensor.shape) == (len(data),):  # it would be taken for the tensor: some bytes more make it another shape
        data = save({NAME: tensor}, {"shape": "not that of the tensor"}, **options)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def from_payload(tensor: torch.Tensor) -> torch.Tensor:
    """What `to_payload` was given, on the device of the payload. Raises FormatError."""
    if not is_payload(tensor):
        return tensor
    found = load(tensor.cpu().numpy().data)  # type: ignore[arg-type] # a view of bytes will do
    if list(found) != [NAME]:
        raise FormatError(f"the payload holds {len(found)} tensors, not one named {NAME!r}")
    return found[NAME].to(tensor.device)


@register_quantization_config(METHOD)
class PayloadConfig(QuantizationConfigMixin):  # type: ignore[misc] # transformers has no types
    """What config.json says. All of it is decoded at loading, whatever else it says."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = METHOD
        self.dequantize = True


class _Decode(ConversionOps):  # type: ignore[misc] # as above
    """Decodes what was read for one tensor of the model, in threads of the library."""

    def __init__(self, hf_quantizer: PayloadQuantizer) -> None:
        self.hf_quantizer = hf_quantizer  # by which transformers knows that the tensor is not to be cast before
        self.dtype: torch.dtype | None = None

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        found = {
            name: [self._one(each) for each in (given if isinstance(given, list) else [given])]
            for name, given in input_dict.items()
        }
        if kwargs["source_patterns"] != kwargs["target_patterns"]:  # further operations of the model follow
            return found
        ((tensor,),) = found.values()
        return {kwargs["full_layer_name"]: tensor}

    def _one(self, tensor: torch.Tensor) -> torch.Tensor:
        plain = from_payload(tensor)
        return plain.to(self.dtype) if self.dtype is not None and plain.is_floating_point() else plain


@register_quantizer(METHOD)
class PayloadQuantizer(HfQuantizer):  # type: ignore[misc] # as above
    """What transformers asks how to load such a model."""

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        """Decode before whatever else is done with a tensor; and the tensors with which nothing else is done."""
        for conversion in weight_conversions:
            if isinstance(conversion, WeightConverter):
                conversion.operations = [_Decode(self), *conversion.operations]
        names = sorted({name.rpartition(".")[2] for name in model.state_dict()})
        return weight_conversions + [WeightConverter([name], [name], [_Decode(self)]) for name in names]

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """The dtype that the tensor shall have in the end: casting is for the decoder."""
        for operation in getattr(converter, "operations", ()):
            if isinstance(operation, _Decode):
                operation.dtype = dtype
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """The model is a plain one now: when it is saved, only the other operations are to be reversed."""
        kept = []
        for conversion in getattr(model, "_weight_conversions", ()):
            if isinstance(conversion, WeightConverter):
                conversion.operations = [each for each in conversion.operations if not isinstance(each, _Decode)]
                if not conversion.operations:
                    continue
            kept.append(conversion)
        model._weight_conversions = kept
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


def save_payloads(
    model: Any, save_directory: Any, *, preset: str, threads: int | None, self_check: bool, **kwargs: Any
) -> None:
    """See `saving.save_pretrained`. Takes memory for the compressed bytes of one shard."""
    check_arguments(model, preset, kwargs)
    if getattr(model.config, "quantization_config", None) is not None:
        raise UsageError("the model is quantised, and config.json has room for one quantiser; use layout 'slimtensors'")
    target = Path(save_directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as made:
        plain = Path(made)
        model.save_pretrained(plain, **kwargs)
        config = plain / "config.json"
        if not config.exists():  # a model with PEFT's adapters saves these alone
            raise UsageError("layout 'safetensors' is for whole models, not for adapters; use layout 'slimtensors'")
        total = 0
        for path in sorted(plain.glob(f"*{SUFFIX}")):
            with safe_open(path, "pt") as file:
                tensors = {
                    name: to_payload(file.get_tensor(name), preset=preset, threads=threads, self_check=self_check)
                    for name in file.keys()  # noqa: SIM118 # not a dict
                }
                metadata = file.metadata()
            path.unlink()
            save_file(tensors, path, metadata)
            total += sum(tensor.nbytes for tensor in tensors.values())
        for path in plain.glob("*.json"):
            if is_index(path.name, SUFFIX):
                index = json.loads(path.read_bytes())
                index["metadata"]["total_size"] = total
                path.write_bytes(json.dumps(index, indent=2, sort_keys=True).encode() + b"\n")
        told = json.loads(config.read_bytes()) | {"quantization_config": CONFIG}
        config.write_bytes(json.dumps(told, indent=2, sort_keys=True).encode() + b"\n")
        put_in_place(plain, target)
