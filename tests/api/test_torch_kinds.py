"""Torch tensors that are no plain memory: refused by name, with their kind and what to save in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import slimtensors.torch as st
from slimtensors import UsageError


class Around(torch.Tensor):
    """A tensor around another one."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Around:  # noqa: PYI034 # Self needs Python 3.11
        made: Around = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(function)


class Dequantised(Around):
    def dequantize(self) -> torch.Tensor:
        return self.inner


class Named(torch.Tensor):
    """A class of its own over plain memory."""


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(3)


def masked() -> torch.Tensor:
    from torch.masked import masked_tensor

    return masked_tensor(torch.ones(2), torch.tensor([True, False]))


def mapped() -> torch.Tensor:
    found = []
    torch.func.vmap(lambda each: found.append(each) or each)(torch.ones(2, 3))
    return found[0]


def freed() -> torch.Tensor:
    made = torch.ones(4)
    made.untyped_storage().resize_(8)
    return made


KINDS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), r"device meta.*load or initialise it"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested.*\.unbind\(\)"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        r"nested.*\.unbind\(\)",
    ),
    "coo": (lambda: torch.eye(3).to_sparse(), r"torch\.sparse_coo.*\.to_dense\(\)"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), r"torch\.sparse_csr.*\.to_dense\(\)"),
    "mkldnn": (lambda: torch.eye(3).to_mkldnn(), r"torch\._mkldnn.*\.to_dense\(\)"),
    "qint8": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        r"qint8.*\.int_repr\(\).*\.dequantize\(\)",
    ),
    "fake": (fake, r"FakeTensor.*outside of FakeTensorMode"),
    "functional": (lambda: torch._to_functional_tensor(torch.ones(3)), r"torch\.func.*outside of the function"),
    "mapped": (mapped, r"torch\.func.*outside of the function"),
    "zero": (lambda: torch._efficientzerotensor(3), r"zero without having memory.*torch\.zeros_like"),
    "lazy": (lambda: torch.nn.LazyLinear(3).weight, r"not initialised.*call the module once"),
    "around": (lambda: Around(torch.ones(3)), r"test_torch_kinds\.Around.*save the plain tensors inside"),
    "dequantised": (lambda: Dequantised(torch.ones(3)), r"test_torch_kinds\.Dequantised.*\.dequantize\(\)"),
    "masked": (masked, r"MaskedTensor.*\.get_data\(\) and \.get_mask\(\)"),
    "freed": (freed, r"has lost its memory.*gather it"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex128), r"complex128.*torch\.view_as_real"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of prototypes
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, words = KINDS[kind]
    tensors = {"sound": torch.ones(2), "the.name": make()}
    path = tmp_path / "model.slimtensors"
    with pytest.raises(UsageError, match=rf"^tensor 'the\.name'.*{words}"):
        st.save_file(tensors, path)
    with pytest.raises(UsageError, match=r"^tensor 'the\.name'"):
        st.save(tensors)
    with pytest.raises(UsageError, match=r"^tensor 'the\.name'"):
        st.save({"the.name": torch.ones(3)}, base=tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_distributed_tensor_is_refused_but_not_its_parts() -> None:
    from torch import distributed
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a group of one
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            tensor = DTensor.from_local(torch.arange(4.0), init_device_mesh("cpu", (1,)), [Shard(0)])
            parameter = torch.nn.Parameter(tensor)
            for each in (tensor, parameter):
                with pytest.raises(UsageError, match=r"^tensor 'x' is a .*DTensor.*\.full_tensor\(\).*\.to_local\(\)"):
                    st.save({"x": each})
            saved = st.load(st.save({"whole": tensor.full_tensor(), "share": parameter.to_local()}))
        finally:
            distributed.destroy_process_group()
    assert all(torch.equal(each, torch.arange(4.0)) for each in saved.values())


def test_what_is_plain_memory_is_saved() -> None:
    with torch.inference_mode():
        inference = torch.ones(3)
    views = {
        "named": torch.ones(3).as_subclass(Named),
        "inference": inference,
        "expanded": torch.ones(1).expand(3),
        "backwards": torch.arange(6.0).view(2, 3).t(),
        "tail": torch.arange(9.0)[6:],
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
    }
    loaded = st.load(st.save(views))
    assert all(torch.equal(loaded[name], tensor.detach()) for name, tensor in views.items())
