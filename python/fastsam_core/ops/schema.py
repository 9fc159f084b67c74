"""Every operation, registered with the PyTorch dispatcher: its signature, its fake and its siblings.

An operation family has one folder with the same files in each: `schema.py` holds the signatures and the fakes (the
shape of the result without the values), `reference.py` the definition in plain PyTorch, which serves all devices
("CompositeExplicitAutograd" is the dispatcher's default), `cpu.py` the way into the compiled module for CPU tensors,
`api.py` what callers see.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ._native import cpu_module

NAMESPACE = "fastsam_core"
FAMILIES = ("_attention", "_conv", "_decoder", "_linear", "_masks", "_nms", "_preprocess", "_rle")
# Those whose native form takes float32 alone; other dtypes go to the reference.
FLOAT32_FAMILIES = ("_attention", "_conv", "_decoder", "_linear")

SCHEMAS: dict[str, str] = {}
FAMILY_OF: dict[str, str] = {}
# Where each operation's siblings stand.
REFERENCES: dict[str, ModuleType] = {}
NATIVES: dict[str, ModuleType] = {}

# Kept for the life of the process: the dispatcher forgets the operations when it goes.
library = torch.library.Library(NAMESPACE, "DEF")


def _on_one_device(name: str, sibling: Callable[..., Any]) -> Callable[..., Any]:
    """`sibling`, refusing what the dispatcher lets through: sparse tensors, and tensors of several devices."""
    parameters = list(signature(sibling).parameters)

    @wraps(sibling)
    def call(*args: Any) -> Any:
        device = None
        for parameter, value in zip(parameters, args, strict=False):
            if not isinstance(value, Tensor):
                continue
            if value.layout is not torch.strided:
                raise ValueError(f"{name} takes dense tensors; {parameter} is {value.layout}")
            if device is not None and value.device != device:
                raise ValueError(
                    f"{name} got {parameter} on '{value.device}' and others on '{device}'; move one of them"
                )
            device = value.device
        return sibling(*args)

    return call


def _register(family: str) -> None:
    signatures, reference, native = (
        import_module(f".{family}.{file}", __package__) for file in ("schema", "reference", "cpu")
    )
    for name, schema in signatures.SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, _on_one_device(name, getattr(reference, name)), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", getattr(signatures, name), lib=library)
        if cpu_module is not None:
            library.impl(name, _on_one_device(name, getattr(native, name)), "CPU")
        SCHEMAS[name], FAMILY_OF[name] = schema, family
        REFERENCES[name], NATIVES[name] = reference, native


for _family in FAMILIES:
    _register(_family)
