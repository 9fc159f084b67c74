"""How many threads a native operation may use, and keeping PyTorch's own out of their way.

PyTorch's OpenMP threads spin for milliseconds after each of its parallel steps, in case another follows. Native
operations start threads of their own, which would share the cores with the spinning ones: on two cores that takes up
to a third of an encoder's time. Where a model alternates between the two, PyTorch's small steps run on one thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock, Thread

import torch

_native: ContextVar[int] = ContextVar("_native", default=0)
_lock = Lock()


def _end_openmp_threads() -> None:
    """End those that PyTorch has started from this thread; they start again when they are next needed.

    GNU's runtime would still count on them in a forked child, which doesn't have them, and wait there without end.
    """
    if _pause_openmp is not None:
        _pause_openmp(_HARD_PAUSE)


def _leave_openmp_alone() -> None:
    """Where its threads can't be ended, PyTorch works on the child's thread alone, and native operations as before."""
    if says_of_forks() and torch.get_num_threads() > 1:
        _native.set(thread_count())
        torch.set_num_threads(1)


_HARD_PAUSE = 2  # omp_pause_hard of OpenMP 5.0, which the GNU runtime in PyTorch 2.4 is older than
_pause_openmp = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None) if sys.platform == "linux" else None

if hasattr(os, "register_at_fork"):
    # A child begins without the thread that may hold it; it is held for no more than a moment.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
    os.register_at_fork(before=_end_openmp_threads, after_in_child=_leave_openmp_alone)


def says_of_forks() -> str:
    """How PyTorch works in a forked child: "" where it does as in its parent."""
    stays = sys.platform == "linux" and _pause_openmp is None
    return "PyTorch's OpenMP runtime can't end its threads: in forked children PyTorch uses one" if stays else ""


def thread_count() -> int:
    """Threads for a native operation called now: PyTorch's setting, or what it was outside `native_threads`."""
    return _native.get() or torch.get_num_threads()


@contextmanager
def native_threads() -> Iterator[None]:
    """Within this context PyTorch runs on the calling thread alone, native operations on as many as it had."""
    if _native.get():
        yield
        return
    with _lock:
        count = torch.get_num_threads()
    reset = _native.set(count)
    try:  # a signal may raise from here on, as Ctrl-C does
        if count > 1:
            # PyTorch keeps a count for each thread, and one for the process that a thread takes over when it first
            # meets PyTorch. Setting a thread's sets the process's too; another, short-lived thread puts that back.
            with _lock:
                torch.set_num_threads(1)
                restore = Thread(target=torch.set_num_threads, args=(count,))
                restore.start()
                restore.join()
        yield
    finally:
        _native.reset(reset)
        if count > 1:
            torch.set_num_threads(count)


def share_out(work: Callable[[int], None], count: int) -> None:
    """Call work(i) for i in [0, count) on as many threads as native operations may use, or one for each of theirs.

    Where there are fewer calls than threads, the operations in them share the others. Calls start in the order of i.
    The modes of PyTorch (gradients, inference) are those of the caller. The first exception ends it: no further call
    starts, and it is raised here once those under way have ended.
    """
    available = thread_count()
    threads = min(available, count)
    if threads <= 1:
        for i in range(count):
            work(i)
        return
    each = -(-available // threads)
    numbers, lock, errors = iter(range(count)), Lock(), list[BaseException]()
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run() -> None:
        with native_threads(), torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            reset = _native.set(each)
            try:
                while not errors:
                    with lock:
                        i = next(numbers, None)
                    if i is None:
                        return
                    work(i)
            except BaseException as error:  # handed to the caller below, whatever it is
                errors.append(error)
            finally:
                _native.reset(reset)

    helpers = [Thread(target=run, name=f"fastsam-decode-{i}") for i in range(1, threads)]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
