"""Tests of masks and run lengths on a GPU: bits equal to the CPU's, streams, memory and synchronisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from disc_model import LOOSE, Discs
from fastsam_core import measuring, ops, rle
from fastsam_core.everything import generate, generate_masks
from fastsam_core.postprocess import MaskResizer
from fastsam_core.stopwatch import Stopwatch
from gpu_waits import waits

pytestmark = pytest.mark.gpu

HEIGHT, WIDTH = 1200, 1800
OPERATIONS = ("mask_runs", "rle_encode", "rle_decode", "rle_area", "rle_to_bbox", "rle_iou")


def resizer() -> MaskResizer:
    return MaskResizer((683, 1024), (HEIGHT, WIDTH), 1024)


def blobs(n: int) -> Tensor:
    """Return logits (n, 256, 256) of discs; every sixteenth is noise."""
    random = torch.Generator().manual_seed(0)
    centre, radius = 256 * torch.rand(n, 2, generator=random), 4 + 60 * torch.rand(n, generator=random)
    cells = torch.arange(256) + 0.5
    distance = torch.hypot(cells[:, None] - centre[:, 0, None, None], cells - centre[:, 1, None, None])
    logits = (60 * (1 - distance / radius[:, None, None])).clamp(-20, 20)
    logits[::16] = torch.randn(len(logits[::16]), 256, 256, generator=random)
    return logits


def arguments(logits: Tensor) -> tuple[Any, ...]:
    return logits, *resizer()._axes_on(logits.device), 0.0, 1.0, HEIGHT, WIDTH


def assert_equal_to_cpu(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.is_cuda and a.dtype == b.dtype and torch.equal(a.cpu(), b)


def test_which_operations_have_kernels() -> None:
    tensor = torch.zeros(1, device="cuda")
    assert [ops.why(op, tensor)["cuda"] for op in OPERATIONS] == [""] * len(OPERATIONS)
    for op in ("mask_remove_small_regions", "rle_merge", "rle_crop", "rle_to_string"):
        assert ops.why(op, tensor)["cuda"] == f"{op} has no CUDA kernel"


def test_full_size_masks_equal_the_cpu() -> None:
    logits = blobs(64)
    expected = ops.mask_runs(*arguments(logits))
    there = arguments(logits.cuda())
    for _ in range(20):
        assert_equal_to_cpu(ops.mask_runs(*there), expected)


def test_operations_synchronise_once_for_the_number_of_runs() -> None:
    there = arguments(blobs(16).cuda())
    ops.mask_runs(*there)
    masks = torch.rand(4, 300, 200, device="cuda") < 0.1
    with waits() as found:
        ops.mask_runs(*there)
    assert len(found) == 1
    with waits() as found:
        counts, offsets = ops.rle_encode(masks)
    assert len(found) == 1
    with waits() as found:
        ops.rle_decode(counts, offsets, 300, 200)
    assert len(found) == 1


def test_measuring_does_not_synchronise() -> None:
    logits, one = blobs(64).cuda(), resizer()
    one.measure(logits)
    with waits() as found:
        started = one.measure_async(logits)
    assert not found and isinstance(started, measuring.GpuMaskResults)
    kept = np.flatnonzero(started.measurements().stability > 0.9)
    with waits() as found:
        started.request_runs(kept)
    assert not found
    host = one.measure_async(logits.cpu())
    host.request_runs(kept)
    assert [runs.tolist() for runs in started.runs()] == [runs.tolist() for runs in host.runs()]


def test_memory_is_proportional_to_the_runs() -> None:
    logits = blobs(3072).cuda()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    counts = ops.mask_runs(*arguments(logits))[0]
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < counts.numel() * 8 + (32 << 20)


def test_equal_bits_on_several_streams() -> None:
    logits = blobs(48)
    expected = ops.mask_runs(*arguments(logits))
    there, results = arguments(logits.cuda()), []
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(3)]
    for stream in streams * 3:
        with torch.cuda.stream(stream):
            results.append(ops.mask_runs(*there))
    torch.cuda.synchronize()
    for result in results:
        assert_equal_to_cpu(result, expected)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_full_size_run_lengths_equal_the_cpu(layout: str) -> None:
    masks = torch.from_numpy(np.random.default_rng(0).random((6, HEIGHT, WIDTH + 1)) < 0.03)
    masks[1], masks[2] = True, False
    if layout == "columns":
        masks = masks.transpose(1, 2).contiguous().transpose(1, 2)
    counts, offsets = ops.rle_encode(masks)
    ours = ops.rle_encode(masks.cuda())
    assert_equal_to_cpu(ours, (counts, offsets))
    heights, crowd = torch.full((6,), HEIGHT), torch.arange(6) % 2 == 0
    assert_equal_to_cpu([ops.rle_area(*ours)], [ops.rle_area(counts, offsets)])
    assert_equal_to_cpu([ops.rle_to_bbox(*ours, heights.cuda())], [ops.rle_to_bbox(counts, offsets, heights)])
    assert_equal_to_cpu(
        [ops.rle_iou(*ours, *ours, crowd.cuda())], [ops.rle_iou(counts, offsets, counts, offsets, crowd)]
    )
    for column_major in (False, True):
        assert_equal_to_cpu([ops.rle_decode(*ours, HEIGHT, WIDTH + 1, column_major)], [masks])
    assert rle.from_masks(masks.cuda()) == rle.from_masks(masks)


def test_segment_everything_equals_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class There(Discs):
        def __call__(self, crop_box: list[int], points: Tensor) -> Any:
            predicted_iou, logits = super().__call__(crop_box, points)
            return predicted_iou.cuda(), lambda p, m: logits(p, m).cuda()

    settings = {**LOOSE, "points_stride": 8, "points_batch_size": 16, "crop_n_layers": 1}
    expected = generate_masks(Discs(), (240, 320), **settings)
    for masks_at_once, counts_at_once in ((1024, 60_000_000), (7, 60_000_000), (64, 1000)):
        monkeypatch.setattr(generate, "_GPU_BATCH_SIZE", masks_at_once)
        monkeypatch.setattr(measuring, "_MAX_COUNTS_PER_REQUEST", counts_at_once)
        assert generate_masks(There(), (240, 320), **settings) == expected


def test_asynchronous_work_is_timed_in_its_phase() -> None:
    watch, device = Stopwatch(), torch.device("cuda")
    x = torch.rand(4096, 4096, device=device)
    x @ x
    with watch.phase("postprocess", device), watch.phase("inference", device):
        for _ in range(20):
            x = x @ x
            x /= x.amax()
    assert watch.speed["inference"] > 0
