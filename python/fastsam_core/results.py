"""`Results`: the boxes, masks and scores found in one image, and their conversion to other forms."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch

from ._files import append_text
from ._log import hide_passwords
from ._tensors import to_tensor
from .base_tensor import Array, BaseTensor, as_tensor, map_values, resolve_index, take_rows, to_numpy
from .boxes import Boxes
from .contours import Polygon
from .masks import RLE, Masks

__all__ = ["BaseTensor", "Boxes", "Masks", "Polygon", "Results"]

# Per-object values besides boxes and masks; they are indexed, moved and dropped together with these.
_PER_OBJECT_FIELDS = ("predicted_iou", "stability_score", "point_coords", "crop_boxes")


def _per_object(name: str, meaning: str) -> Any:
    """Return a property that reads as None while its values don't match the number of objects.

    That happens when boxes or masks were assigned in a different number.
    """

    def get_values(result: Results) -> Any:
        values = vars(result).get(name)
        return values if values is None or len(values) == len(result) else None

    def set_values(result: Results, values: Any) -> None:
        vars(result)[name] = values

    return property(get_values, set_values, doc=f"{meaning}; None if unknown.")


class Results:
    """The objects found in one image.

    `orig_img` is the image, uint8 BGR (H, W, 3); `path` its origin; `names` the class names by class id. `boxes` is
    None, a `Boxes`, or (N, 6): x1, y1, x2, y2, confidence, class. `masks` is None, a `Masks`, a tensor (N, H, W), or a
    list of RLE dicts. Masks that were all filtered out are a `Masks` of length 0; None means that there were none
    before filtering. `speed` is milliseconds per stage.

    Optional values per object: `predicted_iou`, `stability_score`, `point_coords` and `crop_boxes`. Points may be given
    as (N, P, 2) or (N, 2), or as a list of N arrays (P, 2).

    `probs`, `keypoints` and `obb` exist for compatibility and are always None.
    """

    predicted_iou: Any = _per_object("predicted_iou", "IoU with the object that the model predicts for each mask, (N,)")
    stability_score: Any = _per_object("stability_score", "Stability score of each mask, (N,)")
    point_coords: Any = _per_object("point_coords", "Points of each object's prompt in pixels, (P, 2) each")
    crop_boxes: Any = _per_object("crop_boxes", "x, y, width, height of the crop that each mask was found in, (N, 4)")

    def __init__(
        self,
        orig_img: np.ndarray,
        path: str,
        names: Mapping[int, str] | Sequence[str],
        boxes: Boxes | Array | None = None,
        masks: Masks | Array | Sequence[RLE] | None = None,
        probs: None = None,
        keypoints: None = None,
        obb: None = None,
        speed: Mapping[str, float | None] | None = None,
        *,
        predicted_iou: Array | Sequence[float] | None = None,
        stability_score: Array | Sequence[float] | None = None,
        point_coords: Array | Sequence[Any] | None = None,
        crop_boxes: Array | Sequence[Any] | None = None,
    ) -> None:
        if any(unsupported is not None for unsupported in (probs, keypoints, obb)):
            raise ValueError("probs, keypoints and obb are not supported; leave them None")
        if not isinstance(orig_img, np.ndarray):
            raise TypeError(f"orig_img must be a numpy.ndarray in BGR order, not {type(orig_img).__name__}")
        if orig_img.ndim != 3 or orig_img.shape[2] != 3 or orig_img.dtype != np.uint8:
            raise ValueError(f"orig_img must be uint8 (H, W, 3), not {orig_img.dtype} {orig_img.shape}")
        self.orig_img = orig_img
        self.orig_shape: tuple[int, int] = (orig_img.shape[0], orig_img.shape[1])
        self.path = str(path)
        self.names = names
        self.speed: dict[str, float | None] = dict(speed or dict.fromkeys(("preprocess", "inference", "postprocess")))
        self.save_dir: str | None = None
        self.probs = self.keypoints = self.obb = None
        self.boxes: Boxes | None = None if boxes is None else self._as_boxes(boxes)
        self.masks: Masks | None = None if masks is None else self._as_masks(masks)
        if self.boxes is not None and self.masks is not None and len(self.boxes) != len(self.masks):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.masks)} masks")
        self.predicted_iou = self._as_scores(predicted_iou)
        self.stability_score = self._as_scores(stability_score)
        self.point_coords = _as_points(point_coords)
        self.crop_boxes = None if crop_boxes is None else _split("crop_boxes", as_tensor(crop_boxes).reshape(-1), 4)
        for name in _PER_OBJECT_FIELDS:
            values = vars(self)[name]
            if values is not None and len(values) != len(self):
                raise ValueError(f"{len(values)} {name} for {len(self)} objects")

    @property
    def names(self) -> dict[int, str]:
        """The class names by class id. A list of names can be assigned too."""
        names: dict[int, str] = vars(self)["names"]
        return names

    @names.setter
    def names(self, names: Mapping[int, str] | Sequence[str]) -> None:
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        vars(self)["names"] = {int(index): str(name) for index, name in pairs}

    @classmethod
    def from_dicts(
        cls,
        orig_img: np.ndarray,
        path: str,
        records: Sequence[Mapping[str, Any]],
        *,
        names: Mapping[int, str] | None = None,
        speed: Mapping[str, float | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> Results:
        """Create results from SAM's list of dicts, as `generate_masks` returns it; the class is the list index.

        `segmentation` may be an RLE dict or a bool array. Without records, boxes are (0, 6) and masks None.
        """
        from .formats import sam_dicts

        names = {i: str(i) for i in range(len(records))} if names is None else names
        parts = sam_dicts.read(records, orig_img.shape[:2], device)
        return cls(orig_img, path, names, speed=speed, **parts)

    # --- a container of rows ---

    def __len__(self) -> int:
        for part in (self.boxes, self.masks):
            if part is not None:
                return len(part)
        return 0

    def __getitem__(self, index: Any) -> Results:
        """Return the objects chosen by an int (one row), slice, list, or a bool or integer tensor or array."""
        rows = resolve_index(index, len(self))
        return self._map(lambda part: part.take(rows), lambda values: take_rows(values, rows))

    def __iter__(self) -> Iterator[Results]:
        return (self[i] for i in range(len(self)))

    def cpu(self) -> Results:
        """Return the results on the CPU."""
        return self._map(
            lambda part: part.cpu(), lambda values: map_values(values, lambda value: to_tensor(value).cpu())
        )

    def numpy(self) -> Results:
        """Return the results with NumPy arrays instead of tensors."""
        return self._map(lambda part: part.numpy(), lambda values: map_values(values, to_numpy))

    def cuda(self) -> Results:
        """Return the results on the current CUDA device."""
        return self.to("cuda")

    def to(self, *args: Any, **kwargs: Any) -> Results:
        """Return the results with `torch.Tensor.to` applied to every part."""
        return self._map(
            lambda part: part.to(*args, **kwargs),
            lambda values: map_values(values, lambda value: to_tensor(value).to(*args, **kwargs)),
        )

    def new(self) -> Results:
        """Return results with the same image, path, names, speed and save_dir, but without objects."""
        empty = Results(self.orig_img, self.path, self.names, speed=self.speed)
        empty.save_dir = self.save_dir
        return empty

    def update(
        self,
        boxes: Boxes | Array | None = None,
        masks: Masks | Array | Sequence[RLE] | None = None,
        probs: None = None,
        obb: None = None,
        keypoints: None = None,
    ) -> None:
        """Replace boxes, masks or both, in place. Boxes are clipped to the image.

        Scores, points and crop boxes are dropped if the number of objects has changed.
        """
        if any(unsupported is not None for unsupported in (probs, obb, keypoints)):
            raise ValueError("probs, keypoints and obb are not supported; leave them None")
        new_boxes = self.boxes if boxes is None else self._as_boxes(boxes).clipped()
        new_masks = self.masks if masks is None else self._as_masks(masks)
        self.boxes, self.masks = new_boxes, new_masks
        for name in _PER_OBJECT_FIELDS:
            setattr(self, name, getattr(self, name))

    # --- reading ---

    @property
    def nameless(self) -> bool:
        """Whether all class names are just the class ids, as SAM's are."""
        return all(str(index) == name for index, name in self.names.items())

    def name_of(self, class_id: float) -> str:
        """Return the name of a class, or its id as text if it has none."""
        return self.names.get(int(class_id), str(int(class_id)))

    def rows(self) -> np.ndarray:
        """Return (N, 6) float64: x1, y1, x2, y2, confidence, class of every object.

        Without `boxes` they are the bounding boxes of the masks, the predicted IoU (1.0 if unknown) and the row index.
        Raises ValueError if boxes and masks were updated to different numbers of objects.
        """
        if self.boxes is None:
            if self.masks is None:
                return np.zeros((0, 6))
            count = len(self.masks)
            confidence = np.ones(count) if self.predicted_iou is None else to_numpy(self.predicted_iou)
            return np.column_stack([self.masks.boxes, confidence, np.arange(count)]).astype(np.float64)
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.masks)} masks; update() both to the same number")
        boxes = self.boxes
        return np.column_stack([to_numpy(part).astype(np.float64) for part in (boxes.xyxy, boxes.conf, boxes.cls)])

    def verbose(self) -> str:
        """Return the number of objects per class, as in `"2 persons, 1 car, "`; `"(no detections), "` for none."""
        if not len(self):
            return "(no detections), "
        counts = Counter(int(class_id) for class_id in self.rows()[:, 5])
        counts_by_name = ((self.name_of(class_id), counts[class_id]) for class_id in sorted(counts))
        return "".join(f"{count} {name}{'s' * (count > 1)}, " for name, count in counts_by_name)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return one dict per object: name, class, confidence, box, and track_id and segments if there are any.

        normalize: divide coordinates by the image's width and height. decimals: digits that numbers are rounded to.
        """
        from .formats import table

        return table.summary(self, normalize, decimals)

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """Return `summary` as a polars DataFrame, or as a pandas one if polars is not installed."""
        from .formats import table

        return table.data_frame(self.summary(normalize, decimals))

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """Return `summary` as CSV text; cells of boxes and segments contain JSON."""
        from .formats import table

        return table.csv_text(self.summary(normalize, decimals))

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """Return `summary` as JSON text."""
        from .formats import table

        return table.json_text(self.summary(normalize, decimals))

    tojson = to_json  # its name in Ultralytics until 2025

    def to_dicts(self, segmentation: Literal["rle", "mask"] = "rle") -> list[dict[str, Any]]:
        """Return SAM's list of dicts, with `segmentation` an RLE dict ("rle") or a bool array (H, W) ("mask")."""
        from .formats import sam_dicts

        return sam_dicts.records(self, segmentation)

    def to_coco(
        self,
        image_id: int | str = 1,
        first_id: int = 1,
        category_ids: int | Sequence[int] | None = None,
        polygons: bool = False,
    ) -> list[dict[str, Any]]:
        """Return COCO annotation dicts, numbered from `first_id`.

        `formats.coco.dataset` makes a complete COCO data set of several results.
        """
        from .formats import coco

        return coco.annotation_dicts(
            self, image_id=image_id, first_id=first_id, category_ids=category_ids, polygons=polygons
        )

    def to_sa1b(self, image_id: int = 1, first_id: int = 1) -> dict[str, Any]:
        """Return the SA-1B record of the image: `{"image": {...}, "annotations": [...]}`."""
        from .formats import sa1b

        return sa1b.image_record(self, image_id=image_id, first_id=first_id)

    def to_supervision(self, compact: bool = True) -> Any:
        """Return a `supervision.Detections`; `compact=False` forces a bool array (N, H, W) for the masks."""
        from .formats import supervision

        return supervision.detections(self, compact)

    # --- writing ---

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> str:
        """Append YOLO label lines to `txt_file`: polygons if there are masks, else boxes, in normalised coordinates.

        Polygons of fewer than three points are skipped; without any line no file is created. Returns the file name.
        """
        from .formats import yolo

        rows = self.rows()
        conf = rows[:, 4].tolist() if save_conf else None
        ids = None if self.boxes is None or self.boxes.id is None else to_numpy(self.boxes.id).tolist()
        if self.masks is not None:
            lines = yolo.lines(self.masks.xyn, rows[:, 5], conf=conf, ids=ids)
        else:
            boxes: Any = [] if self.boxes is None else to_numpy(self.boxes.xywhn)
            lines = yolo.box_lines(boxes, rows[:, 5], conf=conf, ids=ids)
        if lines:
            append_text(txt_file, "".join(f"{line}\n" for line in lines))
        return str(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg") -> None:
        """Write the image region around each box to `<save_dir>/<class name>/<stem>.jpg`.

        If a file of that name exists, -2, -3 and so on is appended to the stem.
        """
        from .formats import crops

        crops.save(self, save_dir, file_name)

    def plot(
        self,
        conf: bool = True,
        line_width: float | None = None,
        font_size: float | None = None,
        font: str = "Arial.ttf",
        pil: bool = False,
        img: np.ndarray | None = None,
        kpt_radius: int = 5,
        kpt_line: bool = True,
        labels: bool = True,
        boxes: bool = True,
        masks: bool = True,
        probs: bool = True,
        show: bool = False,
        save: bool = False,
        filename: str | Path | None = None,
        color_mode: str = "class",
        txt_color: tuple[int, int, int] = (255, 255, 255),
    ) -> Any:
        """Draw the objects on the image; return uint8 BGR (H, W, 3), or an RGB PIL image with `pil`.

        Each pixel is tinted by the smallest mask that contains it, and every mask gets an outline. With more than 20
        masks, boxes and labels are omitted because they would hide the masks; `masks=False` shows them. A label for
        which there is no free space is omitted too. `color_mode` is "class" or "instance"; with more objects than
        colours, touching masks still get different colours. `txt_color` is BGR. `img` is drawn on instead of the
        original image, and is not modified. `font_size` and `line_width` are in pixels, by default derived from the
        image size. `show` opens a viewer, `save` writes to `filename`. `kpt_radius`, `kpt_line` and `probs` have no
        effect.
        """
        from . import plotting

        style = plotting.Style(
            conf=conf,
            line_width=line_width,
            font_size=font_size,
            font=font,
            labels=labels,
            boxes=boxes,
            masks=masks,
            color_mode=color_mode,
            text_color=txt_color,
        )
        drawn = plotting.draw(self, style, img)
        if save:
            plotting.write_image(filename or self._default_name(), drawn)
        if show:
            plotting.show_image(drawn, self.path)
        return plotting.to_pil(drawn) if pil else drawn

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Plot, and show the plot in a viewer or the notebook; takes the arguments of `plot`."""
        self.plot(*args, **{**kwargs, "show": True})

    def save(self, filename: str | Path | None = None, *args: Any, **kwargs: Any) -> str:
        """Plot to a file and return its name; by default `results_<image file name>` in the current folder.

        Folders are created. The suffix determines the format; ValueError for one that can't be written.
        """
        from . import plotting

        target = filename or self._default_name()
        plotting.write_image(target, plotting.to_bgr(self.plot(*args, **kwargs)))
        return str(target)

    def _default_name(self) -> str:
        from . import plotting
        from .sources.paths import last_part

        source = PurePath(last_part(self.path))
        # Frames of videos, and formats that can be read but not written, are saved as JPEG.
        suffix = source.suffix if source.suffix.lower() in plotting.SUFFIXES else ".jpg"
        return f"results_{source.stem or 'image'}{suffix}"

    def _repr_png_(self) -> bytes:
        """Return the plot as PNG for a notebook, at most 1024 pixels wide and high."""
        from . import plotting

        return plotting.encode_png(self.plot())

    # --- inside ---

    def _as_boxes(self, boxes: Any) -> Boxes:
        if isinstance(boxes, Boxes):
            if boxes.orig_shape != self.orig_shape:
                raise ValueError(f"boxes are for an image of {boxes.orig_shape}, this one is {self.orig_shape}")
            return boxes
        return Boxes(as_tensor(boxes), self.orig_shape)

    def _as_masks(self, masks: Any) -> Masks:
        if isinstance(masks, Masks):
            if masks.orig_shape != self.orig_shape:
                raise ValueError(f"masks are for an image of {masks.orig_shape}, this one is {self.orig_shape}")
            return masks
        box_data = self.boxes.data if self.boxes is not None else None
        return Masks(masks, self.orig_shape, device=box_data.device if isinstance(box_data, torch.Tensor) else None)

    def _as_scores(self, scores: Any) -> Any:
        return None if scores is None else as_tensor(scores).reshape(-1)

    def _map(self, map_rows: Any, map_extra: Any) -> Results:
        mapped = copy.copy(self)
        mapped.names, mapped.speed = dict(self.names), dict(self.speed)
        mapped.boxes = None if self.boxes is None else map_rows(self.boxes)
        mapped.masks = None if self.masks is None else map_rows(self.masks)
        for name in _PER_OBJECT_FIELDS:
            extra = getattr(self, name)
            setattr(mapped, name, None if extra is None else map_extra(extra))
        return mapped

    def __repr__(self) -> str:
        height, width = self.orig_shape
        parts = [hide_passwords(repr(self.path)), f"{height} x {width}", f"{len(self)} object{'s' * (len(self) != 1)}"]
        parts += [repr(part) for part in (self.boxes, self.masks) if part is not None]
        parts += [name for name in _PER_OBJECT_FIELDS if getattr(self, name) is not None]
        return f"Results({', '.join(parts)})"


def _as_points(points: Any) -> Any:
    """Convert points to (N, P, 2), or to a list of (P, 2) if objects have different numbers of points."""
    if points is None:
        return None
    if isinstance(points, (torch.Tensor, np.ndarray)):
        if points.ndim not in (2, 3) or points.shape[-1] != 2:
            raise ValueError(f"point_coords must be (N, P, 2) or (N, 2), not {tuple(points.shape)}")
        return points[:, None] if points.ndim == 2 else points
    # Fast path for one click per object, as from segment everything: avoids creating a tensor for each.
    if points and all(isinstance(item, list) and len(item) == 1 for item in points):
        return _split("point_coords", as_tensor(points).reshape(len(points), -1), 2)
    coords = [_split("point_coords", as_tensor(item).reshape(-1), 2) for item in points]
    if coords and all(isinstance(item, torch.Tensor) and item.shape == coords[0].shape for item in coords):
        return torch.stack(coords)
    return coords


def _split(name: str, values: Any, size: int) -> Any:
    """Split the last axis into groups of `size`: (..., K * size) -> (..., K, size)."""
    count = values.shape[-1]
    if count % size:
        raise ValueError(f"{name} must have {size} numbers each; got {count} in a row")
    return values.reshape(*values.shape[:-1], count // size, size)
