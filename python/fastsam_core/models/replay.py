"""Image encoders on a GPU as CUDA graphs: their hundreds of launches are recorded once, then replayed by one call.

For a single image the launches take the host milliseconds, and the GPU would be idle in between.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from .._environment import read_switch
from .._log import warn_once
from ..ops._attention.cuda import why_not
from ..ops._dispatch_bypass import is_unobserved
from ..ops._native_cuda import cuda_module, stream_of, why_not_on
from .cuda_graph import record
from .module_cache import cached, is_capturing, modules_of
from .native import is_plain
from .precision import dtype_of

# Opt-in, because a recording restricts what other threads may do. On an H200 ViT-B takes 2.7 ms with graphs and 3.2 ms
# without.
SWITCHED_OFF = "off; FASTSAM_CUDA_GRAPHS=1 uses them"
MIN_PYTORCH_VERSION = 2, 11
# A graph is recorded after this many calls with the same key, so that one or two images cost nothing extra.
WARMUP_CALLS = 3
# Number of graphs per encoder; the least recently used one is dropped. Each graph has its own memory for the peak of
# the activations, the input, the embeddings and cuBLAS's workspace. For ViT-B and one image in half precision that is,
# by arithmetic, 40 MB of activations (tokens, the hidden layer of their MLP and its input or output; 6 MB per 768
# channels), 6 MB of images and 32 MB of workspace on Hopper, allocated in pieces of up to 20 MB: 100 to 130 MB.
MAX_GRAPHS = 4
# Two images of 1,024 x 1,024, or 8,192 tokens. With more the GPU is slower than its host anyway, and the memory would
# grow.
MAX_PIXELS = 2 << 20
# Free memory that must be left: other allocations can't use a graph's memory, even when they run out of it.
MIN_FREE_BYTES = 1 << 30


def _read_disabled_reason() -> str:
    """Return why no graphs are used, or an empty string. ValueError for an invalid FASTSAM_CUDA_GRAPHS."""
    if read_switch("FASTSAM_CUDA_GRAPHS") != "1":
        return SWITCHED_OFF
    reason = ""
    if cuda_module is None:  # without kernels attention makes matrices of a gigabyte, which a graph would hold
        reason = "the CUDA kernels are not in use"
    elif (
        _pytorch_version() < MIN_PYTORCH_VERSION
    ):  # older ones may crash in threads that use cuBLAS while workspaces are cleared
        reason = "PyTorch 2.11 or newer is needed"
    if reason:
        warn_once(f"FASTSAM_CUDA_GRAPHS=1 has no effect: {reason}")
    return reason


def _pytorch_version() -> tuple[int, ...]:
    return tuple(int(number) for number in torch.__version__.split(".")[:2])


disabled_reason = _read_disabled_reason()


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return `encoder(images)`, with the images converted to its dtype, replayed from a CUDA graph if possible.

    Graphs are used for inference with few images on a GPU, and only if nothing observes the call but its result: no
    gradients, autocast, hooks, compilers, modes or profilers, no capture by others, only this package's and PyTorch's
    own layers, none of them in training mode. Results are the same to the bit, and are new tensors. Changes of the
    encoder's weights, layers and hooks are noticed as by `cached`.
    """
    if disabled_reason or not _is_replayable(encoder, images):
        return _encode_eagerly(encoder, images)
    if not _is_on_other_device(images):
        return _encode_on_current_device(encoder, images)
    with torch.cuda.device(images.device):
        return _encode_on_current_device(encoder, images)


def _encode_on_current_device(encoder: nn.Module, images: Tensor) -> Tensor:
    """Run `encode` on the current device."""
    if is_capturing():
        return _encode_eagerly(encoder, images)
    # For a copy in another dtype this checks nothing: the copy is dropped when its original changes.
    return cached(encoder, "graphs", GraphCache)(encoder, images)


def _encode_eagerly(encoder: nn.Module, images: Tensor) -> Tensor:
    """Call the encoder without a graph."""
    result: Tensor = encoder(images.to(dtype_of(encoder)))
    return result


