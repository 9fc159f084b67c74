"""Conversion of what a predictor's steps return, logits or masks, to `Results`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import segment
from .encoded_image import EncodedImage
from .models.sam_model import SamModel
from .postprocess import MaskResizer
from .results import Results


def prompt_results(
    model: SamModel, image: EncodedImage, low_res: Tensor, scores: Tensor, conf: float | None = None
) -> Results:
    """Convert logits (C, S / 4, S / 4) with predicted IoU (C,) to results: those above `conf`, or all if it is None."""
    indices = (torch.ones_like(scores, dtype=torch.bool) if conf is None else scores > conf).nonzero()[:, 0]
    collector = segment.MaskCollector(image, low_res.device)
    resizer, side = segment.make_resizer(model, image), low_res.shape[-1]
    if side != model.image_size // 4:  # a subclass has resized them
        height, width = (round(length * 4 * side / model.image_size) for length in image.resized_hw(model))
        resizer = MaskResizer((height, width), image.original_hw, 4 * side)
    measured = resizer.measure_in_batches(low_res[indices].detach(), model.mask_threshold)
    collector.add(indices, scores[indices], measured)
    return collector.to_results(len(scores))


def everything_results(
    model: SamModel,
    image: EncodedImage,
    masks: Tensor,
    scores: Tensor,
    boxes: Tensor,
    conf: float,
    input_hw: tuple[int, int] | None,
) -> Results:
    """Convert masks (N, H, W) with predicted IoU (N,) and boxes (N, 4) to results: those above `conf`.

    input_hw: (height, width) of the model's input, which masks and boxes may be relative to instead of the image.
    """
    if tuple(masks.shape[1:]) == input_hw != image.original_hw:
        masks, boxes = _to_image(masks, boxes, image.resized_hw(model), image.original_hw)
    rows = torch.cat([boxes, scores[:, None], torch.arange(len(scores), device=scores.device)[:, None]], 1)
    names = {index: str(index) for index in range(len(scores))}
    result = Results(image.pixels, image.path, names, rows, masks if len(masks) else None, predicted_iou=scores)
    return result[scores > conf] if len(masks) else result


def _to_image(masks: Tensor, boxes: Tensor, content: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Convert masks (N, S, S) and boxes (N, 4) from the model's input to the image.

    content, size: (height, width) of the resized and of the original image.
    """
    cropped = (masks[:, None, : content[0], : content[1]] > 0).float()
    resized = F.interpolate(cropped, size, mode="bilinear", align_corners=False)[:, 0] > 0.5
    scale = boxes.new_tensor([size[1] / content[1], size[0] / content[0]] * 2)
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    return resized, torch.minimum((boxes * scale).clamp(min=0), limits)
