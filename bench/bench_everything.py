"""Segment everything from photo to records: its time per stage, and compared with only the networks in OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam_core import SAM
from fastsam_core.encoded_image import model_input
from fastsam_core.models.precision import why_not_bfloat16
from fastsam_core.models.sam_model import SamModel

from .bench_decoder_peers import BATCH, POINTS, SAMPLED, grid_points, openvino_decoder
from .bench_encoder import peer_encoder
from .interleave import Rows, max_difference
from .pictures import photo
from .recipe import checkpoint, recipe_model
from .stages import timed_stages

WIDTH, HEIGHT = 1800, 1200
# With the recipe's weights, masks are noise all over the image. These thresholds let a part of them pass, as with real
# weights, and NMS is disabled, so that hundreds of records are made.
OPTIONS: dict[str, Any] = {
    "points_stride": 32,
    "conf": -1e9,
    "stability_score_thresh": 0.014,
    "iou": 1.0,
    "verbose": False,
}
CONF_THRES = {"sam_b": -0.17, "mobile_sam": -0.17}
TOLERANCE = 2e-4
IN_BFLOAT16 = pytest.mark.skipif(why_not_bfloat16() != "", reason=why_not_bfloat16())

Run = Callable[..., Any]


def run(sam: SAM, image: Any, conf_thres: float, **options: Any) -> tuple[float, dict[str, float], int]:
    """Segment an image and return total seconds, seconds per stage, and the number of records."""
    start = time.perf_counter()
    with timed_stages() as stages:
        result = sam(image, conf_thres=conf_thres, **OPTIONS, **options)[0]
    return time.perf_counter() - start, stages, len(result)


def keep_stages(rows: Rows, name: str, stages: dict[str, float], seconds: float, records: int) -> None:
    rows.stages[f"{name}, {POINTS:,} points, {WIDTH} x {HEIGHT}"] = {
        **{stage: float(f"{spent:.3g}") for stage, spent in stages.items()},
        "all": float(f"{seconds:.4g}"),
        "records": records,
    }
    print(f"\n{name}:", ", ".join(f"{stage} {spent:.2f} s" for stage, spent in stages.items()), f"{records} records")


def test_stages(rows: Rows) -> None:
    """Measure the stages of segment everything with mobile_sam."""
    sam, image = SAM(str(checkpoint("mobile_sam"))), photo(WIDTH, HEIGHT)
    sam(image, points=[1, 1], labels=[1], verbose=False)  # loads and warms up
    seconds, stages, records = run(sam, image, CONF_THRES["mobile_sam"])
    keep_stages(rows, "mobile_sam", stages, seconds, records)


@pytest.mark.parametrize("bfloat16", [False, pytest.param(True, marks=IN_BFLOAT16)])
def test_beside_openvino(rows: Rows, bfloat16: bool) -> None:
    """Compare all of sam_b's segment everything, from pixels to records, with only its two networks in OpenVINO."""
    sam, image = SAM(str(checkpoint("sam_b"))), photo(WIDTH, HEIGHT)
    name, dtype = ("sam_b in bfloat16", "bfloat16") if bfloat16 else ("sam_b", "float32")
    sam(image, points=[1, 1], labels=[1], verbose=False, dtype=dtype)
    first = run(sam, image, CONF_THRES["sam_b"], dtype=dtype)
    keep_stages(rows, name, first[1], first[0], first[2])
    encoder, decoder = peer_encoder("sam_b", "openvino", bfloat16), openvino_decoder(bfloat16)
    model = recipe_model("sam_b")
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    with torch.inference_mode():
        images = model_input(model, image)
        embedding = model.encode_image(images)
        compare = errors if bfloat16 else differences
        difference, tolerance, measure = compare(model, images, embedding, encoder, decoder)
        rounds, sampled = rows.rounds(2), POINTS // BATCH if rows.full else SAMPLED
        ours, theirs = [first[0]], []
        for turn in range(rounds):
            if turn:
                ours.append(run(sam, image, CONF_THRES["sam_b"], dtype=dtype)[0])
            start = time.perf_counter()
            encoder(images)
            encoded = time.perf_counter()
            for _ in range(sampled):
                decoder(embedding, points, labels)
            decoded = time.perf_counter()
            theirs.append(encoded - start + (decoded - encoded) * (POINTS // BATCH) / sampled)
    rows.add(
        f"everything_sam_b{'_bfloat16' if bfloat16 else ''}/openvino",
        (sum(ours) / rounds, sum(theirs) / rounds),  # there are at most two rounds, whose mean is the median
        rounds,
        difference=difference,
        tolerance=tolerance,
        difference_of=measure,
        note=f"conf_thres {CONF_THRES['sam_b']}, {first[2]} records"
        + ("" if rows.full else f"; {sampled} of OpenVINO's {POINTS // BATCH} decoder batches timed"),
    )


def differences(
    model: SamModel, images: Tensor, embedding: Tensor, encoder: Run, decoder: Run
) -> tuple[float, float, str]:
    """Return the largest absolute difference of embedding, IoU and some logits, its tolerance, and its description."""
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    iou, logits = model.decode_points(embedding, points, labels)
    their_logits, their_iou = decoder(embedding, points, labels)
    some = list(range(0, BATCH, 8))
    difference = max(
        max_difference(embedding, encoder(images)),
        max_difference(iou, their_iou),
        max_difference(logits(some, [1] * len(some)), their_logits[some, 1]),
    )
    return difference, TOLERANCE, "max abs difference of embedding, IoU and logits"


def errors(model: SamModel, images: Tensor, exact: Tensor, encoder: Run, decoder: Run) -> tuple[float, float, str]:
    """Return the relative errors of logits against float32, ours and the peer's, and a description.

    Each side decodes its own embedding. The peer's error is the tolerance for ours.
    """
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    wanted = model.decode_prompts(exact, points, labels, multimask_output=True)[0]
    prepared = model.prepare(model.encode_image(images, torch.bfloat16).float(), matrices=torch.bfloat16)
    given = model.decode_prompts(prepared, points, labels, multimask_output=True)[0]
    theirs = decoder(encoder(images).clone(), points, labels)[0]
    ours, usual = (float((x - wanted).norm() / wanted.norm()) for x in (given, theirs))
    return ours, usual, "relative error of logits beside float32, at most the peer's"
