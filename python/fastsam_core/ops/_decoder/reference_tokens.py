"""The decoder's operations on prompts' tokens in plain PyTorch: the definition, and the fallback.

Projections of a prompt's tokens are (n, heads, T, head_dim) here. `_spread` puts the vectors of each head into columns
of their own, so that one product with an (inner, inner) matrix works for all heads. inner = heads * head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_indices, check_mask_factors, check_prompts
from .weights import Block, ImageParts, Layer, TokenWeights, mask_shapes, token_shapes, unflatten, unpack


def decoder_prompts(
    tokens: Tensor,
    weights: Tensor,
    sizes: list[int],
    image: list[Tensor],
    constant: Tensor,
    eps: float,
    heads: int,
    length: int,
    chosen: list[int],
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `fastsam_core.ops.decoder_prompts`."""
    from .. import (  # dispatched, possibly to kernels
        decoder_first_pass,
        decoder_first_token_to_image,
        decoder_second_pass,
    )

    token_sizes = check_prompts(tokens, weights, sizes, image, constant, eps, heads, length, chosen, state)
    token_weights = unflatten(TokenWeights, unpack(weights, token_shapes(token_sizes)[0]))
    image_parts, mixes = unflatten(ImageParts, image), token_weights.mixes
    (num_prompts, num_tokens, width), head_dim = tokens.shape, token_sizes.inner // heads
    scale, variance_scale = head_dim**-0.5, 2 / width

    def by_head(layer: Layer, x: Tensor, factor: float = 1.0) -> Tensor:
        return (F.linear(x, *layer) * factor).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()

    # The first block: the tokens of all prompts attend to the same image tokens.
    queries = _attend_self(token_weights.first, tokens, tokens, heads, eps, residual=False)
    q = (
        by_head(token_weights.first.token_to_image_q, queries + tokens, scale)
        .transpose(0, 1)
        .reshape(heads, num_prompts * num_tokens, head_dim)
    )
    value_sum = decoder_first_token_to_image(q, image_parts.first_keys, image_parts.first_values, length)
    value_sum = value_sum.view(heads, num_prompts, num_tokens, head_dim).permute(1, 2, 0, 3).flatten(2)
    queries = _update_tokens(token_weights.first, queries, value_sum, eps)
    keys1 = by_head(token_weights.first.image_to_token_k, queries + tokens, scale)
    first_token_values = by_head(token_weights.first.image_to_token_v, queries)
    values1 = _spread(first_token_values)

    # The second block.
    queries = _attend_self(token_weights.second, queries, queries + tokens, heads, eps, residual=True)
    q = by_head(token_weights.second.token_to_image_q, queries + tokens, scale)
    token_operands = (
        keys1,
        first_token_values * variance_scale,
        _bilinear(first_token_values, mixes.gram1, values1),
        q,
        _bilinear(q, mixes.queries1, values1),
    )
    image_operands = image_parts.image1, image_parts.values1, image_parts.norms1, eps
    value_sum, coefficient_sum = decoder_first_pass(*image_operands, *token_operands, length, state)
    value_sum = value_sum + _apply_per_head(coefficient_sum.mT @ values1, mixes.values1, value_sum)
    queries = _update_tokens(token_weights.second, queries, _by_row(value_sum) + mixes.values1_bias, eps)
    queries_with_pe = queries + tokens
    keys2 = by_head(token_weights.second.image_to_token_k, queries_with_pe, scale)
    second_token_values = by_head(token_weights.second.image_to_token_v, queries)
    values2 = _spread(second_token_values)

    # The final attention, only of the tokens whose values are returned.
    queries, queries_with_pe = _select_tokens(queries, chosen), _select_tokens(queries_with_pe, chosen)
    q = by_head(token_weights.final_q, queries_with_pe, scale)
    queries_constant = _head_dots(q, mixes.queries2_constant)[..., None]
    # decoder_second_pass takes the variance's constant as a float, but `constant` may be on a GPU, which the host would
    # have to wait for. Adding it to this bias does the same: the weights that multiply the bias sum to 1 in each head.
    cross_bias = _head_dots(second_token_values, mixes.cross_bias) + (constant / heads).to(second_token_values.dtype)
    queries_mix = [_bilinear(q, mixes.queries2_first, values1), _bilinear(q, mixes.queries2_second, values2)]
    value_sum, coefficient_sum = decoder_second_pass(
        *(image_parts.image2, image_parts.values2, image_parts.norms2, 0.0, eps),
        *(keys2, _bilinear(keys2, mixes.keys, values1), _head_dots(keys2, mixes.keys_bias)),
        *(
            first_token_values * variance_scale,
            _bilinear(first_token_values, mixes.gram2_first, values1),
            _head_dots(first_token_values, mixes.gram2_first_bias),
        ),
        *(second_token_values * variance_scale, _bilinear(second_token_values, mixes.cross, values1), cross_bias),
        _bilinear(second_token_values, mixes.gram2_second, values2),
        q,
        torch.cat([*queries_mix, torch.zeros_like(queries_constant), queries_constant], 2),
        length,
        state,
    )
    rows, coefficient_sum = values1.shape[1], coefficient_sum.mT  # (n, heads * query tokens, 2 * rows + 2)
    value_sum = value_sum + _apply_per_head(coefficient_sum[..., :rows] @ values1, mixes.values2_first, value_sum)
    value_sum = value_sum + _apply_per_head(
        coefficient_sum[..., rows : 2 * rows] @ values2, mixes.values2_second, value_sum
    )
    value_sum = value_sum + coefficient_sum[..., -1].reshape(*value_sum.shape[:3], 1) * mixes.values2_constant.view(
        heads, 1, head_dim
    )
    attended = F.linear(_by_row(value_sum) + mixes.values2_bias, *token_weights.final_out)
    final = _layer_norm(token_weights.final_norm, queries + attended, eps)
    iou = F.linear(
        F.relu(F.linear(F.relu(F.linear(final[:, 0], *token_weights.iou1)), *token_weights.iou2)), *token_weights.iou3
    )
    return final, iou, first_token_values, second_token_values


