"""Random views of labelled images: cropped, resized, mirrored, tinted, and padded as at inference.

Random parameters are drawn on the host, view by view. The pixels of all views are then computed together, in about 150
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

_WHOLE_SHARE = 0.35  # fraction of the views that show the whole image
_LEAST_SIDE = 0.4  # smallest side of a crop as a fraction of the image's, before the aspect ratio is changed
# Number of source pixels, with three float32 channels each, resized at once: what fits a CPU's cache, or 200 MB.
_PIXELS_ON_CPU, _PIXELS_ON_GPU = 1 << 19, 1 << 24


@dataclass(frozen=True)
class Views:
    """A batch of B views.

    images: (B, 3, S, S) float32, normalised, padded with zeros. planes: (B, K, S, S) uint8. inside: (B, S, S) bool,
    True on the image and False on padding.
    """

    images: Tensor
    planes: Tensor
    inside: Tensor


@dataclass(frozen=True)
class _Axis:
    """Geometry of B views along one axis. All are (B,); `mirrored` is bool, the others are integers in float32.

    start, extent: of the window that is cut out, in pixels of the image. shown: length of the window in pixels of the
    view, after resizing.
    """

    start: Tensor
    extent: Tensor
    shown: Tensor
    mirrored: Tensor

    def places(self, size: int) -> tuple[Tensor, Tensor]:
        """Map the `size` pixels of each view to pixels of its resized window before mirroring.

        Returns positions, (B, size) float32, and whether the pixel lies on the window rather than on padding, bool.
        """
        place = torch.arange(size, device=self.start.device, dtype=torch.float32)
        shown = self.shown[:, None]
        return torch.where(self.mirrored[:, None], shown - 1 - place, place), place < shown

    def nearest(self, size: int) -> Tensor:
        """Return the image's pixel nearest to each pixel of a view, (B, size) int64; for padding the window's first."""
        place, inside = self.places(size)
        step = ((place + 0.5) * (self.extent / self.shown)[:, None]).floor()
        return (self.start[:, None] + step * inside).long()

    def triangle(self, size: int, taps: int) -> tuple[Tensor, Tensor]:
        """Return indices and weights that resize by bilinear interpolation with antialiasing.

        Each pixel of a view is a weighted sum of `taps` pixels of the image: (B, size, taps), int64 indices and float32
        weights. The weights are zero for padding.
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
    """Return `count` views of randomly chosen images of the pool, with `size` pixels on their long side."""
    chosen = rng.integers(len(pool), size=count).tolist()
    drawn = [_drawn(rng, pool.shapes[which], size) for which in chosen]
    device = pool.data.device
    # A single copy to the device; float32 represents these integers exactly.
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
    # Tint and normalisation merge into one affine map. The clamp to [0, 255] between them becomes one after it.
    mean, deviation = _colours(device)
    gain = table[:, 8:11, None, None] / deviation
    offset = (table[:, 11, None, None, None] - mean) / deviation - 128 * gain
    least, most = -mean / deviation, (255 - mean) / deviation
    images = torch.empty(count, 3, size, size, device=device)
    at_once = max(1, (_PIXELS_ON_GPU if device.type == "cuda" else _PIXELS_ON_CPU) // pool.size**2)
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        view = pool.images.index_select(0, which[part]).float()
        for pixel, weight in axes:  # rows: (b, 3, P, P) -> (b, 3, S, P), transposed to (b, 3, P, S); then columns
            view = _weighted(view, pixel[part], weight[part]).transpose(2, 3)
        images[part] = view
        images[part].mul_(gain[part]).add_(offset[part]).clamp_(least, most).mul_(inside[part, None].float())
    names = _named(pool, which, rows, columns, size)
    return Views(images, names.mul_(inside[:, None]), inside)


def _weighted(pixels: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows: pixels (B, C, h, w), row indices and weights (B, S, T) -> (B, C, S, w)."""
    batch, channels, height, width = pixels.shape
    size, taps = rows.shape[1:]
    base = torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1, 1) * height
    bags = (base + rows[:, None]).view(-1, taps)
    shares = weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps)
    sums = F.embedding_bag(bags, pixels.reshape(-1, width), mode="sum", per_sample_weights=shares)
    return sums.view(batch, channels, size, width)


def _named(pool: Pool, which: Tensor, rows: _Axis, columns: _Axis, size: int) -> Tensor:
    """Return the label planes of the views by nearest-neighbour sampling, (B, K, S, S) uint8."""
    channels, side = pool.data.shape[1], pool.size
    planes = torch.arange(3, channels, device=which.device)
    row = ((which[:, None] * channels + planes) * side)[..., None] + rows.nearest(size)[:, None]  # (B, K, S)
    lines = pool.data.view(-1, side).index_select(0, row.flatten()).view(*row.shape, side)
    return lines.gather(3, columns.nearest(size)[:, None, None].expand(*row.shape, -1))


@functools.cache
def _colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return PIXEL_MEAN and PIXEL_STD, (3, 1, 1), cached on the device: each copy would make the host wait for it."""
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, deviation


def _drawn(rng: np.random.Generator, shape: tuple[int, int], size: int) -> tuple[float, ...]:
    """Draw the parameters of a view of an image of `shape` = (height, width).

    Returns twelve numbers: top, left, height and width of the window; height and width of the resized window; 1 if
    mirrored, else 0; the gains of the three colours around 128; 128 plus the brightness offset.
    """
    top, left, tall, wide = _window(rng, *shape)
    scale = size / max(tall, wide)
    shown = max(1, round(tall * scale)), max(1, round(wide * scale))
    gains, offset = _tint(rng)
    mirrored = float(rng.random() < 0.5)
    return top, left, tall, wide, *shown, mirrored, *gains, 128 + offset


def _window(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random window; sometimes the whole image."""
    if rng.random() < _WHOLE_SHARE:
        return 0, 0, height, width
    share = rng.uniform(_LEAST_SIDE, 1.0)
    # Vary the aspect ratio, since photos are seldom square.
    aspect = float(np.exp(rng.uniform(-0.4, 0.4)))
    tall = int(min(max(height * share * aspect**0.5, min(16, height)), height))
    wide = int(min(max(width * share / aspect**0.5, min(16, width)), width))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide


def _tint(rng: np.random.Generator) -> tuple[list[float], float]:
    """Return random gains of the three colours and an offset: exposure, contrast and white balance as cameras vary."""
    if rng.random() < 0.4:
        return [1.0, 1.0, 1.0], 0.0
    gain = rng.uniform(0.75, 1.25) * (1 + 0.04 * rng.standard_normal(3))
    return gain.tolist(), rng.uniform(-25, 25)
