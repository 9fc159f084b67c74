"""The decoder's operations in plain PyTorch: the definition, and the fallback for every device and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_first_pass, check_first_token_to_image, check_second_pass, check_upscale
from .panels import from_panels, to_panels
from .reference_tokens import decoder_mask_factors, decoder_prompts

__all__ = [
    "decoder_first_pass",
    "decoder_first_token_to_image",
    "decoder_mask_factors",
    "decoder_prompts",
    "decoder_second_pass",
    "decoder_upscale",
]


def decoder_first_token_to_image(q: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
    """See `fastsam_core.ops.decoder_first_token_to_image`."""
    check_first_token_to_image(q, keys, values, length)
    heads, _, head_dim = q.shape
    k = from_panels(keys, length).unflatten(-1, (heads, head_dim))  # (L, heads, head_dim)
    weights = torch.einsum("hrd,lhd->hrl", q, k).softmax(dim=-1)
    return weights @ values[:, :length, :head_dim]


def decoder_first_pass(
    image: Tensor,
    values: Tensor,
    norms: Tensor,
    eps: float,
    keys: Tensor,
    cross: Tensor,
    gram: Tensor,
    queries: Tensor,
    queries_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.decoder_first_pass`."""
    check_first_pass(image, values, norms, eps, keys, cross, gram, queries, queries_mix, length, state)
    projections = _projections(image, 4, keys, length)
    weights = _by_head(keys, next(projections)).softmax(dim=2).flatten(1, 2)  # (n, rows, L)
    variance = _by_token(norms, length).to(image.dtype) + (
        weights * (_rows(cross, next(projections)) + gram @ weights)
    ).sum(1)
    scale = _inverse_std(variance, eps)[:, None]  # (n, 1, L)
    coefficients = weights * scale
    scores = _rows(queries, next(projections)) * scale + _rows(queries, next(projections)) + queries_mix @ coefficients
    rows = coefficients.shape[1]
    _store_rows(state, slice(rows), coefficients)
    _store_rows(state, slice(2 * rows, 2 * rows + 1), scale)
    return _weighted_sums(scores, scale, values, coefficients, queries)


