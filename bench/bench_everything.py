"""Segment everything from a photo to its records: beside OpenVINO's networks alone, and where its seconds go."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from fastsam_core import SAM
from fastsam_core.picture import model_input

from .bench_decoder_peers import BATCH, POINTS, SAMPLED, grid_points
from .interleave import Rows, max_difference, need
from .pictures import photo
from .recipe import checkpoint, recipe_model
from .stages import timed_stages

WIDTH, HEIGHT = 1800, 1200
# Below `conf_thres` the recipe's predicted IoU passes only in part, as with real weights.
OPTIONS: dict[str, Any] = {"points_stride": 32, "conf": -1e9, "verbose": False}
CONF_THRES = {"sam_b": -0.17, "mobile_sam": -0.17}
TOLERANCE = 2e-4


def run(sam: SAM, image: Any, conf_thres: float) -> tuple[float, dict[str, float], int]:
    """Seconds in all, per stage, and the number of records of one picture."""
    start = time.perf_counter()
    with timed_stages() as stages:
        result = sam(image, conf_thres=conf_thres, **OPTIONS)[0]
    return time.perf_counter() - start, stages, len(result)


def keep_stages(rows: Rows, name: str, stages: dict[str, float], seconds: float, records: int) -> None:
    rows.stages[f"{name}, {POINTS:,} points, {WIDTH} x {HEIGHT}"] = {
        **{stage: float(f"{spent:.3g}") for stage, spent in stages.items()},
        "all": float(f"{seconds:.4g}"),
        "records": records,
    }
    print(f"\n{name}:", ", ".join(f"{stage} {spent:.2f} s" for stage, spent in stages.items()), f"{records} records")


@pytest.mark.parametrize("name", ["mobile_sam", "sam_b"])
def test_stages(rows: Rows, name: str) -> None:
    """SAM("NAME.pt"), segment everything; for sam_b also the row beside OpenVINO, if that is installed."""
    sam, image = SAM(str(checkpoint(name))), photo(WIDTH, HEIGHT)
    if name == "sam_b":
        beside_openvino(rows, sam, image)
        return
    sam(image, points=[1, 1], labels=[1], verbose=False)  # loads and warms up
    seconds, stages, records = run(sam, image, CONF_THRES[name])
    keep_stages(rows, name, stages, seconds, records)


def beside_openvino(rows: Rows, sam: SAM, image: Any) -> None:
    """Ours has all to do, from pixels to records; OpenVINO only the two networks."""
    sam(image, points=[1, 1], labels=[1], verbose=False)
    first = run(sam, image, CONF_THRES["sam_b"])
    keep_stages(rows, "sam_b", first[1], first[0], first[2])
    need("openvino")
    need("onnxscript")
    from .peers import runtimes
    from .peers.onnx_export import onnx_file

    model = recipe_model("sam_b")
    encoder = runtimes.openvino(onnx_file("sam_b", "encoder"))
    decoder = runtimes.openvino(onnx_file("sam_b", "decoder"), [(1, 256, 64, 64), (BATCH, 1, 2), (BATCH, 1)])
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    with torch.inference_mode():
        images = model_input(model, image)
        embedding = model.encode_image(images)
        difference = max_difference(embedding, encoder(images)[0])
        iou, logits = model.decode_points(embedding, points, labels)
        their_logits, their_iou = decoder(embedding, points, labels)
        some = list(range(0, BATCH, 8))
        difference = max(
            difference,
            max_difference(iou, their_iou),
            max_difference(logits(some, [1] * len(some)), their_logits[some, 1]),
        )
        rounds, sampled = rows.rounds(2), POINTS // BATCH if rows.full else SAMPLED
        ours, theirs = [first[0]], []
        for turn in range(rounds):
            if turn:
                ours.append(run(sam, image, CONF_THRES["sam_b"])[0])
            start = time.perf_counter()
            encoder(images)
            encoded = time.perf_counter()
            for _ in range(sampled):
                decoder(embedding, points, labels)
            decoded = time.perf_counter()
            theirs.append(encoded - start + (decoded - encoded) * (POINTS // BATCH) / sampled)
    rows.add(
        "everything_sam_b/openvino",
        (sum(ours) / rounds, sum(theirs) / rounds),  # of two, the mean is the median
        rounds,
        difference=difference,
        tolerance=TOLERANCE,
        difference_of="max abs difference of embedding, IoU and logits",
        note=f"conf_thres {CONF_THRES['sam_b']}, {first[2]} records"
        + ("" if rows.full else f"; {sampled} of OpenVINO's {POINTS // BATCH} decoder batches timed"),
    )
