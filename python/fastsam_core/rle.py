"""Masks as COCO run lengths: `pycocotools.mask`'s functions, call for call and byte for byte, on malformed input safe.

An RLE is a dict `{"size": [height, width], "counts": text}`; the text (bytes or str) is COCO's compressed form of the
run lengths, which go down the columns and start with background. Empty text is valid only for a mask without pixels.

What `pycocotools` accepts gives the same values, dtypes and shapes here. What is malformed raises ValueError from
every function before anything is allocated (runs that don't sum to height * width, negative or non-integer sizes,
unterminated or over-long numbers, foreign characters, missing keys), and TypeError where an RLE is no dict.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops
from .ops._inputs import MAX_PIXELS

__all__ = ["area", "decode", "encode", "frPyObjects", "from_masks", "iou", "merge", "toBbox", "to_masks"]

RLE = dict[str, Any]

_HINT = (
    "Common causes: backslashes that JSON escaped twice, the text of a Python bytes literal (b'...') in place of the "
    "text itself, a string that was cut off, and a size given as [width, height]."
)


# ------------------------------------------------------------------------------------------------ masks to and from RLE


def from_masks(masks: Tensor | NDArray[Any]) -> list[RLE]:
    """One RLE per mask, `counts` as str, ready for JSON.

    Args:
        masks: (N, H, W) bool or uint8 of any strides and device; every non-zero value is foreground.
    """
    tensor = masks if isinstance(masks, Tensor) else _tensor(masks)
    height, width = tensor.shape[-2:] if tensor.dim() == 3 else (0, 0)
    texts = _texts(*ops.rle_encode(tensor))
    return [{"size": [height, width], "counts": text.decode("ascii")} for text in texts]


def to_masks(rles: Sequence[RLE]) -> Tensor:
    """Masks (N, H, W) bool of RLEs that have one size; (0, 0, 0) for none."""
    counts, offsets, sizes = _unpack(rles)
    height, width = _one_size(sizes)
    return ops.rle_decode(counts, offsets, height, width)


def encode(bimask: NDArray[Any]) -> Any:
    """The RLE of a mask (H, W), or the list of RLEs of masks (H, W, N); `counts` as bytes.

    `bimask` is uint8 or bool. Column-major (Fortran) order is fastest, but any order will do.
    """
    array = np.asarray(bimask)
    if array.ndim not in (2, 3):
        raise ValueError(f"a mask must have shape (H, W), or (H, W, N) for several; got {array.shape}")
    masks = array[:, :, None] if array.ndim == 2 else array
    height, width, _ = masks.shape
    texts = _texts(*ops.rle_encode(_tensor(masks.transpose(2, 0, 1))))
    rles: list[RLE] = [{"size": [height, width], "counts": text} for text in texts]
    return rles[0] if array.ndim == 2 else rles


def decode(rleObjs: RLE | Sequence[RLE]) -> NDArray[np.uint8]:
    """The mask (H, W) of an RLE, or the masks (H, W, N) of a list of them, as uint8 in column-major order.

    Raises MemoryError for valid masks that are too large for this machine.
    """
    counts, offsets, sizes = _unpack(rleObjs)
    height, width = _one_size(sizes)
    masks = ops.rle_decode(counts, offsets, height, width, column_major=True)  # (N, H, W)
    array: NDArray[np.uint8] = masks.transpose(1, 2).numpy().view(np.uint8).transpose(2, 1, 0)
    return array[:, :, 0] if isinstance(rleObjs, Mapping) else array


# --------------------------------------------------------------------------------------------------------- measurements


def area(rleObjs: RLE | Sequence[RLE]) -> Any:
    """Foreground pixels of an RLE (a NumPy scalar) or of each in a list (N,); uint32, or uint64 if one is larger."""
    counts, offsets, _ = _unpack(rleObjs)
    areas = ops.rle_area(counts, offsets).numpy()
    fits = areas.size == 0 or int(areas.max()) <= np.iinfo(np.uint32).max
    areas = areas.astype(np.uint32 if fits else np.uint64)
    return areas[0] if isinstance(rleObjs, Mapping) else areas


def toBbox(rleObjs: RLE | Sequence[RLE]) -> NDArray[np.float64]:
    """The box x, y, width, height (4,) around an RLE's foreground, or the boxes (N, 4) of a list; zeros if empty."""
    counts, offsets, sizes = _unpack(rleObjs)
    heights = torch.tensor([height for height, _ in sizes], dtype=torch.int64)
    boxes: NDArray[np.float64] = ops.rle_to_bbox(counts, offsets, heights).numpy().astype(np.float64)
    return boxes[0] if isinstance(rleObjs, Mapping) else boxes


