"""Image encoders on a GPU as CUDA graphs: their hundreds of launches are recorded once, then made by one call.

One image leaves a GPU so little to do that it waits for the host, which takes milliseconds to say what comes next.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from .._log import warn_once
from ..ops._attention.cuda import why_not
from ..ops._direct import unseen
from ..ops._native_cuda import cuda_module, stream_of, why_not_on
from .cuda_graph import record
from .kept import capturing, kept, parts_of
from .native import is_plain
from .precision import dtype_of

# They are for who asks for them, as other threads have to mind the recording. ViT-B takes 2.7 ms of an H200 by them,
# not 3.2.
SWITCHED_OFF = "off; FASTSAM_CUDA_GRAPHS=1 uses them"
OLDEST_PYTORCH = 2, 11
# A call with the same images' shape and all is the third before it is recorded: one or two pictures pay nothing.
USES = 3
# An encoder's graphs: the least recently used goes. Each has memory of its own for all that lies between images and
# embeddings at the worst moment, the embeddings, and cuBLAS's workspace. For ViT-B and one image in half precision that
# is, by arithmetic, 40 MB of activations (tokens, their MLP's hidden layer and its in- or output; 6 MB for each 768
# channels), 6 MB of images and 32 MB of workspace on Hopper, in pieces of up to 20 MB: some 100 to 130 MB.
MOST_GRAPHS = 4
# Two images of 1,024 x 1,024, or 8,192 tokens: with more the GPU is behind its host anyway, and the memory would grow.
MOST_PIXELS = 2 << 20
# A graph's memory can't be lent to others, not even when they have none: there must be plenty.
SPARE_BYTES = 1 << 30


def _read_switch() -> str:
    """Why no graphs are in use, or ""."""
    wanted = os.environ.get("FASTSAM_CUDA_GRAPHS", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"FASTSAM_CUDA_GRAPHS={wanted}: it must be 1 or 0")
    if wanted != "1":
        return SWITCHED_OFF
    reason = ""
    if cuda_module is None:  # attention makes matrices of a gigabyte then, which a graph would hold
        reason = "not without the CUDA kernels"
    elif _version() < OLDEST_PYTORCH:  # threads that use cuBLAS while another one clears its workspaces could crash
        reason = "not before PyTorch 2.11"
    if reason:
        warn_once(f"FASTSAM_CUDA_GRAPHS=1, but there are no CUDA graphs of encoders: {reason}")
    return reason


def _version() -> tuple[int, ...]:
    return tuple(int(number) for number in torch.__version__.split(".")[:2])


off = _read_switch()


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """`encoder(images)`, the images converted to the type of its weights; replayed from a CUDA graph where one serves.

    That is for inference with few images on a GPU, when nothing but the launches would come of the call: no gradients,
    autocast, hooks, compilers, modes or profilers, nobody else's capture, only our and PyTorch's own layers, nothing in
    training. Results have the same bits, and belong to the caller. Changes of the encoder are noticed as by `kept`:
    weights, layers, hooks, but not the layers' numbers, such as an `eps`.
    """
    if off or not _may_replay(encoder, images):
        return _as_usual(encoder, images)
    if not _elsewhere(images):
        return _encode(encoder, images)
    with torch.cuda.device(images.device):
        return _encode(encoder, images)


def _encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """`encode` on the current device."""
    if capturing():
        return _as_usual(encoder, images)
    # Of a copy in another type, the state isn't asked for again: the copy goes with that of its original.
    return kept(encoder, "graphs", Graphs)(encoder, images)


def _as_usual(encoder: nn.Module, images: Tensor) -> Tensor:
    result: Tensor = encoder(images.to(dtype_of(encoder)))
    return result


def _may_replay(encoder: nn.Module, images: Tensor) -> bool:
    """Whether this call may be replayed, as far as that can differ from call to call; the quick questions first."""
    return (
        type(images) is Tensor
        and _on_gpu(images)
        and not encoder.training
        and 0 < images.numel() <= 3 * MOST_PIXELS
        and unseen()
        and not torch.is_autocast_enabled("cuda")
        and not (nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
        and images.is_floating_point()
        and images.is_contiguous()
    )


def _on_gpu(images: Tensor) -> bool:
    return images.is_cuda


def _elsewhere(images: Tensor) -> bool:
    """Whether they are on another GPU than the current one, which captures and streams are asked of."""
    return images.device.index != torch.cuda.current_device()


def _place(images: Tensor) -> Hashable:
    """Where a graph is replayed: on one stream only, whose order keeps two calls apart."""
    return images.device, stream_of(images.device.index)


def _spare_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def _getters() -> list[Callable[[], Any]]:
    """What PyTorch chooses kernels by, and anybody may set between two calls."""
    names = (
        *("_get_deterministic_algorithms", "_get_deterministic_fill_uninitialized_memory"),
        *("_get_cudnn_enabled", "_get_cudnn_deterministic", "_get_cudnn_benchmark"),
        *("_get_cublas_allow_fp16_reduced_precision_reduction", "_get_cublas_allow_bf16_reduced_precision_reduction"),
        *("_get_cublas_allow_fp16_accumulation", "_get_blas_preferred_backend"),
    )
    known = [getattr(torch._C, name) for name in names if hasattr(torch._C, name)]
    newer = getattr(torch._C, "_get_fp32_precision_getter", None)
    if newer is None:  # the older names are an error where the newer ones have been used
        return [*known, torch._C._get_cublas_allow_tf32, torch._C._get_cudnn_allow_tf32]
    return [*known, *(partial(newer, "cuda", of) for of in ("matmul", "conv"))]


_GETTERS = _getters()


class Replay:
    """One graph, and the tensors that it reads and fills."""

    def __init__(self, encoder: nn.Module, images: Tensor) -> None:
        # Tensors made in inference mode couldn't be filled outside of it.
        with torch.inference_mode(False), torch.no_grad():
            given = torch.empty_like(images, dtype=dtype_of(encoder))
            self._graph, self._result = record(lambda: encoder(given))
        self._given = given

    def __call__(self, images: Tensor) -> Tensor:
        self._given.copy_(images)
        self._graph.replay()
        return self._result.clone()


class Graphs:
    """Those of one encoder as it is now, which it doesn't hold: whoever calls has it."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, int | Replay] = OrderedDict()  # a number counts the calls before a graph
        self._lock = threading.Lock()
        self._refused = False

    def __call__(self, encoder: nn.Module, images: Tensor) -> Tensor:
        # Nobody waits for another thread, which may be recording: as usual it's done in a moment.
        if self._refused or not self._lock.acquire(blocking=False):
            return _as_usual(encoder, images)
        try:
            return self._encode(encoder, images)
        finally:
            self._lock.release()

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        key = _place(images), images.shape, *(read() for read in _GETTERS)
        found = self._known.get(key, 0)
        if isinstance(found, Replay):
            self._known.move_to_end(key)
            try:
                return found(images)
            except Exception as error:
                self._refuse(encoder, error)
                return _as_usual(encoder, images)
        # Also before recording, in this thread: so all that is loaded or chosen at a first use is there.
        result = _as_usual(encoder, images)
        self._known[key] = found + 1
        self._known.move_to_end(key)
        while len(self._known) > MOST_GRAPHS:
            self._known.popitem(last=False)
        if found + 1 >= USES:
            self._record(key, encoder, images)
        return result

    def _record(self, key: Hashable, encoder: nn.Module, images: Tensor) -> None:
        suits = images.new_empty(0, dtype=dtype_of(encoder))
        try:
            if not is_plain(encoder) or any(part.training for part in parts_of(encoder)):
                raise ValueError("it has hooks, layers of others or such as are in training")
            if reason := why_not_on(suits.device) or why_not("attention", suits):
                raise ValueError(reason)
            if _spare_bytes() < SPARE_BYTES:
                raise MemoryError(f"less than {SPARE_BYTES >> 20:,} MiB of the GPU's memory are free")
            self._known[key] = Replay(encoder, images)
        except Exception as error:
            self._refuse(encoder, error)

    def _refuse(self, encoder: nn.Module, error: Exception) -> None:
        """From now on, as usual. The error's frames hold tensors: it isn't kept."""
        self._refused = True
        self._known.clear()
        # Messages of this one have numbers that differ each time.
        text = "" if isinstance(error, torch.cuda.OutOfMemoryError) else str(error).partition("\n")[0]
        reason = ": ".join(filter(None, (type(error).__name__, text)))
        warn_once(f"{type(encoder).__name__} runs without a CUDA graph, by single launches ({reason})")
