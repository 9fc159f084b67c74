"""COCO run-length masks: the functions of `pycocotools.mask`, with equal results, and safe on malformed input.

An RLE is a dict `{"size": [height, width], "counts": text}`. The text (bytes or str) is COCO's compressed form of the
run lengths, which are column-major and start with background. Empty text is valid only for a mask of zero pixels.

Input that `pycocotools` accepts gives the same values, dtypes and shapes here. Every function raises ValueError for
malformed input before it allocates anything: runs that don't sum to height * width, negative or non-integer sizes,
unterminated or over-long numbers, invalid characters, missing keys. It raises TypeError if an RLE is not a dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import _rle_dicts, ops
from ._rle_algebra import (
    complement,
    crop,
    crop_runs,
    difference,
    intersection,
    paste,
    symmetric_difference,
    translate,
    union,
)
from ._rle_dicts import HINT, RLE, checked_integer, checked_size, common_size, compress_counts, counts_as_bytes, unpack
from ._tensors import to_tensor
from .ops._threads import thread_count

__all__ = [
    "area",
    "complement",
    "crop",
    "crop_runs",
    "decode",
    "difference",
    "encode",
    "frPyObjects",
    "from_masks",
    "intersection",
    "iou",
    "merge",
    "paste",
    "symmetric_difference",
    "toBbox",
    "to_masks",
    "translate",
    "union",
]

# ------------------------------------------------------------------------------------------------ masks to and from RLE


def from_masks(masks: Tensor | NDArray[Any]) -> list[RLE]:
    """Encode masks to one RLE each, with `counts` as str, ready for JSON.

    Args:
        masks: (N, H, W) bool or uint8 of any strides and device; every non-zero value is foreground.
    """
    array: Any = masks
    if isinstance(masks, Tensor) and masks.device.type == "cpu" and masks.dtype in (torch.bool, torch.uint8):
        array = masks.numpy()
    if isinstance(array, np.ndarray):
        native_result: list[RLE] | None = _rle_dicts.call_native("coco_encode", array, False, True, thread_count())
        if native_result is not None:
            return native_result
    tensor = masks if isinstance(masks, Tensor) else _to_tensor(masks)
    height, width = tensor.shape[-2:] if tensor.dim() == 3 else (0, 0)
    texts = compress_counts(*ops.rle_encode(tensor))
    return [{"size": [height, width], "counts": text.decode("ascii")} for text in texts]


def to_masks(rles: Sequence[RLE]) -> Tensor:
    """Decode RLEs of equal size to masks (N, H, W) bool; an empty list gives (0, 0, 0)."""
    native_result = _rle_dicts.call_native("coco_decode", rles, True, thread_count())
    if native_result is not None:
        return torch.from_numpy(native_result.view(bool))
    counts, offsets, sizes = unpack(rles)
    height, width = common_size(sizes)
    return ops.rle_decode(counts, offsets, height, width)


def encode(bimask: NDArray[Any]) -> Any:
    """Encode a mask (H, W) to an RLE, or masks (H, W, N) to a list of RLEs; `counts` is bytes.

    `bimask` is uint8 or bool. Column-major (Fortran) order is fastest, but any memory layout is accepted.
    """
    if type(bimask) is np.ndarray:
        native_result = _rle_dicts.call_native("coco_encode", bimask, True, False, thread_count())
        if native_result is not None:
            return native_result
    array = np.asarray(bimask)
    if array.ndim not in (2, 3):
        raise ValueError(f"a mask must have shape (H, W), or (H, W, N) for several; got {array.shape}")
    masks = array[:, :, None] if array.ndim == 2 else array
    height, width, _ = masks.shape
    texts = compress_counts(*ops.rle_encode(_to_tensor(masks.transpose(2, 0, 1))))
    rles: list[RLE] = [{"size": [height, width], "counts": text} for text in texts]
    return rles[0] if array.ndim == 2 else rles


def decode(rleObjs: RLE | Sequence[RLE]) -> NDArray[np.uint8]:
    """Decode an RLE to a mask (H, W), or a list of RLEs to masks (H, W, N), as uint8 in column-major order.

    Raises MemoryError for valid masks that are too large for this machine.
    """
    native_result: NDArray[np.uint8] | None = _rle_dicts.call_native("coco_decode", rleObjs, False, thread_count())
    if native_result is not None:
        return native_result
    counts, offsets, sizes = unpack(rleObjs)
    height, width = common_size(sizes)
    masks = ops.rle_decode(counts, offsets, height, width, column_major=True)  # (N, H, W)
    array: NDArray[np.uint8] = masks.transpose(1, 2).numpy().view(np.uint8).transpose(2, 1, 0)
    return array[:, :, 0] if isinstance(rleObjs, Mapping) else array


# --------------------------------------------------------------------------------------------------------- measurements


def area(rleObjs: RLE | Sequence[RLE]) -> Any:
    """Count the foreground pixels of an RLE (a NumPy scalar), or of each in a list (N,).

    The dtype is uint32, or uint64 if a count exceeds that.
    """
    native_result = _rle_dicts.call_native("coco_area", rleObjs, thread_count())
    if native_result is not None:
        return native_result
    counts, offsets, _ = unpack(rleObjs)
    areas = ops.rle_area(counts, offsets).numpy()
    fits = areas.size == 0 or int(areas.max()) <= np.iinfo(np.uint32).max
    areas = areas.astype(np.uint32 if fits else np.uint64)
    return areas[0] if isinstance(rleObjs, Mapping) else areas


def toBbox(rleObjs: RLE | Sequence[RLE]) -> NDArray[np.float64]:
    """Return the bounding box x, y, width, height (4,) of an RLE, or (N, 4) for a list; zeros for an empty mask."""
    native_result: NDArray[np.float64] | None = _rle_dicts.call_native("coco_to_bbox", rleObjs, thread_count())
    if native_result is not None:
        return native_result
    counts, offsets, sizes = unpack(rleObjs)
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64, device="cpu")
    boxes: NDArray[np.float64] = ops.rle_to_bbox(counts, offsets, heights).numpy().astype(np.float64)
    return boxes[0] if isinstance(rleObjs, Mapping) else boxes


def iou(dt: Any, gt: Any, pyiscrowd: Any) -> Any:
    """Return the intersection over union of every pair: (D, G) float64, or an empty list if either side is empty.

    Args:
        dt: a list of D RLEs, or D boxes x, y, width, height as an array or list.
        gt: G of the same kind.
        pyiscrowd: G flags; where one is set, the area of the `dt` mask or box replaces the union.

    Raises:
        ValueError: malformed RLEs or boxes, RLEs of different sizes, or a number of flags other than G.
        TypeError: RLEs on one side and boxes on the other, or anything else.
    """
    native_result = _rle_dicts.call_native("coco_iou", dt, gt, pyiscrowd, thread_count())
    if native_result is not None:
        return native_result
    (dt_kind, dt_items), (gt_kind, gt_items) = _iou_side(dt, "dt"), _iou_side(gt, "gt")
    iscrowd = np.asarray(pyiscrowd).astype(bool)
    if iscrowd.shape != (len(gt_items),):
        raise ValueError(f"iscrowd must hold one flag per gt, {len(gt_items)}; got shape {iscrowd.shape}")
    if len(dt_items) == 0 or len(gt_items) == 0:
        for kind, side in ((dt_kind, dt_items), (gt_kind, gt_items)):
            if kind == "rle":
                unpack(side)
        return []
    if dt_kind != gt_kind:
        raise TypeError("dt and gt must be of one kind, both RLEs or both boxes")
    if dt_kind == "box":
        return _box_iou(dt_items, gt_items, iscrowd)
    dt_counts, dt_offsets, dt_sizes = unpack(dt_items)
    gt_counts, gt_offsets, gt_sizes = unpack(gt_items)
    common_size(dt_sizes + gt_sizes)
    return ops.rle_iou(dt_counts, dt_offsets, gt_counts, gt_offsets, torch.from_numpy(iscrowd)).numpy()


def _iou_side(side: Any, name: str) -> tuple[str, Any]:
    """Return ("rle", list of dicts) or ("box", (N, 4) float64) for one argument of `iou`."""
    if isinstance(side, (list, tuple)) and len(side) and all(isinstance(item, Mapping) for item in side):
        return "rle", side
    if isinstance(side, (list, tuple, np.ndarray)) and not any(isinstance(item, Mapping) for item in side):
        try:
            boxes = np.asarray(side, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be a list of RLE dicts or (N, 4) boxes x, y, width, height") from None
        if boxes.size == 0:
            return "box", boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} boxes must have shape (N, 4), x y width height; got {boxes.shape}")
        if not np.isfinite(boxes).all():
            raise ValueError(f"{name} boxes hold NaN or infinity")
        return "box", boxes
    raise TypeError(f"{name} must be a list of RLE dicts or (N, 4) boxes; got {type(side).__name__}")


def _box_iou(dt: NDArray[np.float64], gt: NDArray[np.float64], iscrowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    # Axis by axis: with arrays whose last axis holds x and y it takes more than twice as long.
    width, height = (
        np.minimum(dt[:, None, axis] + dt[:, None, axis + 2], gt[:, axis] + gt[:, axis + 2])
        - np.maximum(dt[:, None, axis], gt[:, axis])
        for axis in (0, 1)
    )
    overlap = width * height
    is_overlapping = (width > 0) & (height > 0)
    dt_area, gt_area = dt[:, None, 2] * dt[:, None, 3], gt[None, :, 2] * gt[None, :, 3]
    union = np.where(iscrowd[None, :], dt_area, dt_area + gt_area - overlap)
    result: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=is_overlapping)
    return result


# --------------------------------------------------------------------------------------------------------- construction


def merge(rleObjs: Sequence[RLE], intersect: bool | int = False) -> RLE:
    """Return the union of masks of equal size, or with `intersect` their intersection; `counts` is bytes.

    One mask gives that mask; an empty list gives a mask of size 0 x 0.
    """
    native_result: RLE | None = _rle_dicts.call_native("coco_merge", rleObjs, bool(intersect), thread_count())
    if native_result is not None:
        return native_result
    counts, offsets, sizes = unpack(rleObjs)
    height, width = common_size(sizes)
    runs = counts if len(sizes) == 1 else ops.rle_merge(counts, offsets, bool(intersect))
    (text,) = compress_counts(runs, torch.tensor([0, runs.shape[0]], device="cpu"))
    return {"size": [height, width], "counts": text}


@overload
def frPyObjects(pyobj: RLE, h: int, w: int) -> RLE: ...
@overload
def frPyObjects(pyobj: Any, h: int, w: int) -> Any: ...
def frPyObjects(pyobj: Any, h: int, w: int) -> Any:
    """Convert polygons, boxes or uncompressed RLEs to RLEs, with `counts` as bytes.

    Args:
        pyobj: a list of polygons [x1, y1, x2, y2, x3, y3, ...]; boxes x, y, width, height as an (N, 4) array or
            list; a list of uncompressed RLEs (`counts` a list of integers); or a single one of these. As in
            `pycocotools`, the first item of a list determines its kind: four numbers are a box, more are a polygon.
        h: height of the masks of polygons and boxes; uncompressed RLEs have a size of their own.
        w: width, likewise.

    Returns:
        A list of RLEs for a list, a single RLE for a single object.
    """
    if isinstance(pyobj, Mapping):
        return _compress([pyobj])[0]
    if not isinstance(pyobj, (list, tuple, np.ndarray)):
        raise TypeError(f"expected polygons, boxes or RLE dicts; got {type(pyobj).__name__}")
    if len(pyobj) == 0:
        if isinstance(pyobj, np.ndarray) and pyobj.ndim == 2:
            return []
        raise ValueError("an empty list is neither polygon, box nor RLE")
    if isinstance(pyobj[0], Mapping):
        return _compress(pyobj)
    single = not isinstance(pyobj[0], (list, tuple, np.ndarray))
    shapes = [_float_array(item) for item in ([pyobj] if single else pyobj)]
    if len(shapes[0]) == 4:
        rles = _rasterise([_corners(box) for box in shapes], h, w)
    elif len(shapes[0]) > 4 and not (isinstance(pyobj, np.ndarray) and not single):
        rles = _rasterise([_vertices(polygon) for polygon in shapes], h, w)
    else:
        raise ValueError(
            f"a box has 4 numbers and a polygon at least 6, boxes may be an (N, 4) array; got {len(shapes[0])} numbers"
        )
    return rles[0] if single else rles


def _compress(rles: Iterable[Any]) -> list[RLE]:
    """Compress uncompressed RLEs; RLEs that are compressed already are checked and passed through."""
    compressed = []
    for mask in rles:
        height, width = checked_size(mask)
        counts = mask.get("counts")
        if isinstance(counts, (list, tuple, np.ndarray)):
            runs = _run_lengths(counts, height * width)
            (text,) = compress_counts(runs, torch.tensor([0, runs.shape[0]], device="cpu"))
        else:
            unpack(mask)
            text = counts_as_bytes(mask)
        compressed.append({"size": [height, width], "counts": text})
    return compressed


def _run_lengths(counts: Any, num_pixels: int) -> Tensor:
    values = [counts] if isinstance(counts, np.ndarray) and counts.ndim == 0 else list(counts)
    runs = [checked_integer(value, "a run length") for value in values]
    if sum(runs) != num_pixels:
        raise ValueError(f"the runs sum to {sum(runs)}, but the size has {num_pixels} pixels. {HINT}")
    return torch.tensor(runs, dtype=torch.int64, device="cpu")


def _float_array(item: Any) -> NDArray[np.float64]:
    try:
        values = np.asarray(item, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"a polygon or box must be a flat list of numbers; got {str(item)[:80]!r}") from None
    if values.ndim != 1:
        raise ValueError(f"a polygon or box must be a flat list of numbers; got shape {values.shape}")
    return values


def _vertices(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(polygon) % 2:
        raise ValueError(f"a polygon needs an even number of coordinates, x and y of each vertex; got {len(polygon)}")
    return polygon.reshape(-1, 2)


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(box) != 4:
        raise ValueError(f"a box has 4 numbers, x y width height; got {len(box)}")
    x, y, width, height = box
    return np.array([[x, y], [x, y + height], [x + width, y + height], [x + width, y]])


def _rasterise(polygons: list[NDArray[np.float64]], h: int, w: int) -> list[RLE]:
    # Accept integral floats, because sizes from tables and JSON often are floats. An RLE's own `size` must be integers.
    named_sides: tuple[tuple[str, Any], ...] = ("h", h), ("w", w)
    height, width = (
        checked_integer(int(side) if isinstance(side, float) and side.is_integer() else side, name)
        for name, side in named_sides
    )
    offsets = torch.tensor([0, *np.cumsum([len(polygon) for polygon in polygons]).tolist()], device="cpu")
    points = torch.from_numpy(np.concatenate(polygons))
    texts = compress_counts(*ops.rle_from_polygon(points, offsets, height, width))
    return [{"size": [height, width], "counts": text} for text in texts]


def _to_tensor(array: NDArray[Any]) -> Tensor:
    array = np.asarray(array)
    if array.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"masks must be bool or uint8, not {array.dtype}; threshold them first, as in masks > 0")
    return to_tensor(array)
