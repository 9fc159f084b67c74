"""Edge detection with Segment Anything, without training for it: edges are the outlines of a click grid's masks.

The steps follow Kirillov et al., "Segment Anything" (2023), appendix D.2. Take all three masks of each click of a 16 x
16 grid without filtering by quality, and remove duplicates by box NMS. Apply a Sobel filter to each mask's
probabilities and keep its values along the mask's outline. Take the maximum over masks, scaled to 1, and thin the
edges.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from .encoded_image import EncodedImage
from .everything.arguments import check_count, check_number, plan_crops
from .models.sam_model import SamModel
from .postprocess import MaskResizer, measure_batch_size
from .segment import make_resizer
from .stopwatch import Stopwatch

# Pixels around a mask's box that are computed: the band along an outline reaches one pixel outside the mask, and the
# Sobel filter reads one pixel farther.
_MARGIN = 2
# Response of the Sobel filter to a step from 0 to 1.
_SOBEL_STEP_RESPONSE = 4.0

Array = NDArray[np.float32]


def edge_map(
    model: SamModel,
    image: EncodedImage,
    *,
    points_stride: int = 16,
    points_batch_size: int = 64,
    nms_thresh: float = 0.7,
    thin: bool = True,
    dtype: torch.dtype | None = None,
) -> Array:
    """Return the edge strengths of the image, (H, W) float32 in [0, 1], with a maximum of 1 if there is any edge.

    points_stride: points per side of the grid. points_batch_size: points decoded together. nms_thresh: box IoU above
    which the mask with the lower predicted IoU is dropped. thin: keep only the strongest pixel across each edge.
    Raises ValueError for values out of range and TypeError for values of the wrong type.
    """
    check_count("points_stride", points_stride)
    batch_size = check_count("points_batch_size", points_batch_size)
    threshold = check_number("nms_thresh", nms_thresh, 0, 1)
    resizer = make_resizer(model, image)
    logits, boxes = _grid_masks(model, image, resizer, points_stride, batch_size, threshold, dtype)
    strength, gradient_x, gradient_y = max_gradient(logits, boxes, resizer)
    maximum = float(strength.max(initial=0.0))
    if maximum > 0:
        strength /= maximum
    return thin_edges(strength, gradient_x, gradient_y) if thin else strength


@torch.no_grad()
def _grid_masks(
    model: SamModel,
    image: EncodedImage,
    resizer: MaskResizer,
    points_stride: int,
    batch_size: int,
    nms_thresh: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return low-resolution logits (N, l, l) and boxes (N, 4) of the grid's non-empty masks, without duplicates."""
    prepared = image.prepared(model, dtype, Stopwatch())
    height, width = image.original_hw
    (grid,) = plan_crops(image.original_hw, points_stride, 0, 0, 1, None)
    scale = np.array([resizer.input_hw[1] / width, resizer.input_hw[0] / height])
    points = torch.from_numpy((grid.points * scale).astype(np.float32)).to(model.device)
    logits_parts, boxes, scores = [], [], []
    for points_batch in points.split(batch_size):
        labels = torch.ones(len(points_batch), 1, dtype=torch.int64, device=model.device)
        predicted_iou, logits = model.decode_points(prepared, points_batch[:, None], labels)
        pairs = torch.cartesian_prod(torch.arange(len(points_batch), device="cpu"), torch.arange(3, device="cpu"))
        for chunk in pairs.split(measure_batch_size()):
            low_res = logits(chunk[:, 0], chunk[:, 1])
            measured = resizer.measure(low_res)
            non_empty = np.flatnonzero(measured.areas)
            logits_parts.append(low_res[non_empty])
            boxes.append(measured.boxes[non_empty])
            scores.append(predicted_iou.cpu()[chunk[:, 0], chunk[:, 1]][non_empty])
    all_boxes = np.concatenate(boxes)
    keep = ops.nms(torch.from_numpy(all_boxes).float(), torch.cat(scores).float(), nms_thresh)
    return torch.cat(logits_parts)[keep.to(logits_parts[0].device)], all_boxes[keep.numpy()]


def max_gradient(logits: Tensor, boxes: NDArray[np.int64], resizer: MaskResizer) -> tuple[Array, Array, Array]:
    """Return the largest gradient of any mask's probability at each pixel: strength and x and y parts, each (H, W).

    logits: (N, l, l). boxes: (N, 4), x1 y1 x2 y2 of the masks' outermost pixels. A mask contributes only within one
    pixel of its outline, on both sides; the image border is not an outline. A step from 0 to 1 along an axis has
    strength 1.
    """
    import cv2

    height, width = resizer.original_hw
    strength, gradient_x, gradient_y = (np.zeros((height, width), np.float32) for _ in range(3))
    kernel = np.ones((3, 3), np.uint8)
    for low_res, (x1, y1, x2, y2) in zip(logits, boxes.tolist(), strict=True):
        left, top = max(x1 - _MARGIN, 0), max(y1 - _MARGIN, 0)
        right, bottom = min(x2 + 1 + _MARGIN, width), min(y2 + 1 + _MARGIN, height)
        window = resizer.window_logits(low_res, left, top, right, bottom)
        probability = torch.sigmoid(window).cpu().numpy()
        inside = (window > 0).cpu().numpy().astype(np.uint8)
        outline = cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)
        x_part = cv2.Sobel(probability, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
        y_part = cv2.Sobel(probability, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
        magnitude = np.hypot(x_part, y_part) / _SOBEL_STEP_RESPONSE
        region = np.s_[top:bottom, left:right]
        is_stronger = outline & (magnitude > strength[region])
        for target, values in ((strength, magnitude), (gradient_x, x_part), (gradient_y, y_part)):
            target[region][is_stronger] = values[is_stronger]
    return strength, gradient_x, gradient_y


def thin_edges(strength: Array, gradient_x: Array, gradient_y: Array) -> Array:
    """Thin edges to one pixel by non-maximum suppression along the gradient.

    A pixel is kept if the values one step ahead and one step behind, along the gradient, are not stronger. These values
    are interpolated bilinearly. Of two equal neighbours along the gradient the one behind is kept.

    strength: (H, W). gradient_x, gradient_y: x and y parts of the gradient, (H, W).
    """
    y, x = np.nonzero(strength)
    values = strength[y, x]
    length = np.hypot(gradient_x, gradient_y)[y, x]
    unit_x, unit_y = (
        np.divide(part[y, x], length, where=length > 0, out=np.zeros_like(values)) for part in (gradient_x, gradient_y)
    )
    ahead, behind = (_sample_bilinear(strength, x + step * unit_x, y + step * unit_y) for step in (1, -1))
    keep = (values >= ahead) & (values > behind)
    thinned = np.zeros_like(strength)
    thinned[y[keep], x[keep]] = values[keep]
    return thinned


def _sample_bilinear(values: Array, x: Array, y: Array) -> Array:
    """Interpolate values (H, W) bilinearly at K places, at most one pixel outside, where values are 0."""
    padded = np.pad(values, 2)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_weight, lower_weight = (x - left).astype(np.float32), (y - top).astype(np.float32)
    left, top = left + 2, top + 2
    upper = padded[top, left] * (1 - right_weight) + padded[top, left + 1] * right_weight
    lower = padded[top + 1, left] * (1 - right_weight) + padded[top + 1, left + 1] * right_weight
    return np.asarray(upper * (1 - lower_weight) + lower * lower_weight, np.float32)
