"""How many threads a native operation may use, and keeping PyTorch's own out of their way.

PyTorch's OpenMP threads spin for milliseconds after each of its parallel steps, in case another follows. Native
operations start threads of their own, which would share the cores with the spinning ones: on two cores that takes up
to a third of an encoder's time. Where a model alternates between the two, PyTorch's small steps run on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch

_native: ContextVar[int] = ContextVar("_native", default=0)
_lock = Lock()
# How many `native_threads` are open in all Python threads, and PyTorch's thread count from before the first of them:
# a thread that meets PyTorch for the first time meanwhile would read 1.
_open = 0
_before = 1


def thread_count() -> int:
    """Threads for a native operation called now: PyTorch's setting, or what it was outside `native_threads`."""
    return _native.get() or torch.get_num_threads()


@contextmanager
def native_threads() -> Iterator[None]:
    """Within this context PyTorch runs on the calling thread alone, native operations on as many as it had."""
    global _open, _before
    if _native.get():
        yield
        return
    with _lock:
        count = torch.get_num_threads() if _open == 0 else max(_before, torch.get_num_threads())
        if _open == 0:
            _before = count
        _open += 1
    reset = _native.set(count)
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(count)
        _native.reset(reset)
        with _lock:
            _open -= 1
