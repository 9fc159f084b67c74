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
from .pool import ImagePool

_WHOLE_IMAGE_FRACTION = 0.35  # fraction of the views that show the whole image
_MIN_CROP_SIDE = 0.4  # smallest side of a crop as a fraction of the image's, before the aspect ratio is changed
# Number of source pixels, with three float32 channels each, resized at once: what fits a CPU's cache, or 200 MB.
_CHUNK_PIXELS_CPU, _CHUNK_PIXELS_GPU = 1 << 19, 1 << 24


@dataclass(frozen=True)
class Views:
    """A batch of B views.

    images: (B, 3, S, S) float32, normalised, padded with zeros. planes: (B, K, S, S) uint8. valid: (B, S, S) bool,
    True on the image and False on padding.
    """

    images: Tensor
    planes: Tensor
    valid: Tensor


@dataclass(frozen=True)
class _AxisGeometry:
    """Geometry of B views along one axis. All are (B,); `mirrored` is bool, the others are integers in float32.

    window_start, window_length: of the window that is cut out, in pixels of the image. view_length: length of the
    window in pixels of the view, after resizing.
    """

    window_start: Tensor
    window_length: Tensor
    view_length: Tensor
    mirrored: Tensor

    def window_positions(self, size: int) -> tuple[Tensor, Tensor]:
        """Map the `size` pixels of each view to pixels of its resized window before mirroring.

        Returns positions, (B, size) float32, and whether the pixel lies on the window rather than on padding, bool.
        """
        position = torch.arange(size, device=self.window_start.device, dtype=torch.float32)
        view_length = self.view_length[:, None]
        return torch.where(self.mirrored[:, None], view_length - 1 - position, position), position < view_length

    def nearest(self, size: int) -> Tensor:
        """Return the image's pixel nearest to each pixel of a view, (B, size) int64; for padding the window's first."""
        position, valid = self.window_positions(size)
        step = ((position + 0.5) * (self.window_length / self.view_length)[:, None]).floor()
        return (self.window_start[:, None] + step * valid).long()

    def antialias_weights(self, size: int, taps: int) -> tuple[Tensor, Tensor]:
        """Return indices and weights that resize by bilinear interpolation with antialiasing.

        Each pixel of a view is a weighted sum of `taps` pixels of the image: (B, size, taps), int64 indices and float32
        weights. The weights are zero for padding.
        """
        position, valid = self.window_positions(size)
        scale = (self.window_length / self.view_length)[:, None]
        support = scale.clamp(min=1)
        centre = scale * (position + 0.5)
        first = (centre - support + 0.5).floor()
        pixel = first[..., None] + torch.arange(taps, device=first.device)  # from the start of the window
        weight = (1 - ((pixel + 0.5 - centre[..., None]) / support[..., None]).abs()).clamp(min=0)
        last = (self.window_length - 1)[:, None, None]
        weight = weight * ((pixel >= 0) & (pixel <= last) & valid[..., None])
        weight = weight / weight.sum(2, keepdim=True).clamp(min=1e-6)
        return (pixel.clamp(min=0).minimum(last) + self.window_start[:, None, None]).long(), weight


