"""Object proposals: the masks most likely to be whole objects, best first, as many as are asked for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from . import ops, rle
from ._tensors import tensor_of
from .config import Config
from .everything.arguments import check_count, check_number
from .models.sam_model import SamModel
from .picture import Picture, Stopwatch
from .results import Results
from .segment import generate_records

# Below every score: proposals are ranked, not filtered.
_ALL = -1e30
# Masks whose boxes have a higher IoU are about the same for `Judgement.consensus`.
_SAME = 0.8
# The first proposals differ more than the later ones: what has a higher IoU with a better one comes after all others.
_DIFFERENT = 0.7
# Rows of the matrix of boxes' IoU that exist at once: 6 MiB for a grid of 32 x 32 points.
_ROWS = 256


def propose(
    model: SamModel, picture: Picture, n: int, config: Config, watch: Stopwatch, *, nms_thresh: float = 0.9
) -> Results:
    """At most `n` masks by the mean of predicted IoU and stability score, which is their `conf`, and by the number of
    points that agree on them, for models whose `Judgement.consensus` says how much that counts.

    As Kirillov et al., "Segment Anything" (2023), propose objects: nothing is filtered by quality, and of two masks
    only near-duplicates go, whose boxes have an IoU above `nms_thresh`. First come masks whose boxes have an IoU of at
    most 0.7 with each other, the best first, then the others in the same order, so that a few proposals show as much
    as they can. The grid and crops are those of `config`, but not its thresholds: masks of different crops are compared
    like those of one.
    """
    count, thresh = check_count("n", n), check_number("nms_thresh", nms_thresh, 0, 1)
    options = {"conf_thres": _ALL, "stability_score_thresh": _ALL, "iou": 1.0, "crop_nms_thresh": 1.0}
    everything = config.updated(options)
    records = [
        record for record in generate_records(model, picture, everything, watch, config.verbose) if record["area"]
    ]
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    corners = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)).float()
    scores = np.array([(one["predicted_iou"] + one["stability_score"]) / 2 for one in records], np.float32)
    rank = scores + np.float32(model.judgement.consensus) * np.log(_agreeing(boxes))
    order = _varied(corners, torch.from_numpy(rank), thresh)[:count]
    results = Results.from_dicts(picture.pixels, picture.path, [records[k] for k in order], device=model.device)
    if results.boxes is not None and order:
        rows = tensor_of(results.boxes.data).clone()
        rows[:, 4] = torch.from_numpy(scores[order]).to(rows.device)
        results.boxes = type(results.boxes)(rows, results.orig_shape)
    return results


def _varied(boxes: torch.Tensor, rank: torch.Tensor, thresh: float) -> list[int]:
    """The numbers of what survives a stricter NMS, by rank, then of the others that NMS at `thresh` leaves."""
    first = ops.nms(boxes, rank, min(thresh, _DIFFERENT))
    place = rank.argsort(descending=True, stable=True).argsort()
    place[first] -= len(rank)
    # Not what survives by rank alone, which may be about the same as one of the first that went there.
    return ops.nms(boxes, -place.to(rank.dtype), thresh).tolist()


def _agreeing(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """How many of the boxes (N, 4) x, y, width, height are about the same as each, itself included: (N,)."""
    counts = np.ones(len(boxes), np.float32)
    for start in range(0, len(boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        counts[rows] = (rle.iou(boxes[rows], boxes, np.zeros(len(boxes), bool)) > _SAME).sum(1)
    # A box without an area isn't even the same as itself.
    return counts.clip(1)
