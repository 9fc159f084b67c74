"""Steps of segment everything on masks and boxes as tensors, under names that users of other packages know.

They are for code written for `ultralytics.models.sam.amg` or Meta's `segment_anything.utils.amg`. Segment everything
itself works on low-resolution logits and run lengths (`fastsam_core.everything`). Boxes are x0, y0, x1, y1 in pixels.
The box of a mask includes both corners; a crop box ends before x1 and y1.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ... import ops
from ... import rle as coco
from ...everything import crops, grid


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """Return the centres of an n x n division of the unit square: (n ** 2, 2) x, y; x varies fastest."""
    return grid.point_grid(n_per_side).copy()


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[NDArray[np.float64]]:
    """Return the grids of layers 0..n_layers, with int(n_per_side / scale_per_layer ** layer) points per side.

    Raises ValueError if a layer would have no points.
    """
    return [points.copy() for points in grid.layer_grids(n_per_side, n_layers, scale_per_layer)]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Return the crops of an image, and the layer of each; layer 0 is the whole image.

    im_size: (height, width, ...). overlap_ratio: overlap of layer 1 as a fraction of the image's short side.
    """
    found = crops.crop_boxes((im_size[0], im_size[1]), n_layers, overlap_ratio)
    return [list(box) for box, _ in found], [layer for _, layer in found]


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yield batches of `batch_size` elements of each argument, in step.

    Raises ValueError unless the arguments have one length and `batch_size` is positive.
    """
    lengths = {len(arg) for arg in args}
    if len(lengths) != 1 or batch_size < 1:
        raise ValueError(
            f"batch_iterator needs arguments of one length and a positive size; got {lengths}, {batch_size}"
        )
    for start in range(0, lengths.pop(), batch_size):
        yield [arg[start : start + batch_size] for arg in args]


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """Return the IoU of each mask at a higher threshold with itself at a lower one: (..., H, W) -> (...) float32.

    masks: logits. The thresholds are mask_threshold +/- threshold_offset. NaN for a mask that is empty at both.
    """
    smaller, larger = (
        (masks > mask_threshold + offset).sum((-2, -1), dtype=torch.int32)
        for offset in (threshold_offset, -threshold_offset)
    )
    return smaller / larger


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Return the box around each mask: (..., H, W) bool -> (..., 4) int64; zeros for an empty mask."""
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, dtype=torch.int64, device=masks.device)
    sides = []
    for occupied in (masks.any(-2), masks.any(-1)):  # columns, rows
        occupied_uint8 = occupied.to(torch.uint8)
        sides.append((occupied_uint8.argmax(-1), occupied.shape[-1] - 1 - occupied_uint8.flip(-1).argmax(-1)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], -1) * masks.any(-1).any(-1)[..., None]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0
) -> Tensor:
    """Return whether a side of each box lies on an edge of the crop that is not an edge of the image: (N,) bool.

    boxes: (N, 4), relative to the crop. atol: distance in pixels within which a side counts as lying on an edge.
    """
    image_boxes = uncrop_boxes_xyxy(boxes, crop_box).float()
    at_crop, at_image = ((image_boxes - image_boxes.new_tensor(box)).abs() <= atol for box in (crop_box, orig_box))
    return (at_crop & ~at_image).any(dim=1)


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Convert boxes (..., 4) in a crop to boxes in the image."""
    return boxes + torch.tensor([*crop_box[:2], *crop_box[:2]], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Convert points (..., 2) x, y in a crop to points in the image."""
    return points + torch.tensor([*crop_box[:2]], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> Tensor:
    """Place masks (..., h, w) of a crop in an empty image: (..., orig_h, orig_w)."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1), value=0)


def remove_small_regions(mask: NDArray[Any], area_thresh: float, mode: str) -> tuple[NDArray[np.bool_], bool]:
    """Return a mask (H, W) without holes or islands of fewer than `area_thresh` pixels, and whether there were any.

    mode: "holes" or "islands". Regions are 8-connected. If all islands are too small, the largest stays. Raises
    ValueError for another mode, or another number of dimensions.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', not {mode!r}")
    mask = np.asarray(mask, bool)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), not {mask.shape}")
    if not mask.size:  # OpenCV crashes on images without pixels
        return mask, False
    search_mask = ~mask if mode == "holes" else mask
    _, regions, stats, _ = cv2.connectedComponentsWithStats(search_mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = areas < area_thresh
    if not small.any():
        return mask, False
    if mode == "islands" and small.all():
        small[areas.argmax()] = False
    return np.where(np.concatenate([[False], small])[regions], mode == "holes", mask), True


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """Convert masks (N, H, W) to uncompressed RLE: {"size": [H, W], "counts": [...]}, in column-major order."""
    counts, offsets = ops.rle_encode(tensor.bool())
    size = list(tensor.shape[1:])
    return [{"size": size.copy(), "counts": counts[i:j].tolist()} for i, j in pairwise(offsets.tolist())]


def rle_to_mask(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Convert an RLE of `mask_to_rle_pytorch` to a mask (H, W). ValueError for invalid run lengths."""
    return coco.decode(coco.frPyObjects(rle, *rle["size"])).astype(bool)


def area_from_rle(rle: dict[str, Any]) -> int:
    """Return the number of set pixels of an RLE of `mask_to_rle_pytorch`."""
    return sum(rle["counts"][1::2])


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """Return an RLE of `mask_to_rle_pytorch` with its counts in COCO's text form, for JSON."""
    packed = coco.frPyObjects(uncompressed_rle, *uncompressed_rle["size"])
    return {"size": uncompressed_rle["size"], "counts": packed["counts"].decode("ascii")}


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """Convert x0, y0, x1, y1 to x0, y0, x1 - x0, y1 - y0: a new tensor or array (..., 4), or a list of four numbers."""
    if isinstance(box_xyxy, list):
        x0, y0, x1, y1 = box_xyxy
        return [x0, y0, x1 - x0, y1 - y0]
    box = box_xyxy.clone() if isinstance(box_xyxy, Tensor) else box_xyxy.copy()
    box[..., 2:] -= box_xyxy[..., :2]
    return box


class MaskData:
    """Columns of data about some masks, by name, which are filtered and concatenated together.

    The columns are tensors, arrays or lists of one length. Raises TypeError for a column of another type.
    """

    def __init__(self, **columns: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, column in columns.items():
            self[name] = column

    def __setitem__(self, name: str, column: Any) -> None:
        if not isinstance(column, Tensor | np.ndarray | list):
            raise TypeError(f"{name} must be a tensor, an array or a list, not {type(column).__name__}")
        self._stats[name] = column

    def __getitem__(self, name: str) -> Any:
        return self._stats[name]

    def __delitem__(self, name: str) -> None:
        del self._stats[name]

    def items(self) -> ItemsView[str, Any]:
        return self._stats.items()

    def filter(self, keep: Any) -> None:
        """Keep some of the masks.

        keep: (N,) bool, or indices (K,), which also give the new order.
        """
        keep = torch.as_tensor(keep)
        indices = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        for name, column in self._stats.items():
            if isinstance(column, list):
                self._stats[name] = [column[index] for index in indices.tolist()]
            elif isinstance(column, Tensor):
                self._stats[name] = column[indices.to(column.device)]
            else:  # NumPy takes a tensor of one index as a number
                self._stats[name] = column[indices.cpu().numpy()]

    def cat(self, new_stats: MaskData) -> None:
        """Append the masks of another `MaskData`. Columns that don't exist here yet are copied."""
        for name, column in new_stats.items():
            existing = self._stats.get(name)
            if existing is None:
                self._stats[name] = deepcopy(column)
            elif isinstance(column, Tensor):
                self._stats[name] = torch.cat([existing, column])
            elif isinstance(column, np.ndarray):
                self._stats[name] = np.concatenate([existing, column])
            else:
                self._stats[name] = existing + deepcopy(column)

    def to_numpy(self) -> None:
        """Convert tensors to arrays."""
        for name, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[name] = column.detach().cpu().numpy()
