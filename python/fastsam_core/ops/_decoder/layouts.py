"""How the CUDA kernels want their operands: as the lanes of a warp hold them, see csrc/decoder/decoder_cuda.h."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HEADS, HEAD_DIM, TOKENS = 8, 16, 8  # the kernels' heads, channels per head, most tokens per head


def fragments(x: Tensor) -> Tensor:
    """Blocks of 16 x 16, (..., 16, 16) contiguous, each transposed and in the order of a left factor."""
    blocks = x.reshape(-1, 2, 4, 2, 2, 8)  # columns: half, lane, neighbour; rows: half, lane
    # A lane reads 16 bytes at a time, beside its neighbour: of floats half of what it has.
    return blocks.permute((0, 1, 5, 2, 4, 3) if x.dtype == torch.float32 else (0, 5, 2, 1, 4, 3)).contiguous()


def vectors(x: Tensor) -> Tensor:
    """(..., 8 columns, 16 of depth) in the order of a right factor."""
    return x.reshape(-1, 8, 2, 4, 2).permute(0, 1, 3, 2, 4).contiguous()


def matrices(x: Tensor) -> Tensor:
    """(n, columns, depth) in the order of right factors 8 columns wide and 32 deep."""
    n, columns, depth = x.shape
    split = x.reshape(n, columns // 8, 8, depth // 32, 2, 2, 4, 2)
    order = (0, 1, 3, 4, 2, 6, 5, 7) if x.dtype == torch.float32 else (0, 1, 3, 2, 6, 4, 5, 7)
    return split.permute(order).contiguous()


def pad_tokens(x: Tensor) -> Tensor:
    """(n, heads, T, ...) to 8 tokens of each head, zeros beyond T."""
    return F.pad(x, (0, 0) * (x.dim() - 3) + (0, TOKENS - x.shape[2]))


def pad_pairs(x: Tensor) -> Tensor:
    """(n, heads * T, heads * T') to 8 tokens of each head on both sides: (n, 64, 64)."""
    n, rows, columns = x.shape
    split = x.reshape(n, HEADS, rows // HEADS, HEADS, columns // HEADS)
    return F.pad(split, (0, TOKENS - columns // HEADS, 0, 0, 0, TOKENS - rows // HEADS)).flatten(3).flatten(1, 2)


def pad_bias(x: Tensor) -> Tensor:
    """(n, heads * T) to (n, 64) float32."""
    return F.pad(x.unflatten(1, (HEADS, -1)), (0, TOKENS - x.shape[1] // HEADS)).flatten(1).float()


def narrow_look(look: Tensor) -> Tensor:
    """(n, 8, T, 16) of at most 4 tokens to columns of 8: a head's are the first 4, those of the head after it the last.

    Two heads then share the columns of one product.
    """
    out = look.new_zeros(len(look), HEADS // 2, 2, 2, TOKENS // 2, HEAD_DIM)
    count = look.shape[2]
    out[:, :, 0, 0, :count] = look[:, 0::2]
    out[:, :, 1, 1, :count] = look[:, 1::2]
    return vectors(out)


def look_rows(x: Tensor, each: int) -> Tensor:
    """(n, heads * T, columns) to `each` tokens per head."""
    n, rows, columns = x.shape
    return F.pad(x.unflatten(1, (HEADS, -1)), (0, 0, 0, each - rows // HEADS)).reshape(n, HEADS * each, columns)


def merge(tops: Tensor, totals: Tensor, seen: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax of those over parts of the image.

    tops, totals: (n, parts, columns), the latter sums of 2^(score - top). seen: (n, parts, heads, 16, 8), whose columns
    are those of the head's look, or of both heads of a pair. mixed: (n, parts, rows, columns).
    Returns (n, heads, 16, 8) and (n, rows, columns).
    """
    factor = torch.exp2(tops - tops.amax(1, keepdim=True))
    factor = factor / (factor * totals).sum(1, keepdim=True)
    of_head = factor.unflatten(2, (-1, 1, 8))
    if tops.shape[2] == HEADS * TOKENS // 2:
        of_head = of_head.repeat_interleave(2, 2)
    return (seen * of_head).sum(1), (mixed * factor[:, :, None]).sum(1)
