"""Decode 1,024 one-point prompts, compared with OpenVINO in batches of 64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastsam_core.models.precision import why_not_bfloat16

from .recipe import recipe_model
from .timing import RowCollector, interleaved_medians, max_difference, require_package

POINTS, BATCH = 1024, 64
SAMPLED = 3  # OpenVINO's batches that are timed, of 16, which all do the same work
TOLERANCE = 2e-4  # absolute; logits are of magnitude 4
FAILING = 0.6  # fraction of prompts that fail the IoU filter


def grid_points() -> torch.Tensor:
    """Return the centres of a grid of 32 x 32 cells over the model's input, (1024, 1, 2) x, y."""
    axis = torch.arange(16.0, 1024, 32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 1, 2)


def openvino_decoder(bfloat16: bool = False) -> Callable[[Tensor, Tensor, Tensor], list[Tensor]]:
    """Return sam_b's decoder in OpenVINO, from embedding, points and labels of a batch to logits and predicted IoU.

    Skips the benchmark if OpenVINO isn't installed.
    """
    require_package("openvino")
    require_package("onnxscript")
    from .peers import runtimes
    from .peers.onnx_export import onnx_file

    shapes = [(1, 256, 64, 64), (BATCH, 1, 2), (BATCH, 1)]
    return runtimes.openvino(onnx_file("sam_b", "decoder"), shapes, bfloat16)


def random_embedding() -> Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))


def test_decoder(rows: RowCollector) -> None:
    theirs = openvino_decoder()
    model, embedding = recipe_model("sam_b"), random_embedding()
    points, labels = grid_points(), torch.ones(BATCH, 1)
    batches = points.split(BATCH)
    num_sampled = len(batches) if rows.full else SAMPLED
    batch_cycle = itertools.cycle(batches)

    def decode_all() -> None:
        image = model.prepare(embedding)
        for batch in batches:
            model.decode_prompts(image, batch, labels, multimask_output=True)

    def decode_passing() -> None:
        image = model.prepare(embedding)
        for batch in batches:
            iou, logits = model.decode_points(image, batch, labels, iou_threshold=threshold)
            point_index, mask_index = (iou > threshold).nonzero().T.tolist()
            logits(point_index, mask_index)

    def peer() -> None:
        for _ in range(num_sampled):
            theirs(embedding, next(batch_cycle), labels)

    with torch.inference_mode():
        image = model.prepare(embedding)
        best = torch.cat([model.decode_points(image, batch, labels)[0].amax(1) for batch in batches])
        threshold = float(best.quantile(FAILING))
        logits, iou = model.decode_prompts(image, batches[0], labels, multimask_output=True)
        their_logits, their_iou = theirs(embedding, batches[0], labels)
        difference = max(max_difference(logits, their_logits), max_difference(iou, their_iou))
        iou, logits_of = model.decode_points(image, batches[0], labels, iou_threshold=threshold)
        passing_masks = (iou > threshold).nonzero()
        filtered = logits_of(passing_masks[:, 0].tolist(), passing_masks[:, 1].tolist())
        filtered_difference = max_difference(filtered, their_logits[passing_masks[:, 0], passing_masks[:, 1]])
        rounds = rows.rounds(3)
        seconds = interleaved_medians({"all": decode_all, "passing": decode_passing, "peer": peer}, rounds)
    peer_s = seconds["peer"] * len(batches) / num_sampled
    note = "" if rows.full else f"{num_sampled} of OpenVINO's {len(batches)} batches timed"
    rows.add(
        "decoder/openvino", (seconds["all"], peer_s), rounds, difference=difference, tolerance=TOLERANCE, note=note
    )
    rows.add(
        "decoder_filtered/openvino",
        (seconds["passing"], peer_s),
        rounds,
        difference=filtered_difference,
        tolerance=TOLERANCE,
        note=note,
    )


@pytest.mark.skipif(why_not_bfloat16() != "", reason=why_not_bfloat16())
def test_decoder_in_bfloat16(rows: RowCollector) -> None:
    """Compare both in bfloat16. Our error against float32 must not exceed the peer's."""
    theirs = openvino_decoder(bfloat16=True)
    model, embedding = recipe_model("sam_b"), random_embedding()
    labels, batches = torch.ones(BATCH, 1), grid_points().split(BATCH)
    num_sampled = len(batches) if rows.full else SAMPLED
    batch_cycle = itertools.cycle(batches)

    def ours() -> None:
        image = model.prepare(embedding, matrices=torch.bfloat16)
        for batch in batches:
            model.decode_prompts(image, batch, labels, multimask_output=True)

    def peer() -> None:
        for _ in range(num_sampled):
            theirs(embedding, next(batch_cycle), labels)

    with torch.inference_mode():
        float32_logits, bfloat16_logits = (
            model.decode_prompts(
                model.prepare(embedding, None, matrix_dtype), batches[0], labels, multimask_output=True
            )[0]
            for matrix_dtype in (None, torch.bfloat16)
        )
        error, peer_error = (
            float((x - float32_logits).norm() / float32_logits.norm())
            for x in (bfloat16_logits, theirs(embedding, batches[0], labels)[0])
        )
        rounds = rows.rounds(3)
        seconds = interleaved_medians({"ours": ours, "peer": peer}, rounds)
    rows.add(
        "decoder_bfloat16/openvino",
        (seconds["ours"], seconds["peer"] * len(batches) / num_sampled),
        rounds,
        difference=error,
        tolerance=peer_error,
        difference_of="relative error of logits beside float32, at most the peer's",
        note="" if rows.full else f"{num_sampled} of OpenVINO's {len(batches)} batches timed",
    )
