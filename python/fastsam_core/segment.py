"""Functions without state that run one image through the model, with prompts or without, and return `Results`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ops
from ._progress import progress_bar
from ._tensors import to_tensor
from .config import Config
from .encoded_image import EncodedImage
from .everything import count_batches, generate_masks
from .everything.arguments import check_number
from .everything.candidates import min_decoded_iou
from .masks import Masks
from .models.common import to_device
from .models.sam_model import SamModel
from .postprocess import EncodedMasks, MaskResizer
from .prompts import Prompts
from .results import Results
from .stopwatch import Stopwatch

# Objects decoded together before their masks are converted to run lengths. With three masks each they take 24 MiB of
# logits at an input size of 1024; resizing a mask prompt of the image's size takes 4 MiB per object.
_PROMPT_BATCH_SIZE = 32

# Seconds before a progress bar appears. Segment everything can take minutes on a CPU.
_PROGRESS_BAR_DELAY = 2.0

DecodedBatch = tuple[Tensor, Tensor, Tensor]


def decode_prompts(
    model: SamModel,
    image: EncodedImage,
    prompts: Prompts,
    multimask_output: bool,
    dtype: torch.dtype | None,
    watch: Stopwatch,
) -> Iterator[DecodedBatch]:
    """Decode prompts in batches.

    Yields the indices of a batch's objects (K,), low-resolution logits (K, M, S / 4, S / 4) and predicted IoU (K, M),
    where M is 3 with `multimask_output`, else 1.
    """
    prompts.check(image.original_hw, model.image_size)
    if len(prompts) == 0:
        return
    prepared = image.prepared(model, dtype, watch)
    device = model.device
    for index, part in prompts.batches(_PROMPT_BATCH_SIZE):
        with watch.phase("inference", device), torch.no_grad():
            inputs = part.to_model_inputs(image.original_hw, image.resized_hw(model), model.image_size)
            # Copied asynchronously, so that the host doesn't wait for a GPU that is still encoding.
            inputs = {name: None if value is None else to_device(value, device) for name, value in inputs.items()}
            low_res, predicted_iou = model.decode_prompts(prepared, **inputs, multimask_output=multimask_output)
        yield index, low_res, predicted_iou


def low_res_masks(
    model: SamModel,
    image: EncodedImage,
    prompts: Prompts,
    multimask_output: bool,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return low-resolution logits (C, S / 4, S / 4) and predicted IoU (C,), float32, object by object.

    C is the number of objects, or three times that with `multimask_output`.
    """
    per_object, side = 3 if multimask_output else 1, model.image_size // 4
    logits = torch.empty(len(prompts), per_object, side, side, dtype=torch.float32, device=model.device)
    scores = torch.empty(len(prompts), per_object, dtype=torch.float32, device=model.device)
    for index, low_res, predicted_iou in decode_prompts(model, image, prompts, multimask_output, dtype, Stopwatch()):
        logits[index.to(logits.device)] = low_res
        scores[index.to(scores.device)] = predicted_iou
    return logits.flatten(0, 1), scores.flatten()


def make_resizer(model: SamModel, image: EncodedImage) -> MaskResizer:
    """Return the resizer from the model's low-resolution logits to the image's pixels."""
    return MaskResizer(image.resized_hw(model), image.original_hw, model.image_size)


