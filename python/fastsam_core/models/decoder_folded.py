"""The mask decoder for inference in plain PyTorch: the outputs of `MaskDecoder.forward` with far less work.

A prompt has about 7 tokens, the image up to 4,096. This allows three exact rearrangements:

* The first block starts from the same image tokens for every prompt, so their projections are computed once per image.
* Everywhere else the image-side projection is folded into the token side: `(X W_k) q = X (W_k q)`,
  `P (X W_v) = (P X) W_v` and `(P V) W_o = P (V W_o)`. Key biases cancel in a softmax over the keys. An output bias can
  be added to the values of one head, because every row of P sums to 1.
* The predicted IoU depends on the tokens alone, so only the masks that are requested are upscaled.

Attention matrices are stored transposed, (tokens, image tokens). Both softmaxes then work on contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops._native_cuda import has_ample_memory
from .common import LayerNorm2d, to_device
from .mask_decoder import DecoderAttention, MaskDecoder

# Above this number of tokens per prompt the plain decoder does less arithmetic.
MAX_FOLDED_TOKENS = 16
# CPU: number of prompts to decode together, and to upscale together. Their image tokens (4 MiB each at 64 x 64 x 256)
# should stay in the last-level cache.
_CPU_CHUNK_SIZES = 4, 1
# GPU: bytes of image tokens to decode together, so that computing takes longer than launching the kernels, and limits
# on the number of prompts. Upscaled tokens take twice the memory, so half as many are upscaled together.
_GPU_CHUNK_BYTES, _MIN_GPU_PROMPTS, _MAX_GPU_PROMPTS = 256 << 20, 16, 1024


class FoldedImage:
    """Tensors that the decoder needs of one image, computed once for all its prompts.

    decoder: the trained `MaskDecoder`. embedding, position: (1, C, h, w). dense: (1, C, 1, 1), the embedding of "no
    mask prompt".
    """

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, position: Tensor, dense: Tensor) -> None:
        first, second = decoder.transformer.blocks
        final = decoder.transformer.final_attn_token_to_image
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        source = (embedding + dense)[0].flatten(1).T.contiguous()  # (L, C)
        pe = position[0].flatten(1).T.contiguous()  # (L, C)
        source_with_pe = source + pe
        self.source = source
        self.chunk_sizes = _CPU_CHUNK_SIZES
        if not source.is_cpu:
            max_prompts = gpu_chunk_size(source.numel() * source.element_size(), source.device)
            self.chunk_sizes = max_prompts, max_prompts // 2
        token_to_image = first.cross_attn_token_to_image
        self.first_keys = token_to_image.split_heads(token_to_image.k_proj(source_with_pe)[None])  # (1, heads, L, d)
        self.first_values = token_to_image.split_heads(token_to_image.v_proj(source)[None])
        image_to_token = first.cross_attn_image_to_token
        # (heads, d, L)
        self.first_queries = _split_heads_transposed(image_to_token, image_to_token.q_proj(source_with_pe))
        token_to_image = second.cross_attn_token_to_image
        self.second_key_pe = _split_heads_transposed(token_to_image, pe @ token_to_image.k_proj.weight.T)
        image_to_token = second.cross_attn_image_to_token
        self.second_query_pe = _split_heads_transposed(image_to_token, image_to_token.q_proj(pe))
        self.final_key_pe = _split_heads_transposed(final, pe @ final.k_proj.weight.T)

    def decode(self, sparse: Tensor, masks: Sequence[int] = (), iou_threshold: float | None = None) -> DecodedPrompts:
        """Decode prompt tokens (N, T, C).

        The result holds the image tokens of all N prompts in memory. masks, iou_threshold: as in `TiledImage.decode`,
        ignored here.
        """
        chunks = [self._decode_chunk(chunk) for chunk in sparse.split(self.chunk_sizes[0])]
        return DecodedPrompts(
            self.decoder,
            self.grid,
            torch.cat([tokens for tokens, _ in chunks]),
            [source for _, source in chunks],
            self.chunk_sizes,
        )

    def _decode_chunk(self, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Decode prompt tokens (n, T, C) to final tokens (n, 5 + T, C) and image tokens (n, L, C)."""
        transformer = self.decoder.transformer
        first, second = transformer.blocks
        tokens = self.decoder.tokens(sparse)

        queries = first.attend_self(tokens, tokens)
        queries = first.update_tokens(
            queries, self._first_token_to_image(first.cross_attn_token_to_image, queries + tokens)
        )
        source = self.source.expand(len(sparse), -1, -1)
        source = first.norm4(self._image_to_token(first.cross_attn_image_to_token, queries, tokens, source, None))

        queries = second.attend_self(queries, tokens)
        token_to_image = second.cross_attn_token_to_image
        queries = second.update_tokens(
            queries, _token_to_image(token_to_image, queries + tokens, source, self.second_key_pe)
        )
        image_to_token = second.cross_attn_image_to_token
        source = second.norm4(self._image_to_token(image_to_token, queries, tokens, source, self.second_query_pe))

        final = transformer.final_attn_token_to_image
        attended = _token_to_image(final, queries + tokens, source, self.final_key_pe)
        return transformer.norm_final_attn(queries + attended), source

    def _first_token_to_image(self, attn: DecoderAttention, queries_with_pe: Tensor) -> Tensor:
        """Tokens attend to the image in the first block, where all prompts share keys and values: (n, T, C)."""
        q = attn.split_heads(attn.q_proj(queries_with_pe))  # (n, heads, T, d)
        count, heads, length, _ = q.shape
        rows = q.transpose(0, 1).reshape(1, heads, count * length, -1)
        out = F.scaled_dot_product_attention(rows, self.first_keys, self.first_values)
        out = out.view(heads, count, length, -1).permute(1, 2, 0, 3).flatten(2)
        return attn.out_proj(out)

    def _image_to_token(
        self, attn: DecoderAttention, queries: Tensor, tokens: Tensor, source: Tensor, query_pe: Tensor | None
    ) -> Tensor:
        """Image tokens attend to the prompt's tokens, including the residual: (n, L, C).

        query_pe: the position's part of the queries, or None for the first block, where all prompts share the queries.
        """
        k = attn.split_heads(attn.k_proj(queries + tokens)) * attn.head_dim**-0.5  # (n, heads, T, d)
        _, heads, _, width = k.shape
        if query_pe is None:
            scores = k @ self.first_queries  # (n, heads, T, L)
        else:
            folded = k @ attn.q_proj.weight.view(heads, width, -1)  # (n, heads, T, C)
            scores = _add_matmul(k @ query_pe, folded, source)
        weights = scores.softmax(dim=2).flatten(1, 2)  # over the tokens: (n, heads * T, L)
        out_weight = attn.out_proj.weight.view(-1, heads, width).permute(1, 2, 0)  # (heads, d, C)
        values = attn.split_heads(attn.v_proj(queries)) @ out_weight  # (n, heads, T, C)
        # The weights of each head sum to 1, so the bias can be added to the values of one head.
        values[:, 0] += attn.out_proj.bias
        return torch.baddbmm(source, weights.transpose(1, 2), values.flatten(1, 2))


