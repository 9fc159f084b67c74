"""From the golden recipe's 3,072 blob logits to filtered run lengths, compared with the reference's dense way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fastsam_core import ops, rle
from fastsam_core.everything import generate_masks
from fastsam_core.preprocess import resized_shape

from .bench_decoder_peers import grid_points
from .interleave import Rows, medians, need
from .recipe import golden_recipe

WIDTH, HEIGHT = 1800, 1200
LONG_SIDE, BATCH = 1024, 64
CONF, STABILITY = 0.88, 0.95
SAMPLED = 2  # the dense way's batches that are timed, of 16


def dense_batch(low_res: torch.Tensor, iou: torch.Tensor) -> list[tuple[dict[str, Any], list[int], float]]:
    """Return RLE, box and score of the masks that pass, upscaling the whole batch at once like the reference."""
    from pycocotools import mask as coco

    content = resized_shape(HEIGHT, WIDTH, LONG_SIDE)
    passing = (iou > CONF).flatten()
    low_res, scores = low_res.flatten(0, 1)[passing], iou.flatten()[passing]
    square = F.interpolate(low_res[:, None], (LONG_SIDE, LONG_SIDE), mode="bilinear")
    logits = F.interpolate(square[..., : content[0], : content[1]], (HEIGHT, WIDTH), mode="bilinear")[:, 0]
    stability = (logits > 1).sum((1, 2), dtype=torch.int32) / (logits > -1).sum((1, 2), dtype=torch.int32)
    stable = stability >= STABILITY
    found = []
    for mask, score in zip(logits[stable] > 0, scores[stable].tolist(), strict=True):
        columns, lines = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
        box = [int(columns[0]), int(lines[0]), int(columns[-1]), int(lines[-1])] if len(columns) else [0, 0, 0, 0]
        found.append((coco.encode(np.asfortranarray(mask.numpy().view(np.uint8))), box, score))
    return found


def test_blob_logits(rows: Rows) -> None:
    need("pycocotools")
    points = grid_points()[:, 0]
    logits, iou = (torch.from_numpy(array) for array in golden_recipe().blob_logits((points / 4).numpy(), 0))
    start = 0

    def decode(crop_box: list[int], given: torch.Tensor) -> tuple[torch.Tensor, Any]:
        nonlocal start
        part, start = slice(start, start + len(given)), (start + len(given)) % len(points)
        return iou[part], lambda point_index, mask_index: logits[part][point_index, mask_index]

    def ours(box_nms_thresh: float = 0.7) -> list[dict[str, Any]]:
        return generate_masks(
            decode,
            (HEIGHT, WIDTH),
            points_batch_size=BATCH,
            conf_thres=CONF,
            stability_score_thresh=STABILITY,
            box_nms_thresh=box_nms_thresh,
        )

    sampled = len(points) // BATCH if rows.full else SAMPLED

    @torch.no_grad()
    def dense() -> list[Any]:
        found = [
            one for i in range(sampled) for one in dense_batch(*(x[i * BATCH : (i + 1) * BATCH] for x in (logits, iou)))
        ]
        boxes = torch.tensor([box for _, box, _ in found], dtype=torch.float32)
        ops.nms(boxes, torch.tensor([score for *_, score in found]), 0.7)
        return found

    # With NMS disabled, all masks of the sampled batches are among ours; their scores identify them.
    by_score = {record["predicted_iou"]: record["segmentation"] for record in ours(box_nms_thresh=1.0)}
    found = dense()
    assert len(found) > 10
    missing = [score for *_, score in found if score not in by_score]
    overlap = [
        float(rle.iou([by_score[score]], [theirs], [0])[0, 0]) for theirs, _, score in found if score in by_score
    ]
    difference = max(1 - min(overlap), len(missing) / len(found))
    rounds = rows.rounds(3)
    spent = medians({"ours": ours, "peer": dense}, rounds)
    batches = len(points) // BATCH
    rows.add(
        "blob_logits/dense",
        (spent["ours"], spent["peer"] * batches / sampled),
        rounds,
        difference=difference,
        tolerance=0.01,
        difference_of="largest 1 - IoU of a mask",
        note="" if rows.full else f"{sampled} of the dense way's {batches} batches timed",
    )
