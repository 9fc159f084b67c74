"""Masks measured in steps, as on a GPU: the same records, few waits, and logits that are not needed for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import cuda_emulation
from fastsam_core import everything, measuring, ops
from fastsam_core.everything import candidates, generate, generate_masks
from fastsam_core.ops import _native_cuda
from fastsam_core.postprocess import MaskResizer
from test_everything import LOOSE, Discs

pytestmark = pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not() or "available")


@pytest.fixture
def kernels() -> Iterator[None]:
    """The emulated kernels serve CPU tensors, as the real ones do those on a GPU."""
    with _native_cuda.use_module(cuda_emulation.load()):
        yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    found: list[torch.device] = []
    for module in (generate, candidates):
        monkeypatch.setattr(module, "wait", found.append)
    return found


class ReusedDiscs(Discs):
    """`Discs` whose logits lie in the same memory at each call."""

    memory: torch.Tensor | None = None

    def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
        predicted_iou, logits = super().__call__(crop_box, points)

        def in_place(point_index: list[int], mask_index: list[int]) -> torch.Tensor:
            if self.memory is None:
                self.memory = torch.empty(64, self.side, self.side)
            return self.memory[: len(point_index)].copy_(logits(point_index, mask_index))

        return predicted_iou, in_place


SETTINGS: list[dict[str, Any]] = [
    LOOSE,
    {**LOOSE, "crop_n_layers": 1, "min_mask_region_area": 9},
    {**LOOSE, "points_batch_size": 3, "stability_score_thresh": 0.6},
    {**LOOSE, "points_batch_size": 1, "box_nms_thresh": 1.0, "stability_score_offset": 0.0},
    {**LOOSE, "conf_thres": 2.0},
    {**LOOSE, "stability_score_thresh": 2.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [(90, 120), (1, 1), (33, 64)])
def test_records_are_the_same(size: tuple[int, int], settings: dict[str, Any], kernels: None) -> None:
    with _native_cuda.use_module(None):
        expected = generate_masks(Discs(), size, **settings)
    assert generate_masks(Discs(), size, **settings) == expected
    assert generate_masks(ReusedDiscs(), size, **settings) == expected


def test_many_calls_for_one_batch(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with _native_cuda.use_module(None):
        expected = generate_masks(Discs(), (90, 120), **LOOSE)
    monkeypatch.setattr(generate, "_GPU_LOGITS_CHUNK", 5)
    decode = ReusedDiscs()
    assert generate_masks(decode, (90, 120), **LOOSE) == expected
    assert len(decode.batches) == 1 and len(decode.asked) == 48


def test_one_wait_for_each_batch_and_two_for_the_last(kernels: None, waits: list[torch.device]) -> None:
    decode = Discs()
    records = generate_masks(decode, (90, 120), **{**LOOSE, "points_batch_size": 2, "box_nms_thresh": 1.0})
    assert len(decode.batches) == 8 and len(records) == 48
    assert len(waits) == 8 + 2
    waits.clear()
    generate_masks(Discs(), (90, 120), **{**LOOSE, "points_batch_size": 2, "stability_score_thresh": 2.0})
    assert len(waits) == 8 + 1  # nothing to fetch


def test_the_next_batch_is_decoded_before_the_last_one_is_filtered(
    kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    numbers = measuring.MasksOnGpu.numbers
    monkeypatch.setattr(measuring.MasksOnGpu, "numbers", lambda self: steps.append("filter") or numbers(self))

    class Noted(Discs):
        def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
            steps.append("decode")
            predicted_iou, logits = super().__call__(crop_box, points)
            return predicted_iou, lambda p, m: steps.append("logits") or logits(p, m)

    generate_masks(Noted(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    assert steps == ["decode", "logits", "decode", "filter", "logits", "filter"]


def test_without_kernels_each_call_is_done_with_at_once(waits: list[torch.device]) -> None:
    steps: list[int] = []
    run = ops.mask_runs

    class Noted(ReusedDiscs):
        def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
            steps.append(len(self.asked))
            return super().__call__(crop_box, points)

    records = everything.generate_masks(Noted(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    assert records == generate_masks(Discs(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    assert steps == [0, 24]
    assert run is ops.mask_runs


def test_measured_and_records(kernels: None) -> None:
    resizer = MaskResizer((171, 256), (201, 301), 256)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    masks = torch.stack([6 * torch.sin(y / 5 + k) * torch.cos(x / (7 - k)) for k in range(5)])
    with _native_cuda.use_module(None):
        expected, records = resizer.measure(masks), resizer.records(masks)
        placed = resizer.measure(masks, 0.5, 2.0, (300, 400), (7, 9))
    for ours, theirs in (
        (resizer.measure(masks), expected),
        (resizer.measure(masks, 0.5, 2.0, (300, 400), (7, 9)), placed),
    ):
        assert torch.equal(ours.counts, theirs.counts) and torch.equal(ours.offsets, theirs.offsets)
        for name in ("areas", "boxes", "stability"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.dtype == b.dtype and np.array_equal(a, b)
    assert resizer.records(masks) == records
    assert resizer.records(masks[:0]) == []
    assert len(resizer.measure(masks[:0]).counts) == 0


def test_runs_of_chosen_masks_in_any_order(kernels: None) -> None:
    resizer = MaskResizer((64, 60), (77, 72), 64)
    masks = torch.randn(6, 16, 16, generator=torch.Generator().manual_seed(0))
    with _native_cuda.use_module(None):
        host = resizer.start(masks)
    started = resizer.start(masks)
    assert started.on_gpu and not host.on_gpu
    kept = np.array([4, 0, 4, 5])
    for masks_there in (host, started):
        assert masks_there.numbers().areas.tolist() == host.numbers().areas.tolist()
        masks_there.ask(kept)
    assert [runs.tolist() for runs in started.runs()] == [runs.tolist() for runs in host.runs()]
    empty = resizer.start(masks)
    empty.ask(np.arange(0))
    assert empty.runs() == []


def test_a_picture_of_more_pixels_than_32_bits_count(kernels: None) -> None:
    resizer = MaskResizer((64, 64), (20, 30), 64)
    masks = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    place = {"picture_hw": (2**17, 2**17), "corner": (2**16, 2**16)}
    with _native_cuda.use_module(None):
        expected = resizer.measure(masks, **place)
    found = resizer.measure(masks, **place)
    assert torch.equal(found.counts, expected.counts) and int(found.counts.max()) > 2**32
