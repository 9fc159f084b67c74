"""YOLO checkpoints in the published format, pickled from stand-in classes under Ultralytics' module paths.

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

from yolo11_layers import C2PSA, A2C2f, AAttn, ABlock, Attention, C3k, C3k2, DWConv, Proto26, PSABlock
from yolo_layers import BINS, DFL, SPPF, Bottleneck, C2f, Concat, Conv, Proto


def branches(channels: tuple[int, ...], hidden: int, out: int, separable: bool = False) -> nn.ModuleList:
    def layer(c: int) -> nn.Module:
        return nn.Sequential(DWConv(c, 3), Conv(c, hidden)) if separable else Conv(c, hidden, 3)

    return nn.ModuleList(nn.Sequential(layer(c), layer(hidden), nn.Conv2d(hidden, out, 1)) for c in channels)


class Detect(nn.Module):
    """family: 8, 11, 12 or 26.

    The last has a second set of branches; a fused model may have only that, and None as `cv2`.
    """

    def __init__(self, nc: int, channels: tuple[int, ...], family: int) -> None:
        super().__init__()
        bins = 1 if family == 26 else BINS
        self.nc, self.nl, self.reg_max, self.no = nc, 3, bins, nc + 4 * bins
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.cv2: Any = branches(channels, 16, 4 * bins)
        self.cv3: Any = branches(channels, 12, nc, family > 8)
        self.dfl = DFL() if bins > 1 else nn.Identity()
        if family == 26:
            self.one2one_cv2, self.one2one_cv3 = branches(channels, 16, 4), branches(channels, 12, nc, True)

    def used(self, name: str) -> Any:
        """Return the branches of this name that are used in prediction."""
        return getattr(self, name) if self.cv2 is not None else getattr(self, f"one2one_{name}")

    def forward(self, x: list[Tensor]) -> Any:
        return [torch.cat([a(y), b(y)], 1) for a, b, y in zip(self.used("cv2"), self.used("cv3"), x, strict=True)]


class Segment(Detect):
    def __init__(self, nc: int, channels: tuple[int, ...], family: int) -> None:
        super().__init__(nc, channels, family)
        self.nm, self.npr = 8, 12
        self.proto: Any = Proto(channels[0], self.npr, self.nm)
        self.cv4: Any = branches(channels, 8, self.nm)
        self.detect = Detect.forward  # pickled as a call of getattr, as in published files

    def forward(self, x: list[Tensor]) -> Any:
        return self.detect(self, x), [a(y) for a, y in zip(self.used("cv4"), x, strict=True)], self.prototypes(x)

    def prototypes(self, x: list[Tensor]) -> Tensor:
        return self.proto(x[0])


class Segment26(Segment):
    def __init__(self, nc: int, channels: tuple[int, ...], family: int) -> None:
        super().__init__(nc, channels, family)
        self.proto, self.one2one_cv4 = Proto26(channels, self.npr, self.nm, nc), branches(channels, 8, self.nm)

    def prototypes(self, x: list[Tensor]) -> Tensor:
        return self.proto(x)


def upsample() -> nn.Module:
    return nn.Upsample(None, 2, "nearest")


def layers_of_yolov8() -> list[nn.Module]:
    return [
        *(Conv(3, 8, 3, 2), Conv(8, 12, 3, 2), C2f(12, 12, 1, True), Conv(12, 16, 3, 2), C2f(16, 16, 2, True)),
        *(Conv(16, 24, 3, 2), C2f(24, 24, 2, True), Conv(24, 32, 3, 2), C2f(32, 32, 1, True), SPPF(32, 32)),
        *(upsample(), Concat(), C2f(32 + 24, 24, 1, False), upsample(), Concat(), C2f(24 + 16, 16, 1, False)),
        *(Conv(16, 16, 3, 2), Concat(), C2f(16 + 24, 24, 1, False)),
        *(Conv(24, 24, 3, 2), Concat(), C2f(24 + 32, 32, 1, False)),
    ]


def layers_of_yolo11(family: int) -> list[nn.Module]:
    """Return layers of YOLO11 or YOLO26. The attention of the backbone has two heads."""
    kind, last_kind = ("C3k", "attention") if family == 26 else ("plain", "C3k")
    return [
        *(Conv(3, 8, 3, 2), Conv(8, 12, 3, 2), C3k2(12, 16, 1, "plain", 4), Conv(16, 16, 3, 2)),
        *(C3k2(16, 16, 2, "plain", 8), Conv(16, 24, 3, 2), C3k2(24, 24, 1, "C3k"), Conv(24, 256, 3, 2)),
        *(C3k2(256, 256, 1, "C3k", 16), SPPF(256, 256, family == 26), C2PSA(256, 1)),
        *(upsample(), Concat(), C3k2(256 + 24, 24, 2, kind), upsample(), Concat(), C3k2(24 + 16, 16, 1, kind)),
        *(Conv(16, 16, 3, 2), Concat(), C3k2(16 + 24, 24, 1, kind)),
        *(Conv(24, 24, 3, 2), Concat(), C3k2(24 + 256, 32, 1, last_kind)),
    ]


def layers_of_yolo12() -> list[nn.Module]:
    """Return layers of YOLO12. The attention of the backbone has one head in the first stage, two in the second."""
    return [
        *(Conv(3, 8, 3, 2), Conv(8, 12, 3, 2), C3k2(12, 16, 1, "plain", 4), Conv(16, 16, 3, 2)),
        *(C3k2(16, 16, 2, "plain", 8), Conv(16, 64, 3, 2), A2C2f(64, 64, 2, 4, True), Conv(64, 128, 3, 2)),
        *(A2C2f(128, 128, 1, 1), upsample(), Concat(), A2C2f(128 + 64, 24, 2)),
        *(upsample(), Concat(), A2C2f(24 + 16, 16, 1), Conv(16, 16, 3, 2), Concat(), A2C2f(16 + 24, 24, 1)),
        *(Conv(24, 24, 3, 2), Concat(), C3k2(24 + 128, 32, 1, "C3k")),
    ]


# Inputs of the layers that read others than the one before, by the number of layers.
_READS: dict[int, dict[int, tuple[int, ...]]] = {
    22: {10: (9, 6), 13: (12, 4), 16: (15, 11), 19: (18, 8), 21: (14, 17, 20)},
    23: {11: (10, 6), 14: (13, 4), 17: (16, 12), 20: (19, 9), 22: (15, 18, 21)},
    24: {12: (11, 6), 15: (14, 4), 18: (17, 13), 21: (20, 10), 23: (16, 19, 22)},
}


class DetectionModel(nn.Module):
    """A tiny network: backbone, neck and a detection or segmentation head."""

    def __init__(self, nc: int, head: type[Detect], family: int = 8) -> None:
        super().__init__()
        layers = {8: layers_of_yolov8, 12: layers_of_yolo12}.get(family, lambda: layers_of_yolo11(family))()
        self.model = nn.Sequential(*layers, head(nc, (16, 24, 32), family))
        self.names = {i: f"kind {i}" for i in range(nc)}
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.yaml = {"nc": nc, "scale": "n"}
        self.args: Any = {"imgsz": 96}

    def forward(self, x: Tensor) -> Any:
        reads, seen = _READS[len(self.model)], list[Any]()
        for place, layer in enumerate(self.model):
            x = layer([seen[i] for i in reads[place]] if place in reads else x)
            seen.append(x)
        return x


class SegmentationModel(DetectionModel):
    pass


class IterableSimpleNamespace(types.SimpleNamespace):
    pass


_PATHS = {
    "ultralytics.nn.modules.conv": (Conv, DWConv, Concat),
    "ultralytics.nn.modules.block": (
        *(Bottleneck, C2f, SPPF, DFL, Proto),
        *(C3k, C3k2, Attention, PSABlock, C2PSA, AAttn, ABlock, A2C2f, Proto26),
    ),
    "ultralytics.nn.modules.head": (Detect, Segment, Segment26),
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


def make(task: str = "detect", nc: int = 5, seed: int = 0, family: int = 8) -> DetectionModel:
    """Return a network in evaluation mode whose scores, boxes and masks vary across the image.

    family: 8, 11, 12 or 26.
    """
    torch.manual_seed(seed)
    segment_head = Segment26 if family == 26 else Segment
    net: DetectionModel = (
        SegmentationModel(nc, segment_head, family) if task == "segment" else DetectionModel(nc, Detect, family)
    )
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.8)
                module.bias.normal_(0, 0.3)
        net.train()
        for _ in range(30):
            net(torch.rand(2, 3, 64, 64))
        head: Any = net.model[-1]
        pairs = list(zip(head.cv2, head.cv3, strict=True))
        if family == 26:
            pairs += zip(head.one2one_cv2, head.one2one_cv3, strict=True)
        for boxes, scores in pairs:
            boxes[2].weight.mul_(4)
            scores[2].weight.mul_(8)
            scores[2].bias.fill_(-2.0)
            if family == 26:
                boxes[2].bias.fill_(2.0)  # distances, most of them positive
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
    net: DetectionModel,
    image: np.ndarray,
    size: int,
    conf: float,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic_nms: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the expected detections of `net`.

    These are rows (N, 6) of x1, y1, x2, y2 in pixels of the image, score and class, and masks (N, H, W) bool, or None
    for a detection network.
    """
    pixels, left, top, scale_x, scale_y = letterbox(image, size)
    with torch.no_grad():
        out = net(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    levels, weights, prototypes = (out, None, None) if not isinstance(out, tuple) else out
    head: Any = net.model[-1]
    bins = head.reg_max
    rows, coefficients = [], []
    for level, (grid, stride) in enumerate(zip(levels, (8, 16, 32), strict=True)):
        grid = grid[0].double()
        for y in range(grid.shape[1]):
            for x in range(grid.shape[2]):
                scores = grid[4 * bins :, y, x].sigmoid()
                distances = grid[: 4 * bins, y, x].view(4, bins)
                means = (distances.softmax(1) * torch.arange(bins)).sum(1) if bins > 1 else distances[:, 0]
                w, n, e, s = means.tolist()
                box = [(x + 0.5 - w) * stride, (y + 0.5 - n) * stride, (x + 0.5 + e) * stride, (y + 0.5 + s) * stride]
                # A model with one-to-one branches only may find an object of each class in a cell.
                only_best = head.cv2 is not None or agnostic_nms
                for kind in [int(scores.argmax())] if only_best else range(len(scores)):
                    if scores[kind] > conf:
                        rows.append([*box, float(scores[kind]), kind])
                        if weights is not None:
                            coefficients.append(weights[level][0, :, y, x])
    order = sorted(range(len(rows)), key=lambda i: -rows[i][4])
    kept: list[int] = []
    for i in order:
        if head.cv2 is None or all(rows[i][5] != rows[j][5] or overlap(rows[i], rows[j]) <= iou for j in kept):
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
