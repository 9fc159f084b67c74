"""Tests the annotation pipeline, which loads, labels and writes at the same time: order, memory bound and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fastsam_core.annotate.pipeline import Pipeline


def batches_of(count: int, size: int, load: Callable[[int], int]) -> Iterator[list[Callable[[], int]]]:
    for first in range(0, count, size):
        yield [lambda number=number: load(number) for number in range(first, min(first + size, count))]  # type: ignore[misc]


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (2, 1), (3, 4), (8, 2)])
def test_items_are_processed_in_order_and_written(workers: int, batch_size: int) -> None:
    written: list[int] = []
    with Pipeline(
        batches_of(50, batch_size, lambda number: number), written.append, num_workers=workers, batch_size=batch_size
    ) as pipeline:
        seen = []
        for batch in pipeline:
            seen += batch
            for number in batch:
                pipeline.write(number)
    assert seen == list(range(50))
    assert sorted(written) == seen


@pytest.mark.parametrize("batch_size", [1, 3])
def test_images_in_memory_are_bounded(batch_size: int) -> None:
    """Loaded images are bounded, however slow writing is."""
    lock = threading.Lock()
    alive = peak = 0

    def load(number: int) -> int:
        nonlocal alive, peak
        with lock:
            alive += 1
            peak = max(peak, alive)
        return number

    def write(number: int) -> None:
        nonlocal alive
        time.sleep(0.002)
        with lock:
            alive -= 1

    workers = 2
    with Pipeline(batches_of(60, batch_size, load), write, num_workers=workers, batch_size=batch_size) as pipeline:
        for batch in pipeline:
            for number in batch:
                pipeline.write(number)
    # Loaded batches that wait, the batch being labelled, the one that the feeder holds, and images to be written.
    assert alive == 0 and peak <= 2 * workers + 4 * batch_size + 2 * workers + 1


def test_stages_overlap() -> None:
    """While an image is labelled, the next one is loaded and an earlier one is written."""
    loading, writing = threading.Event(), threading.Event()

    def load(number: int) -> int:
        if number == 1:
            loading.set()
        return number

    def write(number: int) -> None:
        writing.set()

    with Pipeline(batches_of(3, 1, load), write, num_workers=1) as pipeline:
        for batch in pipeline:
            if batch == [0]:
                assert loading.wait(10), "nothing is loaded while an image is labelled"
            if batch == [2]:
                assert writing.wait(10), "nothing is written while an image is labelled"
            pipeline.write(batch[0])


def test_write_error_stops_the_loop() -> None:
    def write(number: int) -> None:
        if number == 3:
            raise OSError("full")

    seen = []
    with (
        pytest.raises(OSError, match="full"),
        Pipeline(batches_of(10_000, 1, lambda number: number), write, num_workers=2) as pipeline,
    ):
        for batch in pipeline:
            seen += batch
            pipeline.write(batch[0])
    assert len(seen) < 100


def test_error_of_the_last_write_is_raised() -> None:
    def write(number: int) -> None:
        time.sleep(0.02)
        raise OSError("full")

    with (
        pytest.raises(OSError, match="full"),
        Pipeline(batches_of(1, 1, lambda n: n), write, num_workers=1) as pipeline,
    ):
        for batch in pipeline:
            pipeline.write(batch[0])


def test_errors_of_loading_and_of_the_source_are_raised() -> None:
    def load(number: int) -> int:
        raise RuntimeError(f"load {number}")

    with (
        pytest.raises(RuntimeError, match="load 0"),
        Pipeline(batches_of(5, 1, load), print, num_workers=2) as pipeline,
    ):
        list(pipeline)

    def batches() -> Iterator[list[Callable[[], int]]]:
        yield [lambda: 1]
        raise RuntimeError("no more")

    seen = []
    with pytest.raises(RuntimeError, match="no more"), Pipeline(batches(), print, num_workers=2) as feeding:
        for batch in feeding:
            seen.append(batch)
    assert seen == [[1]]


def test_leaving_early_ends_all_threads() -> None:
    before = threading.active_count()
    written: list[int] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Pipeline(batches_of(10_000, 1, lambda number: number), written.append, num_workers=2) as pipeline,
    ):
        for batch in pipeline:
            pipeline.write(batch[0])
            if batch == [5]:
                raise KeyboardInterrupt
    assert threading.active_count() == before
    assert set(written) <= set(range(6))
