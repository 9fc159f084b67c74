"""The ViT image encoder of SAM: windowed and global attention with decomposed relative positions.

Architecture: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), in the sizes of
Kirillov et al., "Segment Anything" (2023). Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._threads import native_threads
from .common import MLPBlock, get_members, neck, neck_channels_last
from .module_cache import cached, is_immutable
from .native import (
    can_use_cuda_kernels,
    can_use_native,
    is_eager_inference,
    is_exporting,
    is_plain,
    is_unmodified,
    record_layer_types,
    watch_methods,
)
from .vit_block import Attention, Block

# GELU in place keeps its operand in the GPU's cache.
gelu_ = torch.ops.aten.gelu_.default


class ImageEncoderViT(nn.Module):
    """Encode normalised images (B, in_chans, S, S) to embeddings (B, out_chans, S / patch_size, S / patch_size).

    Arguments and defaults are those of Meta's class. `sam_vit` has the settings of the official models.

    Args:
        img_size: S, the input size that the position tables are made for. Others get resampled tables.
        patch_size: side of the patches, which are the tokens.
        in_chans: channels of the images.
        embed_dim: channels of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads per block. Must divide `embed_dim`.
        mlp_ratio: hidden width of the blocks' MLPs, as a multiple of `embed_dim`.
        out_chans: channels of the embedding.
        qkv_bias: whether queries, keys and values have a bias.
        norm_layer: makes the norms of the blocks from their width.
        act_layer: makes the activation of the blocks' MLPs. The native code takes LayerNorm and exact GELU only.
        use_abs_pos: add a learnt embedding of each token's position.
        use_rel_pos: add learnt relative positions to the attention scores.
        rel_pos_zero_init: ignored, as in Meta's class. The tables start at zero.
        window_size: side of the windows that attention is limited to in tokens, 0 for none.
        global_attn_indexes: blocks whose attention spans the whole grid all the same.
    """

    # Whether this encoder benefits from bfloat16 weights on a CPU that multiplies bfloat16 faster than float32.
    bfloat16_on_cpu = True

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.img_size = img_size
        grid = img_size // patch_size
        patch = patch_size, patch_size
        self.patch_embed = PatchEmbed(patch, patch, in_chans=in_chans, embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim)) if use_abs_pos else None
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                norm_layer,
                act_layer,
                use_rel_pos,
                rel_pos_zero_init,
                window_size=0 if i in global_attn_indexes else window_size,
                input_size=(grid, grid),
            )
            for i in range(depth)
        )
        self.neck = neck(embed_dim, out_chans)
        if all(cast(Block, block).has_native_form() for block in self.blocks):
            record_layer_types(self)

    def forward(self, images: Tensor) -> Tensor:
        if can_use_native(images) and is_unmodified(self) and can_use_native(self.patch_embed.proj.weight):
            with native_threads():
                return neck_channels_last(self.neck, self._native_features(images))
        if self._can_use_bfloat16(images):
            return self.neck(self._bfloat16_features(images).permute(0, 3, 1, 2))
        x = self.patch_embed(images)  # (B, H, W, C)
        positions = self._position_embedding(x.shape[1], x.shape[2])
        # The blocks may overwrite a contiguous tensor, while a replaced `patch_embed` may return any, and keep it.
        x = x.clone() if positions is None else x + positions
        x = x.contiguous()
        if is_eager_inference() and is_plain(self.blocks, _LAYER_TYPES):
            _apply_blocks(self.blocks, x)
        else:
            for block in self.blocks:
                x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))

    def _native_features(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, S / patch, S / patch, C)
        """Compute the neck's input with native operations.

        Every block updates the same tensor in place and shares one buffer for qkv.
        """
        patches = self.patch_embed.patches(images)
        positions = self._position_embedding(patches.shape[1], patches.shape[2])
        residual = None if positions is None else positions.expand(*patches.shape[:3], -1)
        proj = self.patch_embed.proj
        x = ops.linear(patches, proj.weight.flatten(1), proj.bias, residual=residual)
        del patches
        qkv = x.new_empty(*x.shape[:3], 3 * x.shape[3])
        for block in self.blocks:
            cast(Block, block).forward_inplace(x, qkv)
        return x

    def _can_use_bfloat16(self, images: Tensor) -> bool:
        """Return whether to use `_bfloat16_features`: inference on a CPU, without foreign layers or hooks."""
        return (
            images.is_cpu
            and images.dtype == torch.bfloat16
            and is_eager_inference()
            and not torch.is_autocast_enabled("cpu")
            and is_unmodified(self)
            and self.patch_embed.proj.weight.dtype == torch.bfloat16
            and self.patch_embed.has_disjoint_patches()
            and is_plain(self.blocks, _LAYER_TYPES)
        )

    def _bfloat16_features(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, S / patch, S / patch, C)
        """Compute the neck's input in bfloat16.

        Matrix products take and return bfloat16, for which PyTorch and the native attention use the processor's own
        instructions. The residual stream between blocks and the normalisations are float32.
        """
        x = self.patch_embed.forward_as_matmul(images).float()  # (B, H, W, C)
        positions = self._position_embedding(x.shape[1], x.shape[2])
        if positions is not None:
            x += positions
        _apply_blocks(self.blocks, x)
        return x.bfloat16()

    def _position_embedding(self, height: int, width: int) -> Tensor | None:
        """Return the learnt position grid, if there is one.

        Other input sizes get its nearest neighbours, as with Ultralytics' `imgsz`.
        """
        if self.pos_embed is None or self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        resized = F.interpolate(self.pos_embed.permute(0, 3, 1, 2), size=(height, width))
        return resized.permute(0, 2, 3, 1)


def sam_vit(
    embed_dim: int,
    depth: int,
    num_heads: int,
    global_attn_indexes: Sequence[int],
    *,
    img_size: int = 1024,
    patch_size: int = 16,
    mlp_ratio: float = 4.0,
    window_size: int = 14,
    out_chans: int = 256,
) -> ImageEncoderViT:
    """Build an encoder with the settings that the official models have in common."""
    return ImageEncoderViT(
        img_size,
        patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        out_chans=out_chans,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window_size,
        global_attn_indexes=global_attn_indexes,
    )


class PatchEmbed(nn.Module):
    """Embed patches, the windows of a convolution. Arguments and defaults are those of Meta's class."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride=stride, padding=padding)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, S / patch, S / patch, C), contiguous
        if images.is_cuda and not is_exporting() and self.has_disjoint_patches():
            return self.forward_as_matmul(images)
        # Made contiguous once: later operations preserve the memory order, so otherwise every LayerNorm would copy.
        return self.proj(images).permute(0, 2, 3, 1).contiguous()

    def forward_as_matmul(self, images: Tensor) -> Tensor:
        """Compute `forward` as a matrix product, which requires `has_disjoint_patches()`.

        In half precision on a GPU it takes a twentieth of the time of cuDNN's convolution.
        """
        return F.linear(self.patches(images), self.proj.weight.flatten(1), self.proj.bias)

    def has_disjoint_patches(self) -> bool:
        """Return whether the convolution is still the original one, which reads each pixel for exactly one token."""
        proj = self.proj
        is_tiling = is_plain(proj, _CONV_TYPES) and proj.stride == proj.kernel_size
        return is_tiling and proj.padding == (0, 0) and proj.dilation == (1, 1) and proj.groups == 1

    def patches(self, images: Tensor) -> Tensor:
        """Cut images into patches: (B, 3, S, S) -> (B, S / patch, S / patch, 3 * patch * patch)."""
        height, width = self.proj.kernel_size
        windows = images.unfold(2, height, height).unfold(3, width, width)  # (B, 3, rows, columns, patch, patch)
        return windows.permute(0, 2, 3, 1, 4, 5).flatten(3)


