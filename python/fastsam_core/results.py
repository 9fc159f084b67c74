"""What a prediction gives for one picture: boxes, masks, scores, and everything that can be made of them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import torch

from ._files import append_text
from ._tensors import tensor_of
from .base_tensor import Array, BaseTensor, as_tensor, each, select, take, to_numpy
from .boxes import Boxes
from .contours import Polygon
from .masks import RLE, Masks

__all__ = ["BaseTensor", "Boxes", "Masks", "Polygon", "Results"]

# Per-object values beside boxes and masks; indexed, moved and dropped together with them.
_EXTRAS = ("predicted_iou", "stability_score", "point_coords", "crop_boxes")


def _per_object(name: str) -> Any:
    """An attribute that is None while boxes or masks that somebody has put there are of another number."""

    def get(result: Results) -> Any:
        values = vars(result).get(name)
        return values if values is None or len(values) == len(result) else None

    def put(result: Results, values: Any) -> None:
        vars(result)[name] = values

    return property(get, put)


class Results:
    """The objects found in one picture.

    `orig_img` is the picture, uint8 BGR (H, W, 3); `path` where it came from; `names` the class names by number.
    `boxes` is None, a `Boxes`, or (N, 6): x1, y1, x2, y2, confidence, class. `masks` is None, a `Masks`, a tensor
    (N, H, W), or a list of RLE dicts. None means that there was nothing to filter; masks that were all filtered
    out are a `Masks` of length 0. `speed` is milliseconds per stage.

    Per object, each may be None: `predicted_iou` (N,) and `stability_score` (N,); `point_coords`, the prompt's
    points in pixels, (N, P, 2) or (N, 2), or a list of N arrays (P, 2); `crop_boxes` (N, 4), x, y, width, height
    of the crop that a mask was found in.

    `probs`, `keypoints` and `obb` are there for callers that pass or read them, and are always None.
    """

    predicted_iou: Any = _per_object("predicted_iou")
    stability_score: Any = _per_object("stability_score")
    point_coords: Any = _per_object("point_coords")
    crop_boxes: Any = _per_object("crop_boxes")

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
        if any(other is not None for other in (probs, keypoints, obb)):
            raise ValueError("probs, keypoints and obb are not supported; leave them None")
        if not isinstance(orig_img, np.ndarray):
            raise TypeError(f"orig_img must be a numpy.ndarray in BGR order, not {type(orig_img).__name__}")
        if orig_img.ndim != 3 or orig_img.shape[2] != 3 or orig_img.dtype != np.uint8:
            raise ValueError(f"orig_img must be uint8 (H, W, 3), not {orig_img.dtype} {orig_img.shape}")
        self.orig_img = orig_img
        self.orig_shape: tuple[int, int] = (orig_img.shape[0], orig_img.shape[1])
        self.path = str(path)
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        self.names: dict[int, str] = {int(index): str(name) for index, name in pairs}
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
        self.crop_boxes = None if crop_boxes is None else as_tensor(crop_boxes).reshape(-1, 4)
        for name in _EXTRAS:
            values = vars(self)[name]
            if values is not None and len(values) != len(self):
                raise ValueError(f"{len(values)} {name} for {len(self)} objects")

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
        """Results of SAM's list of dicts, as `generate_masks` gives it; the class is the place in the list.

        `segmentation` may be an RLE dict or a bool array. No records give boxes (0, 6) and masks None.
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
        """The chosen objects: int (keeps one row), slice, list, or a bool or integer tensor or array."""
        rows = select(index, len(self))
        return self._map(lambda part: part.take(rows), lambda values: take(values, rows))

    def __iter__(self) -> Iterator[Results]:
        return (self[i] for i in range(len(self)))

    def cpu(self) -> Results:
        """On the CPU."""
        return self._map(lambda part: part.cpu(), lambda values: each(values, lambda one: tensor_of(one).cpu()))

    def numpy(self) -> Results:
        """With NumPy arrays instead of tensors."""
        return self._map(lambda part: part.numpy(), lambda values: each(values, to_numpy))

    def cuda(self) -> Results:
        """On the current CUDA device."""
        return self.to("cuda")

    def to(self, *args: Any, **kwargs: Any) -> Results:
        """As `torch.Tensor.to`, for every part."""
        return self._map(
            lambda part: part.to(*args, **kwargs),
            lambda values: each(values, lambda one: tensor_of(one).to(*args, **kwargs)),
        )

    def new(self) -> Results:
        """The same picture, path, names, speed and save_dir, without predictions."""
        fresh = Results(self.orig_img, self.path, self.names, speed=self.speed)
        fresh.save_dir = self.save_dir
        return fresh

    def update(
        self,
        boxes: Boxes | Array | None = None,
        masks: Masks | Array | Sequence[RLE] | None = None,
        probs: None = None,
        obb: None = None,
        keypoints: None = None,
    ) -> None:
        """Replace boxes, masks or both, in place. Boxes are cut to the picture.

        Scores and points of an earlier number of objects are dropped.
        """
        if any(other is not None for other in (probs, obb, keypoints)):
            raise ValueError("probs, keypoints and obb are not supported; leave them None")
        if boxes is not None:
            self.boxes = self._as_boxes(boxes).clipped()
        if masks is not None:
            self.masks = self._as_masks(masks)
        for name in _EXTRAS:
            setattr(self, name, getattr(self, name))

    # --- reading ---

    @property
    def nameless(self) -> bool:
        """Whether classes are mere numbers, as SAM's are."""
        return all(str(index) == name for index, name in self.names.items())

    def name_of(self, class_id: float) -> str:
        """The name of a class; its number where there is none."""
        return self.names.get(int(class_id), str(int(class_id)))

    def rows(self) -> np.ndarray:
        """(N, 6) float64: x1, y1, x2, y2, confidence, class of every object.

        Without boxes they are the masks' extents, the predicted IoU (1.0 where unknown) and the row's number.
        Raises ValueError when boxes and masks were updated to different numbers.
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
        """How many of each class, as in `"2 persons, 1 car, "`; `"(no detections), "` for none."""
        if not len(self):
            return "(no detections), "
        counts = Counter(int(class_id) for class_id in self.rows()[:, 5])
        named = ((self.name_of(class_id), counts[class_id]) for class_id in sorted(counts))
        return "".join(f"{count} {name}{'s' * (count > 1)}, " for name, count in named)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """One dict per object: name, class, confidence, box, and track_id and segments where there are any."""
        from .formats import table

        return table.summary(self, normalize, decimals)

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """`summary` as a polars DataFrame, or a pandas one where polars is missing."""
        from .formats import table

        return table.data_frame(self.summary(normalize, decimals))

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as CSV text; boxes and segments are JSON in their cells."""
        from .formats import table

        return table.csv_text(self.summary(normalize, decimals))

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as JSON text."""
        from .formats import table

        return table.json_text(self.summary(normalize, decimals))

    tojson = to_json  # its name in Ultralytics until 2025

    def to_dicts(self, segmentation: Literal["rle", "mask"] = "rle") -> list[dict[str, Any]]:
        """SAM's list of dicts; `segmentation` is an RLE dict, or a bool array (H, W) with "mask"."""
        from .formats import sam_dicts

        return sam_dicts.records(self, segmentation)

    def to_coco(
        self,
        image_id: int | str = 1,
        first_id: int = 1,
        category_ids: int | Sequence[int] | None = None,
        polygons: bool = False,
    ) -> list[dict[str, Any]]:
        """COCO annotation dicts, numbered from `first_id`. `formats.coco.dataset` makes a whole file of results."""
        from .formats import coco

        return coco.annotation_dicts(
            self, image_id=image_id, first_id=first_id, category_ids=category_ids, polygons=polygons
        )

    def to_sa1b(self, image_id: int = 1, first_id: int = 1) -> dict[str, Any]:
        """The picture's SA-1B record: `{"image": {...}, "annotations": [...]}`."""
        from .formats import sa1b

        return sa1b.image_record(self, image_id=image_id, first_id=first_id)

    def to_supervision(self, compact: bool = True) -> Any:
        """A `supervision.Detections`; `compact=False` forces a bool array (N, H, W) for the masks."""
        from .formats import supervision

        return supervision.detections(self, compact)

    # --- writing ---

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> str:
        """Append YOLO lines to `txt_file`: polygons where there are masks, else boxes; normalised.

        Polygons of fewer than three points are left out; without lines no file is made. Returns the file's name.
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
        """Write `<save_dir>/<class name>/<stem>.jpg` per box; a taken name gets -2, -3 and so on."""
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
        """The picture with its objects: uint8 BGR (H, W, 3), or an RGB PIL image with `pil`.

        Each pixel is tinted by the smallest mask it belongs to, and every mask gets an outline. With more than 20
        masks, boxes and labels are left out, because they would cover the masks; `masks=False` shows them. A label
        that finds no free place is left out too. `color_mode` is "class" or "instance"; with more objects than
        colours, touching masks still get different ones. `txt_color` is BGR. `img` is drawn on instead of the
        picture, and is not changed. `font_size` and `line_width` are pixels, by default from the picture's size.
        `show` opens a viewer, `save` writes to `filename`. `kpt_radius`, `kpt_line` and `probs` have no effect.
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
        """Plot, and open the picture in a viewer or the notebook; takes the arguments of `plot`."""
        self.plot(*args, **{**kwargs, "show": True})

    def save(self, filename: str | Path | None = None, *args: Any, **kwargs: Any) -> str:
        """Plot to a file and return its name; by default `results_<name of the picture>` in the current folder.

        Folders are created. The suffix chooses the format: ValueError for one that can't be written.
        """
        from . import plotting

        target = filename or self._default_name()
        plotting.write_image(target, plotting.to_bgr(self.plot(*args, **kwargs)))
        return str(target)

    def _default_name(self) -> str:
        from . import plotting

        source = PurePath(self.path)
        # A frame of a video, or a format that can be read but not written, is saved as JPEG.
        suffix = source.suffix if source.suffix.lower() in plotting.SUFFIXES else ".jpg"
        return f"results_{source.stem or 'image'}{suffix}"

    def _repr_png_(self) -> bytes:
        """The plot for a notebook, at most 1024 pixels wide or high."""
        from . import plotting

        return plotting.png(self.plot())

    # --- inside ---

    def _as_boxes(self, boxes: Any) -> Boxes:
        if isinstance(boxes, Boxes):
            return boxes
        return Boxes(as_tensor(boxes), self.orig_shape)

    def _as_masks(self, masks: Any) -> Masks:
        if isinstance(masks, Masks):
            if masks.orig_shape != self.orig_shape:
                raise ValueError(f"masks are for a picture of {masks.orig_shape}, this one is {self.orig_shape}")
            return masks
        on = self.boxes.data if self.boxes is not None else None
        return Masks(masks, self.orig_shape, device=on.device if isinstance(on, torch.Tensor) else None)

    def _as_scores(self, scores: Any) -> Any:
        return None if scores is None else as_tensor(scores).reshape(-1)

    def _map(self, rows: Any, values: Any) -> Results:
        other = copy.copy(self)
        other.names, other.speed = dict(self.names), dict(self.speed)
        other.boxes = None if self.boxes is None else rows(self.boxes)
        other.masks = None if self.masks is None else rows(self.masks)
        for name in _EXTRAS:
            extra = getattr(self, name)
            setattr(other, name, None if extra is None else values(extra))
        return other

    def __repr__(self) -> str:
        height, width = self.orig_shape
        parts = [repr(self.path), f"{height} x {width}", f"{len(self)} object{'s' * (len(self) != 1)}"]
        parts += [repr(part) for part in (self.boxes, self.masks) if part is not None]
        parts += [name for name in _EXTRAS if getattr(self, name) is not None]
        return f"Results({', '.join(parts)})"


def _as_points(points: Any) -> Any:
    """Points as (N, P, 2), or as a list of (P, 2) where the objects have different numbers of points."""
    if points is None:
        return None
    if isinstance(points, (torch.Tensor, np.ndarray)):
        return points[:, None] if points.ndim == 2 else points
    # One click each, as of segment everything: not a tensor for each.
    if points and all(isinstance(one, list) and len(one) == 1 for one in points):
        return as_tensor(points).reshape(len(points), -1, 2)
    each = [as_tensor(one).reshape(-1, 2) for one in points]
    if each and all(isinstance(one, torch.Tensor) and one.shape == each[0].shape for one in each):
        return torch.stack(each)
    return each
