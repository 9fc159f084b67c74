"""Masks of the picture's own resolution, as run lengths, straight from coefficients and prototypes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ... import ops
from .letterbox import Letterbox

_CHUNK = 32  # objects whose low-resolution logits exist together


def masks(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, place: Letterbox
) -> tuple[list[dict[str, Any]], Tensor]:
    """COCO run lengths of N masks, each cut to its box, and their areas (N,) int64.

    coefficients: (N, K). prototypes: (K, h, w). boxes: (N, 4) in pixels of the picture; a pixel belongs to a box if its
    index does. A pixel is set where the bilinear interpolation of the mask's logits is above 0. No mask's pixels are
    made, and the work grows with the boundary.
    """
    height, width = place.original
    device = prototypes.device if prototypes.device.type in ("cpu", "cuda") else torch.device("cpu")
    (y_cells, y_weights), (x_cells, x_weights) = (
        (cells.to(device), weights.to(device)) for cells, weights in place.mask_axes()
    )
    extents = boxes.ceil().long().clamp(min=0).tolist()
    counts: list[Tensor] = []
    areas: list[Tensor] = []
    for start in range(0, len(coefficients), _CHUNK):
        logits = (
            torch.einsum("nk,khw->nhw", coefficients[start : start + _CHUNK], prototypes.float())
            .to(device)
            .contiguous()
        )
        for logit, (x1, y1, x2, y2) in zip(logits, extents[start : start + _CHUNK], strict=True):
            if x1 >= x2 or y1 >= y2:  # of a box in the padding, nothing is left of which in the picture
                counts.append(torch.tensor([height * width], device="cpu"))
                areas.append(torch.tensor(0, device="cpu"))
                continue
            found, _, _, sizes = ops.mask_runs(
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
            counts.append(found.cpu())
            areas.append(sizes[0, 0].cpu())
    if not counts:
        return [], torch.zeros(0, dtype=torch.int64, device="cpu")
    ends = torch.tensor([0, *(len(one) for one in counts)], device="cpu").cumsum(0)
    characters, offsets = ops.rle_to_string(torch.cat(counts), ends)
    text = characters.numpy().tobytes().decode("ascii")
    rles = [{"size": [height, width], "counts": text[begin:end]} for begin, end in pairwise(offsets.tolist())]
    return rles, torch.stack(areas)
