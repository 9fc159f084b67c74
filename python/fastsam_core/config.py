"""The options of a prediction: names, defaults, aliases, and accepted values.

Names and defaults follow the Ultralytics interface; Meta's names for segment everything are aliases.
"""

# The functions called for field defaults below return `dataclasses.field`s.
# ruff: noqa: RUF009

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import numbers
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ._limits import MAX_INPUT_SIDE, MAX_LINE_WIDTH, MAX_POINTS_PER_SIDE
from ._log import warn_once

if TYPE_CHECKING:
    import torch

    from .models.sam_model import SamModel

Reader = Callable[[str, Any], Any]

# Prompts are arguments of a call, not options. They are listed here so that misspelt names get suggestions.
PROMPT_KEYS = ("bboxes", "points", "labels", "masks", "texts", "multimask_output")

_DTYPES = ("float32", "float16", "bfloat16")
_SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _type_error(key: str, value: Any, accepted: str) -> TypeError:
    return TypeError(f"{key} must be {accepted}, not {value!r} ({type(value).__name__})")


def _boolean(key: str, value: Any) -> bool:
    is_bool = type(value).__name__ in ("bool", "bool_")  # Python's, and NumPy's
    if not is_bool and not (isinstance(value, numbers.Integral) and value in (0, 1)):
        hint = "; box prompts are called bboxes" if key == "show_boxes" else ""
        raise _type_error(key, value, f"True or False{hint}")
    return bool(value)


