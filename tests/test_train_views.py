"""Random views of images, made in batches, compared with the same views made one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD
from fastsam_core.train import crops
from fastsam_core.train.crops import Views, draw_views
from fastsam_core.train.pool import ImagePool

SIDE = 96
SHAPES = [(96, 96), (96, 50), (41, 96), (17, 96), (96, 9)]


def noise_pool() -> ImagePool:
    """Return a pool of noise, also in the padding around the images, which views must not read."""
    pool = ImagePool(len(SHAPES), SIDE, 2, torch.device("cpu"))
    pool.data[:] = torch.randint(256, pool.data.shape, generator=torch.Generator().manual_seed(1))
    pool.shapes[:] = SHAPES
    pool.added = len(SHAPES)
    return pool


def one_by_one(pool: ImagePool, count: int, size: int, rng: np.random.Generator) -> tuple[Views, list[tuple[int, ...]]]:
    """Return the views of `draw_views`, made with slices and PyTorch's resize, and how each was made: height and width
    of its window, height and width of the view, and whether it is mirrored.
    """
    images, planes = torch.zeros(count, 3, size, size), torch.zeros(count, 2, size, size, dtype=torch.uint8)
    valid = torch.zeros(count, size, size, dtype=torch.bool)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    kinds: list[tuple[int, ...]] = []
    for slot, which in enumerate(rng.integers(len(pool), size=count).tolist()):
        top, left, (height, width) = 0, 0, pool.shapes[which]
        if rng.random() >= 0.35:
            share, aspect = rng.uniform(0.4, 1.0), float(np.exp(rng.uniform(-0.4, 0.4)))
            tall = int(np.clip(height * share * aspect**0.5, min(16, height), height))
            wide = int(np.clip(width * share / aspect**0.5, min(16, width), width))
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            height, width = tall, wide
        scale = size / max(height, width)
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        cut = pool.images[which, :, top : top + height, left : left + width].float()
        view = F.interpolate(cut[None], (tall, wide), mode="bilinear", antialias=True)[0]
        if rng.random() >= 0.4:
            gain = torch.tensor((rng.uniform(0.75, 1.25) * (1 + 0.04 * rng.standard_normal(3))).tolist())
            view = ((view - 128) * gain[:, None, None] + (128 + rng.uniform(-25, 25))).clamp(0, 255)
        rows = top + ((torch.arange(tall) + 0.5) * (height / tall)).long()
        columns = left + ((torch.arange(wide) + 0.5) * (width / wide)).long()
        names = pool.planes[which][:, rows[:, None], columns]
        mirrored = rng.random() < 0.5
        if mirrored:
            view, names = view.flip(-1), names.flip(-1)
        images[slot, :, :tall, :wide] = (view - mean) / deviation
        planes[slot, :, :tall, :wide] = names
        valid[slot, :tall, :wide] = True
        kinds.append((height, width, tall, wide, mirrored))
    return Views(images, planes, valid), kinds


@pytest.mark.parametrize("size", [32, 64, 96, 160])
def test_batched_views_match_views_made_one_by_one(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "_CHUNK_PIXELS_CPU", 7 * SIDE**2)  # batches of seven and a remainder
    pool = noise_pool()
    wanted, kinds = one_by_one(pool, 120, size, np.random.default_rng(size))
    found = draw_views(pool, 120, size, np.random.default_rng(size))
    assert torch.equal(found.valid, wanted.valid) and torch.equal(found.planes, wanted.planes)
    assert found.planes.dtype == torch.uint8 and found.images.dtype == torch.float32
    # Values up to 255, divided by about 57: a few rounding errors.
    torch.testing.assert_close(found.images, wanted.images, rtol=1e-5, atol=1e-5)
    # The sample covers all kinds of views.
    assert {mirrored for *_, mirrored in kinds} == {True, False}
    assert any(tall > height for height, _, tall, _, _ in kinds) == (size > 32)
    assert any(tall < height for height, _, tall, _, _ in kinds) == (size < 96)
    assert {(height, width) for height, width, *_ in kinds} >= set(SHAPES)
    assert any((height, width) not in SHAPES for height, width, *_ in kinds)


def test_view_depends_only_on_its_image() -> None:
    """Changing the padding around the images, or another image of the pool, doesn't change a view."""
    pool = noise_pool()
    before = draw_views(pool, 60, 64, np.random.default_rng(0))
    chosen: Tensor = torch.from_numpy(np.random.default_rng(0).integers(len(pool), size=60))
    for which, (height, width) in enumerate(SHAPES):
        pool.data[which, :, height:] ^= 255
        pool.data[which, :, :, width:] ^= 255
    pool.data[2] ^= 255
    after = draw_views(pool, 60, 64, np.random.default_rng(0))
    others = chosen != 2
    assert torch.equal(before.images[others], after.images[others])
    assert torch.equal(before.planes[others], after.planes[others])
    assert not torch.equal(before.images[~others], after.images[~others])
