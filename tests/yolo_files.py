"""YOLOv8 checkpoints in the published format, pickled from stand-in classes under Ultralytics' module paths.

The stand-ins are small networks with random weights, separate batch normalisations and a plain forward pass. `expected`
evaluates them independently of the package: dense masks, loops, no shared code.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
import types
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3
BINS = 16


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=EPSILON)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c: int, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c, 3), Conv(c, c, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    def __init__(self, c1: int, c2: int, n: int, add: bool) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, add) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        parts = [y[:, : self.c], y[:, self.c :]]
        for link in self.m:
            parts.append(link(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c1, c1 // 2), Conv(c1 * 2, c2), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        return self.cv2(torch.cat([a, b, c, self.m(c)], 1))


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


def branches(channels: tuple[int, ...], hidden: int, out: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(Conv(c, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, out, 1)) for c in channels
    )


class Detect(nn.Module):
    def __init__(self, nc: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.nl, self.reg_max, self.no = nc, 3, BINS, nc + 4 * BINS
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.cv2, self.cv3 = branches(channels, 16, 4 * BINS), branches(channels, 12, nc)
        self.dfl = DFL()

    def forward(self, x: list[Tensor]) -> Any:
        return [torch.cat([a(y), b(y)], 1) for a, b, y in zip(self.cv2, self.cv3, x, strict=True)]


class Segment(Detect):
    def __init__(self, nc: int, channels: tuple[int, ...]) -> None:
        super().__init__(nc, channels)
        self.nm, self.npr = 8, 12
        self.proto, self.cv4 = Proto(channels[0], self.npr, self.nm), branches(channels, 8, self.nm)
        self.detect = Detect.forward  # pickled as a call of getattr, as in published files

    def forward(self, x: list[Tensor]) -> Any:
        return self.detect(self, x), [a(y) for a, y in zip(self.cv4, x, strict=True)], self.proto(x[0])


class DetectionModel(nn.Module):
    """A tiny YOLOv8: backbone, neck and a detection or segmentation head."""

    def __init__(self, nc: int, head: type[Detect]) -> None:
        super().__init__()
        layers = [
            *(Conv(3, 8, 3, 2), Conv(8, 12, 3, 2), C2f(12, 12, 1, True), Conv(12, 16, 3, 2), C2f(16, 16, 2, True)),
            *(Conv(16, 24, 3, 2), C2f(24, 24, 2, True), Conv(24, 32, 3, 2), C2f(32, 32, 1, True), SPPF(32, 32)),
            *(nn.Upsample(None, 2, "nearest"), Concat(), C2f(32 + 24, 24, 1, False)),
            *(nn.Upsample(None, 2, "nearest"), Concat(), C2f(24 + 16, 16, 1, False)),
            *(Conv(16, 16, 3, 2), Concat(), C2f(16 + 24, 24, 1, False)),
            *(Conv(24, 24, 3, 2), Concat(), C2f(24 + 32, 32, 1, False), head(nc, (16, 24, 32))),
        ]
        self.model = nn.Sequential(*layers)
        self.names = {i: f"kind {i}" for i in range(nc)}
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.yaml = {"nc": nc, "scale": "n"}
        self.args: Any = {"imgsz": 96}

    def forward(self, x: Tensor) -> Any:
        reads = {11: (10, 6), 14: (13, 4), 17: (16, 12), 20: (19, 9), 22: (15, 18, 21)}
        seen: list[Any] = []
        for place, layer in enumerate(self.model):
            x = layer([seen[i] for i in reads[place]] if place in reads else x)
            seen.append(x)
        return x


class SegmentationModel(DetectionModel):
    pass


class IterableSimpleNamespace(types.SimpleNamespace):
    pass


_PATHS = {
    "ultralytics.nn.modules.conv": (Conv, Concat),
    "ultralytics.nn.modules.block": (Bottleneck, C2f, SPPF, DFL, Proto),
    "ultralytics.nn.modules.head": (Detect, Segment),
    "ultralytics.nn.tasks": (DetectionModel, SegmentationModel),
    "ultralytics.utils": (IterableSimpleNamespace,),
}


@contextlib.contextmanager
def published_paths() -> Iterator[None]:
    """Make the stand-ins importable under the module paths of the originals, within this context."""
    before = dict(sys.modules)
    moved = {cls: [cls, *filter(inspect.isfunction, vars(cls).values())] for cls in chain(*_PATHS.values())}
    own = [(each, each.__module__) for together in moved.values() for each in together]
    try:
        for path, classes in _PATHS.items():
            for end in [i for i, c in enumerate(path + ".") if c == "."]:
                sys.modules[path[:end]] = sys.modules.get(path[:end]) or types.ModuleType(path[:end])
            for cls in classes:
                for each in moved[cls]:  # methods too: newer pickle protocols store a method with its module
                    each.__module__ = path
                setattr(sys.modules[path], cls.__name__, cls)
        yield
    finally:
        for each, module in own:
            each.__module__ = module
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] == "ultralytics":
                del sys.modules[name]


def make(task: str = "detect", nc: int = 5, seed: int = 0) -> DetectionModel:
    """Return a network in evaluation mode whose scores, boxes and masks vary across the image."""
    torch.manual_seed(seed)
    net: DetectionModel = SegmentationModel(nc, Segment) if task == "segment" else DetectionModel(nc, Detect)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.8)
                module.bias.normal_(0, 0.3)
        net.train()
        for _ in range(30):
            net(torch.rand(2, 3, 64, 64))
        head = net.model[22]
        for boxes, scores in zip(head.cv2, head.cv3, strict=True):
            boxes[2].weight.mul_(4)
            scores[2].weight.mul_(8)
            scores[2].bias.fill_(-2.0)
    return net.half().float().eval()  # rounded, because files store half precision


def content(net: DetectionModel, **more: Any) -> dict[str, Any]:
    """Return the dictionary that a published checkpoint contains."""
    half = copy.deepcopy(net).half()
    settings = {"imgsz": 96, "task": "detect", "data": "coco.yaml"}
    facts = {"epoch": -1, "best_fitness": np.float64(0.5), "date": "2024-01-01", "version": "8.2.0"}
    return {**facts, "model": half, "ema": None, "optimizer": None, "train_args": settings, **more}


def write(path: Path, net: DetectionModel, *, legacy: bool = False, **more: Any) -> Path:
    """Save a checkpoint with the published module paths; `legacy` selects the format before zip files."""
    with published_paths(), warnings.catch_warnings():
        # The legacy format stores the source of modules, and warns if it finds none.
        warnings.simplefilter("ignore", UserWarning)
        torch.save(content(net, **more), path, _use_new_zipfile_serialization=not legacy)
    return path


# --- an independent evaluation of such a file ---


def letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, int, int, float, float]:
    """Return the network's RGB input (3, h, w) from 0 to 1, the left and top padding, and the scales of x and y."""
    height, width = image.shape[:2]
    ratio = min(size / height, size / width)
    tall, wide = max(round(height * ratio), 1), max(round(width * ratio), 1)
    canvas = np.full((-(-tall // 32) * 32, -(-wide // 32) * 32, 3), 114, np.uint8)
    top, left = round((canvas.shape[0] - tall) / 2 - 0.1), round((canvas.shape[1] - wide) / 2 - 0.1)
    shown = image if (tall, wide) == (height, width) else cv2.resize(image, (wide, tall))
    canvas[top : top + tall, left : left + wide] = shown
    return canvas[..., ::-1].transpose(2, 0, 1) / np.float32(255), left, top, wide / width, tall / height


def expected(
    net: DetectionModel, image: np.ndarray, size: int, conf: float, iou: float = 0.7, max_det: int = 300
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the expected detections of `net`.

    These are rows (N, 6) of x1, y1, x2, y2 in pixels of the image, score and class, and masks (N, H, W) bool, or None
    for a detection network.
    """
    pixels, left, top, scale_x, scale_y = letterbox(image, size)
    with torch.no_grad():
        out = net(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    levels, weights, prototypes = (out, None, None) if not isinstance(out, tuple) else out
    rows, coefficients = [], []
    for level, (grid, stride) in enumerate(zip(levels, (8, 16, 32), strict=True)):
        grid = grid[0].double()
        for y in range(grid.shape[1]):
            for x in range(grid.shape[2]):
                scores = grid[4 * BINS :, y, x].sigmoid()
                best = int(scores.argmax())
                if scores[best] <= conf:
                    continue
                bins = grid[: 4 * BINS, y, x].view(4, BINS).softmax(1)
                w, n, e, s = (bins * torch.arange(BINS)).sum(1).tolist()
                box = [(x + 0.5 - w) * stride, (y + 0.5 - n) * stride, (x + 0.5 + e) * stride, (y + 0.5 + s) * stride]
                rows.append([*box, float(scores[best]), best])
                if weights is not None:
                    coefficients.append(weights[level][0, :, y, x])
    order = sorted(range(len(rows)), key=lambda i: -rows[i][4])
    kept: list[int] = []
    for i in order:
        if all(rows[i][5] != rows[j][5] or overlap(rows[i], rows[j]) <= iou for j in kept):
            kept.append(i)
    kept = kept[:max_det]
    height, width = image.shape[:2]
    found = np.array([rows[i] for i in kept], np.float64).reshape(-1, 6)
    found[:, 0:4:2] = np.clip((found[:, 0:4:2] - left) / scale_x, 0, width)
    found[:, 1:4:2] = np.clip((found[:, 1:4:2] - top) / scale_y, 0, height)
    if weights is None or prototypes is None:
        return found, None
    tall, wide = round(height * scale_y), round(width * scale_x)
    sides = [left, top, pixels.shape[2] - wide - left, pixels.shape[1] - tall - top]
    # The smallest factor by which the prototypes must be enlarged so that the padding is an integer number of cells.
    grow = next(f for f in (1, 2, 4) if all(side * f % 4 == 0 for side in sides))
    masks = []
    for i, row in zip(kept, found, strict=True):
        logits = torch.einsum("k,khw->hw", coefficients[i], prototypes[0])[None, None]
        if grow > 1:
            logits = F.interpolate(logits, scale_factor=grow, mode="bilinear")
        y, x, h, w = (int(side * grow // 4) for side in (top, left, tall, wide))
        full = F.interpolate(logits[..., y : y + h, x : x + w], (height, width), mode="bilinear")[0, 0].numpy() > 0
        ys, xs = np.mgrid[:height, :width]
        masks.append(full & (xs >= row[0]) & (xs < row[2]) & (ys >= row[1]) & (ys < row[3]))
    dense = np.array(masks, bool).reshape(-1, height, width)
    some = dense.any((1, 2))
    return found[some], dense[some]


def overlap(a: Any, b: Any) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)
