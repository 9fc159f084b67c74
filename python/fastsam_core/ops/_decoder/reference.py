"""The definition of the decoder's operations in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_first_look, check_first_pass, check_pass, check_upscale
from .panels import from_panels, to_panels


def decoder_first_look(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_look`."""
    check_first_look(q, keys, values, length)
    heads, _, head_dim = q.shape
    k = from_panels(keys, length).unflatten(-1, (heads, head_dim))  # (L, heads, head_dim)
    weights = torch.einsum("hrd,lhd->hrl", q, k).softmax(dim=-1)
    return weights @ values[:, :length, :head_dim]


def decoder_first_pass(
    source: Tensor,
    position: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    look: Tensor,
    length: int,
    out: Tensor,
) -> Tensor:
    """See `fastsam_core.ops.decoder_first_pass`."""
    check_first_pass(source, position, queries, keys, values, norm_weight, norm_bias, look, length, out)
    q = from_panels(queries, length).unflatten(-1, (look.shape[0], -1))  # (L, heads, head_dim)
    scores = torch.einsum("hntd,lhd->hntl", keys, q)
    x = _answer(from_panels(source, length), scores, values, norm_weight, norm_bias, norm_eps)
    out.copy_(to_panels(x))
    return _look(look, x, from_panels(position, length))


def decoder_pass(
    tokens: Tensor,
    position: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    look: Tensor,
    length: int,
) -> Tensor:
    """See `fastsam_core.ops.decoder_pass`."""
    check_pass(tokens, position, keys, key_bias, values, norm_weight, norm_bias, look, length)
    source, pe = from_panels(tokens, length), from_panels(position, length)
    scores = torch.einsum("hntc,nlc->hntl", keys, source + pe) + key_bias[..., None]
    x = _answer(source, scores, values, norm_weight, norm_bias, norm_eps)
    tokens.copy_(to_panels(x))
    return _look(look, x, pe)


def _answer(
    source: Tensor, scores: Tensor, values: Tensor, norm_weight: Tensor, norm_bias: Tensor, norm_eps: float
) -> Tensor:
    """Image tokens (n, L, C) after their attention to the prompt's tokens, residual and LayerNorm."""
    x = source + torch.einsum("hntl,hntc->nlc", scores.softmax(dim=2), values)
    return F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, norm_eps)


def _look(look: Tensor, x: Tensor, position: Tensor) -> Tensor:
    """Attention of the prompt's tokens to image tokens x (n, L, C), whose positions count in the scores alone."""
    scores = torch.einsum("hntc,nlc->hntl", look, x + position)
    return torch.einsum("hntl,nlc->hntc", scores.softmax(dim=-1), x).contiguous()


def decoder_upscale(
    tokens: Tensor,
    index: Tensor,
    weights: Tensor,
    enlarge: Tensor,
    enlarge_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    enlarge_more: Tensor,
    enlarge_more_bias: Tensor,
    height: int,
    width: int,
    out: Tensor,
) -> None:
    """See `fastsam_core.ops.decoder_upscale`."""
    check_upscale(
        tokens, index, weights, enlarge, enlarge_bias, norm_weight, norm_bias, enlarge_more, enlarge_more_bias,
        height, width, out,
    )  # fmt: skip
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(tokens):
        raise ValueError("a mask's prompt is not among those decoded")
    for prompt in index.unique().tolist():
        pairs = (index == prompt).nonzero()[:, 0]
        x = from_panels(tokens[prompt], height * width)
        x = F.linear(x, enlarge, enlarge_bias).unflatten(-1, (4, -1))  # (L, 4, middle)
        x = F.gelu(F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, norm_eps))
        x = F.gelu(F.linear(x, enlarge_more, enlarge_more_bias).unflatten(-1, (4, -1)))  # (L, 4, 4, narrow)
        # Both steps split a cell in two per axis: (y, x, a, b, a', b', K) to (K, y a a', x b b').
        planes = (x @ weights[pairs].T).view(height, width, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5)
        out[pairs] = planes.reshape(len(pairs), 4 * height, 4 * width)
