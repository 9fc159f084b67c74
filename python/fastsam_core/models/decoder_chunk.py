"""A few prompts through the decoder: their tokens in PyTorch, their looks at the image by the native operations.

Vectors of a prompt's tokens are (n, heads, T, head_dim) here; `_spread` puts each head's into its own columns, so that
one product with an (inner, inner) matrix of `decoder_features` serves all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..ops._decoder.panels import PANEL
from .decoder_features import Features
from .mask_decoder import NUM_MASK_TOKENS, DecoderAttention, MaskDecoder


class Chunk:
    """Decoded prompts: predicted IoU, and what their masks are made of.

    decoder, image: of the picture. sparse: the prompts' own tokens (n, T, C). masks: mask tokens of [0, 4) that may be
    asked for, all if there are none. memory: gives the tensor of a shape that holds the prompts' coefficients.
    """

    def __init__(
        self,
        decoder: MaskDecoder,
        image: Features,
        sparse: Tensor,
        masks: Sequence[int],
        memory: Callable[[tuple[int, ...]], Tensor],
    ) -> None:
        self._decoder, self._image = decoder, image
        self.masks = list(masks) or list(range(NUM_MASK_TOKENS))
        tokens = decoder.tokens(sparse)  # (n, T, C), T with the output tokens
        rows = tokens.shape[1] * decoder.transformer.blocks[0].cross_attn_token_to_image.num_heads
        self.state = memory((len(sparse), image.image[0].shape[0], 2 * rows + 2, PANEL))
        queries = self._first_block(tokens)
        queries = self._second_block(queries, tokens)
        self._final = self._final_look(queries, tokens)  # (n, 1 + masks, C)
        self.iou: Tensor = decoder.iou_prediction_head(self._final[:, 0])  # (n, 4)

    def upscale(
        self,
        upscaling: tuple[Tensor, Tensor, float, Tensor, Tensor],
        index: Tensor,
        masks: Tensor,
        grid: tuple[int, int],
        out: Tensor,
    ) -> None:
        """Logits of mask `masks[i]` of prompt `index[i]` to out[i], (4 * height, 4 * width).

        index, masks: on the CPU, wherever the chunk is.
        """
        column = torch.tensor([self.masks.index(mask) for mask in masks.tolist()], dtype=torch.long, device="cpu")
        asked, row, column = (_beside(x, out) for x in (*torch.unique(index, return_inverse=True), column))
        heads = self._decoder.output_hypernetworks_mlps
        weights = torch.stack([heads[mask](self._final[asked, 1 + i]) for i, mask in enumerate(self.masks)], 1)
        first, second, rest = self._image.enlarge_mix
        parts = [first @ self._values1[asked].mT, second @ self._values2[asked].mT]
        rest = rest[:, None].expand(len(asked), -1, 1)
        factors = torch.cat([*parts, torch.zeros_like(rest), rest], 2)  # (U, 4 * middle, 2 * rows + 2)
        given = self.state, asked, factors, row, weights[row, column], self._image.base, self._image.enlarge_bias
        ops.decoder_upscale(*given, *upscaling, *grid, out)

    def _first_block(self, tokens: Tensor) -> Tensor:
        """The tokens after the first block, and their values in its attention of the image."""
        block, image = self._decoder.transformer.blocks[0], self._image
        queries = block.attend_self(tokens, tokens)
        look, answer = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        q = _scaled_heads(look, look.q_proj(queries + tokens))
        count, heads, length, width = q.shape
        q = q.transpose(0, 1).reshape(heads, count * length, width)
        seen = ops.decoder_first_look(q, image.first_keys, image.first_values, image.length)
        seen = seen.view(heads, count, length, width).permute(1, 2, 0, 3).flatten(2)
        queries = block.update_tokens(queries, look.out_proj(seen))
        self._keys1 = _scaled_heads(answer, answer.k_proj(queries + tokens))
        self._heads1 = _heads(answer, answer.v_proj(queries))
        self._values1 = _spread(self._heads1)
        return queries

    def _second_block(self, queries: Tensor, tokens: Tensor) -> Tensor:
        transformer, image = self._decoder.transformer, self._image
        first, second = transformer.blocks
        queries = second.attend_self(queries, tokens)
        look, answer = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        q = _scaled_heads(look, look.q_proj(queries + tokens))
        channels = tokens.shape[-1]
        values = self._values1
        seen, mixed = ops.decoder_first_pass(
            *(image.image[0], image.values[0], image.norms[0], first.norm4.eps),
            self._keys1,
            self._heads1 * (2 / channels),
            _pairs(self._heads1, image.gram1, values),
            q,
            _pairs(q, image.look1_mix, values),
            image.length,
            self.state,
        )
        seen = seen + _per_head(mixed.mT @ values, image.seen1_mix, seen)
        queries = second.update_tokens(queries, look.out_proj(_by_row(seen) + image.seen1_bias))
        self._keys2 = _scaled_heads(answer, answer.k_proj(queries + tokens))
        self._heads2 = _heads(answer, answer.v_proj(queries))
        self._values2 = _spread(self._heads2)
        return queries

    def _final_look(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """The output tokens that are needed: IoU, then those of `masks`."""
        transformer, image = self._decoder.transformer, self._image
        look, norm = transformer.final_attn_token_to_image, transformer.blocks[1].norm4
        chosen = [0, *(1 + mask for mask in self.masks)]
        queries, tokens = _choose(queries, chosen), _choose(tokens, chosen)
        placed = queries + tokens
        q = _scaled_heads(look, look.q_proj(placed))
        channels, values1, values2 = tokens.shape[-1], self._values1, self._values2
        keys, own, cross = self._keys2, self._heads1, self._heads2
        rest, cross_bias, constant = (
            _dot(q, image.look2_mix[2])[..., None],
            _dot(cross, image.cross_bias),
            image.constant,
        )
        if isinstance(constant, Tensor):  # as the weights of each head sum to 1, any one's bias can take it along
            cross_bias, constant = cross_bias + (constant / cross.shape[1]).to(cross_bias.dtype), 0.0
        mixes = [_pairs(q, mix, v) for mix, v in zip(image.look2_mix, (values1, values2), strict=False)]
        seen, mixed = ops.decoder_second_pass(
            *(image.image[1], image.values[1], image.norms[1], constant, norm.eps),
            *(keys, _pairs(keys, image.keys_mix, values1), _dot(keys, image.keys_bias)),
            *(own * (2 / channels), _pairs(own, image.own_gram, values1), _dot(own, image.own_bias)),
            *(cross * (2 / channels), _pairs(cross, image.cross_mix, values1), cross_bias),
            _pairs(cross, image.gram2, values2),
            q,
            torch.cat([*mixes, torch.zeros_like(rest), rest], 2),
            image.length,
            self.state,
        )
        rows, (first, second, bias) = values1.shape[1], image.seen2_mix
        mixed = mixed.mT  # (n, rows of the look, 2 * rows + 2)
        seen = seen + _per_head(mixed[..., :rows] @ values1, first, seen)
        seen = seen + _per_head(mixed[..., rows : 2 * rows] @ values2, second, seen)
        seen = seen + mixed[..., -1].view(*seen.shape[:3], 1) * bias.view(seen.shape[1], 1, -1)
        final: Tensor = transformer.norm_final_attn(queries + look.out_proj(_by_row(seen) + image.seen2_bias))
        return final


def _choose(x: Tensor, tokens: Sequence[int]) -> Tensor:
    """x[:, tokens], which on a GPU would wait for the numbers to get there."""
    return torch.cat([x[:, token : token + 1] for token in tokens], 1)


def _beside(numbers: Tensor, tensor: Tensor) -> Tensor:
    """CPU numbers on the device of `tensor`, without waiting for it."""
    return numbers.pin_memory().to(tensor.device, non_blocking=True) if tensor.is_cuda else numbers


def _heads(attn: DecoderAttention, x: Tensor) -> Tensor:  # (n, T, heads * d) -> (n, heads, T, d)
    return x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2).contiguous()


def _scaled_heads(attn: DecoderAttention, x: Tensor) -> Tensor:
    return _heads(attn, x * attn.head_dim**-0.5)


def _by_row(x: Tensor) -> Tensor:  # (n, heads, T, d) -> (n, T, heads * d)
    return x.transpose(1, 2).flatten(2)


def _spread(x: Tensor) -> Tensor:
    """(n, heads, T, d) to (n, heads * T, heads * d), zero outside each head's own columns."""
    count, heads, length, width = x.shape
    out = x.new_zeros(count, heads, length, heads, width)
    out.diagonal(dim1=1, dim2=3).copy_(x.permute(0, 2, 3, 1))
    return out.view(count, heads * length, heads * width)


def _pairs(x: Tensor, mix: Tensor, spread: Tensor) -> Tensor:
    """Products of all rows of x with all rows of `spread` through (inner, inner): (n, rows, rows)."""
    heads, width = x.shape[1], x.shape[3]
    return (x @ mix.view(heads, width, -1)).flatten(1, 2) @ spread.mT


def _per_head(gathered: Tensor, mix: Tensor, like: Tensor) -> Tensor:
    """Rows (n, heads * T, inner) through their head's part of (inner, inner): (n, heads, T, d)."""
    _, heads, length, width = like.shape
    return gathered.unflatten(1, (heads, length)) @ mix.view(heads, width, -1).mT


def _dot(x: Tensor, vector: Tensor) -> Tensor:
    """Rows of x times their head's part of (inner,): (n, heads * T)."""
    return (x * vector.view(x.shape[1], 1, -1)).sum(-1).flatten(1)