def _is_replayable(encoder: nn.Module, images: Tensor) -> bool:
    """Return whether this call may be replayed, as far as that differs from call to call. Fast checks come first."""
    return (
        type(images) is Tensor
        and _on_gpu(images)
        and not encoder.training
        and 0 < images.numel() <= 3 * MAX_PIXELS
        and is_unobserved()
        and not torch.is_autocast_enabled("cuda")
        and not (nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
        and images.is_floating_point()
        and images.is_contiguous()
    )


def _on_gpu(images: Tensor) -> bool:
    """Return whether a tensor is on a GPU. A function of its own, so that tests can replace it."""
    return images.is_cuda


def _is_on_other_device(images: Tensor) -> bool:
    """Return whether the images are on another GPU than the current one, whose captures and streams PyTorch reports."""
    return images.device.index != torch.cuda.current_device()


def _device_and_stream(images: Tensor) -> Hashable:
    """Return the key of where a graph is replayed: its device and stream. The stream's order keeps two calls apart."""
    return images.device, stream_of(images.device.index)


def _free_bytes() -> int:
    """Return the free memory of the current GPU."""
    return torch.cuda.mem_get_info()[0]


def _setting_getters() -> list[Callable[[], Any]]:
    """Return functions that read the settings by which PyTorch chooses kernels, and which may change between calls."""
    names = (
        *("_get_deterministic_algorithms", "_get_deterministic_fill_uninitialized_memory"),
        *("_get_cudnn_enabled", "_get_cudnn_deterministic", "_get_cudnn_benchmark"),
        *("_get_cublas_allow_fp16_reduced_precision_reduction", "_get_cublas_allow_bf16_reduced_precision_reduction"),
        *("_get_cublas_allow_fp16_accumulation", "_get_blas_preferred_backend"),
    )
    getters = [getattr(torch._C, name) for name in names if hasattr(torch._C, name)]
    precision_getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if precision_getter is None:  # the older names raise an error after the newer ones were used
        return [*getters, torch._C._get_cublas_allow_tf32, torch._C._get_cudnn_allow_tf32]
    return [*getters, *(partial(precision_getter, "cuda", operation) for operation in ("matmul", "conv"))]


_SETTING_GETTERS = _setting_getters()


class RecordedGraph:
    """A recorded graph, with the tensors that it reads and fills."""

    def __init__(self, encoder: nn.Module, images: Tensor) -> None:
        # Tensors made in inference mode couldn't be filled outside of it.
        with torch.inference_mode(False), torch.no_grad():
            static_input = torch.empty_like(images, dtype=dtype_of(encoder))
            self._graph, self._static_output = record(lambda: encoder(static_input))
        self._static_input = static_input

    def __call__(self, images: Tensor) -> Tensor:
        self._static_input.copy_(images)
        self._graph.replay()
        return self._static_output.clone()


class GraphCache:
    """The graphs of one encoder in its current state.

    The encoder is passed to each call instead of being stored, since `cached` requires that a cached value doesn't hold
    its module.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, int | RecordedGraph] = OrderedDict()  # an int counts calls before a graph
        self._lock = threading.Lock()
        self._disabled = False

    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        # Don't wait for another thread, which may be recording: an ordinary call takes less time.
        if self._disabled or not self._lock.acquire(blocking=False):
            return _encode_eagerly(encoder, images)
        try:
            return self._encode(encoder, images)
        finally:
            self._lock.release()

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Replay this call's graph if there is one; else call the encoder, and record a graph if it is due."""
        key = _device_and_stream(images), images.shape, *(getter() for getter in _SETTING_GETTERS)
        entry = self._entries.get(key, 0)
        if isinstance(entry, RecordedGraph):
            self._entries.move_to_end(key)
            try:
                return entry(images)
            except Exception as error:
                self._disable(encoder, error)
                return _encode_eagerly(encoder, images)
        # This also runs before a recording, in the same thread, so that whatever is loaded or chosen at first use is
        # ready.
        result = _encode_eagerly(encoder, images)
        self._entries[key] = entry + 1
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_GRAPHS:
            self._entries.popitem(last=False)
        if entry + 1 >= WARMUP_CALLS:
            self._record(key, encoder, images)
        return result

    def _record(self, key: Hashable, encoder: nn.Module, images: Tensor) -> None:
        """Record a graph for this key; if that is impossible or fails, refuse graphs from now on."""
        probe = images.new_empty(0, dtype=dtype_of(encoder))
        try:
            if not is_plain(encoder) or any(part.training for part in modules_of(encoder)):
                raise ValueError("it has hooks, replaced layers or layers in training mode")
            if reason := why_not_on(probe.device) or why_not("attention", probe):
                raise ValueError(reason)
            if _free_bytes() < MIN_FREE_BYTES:
                raise MemoryError(f"less than {MIN_FREE_BYTES >> 20:,} MiB of the GPU's memory are free")
            self._entries[key] = RecordedGraph(encoder, images)
        except Exception as error:
            self._disable(encoder, error)

    def _disable(self, encoder: nn.Module, error: Exception) -> None:
        """Use no graphs for this encoder from now on and log the reason once.

        The error isn't stored, because the frames of its traceback hold tensors.
        """
        self._disabled = True
        self._entries.clear()
        # Messages of out-of-memory errors contain numbers that differ each time, which would defeat logging once.
        text = "" if isinstance(error, torch.cuda.OutOfMemoryError) else str(error).partition("\n")[0]
        reason = ": ".join(filter(None, (type(error).__name__, text)))
        warn_once(f"{type(encoder).__name__} runs without a CUDA graph ({reason})")
