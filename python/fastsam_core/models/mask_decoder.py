"""The two-way mask decoder in its plain form, for training and as the reference of the faster forms.

Architecture: Kirillov et al., "Segment Anything" (2023), section 3 and appendix A. Parameter names are those of the
official checkpoints. `decoder_folded.py` computes the same outputs for inference with far less work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import MLP, LayerNorm2d, MLPBlock
from .module_cache import watch_settings
from .native import has_original_methods, record_layer_types, watch_methods

NUM_MASK_TOKENS = 4  # one for the single mask, three for an ambiguous prompt


class MaskDecoder(nn.Module):
    """Decode mask logits and predicted IoU from image and prompt embeddings.

    Arguments and methods are those of Meta's implementation, for code that trains models. C below is `transformer_dim`.
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = NUM_MASK_TOKENS - 1,
        activation: Callable[[], nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer_dim = dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            activation(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(self.num_mask_tokens))
        self.iou_prediction_head = MLP(dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)
        record_layer_types(self, _LAYER_TYPES)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return some of the masks of `predict_masks`: logits (N, M, 4h, 4w) and predicted IoU (N, M).

        With `multimask_output` these are the three for an ambiguous prompt, else the single one.
        """
        masks, predicted_iou = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], predicted_iou[:, chosen]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return all four masks of each prompt: low-resolution logits (N, 4, 4h, 4w) and predicted IoU (N, 4).

        The prompts are for one image, or there is one image for each.

        Args:
            image_embeddings: (1 or N, C, h, w).
            image_pe: (1 or N, C, h, w).
            sparse_prompt_embeddings: (1 or N, T, C).
            dense_prompt_embeddings: (1 or N, C, 1 or h, 1 or w).
        """
        source = image_embeddings + dense_prompt_embeddings
        count = max(source.shape[0], sparse_prompt_embeddings.shape[0])
        tokens = self.tokens(sparse_prompt_embeddings).expand(count, -1, -1)
        height, width = source.shape[-2:]
        source, image_pe = (x.expand(count, -1, -1, -1) for x in (source, image_pe))
        tokens, source = self.transformer(source, image_pe, tokens)
        upscaled = self.output_upscaling(source.transpose(1, 2).unflatten(2, (height, width)))
        masks = torch.einsum("nmc,nchw->nmhw", self.mask_weights(tokens), upscaled)
        return masks, self.iou_prediction_head(tokens[:, 0])

    def tokens(self, sparse: Tensor) -> Tensor:  # (N, T, C) -> (N, 5 + T, C)
        """Prepend the output tokens (IoU, then masks) to the prompt's own tokens."""
        return torch.cat([self.output_tokens().expand(sparse.shape[0], -1, -1), sparse], dim=1)

    def output_tokens(self) -> Tensor:  # (5, C)
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def mask_weights(self, tokens: Tensor) -> Tensor:  # (N, 5 + T, C) -> (N, 4, C / 8)
        """Return each mask token's weights over the channels of the upscaled embedding."""
        mlps = self.output_hypernetworks_mlps
        return torch.stack([mlps[i](tokens[:, 1 + i]) for i in range(self.num_mask_tokens)], dim=1)

    def is_standard(self) -> bool:
        """Return whether the layers are those of the official models, in any width.

        The faster forms of the decoder compute only this architecture. Requires `is_unmodified`.
        """
        heads = self.output_hypernetworks_mlps
        return (
            self.num_mask_tokens == NUM_MASK_TOKENS
            and self.transformer.is_standard()
            and len(self.iou_prediction_head.layers) == 3
            and not any(cast(MLP, mlp).sigmoid_output for mlp in (*heads, self.iou_prediction_head))
            and all(_is_exact_gelu(self.output_upscaling[index]) for index in (2, 4))
            and has_original_methods(self, MaskDecoder, "predict_masks")
            and len({_widths_of(mlp) for mlp in heads}) == 1
        )


def _is_exact_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == "none"


def _widths_of(mlp: nn.Module) -> tuple[int, ...]:
    return tuple(cast(nn.Linear, layer).out_features for layer in cast(MLP, mlp).layers)


class TwoWayTransformer(nn.Module):
    """Blocks of attention between tokens and image, then a final attention of the tokens to the image.

    Arguments and defaults are those of Meta's class.

    Args:
        depth: number of blocks.
        embedding_dim: channels C of the tokens and of the image.
        num_heads: attention heads.
        mlp_dim: hidden width of the blocks' MLPs.
        activation: makes the activation of these MLPs.
        attention_downsample_rate: attention between tokens and image is this many times narrower than C.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        rate = attention_downsample_rate
        self.layers = nn.ModuleList(
            TwoWayBlock(embedding_dim, num_heads, mlp_dim, activation, rate, skip_first_layer_pe=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = DecoderAttention(embedding_dim, num_heads, rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    @property
    def blocks(self) -> list[TwoWayBlock]:
        """`layers` with their static type."""
        return [cast(TwoWayBlock, layer) for layer in self.layers]

    def is_standard(self) -> bool:
        """Return whether the layers are those of the official models, in any width.

        All LayerNorms must have the same `eps`, and all attentions the same number of heads.
        """
        if [block.skip_first_layer_pe for block in self.blocks] != [True, False]:
            return False
        norms, attentions = [self.norm_final_attn], [self.final_attn_token_to_image]
        for block in self.blocks:
            norms += block.norm1, block.norm2, block.norm3, block.norm4
            attentions += block.cross_attn_token_to_image, block.cross_attn_image_to_token
        widths = {2 * attention.q_proj.out_features for attention in attentions}
        attentions += [block.self_attn for block in self.blocks]
        return (
            all(type(block.mlp.act) is nn.ReLU for block in self.blocks)
            and widths == {self.norm_final_attn.weight.shape[0]}
            and len({norm.eps for norm in norms}) == len({attention.num_heads for attention in attentions}) == 1
        )

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the final tokens (N, T, C) and image tokens (N, h * w, C).

        image_embedding: (N, C, h, w). image_pe: (1 or N, C, h, w). point_embedding: tokens (N, T, C), which are also
        their own position embedding.
        """
        source, source_pe = (x.flatten(2).transpose(1, 2) for x in (image_embedding, image_pe))
        queries = tokens = point_embedding
        for block in self.blocks:
            queries, source = block(queries, source, tokens, source_pe)
        attended = self.final_attn_token_to_image(queries + tokens, source + source_pe, source)
        return self.norm_final_attn(queries + attended), source


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, attention of tokens to image, MLP, and attention of image to tokens.

    Arguments and defaults are those of Meta's class; `TwoWayTransformer` describes them.
    skip_first_layer_pe: whether the tokens still equal their position embedding, as in the first block.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: Callable[[], nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        super().__init__()
        dim, rate = embedding_dim, attention_downsample_rate
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = DecoderAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = DecoderAttention(dim, num_heads, rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = DecoderAttention(dim, num_heads, rate)

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.attend_self(queries, query_pe)
        attended = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.update_tokens(queries, attended)
        attended = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys + attended)

    def attend_self(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """Apply self-attention and norm to the tokens.

        With `skip_first_layer_pe` the position embedding is not added, and there is no residual.
        """
        if self.skip_first_layer_pe:
            return self.norm1(self.self_attn(queries, queries, queries))
        queries_with_pe = queries + query_pe
        return self.norm1(queries + self.self_attn(queries_with_pe, queries_with_pe, queries))

    def update_tokens(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Apply what follows the tokens' attention to the image: residual, norm, MLP, residual, norm."""
        queries = self.norm2(queries + attended)
        return self.norm3(queries + self.mlp(queries))


class DecoderAttention(nn.Module):
    """Multi-head attention whose inner width is `embedding_dim // downsample_rate`.

    Arguments and defaults are those of Meta's class. Raises ValueError unless `num_heads` divides the inner width.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = embedding_dim // downsample_rate
        if num_heads < 1 or inner % num_heads:
            raise ValueError(f"num_heads must divide the inner width, {inner}, not be {num_heads}")
        self.embedding_dim = embedding_dim
        self.internal_dim = inner
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, inner)
        self.k_proj = nn.Linear(embedding_dim, inner)
        self.v_proj = nn.Linear(embedding_dim, inner)
        self.out_proj = nn.Linear(inner, embedding_dim)

    @property
    def head_dim(self) -> int:
        return self.q_proj.out_features // self.num_heads

    def split_heads(self, x: Tensor) -> Tensor:
        return self._separate_heads(x, self.num_heads)

    # The steps of Meta's class under their names, since subclasses with adapters call them.

    def _separate_heads(self, x: Tensor, num_heads: int) -> Tensor:  # (N, L, heads * d) -> (N, heads, L, d)
        return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    def _recombine_heads(self, x: Tensor) -> Tensor:  # (N, heads, L, d) -> (N, L, heads * d)
        return x.transpose(1, 2).flatten(2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (N, Lq, C), (N, Lk, C), (N, Lk, C) -> (N, Lq, C)
        q, k, v = (self.split_heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        if q.is_cpu and q.dtype == torch.bfloat16:
            # PyTorch's fused kernel takes about twice as long for heads this narrow, both forward and backward.
            out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(self._recombine_heads(out))


# Layer types of the official decoder.
_LAYER_TYPES = frozenset(
    {
        *(MaskDecoder, TwoWayTransformer, TwoWayBlock, DecoderAttention, MLP, MLPBlock, LayerNorm2d),
        *(nn.ConvTranspose2d, nn.Embedding, nn.GELU, nn.LayerNorm, nn.Linear, nn.ModuleList, nn.ReLU, nn.Sequential),
    }
)
watch_methods(MaskDecoder, names=("forward", "predict_masks"))
watch_methods(TwoWayTransformer, TwoWayBlock, DecoderAttention)
watch_settings(MaskDecoder, "num_mask_tokens")
watch_settings(TwoWayBlock, "skip_first_layer_pe")
watch_settings(DecoderAttention, "num_heads")