def draw_views(pool: ImagePool, count: int, size: int, rng: np.random.Generator) -> Views:
    """Return `count` views of randomly chosen images of the pool, with `size` pixels on their long side."""
    chosen = rng.integers(len(pool), size=count).tolist()
    parameters = [_draw_parameters(rng, pool.shapes[image_index], size) for image_index in chosen]
    device = pool.data.device
    # A single copy to the device; float32 represents these integers exactly.
    table = to_device(
        torch.tensor(
            [(image_index, *view) for image_index, view in zip(chosen, parameters, strict=True)], dtype=torch.float32
        ),
        device,
    )
    image_index, top, left, height, width, view_height, view_width, mirrored = table[:, :8].unbind(1)
    image_index = image_index.long()
    rows = _AxisGeometry(top, height, view_height, torch.zeros_like(mirrored, dtype=torch.bool))
    columns = _AxisGeometry(left, width, view_width, mirrored > 0)
    valid = rows.window_positions(size)[1][:, :, None] & columns.window_positions(size)[1][:, None]
    taps = max(math.ceil(2 * max(1.0, view[2] / view[4], view[3] / view[5])) for view in parameters)
    axes = [axis.antialias_weights(size, taps) for axis in (rows, columns)]
    # Tint and normalisation merge into one affine map. The clamp to [0, 255] between them becomes one after it.
    mean, std = _mean_and_std(device)
    gain = table[:, 8:11, None, None] / std
    offset = (table[:, 11, None, None, None] - mean) / std - 128 * gain
    lowest, highest = -mean / std, (255 - mean) / std
    images = torch.empty(count, 3, size, size, device=device)
    chunk = max(1, (_CHUNK_PIXELS_GPU if device.type == "cuda" else _CHUNK_PIXELS_CPU) // pool.size**2)
    for first in range(0, count, chunk):
        chunk_slice = slice(first, first + chunk)
        view = pool.images.index_select(0, image_index[chunk_slice]).float()
        for pixel, weight in axes:  # rows: (b, 3, P, P) -> (b, 3, S, P), transposed to (b, 3, P, S); then columns
            view = _weighted_row_sums(view, pixel[chunk_slice], weight[chunk_slice]).transpose(2, 3)
        images[chunk_slice] = view
        images[chunk_slice].mul_(gain[chunk_slice]).add_(offset[chunk_slice]).clamp_(lowest, highest).mul_(
            valid[chunk_slice, None].float()
        )
    planes = _sample_planes(pool, image_index, rows, columns, size)
    return Views(images, planes.mul_(valid[:, None]), valid)


def _weighted_row_sums(pixels: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows: pixels (B, C, h, w), row indices and weights (B, S, T) -> (B, C, S, w)."""
    batch, channels, height, width = pixels.shape
    size, taps = rows.shape[1:]
    base = torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1, 1) * height
    row_indices = (base + rows[:, None]).view(-1, taps)
    row_weights = weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps)
    sums = F.embedding_bag(row_indices, pixels.reshape(-1, width), mode="sum", per_sample_weights=row_weights)
    return sums.view(batch, channels, size, width)


def _sample_planes(
    pool: ImagePool, image_index: Tensor, rows: _AxisGeometry, columns: _AxisGeometry, size: int
) -> Tensor:
    """Return the label planes of the views by nearest-neighbour sampling, (B, K, S, S) uint8."""
    channels, pool_side = pool.data.shape[1], pool.size
    planes = torch.arange(3, channels, device=image_index.device)
    row = ((image_index[:, None] * channels + planes) * pool_side)[..., None] + rows.nearest(size)[:, None]  # (B, K, S)
    pixel_rows = pool.data.view(-1, pool_side).index_select(0, row.flatten()).view(*row.shape, pool_side)
    return pixel_rows.gather(3, columns.nearest(size)[:, None, None].expand(*row.shape, -1))


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return PIXEL_MEAN and PIXEL_STD, (3, 1, 1), cached on the device: each copy would make the host wait for it."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, std


def _draw_parameters(rng: np.random.Generator, shape: tuple[int, int], size: int) -> tuple[float, ...]:
    """Draw the parameters of a view of an image of `shape` = (height, width).

    Returns twelve numbers: top, left, height and width of the window; height and width of the resized window; 1 if
    mirrored, else 0; the gains of the three colours around 128; 128 plus the brightness offset.
    """
    top, left, crop_height, crop_width = _draw_window(rng, *shape)
    scale = size / max(crop_height, crop_width)
    view_size = max(1, round(crop_height * scale)), max(1, round(crop_width * scale))
    gains, offset = _draw_tint(rng)
    mirrored = float(rng.random() < 0.5)
    return top, left, crop_height, crop_width, *view_size, mirrored, *gains, 128 + offset


def _draw_window(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random window; sometimes the whole image."""
    if rng.random() < _WHOLE_IMAGE_FRACTION:
        return 0, 0, height, width
    fraction = rng.uniform(_MIN_CROP_SIDE, 1.0)
    # Vary the aspect ratio, since photos are seldom square.
    aspect = float(np.exp(rng.uniform(-0.4, 0.4)))
    crop_height = int(min(max(height * fraction * aspect**0.5, min(16, height)), height))
    crop_width = int(min(max(width * fraction / aspect**0.5, min(16, width)), width))
    return (
        int(rng.integers(height - crop_height + 1)),
        int(rng.integers(width - crop_width + 1)),
        crop_height,
        crop_width,
    )


def _draw_tint(rng: np.random.Generator) -> tuple[list[float], float]:
    """Return random gains of the three colours and an offset: exposure, contrast and white balance as cameras vary."""
    if rng.random() < 0.4:
        return [1.0, 1.0, 1.0], 0.0
    gain = rng.uniform(0.75, 1.25) * (1 + 0.04 * rng.standard_normal(3))
    return gain.tolist(), rng.uniform(-25, 25)
