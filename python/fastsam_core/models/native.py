"""When a model may leave a step to the native operations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._native import cpu_module


def serves(*tensors: Tensor) -> bool:
    """Whether the native operations can take these: CPU, float32, no gradients wanted, the compiled module in use.

    Models keep their PyTorch form beside each call of a native operation, for training and for every other device.
    """
    return (
        cpu_module is not None
        and not torch.is_grad_enabled()
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    )
