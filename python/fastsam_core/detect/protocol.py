"""The protocol of detectors, and the check that every detector's output passes before it is used."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from .. import option_parsers as parse
from ..formats.labels import MAX_CLASS_ID

_CONTRACT = "a detector returns boxes (N, 4) x1, y1, x2, y2 in pixels, scores (N,), class ids (N,) and names {id: name}"


class Detections(NamedTuple):
    """Objects found in one image; unpacks as `boxes, scores, class_ids, names`.

    boxes: (N, 4) float32 x1, y1, x2, y2 in pixels, with x1 <= x2 and y1 <= y2. scores: (N,) float32. class_ids: (N,)
    int64, 0 or greater. names: class name by id; an id without one is shown as its number.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    names: dict[int, str]


@runtime_checkable
class Detector(Protocol):
    """A callable that finds boxes in an image.

    It is called with the image, (H, W, 3) uint8 BGR, which it must not change. It returns boxes (N, 4) x1, y1, x2, y2
    in pixels, scores (N,), class ids (N,), which are integers from 0 on, and names: {id: name}, a list, or None.
    Arrays, lists, and tensors of any device and dtype are accepted; N may be 0.

    A YOLO model of another package may be a detector too: a result, or a list of one, with `boxes.xyxy`, `boxes.conf`,
    `boxes.cls` and `names` is also accepted.
    """

    def __call__(self, image: NDArray[np.uint8], /) -> Any:
        """Return boxes, scores, class ids and names of one image."""
        ...


class CheckedDetector:
    """A detector whose output is checked and returned as `Detections`. ValueError, naming the image, if it is invalid.

    An image that isn't (H, W, 3) uint8 is refused too, with ValueError, or TypeError if it is no array.

    detector: any `Detector`. If it has a method `batch(images)` that returns one such tuple per image, `batch` calls
    that. conf: keep boxes with a greater score. classes: keep these class ids only. max_det: keep this many boxes,
    those with the highest scores. None turns a filter off. The boxes stay in the detector's order.

    `fingerprint` identifies the detector in manifests, which record the filters beside it: its own attribute of that
    name, otherwise the qualified name of the class or function, with the file name of its `ckpt_path` if it has one;
    never a memory address. If the detector is itself a `CheckedDetector`, that one's filters are part of it.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        conf: float | None = None,
        classes: Sequence[int] | int | None = None,
        max_det: int | None = None,
    ) -> None:
        if not callable(detector):
            raise TypeError(f"a detector is a callable detector(image), not {type(detector).__name__}")
        self.detector = detector
        self.conf = None if conf is None else parse.number()("conf", conf)
        self.classes = None if classes is None else parse.class_ids("classes", classes)
        self.max_det = None if max_det is None else parse.integer(1)("max_det", max_det)

    @property
    def fingerprint(self) -> str:
        """Text that identifies the detector, see the class."""
        fingerprint = str(getattr(self.detector, "fingerprint", None) or qualified_name(self.detector))
        if not isinstance(self.detector, CheckedDetector):
            return fingerprint
        filters = {name: getattr(self.detector, name) for name in ("conf", "classes", "max_det")}
        return " ".join([fingerprint, *(f"{name}={value}" for name, value in filters.items() if value is not None)])

    def __call__(self, image: NDArray[np.uint8], path: str = "the image") -> Detections:
        """Return the detections of one image, (H, W, 3) uint8 BGR; `path` names it in errors."""
        _check_image(image, path)
        return self._filter(check_detections(self.detector(image), path))

    def batch(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str] | None = None) -> list[Detections]:
        """Return the detections of each image, in order, with the detector's `batch` if it has one."""
        paths = [f"image {index}" for index in range(len(images))] if paths is None else paths
        batch_call: Callable[[Any], Iterable[Any]] | None = getattr(self.detector, "batch", None)
        if batch_call is None or len(images) < 2:
            return [self(image, path) for image, path in zip(images, paths, strict=True)]
        for image, path in zip(images, paths, strict=True):
            _check_image(image, path)
        outputs = list(batch_call(list(images)))
        if len(outputs) != len(images):
            raise ValueError(f"the detector's batch() returned {len(outputs)} results for {len(images)} images")
        return [self._filter(check_detections(output, path)) for output, path in zip(outputs, paths, strict=True)]

    def _filter(self, detections: Detections) -> Detections:
        keep = np.ones(len(detections.boxes), bool)
        if self.conf is not None:
            keep &= detections.scores > self.conf
        if self.classes is not None:
            keep &= np.isin(detections.class_ids, np.array(self.classes, np.int64))
        kept = np.flatnonzero(keep)
        best = np.argsort(-detections.scores[kept], kind="stable")[: self.max_det]
        kept = kept[np.sort(best)]
        return Detections(detections.boxes[kept], detections.scores[kept], detections.class_ids[kept], detections.names)

    def __repr__(self) -> str:
        return f"CheckedDetector({self.fingerprint})"


