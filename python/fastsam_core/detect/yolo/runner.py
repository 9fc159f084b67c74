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
from .decode import DecodedObjects, decode
from .head import RawOutput
from .letterbox import Letterbox
from .masks import mask_rles
from .network import Network

Image = NDArray[np.uint8]


class ImageObjects(NamedTuple):
    """N objects of one image, best first.

    rows: (N, 6) float32 x1, y1, x2, y2, score, class id, in pixels of the image, on the network's device. rles: COCO
    run lengths of the masks, None without masks. input_hw: (height, width) of the network's input.
    """

    rows: Tensor
    rles: list[dict[str, Any]] | None
    input_hw: tuple[int, int]


@torch.no_grad()
def detect_objects(
    network: Network,
    images: Sequence[Image],
    config: DetectConfig,
    size: tuple[int, int],
    watch: Stopwatch,
    with_masks: bool = True,
) -> list[ImageObjects]:
    """Return the objects of each image, BGR uint8 (H, W, 3), in order.

    size: (height, width) that inputs are scaled to fit into. Only images with equal input shapes form a batch, so that
    none needs extra padding. Objects whose mask is empty are left out.
    """
    letterboxes = [Letterbox.fit((image.shape[0], image.shape[1]), size) for image in images]
    indices_by_shape: dict[tuple[int, int], list[int]] = {}
    for index, letterbox in enumerate(letterboxes):
        indices_by_shape.setdefault(letterbox.input_hw, []).append(index)
    results: dict[int, ImageObjects] = {}
    for indices in indices_by_shape.values():
        raw = _forward(network, [(images[index], letterboxes[index]) for index in indices], config, watch)
        for row, index in enumerate(indices):
            with watch.phase("postprocess", raw.class_logits.device):
                decoded = decode(
                    raw,
                    row,
                    conf=config.conf,
                    iou=config.iou,
                    max_det=config.max_det,
                    classes=config.classes,
                    agnostic=config.agnostic_nms,
                )
                prototypes = raw.prototypes[row] if raw.prototypes is not None and with_masks else None
                results[index] = _to_image_objects(decoded, prototypes, letterboxes[index])
    return [results[index] for index in range(len(images))]


def _forward(
    network: Network, members: list[tuple[Image, Letterbox]], config: DetectConfig, watch: Stopwatch
) -> RawOutput:
    weight = next(network.parameters())
    dtype = usable_dtype(config.dtype, weight.device)
    is_half = dtype in (torch.float16, torch.bfloat16)
    with watch.phase("preprocess", weight.device):
        pixels = torch.from_numpy(np.stack([letterbox.to_input(image) for image, letterbox in members]))
        inputs = (pixels.to(weight.device).float() / 255).contiguous(memory_format=torch.channels_last)
    with watch.phase("inference", weight.device), torch.autocast("cuda", dtype, enabled=is_half):
        raw: RawOutput = network(inputs)
        return raw


def _to_image_objects(decoded: DecodedObjects, prototypes: Tensor | None, letterbox: Letterbox) -> ImageObjects:
    boxes = letterbox.to_image_boxes(decoded.boxes)
    rows = torch.cat([boxes, decoded.scores[:, None], decoded.class_ids[:, None].float()], 1)
    if prototypes is None or decoded.coefficients is None:
        return ImageObjects(rows, None, letterbox.input_hw)
    rles, areas = mask_rles(decoded.coefficients, prototypes, boxes, letterbox)
    nonempty = areas.nonzero()[:, 0]
    return ImageObjects(
        rows[nonempty.to(rows.device)], [rles[index] for index in nonempty.tolist()], letterbox.input_hw
    )