def decoder_second_pass(
    image: Tensor,
    values: Tensor,
    norms: Tensor,
    constant: float,
    eps: float,
    keys: Tensor,
    keys_mix: Tensor,
    keys_bias: Tensor,
    first_cross: Tensor,
    first_gram: Tensor,
    first_bias: Tensor,
    cross: Tensor,
    cross_mix: Tensor,
    cross_bias: Tensor,
    gram: Tensor,
    queries: Tensor,
    queries_mix: Tensor,
    length: int,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.decoder_second_pass`."""
    check_second_pass(
        image, values, norms, constant, eps, keys, keys_mix, keys_bias, first_cross, first_gram, first_bias, cross,
        cross_mix, cross_bias, gram, queries, queries_mix, length, state,
    )  # fmt: skip
    rows = gram.shape[1]
    previous_state = from_panels(state, length).mT  # (n, 2 * rows + 2, L)
    previous, scale = previous_state[:, :rows], previous_state[:, 2 * rows : 2 * rows + 1]
    projections = _projections(image, 6, keys, length)
    scores = (
        _rows(keys, next(projections)) * scale
        + keys_mix @ previous
        + _rows(keys, next(projections))
        + keys_bias[..., None]
    )
    weights = scores.unflatten(1, keys.shape[1:3]).softmax(dim=2).flatten(1, 2)  # (n, rows, L)
    square, linear = _by_token(norms, length).to(image.dtype)
    variance = scale[:, 0].square() * square + scale[:, 0] * linear + constant
    first_part = _rows(first_cross, next(projections)) * scale + first_gram @ previous + first_bias[..., None]
    cross_part = _rows(cross, next(projections)) * scale + cross_mix @ previous + cross_bias[..., None] + gram @ weights
    variance = variance + (previous * first_part).sum(1) + (weights * cross_part).sum(1)
    coefficients = (
        torch.cat([previous, weights, scale, torch.ones_like(scale)], 1) * _inverse_std(variance, eps)[:, None]
    )
    scale = coefficients[:, 2 * rows : 2 * rows + 1]
    scores = _rows(queries, next(projections)) * scale + _rows(queries, next(projections)) + queries_mix @ coefficients
    _store_rows(state, slice(None), coefficients)
    return _weighted_sums(scores, scale, values, coefficients, queries)


def decoder_upscale(
    state: Tensor,
    selected: Tensor,
    factors: Tensor,
    index: Tensor,
    weights: Tensor,
    base: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    norm_eps: float,
    conv2: Tensor,
    conv2_bias: Tensor,
    height: int,
    width: int,
    out: Tensor,
) -> None:
    """See `fastsam_core.ops.decoder_upscale`."""
    check_upscale(
        state, selected, factors, index, weights, base, bias, norm_weight, norm_bias, norm_eps, conv2,
        conv2_bias, height, width, out,
    )  # fmt: skip
    for name, indices, count, owner in (
        ("selected", selected, len(state), "the prompts that were decoded"),
        ("index", index, len(selected), "the prompts in selected"),
    ):
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise ValueError(f"{name} must be indices of {owner}, from 0 to {count - 1}")
    length = height * width

    def rounded(x: Tensor) -> Tensor:
        """Round what a matrix is multiplied with to the dtype of the matrices."""
        return x.to(factors.dtype).to(x.dtype)

    matrices, conv2 = factors.to(state.dtype), conv2.to(state.dtype)
    for row in index.unique().tolist():
        pairs = (index == row).nonzero()[:, 0]
        coefficients = from_panels(state[selected[row]], length)  # (L, rows)
        x = from_panels(base, length) * coefficients[:, -2:-1] + rounded(coefficients) @ matrices[row].T + bias
        x = F.gelu(F.layer_norm(x.unflatten(-1, (4, -1)), norm_weight.shape, norm_weight, norm_bias, norm_eps))
        x = F.gelu(F.linear(rounded(x), conv2, conv2_bias).unflatten(-1, (4, -1)))  # (L, 4, 4, narrow)
        # Both steps split a cell in two per axis: (y, x, a, b, a', b', K) to (K, y a a', x b b').
        planes = (x @ weights[pairs].T).view(height, width, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5)
        out[pairs] = planes.reshape(len(pairs), 4 * height, 4 * width).to(out.dtype)


def _projections(image: Tensor, count: int, keys: Tensor, length: int) -> Iterator[Tensor]:
    """Yield the projections of the image in order, each (L, heads, head_dim)."""
    heads, head_dim = keys.shape[1], keys.shape[3]
    return iter(from_panels(image, length).unflatten(-1, (count, heads, head_dim)).unbind(1))


def _by_token(norms: Tensor, length: int) -> Tensor:  # (panels, 16) -> (L,); (panels, 2, 16) -> (2, L)
    return norms.movedim(0, -2).flatten(-2)[..., :length]


def _by_head(vectors: Tensor, projected: Tensor) -> Tensor:  # (n, heads, T, d), (L, heads, d) -> (n, heads, T, L)
    return torch.einsum("nhtd,lhd->nhtl", vectors, projected)


def _rows(vectors: Tensor, projected: Tensor) -> Tensor:  # (n, heads, T, d), (L, heads, d) -> (n, heads * T, L)
    return _by_head(vectors, projected).flatten(1, 2)


def _inverse_std(variance: Tensor, eps: float) -> Tensor:
    """Return the factor that LayerNorm multiplies by; a variance that rounding made negative counts as 0."""
    return (variance.clamp_min(0) + eps).rsqrt()


def _store_rows(state: Tensor, rows: slice, values: Tensor) -> None:
    """Store `values` (n, rows, L) in these rows of the state."""
    state[:, :, rows] = to_panels(values.mT)


def _weighted_sums(
    scores: Tensor, scale: Tensor, values: Tensor, coefficients: Tensor, queries: Tensor
) -> tuple[Tensor, Tensor]:
    """Return attention-weighted sums of the image's values (n, heads, T, d) and of the coefficients (n, K, rows)."""
    weights = scores.softmax(dim=-1)  # (n, rows, L)
    by_head = (weights * scale).unflatten(1, queries.shape[1:3])
    value_sum = by_head @ values[:, : scores.shape[-1], : queries.shape[-1]]
    return value_sum.contiguous(), (coefficients @ weights.mT).contiguous()
