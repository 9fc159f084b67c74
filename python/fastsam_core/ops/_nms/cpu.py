"""C++ sibling of non-maximum suppression: pass tensors to the compiled module, which also checks the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._inputs import check_boxes
from .._native import cpu_module
from .._threads import thread_count

_cpu: Any = cpu_module
_FLOAT32_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.nms`."""
    check_boxes(boxes, scores, None, iou_threshold)
    return _nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See `fastsam_core.ops.batched_nms`."""
    check_boxes(boxes, scores, idxs, iou_threshold)
    classes = _array(idxs)
    if classes.dtype.kind == "f":
        if np.isnan(classes).any():
            raise ValueError("idxs hold NaN; a class must be a number")
        classes = np.unique(classes, return_inverse=True)[1]
    return _nms(boxes, scores, np.ascontiguousarray(classes, dtype=np.int64), iou_threshold)


def _nms(boxes: Tensor, scores: Tensor, classes: Any, iou_threshold: float) -> Tensor:
    corners, score_values = _array(boxes), _array(scores)
    # The dtypes of to_compute_dtype.
    corners = np.ascontiguousarray(corners, dtype=np.float32 if corners.dtype in _FLOAT32_DTYPES else np.float64)
    score_values = np.ascontiguousarray(score_values, dtype=np.float64)
    return torch.from_numpy(_cpu.nms(corners, score_values, classes, iou_threshold, thread_count()))


def _array(tensor: Tensor) -> Any:
    """Return the tensor's values in NumPy, whose conversions, unlike PyTorch's, still work in a forked child."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
