"""The ViT image encoder of SAM: windowed and global attention with decomposed relative positions.

Architecture: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), in the sizes of
Kirillov et al., "Segment Anything" (2023). Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._attention.reference import attention as attention_in_torch
from ..ops._threads import native_threads
from .common import get_members, neck, neck_channels_last
from .module_cache import cached, is_immutable
from .native import (
    can_use_cuda_kernels,
    can_use_native,
    is_eager_inference,
    is_exporting,
    is_plain,
    is_unmodified,
    record_layer_types,
)

# GELU in place keeps its operand in the GPU's cache.
gelu_ = torch.ops.aten.gelu_.default


class ImageEncoderViT(nn.Module):
    """Encode normalised images (B, 3, S, S) to embeddings (B, out_channels, S / 16, S / 16)."""

    # Whether this encoder benefits from bfloat16 weights on a CPU that multiplies bfloat16 faster than float32.
    bfloat16_on_cpu = True

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_attention_blocks: tuple[int, ...],
        *,
        image_size: int = 1024,
        patch_size: int = 16,
        window_size: int = 14,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        grid = image_size // patch_size
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, window_size=0 if i in global_attention_blocks else window_size, grid=grid)
            for i in range(depth)
        )
        self.neck = neck(embed_dim, out_channels)
        record_layer_types(self)

    def forward(self, images: Tensor) -> Tensor:
        if can_use_native(images, self.pos_embed) and is_unmodified(self):
            with native_threads():
                return neck_channels_last(self.neck, self._native_features(images))
        if self._can_use_bfloat16(images):
            return self.neck(self._bfloat16_features(images).permute(0, 3, 1, 2))
        x = self.patch_embed(images)  # (B, H, W, C)
        x = x + self._position_embedding(x.shape[1], x.shape[2])
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
        weight = self.patch_embed.proj.weight.flatten(1)
        x = ops.linear(patches, weight, self.patch_embed.proj.bias, residual=positions.expand(*patches.shape[:3], -1))
        del patches
        qkv = x.new_empty(*x.shape[:3], 3 * x.shape[3])
        for block in self.blocks:
            cast(Block, block).forward_inplace(x, qkv)
        return x

    def _can_use_bfloat16(self, images: Tensor) -> bool:
        """Return whether to use `_bfloat16_features`: inference on a CPU, without foreign layers or hooks."""
        return (
            images.is_cpu
            and images.dtype == self.pos_embed.dtype == torch.bfloat16
            and is_eager_inference()
            and not torch.is_autocast_enabled("cpu")
            and is_unmodified(self)
            and self.patch_embed.has_disjoint_patches()
            and is_plain(self.blocks, _LAYER_TYPES)
        )

    def _bfloat16_features(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, S / patch, S / patch, C)
        """Compute the neck's input in bfloat16.

        Matrix products take and return bfloat16, for which PyTorch and the native attention use the processor's own
        instructions. The residual stream between blocks and the normalisations are float32.
        """
        x = self.patch_embed.forward_as_matmul(images).float()  # (B, H, W, C)
        x += self._position_embedding(*x.shape[1:3])
        _apply_blocks(self.blocks, x)
        return x.bfloat16()

    def _position_embedding(self, height: int, width: int) -> Tensor:
        """Return the learnt position grid.

        Other input sizes get its nearest neighbours, as with Ultralytics' `imgsz`.
        """
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        resized = F.interpolate(self.pos_embed.permute(0, 3, 1, 2), size=(height, width))
        return resized.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Embed non-overlapping square patches with a convolution."""

    def __init__(self, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)

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


class Block(nn.Module):
    """Transformer block; with `window_size` 0 attention spans the whole grid."""

    def __init__(self, dim: int, num_heads: int, *, window_size: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window_size=window_size, grid=window_size or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim)

    @property
    def window_size(self) -> int:
        """Side of the windows that attention is limited to, or 0."""
        return self.attn.window_size

    @window_size.setter
    def window_size(self, size: int) -> None:
        self.attn.window_size = size

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def forward_inplace(self, x: Tensor, qkv: Tensor) -> None:
        """Overwrite `x` (B, H, W, C) with the result of `forward`, using native operations.

        qkv: (B, H, W, 3 * C), a buffer that is overwritten.
        """
        attn, norm1, norm2, mlp = self.attn, self.norm1, self.norm2, self.mlp
        ops.linear_into(
            qkv,
            x,
            attn.qkv.weight,
            attn.qkv.bias,
            norm_weight=norm1.weight,
            norm_bias=norm1.bias,
            eps=norm1.eps,
        )
        ops.linear_into(x, attn.attend(qkv), attn.proj.weight, attn.proj.bias, residual=x)
        ops.mlp_into(
            x,
            x,
            norm2.weight,
            norm2.bias,
            norm2.eps,
            mlp.lin1.weight,
            mlp.lin1.bias,
            mlp.lin2.weight,
            mlp.lin2.bias,
        )


