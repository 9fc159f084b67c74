"""Object proposals: a requested number of masks that most likely are whole objects, best first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from . import ops, rle
from ._tensors import to_tensor
from .config import Config
from .encoded_image import EncodedImage
from .everything.arguments import check_count, check_number
from .models.sam_model import SamModel
from .results import Results
from .segment import generate_records
from .stopwatch import Stopwatch

# A threshold below every score: proposals are ranked, not filtered.
_NO_THRESHOLD = -1e30
# Masks whose boxes have a higher IoU count as agreeing, for `MaskScoring.consensus`.
_AGREEMENT_IOU = 0.8
# Masks whose boxes have a higher IoU with a better-ranked one come after all others.
_DISTINCT_IOU = 0.7
# Rows of the box IoU matrix that are computed at once: 6 MiB for a grid of 32 x 32 points.
_ROWS_PER_CHUNK = 256


def propose(
    model: SamModel, image: EncodedImage, n: int, config: Config, watch: Stopwatch, *, nms_thresh: float = 0.9
) -> Results:
    """Return at most `n` object proposals, best first.

    Their `conf` is the mean of predicted IoU and stability score. The rank is that mean plus `MaskScoring.consensus`
    times the natural logarithm of the number of candidates whose boxes agree with the mask's, itself included; the
    weight is 0 for all models but `sam_nano`.

    As in the proposals of Kirillov et al., "Segment Anything" (2023), nothing is filtered by quality; only
    near-duplicates are dropped, the lower-ranked of two masks whose boxes have an IoU above `nms_thresh`. Masks whose
    boxes have an IoU of at most 0.7 with each other come first, then the others, both by rank, so that a small number
    of proposals covers as many objects as possible. The grid and crops are those of `config`, but its thresholds are
    ignored; masks of different crops are compared like those of one crop.
    """
    count, thresh = check_count("n", n), check_number("nms_thresh", nms_thresh, 0, 1)
    options = {"conf_thres": _NO_THRESHOLD, "stability_score_thresh": _NO_THRESHOLD, "iou": 1.0, "crop_nms_thresh": 1.0}
    everything_config = config.updated(options)
    records = [
        record for record in generate_records(model, image, everything_config, watch, config.verbose) if record["area"]
    ]
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    corners = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)).float()
    scores = np.array([(record["predicted_iou"] + record["stability_score"]) / 2 for record in records], np.float32)
    consensus, rank = np.float32(model.mask_scoring.consensus), scores
    if consensus:  # counting takes time that grows with the square of the number of boxes
        rank = scores + consensus * np.log(_count_agreeing(boxes))
    order = _diverse_order(corners, torch.from_numpy(rank), thresh)[:count]
    results = Results.from_dicts(image.pixels, image.path, [records[k] for k in order], device=model.device)
    if results.boxes is not None and order:
        rows = to_tensor(results.boxes.data).clone()
        rows[:, 4] = torch.from_numpy(scores[order]).to(rows.device)
        results.boxes = type(results.boxes)(rows, results.orig_shape)
    return results


def _diverse_order(boxes: torch.Tensor, rank: torch.Tensor, thresh: float) -> list[int]:
    """Return indices of the boxes that NMS keeps at `thresh`: first those kept at `_DISTINCT_IOU` too, then the others.

    Both groups are ordered by rank.
    """
    distinct = ops.nms(boxes, rank, min(thresh, _DISTINCT_IOU))
    position = rank.argsort(descending=True, stable=True).argsort()
    position[distinct] -= len(rank)
    # NMS by rank alone won't do: it could keep a near-duplicate of a box that was moved to the front.
    return ops.nms(boxes, -position.to(rank.dtype), thresh).tolist()


def _count_agreeing(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return for each box, (N, 4) x, y, width, height, how many agree with it, itself included: (N,) float32."""
    counts = np.ones(len(boxes), np.float32)
    for start in range(0, len(boxes), _ROWS_PER_CHUNK):
        rows = slice(start, start + _ROWS_PER_CHUNK)
        counts[rows] = (rle.iou(boxes[rows], boxes, np.zeros(len(boxes), bool)) > _AGREEMENT_IOU).sum(1)
    # A box without area has IoU 0 even with itself.
    return counts.clip(1)
