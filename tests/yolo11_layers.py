"""Layers of YOLO11, YOLO12 and YOLO26 checkpoints, as stand-ins with batch normalisation and a plain forward pass.

Attention is computed position by position, in loops, without the package's code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_layers import Bottleneck, C2f, Conv, Proto


class DWConv(Conv):
    def __init__(self, c: int, k: int) -> None:
        super().__init__(c, c, k, g=c)


class C3k(nn.Module):
    def __init__(self, c: int, hidden: int, n: int = 2) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c, hidden), Conv(c, hidden), Conv(2 * hidden, c)
        self.m = nn.Sequential(*(Bottleneck(hidden, True) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_heads = max(dim // 64, 1)
        self.head_dim = dim // self.num_heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim**-0.5
        self.qkv = Conv(dim, dim + 2 * self.key_dim * self.num_heads, act=False)
        self.proj, self.pe = Conv(dim, dim, act=False), Conv(dim, dim, 3, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        step = 2 * self.key_dim + self.head_dim
        attended, values = [], []
        for head in range(self.num_heads):
            part = self.qkv(x)[:, head * step : (head + 1) * step].flatten(2)
            q, k, v = part[:, : self.key_dim], part[:, self.key_dim : 2 * self.key_dim], part[:, 2 * self.key_dim :]
            weights = torch.einsum("bcn,bcm->bnm", q, k).mul(self.scale).softmax(2)
            attended.append(torch.einsum("bnm,bcm->bcn", weights, v))
            values.append(v)
        return self.proj(torch.cat(attended, 1).view(x.shape) + self.pe(torch.cat(values, 1).view(x.shape)))


class PSABlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.attn, self.ffn = Attention(c), nn.Sequential(Conv(c, 2 * c), Conv(2 * c, c, act=False))
        self.add = True

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.c = c // 2
        self.cv1, self.cv2 = Conv(c, 2 * self.c), Conv(2 * self.c, c)
        self.m = nn.Sequential(*(PSABlock(self.c) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return self.cv2(torch.cat([y[:, : self.c], self.m(y[:, self.c :])], 1))


class C3k2(C2f):
    """kind: "C3k", "attention" or "plain". hidden: channels of the chain, half of the output's by default."""

    def __init__(self, c1: int, c2: int, n: int, kind: str, hidden: int | None = None) -> None:
        super().__init__(c1, c2, n, True, hidden)
        inner = self.c // 2
        blocks = {
            "C3k": lambda: C3k(self.c, inner),
            "attention": lambda: nn.Sequential(Bottleneck(self.c, True, inner), PSABlock(self.c)),
            "plain": lambda: Bottleneck(self.c, True, inner),
        }
        self.m = nn.ModuleList(blocks[kind]() for _ in range(n))


class AAttn(nn.Module):
    def __init__(self, dim: int, area: int) -> None:
        super().__init__()
        self.area, self.num_heads, self.head_dim = area, dim // 32, 32
        self.qkv, self.proj = Conv(dim, 3 * dim, act=False), Conv(dim, dim, act=False)
        self.pe = Conv(dim, dim, 7, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        attended, values = [], []
        for head in self.qkv(x).flatten(2).split(3 * self.head_dim, 1):
            q, k, v = head.split(self.head_dim, 1)
            parts = [each.chunk(self.area, 2) for each in (q, k, v)]
            weights = [(a.transpose(1, 2) @ b * self.head_dim**-0.5).softmax(2) for a, b, _ in zip(*parts, strict=True)]
            attended.append(torch.cat([c @ w.transpose(1, 2) for c, w in zip(parts[2], weights, strict=True)], 2))
            values.append(v)
        return self.proj(torch.cat(attended, 1).view(x.shape) + self.pe(torch.cat(values, 1).view(x.shape)))


class ABlock(nn.Module):
    def __init__(self, dim: int, ratio: float, area: int) -> None:
        super().__init__()
        self.attn, hidden = AAttn(dim, area), int(dim * ratio)
        self.mlp = nn.Sequential(Conv(dim, hidden), Conv(hidden, dim, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    """area: parts of the positions for attention; without it the blocks are `C3k`. scaled: with `gamma`."""

    def __init__(self, c1: int, c2: int, n: int, area: int | None = None, scaled: bool = False) -> None:
        super().__init__()
        hidden, ratio = c2 // 2, 1.2 if scaled else 2.0
        self.cv1, self.cv2 = Conv(c1, hidden), Conv((1 + n) * hidden, c2)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, c2)) if scaled else None

        def block() -> nn.Module:
            if area is None:
                return C3k(hidden, hidden // 2)
            return nn.Sequential(*(ABlock(hidden, ratio, area) for _ in range(2)))

        self.m = nn.ModuleList(block() for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for link in self.m:
            parts.append(link(parts[-1]))
        y = self.cv2(torch.cat(parts, 1))
        return y if self.gamma is None else x + self.gamma.view(-1, 1, 1) * y


class Proto26(Proto):
    def __init__(self, channels: tuple[int, ...], hidden: int, c2: int, nc: int) -> None:
        super().__init__(hidden, hidden, c2)
        self.feat_refine = nn.ModuleList(Conv(c, channels[0]) for c in channels[1:])
        self.feat_fuse = Conv(channels[0], hidden, 3)
        self.semseg = nn.Sequential(Conv(channels[0], hidden, 3), nn.Conv2d(hidden, nc, 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = levels[0]
        for refine, level, factor in zip(self.feat_refine, levels[1:], (2, 4), strict=True):
            x = x + F.interpolate(refine(level), scale_factor=factor, mode="nearest")
        return super().forward(self.feat_fuse(x))
