"""Prompts: converts the forms that callers may use to one checked form, in pixels of the original image.

points:
    [x, y]                      one object, one click
    [[x, y], [x, y]]            two objects of one click each (not one object with two clicks)
    [[[x, y], [x, y]]]          one object with two clicks: N x P x 2
    [[[x, y], [x, y]], [[x, y]]]  ragged: each object has its own number of clicks, and its mask is the same as if
                                it were prompted alone
labels (1 foreground, 0 background, -1 none, 2 and 3 the corners of a box):
    None: all 1. One number: for all clicks. N numbers for N x 2 points. N x P, or as ragged as the points. P numbers
    for N x P x 2 points: the same for every object.
bboxes:
    [x1, y1, x2, y2] or N x 4, or an object that has them as `xyxy`, such as the `Boxes` of a result. With points, box i
    and points i describe object i.
masks:
    (H, W) or (N, H, W), either of the image's size or of the low-resolution logits' (S / 4, S / 4), or the `Masks` of
    a result. Floating-point values are logits; bool values, and integers 0 and 1 (or 0 and 255), mean background and
    foreground.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ._log import warn_once
from ._tensors import check_dense
from .masks import Masks
from .preprocess import scale_points

# Magnitude of the logits that a binary mask prompt is converted to. SAM's own logits for clear masks are about this
# large, and SAM 2 maps binary mask prompts to the same values.
BINARY_LOGIT = 10.0

# Larger coordinates are rejected like infinite ones: the network turns them into NaN although float32 can hold them.
MAX_COORDINATE = 1e9
# Likewise for the logits of mask prompts: the network squares them, and infinite squares give NaN.
MAX_LOGIT = 1e15

_POINT_FORMS = (
    "accepted: [x, y] (one object), N x 2 (N objects of one point each), N x P x 2, or a list of lists of points with "
    "a different number for each object"
)


@dataclass(frozen=True)
class Prompts:
    """Prompts for N objects. All tensors are on the CPU, and only `masks` may share memory with the caller's.

    boxes: (N, 4) float32. points: (N, P, 2) float32 with labels (N, P) int64. counts[i] <= P is the number of points of
    object i; the rest of its row is padding (label -1) that never reaches the model. masks: (N, h, w).
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return next(len(part) for part in (self.boxes, self.points, self.masks) if part is not None)

    @classmethod
    def parse(cls, bboxes: Any = None, points: Any = None, labels: Any = None, masks: Any = None) -> Prompts | None:
        """Read prompts in any accepted form; return None if none are given. An empty list is a prompt for no objects.

        Labels without points are no prompt. Raises ValueError for invalid shapes and values, and for different numbers
        of objects; TypeError for anything but numbers.
        """
        if points is None and labels is not None:
            warn_once("labels have no effect without points")
        if bboxes is None and points is None and masks is None:
            return None
        boxes = None if bboxes is None else _parse_boxes(bboxes)
        padded, padded_labels, counts = (None, None, ()) if points is None else _parse_points(points, labels)
        prompts = cls(boxes, padded, padded_labels, None if masks is None else _parse_masks(masks), counts)
        parts = {"bboxes": prompts.boxes, "points": prompts.points, "masks": prompts.masks}
        lengths = {name: len(part) for name, part in parts.items() if part is not None}
        if len(set(lengths.values())) > 1:
            counts_by_name = ", ".join(f"{name} for {length}" for name, length in lengths.items())
            raise ValueError(f"all prompts must be for the same number of objects; got {counts_by_name}")
        if boxes is None and masks is None and 0 in prompts.counts:
            raise ValueError(f"object {prompts.counts.index(0)} has no points, and no box or mask either")
        _warn_if_suspicious(boxes, padded)
        return prompts

    def batches(self, max_size: int) -> Iterator[tuple[Tensor, Prompts]]:
        """Split into batches of at most `max_size` objects with equal numbers of points.

        Yields the indices of a batch's objects, (K,) int64, and their prompts, without padding.
        """
        groups: dict[int, list[int]] = {}
        for index in range(len(self)):
            groups.setdefault(self.counts[index] if self.counts else 0, []).append(index)
        for count, members in groups.items():
            for indices in torch.tensor(members, device="cpu").split(max_size):
                yield (
                    indices,
                    Prompts(
                        boxes=None if self.boxes is None else self.boxes[indices],
                        points=None if self.points is None or count == 0 else self.points[indices, :count],
                        labels=None if self.labels is None or count == 0 else self.labels[indices, :count],
                        masks=None if self.masks is None else self.masks[indices],
                        counts=(count,) * len(indices),
                    ),
                )

    def to_model_inputs(
        self, original_hw: tuple[int, int], resized_hw: tuple[int, int], image_size: int
    ) -> dict[str, Any]:
        """Return the arguments `points`, `labels`, `boxes`, `masks` of `SamModel.decode_prompts`, in model pixels."""
        boxes = None
        if self.boxes is not None:
            boxes = scale_points(self.boxes.reshape(-1, 2, 2), original_hw, resized_hw).reshape(-1, 4)
        return {
            "points": None if self.points is None else scale_points(self.points, original_hw, resized_hw),
            "labels": self.labels,
            "boxes": boxes,
            "masks": None if self.masks is None else _mask_logits(self.masks, resized_hw, image_size),
        }

    def check(self, original_hw: tuple[int, int], image_size: int) -> None:
        """Raise ValueError unless masks have the size of the image or of the low-resolution logits.

        Points and boxes that lie outside the image are logged once as a warning.
        """
        side = image_size // 4
        if (
            self.masks is not None
            and len(self.masks)
            and tuple(self.masks.shape[1:]) not in (original_hw, (side, side))
        ):
            raise ValueError(
                f"masks have height x width {tuple(self.masks.shape[1:])}; accepted: the image's {original_hw}, or "
                f"{(side, side)} low-resolution logits"
            )
        # First and last corners; for a point both are the point itself.
        corner_pairs = [] if self.boxes is None else [(self.boxes[:, :2], self.boxes[:, 2:])]
        corner_pairs += [] if self.points is None else [(self.points, self.points)]
        image_wh = torch.tensor(original_hw[::-1], device="cpu")
        if any(bool(((lower_right < 0) | (upper_left > image_wh)).any()) for upper_left, lower_right in corner_pairs):
            warn_once("a point or box lies outside its image: give pixels of the original image, not of a resized one")


