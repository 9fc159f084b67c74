"""Loading, labelling and writing concurrently, in threads with bounded queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


class Pipeline(Generic[Item, Output]):
    """Thread pools that load and write, used as `with Pipeline(...) as p: for batch in p: p.write(...)`.

    batches: iterator of lists of functions that load one image each. It runs in a thread of its own, the functions in
    `num_workers` threads; iterating over the pipeline yields lists of their results, in order. write: called in
    `num_workers` other threads with each value given to the method `write`. batch_size: images per batch.

    About 2 x `num_workers` loaded images (but at least two batches) and 2 x `num_workers` unwritten values exist at a
    time at most. An error in any thread is raised by the next step of the iteration, by `write`, or on leaving. Leaving
    the block cancels loading that has not begun and waits for all writes; after an exception, writes that have not
    begun are cancelled too.
    """

    def __init__(
        self,
        batches: Iterator[list[Callable[[], Item]]],
        write: Callable[[Output], None],
        *,
        num_workers: int,
        batch_size: int = 1,
    ) -> None:
        self._batches = batches
        self._write = write
        self._queue: queue.Queue[list[Future[Item]] | BaseException | None] = queue.Queue(
            max(1, -(-2 * num_workers // batch_size) - 1)
        )
        self._loaders = ThreadPoolExecutor(num_workers, thread_name_prefix="fastsam-load")
        self._writers = ThreadPoolExecutor(num_workers, thread_name_prefix="fastsam-write")
        self._write_slots = threading.Semaphore(2 * num_workers)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._feeder = threading.Thread(target=self._feed, name="fastsam-feed", daemon=True)

    def __enter__(self) -> Pipeline[Item, Output]:
        self._feeder.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failed = exc_type is not None
        self._stop.set()
        self._feeder.join()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=failed)
        if not failed:
            self._raise_failure()

    def __iter__(self) -> Iterator[list[Item]]:
        while True:
            self._raise_failure()
            batch = self._queue.get()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield [future.result() for future in batch]

    def write(self, output: Output) -> None:
        """Queue `output` for writing; wait while 2 x `num_workers` values are unwritten."""
        self._write_slots.acquire()
        self._raise_failure()
        self._writers.submit(self._write_one, output)

    def _write_one(self, output: Output) -> None:
        try:
            if self._failure is None:
                self._write(output)
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._write_slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _feed(self) -> None:
        sentinel: BaseException | None = None
        try:
            for batch in self._batches:
                if self._stop.is_set() or not self._put([self._loaders.submit(load) for load in batch]):
                    return
        except BaseException as error:
            sentinel = error
        self._put(sentinel)

    def _put(self, batch: list[Future[Item]] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(batch, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