def decoder_mask_factors(
    final: Tensor,
    first_token_values: Tensor,
    second_token_values: Tensor,
    selected: Tensor,
    index: Tensor,
    column: Tensor,
    masks: list[int],
    layers: Tensor,
    sizes: list[int],
    first_mix: Tensor,
    second_mix: Tensor,
    constant_mix: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.decoder_mask_factors`."""
    args = final, first_token_values, second_token_values, selected, index, column
    check_mask_factors(*args, masks, layers, sizes, first_mix, second_mix, constant_mix)
    if not final.is_cuda:  # on a GPU the check would wait for it
        check_indices(selected, index, column, len(final), final.shape[1])
    parts = [
        first_mix @ _spread(first_token_values[selected]).mT,
        second_mix @ _spread(second_token_values[selected]).mT,
    ]
    constant_mix = constant_mix[:, None].expand(len(selected), -1, 1)
    factors = torch.cat([*parts, torch.zeros_like(constant_mix), constant_mix], 2)
    shapes, _ = mask_shapes(final.shape[2], *sizes)
    mask_weights = [final.new_empty(len(selected), 0, sizes[-1])]
    for position, mask in enumerate(masks, 1):
        weight1, bias1, weight2, bias2, weight3, bias3 = unpack(layers[mask], shapes)
        x = F.relu(F.linear(final[selected, position], weight1, bias1))
        mask_weights.append(F.linear(F.relu(F.linear(x, weight2, bias2)), weight3, bias3)[:, None])
    weights = torch.cat(mask_weights, 1)[index, column]
    return factors, weights


def _attend_self(
    block: Block, queries: Tensor, queries_with_pe: Tensor, heads: int, eps: float, *, residual: bool
) -> Tensor:
    """Run a block's self-attention of the tokens, with the residual if asked for, and LayerNorm.

    queries: (n, T, width), used for the values. placed: the input of query and key projections, i.e. with position.
    """
    layers = (block.self_q, queries_with_pe), (block.self_k, queries_with_pe), (block.self_v, queries)
    q, k, v = (F.linear(x, *layer).unflatten(-1, (heads, -1)).transpose(1, 2) for layer, x in layers)
    attended = F.linear(_by_row(F.scaled_dot_product_attention(q, k, v)), *block.self_out)
    return _layer_norm(block.norm1, queries + attended if residual else attended, eps)


def _update_tokens(block: Block, queries: Tensor, value_sum: Tensor, eps: float) -> Tensor:
    """Finish a block's token-to-image attention: output projection, residual, LayerNorm, MLP, residual, LayerNorm.

    value_sum: (n, T, inner), what the attention has averaged.
    """
    queries = _layer_norm(block.norm2, queries + F.linear(value_sum, *block.token_to_image_out), eps)
    hidden = F.relu(F.linear(queries, *block.mlp1))
    return _layer_norm(block.norm3, queries + F.linear(hidden, *block.mlp2), eps)


def _layer_norm(norm: Layer, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, eps)


def _select_tokens(x: Tensor, tokens: list[int]) -> Tensor:
    """Return x[:, tokens], without indexing by a list: on a GPU that would wait for the indices to be copied there."""
    return torch.cat([x[:, token : token + 1] for token in tokens], 1)


def _by_row(x: Tensor) -> Tensor:  # (n, heads, T, d) -> (n, T, heads * d)
    return x.transpose(1, 2).flatten(2)


def _spread(x: Tensor) -> Tensor:
    """Convert (n, heads, T, d) to (n, heads * T, heads * d), zero outside each head's own columns."""
    count, heads, length, width = x.shape
    out = x.new_zeros(count, heads, length, heads, width)
    out.diagonal(dim1=1, dim2=3).copy_(x.permute(0, 2, 3, 1))
    return out.view(count, heads * length, heads * width)


def _bilinear(x: Tensor, mix: Tensor, spread: Tensor) -> Tensor:
    """Return x_i mix spread_j, (n, rows, rows), for all rows i of x and j of `spread`; mix is (inner, inner)."""
    heads, width = x.shape[1], x.shape[3]
    return (x @ mix.view(heads, width, -1)).flatten(1, 2) @ spread.mT


def _apply_per_head(rows: Tensor, mix: Tensor, like: Tensor) -> Tensor:
    """Multiply rows (n, heads * T, inner) with their head's part of `mix` (inner, inner): (n, heads, T, d)."""
    _, heads, length, width = like.shape
    return rows.unflatten(1, (heads, length)) @ mix.view(heads, width, -1).mT


def _head_dots(x: Tensor, vector: Tensor) -> Tensor:
    """Return the dot products of rows of x with their head's part of `vector` (inner,): (n, heads * T)."""
    return (x * vector.view(x.shape[1], 1, -1)).sum(-1).flatten(1)