def _warn_if_suspicious(boxes: Tensor | None, points: Tensor | None) -> None:
    """Warn about coordinates that are valid but probably a mistake."""
    if boxes is not None and bool((boxes[:, 2:] < boxes[:, :2]).any()):
        warn_once(
            "bboxes are x1, y1, x2, y2, and one has its second corner left of or above the first: if they are x, y, "
            "width, height, give x, y, x + width, y + height"
        )
    for name, part in (("bboxes", boxes), ("points", points)):
        if part is not None and bool(((part >= 0) & (part <= 1)).all() and (part != part.round()).any()):
            warn_once(f"all {name} lie in the first pixel: coordinates are pixels, not fractions of the image's size")


def parse_texts(texts: Any) -> tuple[str, ...]:
    """Return one text or a list of them as a tuple, stripped; None gives an empty tuple.

    Raises TypeError for anything else, and ValueError for an empty text.
    """
    if texts is None:
        return ()
    words = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
    if words is None or not all(isinstance(word, str) for word in words):
        raise TypeError(f"texts must be a text or a list of them, not {texts!r}")
    if not all(word.strip() for word in words):
        raise ValueError("texts must not be empty: say what to look for, as in texts=['a dog']")
    return tuple(word.strip() for word in words)


def _to_float64(value: Any, name: str) -> np.ndarray:
    """Convert anything made of numbers to a float64 array; ValueError if it is ragged, TypeError if not numeric."""
    if isinstance(value, Tensor):
        check_dense(value, name)
        value = value.detach().cpu()
        array = (value.float() if value.is_floating_point() else value).numpy()
    elif isinstance(value, list | tuple):
        parts = [_to_float64(part, name) for part in value] if _contains_tensor(value) else value
        array = np.asarray(parts)  # ValueError if ragged
    else:
        array = np.asarray(value)
    if array.dtype == object and all(isinstance(number, numbers.Real) for number in array.flat):
        # For example a data frame with columns of different types, or integers of more than 64 bits.
        try:
            return array.astype(np.float64)
        except OverflowError:
            raise TypeError(f"{name} hold a number that is too large for a coordinate: {value!r}"[:200]) from None
    if array.dtype.kind not in "biuf" and array.size:
        raise TypeError(f"{name} must be numbers, not {value!r}"[:200])
    return array.astype(np.float64)


