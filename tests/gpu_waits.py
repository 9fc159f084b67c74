"""Counts how often the host waits for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def waits() -> Iterator[list[Any]]:
    """Collect PyTorch's warnings about synchronising with the GPU; the list is filled when the context ends."""
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            # Other warnings are ignored: switching the debug mode on emits one itself, the first time.
            found += [one for one in said if "called a synchronizing CUDA operation" in str(one.message)]
