"""NMS of random boxes, compared with the PyTorch sibling, and the growth of its time up to 300,000 boxes."""

from __future__ import annotations

import numpy as np
import torch

from fastsam_core import ops

from .interleave import Rows, medians

THRESHOLD = 0.7
SIZES = (10_000, 30_000, 100_000, 300_000)
WIDTH, HEIGHT, SIDES = 6000, 4000, (8, 160)


def random_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random boxes (N, 4) float32 on a 6000 x 4000 image, and scores (N,) float32."""
    random = np.random.default_rng(count)
    corner = random.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(*SIDES, (count, 2))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(random.random(count, dtype=np.float32))


def test_beside_the_pytorch_sibling(rows: Rows) -> None:
    boxes, scores = random_boxes(10_000)
    reference = ops.siblings("nms")["reference"]
    ours = ops.nms(boxes, scores, THRESHOLD)
    theirs = reference(boxes, scores, THRESHOLD)
    rounds = rows.rounds(3)
    ways = {
        "ours": lambda: ops.nms(boxes, scores, THRESHOLD),
        "peer": lambda: reference(boxes, scores, THRESHOLD),
    }
    spent = medians(ways, rounds)
    rows.add(
        "nms_10k/pytorch",
        (spent["ours"], spent["peer"]),
        rounds,
        difference=float(ours.tolist() != theirs.tolist()),
        tolerance=0,
        difference_of="kept indices differ",
    )


def test_growth(rows: Rows) -> None:
    growth = {}
    for count in SIZES:
        pair = random_boxes(count)
        way = {"nms": lambda pair=pair: ops.nms(*pair, THRESHOLD)}
        first = medians(way, 1)["nms"]
        growth[f"{count:,}"] = first if first > 1 else medians(way, rows.rounds(5))["nms"]
    rows.growth["NMS, random boxes"] = {name: float(f"{seconds:.3g}") for name, seconds in growth.items()}
    print("\nNMS:", ", ".join(f"{name} boxes {seconds:.4f} s" for name, seconds in growth.items()))
