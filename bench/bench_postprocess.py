"""Masks from low-resolution logits: `MaskResizer`, compared with two dense resizes and pycocotools.

"region" is `MaskResizer`, which upscales only the region that can be set. "dense" works like the reference, one mask at
a time. Both run in one process with the same number of threads and compute each mask's RLE, area, box and stability.
The number in brackets after each time is its ratio to the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastsam_core.everything import generate_masks
from fastsam_core.postprocess import MaskResizer
from fastsam_core.preprocess import resized_shape

MASKS = 8
LONG_SIDE = 1024
SIZES = {"1800x1200": (1200, 1800), "4000x3000": (3000, 4000)}
# Ranges of radii in low-resolution cells; there are 256 a side.
RADII = {"small": (4, 12), "middle": (12, 40), "large": (60, 110)}


def blobs(count: int, radii: tuple[float, float], content_hw: tuple[int, int]) -> torch.Tensor:
    """Return logits of discs (count, 256, 256), centred within the image content."""
    random = torch.Generator().manual_seed(0)
    centre = torch.rand(count, 2, generator=random) * torch.tensor(content_hw) / 4
    radius = radii[0] + (radii[1] - radii[0]) * torch.rand(count, generator=random)
    return disc_logits(centre, radius)


def disc_logits(centre: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    cells = torch.arange(LONG_SIDE // 4) + 0.5
    distance = torch.hypot(cells[:, None] - centre[:, 0, None, None], cells - centre[:, 1, None, None])
    return (60 * (1 - distance / radius[:, None, None])).clamp(-20, 20)


def dense(low_res: torch.Tensor, content_hw: tuple[int, int], original_hw: tuple[int, int]) -> list[Any]:
    from pycocotools import mask as coco

    records = []
    for mask_logits in low_res:
        square = F.interpolate(mask_logits[None, None], (LONG_SIDE, LONG_SIDE), mode="bilinear")
        content = square[..., : content_hw[0], : content_hw[1]]
        logits = F.interpolate(content, original_hw, mode="bilinear")[0, 0]
        stability = (logits > 1).sum() / (logits > -1).sum()
        rle = coco.encode(np.asfortranarray((logits > 0).numpy(), np.uint8))
        records.append((rle, coco.area(rle), coco.toBbox(rle), float(stability)))
    return records


@pytest.mark.parametrize("variant", ["region", "dense"])
@pytest.mark.parametrize("radii", list(RADII))
@pytest.mark.parametrize("size", list(SIZES))
def test_records(benchmark: Any, size: str, radii: str, variant: str) -> None:
    original_hw = SIZES[size]
    content_hw = resized_shape(*original_hw, LONG_SIDE)
    low_res = blobs(MASKS, RADII[radii], content_hw)
    resizer = MaskResizer(content_hw, original_hw, LONG_SIDE)
    variants: dict[str, Callable[[], Any]] = {
        "region": lambda: resizer.records(low_res),
        "dense": lambda: dense(low_res, content_hw, original_hw),
    }
    benchmark.group = f"{MASKS} {radii} masks to {size}, {torch.get_num_threads()} threads"
    benchmark.pedantic(variants[variant], rounds=3, warmup_rounds=1)


def lobed_blobs(count: int, content_hw: tuple[int, int]) -> torch.Tensor:
    """Return logits (count, 256, 256) like a model's: lobed outlines of three sizes in turn, soft or sharp edges."""
    random = torch.Generator().manual_seed(1)

    def draw() -> torch.Tensor:
        return torch.rand(count, 1, 1, generator=random)

    cells = torch.arange(LONG_SIDE // 4) + 0.5
    down, across = (cells - draw() * side / 4 for side in content_hw)
    distance, angle = torch.hypot(down.transpose(1, 2), across), torch.atan2(down.transpose(1, 2), across)
    radius = torch.tensor([6.0, 14.0, 33.0])[torch.arange(count) % 3][:, None, None] * (0.6 + 0.8 * draw())
    outline = radius * (1 + 0.35 * draw() * torch.sin((2 + 4 * draw()).floor() * angle + 6.28 * draw()))
    return ((10 + 110 * draw()) * (1 - distance / outline)).clamp(-20, 20)


@pytest.mark.parametrize("variant", ["region", "dense"])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
def test_sixteen_masks(benchmark: Any, kind: str, variant: str) -> None:
    """Convert chunks of 16 masks at 1800 x 1200, like segment everything, to the RLE of those that are stable.

    "blobs" are 3,072 lobed discs, of which 64 are timed the dense way. "noise" has random logits in every cell, like
    the output of untrained weights.
    """
    original_hw = SIZES["1800x1200"]
    content_hw = resized_shape(*original_hw, LONG_SIDE)
    logits = lobed_blobs(192, content_hw) if kind == "blobs" else torch.randn(16, 256, 256)
    chunks = cycle(logits.split(16))
    resizer = MaskResizer(content_hw, original_hw, LONG_SIDE)

    def region() -> list[Any]:
        return [record for record in resizer.records(next(chunks)) if record.stability_score >= 0.95]

    variants: dict[str, tuple[Callable[[], Any], int]] = {
        "region": (region, 192 if kind == "blobs" else 8),
        "dense": (lambda: dense(next(chunks), content_hw, original_hw), 4 if kind == "blobs" else 1),
    }
    function, iterations = variants[variant]
    benchmark.group = f"16 masks of {kind} to 1800x1200, stable ones to RLE, {torch.get_num_threads()} threads"
    benchmark.pedantic(function, rounds=3, iterations=iterations, warmup_rounds=1)


@pytest.mark.parametrize("size", list(SIZES))
def test_generate_masks(benchmark: Any, size: str) -> None:
    """Run the whole pipeline for 1,024 clicks except the model. Its masks are discs; a third pass the IoU filter."""
    random = torch.Generator().manual_seed(0)
    radii = torch.tensor([8.0, 16.0, 33.0])

    def decode(crop_box: list[int], points: torch.Tensor) -> tuple[torch.Tensor, Any]:
        def logits(point_index: list[int], mask_index: list[int]) -> torch.Tensor:
            return disc_logits(points[point_index].flip(1) / 4, radii[mask_index])

        return torch.rand(len(points), 3, generator=random) * 0.36 + 0.64, logits

    benchmark.group = f"segment everything to {size} without the model, {torch.get_num_threads()} threads"
    benchmark.pedantic(
        lambda: generate_masks(decode, SIZES[size], stability_score_thresh=0.9), rounds=3, warmup_rounds=1
    )
