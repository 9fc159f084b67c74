"""Loads the compiled module `fastsam_core._cuda`, once, and remembers why where it is not in use."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial, wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._log import logger, warn_once

NOT_BUILT = "not built"
# Kernels that have been on the emulator alone.
UNVALIDATED = (
    "the decoder's kernels for float32, and those of TinyViT's encoders (depthwise3x3, and add_norm_into of short rows)"
)
# Whether they serve.
unvalidated_serve = os.environ.get("FASTSAM_CUDA_KERNELS", "") == "1"
SWITCHED_OFF = "switched off by FASTSAM_CUDA_KERNELS=0"
# As csrc/common/dtype.h.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _load() -> tuple[ModuleType | None, str]:
    """The module and "", or None and the reason."""
    wanted = os.environ.get("FASTSAM_CUDA_KERNELS", "")
    if wanted not in ("", "0", "1"):
        raise ValueError(f"FASTSAM_CUDA_KERNELS={wanted}: it must be 1 or 0")
    if os.environ.get("FASTSAM_NATIVE", "") == "0":
        return None, "switched off by FASTSAM_NATIVE=0"
    if find_spec("fastsam_core._cuda") is None:
        if wanted == "1":
            warn_once(
                "FASTSAM_CUDA_KERNELS=1, but this installation has no CUDA kernels; PyTorch serves every call on a "
                "GPU. FASTSAM_CUDA=ON at installation builds them."
            )
        return None, NOT_BUILT
    if wanted == "0":
        return None, SWITCHED_OFF
    try:
        return importlib.import_module("fastsam_core._cuda"), ""
    except ImportError as error:
        reason = f"the module fastsam_core._cuda can't be loaded: {error}"
        warn_once(f"{reason}; PyTorch serves every call on a GPU. Reinstalling fastsam_core builds the module.")
        return None, reason


# The compiled module, or None with the reason why it is not in use.
cuda_module, cuda_reason = _load()
_chosen: ContextVar[Any] = ContextVar("_chosen", default=cuda_module)


@contextmanager
def use_module(module: Any) -> Iterator[None]:
    """Within this context the CUDA siblings call `module`."""
    reset = _chosen.set(module)
    try:
        yield
    finally:
        _chosen.reset(reset)


def why_unvalidated() -> str:
    """Why `UNVALIDATED` doesn't serve on a GPU; "" where it does, and on the emulator."""
    module = _chosen.get()
    if unvalidated_serve or (module is not None and module.EMULATED):
        return ""
    return f"{UNVALIDATED} are built, but not yet validated on a GPU; FASTSAM_CUDA_KERNELS=1 uses them"


def why_not_on(device: torch.device) -> str:
    """Why the module's kernels don't run on this GPU, such as that it holds no code for it; "" where they do.

    Also "" where there is no module, and for what is no GPU.
    """
    if cuda_module is None or device.type != "cuda":
        return ""
    return _why_not_on(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _why_not_on(index: int) -> str:
    assert cuda_module is not None
    with torch.cuda.device(index):
        error = str(cuda_module.why_not())
    name = torch.cuda.get_device_name(index)
    return error and f"those for {cuda_module.ARCHITECTURES} don't run on the {name}: {error}"


def serves(tensor: Tensor) -> bool:
    """Whether kernels are in use that can reach this tensor's memory, and run there."""
    module = _chosen.get()
    if module is None or tensor.device.type != ("cpu" if module.EMULATED else "cuda"):
        return False
    return not why_not_on(tensor.device)


def bound_to(module: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of some cuda.py, calling `module`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with use_module(module):
            return function(*args, **kwargs)

    return call


# How a function of a cuda.py becomes a sibling, by the sibling's name. Tests add forms of their own.
forms: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {}
if cuda_module is not None:
    forms["cuda"] = partial(bound_to, cuda_module)


class on_device_of:
    """A context with the module, and the stream to launch on: the current one of the tensors' device, current inside.

    ValueError for tensors on several devices, or whose memory the module can't reach. Nothing here waits for the GPU.
    A class of its own, since each operation enters it and a generator's context takes several times as long.
    """

    def __init__(self, first: Tensor, *others: Tensor) -> None:
        self._module = module = _chosen.get()
        self._device = device = first.device
        self._switch: torch.cuda.device | None = None
        wanted = "cpu" if module.EMULATED else "cuda"
        together = device.type == wanted
        for tensor in others:
            together = together and tensor.device == device
        if not together:
            found = ", ".join(str(tensor.device) for tensor in (first, *others))
            raise ValueError(f"the tensors must all be on one '{wanted}' device; got {found}")

    def __enter__(self) -> tuple[Any, int]:
        if self._module.EMULATED:
            return self._module, 0
        index = self._device.index
        if index != torch.cuda.current_device():
            self._switch = torch.cuda.device(index)
            self._switch.__enter__()
        return self._module, stream_of(index)

    def __exit__(self, *error: object) -> None:
        if self._switch is not None:
            self._switch.__exit__(*error)


def stream_of(index: int) -> int:
    """The address of PyTorch's current stream of a GPU; by the short way, where PyTorch has it."""
    address = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(address(index)) if address is not None else torch.cuda.current_stream(index).cuda_stream


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU."""
    return torch.cuda.get_device_capability(device)


@cache
def has_ample_memory(device: torch.device) -> bool:
    """Whether a GPU has 8 GiB or more; True for what is no GPU."""
    return device.type != "cuda" or torch.cuda.get_device_properties(device).total_memory >= 8 << 30


@cache
def shared_memory(module: Any, device: torch.device) -> int:
    """Bytes that each multiprocessor has of a GPU, which is the current one."""
    return int(module.shared_memory())


def why_too_old(op: str, tensor: Tensor) -> str:
    """Why kernels that need tensor cores don't run on the tensor's GPU; "" where they do, and for what is on none."""
    if not tensor.is_cuda or (found := capability(tensor.device)) >= (8, 0):
        return ""
    return f"{op} needs compute capability 8.0; the tensor's GPU has {found[0]}.{found[1]}"


def aligned(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Contiguous, of this dtype, and where kernels can read 16 bytes at a time: a view may begin in the middle."""
    dtype = dtype or tensor.dtype
    if tensor.dtype == dtype and tensor.is_contiguous() and tensor.data_ptr() % 16 == 0:
        return tensor  # as almost always: what follows takes longer
    tensor = tensor.detach().to(dtype).contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def left_to_pytorch(reason: str) -> bool:
    """Whether there is a reason why no kernel serves a call; says so, once for each."""
    if reason:
        say_served_by_pytorch(reason)
    return bool(reason)


@cache
def say_served_by_pytorch(reason: str) -> None:
    """Log, once for each reason, that PyTorch serves a call on a GPU."""
    logger.info("PyTorch serves operations on GPU tensors: %s", reason)
