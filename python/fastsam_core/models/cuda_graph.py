"""Records what a function launches on a GPU, to be launched again as a whole."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

# PyTorch prepares its random generators for one capture at a time.
_recording = threading.Lock()
# The memory pools of all graphs that were recorded here.
_pools: set[Any] = set()
# Graphs whose capture didn't end: PyTorch's allocator of pinned memory goes on asking them whether they are capturing.
_broken: list[Any] = []


def record(run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    """What `run` launches on the current device, as a graph with a `replay()`, and the tensor that each replay fills.

    Nothing is computed meanwhile. `run` must have run before in this thread, so that all it needs is loaded; what it
    reads must stay where it is. The graph's own memory is nobody else's while it lives. Other threads may use the GPU
    and allocate, but get an error for `torch.cuda.empty_cache` and, before PyTorch 2.13, for random numbers meanwhile.

    Whatever goes wrong is raised when the capture has ended and PyTorch is as it was. RuntimeError where others have
    CUDA graphs.
    """
    device = torch.cuda.current_device()
    if _others_have_pools():
        raise RuntimeError("this program has CUDA graphs or memory pools of its own")
    graph, pool = torch.cuda.CUDAGraph(), _new_pool()
    current = torch.cuda.current_stream()
    # The default stream can't be captured. A graph keeps the priority of where it was.
    side = torch.cuda.Stream(priority=current.priority)
    with _recording, _no_garbage_collection():
        # cuBLAS has a workspace for each stream. The graph's must be its own: PyTorch hands the same few streams to
        # everybody, and what they run there may run while the graph does. So none is found now and none is left. Only
        # graphs, which hold no others, could miss what they were recorded with.
        torch._C._cuda_clearCublasWorkspaces()
        side.wait_stream(current)
        try:
            with torch.cuda.stream(side):
                result = _captured(run, graph, pool, device)
        finally:
            current.wait_stream(side)
            torch._C._cuda_clearCublasWorkspaces()
    return graph, result


def _captured(run: Callable[[], Tensor], graph: Any, pool: Any, device: int) -> Tensor:
    """`run` on the current stream, which is captured from before until after it, however that ends."""
    try:
        # Others may allocate at the same time, which the stricter mode takes for a failure.
        graph.capture_begin(pool, capture_error_mode="thread_local")
    except BaseException:
        _mend(graph, pool, device)
        raise
    try:
        result = run()
    except BaseException:
        try:
            graph.capture_end()
            graph.reset()
        except Exception:  # of what went wrong before
            _mend(graph, pool, device)
        raise
    try:
        graph.capture_end()
    except BaseException:
        _mend(graph, pool, device)
        raise
    return result


def _mend(graph: Any, pool: Any, device: int) -> None:
    """What PyTorch leaves undone where a capture is not ended by the book."""
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:  # it had ended, or hadn't begun
        graph.reset()
    else:
        torch._C._cuda_releasePool(device, pool)
        _broken.append(graph)
    # Random numbers are still prepared for a capture, and refused to everybody, until some capture ends well.
    with suppress(RuntimeError):
        other = torch.cuda.CUDAGraph()
        other.capture_begin(_new_pool(), capture_error_mode="thread_local")
        try:
            torch.zeros(1, device=torch.device("cuda", device))
        finally:
            other.capture_end()


def _new_pool() -> Any:
    pool = torch.cuda.graph_pool_handle()
    _pools.add(pool)
    return pool


def _others_have_pools() -> bool:
    """Whether memory is set apart, on any GPU, for graphs that weren't recorded here."""
    found = {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}
    return not found <= _pools | {(0, 0)}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What it frees may call CUDA in a way that a capture doesn't survive, such as another graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
