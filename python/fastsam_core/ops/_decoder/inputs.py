"""What every sibling, and every fake, asks of its tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .panels import PANEL, count_panels


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """ValueError unless `tensor` is float32 and of this shape, which `meaning` puts in words."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {meaning} = {shape}; got {tuple(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} must be float32, not {tensor.dtype}")


def check_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> None:
    """See `fastsam_core.ops.decoder_first_look`."""
    if q.dim() != 3 or 0 in (q.shape[0], q.shape[2]):
        raise ValueError(f"q must have shape (heads, rows, head_dim); got {tuple(q.shape)}")
    heads, rows, head_dim = q.shape
    panels = _panels(length)
    check_shape("q", q, (heads, rows, head_dim), "(heads, rows, head_dim)")
    check_shape("keys", keys, (panels, heads * head_dim, PANEL), "(panels, heads * head_dim, 16)")
    wide = count_panels(head_dim) * PANEL
    check_shape("values", values, (heads, panels * PANEL, wide), "(heads, panels * 16, head_dim rounded up to 16)")


def check_first_pass(
    source: Tensor,
    position: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    look: Tensor,
    length: int,
    out: Tensor,
) -> None:
    """See `fastsam_core.ops.decoder_first_pass`."""
    heads, prompts, tokens, _ = _look_shape(look)
    _check_common(position, values, norm_weight, norm_bias, look, length, out, "out")
    check_shape("source", source, tuple(position.shape), "(panels, channels, 16)")
    if queries.dim() != 3 or not queries.shape[1] or queries.shape[1] % heads:
        raise ValueError(f"queries must have shape (panels, heads * head_dim, 16); got {tuple(queries.shape)}")
    inner = queries.shape[1]
    check_shape("queries", queries, (position.shape[0], inner, PANEL), "(panels, heads * head_dim, 16)")
    check_shape("keys", keys, (heads, prompts, tokens, inner // heads), "(heads, prompts, tokens, head_dim)")


def check_pass(
    tokens: Tensor,
    position: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    look: Tensor,
    length: int,
) -> None:
    """See `fastsam_core.ops.decoder_pass`."""
    heads, prompts, count, channels = _look_shape(look)
    _check_common(position, values, norm_weight, norm_bias, look, length, tokens, "tokens")
    check_shape("keys", keys, (heads, prompts, count, channels), "(heads, prompts, tokens, channels)")
    check_shape("key_bias", key_bias, (heads, prompts, count), "(heads, prompts, tokens)")


def check_upscale(
    tokens: Tensor,
    index: Tensor,
    weights: Tensor,
    enlarge: Tensor,
    enlarge_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    enlarge_more: Tensor,
    enlarge_more_bias: Tensor,
    height: int,
    width: int,
    out: Tensor,
) -> None:
    """See `fastsam_core.ops.decoder_upscale`."""
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive; got {height} x {width}")
    if tokens.dim() != 4 or not tokens.shape[2]:
        raise ValueError(f"tokens must have shape (prompts, panels, channels, 16); got {tuple(tokens.shape)}")
    prompts, channels, panels = tokens.shape[0], tokens.shape[2], _panels(height * width)
    check_shape("tokens", tokens, (prompts, panels, channels, PANEL), "(prompts, panels, channels, 16)")
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index must be a 1-D tensor of int64; got {tuple(index.shape)} of {index.dtype}")
    if weights.dim() != 2 or not weights.shape[1] or norm_weight.dim() != 1 or not len(norm_weight):
        raise ValueError("weights must have shape (count, narrow) and norm_weight (middle)")
    count, narrow, middle = len(index), weights.shape[1], len(norm_weight)
    check_shape("weights", weights, (count, narrow), "(count, narrow)")
    check_shape("enlarge", enlarge, (4 * middle, channels), "(4 * middle, channels)")
    check_shape("enlarge_bias", enlarge_bias, (4 * middle,), "(4 * middle,)")
    check_shape("norm_weight", norm_weight, (middle,), "(middle,)")
    check_shape("norm_bias", norm_bias, (middle,), "(middle,)")
    check_shape("enlarge_more", enlarge_more, (4 * narrow, middle), "(4 * narrow, middle)")
    check_shape("enlarge_more_bias", enlarge_more_bias, (4 * narrow,), "(4 * narrow,)")
    check_shape("out", out, (count, 4 * height, 4 * width), "(count, 4 * height, 4 * width)")
    _check_writable("out", out)


def _look_shape(look: Tensor) -> tuple[int, int, int, int]:
    if look.dim() != 4 or 0 in (look.shape[0], look.shape[2], look.shape[3]):
        raise ValueError(f"look must have shape (heads, prompts, tokens, channels); got {tuple(look.shape)}")
    heads, prompts, tokens, channels = look.shape
    return heads, prompts, tokens, channels


def _check_common(
    position: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    look: Tensor,
    length: int,
    image: Tensor,
    name: str,
) -> None:
    heads, prompts, tokens, channels = _look_shape(look)
    panels = _panels(length)
    check_shape("look", look, (heads, prompts, tokens, channels), "(heads, prompts, tokens, channels)")
    check_shape("position", position, (panels, channels, PANEL), "(panels, channels, 16)")
    check_shape("values", values, (heads, prompts, tokens, channels), "(heads, prompts, tokens, channels)")
    check_shape("norm_weight", norm_weight, (channels,), "(channels,)")
    check_shape("norm_bias", norm_bias, (channels,), "(channels,)")
    check_shape(name, image, (prompts, panels, channels, PANEL), "(prompts, panels, channels, 16)")
    _check_writable(name, image)


def _check_writable(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is written in place and must be contiguous; its strides are {tensor.stride()}")


def _panels(length: int) -> int:
    if length < 1:
        raise ValueError(f"there must be at least one image token; got length={length}")
    return count_panels(length)
