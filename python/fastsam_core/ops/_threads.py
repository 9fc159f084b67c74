"""Thread counts of native operations, and keeping PyTorch's own threads out of their way.

After each parallel step, PyTorch's OpenMP threads spin for milliseconds in case another step follows. Native operations
start threads of their own, which would compete with the spinning ones for the cores: on two cores that costs up to a
third of an encoder's time. So where a model alternates between the two, PyTorch's small steps run on one thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from threading import Lock, RLock, Thread

import torch

from .._log import warn_once

_native_thread_count: ContextVar[int] = ContextVar("_native_thread_count", default=0)
_lock = RLock()  # reentrant for the sake of signal handlers that predict


def _end_openmp_threads() -> None:
    """End the OpenMP threads that PyTorch has started from this thread; they restart when next needed.

    A forked child doesn't inherit them, but GNU's runtime there would still wait for them, forever.
    """
    if _pause_openmp is not None:
        _pause_openmp(_HARD_PAUSE)


def _limit_child_to_one_thread() -> None:
    """In a forked child, run PyTorch on one thread if its OpenMP threads couldn't be ended before the fork.

    Native operations keep the number of threads that they had.
    """
    if fork_limitation() and torch.get_num_threads() > 1:
        _native_thread_count.set(thread_count())
        torch.set_num_threads(1)


_HARD_PAUSE = 2  # omp_pause_hard of OpenMP 5.0; the GNU runtime in PyTorch 2.4 is older than that
_pause_openmp = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None) if sys.platform == "linux" else None

if hasattr(os, "register_at_fork"):
    # Fork only while no thread holds the lock: a child would inherit it locked, without the thread that unlocks it.
    # It is only ever held briefly.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
    os.register_at_fork(before=_end_openmp_threads, after_in_child=_limit_child_to_one_thread)


def fork_limitation() -> str:
    """Describe how PyTorch is limited in a forked child; "" if it works as in the parent."""
    cannot_stop = sys.platform == "linux" and _pause_openmp is None
    return (
        "PyTorch's OpenMP runtime can't stop its threads before a fork: PyTorch uses one thread in child processes"
        if cannot_stop
        else ""
    )


def thread_count() -> int:
    """Return the number of threads for a native operation called now.

    That is PyTorch's setting or, inside `native_threads`, the setting from before it was entered.
    """
    return _native_thread_count.get() or pytorch_thread_count()


def pytorch_thread_count() -> int:
    """Return PyTorch's number of threads in the calling thread, which this fixes if the thread is new to PyTorch.

    PyTorch keeps a count per thread and one for the process, which a thread copies when it first runs a parallel
    operation, to keep it. `native_threads` sets the process's to 1 for a moment, with the lock held. So a thread that
    may be new should call this before its first large PyTorch operation.
    """
    with _lock:
        return torch.get_num_threads()


@contextmanager
def native_threads() -> Iterator[None]:
    """Within this context, run PyTorch on the calling thread alone, and native operations on as many as PyTorch had.

    Nested contexts have no further effect.
    """
    if _native_thread_count.get():
        yield
        return
    count = pytorch_thread_count()
    reset = _native_thread_count.set(count)
    try:  # entered first, because a signal handler may raise at any point below (Ctrl-C does)
        if count > 1:
            # This also sets the process's count (see `pytorch_thread_count`), so a short-lived thread restores that.
            with _lock:
                torch.set_num_threads(1)
                restorer = Thread(target=torch.set_num_threads, args=(count,))
                if _try_start(restorer):
                    restorer.join()
        yield
    finally:
        _native_thread_count.reset(reset)
        if count > 1:
            torch.set_num_threads(count)


def _try_start(thread: Thread) -> bool:
    """Start a thread; return False if the system has no more threads, as in a container with a limit on processes."""
    try:
        thread.start()
    except RuntimeError as error:
        warn_once(f"{error}: native operations run on fewer threads; raise the limit on processes")
        return False
    return True


def parallel_for(function: Callable[[int], None], count: int) -> None:
    """Call function(i) for each i in [0, count), in parallel on up to `thread_count()` threads.

    With fewer calls than threads, each call's native operations may use an equal part of the threads, rounded up. Calls
    start in the order of i and see the caller's gradient and inference modes. After the first exception no further call
    starts; it is raised here once the running calls have ended.
    """
    available = thread_count()
    threads = min(available, count)
    if threads <= 1:
        for i in range(count):
            function(i)
        return
    threads_per_call = -(-available // threads)
    indices, lock, errors = iter(range(count)), Lock(), list[BaseException]()
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def worker() -> None:
        with native_threads(), torch.inference_mode(inference), torch.set_grad_enabled(grad):
            reset = _native_thread_count.set(threads_per_call)
            try:
                while not errors:
                    with lock:
                        i = next(indices, None)
                    if i is None:
                        return
                    function(i)
            except BaseException as error:  # re-raised in the calling thread below
                errors.append(error)
            finally:
                _native_thread_count.reset(reset)

    workers = [Thread(target=worker, name=f"fastsam-decode-{i}") for i in range(1, threads)]
    workers = list(takewhile(_try_start, workers))
    worker()
    for thread in workers:
        thread.join()
    if errors:
        raise errors[0]
