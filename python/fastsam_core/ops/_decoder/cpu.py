"""The native sibling: tensors in and out of the compiled module, float32 but for matrices of `decoder_upscale`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._native import array_of, cpu_module
from .._threads import thread_count
from . import reference, schema

_cpu: Any = cpu_module


def _serve(op: str, *given: Any) -> Any:
    """The module's function takes what the operation does, then memory for its results and the number of threads."""
    if given[0].dtype != torch.float32:
        return getattr(reference, op)(*given)
    results = getattr(schema, op)(*given)  # which checks what is given
    written = results if isinstance(results, tuple) else () if results is None else (results,)
    getattr(_cpu, op)(*map(_plain, (*given, *written)), thread_count())
    return results


def _plain(value: Any) -> Any:
    """Arrays in place of tensors, a number in place of a scalar one."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    return array_of(value) if value.dim() else value.item()


decoder_prompts = partial(_serve, "decoder_prompts")
decoder_mask_factors = partial(_serve, "decoder_mask_factors")
decoder_first_look = partial(_serve, "decoder_first_look")
decoder_first_pass = partial(_serve, "decoder_first_pass")
decoder_second_pass = partial(_serve, "decoder_second_pass")
decoder_upscale = partial(_serve, "decoder_upscale")