def segment_prompts(
    model: SamModel, image: EncodedImage, prompts: Prompts, multimask_output: bool, config: Config, watch: Stopwatch
) -> Results:
    """Segment prompted objects: one mask each, or three with `multimask_output`; keep predicted IoUs above `conf`."""
    per_object = 3 if multimask_output else 1
    resizer = make_resizer(model, image)
    collector = MaskCollector(image, model.device)
    for index, low_res, predicted_iou in decode_prompts(model, image, prompts, multimask_output, config.dtype, watch):
        with watch.phase("postprocess", model.device):
            scores = predicted_iou.flatten().cpu()  # filtering a few numbers on a GPU would cost several launches
            kept = (scores > config.conf_for(model)).nonzero()[:, 0]
            indices = (index[:, None] * per_object + torch.arange(per_object, device="cpu")).flatten()[kept]
            logits = _select_rows(low_res.flatten(0, 1), kept)
            collector.add(indices, scores[kept], resizer.measure_in_batches(logits, model.mask_threshold))
    with watch.phase("postprocess", model.device):
        results = collector.to_results(len(prompts) * per_object)
    if prompts.points is not None:
        objects = [mask_index // per_object for mask_index in collector.indices]
        results.point_coords = [prompts.points[index, : prompts.counts[index]] for index in objects]
    return results


def _select_rows(logits: Tensor, indices: Tensor) -> Tensor:
    """Return logits[indices]. indices: ascending row indices, on the CPU.

    On the CPU the rows are copied by NumPy, not PyTorch, whose threads would go on spinning and compete with those of
    the native operations that follow (`ops._threads`). That costs a sixth of a click's time on two cores.
    """
    if len(indices) == len(logits):
        return logits
    if logits.is_cpu:
        return torch.from_numpy(logits.detach().numpy()[indices.numpy()])
    return logits[to_device(indices, logits.device)]


class MaskCollector:
    """Collector of the masks found for an image's prompts, which it turns into `Results`.

    indices: the index of each mask among all that were decoded, which becomes its class; sorted by `to_results`.
    """

    def __init__(self, image: EncodedImage, device: torch.device) -> None:
        self.indices: list[int] = []
        self._image, self._device = image, device
        self._scores: list[Tensor] = []
        self._boxes: list[np.ndarray] = []
        self._stability: list[np.ndarray] = []
        self._masks: list[Masks] = []

    def add(self, indices: Tensor, scores: Tensor, batches: Iterable[EncodedMasks]) -> None:
        """Add K masks: `indices` (K,) int64, predicted IoU (K,), and their measurements in batches."""
        self.indices += indices.tolist()
        self._scores.append(scores.float().cpu())
        for batch in batches:
            self._boxes.append(batch.boxes)
            self._stability.append(batch.stability)
            self._masks.append(
                Masks.from_runs(batch.counts, batch.offsets, batch.areas, self._image.original_hw, self._device)
            )

    def to_results(self, num_decoded: int) -> Results:
        """Return the collected masks as results. num_decoded: the number of masks that were decoded.

        `masks` is None if `num_decoded` is 0, and empty if all masks were filtered out.
        """
        hw, device = self._image.original_hw, self._device
        masks = Masks.join(self._masks) if self._masks else Masks([], hw, device=device)
        scores = np.concatenate([np.zeros(0, np.float32), *(part.numpy() for part in self._scores)])
        boxes = np.concatenate([np.zeros((0, 4), np.int64), *self._boxes])
        stability = np.concatenate([np.zeros(0, np.float32), *self._stability])
        # Objects were decoded grouped by their number of points; restore the order of the prompts.
        order = np.argsort(self.indices)
        if (np.diff(order) != 1).any():
            masks, scores, boxes, stability = masks.take(order), scores[order], boxes[order], stability[order]
            self.indices.sort()
        rows = np.column_stack([boxes, scores, np.array(self.indices, np.float64)]).astype(np.float32)
        return Results(
            self._image.pixels,
            self._image.path,
            {index: str(index) for index in range(num_decoded)},
            torch.from_numpy(rows).to(device),
            masks if num_decoded else None,
            predicted_iou=torch.from_numpy(scores).to(device),
            stability_score=torch.from_numpy(stability).to(device),
        )


def generate_records(
    model: SamModel, image: EncodedImage, config: Config, watch: Stopwatch, progress: bool = False
) -> list[dict[str, Any]]:
    """Segment everything; return the records of `everything.generate_masks`. progress: show a progress bar."""
    options = config.generate_options(model, image.original_hw)
    min_iou = min_decoded_iou(*(options[key] for key in ("conf_thres", "stability_share", "highest_stability")))
    device = model.device
    current_crop: tuple[list[int], Any] | None = None

    def decode(crop_box: list[int], points: Tensor) -> tuple[Tensor, Callable[[list[int], list[int]], Tensor]]:
        nonlocal current_crop
        if current_crop is None or current_crop[0] != crop_box:
            x1, y1, x2, y2 = crop_box
            current_crop = crop_box, image.prepared_crop(model, (x1, y1, x2, y2), config.dtype, watch)
        with watch.phase("inference", device):
            labels = torch.ones(len(points), 1, dtype=torch.int64, device="cpu")
            predicted_iou, compute_logits = model.decode_points(
                current_crop[1], points[:, None], labels, iou_threshold=min_iou
            )

        def timed_compute_logits(point_index: list[int], mask_index: list[int]) -> Tensor:
            with watch.phase("inference", device):
                return compute_logits(point_index, mask_index)

        if bar is not None:
            bar.update()
        return predicted_iou, timed_compute_logits

    with (
        _progress_bar(image.original_hw, options) if progress else nullcontext() as bar,
        watch.phase("postprocess", device),
    ):
        return generate_masks(decode, image.original_hw, **options, input_long_side=model.image_size)


def _progress_bar(image_size: tuple[int, int], options: dict[str, Any]) -> Any:
    """Return a progress bar over the batches of points."""
    grid = ("points_stride", "points_batch_size", "crop_n_layers", "crop_overlap_ratio", "crop_downscale_factor")
    return progress_bar(
        total=count_batches(image_size, **{key: options[key] for key in (*grid, "point_grids")}),
        desc="segment everything",
        unit="batch",
        leave=False,
        delay=_PROGRESS_BAR_DELAY,
    )


def segment_everything(
    model: SamModel, image: EncodedImage, config: Config, watch: Stopwatch, progress: bool = False
) -> Results:
    """Segment everything in the image; keep masks with a predicted IoU above `conf`."""
    records = generate_records(model, image, config, watch, progress)
    results = Results.from_dicts(image.pixels, image.path, records, device=model.device)
    conf = config.conf_for(model)
    keep = [record["predicted_iou"] > conf for record in records]
    return results if all(keep) else results[keep]


def remove_small_regions(masks: Tensor, min_area: float, nms_thresh: float) -> tuple[Tensor, Tensor]:
    """Implement `Predictor.remove_small_regions`."""
    min_area, nms_thresh = check_number("min_area", min_area, 0), check_number("nms_thresh", nms_thresh, 0, 1)
    masks = to_tensor(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks have shape {tuple(masks.shape)}; accepted: (N, H, W)")
    if len(masks) == 0:
        return masks, torch.arange(0, device=masks.device)
    height, width = masks.shape[1:]
    counts, offsets = ops.rle_encode((masks > 0).cpu())
    counts, offsets, changed = ops.mask_remove_small_regions(counts, offsets, height, width, min_area)
    boxes = ops.rle_to_bbox(counts, offsets, torch.full((len(masks),), height, device="cpu"))  # x y w h
    corners = torch.cat([boxes[:, :2], (boxes[:, :2] + boxes[:, 2:] - 1).clamp(min=0)], 1)
    keep = ops.nms(corners.float(), (~changed).float(), nms_thresh)
    cleaned = ops.rle_decode(counts, offsets, height, width)
    return cleaned[keep].to(masks.device), keep.to(masks.device)
