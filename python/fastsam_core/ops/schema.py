"""Every operation, registered with the PyTorch dispatcher: its signature, its fake and its siblings.

An operation family has one folder with the same files in each: `schema.py` holds the signatures and the fakes (the
shape of the result without the values), `reference.py` the definition in plain PyTorch, which serves all devices
("CompositeExplicitAutograd" is the dispatcher's default), `cpu.py` the way into the compiled module for CPU tensors,
`api.py` what callers see.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

from ._native import cpu_module

NAMESPACE = "fastsam_core"
FAMILIES = ("_attention", "_conv", "_decoder", "_linear", "_masks", "_nms", "_preprocess", "_rle")

SCHEMAS: dict[str, str] = {}
# Where each operation's siblings stand.
REFERENCES: dict[str, ModuleType] = {}
NATIVES: dict[str, ModuleType] = {}

# Kept for the life of the process: the dispatcher forgets the operations when it goes.
library = torch.library.Library(NAMESPACE, "DEF")


def _register(family: str) -> None:
    signatures, reference, native = (
        import_module(f".{family}.{file}", __package__) for file in ("schema", "reference", "cpu")
    )
    for name, schema in signatures.SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", getattr(signatures, name), lib=library)
        if cpu_module is not None:
            library.impl(name, getattr(native, name), "CPU")
        SCHEMAS[name], REFERENCES[name], NATIVES[name] = schema, reference, native


for _family in FAMILIES:
    _register(_family)
