"""`Annotator`: images in, masks with classes out; the part that runs in every worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._tensors import tensor_of
from ..boxes import Boxes
from ..detect import CheckedDetector, Detections, load_detector, load_text_detector
from ..picture import Picture
from ..results import Results
from . import rows
from .segmenter import Segmenter
from .settings import AnnotateConfig, is_checkpoint

EVERYTHING = {0: "object"}  # the class of masks that no detector asked for
# Failures of detector or model one after the other, after which it is taken that they aren't the images' fault.
_GIVE_UP = 10


class Annotator:
    """Labels images as a config says. Picklable; models are loaded when the first image comes, or by `load`.

    config: an `AnnotateConfig`, or its fields as a dict.

    Called with a batch of rows it returns such a batch, and so it can be handed to Ray Data's `map_batches`, Spark's
    `mapInPandas` and the like; see `__call__`. `auto_annotate` writes files with it.
    """

    def __init__(self, config: AnnotateConfig | Mapping[str, Any]) -> None:
        self.config = config if isinstance(config, AnnotateConfig) else AnnotateConfig(**config)
        self._models: tuple[Segmenter, CheckedDetector | None] | None = None
        self._faults: list[Exception] = []

    def __call__(self, batch: Any) -> Any:
        """Labels of a batch of images, in the batch's own kind.

        batch: a dict of columns (arrays or lists), a pandas DataFrame, a pyarrow Table, or an iterator of any of these,
            which gives an iterator. Columns: `path`, and where the image isn't to be read from there, `bytes` (an
            encoded image) or `image` (RGB uint8 (H, W, 3), encoded bytes, or a dict with `bytes`).
        Returns the columns `path`, `width`, `height`, `objects` (their number), `error` ("" where there is none), and
        one per format of the config with what the image's file holds: text, or bytes for png. For coco that is a JSON
        object of `image` and `annotations`, whose ids are to be given. `schema` is the same in Spark's words.

        An image that can't be read or labelled has its reason in `error`, and empty labels. TypeError and ValueError
        for another kind of batch and for missing columns.
        """
        if isinstance(batch, Iterator):
            return map(self, batch)
        columns, rebuild = rows.open_batch(batch)
        return rebuild(rows.label(self, columns))

    @property
    def schema(self) -> str:
        """The columns that a call returns, as Spark's `mapInPandas` wants them."""
        labels = ", ".join(f"{form} {'binary' if form == 'png' else 'string'}" for form in self.config.formats)
        return f"path string, width int, height int, objects int, error string, {labels}"

    @property
    def fault(self) -> Exception | None:
        """What detector or model raised on the first of the last images, if they failed on all of them since."""
        return self._faults[0] if self._faults else None

    def __getstate__(self) -> dict[str, Any]:
        """Without models: each process loads its own."""
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._models, self._faults = state["config"], None, []

    def load(self) -> tuple[Segmenter, CheckedDetector | None]:
        """The models, loaded once."""
        if self._models is None:
            detector = self._detector()
            self._models = Segmenter(self.config.sam_model, self.config.device), detector
        return self._models

    def settings(self) -> dict[str, Any]:
        """What labels depend on, JSON-ready; the same in every process that labels alike."""
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
        """The masks of each image, BGR uint8 (H, W, 3), with their classes; or what went wrong with it.

        paths: what the images are called in errors. When detector or model have failed on ten images one after the
        other, the first of these errors is raised.
        """
        labelled = self._each(images, paths)
        for found in labelled:
            if isinstance(found, Exception):
                self._faults.append(found)
            else:
                self._faults.clear()
            if len(self._faults) >= _GIVE_UP:
                raise self._faults[0]
        return labelled

    def _each(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[Results | Exception]:
        self.load()
        if len(images) > 1:
            try:
                return list(self._label(images, paths))
            except Exception:  # which image it was, and that one alone, is found out one by one
                _release_memory()
        labelled: list[Results | Exception] = []
        for image, path in zip(images, paths, strict=True):
            try:
                labelled += self._label([image], [path])
            except Exception as error:
                _release_memory()
                labelled.append(error)
        return labelled

    def _label(self, images: Sequence[NDArray[np.uint8]], paths: Sequence[str]) -> list[Results]:
        segmenter, detector = self.load()
        if detector is None:
            pictures = segmenter.pictures(images, paths)
            return [self._chosen(_everything(segmenter.everything(picture))) for picture in pictures]
        found = detector.batch(images, paths)
        # An image without boxes needs no encoder.
        wanted = [index for index, detections in enumerate(found) if len(detections.boxes)]
        pictures = segmenter.pictures([images[index] for index in wanted], [paths[index] for index in wanted])
        results = [_nothing(image, path) for image, path in zip(images, paths, strict=True)]
        for index, picture in zip(wanted, pictures, strict=True):
            results[index] = self._chosen(_prompted(segmenter, picture, found[index]))
        return results

    def _chosen(self, results: Results) -> Results:
        if results.masks is None or self.config.min_area <= 0:
            return results
        return results[results.masks.area >= self.config.min_area]

    def _detector(self) -> CheckedDetector | None:
        config = self.config
        if not config.wants_detector:
            return None
        if config.texts is not None:
            found = load_text_detector(
                config.texts,
                None if is_checkpoint(config.det_model) else config.det_model,
                conf=config.conf,
                iou=config.iou,
                max_det=config.max_det,
                device=config.device,
            )
            return found if config.classes is None else load_detector(found, classes=config.classes)
        return load_detector(
            config.det_model,
            conf=config.conf,
            iou=config.iou,
            imgsz=config.imgsz,
            max_det=config.max_det,
            classes=config.classes,
            device=config.device,
        )


def _prompted(segmenter: Segmenter, picture: Picture, found: Detections) -> Results:
    """Results whose classes are the detector's, and whose confidence is its score."""
    results = segmenter.boxes(picture, found.boxes).cpu()
    assert results.boxes is not None
    # SAM may have dropped masks; the class of each of the others is the number of its box.
    prompts = tensor_of(results.boxes.cls).long().numpy()
    names = {int(class_id): found.names.get(int(class_id), str(class_id)) for class_id in found.class_ids[prompts]}
    return _classified(results, found.class_ids[prompts], found.scores[prompts], names)


def _everything(results: Results) -> Results:
    results = results.cpu()
    assert results.boxes is not None
    return _classified(results, np.zeros(len(results), np.int64), np.asarray(results.boxes.conf), EVERYTHING)


def _classified(
    results: Results, class_ids: NDArray[np.int64], scores: NDArray[Any], names: Mapping[int, str]
) -> Results:
    rows = results.rows()  # (N, 6) float64, which holds any class id
    # Six decimals: float32's own digits are longer, and say no more.
    rows[:, 4], rows[:, 5] = np.round(np.asarray(scores, np.float64), 6), class_ids
    results.boxes = Boxes(torch.from_numpy(rows), results.orig_shape)
    results.names = dict(names)
    return results


def _nothing(image: NDArray[np.uint8], path: str) -> Results:
    return Results(image, path, {}, torch.zeros(0, 6, dtype=torch.float64, device="cpu"))


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
