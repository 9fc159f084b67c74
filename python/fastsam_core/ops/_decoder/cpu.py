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


def _run(op: str, *args: Any) -> Any:
    """Call the module's function `op` with the operation's arguments, memory for its results and the thread count."""
    if args[0].dtype != torch.float32:
        return getattr(reference, op)(*args)
    results = getattr(schema, op)(*args)  # the fake also checks the arguments
    outputs = results if isinstance(results, tuple) else () if results is None else (results,)
    getattr(_cpu, op)(*map(_to_native, (*args, *outputs)), thread_count())
    return results


def _to_native(value: Any) -> Any:
    """Convert tensors to arrays, also within a list, and 0-D tensors to numbers."""
    if isinstance(value, list):
        return [_to_native(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    return array_of(value) if value.dim() else value.item()


decoder_prompts = partial(_run, "decoder_prompts")
decoder_mask_factors = partial(_run, "decoder_mask_factors")
decoder_first_token_to_image = partial(_run, "decoder_first_token_to_image")
decoder_first_pass = partial(_run, "decoder_first_pass")
decoder_second_pass = partial(_run, "decoder_second_pass")
decoder_upscale = partial(_run, "decoder_upscale")