def iou(dt: Any, gt: Any, pyiscrowd: Any) -> Any:
    """Intersection over union of every pair: (D, G) float64, or an empty list where either side has none.

    Args:
        dt: a list of D RLEs, or D boxes x, y, width, height as an array or list.
        gt: G of the same kind.
        pyiscrowd: G flags; where set, the union is the area of the first mask or box alone.

    Raises:
        ValueError: malformed RLEs or boxes, RLEs of different sizes, flags that don't match `gt`.
        TypeError: RLEs on one side and boxes on the other, or neither.
    """
    (dt_kind, dts), (gt_kind, gts) = _iou_side(dt, "dt"), _iou_side(gt, "gt")
    iscrowd = np.asarray(pyiscrowd).astype(bool)
    if iscrowd.shape != (len(gts),):
        raise ValueError(f"iscrowd must hold one flag per gt, {len(gts)}; got shape {iscrowd.shape}")
    if len(dts) == 0 or len(gts) == 0:
        for kind, side in ((dt_kind, dts), (gt_kind, gts)):
            if kind == "rle":
                _unpack(side)
        return []
    if dt_kind != gt_kind:
        raise TypeError("dt and gt must be of one kind, both RLEs or both boxes")
    if dt_kind == "box":
        return _box_iou(dts, gts, iscrowd)
    dt_counts, dt_offsets, dt_sizes = _unpack(dts)
    gt_counts, gt_offsets, gt_sizes = _unpack(gts)
    _one_size(dt_sizes + gt_sizes)
    return ops.rle_iou(dt_counts, dt_offsets, gt_counts, gt_offsets, torch.from_numpy(iscrowd)).numpy()


def _iou_side(side: Any, name: str) -> tuple[str, Any]:
    """("rle", list of dicts) or ("box", (N, 4) float64)."""
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
    low = np.maximum(dt[:, None, :2], gt[None, :, :2])
    high = np.minimum(dt[:, None, :2] + dt[:, None, 2:], gt[None, :, :2] + gt[None, :, 2:])
    extent = high - low  # (D, G, 2)
    shared = extent[..., 0] * extent[..., 1]
    touching = (extent > 0).all(-1)
    dt_area, gt_area = dt[:, None, 2] * dt[:, None, 3], gt[None, :, 2] * gt[None, :, 3]
    union = np.where(iscrowd[None, :], dt_area, dt_area + gt_area - shared)
    result: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=touching)
    return result


# --------------------------------------------------------------------------------------------------------- construction


def merge(rleObjs: Sequence[RLE], intersect: bool | int = False) -> RLE:
    """Union of masks of one size, or with `intersect` their intersection; `counts` as bytes.

    A list of one gives that mask; an empty list gives the mask without pixels.
    """
    counts, offsets, sizes = _unpack(rleObjs)
    height, width = _one_size(sizes)
    runs = counts if len(sizes) == 1 else ops.rle_merge(counts, offsets, bool(intersect))
    (text,) = _texts(runs, torch.tensor([0, runs.shape[0]]))
    return {"size": [height, width], "counts": text}