class _Norm(NamedTuple):
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class _BlockLayers(NamedTuple):
    """Layers of a block. Those that `_apply_blocks` doesn't call as modules are given by their weight and bias."""

    norm1: _Norm
    attn: Attention
    window_size: int
    qkv: list[Any]
    proj: list[Any]
    norm2: _Norm
    lin1: list[Any]
    act: nn.GELU
    lin2: list[Any]


def _block_layers(blocks: nn.ModuleList) -> Iterator[_BlockLayers]:
    for block in blocks:
        norm1, attn, norm2, mlp = get_members(block, "norm1", "attn", "norm2", "mlp")
        qkv, proj = get_members(attn, "qkv", "proj")
        lin1, act, lin2 = get_members(mlp, "lin1", "act", "lin2")
        qkv, proj, lin1, lin2 = (get_members(layer, "weight", "bias") for layer in (qkv, proj, lin1, lin2))
        window_size = cast(Block, block).window_size
        yield _BlockLayers(_norm_params(norm1), attn, window_size, qkv, proj, _norm_params(norm2), lin1, act, lin2)


def _norm_params(norm: nn.LayerNorm) -> _Norm:
    weight, bias = get_members(norm, "weight", "bias")
    return _Norm(weight, bias, norm.eps)


def _apply_blocks(blocks: nn.ModuleList, x: Tensor) -> None:
    """Apply the blocks to `x` (B, H, W, C), contiguous, in place and by PyTorch's functions.

    Calling modules, or merely looking them up, would take much of the little time that the host has per kernel on a
    GPU. `x` may be float32 with narrower weights.
    """
    block_layers = (
        cached(blocks, "layers", lambda: list(_block_layers(blocks))) if is_immutable(blocks) else _block_layers(blocks)
    )
    layers, on_gpu = iter(block_layers), can_use_cuda_kernels(x)
    first = next(layers)
    # Work on rows, since a linear layer makes two views per call for inputs with more axes. `y` holds every
    # intermediate result in turn, so that none lives longer than needed.
    grid, x = x.shape[:3], x.view(-1, x.shape[3])
    y = _layer_norm(x, first.norm1)
    block: _BlockLayers | None = first
    while block is not None:
        y = F.linear(y, *block.qkv)
        y = block.attn.attend(y.view(*grid, y.shape[1]), block.window_size)
        y = F.linear(y.view(x.shape), *block.proj)
        y = _add_layer_norm(x, y, block.norm2, on_gpu)
        y = F.linear(y, *block.lin1)
        y = F.linear(gelu_(y, approximate=block.act.approximate), *block.lin2)
        block = next(layers, None)
        y = _add_layer_norm(x, y, block and block.norm1, on_gpu)


