"""Load the compiled module `fastsam_core._cuda` once, record the reason if it isn't in use, and help call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial, wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._environment import read_switch
from .._log import logger, warn_once

NOT_BUILT = "not built"
# Kernels that have only run in the emulator so far.
UNVALIDATED_KERNELS = (
    "the decoder's kernels for float32, and those of TinyViT's encoders (depthwise3x3, and add_norm_into of short rows)"
)
# Whether those kernels are used.
use_unvalidated = read_switch("FASTSAM_CUDA_KERNELS") == "1"
SWITCHED_OFF = "switched off by FASTSAM_CUDA_KERNELS=0"
# Codes of dtypes, as in csrc/common/dtype.h.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _load() -> tuple[ModuleType | None, str]:
    """Return the module and "", or None and the reason why it isn't in use; ValueError for a bad variable."""
    switch = read_switch("FASTSAM_CUDA_KERNELS")
    if read_switch("FASTSAM_NATIVE") == "0":
        return None, "switched off by FASTSAM_NATIVE=0"
    if find_spec("fastsam_core._cuda") is None:
        if switch == "1":
            warn_once(
                "FASTSAM_CUDA_KERNELS=1, but this installation has no CUDA kernels; PyTorch runs every operation on "
                "a GPU. FASTSAM_CUDA=ON at installation builds them."
            )
        return None, NOT_BUILT
    if switch == "0":
        return None, SWITCHED_OFF
    try:
        return importlib.import_module("fastsam_core._cuda"), ""
    except ImportError as error:
        reason = f"the module fastsam_core._cuda can't be loaded: {error}"
        warn_once(f"{reason}; PyTorch runs every operation on a GPU. Reinstalling fastsam_core builds the module.")
        return None, reason


# The compiled module, or None and the reason why it isn't in use.
cuda_module, cuda_reason = _load()
_active_module: ContextVar[Any] = ContextVar("_active_module", default=cuda_module)


@contextmanager
def use_module(module: Any) -> Iterator[None]:
    """Make the CUDA siblings call `module` within this context."""
    reset = _active_module.set(module)
    try:
        yield
    finally:
        _active_module.reset(reset)


def unvalidated_disabled_reason() -> str:
    """Return why the `UNVALIDATED_KERNELS` aren't used; "" if they are, or if the module in use is the emulator."""
    module = _active_module.get()
    if use_unvalidated or (module is not None and module.EMULATED):
        return ""
    return f"{UNVALIDATED_KERNELS} are built, but not yet validated on a GPU; FASTSAM_CUDA_KERNELS=1 uses them"


def why_not_on(device: torch.device) -> str:
    """Return why the module's kernels can't run on this GPU, such as no code for its architecture; "" if they can.

    Also "" without a module, and for a device that isn't a GPU.
    """
    if cuda_module is None or device.type != "cuda":
        return ""
    return _why_not_on(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _why_not_on(index: int) -> str:
    assert cuda_module is not None
    with torch.cuda.device(index):
        error = str(cuda_module.unavailable_reason())
    name = torch.cuda.get_device_name(index)
    return error and f"built for {cuda_module.ARCHITECTURES}, they don't run on the {name}: {error}"


def has_kernels_for(tensor: Tensor) -> bool:
    """Return whether the module in use can reach this tensor's memory and its kernels run on that device."""
    module = _active_module.get()
    if module is None or tensor.device.type != ("cpu" if module.EMULATED else "cuda"):
        return False
    return not why_not_on(tensor.device)


def bind_module(module: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function`, which comes from a family's cuda.py, so that it calls `module`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with use_module(module):
            return function(*args, **kwargs)

    return call


# Wrappers that turn a function of a family's cuda.py into a sibling, by the sibling's name. Tests add the emulator.
sibling_wrappers: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {}
if cuda_module is not None:
    sibling_wrappers["cuda"] = partial(bind_module, cuda_module)


class on_device_of:
    """Context that makes the tensors' device current and yields (module, address of its current stream).

    The constructor raises ValueError for tensors on several devices, or in memory that the module can't reach. Nothing
    here waits for the GPU. Every operation enters this context, so it is a class: a context manager made from a
    generator takes several times as long.
    """

    def __init__(self, first: Tensor, *others: Tensor) -> None:
        self._module = module = _active_module.get()
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
    """Return the address of PyTorch's current stream on a GPU, by the faster private function if PyTorch has it."""
    address = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(address(index)) if address is not None else torch.cuda.current_stream(index).cuda_stream


@cache
def compute_capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU."""
    return torch.cuda.get_device_capability(device)


@cache
def has_ample_memory(device: torch.device) -> bool:
    """Return whether a GPU has at least 8 GiB of memory; True for other devices."""
    return device.type != "cuda" or torch.cuda.get_device_properties(device).total_memory >= 8 << 30


@cache
def shared_memory(module: Any, device: torch.device) -> int:
    """Return the bytes of shared memory per multiprocessor; `device` must be the current GPU."""
    return int(module.shared_memory_per_multiprocessor())


def why_too_old(op: str, tensor: Tensor) -> str:
    """Return why kernels that need tensor cores can't run on the tensor's GPU; "" if they can, or if it is on none."""
    if not tensor.is_cuda or (found := compute_capability(tensor.device)) >= (8, 0):
        return ""
    return f"{op} needs compute capability 8.0; the tensor's GPU has {found[0]}.{found[1]}"


def aligned(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the tensor contiguous, in `dtype` if given, and at an address that is a multiple of 16.

    Kernels read 16 bytes at a time, and a view may begin at any element. Copies only if necessary.
    """
    dtype = dtype or tensor.dtype
    if tensor.dtype == dtype and tensor.is_contiguous() and tensor.data_ptr() % 16 == 0:
        return tensor  # Fast path: most tensors already qualify, and the lines below cost more than this check.
    tensor = tensor.detach().to(dtype).contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def falls_back_to_pytorch(reason: str) -> bool:
    """Return whether `reason` is non-empty, i.e. PyTorch must run the call; log each reason once."""
    if reason:
        log_pytorch_fallback(reason)
    return bool(reason)


@cache
def log_pytorch_fallback(reason: str) -> None:
    """Log that PyTorch runs an operation on GPU tensors, once for each reason."""
    logger.info("PyTorch runs operations on GPU tensors: %s", reason)
