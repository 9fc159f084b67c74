"""C++ sibling of the decoder's operations, for float32; `decoder_upscale` also takes its matrices in bfloat16.

Other dtypes go to the reference.
"""

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
    """Call the module's function `op` with the operation's arguments, memory for its results and the thread count."""
    if given[0].dtype != torch.float32:
        return getattr(reference, op)(*given)
    results = getattr(schema, op)(*given)  # the fake also checks the arguments
    written = results if isinstance(results, tuple) else () if results is None else (results,)
    getattr(_cpu, op)(*map(_plain, (*given, *written)), thread_count())
    return results


def _plain(value: Any) -> Any:
    """Convert tensors to arrays, also within a list, and 0-D tensors to numbers."""
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
