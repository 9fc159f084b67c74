"""Segment everything over any model: prompt with a grid of points, filter early, keep RLE only, remove duplicates.

The steps and the order of the output are those of the automatic mask generator in Meta's segment_anything. The
difference is when things are computed: the predicted IoU decides before a mask exists, and of each mask only its runs
are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from .._limits import MAX_INPUT_SIDE
from ..measuring import AsyncHostCopy
from ..models.common import to_device
from ..ops._native_cuda import has_ample_memory, has_kernels_for
from ..postprocess import MaskResizer, measure_batch_size
from ..preprocess import resized_shape
from ..runs import encode_counts
from .arguments import Crop, check_count, check_image_size, check_number, plan_crops
from .candidates import BatchQueue, Candidates, Filters, PackedCounts, PendingBatch, compact_counts

Logits = Callable[[list[int], list[int]], Tensor]
Decode = Callable[[list[int], Tensor], tuple[Tensor, Logits]]

# On the CPU, low-resolution logits are requested for as many masks as are measured together: 4 MiB on two threads at an
# input size of 1024. For very large images the runs of noisy masks (up to 4 bytes per pixel) dominate the memory, so
# fewer masks are processed at once; the bound doubles on four or more threads.
_MIN_MASKS_PER_BATCH = 4
_MAX_PIXELS_PER_BATCH = 1 << 26
# Where GPU kernels measure the masks: enough to keep the GPU busy while the host prepares the next chunk. Two chunks of
# 256 MiB of logits are alive at an input size of 1024. Half as many masks on a GPU with little memory.
_GPU_BATCH_SIZE = 1024
# Masks whose small regions are removed in one call hold about this many counts together: 8 MiB as int64.
_COUNTS_PER_CLEANUP = 1 << 20
_NO_COUNTS = np.zeros(0, np.int64)


def generate_masks(
    decode: Decode,
    image_size: Sequence[int],
    *,
    points_stride: int | None = 32,
    points_batch_size: int = 64,
    conf_thres: float = 0.88,
    stability_score_thresh: float = 0.95,
    stability_score_offset: float = 1.0,
    stability_share: float = 0.0,
    highest_stability: float = 1.0,
    box_nms_thresh: float = 0.7,
    crop_n_layers: int = 0,
    crop_nms_thresh: float = 0.7,
    crop_overlap_ratio: float = 512 / 1500,
    crop_downscale_factor: float = 1,
    point_grids: Sequence[Any] | None = None,
    min_mask_region_area: float = 0,
    input_long_side: int = 1024,
) -> list[dict[str, Any]]:
    """Segment everything in an image; returns one plain Python record per mask, in order.

    The defaults are those of Meta's generator.

    Args:
        decode: called as decode(crop_box, points) with two positional arguments, once per batch, in the order of the
            crops. crop_box is a list of ints [x0, y0, x1, y1] in pixels of the image (x1 and y1 exclusive). points is a
            float32 CPU tensor (N, 2) of x, y in pixels of the crop's model input, whose long side is `input_long_side`.
            decode returns the predicted IoU of M masks per point, a floating-point tensor (N, M), and a callable
            logits(point_index, mask_index) that takes two lists of K integers and returns the low-resolution logits
            (K, L/4, L/4) of those pairs. logits is only called for pairs that may pass `conf_thres`, with at most 64
            pairs per call. If CUDA kernels are in use and the predicted IoU is on the GPU, a call has at most 1,024
            pairs, and the returned tensor must stay unchanged until the second call of logits after it, with calls of
            decode in between: the GPU then has queued work while the host waits for measurements.
        image_size: (height, width) of the image.
        points_stride: number of points per side of the grid (not a distance). Ignored if `point_grids` is given.
        points_batch_size: number of points per call of `decode`.
        conf_thres: a mask is kept if its predicted IoU is greater. Any finite number. Values of 0 and below are
            compared like any other, whereas the reference turns its filter off for them.
        stability_score_thresh: a mask is kept if its stability is not smaller. Any finite number.
        stability_score_offset: the stability is the number of pixels whose logit is above this offset, divided by the
            number of pixels whose logit is above its negative (0.0 if both are 0). 0 or more.
        stability_share: weight of the stability in the predicted IoU that is compared and returned; the rest is the
            value returned by `decode`. At least 0 and below 1.
        highest_stability: with a positive `stability_share`, masks that could only pass with a stability above this are
            not computed. From 0 to 1.
        box_nms_thresh: box IoU in [0, 1] above which, within a crop, the mask with the lower predicted IoU is dropped.
        crop_n_layers: number of layers of crops in addition to the whole image; layer i has 2 ** i x 2 ** i crops. At
            most 8.
        crop_nms_thresh: box IoU in [0, 1] above which, between crops, the mask from the larger crop is dropped.
        crop_overlap_ratio: overlap of the first layer's crops, as a fraction in [0, 1) of the image's short side. It
            halves from layer to layer.
        crop_downscale_factor: layer i has int(points_stride / crop_downscale_factor ** i) points per side. 1 or more.
        point_grids: custom points: for each layer, including layer 0 (the whole image), an (n, 2) array of x, y in
            [0, 1].
        min_mask_region_area: holes with fewer pixels are filled and islands with fewer pixels are removed. 0 leaves the
            masks unchanged. Otherwise NMS runs once more, and of duplicates an unchanged mask wins.
        input_long_side: L, the long side of the model input, a multiple of 4. At most 16,384.

    Returns:
        Records with `segmentation` (COCO RLE whose `counts` is str), `area` in pixels, `bbox` [x, y, w, h] (w and h are
        the distance between the outermost pixels, as in the reference), `predicted_iou`, `point_coords` [[x, y]] in
        pixels of the image, `stability_score`, and `crop_box` [x, y, w, h].

    Raises:
        ValueError: an argument, or a result of `decode`, has a value or shape other than described.
        TypeError: an argument, or a result of `decode`, has a type other than described.
    """
    height, width = size = check_image_size(image_size)
    if not callable(decode):
        raise TypeError(f"decode must be callable as decode(crop_box, points), got {type(decode).__name__}")
    crops = plan_crops(size, points_stride, crop_n_layers, crop_overlap_ratio, crop_downscale_factor, point_grids)
    batch_size = check_count("points_batch_size", points_batch_size)
    filters = checked_filters(
        conf_thres, stability_score_thresh, stability_score_offset, stability_share, highest_stability
    )
    box_thresh = check_number("box_nms_thresh", box_nms_thresh, 0, 1)
    crop_thresh = check_number("crop_nms_thresh", crop_nms_thresh, 0, 1)
    min_area = check_number("min_mask_region_area", min_mask_region_area, 0)
    long_side = check_count("input_long_side", input_long_side, 4)
    if long_side > MAX_INPUT_SIDE:
        raise ValueError(f"input_long_side must be at most {MAX_INPUT_SIDE}, got {long_side}")
    if long_side % 4:
        raise ValueError(f"input_long_side must be a multiple of 4, got {long_side}")

    result, queue = Candidates.join([]), BatchQueue()
    with torch.no_grad():
        for crop in crops:
            candidates = crop_candidates(decode, crop, size, batch_size, long_side, filters, queue)
            result = Candidates.join(
                [result, _suppress_duplicates(Candidates.join(list(candidates)), box_thresh, queue.device)]
            )
        if len(crops) > 1:
            areas = (result.crop_boxes[:, 2:] - result.crop_boxes[:, :2]).prod(1)
            result = result.take(_nms_indices(result, 1 / areas.astype(np.float32), crop_thresh, queue.device))
        if min_area > 0:
            result, changed = _remove_small_regions(result, size, min_area)
            # Prefer masks that needed no cleaning over those that were changed.
            result = result.take(_nms_indices(result, ~changed, max(box_thresh, crop_thresh), queue.device))
        rles = encode_counts(list(result.counts), height, width)
    return _to_records(result, rles)


def count_batches(
    image_size: Sequence[int],
    *,
    points_stride: int | None = 32,
    points_batch_size: int = 64,
    crop_n_layers: int = 0,
    crop_overlap_ratio: float = 512 / 1500,
    crop_downscale_factor: float = 1,
    point_grids: Sequence[Any] | None = None,
) -> int:
    """Return how often `generate_masks` will call `decode` for these arguments, e.g. as the total of a progress bar."""
    crops = plan_crops(image_size, points_stride, crop_n_layers, crop_overlap_ratio, crop_downscale_factor, point_grids)
    batch_size = check_count("points_batch_size", points_batch_size)
    return sum(-(-len(crop.points) // batch_size) for crop in crops)


def checked_filters(
    conf_thres: float,
    stability_score_thresh: float,
    stability_score_offset: float,
    stability_share: float,
    highest_stability: float,
) -> Filters:
    """Return the filters for these arguments of `generate_masks`, which raises the same errors for them."""
    filters = Filters(
        _as_float32(check_number("conf_thres", conf_thres)),
        _as_float32(check_number("stability_score_thresh", stability_score_thresh)),
        check_number("stability_score_offset", stability_score_offset, 0),
        check_number("stability_share", stability_share, 0, 1),
        check_number("highest_stability", highest_stability, 0, 1),
    )
    if filters.stability_share == 1:
        raise ValueError("stability_share must be below 1, got 1")
    return filters


def crop_candidates(
    decode: Decode,
    crop: Crop,
    image_size: tuple[int, int],
    batch_size: int,
    long_side: int,
    filters: Filters,
    queue: BatchQueue,
) -> Iterator[Candidates]:
    """Yield the masks of one crop that pass the filters, ordered by point and then by mask index."""
    corner = crop.box[0], crop.box[1]
    input_hw = resized_shape(*crop.size, long_side)
    resizer = MaskResizer(input_hw, crop.size, long_side)
    # Each axis has its own factor, since the input's sides are rounded. Scaled in float64, as in the reference.
    factor = np.array([input_hw[1] / crop.size[1], input_hw[0] / crop.size[0]])
    for start in range(0, len(crop.points), batch_size):
        points = crop.points[start : start + batch_size]
        decoded = decode(list(crop.box), torch.from_numpy((points * factor).astype(np.float32)))
        predicted_iou, logits = _checked_decode(decoded, len(points))
        chunk_size = _logits_batch_size(crop.size, predicted_iou)
        resizer.cache_axes_for(predicted_iou)  # while the GPU computes the scores
        scores = AsyncHostCopy(predicted_iou).wait()
        pairs = (scores > filters.min_decoded_iou).nonzero()
        for chunk in pairs.split(chunk_size) if len(pairs) else ():
            low_res = _checked_logits(logits(chunk[:, 0].tolist(), chunk[:, 1].tolist()), len(chunk), resizer)
            results = resizer.measure_async(low_res, 0.0, filters.stability_score_offset, image_size, corner)
            yield from queue.add(
                PendingBatch(results, chunk.numpy(), scores.numpy(), points, crop, image_size, filters)
            )
            if not results.is_cuda:
                yield from queue.drain()
    yield from queue.drain()


def _suppress_duplicates(candidates: Candidates, box_thresh: float, device: torch.device) -> Candidates:
    """Return one crop's masks that survive NMS; the memory of the others can then be freed."""
    return candidates.take(_nms_indices(candidates, candidates.predicted_iou, box_thresh, device))


