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
from .recipe import golden_recipe
from .timing import RowCollector, interleaved_medians, require_package

WIDTH, HEIGHT = 1800, 1200
LONG_SIDE, BATCH = 1024, 64
CONF, STABILITY = 0.88, 0.95
SAMPLED = 2  # the dense way's batches that are timed, of 16


def dense_batch(low_res: torch.Tensor, iou: torch.Tensor) -> list[tuple[dict[str, Any], list[int], float]]:
    """Return RLE, box and score of the masks that pass, upscaling the whole batch at once like the reference."""
    from pycocotools import mask as coco

    content_hw = resized_shape(HEIGHT, WIDTH, LONG_SIDE)
    passes_iou = (iou > CONF).flatten()
    low_res, scores = low_res.flatten(0, 1)[passes_iou], iou.flatten()[passes_iou]
    square = F.interpolate(low_res[:, None], (LONG_SIDE, LONG_SIDE), mode="bilinear")
    logits = F.interpolate(square[..., : content_hw[0], : content_hw[1]], (HEIGHT, WIDTH), mode="bilinear")[:, 0]
    stability = (logits > 1).sum((1, 2), dtype=torch.int32) / (logits > -1).sum((1, 2), dtype=torch.int32)
    is_stable = stability >= STABILITY
    masks = []
    for mask, score in zip(logits[is_stable] > 0, scores[is_stable].tolist(), strict=True):
        columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
        box = [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])] if len(columns) else [0, 0, 0, 0]
        masks.append((coco.encode(np.asfortranarray(mask.numpy().view(np.uint8))), box, score))
    return masks


def test_blob_logits(rows: RowCollector) -> None:
    require_package("pycocotools")
    points = grid_points()[:, 0]
    logits, iou = (torch.from_numpy(array) for array in golden_recipe().blob_logits((points / 4).numpy(), 0))
    start = 0

    def decode(crop_box: list[int], points_of_batch: torch.Tensor) -> tuple[torch.Tensor, Any]:
        nonlocal start
        batch, start = slice(start, start + len(points_of_batch)), (start + len(points_of_batch)) % len(points)
        return iou[batch], lambda point_index, mask_index: logits[batch][point_index, mask_index]

    def ours(box_nms_thresh: float = 0.7) -> list[dict[str, Any]]:
        return generate_masks(
            decode,
            (HEIGHT, WIDTH),
            points_batch_size=BATCH,
            conf_thres=CONF,
            stability_score_thresh=STABILITY,
            box_nms_thresh=box_nms_thresh,
        )

    num_sampled = len(points) // BATCH if rows.full else SAMPLED

    @torch.no_grad()
    def dense() -> list[Any]:
        dense_masks = [
            mask
            for i in range(num_sampled)
            for mask in dense_batch(*(x[i * BATCH : (i + 1) * BATCH] for x in (logits, iou)))
        ]
        boxes = torch.tensor([box for _, box, _ in dense_masks], dtype=torch.float32)
        ops.nms(boxes, torch.tensor([score for *_, score in dense_masks]), 0.7)
        return dense_masks

    # With NMS disabled, all masks of the sampled batches are among ours; their scores identify them.
    by_score = {record["predicted_iou"]: record["segmentation"] for record in ours(box_nms_thresh=1.0)}
    dense_masks = dense()
    assert len(dense_masks) > 10
    missing = [score for *_, score in dense_masks if score not in by_score]
    overlaps = [
        float(rle.iou([by_score[score]], [their_rle], [0])[0, 0])
        for their_rle, _, score in dense_masks
        if score in by_score
    ]
    difference = max(1 - min(overlaps), len(missing) / len(dense_masks))
    rounds = rows.rounds(3)
    seconds = interleaved_medians({"ours": ours, "peer": dense}, rounds)
    batches = len(points) // BATCH
    rows.add(
        "blob_logits/dense",
        (seconds["ours"], seconds["peer"] * batches / num_sampled),
        rounds,
        difference=difference,
        tolerance=0.01,
        difference_of="largest 1 - IoU of a mask",
        note="" if rows.full else f"{num_sampled} of the dense way's {batches} batches timed",
    )