def _check_image(image: Any, path: str) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"a detector takes an array (H, W, 3) of uint8, BGR, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a detector takes an array (H, W, 3) of uint8, BGR; {path} is {image.shape} of {image.dtype}")


def check_detections(output: Any, path: str = "the image") -> Detections:
    """Convert a detector's output to `Detections`. ValueError, naming `path`, if it breaks the contract."""

    def contract_error(problem: str) -> ValueError:
        return ValueError(f"the detector returned {problem} for {path}; {_CONTRACT}")

    output = _from_results(output)
    if not isinstance(output, (tuple, list)) or len(output) != 4:
        length = f" of {len(output)}" if isinstance(output, (tuple, list)) else ""
        raise contract_error(f"a {type(output).__name__}{length}")
    try:
        boxes, scores, class_ids = (_to_array(values) for values in output[:3])
    except (ValueError, TypeError, OverflowError) as error:
        raise contract_error(f"something that isn't numbers ({error})") from None
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise contract_error(f"boxes of shape {boxes.shape}")
    scores, class_ids = scores.reshape(-1), class_ids.reshape(-1)
    if not len(boxes) == len(scores) == len(class_ids):
        raise contract_error(f"{len(boxes)} boxes, {len(scores)} scores and {len(class_ids)} class ids")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is refused below
        corners, confidence = boxes.astype(np.float32), scores.astype(np.float32)
    if not (np.isfinite(corners).all() and np.isfinite(confidence).all()):
        raise contract_error("boxes or scores that aren't finite")
    invalid = np.flatnonzero((corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1]))
    if len(invalid):
        raise contract_error(
            f"box {corners[invalid[0]].tolist()}, whose second corner isn't right of and below the first,"
        )
    # NaN fails these comparisons too.
    if not ((class_ids >= 0) & (class_ids <= MAX_CLASS_ID) & (class_ids == np.round(class_ids))).all():
        raise contract_error(f"class ids that aren't integers from 0 to {MAX_CLASS_ID}")
    return Detections(corners, confidence, class_ids.astype(np.int64), _to_class_names(output[3], contract_error))


def qualified_name(detector: Any) -> str:
    """Return `module.qualname` of a function, or of an object's class and its checkpoint; the same in every process."""
    while isinstance(detector, functools.partial):
        detector = detector.func
    target = detector if hasattr(detector, "__qualname__") else type(detector)
    checkpoint = getattr(detector, "ckpt_path", None)
    file_name = f" {os.path.basename(checkpoint)}" if isinstance(checkpoint, (str, os.PathLike)) else ""
    return f"{target.__module__}.{target.__qualname__}{file_name}"


def _from_results(output: Any) -> Any:
    """Return a YOLO model's result, or a list of one, as boxes, scores, class ids and names; anything else as it is."""
    result = output[0] if isinstance(output, (tuple, list)) and len(output) == 1 else output
    boxes: Any = getattr(result, "boxes", None)
    if not all(hasattr(boxes, name) for name in ("xyxy", "conf", "cls")):
        return output
    return boxes.xyxy, boxes.conf, boxes.cls, getattr(result, "names", None)


def _to_class_names(names: Any, contract_error: Callable[[str], ValueError]) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, Mapping):
        pairs = names.items()
    elif isinstance(names, (list, tuple)):
        pairs = dict(enumerate(names)).items()
    else:
        raise contract_error(f"names as {type(names).__name__}")
    try:
        return {int(class_id): str(name) for class_id, name in pairs}
    except (TypeError, ValueError, OverflowError):
        raise contract_error(f"names whose keys aren't class ids ({list(dict(pairs))[:3]})") from None


def _to_array(values: Any) -> NDArray[np.float64]:
    if isinstance(values, (list, tuple)):  # may hold tensors on a GPU, which NumPy can't convert
        values = [_to_array(value) if isinstance(value, torch.Tensor) else value for value in values]
    values = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, dtype=np.float64)
