"""`Annotator`: turns images into masks with classes. It is the part that runs in every worker."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._tensors import to_tensor
from ..boxes import Boxes
from ..detect import CheckedDetector, Detections, load_detector, load_text_detector
from ..encoded_image import EncodedImage
from ..results import Results
from . import rows
from .segmenter import Segmenter
from .settings import AnnotateConfig, is_checkpoint

EVERYTHING_NAMES = {0: "object"}  # class names when there is no detector and everything is segmented
# After this many failures in a row, the detector or model is at fault rather than the images.
_MAX_CONSECUTIVE_ERRORS = 10


class Annotator:
    """A labeller of images with the options of `config`. Picklable; models are loaded on first use, or by `load`.

    config: an `AnnotateConfig`, or its fields as a dict.

    Called with a batch of rows it returns a batch of the same kind, so it can be passed to Ray Data's `map_batches`,
    Spark's `mapInPandas` and similar; see `__call__`. `auto_annotate` uses it to write label files.
    """

    def __init__(self, config: AnnotateConfig | Mapping[str, Any]) -> None:
        self.config = config if isinstance(config, AnnotateConfig) else AnnotateConfig(**config)
        self._models: tuple[Segmenter, CheckedDetector | None] | None = None
        self._consecutive_errors: list[Exception] = []

    def __call__(self, batch: Any) -> Any:
        """Return the labels of a batch of images, as a batch of the same type.

        batch: a dict of columns (arrays or lists), a pandas DataFrame, a pyarrow Table, or an iterator of any of these,
            for which an iterator is returned. The column `path` is required. An image is read from its path unless
            there is a column `image` (RGB uint8 (H, W, 3), a PIL image, encoded bytes, or a dict with `bytes` or
            `path`) or `bytes` (an encoded image); a row with None there is read from its path.

        The columns returned are `path`, `width`, `height`, `objects` (their number), `error` ("" if there is none), and
        one per format of the config with the content of the image's label file: text, or bytes for png. For coco that
        is a JSON object with `image` and `annotations`, in which ids are placeholders to be assigned by the caller.
        `schema` describes these columns for Spark.

        An image that can't be read or labelled gets the reason in `error`, and empty labels. Raises TypeError for
        another type of batch, and ValueError if a column is missing or columns differ in length.
        """
        if isinstance(batch, Iterator):
            return map(self, batch)
        columns, rebuild = rows.unpack_batch(batch)
        return rebuild(rows.label(self, columns))

    @property
    def schema(self) -> str:
        """The columns that a call returns, as a schema string for Spark's `mapInPandas`."""
        labels = ", ".join(f"{fmt} {'binary' if fmt == 'png' else 'string'}" for fmt in self.config.formats)
        return f"path string, width int, height int, objects int, error string, {labels}"

    @property
    def fault(self) -> Exception | None:
        """First error of the current run of consecutive failures, or None if the last image succeeded."""
        return self._consecutive_errors[0] if self._consecutive_errors else None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without models: each process loads its own."""
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._models, self._consecutive_errors = state["config"], None, []

    def load(self) -> tuple[Segmenter, CheckedDetector | None]:
        """Return the SAM model and the detector (None to segment everything), loading them on the first call."""
        if self._models is None:
            detector = self._load_detector()
            self._models = Segmenter(self.config.sam_model, self.config.device), detector
        return self._models

    def settings(self) -> dict[str, Any]:
        """Return everything that labels depend on, JSON-ready; equal in all processes that produce equal labels."""
        segmenter, detector = self.load()
        config = self.config
        settings: dict[str, Any] = {
            "formats": list(config.formats),
            "min_area": config.min_area,
            "det_model": None if detector is None else detector.fingerprint,
            **segmenter.settings(everything=detector is None),
        }
        if detector is not None:
            for key in ("conf", "iou", "imgsz", "max_det", "classes", "texts"):
                settings[key] = getattr(config, key)
        return settings

    def label(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[Results | Exception]:
        """Return, for each BGR uint8 (H, W, 3) image, its masks with their classes, or the exception it raised.

        paths: names of the images for error messages. Once ten images in a row have failed, also over several calls,
        the first of these errors is raised.
        """
        labelled = self._label_or_errors(images, paths)
        for result in labelled:
            if isinstance(result, Exception):
                self._consecutive_errors.append(result)
            else:
                self._consecutive_errors.clear()
            if len(self._consecutive_errors) >= _MAX_CONSECUTIVE_ERRORS:
                raise self._consecutive_errors[0]
        return labelled

    def _label_or_errors(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[Results | Exception]:
        self.load()
        if len(images) > 1:
            try:
                return list(self._label_batch(images, paths))
            except Exception as error:  # label one by one below, so that only the image at fault fails
                _release_memory(error)
        labelled: list[Results | Exception] = []
        for image, path in zip(images, paths, strict=True):
            try:
                labelled += self._label_batch([image], [path])
            except Exception as error:
                _release_memory(error)
                labelled.append(error)
        return labelled

    def _label_batch(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[Results]:
        segmenter, detector = self.load()
        if detector is None:
            encoded = segmenter.encode(images, paths)
            return [self._drop_small(_with_object_class(segmenter.segment_everything(image))) for image in encoded]
        detections = detector.batch(images, paths)
        # The encoder is run only for images with boxes.
        with_boxes = [index for index, image_detections in enumerate(detections) if len(image_detections.boxes)]
        encoded = segmenter.encode([images[index] for index in with_boxes], [paths[index] for index in with_boxes])
        results = [
            _empty_results(image, path, found.names)
            for image, path, found in zip(images, paths, detections, strict=True)
        ]
        for index, image in zip(with_boxes, encoded, strict=True):
            results[index] = self._drop_small(_segment_boxes(segmenter, image, detections[index]))
        return results

    def _drop_small(self, results: Results) -> Results:
        if results.masks is None or self.config.min_area <= 0:
            return results
        return results[results.masks.area >= self.config.min_area]

    def _load_detector(self) -> CheckedDetector | None:
        config = self.config
        if not config.uses_detector:
            return None
        if config.texts is not None:
            detector = load_text_detector(
                config.texts,
                None if is_checkpoint(config.det_model) else config.det_model,
                conf=config.conf,
                iou=config.iou,
                max_det=config.max_det,
                device=config.device,
            )
            return detector if config.classes is None else load_detector(detector, classes=config.classes)
        return load_detector(
            config.det_model,
            conf=config.conf,
            iou=config.iou,
            imgsz=config.imgsz,
            max_det=config.max_det,
            classes=config.classes,
            device=config.device,
        )


def _segment_boxes(segmenter: Segmenter, image: EncodedImage, detections: Detections) -> Results:
    """Return the masks of the detected boxes, with the detector's classes and its scores as confidence.

    `names` has all classes that the detector names, found or not.
    """
    results = segmenter.segment_boxes(image, detections.boxes).cpu()
    assert results.boxes is not None
    # SAM may have dropped masks; the `cls` of each remaining one is the index of its box.
    prompts = to_tensor(results.boxes.cls).long().numpy()
    names = {int(class_id): str(class_id) for class_id in detections.class_ids[prompts]} | detections.names
    return _with_classes(results, detections.class_ids[prompts], detections.scores[prompts], names)


def _with_object_class(results: Results) -> Results:
    results = results.cpu()
    assert results.boxes is not None
    return _with_classes(results, np.zeros(len(results), np.int64), np.asarray(results.boxes.conf), EVERYTHING_NAMES)


def _with_classes(
    results: Results, class_ids: NDArray[np.int64], scores: NDArray[Any], names: Mapping[int, str]
) -> Results:
    rows = results.rows()  # (N, 6) float64, which holds any class id exactly
    # Six decimals: more digits of a float32 carry no information.
    rows[:, 4], rows[:, 5] = np.round(np.asarray(scores, np.float64), 6), class_ids
    results.boxes = Boxes(torch.from_numpy(rows), results.orig_shape)
    results.names = dict(names)
    return results


def _empty_results(image: NDArray[np.uint8], path: str, names: Mapping[int, str]) -> Results:
    return Results(image, path, dict(names), torch.zeros(0, 6, dtype=torch.float64, device="cpu"))


def _release_memory(error: Exception) -> None:
    """Free the tensors of the attempt that failed with `error`, which are in the frames of its traceback."""
    chained: BaseException | None = error
    while chained is not None:
        traceback.clear_frames(chained.__traceback__)
        chained = chained.__context__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
