"""The decoder's operations on prompts' tokens in plain PyTorch: the definition, and the fallback.

Projections of a prompt's tokens are (n, heads, T, head_dim) here. `_spread` puts the vectors of each head into columns
of their own, so that one product with an (inner, inner) matrix works for all heads. inner = heads * head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_mask_factors, check_numbers, check_prompts
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
    from .. import decoder_first_look, decoder_first_pass, decoder_second_pass  # dispatched, possibly to kernels

    given_sizes = check_prompts(tokens, weights, sizes, image, constant, eps, heads, length, chosen, state)
    own = unflatten(TokenWeights, unpack(weights, token_shapes(given_sizes)[0]))
    parts, mixes = unflatten(ImageParts, image), own.mixes
    (count, number, width), head_dim = tokens.shape, given_sizes.inner // heads
    scale, share = head_dim**-0.5, 2 / width

    def by_head(layer: Layer, x: Tensor, factor: float = 1.0) -> Tensor:
        return (F.linear(x, *layer) * factor).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()

    # The first block: the tokens of all prompts attend to the same image tokens.
    queries = _attend_self(own.first, tokens, tokens, heads, eps, residual=False)
    q = by_head(own.first.look_q, queries + tokens, scale).transpose(0, 1).reshape(heads, count * number, head_dim)
    seen = decoder_first_look(q, parts.first_keys, parts.first_values, length)
    seen = seen.view(heads, count, number, head_dim).permute(1, 2, 0, 3).flatten(2)
    queries = _update(own.first, queries, seen, eps)
    keys1 = by_head(own.first.answer_k, queries + tokens, scale)
    first = by_head(own.first.answer_v, queries)
    values1 = _spread(first)

    # The second block.
    queries = _attend_self(own.second, queries, queries + tokens, heads, eps, residual=True)
    q = by_head(own.second.look_q, queries + tokens, scale)
    of_tokens = keys1, first * share, _pairs(first, mixes.gram1, values1), q, _pairs(q, mixes.look1, values1)
    given = parts.image1, parts.values1, parts.norms1, eps
    seen, mixed = decoder_first_pass(*given, *of_tokens, length, state)
    seen = seen + _per_head(mixed.mT @ values1, mixes.seen1, seen)
    queries = _update(own.second, queries, _by_row(seen) + mixes.seen1_bias, eps)
    placed = queries + tokens
    keys2 = by_head(own.second.answer_k, placed, scale)
    second = by_head(own.second.answer_v, queries)
    values2 = _spread(second)

    # The final look, only of the tokens whose values are returned.
    queries, placed = _choose(queries, chosen), _choose(placed, chosen)
    q = by_head(own.final_q, placed, scale)
    rest = _dot(q, mixes.look2_rest)[..., None]
    # decoder_second_pass takes the variance's constant as a float, but `constant` may be on a GPU, which the host would
    # have to wait for. Adding it to this bias does the same: the weights that multiply the bias sum to 1 in each head.
    cross_bias = _dot(second, mixes.cross_bias) + (constant / heads).to(second.dtype)
    look_mix = [_pairs(q, mixes.look2_first, values1), _pairs(q, mixes.look2_second, values2)]
    seen, mixed = decoder_second_pass(
        *(parts.image2, parts.values2, parts.norms2, 0.0, eps),
        *(keys2, _pairs(keys2, mixes.keys, values1), _dot(keys2, mixes.keys_bias)),
        *(first * share, _pairs(first, mixes.own, values1), _dot(first, mixes.own_bias)),
        *(second * share, _pairs(second, mixes.cross, values1), cross_bias),
        _pairs(second, mixes.gram2, values2),
        q,
        torch.cat([*look_mix, torch.zeros_like(rest), rest], 2),
        length,
        state,
    )
    rows, mixed = values1.shape[1], mixed.mT  # (n, rows of the look, 2 * rows + 2)
    seen = seen + _per_head(mixed[..., :rows] @ values1, mixes.seen2_first, seen)
    seen = seen + _per_head(mixed[..., rows : 2 * rows] @ values2, mixes.seen2_second, seen)
    seen = seen + mixed[..., -1].reshape(*seen.shape[:3], 1) * mixes.seen2_rest.view(heads, 1, head_dim)
    attended = F.linear(_by_row(seen) + mixes.seen2_bias, *own.final_out)
    final = _normalised(own.final_norm, queries + attended, eps)
    iou = F.linear(F.relu(F.linear(F.relu(F.linear(final[:, 0], *own.iou1)), *own.iou2)), *own.iou3)
    return final, iou, first, second


def decoder_mask_factors(
    final: Tensor,
    first_own: Tensor,
    second_own: Tensor,
    asked: Tensor,
    index: Tensor,
    column: Tensor,
    masks: list[int],
    layers: Tensor,
    sizes: list[int],
    first: Tensor,
    second: Tensor,
    rest: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `fastsam_core.ops.decoder_mask_factors`."""
    given = final, first_own, second_own, asked, index, column
    check_mask_factors(*given, masks, layers, sizes, first, second, rest)
    if not final.is_cuda:  # on a GPU the check would wait for it
        check_numbers(asked, index, column, len(final), final.shape[1])
    parts = [first @ _spread(first_own[asked]).mT, second @ _spread(second_own[asked]).mT]
    rest = rest[:, None].expand(len(asked), -1, 1)
    factors = torch.cat([*parts, torch.zeros_like(rest), rest], 2)
    shapes, _ = mask_shapes(final.shape[2], *sizes)
    of_masks = [final.new_empty(len(asked), 0, sizes[-1])]
    for place, mask in enumerate(masks, 1):
        weight1, bias1, weight2, bias2, weight3, bias3 = unpack(layers[mask], shapes)
        x = F.relu(F.linear(final[asked, place], weight1, bias1))
        of_masks.append(F.linear(F.relu(F.linear(x, weight2, bias2)), weight3, bias3)[:, None])
    weights = torch.cat(of_masks, 1)[index, column]
    return factors, weights


