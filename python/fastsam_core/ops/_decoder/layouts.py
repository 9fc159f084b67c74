"""Operands in the layouts of the CUDA kernels: in the order in which the lanes of a warp hold them.

csrc/decoder/decoder_cuda.h defines the layouts. A product's left and right operands have different ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HEADS, HEAD_DIM, TOKENS = 8, 16, 8  # what the kernels support: heads, channels per head, at most this many tokens


def fragments(x: Tensor) -> Tensor:
    """Lay out contiguous blocks (..., 16, 16), each one transposed, as left operands."""
    blocks = x.reshape(-1, 2, 4, 2, 2, 8)  # columns: half, lane, neighbour; rows: half, lane
    # A lane reads 16 bytes at a time, next to those of the following lane. For floats that is half of its elements, so
    # the first halves of all lanes come before the second ones.
    return blocks.permute((0, 1, 5, 2, 4, 3) if x.dtype == torch.float32 else (0, 5, 2, 1, 4, 3)).contiguous()


def vectors(x: Tensor) -> Tensor:
    """Lay out (..., 8 columns, depth 16) as right operands."""
    return x.reshape(-1, 8, 2, 4, 2).permute(0, 1, 3, 2, 4).contiguous()


def matrices(x: Tensor) -> Tensor:
    """Lay out (n, columns, depth) as right operands of 8 columns and depth 32 each."""
    n, columns, depth = x.shape
    split = x.reshape(n, columns // 8, 8, depth // 32, 2, 2, 4, 2)
    order = (0, 1, 3, 4, 2, 6, 5, 7) if x.dtype == torch.float32 else (0, 1, 3, 2, 6, 4, 5, 7)
    return split.permute(order).contiguous()


def pad_tokens(x: Tensor) -> Tensor:
    """Pad (n, heads, T, ...) with zeros to 8 tokens per head."""
    return F.pad(x, (0, 0) * (x.dim() - 3) + (0, TOKENS - x.shape[2]))


def pad_pairs(x: Tensor) -> Tensor:
    """Pad (n, heads * T, heads * T') with zeros to 8 tokens per head on both axes: (n, 64, 64)."""
    n, rows, columns = x.shape
    split = x.reshape(n, HEADS, rows // HEADS, HEADS, columns // HEADS)
    return F.pad(split, (0, TOKENS - columns // HEADS, 0, 0, 0, TOKENS - rows // HEADS)).flatten(3).flatten(1, 2)


def pad_bias(x: Tensor) -> Tensor:
    """Pad (n, heads * T) with zeros to 8 tokens per head: (n, 64) float32."""
    return F.pad(x.unflatten(1, (HEADS, -1)), (0, TOKENS - x.shape[1] // HEADS)).flatten(1).float()


def pack_few_queries(queries: Tensor) -> Tensor:
    """Lay out (n, 8 heads, T, 16) with at most 4 tokens as right operands, one per head, of which pairs share columns.

    Tokens of an even head are the first 4 of its 8 columns, those of an odd head the last 4; the others are zero. The
    products of two such heads can then be summed in the same 8 columns without mixing.
    """
    out = queries.new_zeros(len(queries), HEADS // 2, 2, 2, TOKENS // 2, HEAD_DIM)
    count = queries.shape[2]
    out[:, :, 0, 0, :count] = queries[:, 0::2]
    out[:, :, 1, 1, :count] = queries[:, 1::2]
    return vectors(out)


def pad_query_rows(x: Tensor, tokens_per_head: int) -> Tensor:
    """Pad (n, heads * T, columns) with zeros to `tokens_per_head` tokens per head."""
    n, rows, columns = x.shape
    return F.pad(x.unflatten(1, (HEADS, -1)), (0, 0, 0, tokens_per_head - rows // HEADS)).reshape(
        n, HEADS * tokens_per_head, columns
    )


def merge_sums(
    max_scores: Tensor, weight_sums: Tensor, value_sums: Tensor, coefficient_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Combine softmax-weighted sums over parts of the image into sums over the whole image.

    max_scores: (n, parts, columns), the highest score of each part, times log2(e). weight_sums: (n, parts, columns),
    sums of 2^(score * log2(e) - max_score). value_sums: (n, parts, heads, 16, 8), weighted sums; the 8 columns are the
    query tokens of that head, or of both heads of a pair (see `pack_few_queries`). coefficient_sums: (n, parts, rows,
    columns), weighted sums. Returns (n, heads, 16, 8) and (n, rows, columns).
    """
    factor = torch.exp2(max_scores - max_scores.amax(1, keepdim=True))
    factor = factor / (factor * weight_sums).sum(1, keepdim=True)
    head_factor = factor.unflatten(2, (-1, 1, 8))
    if max_scores.shape[2] == HEADS * TOKENS // 2:
        head_factor = head_factor.repeat_interleave(2, 2)
    return (value_sums * head_factor).sum(1), (coefficient_sums * factor[:, :, None]).sum(1)