@dataclass
class DecodedPrompts:
    """Tokens and image tokens of N decoded prompts, from which masks are computed on request."""

    decoder: MaskDecoder
    grid: tuple[int, int]
    tokens: Tensor  # (N, 5 + T, C)
    sources: list[Tensor]  # chunks of (n, L, C)
    chunk_sizes: tuple[int, int]  # prompts per chunk of `sources`, and prompts to upscale together

    def predicted_iou(self) -> Tensor:  # (N, 4)
        return self.decoder.iou_prediction_head(self.tokens[:, 0])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Return low-resolution logits (K, 4h, 4w) of K pairs of a prompt in [0, N) and a mask token in [0, 4)."""
        height, width = self.grid
        prompts = torch.as_tensor(prompts, dtype=torch.long, device="cpu")
        masks = torch.as_tensor(masks, dtype=torch.long, device="cpu")
        out = self.tokens.new_empty(len(prompts), 4 * height, 4 * width)
        unique_prompts, row = torch.unique(prompts, return_inverse=True)
        if not len(unique_prompts):
            return out
        device, (chunk, size) = out.device, self.chunk_sizes
        weights = self.decoder.mask_weights(self.tokens[to_device(unique_prompts, device)])  # (U, 4, C / 8)
        for begin in range(0, len(unique_prompts), size):
            chunk_prompts = unique_prompts[begin : begin + size].tolist()
            upscaled = _upscale(self.decoder, torch.stack([self.sources[i // chunk][i % chunk] for i in chunk_prompts]))
            planes = upscaled.flatten(1, 5) @ weights[begin : begin + size].mT  # (n, L * 16, 4)
            # Both upscaling steps split a cell in two per axis: (n, h, w, a, b, a', b', 4) to (n, 4, h a a', w b b').
            planes = planes.unflatten(1, (height, width, 2, 2, 2, 2)).permute(0, 7, 1, 3, 5, 2, 4, 6)
            planes = planes.reshape(len(chunk_prompts), -1, 4 * height, 4 * width)
            pairs = ((row >= begin) & (row < begin + size)).nonzero()[:, 0]
            indices = pairs, row[pairs] - begin, masks[pairs]
            at, of_row, mask = (to_device(index, device) for index in indices)
            out[at] = planes[of_row, mask].to(out.dtype)  # the dtypes differ under autocast
        return out


def gpu_chunk_size(nbytes: int, device: torch.device) -> int:
    """Return how many prompts to decode together with PyTorch on a GPU, if each has `nbytes` of image tokens."""
    max_bytes = _GPU_CHUNK_BYTES if has_ample_memory(device) else _GPU_CHUNK_BYTES // 4
    return max(_MIN_GPU_PROMPTS, min(_MAX_GPU_PROMPTS, max_bytes // nbytes))


def _upscale(decoder: MaskDecoder, source: Tensor) -> Tensor:
    """Apply `output_upscaling` as two matrix products, which works because its 2 x 2 kernels at stride 2 don't overlap.

    source: (n, L, C). Returns (n, L, 2, 2, 2, 2, C / 8): row and column within the first split, then within the second.
    """
    conv1, norm, _, conv2, _ = decoder.output_upscaling
    norm = cast(LayerNorm2d, norm)
    x = F.gelu(F.layer_norm(_split_cells(conv1, source), norm.weight.shape, norm.weight, norm.bias, norm.eps))
    return F.gelu(_split_cells(conv2, x))


def _split_cells(conv: nn.Module, x: Tensor) -> Tensor:  # (..., C) -> (..., 2, 2, C')
    """Apply a transposed convolution with 2 x 2 kernels at stride 2 as a matrix product."""
    conv = cast(nn.ConvTranspose2d, conv)
    weight = conv.weight.permute(0, 2, 3, 1)  # (C, 2, 2, C')
    split = (x @ weight.flatten(1)).unflatten(-1, weight.shape[1:])
    return split if conv.bias is None else split + conv.bias


def _token_to_image(attn: DecoderAttention, queries_with_pe: Tensor, source: Tensor, key_pe: Tensor) -> Tensor:
    """Tokens attend to their own prompt's image tokens, with folded projections: (n, T, C)."""
    q = attn.split_heads(attn.q_proj(queries_with_pe)) * attn.head_dim**-0.5  # (n, heads, T, d)
    count, heads, length, width = q.shape
    folded = q @ attn.k_proj.weight.view(heads, width, -1)  # (n, heads, T, C)
    scores = _add_matmul(q @ key_pe, folded, source).flatten(1, 2)
    attended = (scores.softmax(dim=-1) @ source).view(count, heads, length, -1)  # (n, heads, T, C)
    values = attended @ attn.v_proj.weight.view(heads, width, -1).transpose(1, 2)  # (n, heads, T, d)
    return attn.out_proj(values.transpose(1, 2).flatten(2) + attn.v_proj.bias)


def _add_matmul(scores: Tensor, folded: Tensor, source: Tensor) -> Tensor:
    """Return `scores + folded @ source.mT`, (n, heads, T, L), from folded (n, heads, T, C) and source (n, L, C)."""
    # Autocast doesn't cast the arguments of in-place operations.
    add = torch.baddbmm if torch.is_autocast_enabled(source.device.type) else Tensor.baddbmm_
    return add(scores.flatten(1, 2), folded.flatten(1, 2), source.transpose(1, 2)).view(scores.shape)


def _split_heads_transposed(attn: DecoderAttention, x: Tensor) -> Tensor:  # (L, heads * d) -> (heads, d, L)
    """Split the channels into heads and make the image tokens the contiguous axis."""
    return x.T.reshape(attn.num_heads, attn.head_dim, -1).contiguous()