def _number(low: float | None = None, high: float | None = None) -> Reader:
    """Return a reader of finite real numbers in [low, high]."""

    def read(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise _type_error(key, value, "a number")
        number = float(value)
        if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
            if low is None:
                bounds = "" if high is None else f" of at most {high:g}"
            else:
                bounds = f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
            raise ValueError(f"{key} must be a finite number{bounds}, not {value!r}")
        return number

    return read


def _integer(low: int, high: int | None = None) -> Reader:
    def read(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _type_error(key, value, "an integer")
        number = int(value)
        if number < low or (high is not None and number > high):
            bound = f"at least {low}" if number < low else f"at most {high}"
            raise ValueError(f"{key} must be {bound}, not {value!r}")
        return number

    return read


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise _type_error(key, value, "text")
    return str(value)


def _unchecked(key: str, value: Any) -> Any:
    return value


def _device(key: str, value: Any) -> Any:
    import torch

    if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
        raise _type_error(key, value, 'a device such as "cpu", "cuda", "cuda:1" or 0')
    return value


def _dtype(key: str, value: Any) -> torch.dtype:
    import torch  # not at module level: the command line imports this module, and `fastsam help` needs no torch

    name = str(value).lower().removeprefix("torch.")
    name = _SHORT_DTYPES.get(name, name)
    if name not in _DTYPES:
        raise ValueError(f"{key} must be float32, float16 or bfloat16, not {value!r}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _dtype_from_bits(key: str, value: Any) -> torch.dtype | None:
    if value is None:
        return None
    if value not in (16, 32):
        raise ValueError(f"{key} must be 16 (half precision on a GPU) or 32 (the default), not {value!r}")
    return _dtype(key, "float16" if value == 16 else "float32")


def _check_side(key: str, value: Any, sides: list[Any], smallest: int) -> None:
    """Raise ValueError unless sides are in 1..MAX_INPUT_SIDE. smallest: least size after rounding, for the message."""
    if min(sides) < 1 or max(sides) > MAX_INPUT_SIDE:
        bound = f"at least {smallest}" if min(sides) < 1 else f"at most {MAX_INPUT_SIDE}"
        raise ValueError(f"{key} must be {bound}, not {value!r}")


def _image_size(key: str, value: Any) -> int:
    """Read the side of a square input in pixels, rounded up to a multiple of 16, the patch size."""
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(side, bool) or not isinstance(side, numbers.Integral) for side in sides):
        raise _type_error(key, value, "an integer, in pixels")
    if not 1 <= len(sides) <= 2 or len(set(sides)) != 1:
        raise ValueError(f"{key} must be one number or two equal ones (the model's input is square), not {value!r}")
    _check_side(key, value, sides, 16)
    size = -(-int(sides[0]) // 16) * 16
    if size != sides[0]:
        warn_once(f"{key}={sides[0]} is not a multiple of 16; using {size}")
    return size


def _input_size(key: str, value: Any) -> tuple[int, int]:
    """Read (height, width) in pixels, each rounded up to a multiple of 32, the largest stride of the three levels."""
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, numbers.Integral) for side in sides):
        raise _type_error(key, value, "an integer, in pixels, or (height, width)")
    _check_side(key, value, sides, 32)
    height, width = (-(-int(side) // 32) * 32 for side in sides)
    if [height, width] != sides:
        warn_once(f"{key}={value} is not a multiple of 32; using {height if height == width else (height, width)}")
    return height, width


def _class_ids(key: str, value: Any) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple | set | range) else [value]
    if any(
        isinstance(class_id, bool) or not isinstance(class_id, numbers.Integral) or class_id < 0 for class_id in values
    ):
        raise _type_error(key, value, "a class id, or a list of them")
    return tuple(sorted({int(class_id) for class_id in values}))


def _network_task(key: str, value: Any) -> str:
    if value not in ("detect", "segment"):
        raise ValueError(f"{key} must be detect or segment, not {value!r}")
    return str(value)


def _task(key: str, value: Any) -> str:
    if value != "segment":
        warn_once(f"task={value!r} has no effect; Segment Anything models only do 'segment'")
    return "segment"


def _option(default: Any, read: Reader, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"read": read, "help": help})


def _ignored(default: Any, quiet: bool = False) -> Any:
    """Return an option that is accepted for compatibility and has no effect.

    quiet: don't warn when it is set.
    """
    help = "accepted for compatibility, without effect"
    return dataclasses.field(default=default, metadata={"read": _unchecked, "help": help, "ignored": not quiet})


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

Self = TypeVar("Self", bound="Config")


@dataclass
class Config:
    """All options of a prediction. Assigning None to an option sets its default."""

    model_family: ClassVar[str] = "Segment Anything"  # named in warnings about options without effect
    ineffective: ClassVar[frozenset[str]] = frozenset()  # options without effect, besides those of `_ignored`

    model: Any = _option(None, _unchecked, "checkpoint name or path, or a model")
    task: str = _option("segment", _task, "always segment")
    mode: str = _option("predict", _string, "always predict")
    device: Any = _option(None, _device, "cpu, cuda, 0, ...; default: the GPU if there is one")
    imgsz: int | None = _option(None, _image_size, "side of the model's input in pixels; default: that of the model")
    conf: float | None = _option(
        None, _number(high=1), "keep masks with a higher predicted IoU; default: 0.25, for sam_nano no limit"
    )
    iou: float = _option(0.7, _number(0, 1), "segment everything: box IoU above which the lower-scored mask is dropped")
    dtype: torch.dtype | None = _option(
        None,
        _dtype,
        "float16 or bfloat16 for half precision on a GPU; bfloat16 also on CPUs where it is faster than float32 "
        "(encoders of sam_b, sam_l, sam_h; all decoders); default: the dtype of the weights",
    )
    batch: int = _option(1, _integer(1), "number of images encoded together")
    verbose: bool = _option(True, _boolean, "log what was found in each image")

    text_model: Any = _option(None, _unchecked, "texts: name or folder of the detector; default: Grounding DINO")
    text_conf: float | None = _option(None, _number(0, 1), "texts: keep boxes of higher score; default: by detector")

    points_stride: int = _option(
        32, _integer(1, MAX_POINTS_PER_SIDE), "segment everything: points per side of the grid"
    )
    points_batch_size: int | None = _option(
        None, _integer(1), "segment everything: points decoded together; default: 64 or more, by device"
    )
    conf_thres: float | None = _option(
        None, _number(), "segment everything: keep masks with a higher predicted IoU; default: 0.88, for sam_nano 0.45"
    )
    stability_score_thresh: float | None = _option(
        None, _number(), "segment everything: minimum stability score; default: 0.95, for sam_nano 0.5"
    )
    stability_score_offset: float = _option(1.0, _number(0), "segment everything: logit offset of the stability score")
    crop_n_layers: int = _option(0, _integer(0), "segment everything: extra layers of crops; layer i has 4 ** i")
    crop_overlap_ratio: float = _option(512 / 1500, _number(0, 1), "segment everything: overlap of crops in layer 1")
    crop_downscale_factor: float = _option(1, _number(1), "segment everything: divides points_stride in each layer")
    crop_nms_thresh: float = _option(0.7, _number(0, 1), "segment everything: like iou, for masks of different crops")
    point_grids: Any = _option(None, _unchecked, "segment everything: one (n, 2) array of points in [0, 1] per layer")
    min_mask_region_area: float | None = _option(
        None,
        _number(0),
        "segment everything: fill holes and drop islands of fewer pixels; default: 0, for sam_nano 0.4 % of the image",
    )

    vid_stride: int = _option(1, _integer(1), "use every n-th frame of a video")
    stream_buffer: bool = _option(False, _boolean, "process every frame of a live stream, even if late")
    save: bool = _option(True, _boolean, "write annotated images and videos")
    save_frames: bool = _option(False, _boolean, "also write the annotated frames of videos as images")
    save_txt: bool = _option(False, _boolean, "write the outlines as YOLO label files")
    save_conf: bool = _option(False, _boolean, "include the predicted IoU in the YOLO label files")
    save_crop: bool = _option(False, _boolean, "write the image region of each mask's box")
    show: bool = _option(False, _boolean, "open the annotated image in a viewer")
    show_labels: bool = _option(True, _boolean, "draw labels")
    show_conf: bool = _option(True, _boolean, "draw the predicted IoU in the labels")
    show_boxes: bool = _option(True, _boolean, "draw boxes")
    line_width: int | None = _option(None, _integer(1, MAX_LINE_WIDTH), "line width of the drawing in pixels")
    project: str | None = _option(None, _string, "parent of the output folder, relative to runs/segment")
    name: str | None = _option(None, _string, "name of the output folder; default: predict")
    exist_ok: bool = _option(False, _boolean, "write into the output folder even if it exists")

    retina_masks: bool = _ignored(True, quiet=True)  # masks always have the image's resolution
    rect: bool = _ignored(True, quiet=True)
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
        value = field.default if value is None else value if ineffective else field.metadata["read"](key, value)
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
            if key not in self.__dataclass_fields__:
                raise TypeError(unknown_option(name))
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
BOOLEAN_OPTIONS = frozenset(key for key, field in FIELDS.items() if field.metadata["read"] is _boolean)
STRING_OPTIONS = frozenset(key for key, field in FIELDS.items() if field.metadata["read"] is _string)


@dataclass
class DetectConfig(Config):
    """The options of YOLOv8 and FastSAM. Those of segment everything and of text prompts have no effect."""

    model_family: ClassVar[str] = "YOLOv8 and FastSAM"
    ineffective: ClassVar[frozenset[str]] = frozenset((*_GENERATE_KEYS, "text_model", "text_conf"))

    task: Any = _option(None, _network_task, "task of the network, known from the checkpoint")
    imgsz: Any = _option(None, _input_size, "input of the network in pixels: long side, or (height, width)")
    conf: float = _option(0.25, _number(0, 1), "keep objects with a higher score")
    iou: float = _option(0.7, _number(0, 1), "per class: box IoU above which the lower-scored object is dropped")
    batch: int = _option(1, _integer(1), "number of images that go through the network together")
    max_det: int = _option(300, _integer(1), "maximum number of objects per image")
    classes: Any = _option(None, _class_ids, "keep only these classes")
    agnostic_nms: bool = _option(False, _boolean, "objects of different classes also suppress each other")


def _identity(value: Any) -> Any:
    return value


def _negated(key: str) -> Callable[[Any], Any]:
    return lambda value: None if value is None else not _boolean(key, value)


# Alias -> the option's name, and a function that converts the alias's value to the option's.
ALIASES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "half": (
        "dtype",
        lambda value: _dtype("half", "float16") if value is not None and _boolean("half", value) else None,
    ),
    "quantize": ("dtype", lambda value: _dtype_from_bits("quantize", value)),
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

# Options and aliases that change the result of segment everything.
EVERYTHING_OPTIONS = frozenset(
    key
    for key in (*FIELDS, *ALIASES)
    if (ALIASES[key][0] if key in ALIASES else key) in {*_GENERATE_KEYS, "iou", "conf", "imgsz", "dtype"}
)


def unknown_option(key: str) -> str:
    """Return an error message for the unknown option `key`, which suggests similar names."""
    names = [name for name in (*FIELDS, *ALIASES, *PROMPT_KEYS, "source", "stream") if name != key]
    similar = difflib.get_close_matches(str(key), names, n=3)
    return f"unknown option {key!r}" + (f"; did you mean {' or '.join(similar)}?" if similar else "")
