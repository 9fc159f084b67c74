"""The transformer block of SAM's ViT image encoder, with windowed or global attention and relative positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._attention.reference import attention as attention_in_torch
from ..ops._attention.windows import partition, unpartition
from .common import MLPBlock, get_members
from .module_cache import watch_settings
from .native import can_use_cuda_kernels, can_use_native, has_original_forward, watch_methods


class Block(nn.Module):
    """Transformer block: attention and MLP, each with a norm before it and a residual connection.

    Arguments and defaults are those of Meta's class; `ImageEncoderViT` describes them.
    window_size: side of the windows that attention is limited to, 0 for none. input_size: (height, width) of the grid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        size = (window_size, window_size) if window_size else input_size
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, use_rel_pos, rel_pos_zero_init, size)
        self.norm2 = norm_layer(dim)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> same
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        """Apply the attention within each window.

        An attention other than the original one, or one with hooks, is called with the windows cut out, as in Meta's
        block: (B * windows, window_size, window_size, C).
        """
        attn, size = self.attn, self.window_size
        if type(attn) is Attention and has_original_forward(attn, Attention):
            return attn(x, size)
        if not size:
            return attn(x)
        return unpartition(attn(partition(x, size, x.new_zeros(x.shape[3]))), x.shape[1], x.shape[2])

    def has_native_form(self) -> bool:
        """Return whether the layers are of the kinds that `forward_inplace` computes."""
        act = self.mlp.act
        return (type(act) is nn.GELU and act.approximate == "none") and all(
            type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
            for norm in (self.norm1, self.norm2)
        )

    def forward_inplace(self, x: Tensor, qkv: Tensor) -> None:
        """Overwrite `x` (B, H, W, C) with the result of `forward`, using native operations.

        Requires `has_native_form()`. qkv: (B, H, W, 3 * C), a buffer that is overwritten.
        """
        attn, mlp = self.attn, self.mlp
        norm1, norm2 = cast(nn.LayerNorm, self.norm1), cast(nn.LayerNorm, self.norm2)
        ops.linear_into(
            qkv,
            x,
            attn.qkv.weight,
            attn.qkv.bias,
            norm_weight=norm1.weight,
            norm_bias=norm1.bias,
            eps=norm1.eps,
        )
        ops.linear_into(x, attn.attend(qkv, self.window_size), attn.proj.weight, attn.proj.bias, residual=x)
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


class Attention(nn.Module):
    """Multi-head attention over a 2-D grid. With `use_rel_pos`, learnt relative positions per axis are added to scores.

    Arguments and defaults are those of Meta's class. input_size: (height, width) of the grid or of the windows, which
    `use_rel_pos` needs. Raises ValueError if it is missing or `num_heads` doesn't divide `dim`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim, {dim}, not be {num_heads}")
        if use_rel_pos and input_size is None:
            raise ValueError("use_rel_pos needs input_size, the (height, width) of the grid")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        for name, side in zip(("rel_pos_h", "rel_pos_w"), input_size or (0, 0), strict=True):
            table = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads)) if use_rel_pos else None
            self.register_parameter(name, table)

    def forward(self, x: Tensor, window_size: int = 0) -> Tensor:  # (B, H, W, C) -> same
        """Apply attention, limited to windows of this side unless it is 0. Meta's class takes windows as a batch."""
        return self.proj(self.attend(self.qkv(x), window_size))

    def attend(self, qkv: Tensor, window_size: int = 0) -> Tensor:  # (B, H, W, 3 * heads * d) -> (B, H, W, heads * d)
        """Compute the attention itself, between the qkv projection and the output projection."""
        height, width = (window_size or side for side in qkv.shape[1:3])
        rel_pos_h, rel_pos_w, layer = get_members(self, "rel_pos_h", "rel_pos_w", "qkv")
        head_dim = qkv.shape[3] // (3 * self.num_heads)
        if self.use_rel_pos:
            rel_pos_h, rel_pos_w = resample_rel_pos(rel_pos_h, height), resample_rel_pos(rel_pos_w, width)
        else:
            rel_pos_h, rel_pos_w = (qkv.new_zeros(2 * side - 1, head_dim) for side in (height, width))
        # The reference pads with zeros after the norm, so q, k and v of a padding token are the biases.
        padding = get_members(layer, "bias")[0] if type(layer) is nn.Linear else None
        if padding is None:  # e.g. an adapter, which may have no bias of its own
            padding = layer(qkv.new_zeros(1, 1, 1, qkv.shape[3] // 3)).flatten()
        if self.scale != head_dim**-0.5:
            # Not the queries, since the relative positions are multiplied with unscaled ones.
            qkv, padding = (_multiply_keys(x, self.scale * head_dim**0.5) for x in (qkv, padding))
        tensors = qkv, rel_pos_h, rel_pos_w, padding
        fused = (
            can_use_cuda_kernels(*tensors) or can_use_native(*tensors) or can_use_native(*tensors, dtype=torch.bfloat16)
        )
        attend = ops.attention if fused else attention_in_torch
        return attend(qkv, rel_pos_h, rel_pos_w, self.num_heads, window_size, padding)


watch_methods(Block, Attention)
watch_settings(Block, "window_size")
watch_settings(Attention, "num_heads", "scale", "use_rel_pos")


def _multiply_keys(qkv: Tensor, factor: float) -> Tensor:  # (..., 3 * heads * d) -> same
    q, k, v = qkv.chunk(3, dim=-1)
    return torch.cat([q, k * factor, v], dim=-1)


def resample_rel_pos(table: Tensor, size: int) -> Tensor:
    """Return a table of relative positions for an axis of `size` tokens, (2 * size - 1, d).

    A table (2 * n - 1, d) that was learnt for another size is resampled linearly, as in the reference.
    """
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T
