"""Record the kernels that a function launches on a GPU as a CUDA graph, which launches them again as a whole."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

# PyTorch prepares its random generators for only one capture at a time.
_capture_lock = threading.Lock()
# Memory pools of all graphs that were recorded here.
_pools: set[Any] = set()
# Graphs whose capture didn't end, kept alive: PyTorch's pinned-memory allocator keeps asking them whether they are
# capturing.
_unfinished_graphs: list[Any] = []


def record(run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    """Return a graph of what `run` launches on the current device, and the tensor that each `graph.replay()` fills.

    Nothing is computed during the recording. `run` must have run before in this thread, so that everything it needs is
    loaded, and the memory it reads must stay where it is. The graph's own memory is not reused by anyone while the
    graph lives. Other threads may use the GPU and allocate meanwhile, but `torch.cuda.empty_cache` and, before PyTorch
    2.13, random numbers raise an error in them.

    Exceptions are raised after the capture has ended and PyTorch's state is restored. Raises RuntimeError if the
    program has other CUDA graphs or memory pools.
    """
    device = torch.cuda.current_device()
    if _has_foreign_pools():
        raise RuntimeError("this program has CUDA graphs or memory pools of its own")
    graph, pool = torch.cuda.CUDAGraph(), _new_pool()
    current = torch.cuda.current_stream()
    # The default stream can't be captured. A graph keeps the priority of the stream it was recorded on.
    capture_stream = torch.cuda.Stream(priority=current.priority)
    with _capture_lock, _no_garbage_collection():
        # cuBLAS has one workspace per stream, and the graph needs one of its own: PyTorch hands out the same few
        # streams to everybody, so work of others on this stream may run while the graph does. Clearing the workspaces
        # before and after makes the capture allocate one in the graph's pool that nobody else gets. This can't hurt
        # existing graphs: those recorded here use only the workspaces in their own pools.
        torch._C._cuda_clearCublasWorkspaces()
        capture_stream.wait_stream(current)
        try:
            with torch.cuda.stream(capture_stream):
                result = _capture(run, graph, pool, device)
        finally:
            current.wait_stream(capture_stream)
            torch._C._cuda_clearCublasWorkspaces()
    return graph, result


def _capture(run: Callable[[], Tensor], graph: Any, pool: Any, device: int) -> Tensor:
    """Return `run()`, captured on the current stream. The capture is ended even if `run` raises."""
    try:
        # The stricter modes would fail if another thread allocates during the capture.
        graph.capture_begin(pool, capture_error_mode="thread_local")
    except BaseException:
        _recover_from_failed_capture(graph, pool, device)
        raise
    try:
        result = run()
    except BaseException:
        try:
            graph.capture_end()
            graph.reset()
        except Exception:  # a consequence of the first error
            _recover_from_failed_capture(graph, pool, device)
        raise
    try:
        graph.capture_end()
    except BaseException:
        _recover_from_failed_capture(graph, pool, device)
        raise
    return result


def _recover_from_failed_capture(graph: Any, pool: Any, device: int) -> None:
    """Restore the state that PyTorch leaves inconsistent after a capture that failed to begin or to end."""
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:  # the capture had ended, or hadn't begun
        graph.reset()
    else:
        torch._C._cuda_releasePool(device, pool)
        _unfinished_graphs.append(graph)
    # The random generators are still in capture mode and raise for everybody until some capture ends properly.
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


def _has_foreign_pools() -> bool:
    """Return whether any GPU has private memory pools of graphs that weren't recorded here."""
    pool_ids = {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}
    return not pool_ids <= _pools | {(0, 0)}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection within this context.

    Objects that it frees, such as another graph, may make CUDA calls that invalidate a capture.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