def _add_layer_norm(x: Tensor, delta: Tensor, norm: _Norm | None, on_gpu: bool) -> Tensor:
    """Add `delta` to `x` in place and return the normalised sum; without a norm, `x` itself.

    On a GPU this is one kernel, which overwrites `delta` with the result.
    """
    weight, bias, eps = norm or (None, None, 0.0)
    if on_gpu and weight is not None and bias is not None and x.dtype == delta.dtype == weight.dtype:
        ops.add_norm_into(x, delta, weight, bias, eps)
        return delta
    x += delta
    return x if norm is None else _layer_norm(x, norm)


def _layer_norm(x: Tensor, norm: _Norm) -> Tensor:
    """Return LayerNorm of `x` in the dtype of the norm's weights, computed in that of `x`."""
    weight, bias, eps = norm
    if weight is None or weight.dtype == x.dtype:
        return torch.layer_norm(x, x.shape[-1:], weight, bias, eps)
    bias = None if bias is None else bias.to(x.dtype)
    return torch.layer_norm(x, weight.shape, weight.to(x.dtype), bias, eps).to(weight.dtype)


_CONV_TYPES = frozenset({nn.Conv2d})
# Layer types that the blocks consist of, unless the user has put in others.
_LAYER_TYPES = frozenset({nn.ModuleList, Block, Attention, MLPBlock, nn.Linear, nn.LayerNorm, nn.GELU})
watch_methods(ImageEncoderViT, PatchEmbed)
