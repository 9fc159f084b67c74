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
from .photos import photo
from .recipe import checkpoint, recipe_model
from .stages import timed_stages
from .timing import RowCollector, max_difference

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


def record_stages(rows: RowCollector, name: str, stages: dict[str, float], seconds: float, records: int) -> None:
    rows.stages[f"{name}, {POINTS:,} points, {WIDTH} x {HEIGHT}"] = {
        **{stage: float(f"{seconds_of_stage:.3g}") for stage, seconds_of_stage in stages.items()},
        "all": float(f"{seconds:.4g}"),
        "records": records,
    }
    print(
        f"\n{name}:",
        ", ".join(f"{stage} {seconds_of_stage:.2f} s" for stage, seconds_of_stage in stages.items()),
        f"{records} records",
    )


def test_stages(rows: RowCollector) -> None:
    """Measure the stages of segment everything with mobile_sam."""
    sam, image = SAM(str(checkpoint("mobile_sam"))), photo(WIDTH, HEIGHT)
    sam(image, points=[1, 1], labels=[1], verbose=False)  # loads and warms up
    seconds, stages, records = run(sam, image, CONF_THRES["mobile_sam"])
    record_stages(rows, "mobile_sam", stages, seconds, records)


@pytest.mark.parametrize("bfloat16", [False, pytest.param(True, marks=IN_BFLOAT16)])
def test_beside_openvino(rows: RowCollector, bfloat16: bool) -> None:
    """Compare all of sam_b's segment everything, from pixels to records, with only its two networks in OpenVINO."""
    sam, image = SAM(str(checkpoint("sam_b"))), photo(WIDTH, HEIGHT)
    name, dtype = ("sam_b in bfloat16", "bfloat16") if bfloat16 else ("sam_b", "float32")
    sam(image, points=[1, 1], labels=[1], verbose=False, dtype=dtype)
    first_run = run(sam, image, CONF_THRES["sam_b"], dtype=dtype)
    record_stages(rows, name, first_run[1], first_run[0], first_run[2])
    encoder, decoder = peer_encoder("sam_b", "openvino", bfloat16), openvino_decoder(bfloat16)
    model = recipe_model("sam_b")
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    with torch.inference_mode():
        images = model_input(model, image)
        embedding = model.encode_image(images)
        compare_outputs = errors if bfloat16 else differences
        difference, tolerance, difference_of = compare_outputs(model, images, embedding, encoder, decoder)
        rounds, num_sampled = rows.rounds(2), POINTS // BATCH if rows.full else SAMPLED
        our_seconds, their_seconds = [first_run[0]], []
        for round_index in range(rounds):
            if round_index:
                our_seconds.append(run(sam, image, CONF_THRES["sam_b"], dtype=dtype)[0])
            start = time.perf_counter()
            encoder(images)
            encoded = time.perf_counter()
            for _ in range(num_sampled):
                decoder(embedding, points, labels)
            decoded = time.perf_counter()
            their_seconds.append(encoded - start + (decoded - encoded) * (POINTS // BATCH) / num_sampled)
    rows.add(
        f"everything_sam_b{'_bfloat16' if bfloat16 else ''}/openvino",
        (
            sum(our_seconds) / rounds,
            sum(their_seconds) / rounds,
        ),  # there are at most two rounds, whose mean is the median
        rounds,
        difference=difference,
        tolerance=tolerance,
        difference_of=difference_of,
        note=f"conf_thres {CONF_THRES['sam_b']}, {first_run[2]} records"
        + ("" if rows.full else f"; {num_sampled} of OpenVINO's {POINTS // BATCH} decoder batches timed"),
    )


def differences(
    model: SamModel, images: Tensor, embedding: Tensor, encoder: Run, decoder: Run
) -> tuple[float, float, str]:
    """Return the largest absolute difference of embedding, IoU and some logits, its tolerance, and its description."""
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    iou, logits = model.decode_points(embedding, points, labels)
    their_logits, their_iou = decoder(embedding, points, labels)
    sampled_points = list(range(0, BATCH, 8))
    difference = max(
        max_difference(embedding, encoder(images)),
        max_difference(iou, their_iou),
        max_difference(logits(sampled_points, [1] * len(sampled_points)), their_logits[sampled_points, 1]),
    )
    return difference, TOLERANCE, "max abs difference of embedding, IoU and logits"


def errors(model: SamModel, images: Tensor, embedding: Tensor, encoder: Run, decoder: Run) -> tuple[float, float, str]:
    """Return the relative errors of logits against float32, ours and the peer's, and a description.

    Each side decodes its own embedding. The peer's error is the tolerance for ours.
    """
    points, labels = grid_points().split(BATCH)[0], torch.ones(BATCH, 1)
    float32_logits = model.decode_prompts(embedding, points, labels, multimask_output=True)[0]
    prepared = model.prepare(model.encode_image(images, torch.bfloat16).float(), matrices=torch.bfloat16)
    bfloat16_logits = model.decode_prompts(prepared, points, labels, multimask_output=True)[0]
    peer_logits = decoder(encoder(images).clone(), points, labels)[0]
    error, peer_error = (
        float((x - float32_logits).norm() / float32_logits.norm()) for x in (bfloat16_logits, peer_logits)
    )
    return error, peer_error, "relative error of logits beside float32, at most the peer's"
