"""A module's weights in another floating-point type, beside those that it came with."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .._log import warn_once
from ..ops._native import cpu_module
from .kept import kept, parts_of, settle, tensors_of
from .native import is_plain

# What is kept of a copy: whether it computes the same, and does nothing else, whatever becomes of its original.
INDEPENDENT = "independent"


def usable_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """What to compute in where `dtype` is asked for: float32 where narrower types save nothing, which is said once."""
    if dtype in (None, torch.float32) or device.type == "cuda":
        return dtype
    warn_once(f"half precision is for CUDA devices; on {device.type} everything runs in float32")
    return torch.float32


class Dtypes(NamedTuple):
    """What a model computes in; None stands for the type of its weights."""

    encoder: torch.dtype | None
    decoder: torch.dtype | None
    matrices: torch.dtype | None  # of the decoder, as for `SamModel.prepare`


def usable_dtypes(dtype: torch.dtype | None, device: torch.device, encoder: nn.Module) -> Dtypes:
    """The same for a model with this image encoder.

    On a CPU that multiplies bfloat16 faster, encoders that make use of it compute in it, and decoders, whose native
    operations are in float32, have matrices of it if these operations do so too.
    """
    if dtype in (None, torch.float32) or device.type != "cpu":
        usable = usable_dtype(dtype, device)
        return Dtypes(usable, usable, None)
    reason = why_not_bfloat16()
    if dtype == torch.bfloat16 and not reason:
        whole = getattr(encoder, "bfloat16_on_cpu", False)
        native = cpu_module is not None and cpu_module.multiplies_bfloat16()
        return Dtypes(dtype if whole else torch.float32, torch.float32, dtype if native else None)
    hint = f"bfloat16 is not faster ({reason})" if reason else "this one multiplies bfloat16 faster: dtype=bfloat16"
    warn_once(f"on CPUs {str(dtype).removeprefix('torch.')} is float32; {hint}")
    return Dtypes(torch.float32, torch.float32, None)


@cache
def why_not_bfloat16() -> str:
    """Why this machine's CPU does not multiply matrices of bfloat16 faster than of float32, or ""."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch comes without oneDNN"
    if "avx512_bf16" not in _processor_flags():  # processors with AMX have it too
        return "this processor has no AVX512-BF16 instructions, or doesn't say so in /proc/cpuinfo"
    return ""


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating-point type of a module's weights, as the first of them has it."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)


def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """`module` to compute in `dtype`: itself where that is what its weights are in (or None), else a copy.

    The copy is for inference, and not to be changed. It is kept for as long as `module` lives and stays as it is
    (weights, layers, hooks), and shares with it whatever needs no cast. Batch normalisation is in float32, as narrower
    types can't hold all variances.
    """
    if dtype is None or dtype_of(module) == dtype:
        return module

    def make() -> nn.Module:
        copy = settle(cast_copy(module, dtype))
        kept(copy, INDEPENDENT, lambda: _is_independent(copy, module))
        return copy

    return kept(module, dtype, make)


def _is_independent(copy: nn.Module, original: nn.Module) -> bool:
    """Whether the two have no memory in common, and the copy has no layers of others, no hooks and nothing in training,
    which might do more than compute.
    """
    parts = parts_of(copy)
    ours, theirs = (
        {tensor.untyped_storage()._cdata for tensor in tensors_of(each)} for each in (parts, parts_of(original))
    )
    return is_plain(copy) and not any(part.training for part in parts) and not ours & theirs


# Not in inference mode, whose tensors don't count what is done to them.
@torch.inference_mode(False)
@torch.no_grad()
def cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A new copy of `module` in `dtype`, as `in_dtype` keeps them."""
    # Tensors that the copying finds here already are taken as they are.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        own = torch.promote_types(dtype, torch.float32) if isinstance(part, nn.modules.batchnorm._BatchNorm) else dtype
        for value in (*part._parameters.values(), *part._buffers.values()):
            if value is not None and value.is_floating_point() and value.dtype != own:
                cast = value.detach().to(own)
                memo[id(value)] = nn.Parameter(cast, requires_grad=False) if isinstance(value, nn.Parameter) else cast
    return copy.deepcopy(module, memo)
