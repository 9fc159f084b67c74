"""Layers of YOLOv8 checkpoints, as stand-ins with batch normalisation and a plain forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EPSILON = 1e-3
BINS = 16


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=EPSILON)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def fuse(self) -> None:
        """Fold the normalisation, as a published model does before it predicts; it may be saved afterwards."""
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


class Bottleneck(nn.Module):
    def __init__(self, c: int, add: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, hidden or c, 3), Conv(hidden or c, c, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    def __init__(self, c1: int, c2: int, n: int, add: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.c = hidden or c2 // 2
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, add) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        parts = [y[:, : self.c], y[:, self.c :]]
        for link in self.m:
            parts.append(link(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int, add: bool = False) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c1, c1 // 2, act=not add), Conv(c1 * 2, c2), nn.MaxPool2d(5, 1, 2)
        if add:  # older files don't have these
            self.n, self.add = 3, add

    def forward(self, x: Tensor) -> Tensor:
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        y = self.cv2(torch.cat([a, b, c, self.m(c)], 1))
        return x + y if getattr(self, "add", False) else y


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)


class DFL(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.arange(float(BINS)).view(1, BINS, 1, 1)


class Proto(nn.Module):
    def __init__(self, c1: int, hidden: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.upsample = Conv(c1, hidden, 3), nn.ConvTranspose2d(hidden, hidden, 2, 2, 0, bias=True)
        self.cv2, self.cv3 = Conv(hidden, hidden, 3), Conv(hidden, c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))
