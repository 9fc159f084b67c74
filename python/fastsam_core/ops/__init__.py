"""Operations with several implementations ("siblings") under one contract, registered with the PyTorch dispatcher.

The siblings are `reference` (plain PyTorch, any device), `cpu` (C++, CPU tensors) and, for some operations, `cuda`
(kernels for NVIDIA GPUs). They return the same results: layers and the mask decoder agree within rounding, everything
else is bit-identical. They raise ValueError for the same inputs. `why` tells which sibling runs a call.

`FASTSAM_NATIVE=0` disables the compiled siblings, `FASTSAM_ISA` (baseline, avx2, avx512, neon) selects the instruction
set of the C++ sibling, and `FASTSAM_CUDA_KERNELS=0` disables the CUDA sibling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from . import _native_cuda, schema
from ._attention.api import attention, windowed_attention
from ._conv.api import conv3x3, conv_stem, depthwise3x3, mbconv
from ._decoder.api import (
    decoder_first_pass,
    decoder_first_token_to_image,
    decoder_mask_factors,
    decoder_prompts,
    decoder_second_pass,
    decoder_upscale,
)
from ._linear.api import linear, linear_into, mlp, mlp_into
from ._masks.api import mask_remove_small_regions, mask_runs
from ._native import cpu_module, cpu_reason
from ._nms.api import batched_nms, nms
from ._norm.api import add_norm_into
from ._preprocess.api import preprocess_image, resize_image
from ._rle.api import (
    rle_area,
    rle_combine,
    rle_crop,
    rle_decode,
    rle_encode,
    rle_from_polygon,
    rle_from_string,
    rle_iou,
    rle_merge,
    rle_to_bbox,
    rle_to_string,
)

__all__ = [
    "add_norm_into",
    "attention",
    "available_isas",
    "batched_nms",
    "conv3x3",
    "conv_stem",
    "decoder_first_pass",
    "decoder_first_token_to_image",
    "decoder_mask_factors",
    "decoder_prompts",
    "decoder_second_pass",
    "decoder_upscale",
    "depthwise3x3",
    "isa",
    "linear",
    "linear_into",
    "mask_remove_small_regions",
    "mask_runs",
    "mbconv",
    "mlp",
    "mlp_into",
    "nms",
    "preprocess_image",
    "resize_image",
    "rle_area",
    "rle_combine",
    "rle_crop",
    "rle_decode",
    "rle_encode",
    "rle_from_polygon",
    "rle_from_string",
    "rle_iou",
    "rle_merge",
    "rle_to_bbox",
    "rle_to_string",
    "siblings",
    "use_isa",
    "why",
    "windowed_attention",
]


def siblings(op: str) -> dict[str, Callable[..., Any]]:
    """Return the available implementations of `op` by name: `reference`, `cpu[avx2]`, `cuda`, ...

    Each takes the arguments of the registered operation, positionally. ValueError for an unknown operation.
    """
    _check_op(op)
    implementations: dict[str, Callable[..., Any]] = {"reference": getattr(schema.REFERENCES[op], op)}
    for name in available_isas():
        implementations[f"cpu[{name}]"] = _with_isa(getattr(schema.NATIVES[op], op), name)
    if op in schema.CUDAS:
        implementations.update(
            {name: wrap(getattr(schema.CUDAS[op], op)) for name, wrap in _native_cuda.sibling_wrappers.items()}
        )
    return implementations


def why(op: str, tensor: Tensor | None = None) -> dict[str, str]:
    """Explain which sibling runs a call of `op`, and why the others don't.

    Args:
        op: name of the operation, such as "nms".
        tensor: an input of the call; by default a CPU tensor is assumed.

    Returns:
        A dict with the keys "cpu", "cuda" and "reference": "" for the sibling that runs the call, and for each other
        one the reason why it doesn't.

    Raises:
        ValueError: there is no operation `op`.
    """
    _check_op(op)
    device = "cpu" if tensor is None else tensor.device.type
    reasons = {
        "cpu": cpu_reason or ("" if device == "cpu" else f"the tensor is on '{device}'") or _dtype_reason(op, tensor),
        "cuda": (
            schema.why_not_cuda(op, tensor)
            if tensor is not None and device == "cuda"
            else _native_cuda.cuda_reason or f"the tensor is on '{device}'"
        ),
    }
    active = next((name for name, reason in reasons.items() if not reason), "")
    reasons["reference"] = f"the {active} sibling runs this call" if active else ""
    return reasons


def _dtype_reason(op: str, tensor: Tensor | None) -> str:
    """Return why the C++ sibling can't run `op` on this tensor's dtype; "" if it can.

    Only the families in `schema.NATIVE_DTYPES`, the layers, have such limits.
    """
    supported = schema.NATIVE_DTYPES.get(schema.FAMILY_OF[op])
    if supported == ():
        return "it has no C++ implementation"
    if tensor is None or supported is None or tensor.dtype in supported:
        return ""
    names = " and ".join(str(dtype).removeprefix("torch.") for dtype in supported)
    return f"it computes in {names}, and the tensor is {tensor.dtype}"


def available_isas() -> list[str]:
    """Return the instruction sets that were compiled in and that this machine supports, best first.

    The list is empty without the native module.
    """
    return list(cpu_module.available_isas()) if cpu_module else []


def isa() -> str | None:
    """Return the name of the instruction set in use; None without the native module."""
    return str(cpu_module.isa()) if cpu_module else None


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Use instruction set `name` within this context, in the whole process.

    ValueError if it is not available; the message lists those that are.
    """
    if cpu_module is None:
        raise ValueError(f"the instruction set {name!r} can't be chosen: {cpu_reason}")
    before = cpu_module.isa()
    cpu_module.force_isa(name)
    try:
        yield
    finally:
        cpu_module.force_isa(before)


def _with_isa(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap `function` to run with instruction set `name`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with use_isa(name):
            return function(*args, **kwargs)

    return call


def _check_op(op: str) -> None:
    if op not in schema.SCHEMAS:
        raise ValueError(f"unknown operation {op!r}; accepted: {', '.join(schema.SCHEMAS)}")
