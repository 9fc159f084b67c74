"""Random views of labelled pictures: cut out, resized, mirrored, tinted, and padded as at inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..preprocess import PIXEL_MEAN, PIXEL_STD
from .pool import Pool

_WHOLE_SHARE = 0.35  # of the views show all of their picture
_LEAST_SIDE = 0.4  # of the picture's


@dataclass(frozen=True)
class Views:
    """images: (B, 3, S, S) float32, normalised, zeros around the picture; planes: (B, K, S, S) uint8; inside: (B, S,
    S) bool, True on the picture.
    """

    images: Tensor
    planes: Tensor
    inside: Tensor


def draw_views(pool: Pool, count: int, size: int, rng: np.random.Generator) -> Views:
    """`count` views of randomly chosen pictures of the pool, `size` pixels on their long side."""
    device = pool.images.device
    images = torch.zeros(count, 3, size, size, device=device)
    planes = torch.zeros(count, pool.planes.shape[1], size, size, dtype=torch.uint8, device=device)
    inside = torch.zeros(count, size, size, dtype=torch.bool, device=device)
    mean = torch.tensor(PIXEL_MEAN, device=device)[:, None, None]
    deviation = torch.tensor(PIXEL_STD, device=device)[:, None, None]
    for slot, which in enumerate(rng.integers(len(pool), size=count).tolist()):
        top, left, height, width = _window(rng, *pool.shapes[which])
        scale = size / max(height, width)
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        cut = pool.images[which, :, top : top + height, left : left + width].float()
        view = F.interpolate(cut[None], (tall, wide), mode="bilinear", antialias=True)[0]
        view = (_tinted(view, rng) - mean) / deviation
        rows = top + ((torch.arange(tall, device=device) + 0.5) * (height / tall)).long()
        columns = left + ((torch.arange(wide, device=device) + 0.5) * (width / wide)).long()
        names = pool.planes[which][:, rows[:, None], columns]
        if rng.random() < 0.5:
            view, names = view.flip(-1), names.flip(-1)
        images[slot, :, :tall, :wide] = view
        planes[slot, :, :tall, :wide] = names
        inside[slot, :tall, :wide] = True
    return Views(images, planes, inside)


def _window(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """top, left, height, width of what is shown."""
    if rng.random() < _WHOLE_SHARE:
        return 0, 0, height, width
    share = rng.uniform(_LEAST_SIDE, 1.0)
    # Photos are seldom square.
    aspect = float(np.exp(rng.uniform(-0.4, 0.4)))
    tall = int(np.clip(height * share * aspect**0.5, min(16, height), height))
    wide = int(np.clip(width * share / aspect**0.5, min(16, width), width))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide


def _tinted(view: Tensor, rng: np.random.Generator) -> Tensor:
    """Other exposure, contrast and white balance, within what cameras do to the same scene; (3, h, w) in 0 to 255."""
    if rng.random() < 0.4:
        return view
    gain = rng.uniform(0.75, 1.25) * (1 + 0.04 * rng.standard_normal(3))
    offset = rng.uniform(-25, 25)
    gains = torch.tensor(gain.tolist(), device=view.device)[:, None, None]
    return ((view - 128) * gains + (128 + offset)).clamp(0, 255)
