"""Random views of labelled pictures: cut out, resized, mirrored, tinted, and padded as at inference.

What is random is drawn on the host, view by view; the pixels are then made for all views at once, in some 150
operations on the device, so that a GPU doesn't wait for the host.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.common import to_device
from ..preprocess import PIXEL_MEAN, PIXEL_STD
from .pool import Pool

_WHOLE_SHARE = 0.35  # of the views show all of their picture
_LEAST_SIDE = 0.4  # of the picture's
# So many pixels of pictures are resized at once, a float32 in three channels each: what a CPU's cache holds, or 200 MB.
_PIXELS_ON_CPU, _PIXELS_ON_GPU = 1 << 19, 1 << 24


@dataclass(frozen=True)
class Views:
    """images: (B, 3, S, S) float32, normalised, zeros around the picture; planes: (B, K, S, S) uint8; inside: (B, S,
    S) bool, True on the picture.
    """

    images: Tensor
    planes: Tensor
    inside: Tensor


@dataclass(frozen=True)
class _Axis:
    """How B views lie along one axis of their pictures; each (B,) float32, whole numbers but for `mirrored`'s bool.

    start, extent: the window's, in pixels of the picture; shown: its length in the view.
    """

    start: Tensor
    extent: Tensor
    shown: Tensor
    mirrored: Tensor

    def places(self, size: int) -> tuple[Tensor, Tensor]:
        """Which pixel of the resized, not yet mirrored window each of a view's `size` pixels is, and whether it is one
        at all: (B, size) float32 and bool.
        """
        place = torch.arange(size, device=self.start.device, dtype=torch.float32)
        shown = self.shown[:, None]
        return torch.where(self.mirrored[:, None], shown - 1 - place, place), place < shown

    def nearest(self, size: int) -> Tensor:
        """The picture's pixel nearest to each pixel of a view, (B, size) int64; beside the window, one inside it."""
        place, inside = self.places(size)
        step = ((place + 0.5) * (self.extent / self.shown)[:, None]).floor()
        return (self.start[:, None] + step * inside).long()

    def triangle(self, size: int, taps: int) -> tuple[Tensor, Tensor]:
        """The pixels of the picture that each pixel of a view is a mean of, and their weights: (B, size, taps) int64
        and float32, as of bilinear interpolation with antialiasing. Weights are zero beside the window.
        """
        place, inside = self.places(size)
        scale = (self.extent / self.shown)[:, None]
        support = scale.clamp(min=1)
        centre = scale * (place + 0.5)
        first = (centre - support + 0.5).floor()
        pixel = first[..., None] + torch.arange(taps, device=first.device)  # from the start of the window
        weight = (1 - ((pixel + 0.5 - centre[..., None]) / support[..., None]).abs()).clamp(min=0)
        last = (self.extent - 1)[:, None, None]
        weight = weight * ((pixel >= 0) & (pixel <= last) & inside[..., None])
        weight = weight / weight.sum(2, keepdim=True).clamp(min=1e-6)
        return (pixel.clamp(min=0).minimum(last) + self.start[:, None, None]).long(), weight


