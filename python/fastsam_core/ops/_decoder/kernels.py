"""Which sizes and dtypes the decoder's CUDA kernels take, and helpers for the memory that they write."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native_cuda import has_kernels_for, on_device_of, shared_memory, unvalidated_disabled_reason, why_too_old
from .layouts import HEAD_DIM, HEADS, TOKENS
from .weights import TokenSizes

HALVES = (torch.float16, torch.bfloat16)
# Operations that have kernels for float32, too: those on image tokens.
_FLOAT32_OPS = ("decoder_first_token_to_image", "decoder_first_pass", "decoder_second_pass", "decoder_upscale")
WIDTH, _MIDDLE, _NARROW = 256, 64, 32
MAX_ROWS = 2 * HEADS * TOKENS + 2


def why_not(op: str, tensor: Tensor) -> str:
    """Return why the kernels of `op` don't take this dtype or GPU; "" if they do. Doesn't check the decoder's sizes."""
    is_float32 = tensor.dtype == torch.float32 and op in _FLOAT32_OPS
    if not is_float32 and tensor.dtype not in HALVES:
        also = "float32, " if op in _FLOAT32_OPS else ""
        return f"{op} has kernels for {also}float16 and bfloat16; the tensor is {tensor.dtype}"
    if is_float32 and (reason := unvalidated_disabled_reason()):
        return reason
    if reason := why_too_old(op, tensor):
        return reason
    if tensor.is_cuda and has_kernels_for(tensor):
        with on_device_of(tensor) as (cuda, _):
            needed = cuda.DECODER_SHARED_BYTES_FLOAT32 if is_float32 else cuda.DECODER_SHARED_BYTES
            if shared_memory(cuda, tensor.device) <= needed:
                return f"{op} needs {needed >> 10} KiB of shared memory for {tensor.dtype}, the tensor's GPU has less"
    return ""


def has_kernels(heads: int, head_dim: int, tokens: int) -> bool:
    """Return whether there are kernels for these heads and `tokens` tokens per prompt, output tokens included."""
    return heads == HEADS and head_dim == HEAD_DIM and 1 <= tokens <= TOKENS


def has_layers(sizes: TokenSizes, heads: int, tokens: int) -> bool:
    """Return whether there are kernels for everything that `decoder_prompts` computes, with layers of these sizes."""
    fits = sizes.width == WIDTH and not any(size % 8 for size in sizes[:-1]) and sizes.iou3 % 2 == 0
    return fits and has_kernels(heads, sizes.inner // heads, tokens)


def has_mask_layers(sizes: list[int]) -> bool:
    """Return whether there are kernels for a mask token's MLP with these numbers of outputs."""
    return not (sizes[0] % 8 or sizes[1] % 8 or sizes[2] % 2)


def has_upscaling(state: Tensor, middle: int, narrow: int) -> bool:
    """Return whether there are kernels to upscale this state to `middle`, then `narrow` channels."""
    return (middle, narrow) == (_MIDDLE, _NARROW) and state.shape[2] <= MAX_ROWS


def padded_depth(rows: int) -> int:
    """Return the padded depth of `decoder_upscale`'s factors for `rows` coefficients, as its kernel reads them."""
    return 128 if rows <= 128 else 160


def aligned_output(tensor: Tensor) -> Tensor:
    """Return the tensor for a kernel to write to, or a copy if its address isn't a multiple of 16; see `copy_back`."""
    return tensor.detach() if tensor.data_ptr() % 16 == 0 else tensor.detach().clone()


def copy_back(output: Tensor, tensor: Tensor) -> None:
    """Copy `output` back to `tensor` if `aligned_output` has made a copy."""
    if output.data_ptr() != tensor.data_ptr():
        tensor.copy_(output)