def _attend_self(block: Block, queries: Tensor, placed: Tensor, heads: int, eps: float, *, residual: bool) -> Tensor:
    """Run a block's self-attention of the tokens, with the residual if asked for, and LayerNorm.

    queries: (n, T, width), used for the values. placed: the input of query and key projections, i.e. with position.
    """
    layers = (block.self_q, placed), (block.self_k, placed), (block.self_v, queries)
    q, k, v = (F.linear(x, *layer).unflatten(-1, (heads, -1)).transpose(1, 2) for layer, x in layers)
    attended = F.linear(_by_row(F.scaled_dot_product_attention(q, k, v)), *block.self_out)
    return _normalised(block.norm1, queries + attended if residual else attended, eps)


def _update(block: Block, queries: Tensor, seen: Tensor, eps: float) -> Tensor:
    """Finish a block's look: output projection, residual, LayerNorm, MLP, residual, LayerNorm.

    seen: (n, T, inner), what the look has averaged.
    """
    queries = _normalised(block.norm2, queries + F.linear(seen, *block.look_out), eps)
    hidden = F.relu(F.linear(queries, *block.mlp1))
    return _normalised(block.norm3, queries + F.linear(hidden, *block.mlp2), eps)


def _normalised(norm: Layer, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, eps)


def _choose(x: Tensor, tokens: list[int]) -> Tensor:
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


def _pairs(x: Tensor, mix: Tensor, spread: Tensor) -> Tensor:
    """Return x_i mix spread_j, (n, rows, rows), for all rows i of x and j of `spread`; mix is (inner, inner)."""
    heads, width = x.shape[1], x.shape[3]
    return (x @ mix.view(heads, width, -1)).flatten(1, 2) @ spread.mT


def _per_head(gathered: Tensor, mix: Tensor, like: Tensor) -> Tensor:
    """Multiply rows (n, heads * T, inner) with their head's part of `mix` (inner, inner): (n, heads, T, d)."""
    _, heads, length, width = like.shape
    return gathered.unflatten(1, (heads, length)) @ mix.view(heads, width, -1).mT


def _dot(x: Tensor, vector: Tensor) -> Tensor:
    """Return the dot products of rows of x with their head's part of `vector` (inner,): (n, heads * T)."""
    return (x * vector.view(x.shape[1], 1, -1)).sum(-1).flatten(1)
