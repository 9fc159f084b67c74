"""Loading, labelling and writing concurrently, in threads with bounded queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
Made = TypeVar("Made")


class Pipeline(Generic[Loaded, Made]):
    """Thread pools that load and write, used as `with Pipeline(...) as p: for group in p: p.write(...)`.

    groups: iterator of groups of functions that load one image each. It runs in a thread of its own, the functions in
    `workers` threads; iterating over the pipeline yields groups of their results, in order. write: called in `workers`
    other threads with each value given to the method `write`. batch: images per group.

    About 2 x `workers` loaded images (but at least two groups) and 2 x `workers` unwritten values exist at a time at
    most. An error in any thread is raised by the next step of the iteration, by `write`, or on leaving. Leaving the
    block cancels loading that has not begun and waits for all writes; after an exception, writes that have not begun
    are cancelled too.
    """

    def __init__(
        self,
        groups: Iterator[list[Callable[[], Loaded]]],
        write: Callable[[Made], None],
        *,
        workers: int,
        batch: int = 1,
    ) -> None:
        self._groups = groups
        self._write = write
        self._waiting: queue.Queue[list[Future[Loaded]] | BaseException | None] = queue.Queue(
            max(1, -(-2 * workers // batch) - 1)
        )
        self._loaders = ThreadPoolExecutor(workers, thread_name_prefix="fastsam-load")
        self._writers = ThreadPoolExecutor(workers, thread_name_prefix="fastsam-write")
        self._free = threading.Semaphore(2 * workers)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._feeder = threading.Thread(target=self._feed, name="fastsam-feed", daemon=True)

    def __enter__(self) -> Pipeline[Loaded, Made]:
        self._feeder.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        early = kind is not None
        self._stop.set()
        self._feeder.join()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=early)
        if not early:
            self._raise_failure()

    def __iter__(self) -> Iterator[list[Loaded]]:
        while True:
            self._raise_failure()
            group = self._waiting.get()
            if group is None:
                return
            if isinstance(group, BaseException):
                raise group
            yield [future.result() for future in group]

    def write(self, made: Made) -> None:
        """Queue `made` for writing; wait while 2 x `workers` values are unwritten."""
        self._free.acquire()
        self._raise_failure()
        self._writers.submit(self._write_one, made)

    def _write_one(self, made: Made) -> None:
        try:
            if self._failure is None:
                self._write(made)
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._free.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _feed(self) -> None:
        last: BaseException | None = None
        try:
            for group in self._groups:
                if self._stop.is_set() or not self._put([self._loaders.submit(load) for load in group]):
                    return
        except BaseException as error:
            last = error
        self._put(last)

    def _put(self, group: list[Future[Loaded]] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._waiting.put(group, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
