"""Running the network on images, to boxes and masks in pixels of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config import DetectConfig
from ...models.precision import usable_dtype
from ...stopwatch import Stopwatch
from .decode import Found, decode
from .letterbox import Letterbox
from .masks import masks
from .network import Network, Raw

Image = NDArray[np.uint8]


class Objects(NamedTuple):
    """N objects of one image, best first.

    rows: (N, 6) float32 x1, y1, x2, y2, score, class id, in pixels of the image, on the network's device. rles: COCO
    run lengths of the masks, None without masks. input_hw: (height, width) of the network's input.
    """

    rows: Tensor
    rles: list[dict[str, Any]] | None
    input_hw: tuple[int, int]


@torch.no_grad()
def find(
    network: Network,
    images: Sequence[Image],
    config: DetectConfig,
    size: tuple[int, int],
    watch: Stopwatch,
    with_masks: bool = True,
) -> list[Objects]:
    """Return the objects of each image, BGR uint8 (H, W, 3), in order.

    size: (height, width) that inputs are scaled to fit into. Only images with equal input shapes form a batch, so that
    none needs extra padding. Objects whose mask is empty are left out.
    """
    places = [Letterbox.of((image.shape[0], image.shape[1]), size) for image in images]
    together: dict[tuple[int, int], list[int]] = {}
    for index, place in enumerate(places):
        together.setdefault(place.shape, []).append(index)
    results: dict[int, Objects] = {}
    for members in together.values():
        raw = _forward(network, [(images[index], places[index]) for index in members], config, watch)
        for row, index in enumerate(members):
            with watch.phase("postprocess", raw.classes.device):
                found = decode(
                    raw,
                    row,
                    conf=config.conf,
                    iou=config.iou,
                    max_det=config.max_det,
                    classes=config.classes,
                    agnostic=config.agnostic_nms,
                )
                prototypes = raw.prototypes[row] if raw.prototypes is not None and with_masks else None
                results[index] = _in_image(found, prototypes, places[index])
    return [results[index] for index in range(len(images))]


def _forward(network: Network, members: list[tuple[Image, Letterbox]], config: DetectConfig, watch: Stopwatch) -> Raw:
    weight = next(network.parameters())
    dtype = usable_dtype(config.dtype, weight.device)
    narrow = dtype in (torch.float16, torch.bfloat16)
    with watch.phase("preprocess", weight.device):
        pixels = torch.from_numpy(np.stack([place.pixels(image) for image, place in members]))
        inputs = (pixels.to(weight.device).float() / 255).contiguous(memory_format=torch.channels_last)
    with watch.phase("inference", weight.device), torch.autocast("cuda", dtype, enabled=narrow):
        raw: Raw = network(inputs)
        return raw


def _in_image(found: Found, prototypes: Tensor | None, place: Letterbox) -> Objects:
    boxes = place.boxes(found.boxes)
    rows = torch.cat([boxes, found.scores[:, None], found.class_ids[:, None].float()], 1)
    if prototypes is None or found.coefficients is None:
        return Objects(rows, None, place.shape)
    rles, areas = masks(found.coefficients, prototypes, boxes, place)
    kept = areas.nonzero()[:, 0]
    return Objects(rows[kept.to(rows.device)], [rles[index] for index in kept.tolist()], place.shape)
