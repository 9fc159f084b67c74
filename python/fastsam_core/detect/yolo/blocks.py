"""Building blocks of the networks. Modules have the names that published checkpoints use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_POOLINGS = 3


class Conv(nn.Module):
    """Convolution with "same" padding, then SiLU unless `activated` is False.

    Batch normalisation is folded into the convolution; see `weights`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activated: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        x = self.conv(x)
        return F.silu(x, inplace=True) if self.activated else x


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions, with a residual connection or without."""

    def __init__(self, channels: int, hidden_channels: int, residual: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, hidden_channels, 3), Conv(hidden_channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class CrossStage(nn.Module):
    """A chain of bottlenecks on one projection of the input, concatenated with another projection."""

    def __init__(self, channels: int, hidden_channels: int, depth: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, hidden_channels), Conv(channels, hidden_channels)
        self.cv3 = Conv(2 * hidden_channels, channels)
        self.m = nn.Sequential(*(Bottleneck(hidden_channels, hidden_channels, True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Attention(nn.Module):
    """Self-attention over the positions, in heads of about 64 channels, plus a convolution of the values.

    Queries and keys have half as many channels as values.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = max(channels // 64, 1)
        if channels % self.num_heads:
            raise ValueError(f"{channels} channels can't be divided among {self.num_heads} heads of attention")
        self.head_channels = channels // self.num_heads
        self.key_channels = self.head_channels // 2
        qkv_channels = channels + 2 * self.key_channels * self.num_heads
        self.qkv = Conv(channels, qkv_channels, activated=False)
        self.proj = Conv(channels, channels, activated=False)
        self.pe = Conv(channels, channels, 3, groups=channels, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        batch, _, height, width = x.shape
        per_head = self.qkv(x).reshape(batch, self.num_heads, -1, height * width).transpose(2, 3)
        q, k, v = per_head.split([self.key_channels, self.key_channels, self.head_channels], 3)
        attended, values = (
            part.transpose(2, 3).reshape(x.shape) for part in (F.scaled_dot_product_attention(q, k, v), v)
        )
        return self.proj(attended + self.pe(values))


class AttentionBlock(nn.Module):
    """Self-attention, then two 1 x 1 convolutions, each with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = Attention(channels)
        self.ffn = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, activated=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = x + self.attn(x)
        return x + self.ffn(x)


class AreaAttention(nn.Module):
    """Self-attention within equal parts of the positions, in heads of 32 channels, plus a convolution of the values.

    The parts are successive positions, row by row.
    """

    HEAD_CHANNELS = 32

    def __init__(self, channels: int, num_areas: int) -> None:
        super().__init__()
        if channels % self.HEAD_CHANNELS:
            raise ValueError(f"{channels} channels can't be divided into heads of {self.HEAD_CHANNELS}")
        self.num_areas, self.num_heads = num_areas, channels // self.HEAD_CHANNELS
        self.qkv = Conv(channels, 3 * channels, activated=False)
        self.proj = Conv(channels, channels, activated=False)
        self.pe = Conv(channels, channels, 7, groups=channels, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape. H * W must be divisible by the number of areas."""
        per_head = self.qkv(x).reshape(x.shape[0], self.num_heads, 3, self.HEAD_CHANNELS, self.num_areas, -1)
        q, k, v = per_head.permute(2, 0, 4, 1, 5, 3)  # each (B, areas, heads, positions, channels)
        attended = F.scaled_dot_product_attention(q, k, v).permute(0, 2, 4, 1, 3).reshape(x.shape)
        return self.proj(attended + self.pe(per_head[:, :, 2].reshape(x.shape)))


class AreaAttentionBlock(nn.Module):
    """Self-attention within areas, then two 1 x 1 convolutions, each with a residual connection."""

    def __init__(self, channels: int, hidden_channels: int, num_areas: int) -> None:
        super().__init__()
        self.attn = AreaAttention(channels, num_areas)
        self.mlp = nn.Sequential(Conv(channels, hidden_channels), Conv(hidden_channels, channels, activated=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = x + self.attn(x)
        return x + self.mlp(x)


class Stage(nn.Module):
    """A chain of blocks on half of the channels; the outputs of all links are concatenated."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.cv1 = Conv(in_channels, 2 * hidden_channels)
        self.cv2 = Conv((2 + len(blocks)) * hidden_channels, out_channels)
        self.m = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        links = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            links.append(block(links[-1]))
        return self.cv2(torch.cat(links, 1))


class AreaStage(nn.Module):
    """A chain of blocks on a projection of the input; the outputs of all links are concatenated.

    If `scaled`, the result is multiplied by a factor per channel and added to the input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden_channels: int, blocks: list[nn.Module], scaled: bool
    ) -> None:
        super().__init__()
        if scaled and in_channels != out_channels:
            raise ValueError(f"{in_channels} input channels can't be added to {out_channels} output channels")
        self.cv1 = Conv(in_channels, hidden_channels)
        self.cv2 = Conv((1 + len(blocks)) * hidden_channels, out_channels)
        self.m = nn.ModuleList(blocks)
        self.gamma = nn.Parameter(torch.ones(out_channels)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        links = [self.cv1(x)]
        for block in self.m:
            links.append(block(links[-1]))
        y = self.cv2(torch.cat(links, 1))
        return y if self.gamma is None else x + self.gamma[:, None, None] * y


class AttentionStage(nn.Module):
    """A chain of attention blocks on half of the channels, concatenated with the other half."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, depth: int) -> None:
        super().__init__()
        self.cv1 = Conv(in_channels, 2 * hidden_channels)
        self.cv2 = Conv(2 * hidden_channels, out_channels)
        self.m = nn.Sequential(*(AttentionBlock(hidden_channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        kept, attended = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([kept, self.m(attended)], 1))


class PyramidPooling(nn.Module):
    """Maxima over increasingly large windows, by max-pooling three times over 5 x 5.

    With a residual connection, the first convolution has no activation.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, residual: bool) -> None:
        super().__init__()
        self.cv1 = Conv(in_channels, hidden_channels, activated=not residual)
        self.cv2 = Conv((1 + NUM_POOLINGS) * hidden_channels, out_channels)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        levels = [self.cv1(x)]
        for _ in range(NUM_POOLINGS):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        y = self.cv2(torch.cat(levels, 1))
        return x + y if self.residual else y