@overload
def frPyObjects(pyobj: RLE, h: int, w: int) -> RLE: ...
@overload
def frPyObjects(pyobj: Any, h: int, w: int) -> Any: ...
def frPyObjects(pyobj: Any, h: int, w: int) -> Any:
    """RLEs, `counts` as bytes, of polygons, boxes, or uncompressed RLEs.

    Args:
        pyobj: a list of polygons [x1, y1, x2, y2, x3, y3, ...]; boxes x, y, width, height as an (N, 4) array or
            list; a list of uncompressed RLEs (`counts` a list of integers); or a single one of these. As in
            `pycocotools`, the first item of a list decides: four numbers are a box, more are a polygon.
        h: height of the masks of polygons and boxes; an uncompressed RLE goes by its own size.
        w: width, likewise.

    Returns:
        A list for a list, one RLE for a single object.
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
    shapes = [_numbers(item) for item in ([pyobj] if single else pyobj)]
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
    """Compressed RLEs of uncompressed ones; compressed ones are checked and passed on."""
    packed = []
    for rle in rles:
        height, width = _size(rle)
        counts = rle.get("counts")
        if isinstance(counts, (list, tuple, np.ndarray)):
            runs = _run_lengths(counts, height * width)
            (text,) = _texts(runs, torch.tensor([0, runs.shape[0]]))
        else:
            _unpack(rle)
            text = _text(rle)
        packed.append({"size": [height, width], "counts": text})
    return packed


def _run_lengths(counts: Any, pixels: int) -> Tensor:
    values = [counts] if isinstance(counts, np.ndarray) and counts.ndim == 0 else list(counts)
    runs = [_integer(value, "a run length") for value in values]
    if sum(runs) != pixels:
        raise ValueError(f"the runs sum to {sum(runs)}, but the size has {pixels} pixels. {_HINT}")
    return torch.tensor(runs, dtype=torch.int64)


def _numbers(item: Any) -> NDArray[np.float64]:
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
    height, width = _integer(h, "h"), _integer(w, "w")
    offsets = torch.tensor([0, *np.cumsum([len(polygon) for polygon in polygons]).tolist()])
    points = torch.from_numpy(np.concatenate(polygons))
    texts = _texts(*ops.rle_from_polygon(points, offsets, height, width))
    return [{"size": [height, width], "counts": text} for text in texts]


# ----------------------------------------------------------------------------------------------- dicts to and from runs


def _unpack(rles: Any) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Checked run lengths, their offsets, and the sizes of one RLE or a list of them."""
    items = [rles] if isinstance(rles, Mapping) else rles
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"expected an RLE dict or a list of them; got {type(rles).__name__}")
    sizes = [_size(item) for item in items]
    texts = [_text(item) for item in items]
    offsets = torch.tensor([0, *np.cumsum([len(text) for text in texts], dtype=np.int64).tolist()])
    joined = bytearray().join(texts)
    characters = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
    pixels = torch.tensor([height * width for height, width in sizes], dtype=torch.int64)
    try:
        counts, run_offsets = ops.rle_from_string(characters, offsets, pixels)
    except ValueError as error:
        if len(items) > 1:
            _name_culprit(items)
        raise ValueError(f"malformed RLE {str(items[0])[:120]}: {error}. {_HINT}") from None
    return counts, run_offsets, sizes


def _name_culprit(items: Sequence[RLE]) -> None:
    for number, item in enumerate(items):
        try:
            _unpack(item)
        except ValueError as error:
            raise ValueError(f"item {number}: {error}") from None


def _size(rle: Any) -> tuple[int, int]:
    if not isinstance(rle, Mapping):
        raise TypeError(f"an RLE is a dict with 'size' and 'counts'; got {type(rle).__name__}")
    for key in ("size", "counts"):
        if key not in rle:
            raise ValueError(f"an RLE needs the keys 'size' and 'counts'; {key!r} is missing")
    size = rle["size"]
    if not isinstance(size, (list, tuple, np.ndarray)) or np.ndim(size) != 1 or len(size) != 2:
        raise ValueError(f"an RLE's size must be [height, width]; got {str(size)[:80]}")
    height, width = _integer(size[0], "height"), _integer(size[1], "width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"an RLE of {height} x {width} has more pixels than can be counted here ({MAX_PIXELS})")
    return height, width


def _integer(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be an integer, not {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, not {str(value)[:80]!r}") from None
    if not 0 <= number <= MAX_PIXELS:
        raise ValueError(f"{name} must be from 0 to {MAX_PIXELS}; got {str(number)[:40]}")
    return number


def _text(rle: Any) -> bytes:
    counts = rle["counts"]
    if isinstance(counts, str):
        try:
            return counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError(f"an RLE's counts must be ASCII text; got {counts[:80]!r}. {_HINT}") from None
    if isinstance(counts, (bytes, bytearray)):
        return bytes(counts)
    if isinstance(counts, (list, tuple, np.ndarray)):
        raise ValueError("this RLE is uncompressed: its counts are a list of run lengths; give it to frPyObjects first")
    raise ValueError(f"an RLE's counts must be str or bytes; got {type(counts).__name__}")


def _texts(counts: Tensor, offsets: Tensor) -> list[bytes]:
    characters, text_offsets = ops.rle_to_string(counts, offsets)
    joined = characters.cpu().numpy().tobytes()
    bounds = text_offsets.tolist()
    return [joined[begin:end] for begin, end in pairwise(bounds)]


def _one_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    if len(set(sizes)) > 1:
        raise ValueError(f"the masks must all have the same size; got {sorted(set(sizes))[:4]}")
    return sizes[0] if sizes else (0, 0)


def _tensor(array: NDArray[Any]) -> Tensor:
    array = np.asarray(array)
    if array.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"masks must be bool or uint8, not {array.dtype}; threshold them first, as in masks > 0")
    # PyTorch takes neither negative strides nor, without a warning, memory that must not be written.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy(order="K")
    return torch.from_numpy(array)
