"""Checks and cases of `bench.gpu` for NMS, masks to run lengths, and residual sums with their LayerNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import ops
from fastsam_core.everything.arguments import Crop
from fastsam_core.everything.candidates import BatchQueue, Candidates, Filters, PendingBatch
from fastsam_core.everything.generate import _GPU_BATCH_SIZE as CHUNK
from fastsam_core.postprocess import MaskResizer

from .gpu_cases import Arguments, require_package
from .gpu_harness import Case, Check, Context, Workload, count_bytes, rotating_inputs


def nms_arguments(context: Context, seed: int) -> Arguments:
    count = context.size(10_000, 200)
    generator = torch.Generator().manual_seed(seed)
    corner, size = (
        1000 * torch.rand(count, 2, generator=generator),
        20 + 180 * torch.rand(count, 2, generator=generator),
    )
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator)
    return boxes.to(context.device), scores.to(context.device), 0.7


def nms_case(name: str, sibling: str) -> Case:
    def make(context: Context) -> Workload:
        if sibling == "torchvision":
            require_package("torchvision")
            from torchvision.ops import nms

            call: Callable[..., Any] = nms
        else:
            call = ops.siblings("nms")[sibling] if sibling else ops.nms
        # Not captured, because the host reads the number of kept boxes.
        return Workload(call, [nms_arguments(context, seed) for seed in range(4)], capture=False)

    return Case("nms", name, make)


def nms_check(context: Context) -> tuple[float, float]:
    boxes, scores, threshold = nms_arguments(context, 0)
    expected = ops.nms(boxes.cpu(), scores.cpu(), threshold).tolist()
    return float(ops.nms(boxes, scores, threshold).tolist() != expected), 0.0


def discs(context: Context, count: int) -> Tensor:
    """Return logits of discs, like a decoder's. About half have an edge so steep that the mask counts as stable."""
    side, device = context.size(256, 32), context.device
    generator = torch.Generator().manual_seed(count)
    centre = side * torch.rand(count, 2, 1, 1, generator=generator)
    radius = side / 60 + side / 4 * torch.rand(count, 1, 1, generator=generator)
    steepness = 20 + 120 * torch.rand(count, 1, 1, generator=generator)
    centre, radius, steepness = centre.to(device), radius.to(device), steepness.to(device)
    cells = torch.arange(side, device=device) + 0.5
    relative_distance = torch.hypot(cells[:, None] - centre[:, 0], cells - centre[:, 1]) / radius
    return (steepness * (1 - relative_distance)).clamp(-20, 20).float()


def resizer_sizes(context: Context) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return `MaskResizer`'s sizes for an image of 1800 x 1200: its content in the model's input, itself, the input."""
    side, height, width = context.size(256, 32), context.size(1200, 60), context.size(1800, 90)
    return (round(4 * side * height / width), 4 * side), (height, width), 4 * side


def mask_arguments(context: Context, count: int) -> Arguments:
    content, original, side = resizer_sizes(context)
    axes = MaskResizer(content, original, side)._axes_on(context.device)
    return discs(context, count), *axes, 0.0, 1.0, *original


def masks_case(name: str, count: int, sibling: str) -> Case:
    def make(context: Context) -> Workload:
        num_masks = context.size(count, 3)
        arguments = mask_arguments(context, num_masks)
        call = ops.siblings("mask_runs")[sibling] if sibling else ops.mask_runs
        # Not captured, because the host reads the number of runs.
        return Workload(call, [arguments], bytes=count_bytes(arguments[:1]), capture=False)

    return Case("masks", name, make)


def filtered_case(count: int) -> Case:
    """Return the post-processing of segment everything: measure masks, filter them, compute the runs of those left."""

    def make(context: Context) -> Workload:
        height, width = context.size(1200, 60), context.size(1800, 90)
        resizer = MaskResizer(*resizer_sizes(context))
        logits = discs(context, context.size(count, 6))
        pairs = np.stack([np.arange(len(logits)), np.zeros(len(logits), np.int64)], 1)
        scores, points = np.ones((len(logits), 1), np.float32), np.zeros((len(logits), 2))
        crop, filters = Crop((0, 0, width, height), points), Filters(-1e9, 0.95, 1.0, 0.0, 1.0)

        def run(logits: Tensor) -> list[Candidates]:
            queue, candidates = BatchQueue(), []
            for part, part_pairs in zip(
                logits.split(CHUNK), np.split(pairs, range(CHUNK, len(pairs), CHUNK)), strict=True
            ):
                measurement = resizer.measure_async(part, 0.0, filters.stability_score_offset, (height, width), (0, 0))
                candidates += queue.add(
                    PendingBatch(measurement, part_pairs, scores, points, crop, (height, width), filters)
                )
            return candidates + list(queue.drain())

        num_stable = sum(len(part.counts) for part in run(logits))
        note = f"{num_stable} of {len(logits)} are stable enough"
        return Workload(run, [(logits,)], bytes=count_bytes([logits]), note=note, capture=False)

    return Case("masks", f"ours, {count:,} masks, the stable ones to runs at 1800 x 1200", make)


def masks_check(context: Context) -> tuple[float, float]:
    arguments = mask_arguments(context, context.size(64, 3))
    expected = ops.mask_runs(*(x.cpu() if isinstance(x, Tensor) else x for x in arguments))
    return float(
        any(not torch.equal(a.cpu(), b) for a, b in zip(ops.mask_runs(*arguments), expected, strict=True))
    ), 0.0


def add_norm_in_two_steps(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x += delta
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_norm_case(name: str, call: Callable[..., Any]) -> Case:
    def make(context: Context) -> Workload:
        rows, channels = context.size(4096, 8), context.size(768, 256)
        sizes = (rows, channels), (rows, channels), (channels,), (channels,)

        def arguments(seed: int) -> Arguments:
            return (*(context.randn(*size, seed=4 * seed + i) for i, size in enumerate(sizes)), 1e-6)

        inputs = rotating_inputs(arguments, context.tiny)
        return Workload(call, inputs, bytes=2 * count_bytes(inputs[0][:2]))

    return Case("sums", name, make)


SMALL = [
    nms_case("ours, 10,000 boxes", ""),
    nms_case("torchvision, 10,000 boxes", "torchvision"),
    nms_case("PyTorch sibling, 10,000 boxes", "reference"),
    masks_case("ours, 1,024 masks to runs at 1800 x 1200", 1024, ""),
    filtered_case(3072),
    masks_case("PyTorch sibling, 16 masks to runs at 1800 x 1200", 16, "reference"),
    add_norm_case("ours, x += delta and LayerNorm, 4,096 x 768", ops.add_norm_into),
    add_norm_case("PyTorch, the same in two steps", add_norm_in_two_steps),
]
SMALL_CHECKS = [
    Check("nms", "the boxes that the CPU keeps (1 if not)", nms_check),
    Check("masks", "the runs that the CPU finds (1 if not)", masks_check),
]
