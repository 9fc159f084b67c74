"""Modules that wrap a model for training."""

from __future__ import annotations

from typing import Any

from torch import nn

from .sam_model import SamModel


def unwrapped(model: Any) -> Any:
    """Return the `SamModel` inside wrappers of PEFT, `torch.compile` or data parallelism; anything else as it is."""
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, SamModel):
        if callable(get_base_model := getattr(inner, "get_base_model", None)):  # PEFT
            inner = get_base_model()
        else:  # `torch.compile` and data parallelism, including wrappers modelled on PyTorch's
            inner = inner._modules.get("_orig_mod") or inner._modules.get("module")
    return inner if isinstance(inner, SamModel) else model
