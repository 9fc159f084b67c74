"""How many threads a native operation may use, and keeping PyTorch's own out of their way.

PyTorch's OpenMP threads spin for milliseconds after each of its parallel steps, in case another follows. Native
operations start threads of their own, which would share the cores with the spinning ones: on two cores that takes up
to a third of an encoder's time. Where a model alternates between the two, PyTorch's small steps run on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock, Thread

import torch

_native: ContextVar[int] = ContextVar("_native", default=0)
_lock = Lock()


def thread_count() -> int:
    """Threads for a native operation called now: PyTorch's setting, or what it was outside `native_threads`."""
    return _native.get() or torch.get_num_threads()


@contextmanager
def native_threads() -> Iterator[None]:
    """Within this context PyTorch runs on the calling thread alone, native operations on as many as it had."""
    if _native.get():
        yield
        return
    # PyTorch keeps a count for each thread, and one for the process that a thread takes over when it first meets
    # PyTorch. Setting a thread's sets the process's too; another, short-lived thread puts that back.
    with _lock:
        count = torch.get_num_threads()
        if count > 1:
            torch.set_num_threads(1)
            restore = Thread(target=torch.set_num_threads, args=(count,))
            restore.start()
            restore.join()
    reset = _native.set(count)
    try:
        yield
    finally:
        _native.reset(reset)
        if count > 1:
            torch.set_num_threads(count)
