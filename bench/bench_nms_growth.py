"""NMS of random boxes, compared with the PyTorch sibling, and the growth of its time up to 300,000 boxes."""

from __future__ import annotations

import numpy as np
import torch

from fastsam_core import ops

from .timing import RowCollector, interleaved_medians

THRESHOLD = 0.7
SIZES = (10_000, 30_000, 100_000, 300_000)
WIDTH, HEIGHT, SIDES = 6000, 4000, (8, 160)


def random_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random boxes (N, 4) float32 on a 6000 x 4000 image, and scores (N,) float32."""
    random = np.random.default_rng(count)
    corner = random.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(*SIDES, (count, 2))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(random.random(count, dtype=np.float32))


def test_beside_the_pytorch_sibling(rows: RowCollector) -> None:
    boxes, scores = random_boxes(10_000)
    reference = ops.siblings("nms")["reference"]
    ours = ops.nms(boxes, scores, THRESHOLD)
    theirs = reference(boxes, scores, THRESHOLD)
    rounds = rows.rounds(3)
    alternatives = {
        "ours": lambda: ops.nms(boxes, scores, THRESHOLD),
        "peer": lambda: reference(boxes, scores, THRESHOLD),
    }
    seconds = interleaved_medians(alternatives, rounds)
    rows.add(
        "nms_10k/pytorch",
        (seconds["ours"], seconds["peer"]),
        rounds,
        difference=float(ours.tolist() != theirs.tolist()),
        tolerance=0,
        difference_of="kept indices differ",
    )


def test_growth(rows: RowCollector) -> None:
    growth = {}
    for count in SIZES:
        boxes_and_scores = random_boxes(count)
        alternative = {"nms": lambda boxes_and_scores=boxes_and_scores: ops.nms(*boxes_and_scores, THRESHOLD)}
        first_seconds = interleaved_medians(alternative, 1)["nms"]
        growth[f"{count:,}"] = (
            first_seconds if first_seconds > 1 else interleaved_medians(alternative, rows.rounds(5))["nms"]
        )
    rows.growth["NMS, random boxes"] = {name: float(f"{seconds:.3g}") for name, seconds in growth.items()}
    print("\nNMS:", ", ".join(f"{name} boxes {seconds:.4f} s" for name, seconds in growth.items()))