class _Norm(NamedTuple):
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class _BlockLayers(NamedTuple):
    """Layers of a block. Those that `_apply_blocks` doesn't call as modules are given by their weight and bias."""

    norm1: _Norm
    attn: Attention
    qkv: list[Any]
    proj: list[Any]
    norm2: _Norm
    lin1: list[Any]
    lin2: list[Any]


def _block_layers(blocks: nn.ModuleList) -> Iterator[_BlockLayers]:
    for block in blocks:
        norm1, attn, norm2, mlp = get_members(block, "norm1", "attn", "norm2", "mlp")
        qkv, proj = get_members(attn, "qkv", "proj")
        lin1, lin2 = get_members(mlp, "lin1", "lin2")
        yield _BlockLayers(
            *(_norm_params(norm1), attn, get_members(qkv, "weight", "bias"), get_members(proj, "weight", "bias")),
            *(_norm_params(norm2), get_members(lin1, "weight", "bias"), get_members(lin2, "weight", "bias")),
        )


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
        y = block.attn.attend(y.view(*grid, y.shape[1]))
        y = F.linear(y.view(x.shape), *block.proj)
        y = _add_layer_norm(x, y, block.norm2, on_gpu)
        y = F.linear(y, *block.lin1)
        y = F.linear(gelu_(y), *block.lin2)
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


class MLPBlock(nn.Module):
    """Two linear layers with GELU, or the layer that is set as `act`, between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(getattr(self, "act", F.gelu)(self.lin1(x)))


class Attention(nn.Module):
    """Multi-head attention over a 2-D grid, with learnt relative positions per axis added to the scores."""

    def __init__(self, dim: int, num_heads: int, *, window_size: int, grid: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> same
        return self.proj(self.attend(self.qkv(x)))

    def attend(self, qkv: Tensor) -> Tensor:  # (B, H, W, 3 * heads * d) -> (B, H, W, heads * d)
        """Compute the attention itself, between the qkv projection and the output projection."""
        height, width = (self.window_size or side for side in qkv.shape[1:3])
        rel_pos_h, rel_pos_w, layer = get_members(self, "rel_pos_h", "rel_pos_w", "qkv")
        rel_pos_h, rel_pos_w = resample_rel_pos(rel_pos_h, height), resample_rel_pos(rel_pos_w, width)
        # The reference pads with zeros after the norm, so q, k and v of a padding token are the biases.
        padding = get_members(layer, "bias")[0] if type(layer) is nn.Linear else None
        if padding is None:  # e.g. an adapter, which may have no bias of its own
            padding = layer(qkv.new_zeros(1, 1, 1, qkv.shape[3] // 3)).flatten()
        tensors = qkv, rel_pos_h, rel_pos_w, padding
        fused = (
            can_use_cuda_kernels(*tensors) or can_use_native(*tensors) or can_use_native(*tensors, dtype=torch.bfloat16)
        )
        attend = ops.attention if fused else attention_in_torch
        return attend(qkv, rel_pos_h, rel_pos_w, self.num_heads, self.window_size, padding)


def resample_rel_pos(table: Tensor, size: int) -> Tensor:
    """Return a table of relative positions for an axis of `size` tokens, (2 * size - 1, d).

    A table (2 * n - 1, d) that was learnt for another size is resampled linearly, as in the reference.
    """
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


_CONV_TYPES = frozenset({nn.Conv2d})
# Layer types that the blocks consist of, unless the user has put in others.
_LAYER_TYPES = frozenset({nn.ModuleList, Block, Attention, MLPBlock, nn.Linear, nn.LayerNorm})
