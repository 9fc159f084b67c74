"""Load the compiled module `fastsam_core._cpu` once, and record the reason if it isn't in use."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._environment import read_switch
from .._log import logger, warn_once


def _load() -> tuple[ModuleType | None, str]:
    """Return the module and "", or None and the reason why it isn't in use; ValueError for a bad variable."""
    if read_switch("FASTSAM_NATIVE") == "0":
        reason = "switched off by FASTSAM_NATIVE=0"
        logger.info("the native CPU operations are %s; PyTorch runs every operation", reason)
        return None, reason
    try:
        module = importlib.import_module("fastsam_core._cpu")
    except ImportError as error:
        reason = f"the module fastsam_core._cpu can't be loaded: {error}"
        windows = sys.platform == "win32"
        build_hint = "with SKBUILD_WHEEL_CMAKE=true " if windows else ""
        remedy = f"Reinstalling fastsam_core {build_hint}builds the module."
        warn_once(f"{reason}; PyTorch runs every operation, more slowly. {remedy}")
        return None, reason
    isa_name = os.environ.get("FASTSAM_ISA", "")
    if isa_name:
        try:
            module.force_isa(isa_name)
        except ValueError as error:
            raise ValueError(f"FASTSAM_ISA={isa_name}: {error}") from None
    return module, ""


# The compiled module, or None and the reason why it isn't in use.
cpu_module, cpu_reason = _load()


def array_of(tensor: Tensor) -> Any:
    """Return a tensor's values as a contiguous NumPy array; bfloat16, which NumPy lacks, as its bits in int16."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
