"""Segment everything beside Meta's own generator, with the same weights, photo, points and thresholds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fastsam_core import SAM, rle

from .bench_decoder_peers import POINTS
from .bench_everything import HEIGHT, WIDTH
from .photos import photo
from .recipe import checkpoint, recipe_model
from .timing import RowCollector, require_package

# As in bench_everything, but above 0: at 0 and below, the reference doesn't filter by predicted IoU at all.
CONF_THRES, STABILITY = 0.02, 0.014
PREDICTED_IOU_TOLERANCE = 1e-3
# The recipe's masks are noise: a mask at a threshold, or a pixel at 0, may fall on either side.
TOLERANCE = 0.01


def test_everything(rows: RowCollector) -> None:
    require_package("segment_anything")
    from .peers.reference import generate

    image, model = photo(WIDTH, HEIGHT), recipe_model("sam_b")
    rgb = image[..., ::-1].copy()
    side = round(POINTS**0.5)
    theirs = generate(
        model,
        points_per_side=side,
        pred_iou_thresh=CONF_THRES,
        stability_score_thresh=STABILITY,
        box_nms_thresh=1.0,
    )
    options: dict[str, Any] = {
        "points_stride": side,
        "conf": -1e9,
        "conf_thres": CONF_THRES,
        "stability_score_thresh": STABILITY,
        "iou": 1.0,
        "verbose": False,
    }
    sam = SAM(model)
    sam(image, points=[1, 1], labels=[1], verbose=False)  # warms up
    rounds = 3 if rows.full else 1  # the reference takes minutes
    ours_s, peer_s = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        our_records = sam(image, **options)[0].to_dicts()
        between = time.perf_counter()
        their_records = theirs(rgb)
        ours_s.append(between - start)
        peer_s.append(time.perf_counter() - between)
    rows.add(
        "everything_sam_b/segment_anything",
        (sorted(ours_s)[rounds // 2], sorted(peer_s)[rounds // 2]),
        rounds,
        difference=1 - mean_iou(our_records, their_records),
        tolerance=TOLERANCE,
        difference_of="1 - mean IoU of the masks, unmatched ones counting as 0",
        note=f"{len(our_records)} and {len(their_records)} records",
    )


def mean_iou(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Mean IoU of masks of the same point and predicted IoU; masks without a counterpart count as 0."""
    by_point = defaultdict(list)
    for record in theirs:
        by_point[tuple(record["point_coords"][0])].append(record)
    total = 0.0
    for record in ours:
        candidates = by_point[tuple(record["point_coords"][0])]
        score_differences = [abs(other["predicted_iou"] - record["predicted_iou"]) for other in candidates]
        if score_differences and min(score_differences) < PREDICTED_IOU_TOLERANCE:
            uncompressed = candidates.pop(score_differences.index(min(score_differences)))["segmentation"]
            total += float(
                rle.iou([record["segmentation"]], [rle.frPyObjects(uncompressed, *uncompressed["size"])], [0])[0, 0]
            )
    return total / max(len(ours), len(theirs), 1)


_SCRIPT = """
import sys, torch
from bench.bench_reference import CONF_THRES, STABILITY
from bench.photos import photo
from bench.recipe import recipe_model
side, threads, width, height = (int(value) for value in sys.argv[2:])
torch.set_num_threads(threads)
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
model, image = recipe_model("sam_b"), photo(width, height)
if sys.argv[1] == "ours":
    from fastsam_core import SAM
    sam = SAM(model)
    thresholds = dict(conf=-1e9, conf_thres=CONF_THRES, stability_score_thresh=STABILITY)
    def run():
        sam(image, points_stride=side, verbose=False, **thresholds)
else:
    from bench.peers.reference import generate
    image = image[..., ::-1].copy()
    theirs = generate(model, points_per_side=side, pred_iou_thresh=CONF_THRES, stability_score_thresh=STABILITY)
    def run():
        theirs(image)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
run()
print("peak", status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("side", ["ours", "segment_anything"])
def test_peak_memory(rows: RowCollector, request: pytest.FixtureRequest, side: str) -> None:
    require_package("segment_anything")
    checkpoint("sam_b")
    # Memory peaks within a batch of 64 points, on both sides.
    arguments = [side, "8", str(request.config.getoption("--bench-threads")), str(WIDTH), str(HEIGHT)]
    process = subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    peak = float(process.stdout.split()[-1])
    name = "" if side == "ours" else "segment_anything 1.0, "
    rows.memory_mb[f"{name}sam_b everything, 64 points, {WIDTH} x {HEIGHT}"] = round(peak, 1)
    print(f"\n{name or 'ours, '}sam_b everything: {peak:.0f} MB above the loaded model")