def _logits_batch_size(crop_size: tuple[int, int], predicted_iou: Tensor) -> int:
    """Return for how many masks to request logits at once."""
    if has_kernels_for(predicted_iou):
        return _GPU_BATCH_SIZE if has_ample_memory(predicted_iou.device) else -(-_GPU_BATCH_SIZE // 2)
    max_masks = measure_batch_size()
    pixels = _MAX_PIXELS_PER_BATCH * min(2, max_masks // 16)
    return max(_MIN_MASKS_PER_BATCH, min(max_masks, pixels // (crop_size[0] * crop_size[1])))


def _checked_decode(decoded: Any, count: int) -> tuple[Tensor, Logits]:
    """Check the return value of `decode`; the predicted IoU comes back as float32."""
    if not isinstance(decoded, (tuple, list)) or len(decoded) != 2:
        what = f"{len(decoded)} values" if isinstance(decoded, (tuple, list)) else type(decoded).__name__
        raise TypeError(f"decode must return (predicted IoU, logits callable), got {what}")
    predicted_iou, logits = decoded
    if not isinstance(predicted_iou, Tensor) or not predicted_iou.is_floating_point():
        kind = predicted_iou.dtype if isinstance(predicted_iou, Tensor) else type(predicted_iou).__name__
        raise TypeError(f"the predicted IoU from decode must be a floating-point torch tensor, got {kind}")
    if predicted_iou.ndim != 2 or len(predicted_iou) != count:
        shape = tuple(predicted_iou.shape)
        raise ValueError(f"the predicted IoU from decode must have shape ({count}, M) for {count} points, got {shape}")
    if not callable(logits):
        raise TypeError(f"decode's second value must be callable as logits(points, masks), got {type(logits).__name__}")
    return predicted_iou.detach().float(), logits


def _checked_logits(low_res: Any, count: int, resizer: MaskResizer) -> Tensor:
    """Return the logits of `count` pairs after checking their type and shape."""
    if not isinstance(low_res, Tensor) or not low_res.is_floating_point():
        kind = low_res.dtype if isinstance(low_res, Tensor) else type(low_res).__name__
        raise TypeError(f"logits(point_index, mask_index) must return a floating-point torch tensor, got {kind}")
    expected = (count, resizer.low_res_size, resizer.low_res_size)
    if tuple(low_res.shape) != expected:
        raise ValueError(
            f"logits(point_index, mask_index) must return shape {expected} for {count} pairs at "
            f"input_long_side={resizer.image_size}, got {tuple(low_res.shape)}"
        )
    return low_res


def _nms_indices(candidates: Candidates, scores: np.ndarray, thresh: float, device: torch.device) -> np.ndarray:
    """Return the indices that survive box NMS, ordered by descending score and then by index.

    device: where the masks were measured; NMS runs there if a GPU kernel is available, else on the CPU.
    """
    if len(candidates.counts) < 2:
        return np.arange(len(candidates.counts))
    boxes = torch.from_numpy(candidates.boxes.astype(np.float32))
    priority = torch.from_numpy(scores.astype(np.float32))
    if device.type == "cuda" and not ops.why("nms", torch.empty(0, 4, device=device))["cuda"]:
        boxes, priority = to_device(boxes, device), to_device(priority, device)
    return ops.nms(boxes, priority, thresh).cpu().numpy()


def _remove_small_regions(
    candidates: Candidates, image_size: tuple[int, int], min_area: float
) -> tuple[Candidates, np.ndarray]:
    """Return the candidates without small holes and islands, and an (N,) bool array of which masks had any."""
    counts, boxes, areas = list(candidates.counts), candidates.boxes.copy(), candidates.areas.copy()
    changed = np.zeros(len(counts), bool)
    lengths = np.array([len(array) for array in counts], np.int64)
    # Process groups of masks with about this many counts together: the operation takes int64, and all masks at once
    # could need too much memory.
    group_starts = np.flatnonzero(np.diff(np.cumsum(lengths) // _COUNTS_PER_CLEANUP)) + 1
    for part in np.split(np.arange(len(counts)), group_starts):
        new_counts = torch.from_numpy(np.concatenate([_NO_COUNTS, *(counts[i] for i in part.tolist())]))
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[part])]))
        new_counts, offsets, changes = ops.mask_remove_small_regions(new_counts, offsets, *image_size, min_area)
        changed_index = np.flatnonzero(changes.numpy())
        if not len(changed_index):
            continue
        changed[part[changed_index]] = True
        cleaned = compact_counts(new_counts.numpy(), offsets.numpy()).take(changed_index)
        for i, array in zip(part[changed_index].tolist(), cleaned, strict=True):
            counts[i] = array
        heights = torch.full((len(part),), image_size[0], device="cpu")
        # x, y, w, h; zeros for an empty mask.
        cleaned_boxes = ops.rle_to_bbox(new_counts, offsets, heights).numpy()[changed_index]
        boxes[part[changed_index]] = np.concatenate(
            [cleaned_boxes[:, :2], cleaned_boxes[:, :2] + np.maximum(cleaned_boxes[:, 2:] - 1, 0)], 1
        )
        areas[part[changed_index]] = ops.rle_area(new_counts, offsets).numpy()[changed_index]
    return replace(candidates, counts=PackedCounts.from_arrays(counts), boxes=boxes, areas=areas), changed


def _to_records(candidates: Candidates, rles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the candidates as the records that `generate_masks` describes. rles: one per candidate."""
    columns = (
        candidates.areas,
        _xywh(candidates.boxes),
        candidates.predicted_iou,
        candidates.points,
        candidates.stability,
        _xywh(candidates.crop_boxes),
    )
    return [
        {
            "segmentation": rle,
            "area": area,
            "bbox": box,
            "predicted_iou": predicted_iou,
            "point_coords": [point],
            "stability_score": stability,
            "crop_box": crop_box,
        }
        for rle, area, box, predicted_iou, point, stability, crop_box in zip(
            rles, *(column.tolist() for column in columns), strict=True
        )
    ]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _as_float32(value: float) -> float:
    # The reference compares float32 tensors with its thresholds, so 0.95 means the nearest float32.
    return float(torch.tensor(value, dtype=torch.float32, device="cpu"))
