"""Copies of a module's weights in another floating-point dtype, cached beside the original."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .._log import warn_once
from ..ops._native import cpu_module
from .module_cache import cached, mark_immutable, modules_of, tensors_of
from .native import is_plain

# Key under which `cached` stores whether a copy only computes and doesn't depend on its original any more.
INDEPENDENT = "independent"


def usable_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Return the dtype to compute in: `dtype`, or float32 where narrower types save nothing, which is logged once."""
    if dtype in (None, torch.float32) or device.type == "cuda":
        return dtype
    warn_once(f"half precision is for CUDA devices; on {device.type} everything runs in float32")
    return torch.float32


class Dtypes(NamedTuple):
    """The dtypes that a model computes in; None stands for the dtype of its weights."""

    encoder: torch.dtype | None
    decoder: torch.dtype | None
    matrices: torch.dtype | None  # of the decoder's upscaling, as for `SamModel.prepare`


def usable_dtypes(dtype: torch.dtype | None, device: torch.device, encoder: nn.Module) -> Dtypes:
    """Return the dtypes to compute in for a model with this image encoder, if `dtype` is requested.

    On a CPU that multiplies bfloat16 faster than float32, an encoder that supports it computes in bfloat16. The
    decoder's native operations are in float32, but may use bfloat16 matrices. Otherwise a CPU computes in float32,
    which is logged once.
    """
    if dtype in (None, torch.float32) or device.type != "cpu":
        usable = usable_dtype(dtype, device)
        return Dtypes(usable, usable, None)
    reason = why_not_bfloat16()
    if dtype == torch.bfloat16 and not reason:
        encoder_in_bfloat16 = getattr(encoder, "bfloat16_on_cpu", False)
        decoder_in_bfloat16 = cpu_module is not None and cpu_module.has_native_bfloat16()
        return Dtypes(
            dtype if encoder_in_bfloat16 else torch.float32, torch.float32, dtype if decoder_in_bfloat16 else None
        )
    hint = f"bfloat16 is not faster here ({reason})" if reason else "dtype=bfloat16 is faster than float32 here"
    warn_once(f"dtype={str(dtype).removeprefix('torch.')} runs in float32 on this CPU; {hint}")
    return Dtypes(torch.float32, torch.float32, None)


@cache
def why_not_bfloat16() -> str:
    """Return why this CPU doesn't multiply bfloat16 matrices faster than float32 ones; an empty string if it does."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch comes without oneDNN"
    if "avx512_bf16" not in _processor_flags():  # also reported by processors with AMX
        return "this processor has no AVX512-BF16 instructions, or doesn't say so in /proc/cpuinfo"
    return ""


def _processor_flags() -> set[str]:
    """Return the instruction sets that Linux lists for the processor; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the floating-point dtype of a module's first floating-point parameter, or float32 without any."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)


def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Return `module` in `dtype`: itself if its weights are in that dtype already (or `dtype` is None), else a copy.

    The copy is for inference and must not be changed. It is cached for as long as `module` lives and its weights,
    layers and hooks stay unchanged, and shares all tensors that need no cast. Batch normalisation stays in float32,
    because narrower types can't represent all variances.
    """
    if dtype is None or dtype_of(module) == dtype:
        return module

    def make() -> nn.Module:
        copy = mark_immutable(cast_copy(module, dtype))
        cached(copy, INDEPENDENT, lambda: _is_independent(copy, module))
        return copy

    return cached(module, dtype, make)


def _is_independent(copy: nn.Module, original: nn.Module) -> bool:
    """Return whether a copy shares no memory with its original and does nothing but compute.

    That means that it has no foreign layers, no hooks and no part in training mode.
    """
    copy_modules = modules_of(copy)
    copy_storages, original_storages = (
        {tensor.untyped_storage()._cdata for tensor in tensors_of(modules)}
        for modules in (copy_modules, modules_of(original))
    )
    return (
        is_plain(copy) and not any(module.training for module in copy_modules) and not copy_storages & original_storages
    )


# Not in inference mode: PyTorch doesn't count changes of tensors made there.
@torch.inference_mode(False)
@torch.no_grad()
def cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a new copy of `module` in `dtype`, with the properties that `in_dtype` describes."""
    # `deepcopy` takes tensors in its memo as they are instead of copying them.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for part in module.modules():
        target_dtype = (
            torch.promote_types(dtype, torch.float32) if isinstance(part, nn.modules.batchnorm._BatchNorm) else dtype
        )
        for value in (*part._parameters.values(), *part._buffers.values()):
            if value is not None and value.is_floating_point() and value.dtype != target_dtype:
                cast = value.detach().to(target_dtype)
                memo[id(value)] = nn.Parameter(cast, requires_grad=False) if isinstance(value, nn.Parameter) else cast
    return copy.deepcopy(module, memo)
