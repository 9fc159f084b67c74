"""Run-length masks at the image's resolution, computed directly from coefficients and prototypes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ... import ops
from .letterbox import Letterbox

_CHUNK = 32  # objects whose low-resolution logits are in memory together


def mask_rles(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, letterbox: Letterbox
) -> tuple[list[dict[str, Any]], Tensor]:
    """Return the COCO run lengths of N masks, each cut to its box, and their areas (N,) int64.

    coefficients: (N, K). prototypes: (K, h, w). boxes: (N, 4) in pixels of the image; a box contains the pixels with
    x1 <= x < x2 and y1 <= y < y2. letterbox: the image's position in the input. A pixel is set if the bilinearly
    interpolated logit of the mask is above 0. Masks are never decoded to pixels: the work grows with their boundaries.
    """
    height, width = letterbox.original_hw
    device = prototypes.device if prototypes.device.type in ("cpu", "cuda") else torch.device("cpu")
    (y_cells, y_weights), (x_cells, x_weights) = (
        (cells.to(device), weights.to(device)) for cells, weights in letterbox.mask_axis_weights()
    )
    pixel_boxes = boxes.ceil().long().clamp(min=0).tolist()
    mask_counts: list[Tensor] = []
    areas: list[Tensor] = []
    for start in range(0, len(coefficients), _CHUNK):
        logits = (
            torch.einsum("nk,khw->nhw", coefficients[start : start + _CHUNK], prototypes.float())
            .to(device)
            .contiguous()
        )
        for logit, (x1, y1, x2, y2) in zip(logits, pixel_boxes[start : start + _CHUNK], strict=True):
            if x1 >= x2 or y1 >= y2:  # nothing is left of a box that lay in the padding
                mask_counts.append(torch.tensor([height * width], device="cpu"))
                areas.append(torch.tensor(0, device="cpu"))
                continue
            runs, _, _, area = ops.mask_runs(
                logit[None],
                y_cells[y1:y2],
                y_weights[y1:y2],
                x_cells[x1:x2],
                x_weights[x1:x2],
                0.0,
                0.0,
                height,
                width,
                x1,
                y1,
            )
            mask_counts.append(runs.cpu())
            areas.append(area[0, 0].cpu())
    if not mask_counts:
        return [], torch.zeros(0, dtype=torch.int64, device="cpu")
    run_offsets = torch.tensor([0, *(len(runs) for runs in mask_counts)], device="cpu").cumsum(0)
    characters, character_offsets = ops.rle_to_string(torch.cat(mask_counts), run_offsets)
    text = characters.numpy().tobytes().decode("ascii")
    rles = [{"size": [height, width], "counts": text[begin:end]} for begin, end in pairwise(character_offsets.tolist())]
    return rles, torch.stack(areas)