def draw_views(pool: Pool, count: int, size: int, rng: np.random.Generator) -> Views:
    """`count` views of randomly chosen pictures of the pool, `size` pixels on their long side."""
    chosen = rng.integers(len(pool), size=count).tolist()
    drawn = [_drawn(rng, pool.shapes[which], size) for which in chosen]
    device = pool.data.device
    # One copy for all; float32 holds the whole numbers exactly.
    table = to_device(
        torch.tensor([(which, *view) for which, view in zip(chosen, drawn, strict=True)], dtype=torch.float32), device
    )
    which, top, left, height, width, tall, wide, mirrored = table[:, :8].unbind(1)
    which = which.long()
    rows = _Axis(top, height, tall, torch.zeros_like(mirrored, dtype=torch.bool))
    columns = _Axis(left, width, wide, mirrored > 0)
    inside = rows.places(size)[1][:, :, None] & columns.places(size)[1][:, None]
    taps = max(math.ceil(2 * max(1.0, view[2] / view[4], view[3] / view[5])) for view in drawn)
    axes = [axis.triangle(size, taps) for axis in (rows, columns)]
    # Tint and normalisation in one: both are lines, and what lies between them is a bound on either side.
    mean, deviation = _colours(device)
    gain = table[:, 8:11, None, None] / deviation
    offset = (table[:, 11, None, None, None] - mean) / deviation - 128 * gain
    least, most = -mean / deviation, (255 - mean) / deviation
    images = torch.empty(count, 3, size, size, device=device)
    at_once = max(1, (_PIXELS_ON_GPU if device.type == "cuda" else _PIXELS_ON_CPU) // pool.size**2)
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        view = pool.images.index_select(0, which[part]).float()
        for pixel, weight in axes:  # rows, which makes (b, 3, S, P) and turned (b, 3, P, S), then columns
            view = _weighted(view, pixel[part], weight[part]).transpose(2, 3)
        images[part] = view
        images[part].mul_(gain[part]).add_(offset[part]).clamp_(least, most).mul_(inside[part, None].float())
    names = _named(pool, which, rows, columns, size)
    return Views(images, names.mul_(inside[:, None]), inside)


def _weighted(pixels: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: pixels (B, C, h, w), rows and weights (B, S, T) -> (B, C, S, w)."""
    batch, channels, height, width = pixels.shape
    size, taps = rows.shape[1:]
    base = torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1, 1) * height
    bags = (base + rows[:, None]).view(-1, taps)
    shares = weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps)
    sums = F.embedding_bag(bags, pixels.reshape(-1, width), mode="sum", per_sample_weights=shares)
    return sums.view(batch, channels, size, width)


def _named(pool: Pool, which: Tensor, rows: _Axis, columns: _Axis, size: int) -> Tensor:
    """The labels nearest to the pixels of the views, (B, K, S, S) uint8."""
    channels, side = pool.data.shape[1], pool.size
    planes = torch.arange(3, channels, device=which.device)
    row = ((which[:, None] * channels + planes) * side)[..., None] + rows.nearest(size)[:, None]  # (B, K, S)
    lines = pool.data.view(-1, side).index_select(0, row.flatten()).view(*row.shape, side)
    return lines.gather(3, columns.nearest(size)[:, None, None].expand(*row.shape, -1))


@functools.cache
def _colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """PIXEL_MEAN and PIXEL_STD, (3, 1, 1), kept on the device: to copy them there again is to wait for it."""
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, deviation


def _drawn(rng: np.random.Generator, shape: tuple[int, int], size: int) -> tuple[float, ...]:
    """What is random about a view of a picture of that shape: top, left, height, width of the window; height and width
    that it is shown at; 1 if it is mirrored; what the three colours are multiplied by around 128, and what is added.
    """
    top, left, tall, wide = _window(rng, *shape)
    scale = size / max(tall, wide)
    shown = max(1, round(tall * scale)), max(1, round(wide * scale))
    gains, offset = _tint(rng)
    mirrored = float(rng.random() < 0.5)
    return top, left, tall, wide, *shown, mirrored, *gains, 128 + offset


def _window(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """top, left, height, width of what is shown."""
    if rng.random() < _WHOLE_SHARE:
        return 0, 0, height, width
    share = rng.uniform(_LEAST_SIDE, 1.0)
    # Photos are seldom square.
    aspect = float(np.exp(rng.uniform(-0.4, 0.4)))
    tall = int(min(max(height * share * aspect**0.5, min(16, height)), height))
    wide = int(min(max(width * share / aspect**0.5, min(16, width)), width))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide


def _tint(rng: np.random.Generator) -> tuple[list[float], float]:
    """Other exposure, contrast and white balance, within what cameras do to the same scene: gains, and an offset."""
    if rng.random() < 0.4:
        return [1.0, 1.0, 1.0], 0.0
    gain = rng.uniform(0.75, 1.25) * (1 + 0.04 * rng.standard_normal(3))
    return gain.tolist(), rng.uniform(-25, 25)
