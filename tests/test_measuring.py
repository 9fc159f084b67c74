"""Tests of measuring masks asynchronously, as on a GPU: equal records, order of steps, and lifetime of memory."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import cuda_emulation
from disc_model import LOOSE, Discs
from fastsam_core import everything, measuring
from fastsam_core.everything import generate, generate_masks
from fastsam_core.ops import _native_cuda
from fastsam_core.postprocess import MaskResizer

pytestmark = pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not() or "available")


@pytest.fixture
def kernels() -> Iterator[None]:
    """Let the emulated kernels run CPU tensors, as the real ones run tensors on a GPU."""
    with _native_cuda.use_module(cuda_emulation.load()):
        yield


class ReusedDiscs(Discs):
    """`Discs` that returns its logits in the same memory at every call, or alternates between two."""

    alternating = True
    memory: tuple[torch.Tensor, ...] | None = None

    def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
        predicted_iou, logits = super().__call__(crop_box, points)

        def in_place(point_index: list[int], mask_index: list[int]) -> torch.Tensor:
            if self.memory is None:
                self.memory = torch.empty(64, self.side, self.side), torch.empty(64, self.side, self.side)
            if self.alternating:
                self.memory = self.memory[::-1]
            return self.memory[0][: len(point_index)].copy_(logits(point_index, mask_index))

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
def test_records_equal_those_without_kernels(size: tuple[int, int], settings: dict[str, Any], kernels: None) -> None:
    with _native_cuda.use_module(None):
        expected = generate_masks(Discs(), size, **settings)
    assert generate_masks(Discs(), size, **settings) == expected
    assert generate_masks(ReusedDiscs(), size, **settings) == expected


class LateCopies:
    """The emulated module, but copies to the host's memory arrive only when they are waited for."""

    def __init__(self) -> None:
        late, module = self, cuda_emulation.load()
        self.module, self.under_way = module, list[tuple[int, bytes]]()

        class Event:
            def record(self, stream: int) -> None: ...
            def synchronize(self) -> None:
                late.arrive()

        class Problem:
            def __init__(self, *given: Any) -> None:
                self.real, self.n = module.MaskProblem(*given), given[1]
                self.workspace_bytes = self.real.workspace_bytes

            def measure(self, work: int, lengths: int, boxes: int, sizes: int, stream: int) -> None:
                found = np.zeros(8 * self.n, np.int64)
                to = [found.ctypes.data + 8 * place * self.n for place in (0, 1, 5)]
                self.real.measure(work, *to, stream)
                for at, first, count in zip((lengths, boxes, sizes), to, (1, 4, 3), strict=True):
                    late.copy_async(at, first, 8 * count * self.n, stream)

            def write(self, *given: Any) -> None:
                late.arrive()  # its input was copied earlier on the same stream
                self.real.write(*given)

        self.Event, self.MaskProblem = Event, Problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def copy_async(self, to: int, from_: int, count: int, stream: int) -> None:
        self.under_way.append((to, ctypes.string_at(from_, count)))

    def arrive(self) -> None:
        for to, content in self.under_way:
            ctypes.memmove(to, content, len(content))
        self.under_way.clear()


def test_host_memory_is_not_read_before_copies_arrive() -> None:
    for settings in SETTINGS:
        with _native_cuda.use_module(None):
            expected = generate_masks(Discs(), (90, 120), **settings)
        with _native_cuda.use_module(LateCopies()):
            assert generate_masks(Discs(), (90, 120), **settings) == expected


def test_host_memory_is_kept_until_copies_arrive() -> None:
    late, resizer = LateCopies(), MaskResizer((64, 60), (77, 72), 64)
    with _native_cuda.use_module(late):
        started = resizer.measure_async(torch.ones(6, 16, 16))
        assert late.under_way
        del started
        assert not late.under_way
        started = resizer.measure_async(torch.ones(6, 16, 16))
        started.request_runs(np.arange(3))
        assert late.under_way
        del started
        assert not late.under_way
        started = resizer.measure_async(torch.ones(6, 16, 16))
        started.request_runs(np.arange(3))
        assert started.runs()[0].tolist() == [0, 77 * 72] * 3 and not late.under_way


def test_many_runs_are_fetched_in_parts(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**LOOSE, "box_nms_thresh": 1.0}
    with _native_cuda.use_module(None):
        expected = generate_masks(Discs(), (90, 120), **settings)
    taken, host_memory = [], measuring._allocate_host
    monkeypatch.setattr(
        measuring, "_allocate_host", lambda count, device: taken.append(count) or host_memory(count, device)
    )
    assert generate_masks(Discs(), (90, 120), **settings) == expected and len(taken) == 2
    for most in (100, 1):
        taken.clear()
        monkeypatch.setattr(measuring, "_MAX_COUNTS_PER_REQUEST", most)
        assert generate_masks(Discs(), (90, 120), **settings) == expected
        numbers, *runs = taken
        # A mask has up to 60 counts, two of which share an element, and two elements of its own.
        assert numbers == 8 * 48 and len(runs) > 5 and max(runs) <= 1 + (100 + 60) // 2 + 2 * 48 // 5