def _contains_tensor(value: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether nested lists contain tensors: NumPy can't read those of other devices and is slow with any."""
    return any(
        isinstance(part, Tensor) or (isinstance(part, list | tuple) and _contains_tensor(part)) for part in value
    )


def _finite_float32(array: np.ndarray, name: str) -> Tensor:
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    is_valid = np.abs(values) <= MAX_COORDINATE  # False for NaN
    if not is_valid.all():
        raise ValueError(
            f"{name} must be finite pixel coordinates of at most 1e9 in magnitude; found {array[~is_valid][0]}"
        )
    return torch.from_numpy(values)


def _parse_boxes(bboxes: Any) -> Tensor:
    bboxes = getattr(bboxes, "xyxy", bboxes)  # of the `Boxes` of a result, of this package or another
    try:
        array = _to_float64(bboxes, "bboxes")
    except ValueError:
        raise ValueError("bboxes are not all of one length; accepted: [x1, y1, x2, y2] or N x 4") from None
    if array.size == 0:
        return torch.zeros(0, 4, device="cpu")
    if array.ndim not in (1, 2) or array.shape[-1] != 4:
        raise ValueError(f"bboxes have shape {array.shape}; accepted: [x1, y1, x2, y2] or N x 4")
    return _finite_float32(array.reshape(-1, 4), "bboxes")


def _split_objects(points: Any) -> list[np.ndarray]:
    """Convert ragged points to one (P, 2) array per object."""
    objects = []
    for index, object_points in enumerate(points):
        try:
            array = _to_float64(object_points, "points")
        except ValueError:
            raise ValueError(f"points of object {index} don't have two coordinates each; {_POINT_FORMS}") from None
        if array.size == 0:
            array = array.reshape(0, 2)
        if array.ndim not in (1, 2) or array.shape[-1] != 2:
            raise ValueError(f"points of object {index} have shape {array.shape}; {_POINT_FORMS}")
        objects.append(array.reshape(-1, 2))
    return objects


def _parse_points(points: Any, labels: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return padded points (N, P, 2), padded labels (N, P), and the number of points of each object."""
    nested = True  # whether each object is a list of points
    try:
        array = _to_float64(points, "points")
    except ValueError:
        objects = _split_objects(points)
    else:
        if array.size == 0:
            # [] and 0 x 2 mean no objects; [[]] is one object without points.
            objects = [np.zeros((0, 2))] * len(array)
        elif array.ndim not in (1, 2, 3) or array.shape[-1] != 2:
            raise ValueError(f"points have shape {array.shape}; {_POINT_FORMS}")
        else:
            nested = array.ndim == 3
            objects = list(array) if nested else list(array.reshape(-1, 1, 2))
    counts = tuple(len(object_points) for object_points in objects)
    max_points = max(counts, default=1)
    padded = np.zeros((len(objects), max_points, 2))
    padded_labels = np.full((len(objects), max_points), -1.0)
    for index, values in enumerate(_parse_labels(labels, counts, nested)):
        padded[index, : counts[index]] = objects[index]
        padded_labels[index, : counts[index]] = values
    if not nested and len(objects) > 1 and bool((padded_labels == 0).any()):
        warn_once(
            "points given as N x 2 are N separate objects, so a click with label 0 is an object of its own; for one "
            "object with several clicks write points=[[[x, y], [x, y]]], labels=[[1, 0]]"
        )
    return _finite_float32(padded, "points"), torch.from_numpy(padded_labels).long(), counts


def _parse_labels(labels: Any, counts: tuple[int, ...], nested: bool) -> list[np.ndarray]:
    """Return an array of counts[i] labels for each object i."""
    if labels is None:
        return [np.ones(count) for count in counts]
    try:
        array = _to_float64(labels, "labels")
    except ValueError:
        try:
            parts = [_to_float64(part, "labels") for part in labels]
        except ValueError:
            raise ValueError(f"labels of one object are not all of one length: {labels!r}"[:200]) from None
    else:
        if array.ndim == 0 or (array.ndim == 1 and nested and len(counts) > 0):
            parts = [array] * len(counts)
        elif array.ndim == 1 and not nested:
            parts = list(array.reshape(-1, 1))
        else:
            parts = list(array)
    if len(parts) != len(counts):
        hint = "" if nested else "; several points of one object are written points=[[[x, y], [x, y]]]"
        raise ValueError(f"labels are for {len(parts)} objects, points for {len(counts)}{hint}")
    result = []
    for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if part.ndim > 1 or (part.ndim == 1 and len(part) != count):
            raise ValueError(f"object {index} has {count} points but labels of shape {part.shape}: give one per point")
        if not np.isin(part, (-1, 0, 1, 2, 3)).all():
            raise ValueError(
                f"labels must be 1 (foreground), 0 (background), -1 (none), or 2 and 3 (corners of a box); "
                f"object {index} has {part.tolist()}"
            )
        result.append(np.broadcast_to(part, (count,)))
    return result


def _parse_masks(masks: Any) -> Tensor:
    """Return mask prompts as (N, h, w), of the given dtype: bool, integer or floating-point logits."""
    masks = masks.data if isinstance(masks, Masks) else masks
    if isinstance(masks, list | tuple):
        if not masks:
            return torch.zeros(0, 1, 1, device="cpu")
        if all(isinstance(part, np.ndarray | Tensor) for part in masks):
            masks = [_mask_tensor(part) for part in masks]
            if len({part.shape for part in masks}) > 1:
                raise ValueError(f"masks have different shapes: {[tuple(part.shape) for part in masks]}")
            if len({part.is_floating_point() for part in masks}) > 1:
                raise ValueError("masks mix floating-point logits with bool or integer masks: give all as one of these")
            masks = torch.stack(masks)
    tensor = _mask_tensor(masks)
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and tensor.numel():
        tensor = tensor[None]
    if tensor.numel() == 0 and tensor.ndim in (1, 2, 3) and len(tensor) == 0:
        return torch.zeros(0, 1, 1, device="cpu")
    if tensor.ndim != 3 or tensor.numel() == 0:
        raise ValueError(f"masks have shape {tuple(tensor.shape)}; accepted: (H, W) or (N, H, W)")
    if tensor.is_floating_point():
        is_valid = tensor.float().abs() <= MAX_LOGIT  # False for NaN
        if not bool(is_valid.all()):
            raise ValueError(
                f"masks must be finite logits, at most {MAX_LOGIT:g} in magnitude; found {tensor[~is_valid][0]:g}"
            )
    elif tensor.dtype != torch.bool:
        is_binary = (tensor == 0) | (tensor == 1) | ((tensor == 255) & (tensor > 0))  # in int8, -1 equals 255
        if not bool(is_binary.all()):
            raise ValueError("integer masks must be 0 and 1 (or 0 and 255); give logits as floating point")
    return tensor


def _mask_tensor(mask: Any) -> Tensor:
    if isinstance(mask, Tensor):
        check_dense(mask, "masks")
        tensor = mask.detach().cpu()
    else:
        try:
            array = np.asarray(mask)
        except ValueError:
            raise ValueError("masks are not all of one shape; accepted: (H, W) or (N, H, W)") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"masks must be arrays of numbers, not {type(mask).__name__} of {array.dtype}")
        # PyTorch supports neither read-only memory nor negative strides, and has few operations for uint16 to uint64.
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        is_usable = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
        tensor = torch.from_numpy(array if is_usable else array.astype(array.dtype.newbyteorder("=")).copy())
    if tensor.is_complex():
        raise TypeError("masks must be real numbers")
    return tensor


def _mask_logits(masks: Tensor, resized_hw: tuple[int, int], image_size: int) -> Tensor:
    """Convert mask prompts to the decoder's input: logits (N, 1, S / 4, S / 4) float32.

    A mask of the image's size follows the image's preprocessing: it is resized (nearest), padded on the right and below
    with logit 0, which means unknown, and then resized bilinearly to S / 4. Low-resolution logits are not resized.
    """
    side = image_size // 4
    if not masks.is_floating_point():
        masks = torch.where(masks != 0, BINARY_LOGIT, -BINARY_LOGIT)
    logits = masks.float()[:, None]
    if tuple(masks.shape[1:]) == (side, side):
        return logits
    height, width = resized_hw
    resized = F.interpolate(logits, size=(height, width), mode="nearest")
    padded = F.pad(resized, (0, image_size - width, 0, image_size - height))
    return F.interpolate(padded, size=(side, side), mode="bilinear", align_corners=False)
