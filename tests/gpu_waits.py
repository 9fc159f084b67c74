"""Counting how often the host waits for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def waits() -> Iterator[list[Any]]:
    """The warnings of PyTorch about its waits for the GPU within this context."""
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            # Switching this on gives a warning of its own, the first time.
            found += [one for one in said if "called a synchronizing CUDA operation" in str(one.message)]