def test_number_of_masks_at_once_depends_on_memory(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.ones(2, 3)
    assert [generate._logits_batch_size(size, scores) for size in ((90, 120), (20_000, 30_000))] == [1024, 1024]
    monkeypatch.setattr(generate, "has_ample_memory", lambda device: False)
    assert generate._logits_batch_size((1200, 1800), scores) == 512


def test_logits_of_one_batch_are_requested_in_chunks(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with _native_cuda.use_module(None):
        expected = generate_masks(Discs(), (90, 120), **LOOSE)
    monkeypatch.setattr(generate, "_GPU_BATCH_SIZE", 5)
    decode = ReusedDiscs()
    assert generate_masks(decode, (90, 120), **LOOSE) == expected
    assert len(decode.batches) == 1 and len(decode.asked) == 48


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps in order: "measure_async" starts, "measurements" waits for results, "runs" reads the runs."""
    found: list[str] = []
    for kind, name in (
        (MaskResizer, "measure_async"),
        (measuring.GpuMaskResults, "measurements"),
        (measuring.GpuMaskResults, "runs"),
    ):
        monkeypatch.setattr(kind, name, _recording(found, name, getattr(kind, name)))
    return found


def _recording(found: list[str], name: str, function: Any) -> Any:
    return lambda *args: found.append(name) or function(*args)


def test_next_masks_are_started_before_waiting_for_the_last(
    kernels: None, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_GPU_BATCH_SIZE", 16)
    assert len(generate_masks(Discs(), (90, 120), **{**LOOSE, "box_nms_thresh": 1.0})) == 48
    assert steps == [
        "measure_async",
        "measure_async",
        "measurements",
        "measure_async",
        "measurements",
        "runs",
        "measurements",
        "runs",
        "runs",
    ]
    steps.clear()
    generate_masks(Discs(), (90, 120), **{**LOOSE, "stability_score_thresh": 2.0})
    assert steps == [
        "measure_async",
        "measure_async",
        "measurements",
        "measure_async",
        "measurements",
        "measurements",
    ]  # nothing to fetch


def test_next_batch_is_decoded_before_the_last_one_is_filtered(kernels: None, steps: list[str]) -> None:
    class Noted(Discs):
        def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
            steps.append("decode")
            predicted_iou, logits = super().__call__(crop_box, points)
            return predicted_iou, lambda p, m: steps.append("logits") or logits(p, m)

    generate_masks(Noted(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    expected = [
        "decode",
        "logits",
        "measure_async",
        "decode",
        "logits",
        "measure_async",
        "measurements",
        "measurements",
        "runs",
        "runs",
    ]
    assert steps == expected


def test_at_most_two_chunks_of_logits_are_alive(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_GPU_BATCH_SIZE", 5)
    given: list[weakref.ref[torch.Tensor]] = []

    class Watched(Discs):
        def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
            predicted_iou, logits = super().__call__(crop_box, points)

            def fresh(point_index: list[int], mask_index: list[int]) -> torch.Tensor:
                assert sum(one() is not None for one in given) <= 1  # besides the one that is made now
                low_res = logits(point_index, mask_index).clone()
                given.append(weakref.ref(low_res))
                return low_res

            return predicted_iou, fresh

    assert len(generate_masks(Watched(), (90, 120), **{**LOOSE, "box_nms_thresh": 1.0})) == 48
    assert len(given) == 10


def test_logits_memory_may_be_reused_at_once_without_kernels() -> None:
    steps: list[int] = []

    class Noted(ReusedDiscs):
        alternating = False

        def __call__(self, crop_box: list[int], points: torch.Tensor) -> Any:
            steps.append(len(self.asked))
            return super().__call__(crop_box, points)

    records = everything.generate_masks(Noted(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    assert records == generate_masks(Discs(), (64, 64), **{**LOOSE, "points_batch_size": 8})
    assert steps == [0, 24]


def test_measure_and_records_equal_those_without_kernels(kernels: None) -> None:
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
        host = resizer.measure_async(masks)
    started = resizer.measure_async(masks)
    assert started.is_cuda and not host.is_cuda
    kept = np.array([4, 0, 4, 5])
    for masks_there in (host, started):
        assert masks_there.measurements().areas.tolist() == host.measurements().areas.tolist()
        masks_there.request_runs(kept)
    assert [runs.tolist() for runs in started.runs()] == [runs.tolist() for runs in host.runs()]
    assert not any(np.shares_memory(a, b) for a, b in zip(started.runs_as_tensors(), started.runs(), strict=True))
    assert not any(np.shares_memory(started.measurements().areas, given) for given in started._raw_measurements)
    empty = resizer.measure_async(masks)
    empty.request_runs(np.arange(0))
    assert [runs.tolist() for runs in empty.runs()] == [[], [0]]


def test_images_of_more_than_2_to_the_32_pixels(kernels: None) -> None:
    resizer = MaskResizer((64, 64), (20, 30), 64)
    masks = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    crop = {"image_hw": (2**17, 2**17), "corner": (2**16, 2**16)}
    with _native_cuda.use_module(None):
        expected = resizer.measure(masks, **crop)
    found = resizer.measure(masks, **crop)
    assert torch.equal(found.counts, expected.counts) and int(found.counts.max()) > 2**32
