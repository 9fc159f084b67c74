"""The options of a prediction: names, defaults, aliases, and accepted values.

Names and defaults follow the Ultralytics interface; Meta's names for segment everything are aliases.
"""

# The functions called for field defaults below return `dataclasses.field`s.
# ruff: noqa: RUF009

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import option_parsers as parse
from ._limits import MAX_LINE_WIDTH, MAX_POINTS_PER_SIDE
from ._log import warn_once

if TYPE_CHECKING:
    import torch

    from .models.sam_model import SamModel

# Prompts are arguments of a call, not options. They are listed here so that misspelt names get suggestions.
PROMPT_KEYS = ("bboxes", "points", "labels", "masks", "texts", "multimask_output")


def _option(default: Any, parser: parse.Parser, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parser, "help": help})


def _ignored(default: Any, quiet: bool = False) -> Any:
    """Return an option that is accepted for compatibility and has no effect.

    quiet: don't warn when it is set.
    """
    help = "accepted for compatibility, without effect"
    return dataclasses.field(default=default, metadata={"parse": parse.unchecked, "help": help, "ignored": not quiet})


_GENERATE_KEYS = (
    "points_stride",
    "points_batch_size",
    "conf_thres",
    "stability_score_thresh",
    "stability_score_offset",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_downscale_factor",
    "point_grids",
    "min_mask_region_area",
)

# Options that change the result of segment everything, and of prompts too.
_SHARED_KEYS = ("iou", "conf", "imgsz", "dtype")

Self = TypeVar("Self", bound="Config")


