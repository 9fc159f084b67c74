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
    run lengths of the masks, None without masks.
    """

    rows: Tensor
    rles: list[dict[str, Any]] | None


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
    none needs extra padding, unless `config.rect` is False. Objects whose mask is empty are left out.
    """
    results: dict[int, ImageObjects] = {}
    for indices in group_by_input(images, config, size):
        group = [images[index] for index in indices]
        pixels = to_input(network, group, config, size, watch)
        raw = run_network(network, pixels, config, watch)
        objects = to_objects(raw, group, (pixels.shape[2], pixels.shape[3]), config, size, watch, with_masks)
        results.update(zip(indices, objects, strict=True))
    return [results[index] for index in range(len(images))]


def group_by_input(images: Sequence[Image], config: DetectConfig, size: tuple[int, int]) -> list[list[int]]:
    """Return the numbers of the images, those with inputs of equal shapes together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(_letterbox(image, config, size).input_hw, []).append(index)
    return list(groups.values())


def to_input(
    network: Network, images: Sequence[Image], config: DetectConfig, size: tuple[int, int], watch: Stopwatch
) -> Tensor:
    """Return images that `group_by_input` grouped as an input of the network, (B, 3, h, w) float32 in [0, 1]."""
    device = next(network.parameters()).device
    with watch.phase("preprocess", device):
        inputs = [_letterbox(image, config, size).to_input(image) for image in images]
        pixels = torch.from_numpy(np.stack(inputs)).to(device)
        return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def run_network(network: Network, inputs: Tensor, config: DetectConfig, watch: Stopwatch) -> RawOutput:
    """Run the network, in half precision where the options ask for it and it is faster."""
    dtype = usable_dtype(config.dtype, inputs.device)
    is_half = dtype in (torch.float16, torch.bfloat16)
    with watch.phase("inference", inputs.device), torch.autocast("cuda", dtype, enabled=is_half):
        raw: RawOutput = network(inputs)
        return raw


@torch.no_grad()
def to_objects(
    raw: RawOutput,
    images: Sequence[Image],
    input_hw: tuple[int, int],
    config: DetectConfig,
    size: tuple[int, int],
    watch: Stopwatch,
    with_masks: bool = True,
) -> list[ImageObjects]:
    """Return the objects of each image that the network's output for an input of `input_hw` contains."""
    results = []
    with watch.phase("postprocess", raw.class_logits.device):
        for row, image in enumerate(images):
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
            letterbox = Letterbox.fit((image.shape[0], image.shape[1]), size, input_hw)
            results.append(_to_image_objects(decoded, prototypes, letterbox))
    return results


def _letterbox(image: Image, config: DetectConfig, size: tuple[int, int]) -> Letterbox:
    return Letterbox.fit((image.shape[0], image.shape[1]), size, None if config.rect else size)


def _to_image_objects(decoded: DecodedObjects, prototypes: Tensor | None, letterbox: Letterbox) -> ImageObjects:
    boxes = letterbox.to_image_boxes(decoded.boxes)
    rows = torch.cat([boxes, decoded.scores[:, None], decoded.class_ids[:, None].float()], 1)
    if prototypes is None or decoded.coefficients is None:
        return ImageObjects(rows, None)
    rles, areas = mask_rles(decoded.coefficients, prototypes, boxes, letterbox)
    nonempty = areas.nonzero()[:, 0]
    return ImageObjects(rows[nonempty.to(rows.device)], [rles[index] for index in nonempty.tolist()])
