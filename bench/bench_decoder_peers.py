"""Decode 1,024 one-point prompts, compared with OpenVINO in batches of 64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastsam_core.models.precision import why_not_bfloat16

from .interleave import Rows, max_difference, medians, need
from .recipe import recipe_model

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
    need("openvino")
    need("onnxscript")
    from .peers import runtimes
    from .peers.onnx_export import onnx_file

    shapes = [(1, 256, 64, 64), (BATCH, 1, 2), (BATCH, 1)]
    return runtimes.openvino(onnx_file("sam_b", "decoder"), shapes, bfloat16)


def random_embedding() -> Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))


def test_decoder(rows: Rows) -> None:
    theirs = openvino_decoder()
    model, embedding = recipe_model("sam_b"), random_embedding()
    points, labels = grid_points(), torch.ones(BATCH, 1)
    batches = points.split(BATCH)
    sampled = len(batches) if rows.full else SAMPLED
    turn = itertools.cycle(batches)

    def all_masks() -> None:
        image = model.prepare(embedding)
        for batch in batches:
            model.decode_prompts(image, batch, labels, multimask_output=True)

    def passing() -> None:
        image = model.prepare(embedding)
        for batch in batches:
            iou, logits = model.decode_points(image, batch, labels, iou_threshold=threshold)
            point_index, mask_index = (iou > threshold).nonzero().T.tolist()
            logits(point_index, mask_index)

    def peer() -> None:
        for _ in range(sampled):
            theirs(embedding, next(turn), labels)

    with torch.inference_mode():
        image = model.prepare(embedding)
        best = torch.cat([model.decode_points(image, batch, labels)[0].amax(1) for batch in batches])
        threshold = float(best.quantile(FAILING))
        logits, iou = model.decode_prompts(image, batches[0], labels, multimask_output=True)
        their_logits, their_iou = theirs(embedding, batches[0], labels)
        difference = max(max_difference(logits, their_logits), max_difference(iou, their_iou))
        iou, some = model.decode_points(image, batches[0], labels, iou_threshold=threshold)
        chosen = (iou > threshold).nonzero()
        filtered = some(chosen[:, 0].tolist(), chosen[:, 1].tolist())
        filtered_difference = max_difference(filtered, their_logits[chosen[:, 0], chosen[:, 1]])
        rounds = rows.rounds(3)
        spent = medians({"all": all_masks, "passing": passing, "peer": peer}, rounds)
    peer_s = spent["peer"] * len(batches) / sampled
    note = "" if rows.full else f"{sampled} of OpenVINO's {len(batches)} batches timed"
    rows.add("decoder/openvino", (spent["all"], peer_s), rounds, difference=difference, tolerance=TOLERANCE, note=note)
    rows.add(
        "decoder_filtered/openvino",
        (spent["passing"], peer_s),
        rounds,
        difference=filtered_difference,
        tolerance=TOLERANCE,
        note=note,
    )


@pytest.mark.skipif(why_not_bfloat16() != "", reason=why_not_bfloat16())
def test_decoder_in_bfloat16(rows: Rows) -> None:
    """Compare both in bfloat16. Our error against float32 must not exceed the peer's."""
    theirs = openvino_decoder(bfloat16=True)
    model, embedding = recipe_model("sam_b"), random_embedding()
    labels, batches = torch.ones(BATCH, 1), grid_points().split(BATCH)
    sampled = len(batches) if rows.full else SAMPLED
    turn = itertools.cycle(batches)

    def ours() -> None:
        image = model.prepare(embedding, matrices=torch.bfloat16)
        for batch in batches:
            model.decode_prompts(image, batch, labels, multimask_output=True)

    def peer() -> None:
        for _ in range(sampled):
            theirs(embedding, next(turn), labels)

    with torch.inference_mode():
        exact, given = (
            model.decode_prompts(model.prepare(embedding, None, kind), batches[0], labels, multimask_output=True)[0]
            for kind in (None, torch.bfloat16)
        )
        error, usual = (
            float((x - exact).norm() / exact.norm()) for x in (given, theirs(embedding, batches[0], labels)[0])
        )
        rounds = rows.rounds(3)
        spent = medians({"ours": ours, "peer": peer}, rounds)
    rows.add(
        "decoder_bfloat16/openvino",
        (spent["ours"], spent["peer"] * len(batches) / sampled),
        rounds,
        difference=error,
        tolerance=usual,
        difference_of="relative error of logits beside float32, at most the peer's",
        note="" if rows.full else f"{sampled} of OpenVINO's {len(batches)} batches timed",
    )