@dataclass
class Config:
    """All options of a prediction. Assigning None to an option sets its default."""

    model_family: ClassVar[str] = "Segment Anything"  # named in warnings about options without effect
    ineffective: ClassVar[frozenset[str]] = frozenset()  # options without effect, besides those of `_ignored`

    model: Any = _option(None, parse.unchecked, "checkpoint name or path, or a model")
    task: str = _option("segment", parse.task, "always segment")
    mode: str = _option("predict", parse.string, "always predict")
    device: Any = _option(None, parse.device, "cpu, cuda, 0, ...; default: the GPU if there is one")
    imgsz: int | None = _option(
        None, parse.image_size, "side of the model's input in pixels; default: that of the model"
    )
    conf: float | None = _option(
        None, parse.number(high=1), "keep masks with a higher predicted IoU; default: 0.25, for sam_nano no limit"
    )
    iou: float = _option(
        0.7, parse.number(0, 1), "segment everything: box IoU above which the lower-scored mask is dropped"
    )
    dtype: torch.dtype | None = _option(
        None,
        parse.dtype,
        "float16 or bfloat16 for half precision on a GPU; bfloat16 also on CPUs where it is faster than float32 "
        "(encoders of sam_b, sam_l, sam_h; all decoders); default: the dtype of the weights",
    )
    batch: int = _option(1, parse.integer(1), "number of images encoded together")
    verbose: bool = _option(True, parse.boolean, "log what was found in each image")

    text_model: Any = _option(None, parse.unchecked, "texts: name or folder of the detector; default: Grounding DINO")
    text_conf: float | None = _option(
        None, parse.number(0, 1), "texts: keep boxes of higher score; default: by detector"
    )

    points_stride: int = _option(
        32, parse.integer(1, MAX_POINTS_PER_SIDE), "segment everything: points per side of the grid"
    )
    points_batch_size: int | None = _option(
        None, parse.integer(1), "segment everything: points decoded together; default: 64 or more, by device"
    )
    conf_thres: float | None = _option(
        None,
        parse.number(),
        "segment everything: keep masks with a higher predicted IoU; default: 0.88, for sam_nano 0.45",
    )
    stability_score_thresh: float | None = _option(
        None, parse.number(), "segment everything: minimum stability score; default: 0.95, for sam_nano 0.5"
    )
    stability_score_offset: float = _option(
        1.0, parse.number(0), "segment everything: logit offset of the stability score"
    )
    crop_n_layers: int = _option(0, parse.integer(0), "segment everything: extra layers of crops; layer i has 4 ** i")
    crop_overlap_ratio: float = _option(
        512 / 1500, parse.number(0, 1), "segment everything: overlap of crops in layer 1"
    )
    crop_downscale_factor: float = _option(
        1, parse.number(1), "segment everything: divides points_stride in each layer"
    )
    crop_nms_thresh: float = _option(
        0.7, parse.number(0, 1), "segment everything: like iou, for masks of different crops"
    )
    point_grids: Any = _option(
        None, parse.unchecked, "segment everything: one (n, 2) array of points in [0, 1] per layer"
    )
    min_mask_region_area: float | None = _option(
        None,
        parse.number(0),
        "segment everything: fill holes and drop islands of fewer pixels; default: 0, for sam_nano 0.4 % of the image",
    )

    vid_stride: int = _option(1, parse.integer(1), "use every n-th frame of a video")
    stream_buffer: bool = _option(False, parse.boolean, "process every frame of a live stream, even if late")
    save: bool = _option(True, parse.boolean, "write annotated images and videos")
    save_frames: bool = _option(False, parse.boolean, "also write the annotated frames of videos as images")
    save_txt: bool = _option(False, parse.boolean, "write the outlines as YOLO label files")
    save_conf: bool = _option(False, parse.boolean, "include the predicted IoU in the YOLO label files")
    save_crop: bool = _option(False, parse.boolean, "write the image region of each mask's box")
    show: bool = _option(False, parse.boolean, "open the annotated image in a viewer")
    show_labels: bool = _option(True, parse.boolean, "draw labels")
    show_conf: bool = _option(True, parse.boolean, "draw the predicted IoU in the labels")
    show_boxes: bool = _option(True, parse.boolean, "draw boxes")
    line_width: int | None = _option(None, parse.integer(1, MAX_LINE_WIDTH), "line width of the drawing in pixels")
    project: str | None = _option(None, parse.string, "parent of the output folder, relative to runs/segment")
    name: str | None = _option(None, parse.string, "name of the output folder; default: predict")
    exist_ok: bool = _option(False, parse.boolean, "write into the output folder even if it exists")

    retina_masks: bool = _ignored(True, quiet=True)  # masks always have the image's resolution
    rect: bool = _ignored(True, quiet=True)
    single_cls: bool = _ignored(False, quiet=True)  # among the `overrides` that Ultralytics reads from a checkpoint
    workers: int = _ignored(8, quiet=True)
    max_det: int = _ignored(300)
    classes: Any = _ignored(None)
    agnostic_nms: bool = _ignored(False)
    augment: bool = _ignored(False)
    visualize: bool = _ignored(False)
    embed: Any = _ignored(None)
    channels_last: bool = _ignored(False)
    compile: Any = _ignored(False)
    dnn: bool = _ignored(False)
    data: Any = _ignored(None)
    nms: Any = _ignored(None)
    tracker: Any = _ignored(None)

    def __setattr__(self, key: str, value: Any) -> None:
        """Check and set an option. Raises TypeError for an unknown option or a wrong type, ValueError out of range."""
        field = self.__dataclass_fields__.get(key)
        if field is None or not field.metadata:
            raise TypeError(unknown_option(key))
        ineffective = key in self.ineffective
        value = field.default if value is None else value if ineffective else field.metadata["parse"](key, value)
        # `is not True`, because == on an array returns an array.
        if (ineffective or field.metadata.get("ignored")) and (value == field.default) is not True:
            warn_once(f"{key} has no effect on {self.model_family}")
        object.__setattr__(self, key, value)

    def updated(self: Self, options: Mapping[str, Any]) -> Self:
        """Return a copy with `options` set. Keys may be aliases.

        Raises TypeError for an unknown key, suggesting similar ones, and for an option given under two names.
        """
        changes: dict[str, Any] = {}
        given_names: dict[str, str] = {}
        for name, value in options.items():
            key, convert = ALIASES.get(name, (name, _identity))
            if key in changes:
                raise TypeError(f"{key} is given twice, as {given_names[key]} and as {name}")
            changes[key], given_names[key] = convert(value), name
        updated = copy.copy(self)  # its values are already checked
        for key, value in changes.items():
            setattr(updated, key, value)
        return updated

    def conf_for(self, model: SamModel) -> float:
        """Return the predicted IoU above which masks are kept: `conf`, by default that of the model."""
        return model.mask_scoring.conf if self.conf is None else self.conf

    def points_per_batch(self, model: SamModel) -> int:
        """Return how many grid points are decoded together: `points_batch_size`, by default chosen for the device.

        It affects time and memory; masks change by rounding at most.
        """
        return model.points_per_batch(self.dtype) if self.points_batch_size is None else self.points_batch_size

    def generate_options(self, model: SamModel, image_hw: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return the arguments of `everything.generate_masks`. Thresholds that are not given are those of the model.

        image_hw: the image's (height, width). Without it a `min_mask_region_area` that is not given stays None.
        """
        options = {key: getattr(self, key) for key in _GENERATE_KEYS} | {"box_nms_thresh": self.iou}
        options["points_batch_size"] = self.points_per_batch(model)
        for key in ("conf_thres", "stability_score_thresh"):
            if options[key] is None:
                options[key] = getattr(model.mask_scoring, key)
        for key in ("stability_share", "highest_stability"):
            options[key] = getattr(model.mask_scoring, key)
        if options["min_mask_region_area"] is None and image_hw is not None:
            options["min_mask_region_area"] = model.mask_scoring.least_region * image_hw[0] * image_hw[1]
        return options


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}
BOOLEAN_OPTIONS = frozenset(key for key, field in FIELDS.items() if field.metadata["parse"] is parse.boolean)
STRING_OPTIONS = frozenset(key for key, field in FIELDS.items() if field.metadata["parse"] is parse.string)


@dataclass
class DetectConfig(Config):
    """The options of YOLO and FastSAM. Those of segment everything and of text prompts have no effect."""

    model_family: ClassVar[str] = "YOLO and FastSAM"
    ineffective: ClassVar[frozenset[str]] = frozenset((*_GENERATE_KEYS, "text_model", "text_conf"))

    task: Any = _option(None, parse.network_task, "task of the network, known from the checkpoint")
    imgsz: Any = _option(None, parse.input_size, "input of the network in pixels: long side, or (height, width)")
    conf: float = _option(0.25, parse.number(0, 1), "keep objects with a higher score")
    iou: float = _option(0.7, parse.number(0, 1), "per class: box IoU above which the lower-scored object is dropped")
    batch: int = _option(1, parse.integer(1), "number of images that go through the network together")
    rect: bool = _option(True, parse.boolean, "pad inputs as little as possible, not to the whole of imgsz")
    max_det: int = _option(300, parse.integer(1), "maximum number of objects per image")
    classes: Any = _option(None, parse.class_ids, "keep only these classes")
    agnostic_nms: bool = _option(False, parse.boolean, "objects of different classes also suppress each other")


def _identity(value: Any) -> Any:
    return value


def _negated(key: str) -> Callable[[Any], Any]:
    return lambda value: None if value is None else not parse.boolean(key, value)


# Alias -> the option's name, and a function that converts the alias's value to the option's.
ALIASES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "half": (
        "dtype",
        lambda value: parse.dtype("half", "float16") if value is not None and parse.boolean("half", value) else None,
    ),
    "quantize": ("dtype", lambda value: parse.dtype_from_bits("quantize", value)),
    "boxes": ("show_boxes", _identity),
    "hide_labels": ("show_labels", _negated("hide_labels")),
    "hide_conf": ("show_conf", _negated("hide_conf")),
    "line_thickness": ("line_width", _identity),
    "points_per_side": ("points_stride", _identity),
    "points_per_batch": ("points_batch_size", _identity),
    "pred_iou_thresh": ("conf_thres", _identity),
    "box_nms_thresh": ("iou", _identity),
    "crop_n_points_downscale_factor": ("crop_downscale_factor", _identity),
}

# Options and aliases of `Predictor.generate` alone.
GENERATE_OPTIONS = frozenset(
    key for key in (*FIELDS, *ALIASES) if (ALIASES[key][0] if key in ALIASES else key) in _GENERATE_KEYS
)

# Options and aliases that change the result of segment everything.
EVERYTHING_OPTIONS = GENERATE_OPTIONS | {
    key for key in (*FIELDS, *ALIASES) if (ALIASES[key][0] if key in ALIASES else key) in _SHARED_KEYS
}


def unknown_option(key: str) -> str:
    """Return an error message for the unknown option `key`, which suggests similar names."""
    names = [name for name in (*FIELDS, *ALIASES, *PROMPT_KEYS, "source", "stream") if name != key]
    similar = difflib.get_close_matches(str(key), names, n=3)
    return f"unknown option {key!r}" + (f"; did you mean {' or '.join(similar)}?" if similar else "")
