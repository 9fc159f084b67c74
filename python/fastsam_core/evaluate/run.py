"""`evaluate`: measure how well a model segments the objects of a data set."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from .. import __version__, rle
from .._files import atomic_path, check_writable, write_text
from .._log import logger, warn_once
from .._progress import progress_bar
from ..config import Config
from ..encoded_image import EncodedImage
from ..models.fingerprint import weights_hash
from ..models.sam_model import SamModel
from ..predictor import Predictor
from . import baselines, boundary
from .cases import Cases
from .datasets import Example, Failure, GroundTruthObject, MaskDataset, open_dataset
from .image_scores import MAX_CLICKS, ImageScores, score_image
from .report import Evaluation, Measure
from .settings import EvaluateConfig
from .statistics import Values, bootstrap_interval, spearman

RESULTS_FILE, ROWS_FILE, CASES_FILE = "val.json", "val.jsonl", "val.jpg"


def evaluate(
    predictor: Predictor,
    data: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    imgsz: int | None = None,
    device: Any = None,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = True,
    **settings: Any,
) -> Evaluation:
    """Measure the model of `predictor` on a data set with true masks. Repeated calls return the same numbers.

    An image or object that can't be used is logged and listed in the result's `failures`.

    Args:
        predictor: supplies the model, the dtype to compute in and all options not given here.
        data: one of five forms. A COCO .json file, with its image folder given as `images`. A folder with `images/`
            and `masks/`: for each image a PNG of the same name with object numbers, or 0 and 255 for one object. A
            folder with `images/` and `labels/`: for each image an .npz of the same name with `labels` (H, W) and
            `segments`, a JSON list of `{label, isthing, iscrowd}`; only things that are not crowds count. A folder of
            YOLO text files with polygons: `labels/` with `images/` beside it, the files beside their images, or with
            the image folder given as `images`. A data.yaml, which says where the images of a `split` are; see
            `formats.data_yaml.read_split`.
        images: folder of the images of a COCO file or of YOLO's labels.
        imgsz: side of the model's input in pixels, as in a prediction call.
        device: where to compute, as in a prediction call.
        output: folder for val.json (settings, numbers), val.jpg (best, median and worst cases) and, with `rows`,
            val.jsonl (one line per object). None writes nothing.
        verbose: show a progress bar on a terminal.
        settings: fields of `EvaluateConfig`.

    Raises:
        ValueError: the data is in none of these forms (the message lists them) or has no object to evaluate, or a
            value is invalid.
        TypeError: a value has the wrong type, or an option is unknown.
        FileNotFoundError: `data` or `images` does not exist.
        PermissionError: `output` is read-only.
    """
    accepted = EvaluateConfig.__dataclass_fields__
    for name in settings:
        if name not in accepted:
            raise TypeError(f"unknown option {name!r} of val; accepted: {', '.join(accepted)}")
    eval_config = EvaluateConfig(**settings)
    dataset = open_dataset(data, images, eval_config.split)
    folder = None if output is None else Path(output)
    if folder is not None:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f"output={os.fspath(folder)!r} is not a folder")
        check_writable(folder)
    options = {"imgsz": imgsz, "device": device, "points_stride": eval_config.points_stride}
    config = predictor.args.updated({key: value for key, value in options.items() if value is not None})
    if predictor.has_own_steps or predictor._own_encoder() is not None:
        warn_once(f"the model is evaluated without the methods that {type(predictor).__name__} overrides")
    with predictor._lock, ExitStack() as stack:
        model = predictor._ready_model(config)
        rows_file = None
        if folder is not None and eval_config.rows:
            temporary_path = stack.enter_context(atomic_path(folder / ROWS_FILE))
            rows_file = stack.enter_context(open(temporary_path, "w", encoding="utf-8", newline="\n"))
        cases = Cases(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
        evaluator = _Evaluator(model, config, eval_config, rows_file, cases)
        evaluator.evaluate_all(dataset, verbose)
        result_settings = {**_collect_settings(model, config, eval_config), "data": os.fspath(data)}
        if images is not None:
            result_settings["images"] = os.fspath(images)
        result = evaluator.result(result_settings, folder)
        sheet = None if folder is None else cases.draw_sheet()
    if folder is not None:
        # Remove files of an earlier run that would seem to belong to this run's numbers.
        if sheet is None:
            (folder / CASES_FILE).unlink(missing_ok=True)
        else:
            from ..plotting import write_image

            write_image(folder / CASES_FILE, sheet)
        if not eval_config.rows:
            (folder / ROWS_FILE).unlink(missing_ok=True)
        write_text(folder / RESULTS_FILE, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    return result


def _collect_settings(model: SamModel, config: Config, eval_config: EvaluateConfig) -> dict[str, Any]:
    """Return everything the numbers depend on, JSON-ready."""
    collected: dict[str, Any] = {
        "version": __version__,
        "model": model.name,
        "weights": f"sha256:{weights_hash(model, model.normalisation)}",
        "imgsz": model.image_size,
        "device": str(model.device),
        "mask_scoring": asdict(model.mask_scoring),
        "dtype": str(config.dtype or model.dtype).removeprefix("torch."),
        **asdict(eval_config),
        "measures": list(eval_config.measures),
        "noc_limit": MAX_CLICKS,
        "boundary_tolerance": boundary.TOLERANCE,
    }
    del collected["rows"]
    if "everything" in eval_config.measures:
        options = config.generate_options(model)
        grids = options.pop("point_grids")
        # These have no effect here: proposals use thresholds of their own.
        thresholds = "conf_thres", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"
        for key in ("points_batch_size", "stability_share", "highest_stability", *thresholds):
            del options[key]
        collected["everything"] = options | {
            "point_grids": None if grids is None else [np.asarray(grid).tolist() for grid in grids]
        }
    del collected["points_stride"]
    if eval_config.baselines:
        collected["disc_radius"] = f"{baselines.DISC_RADIUS} * sqrt(width * height)"
        collected["grabcut"] = {"iterations": baselines.GRABCUT_ITERATIONS, "side": baselines.GRABCUT_MAX_SIDE}
    return collected


class _Evaluator:
    """State of an evaluation: the values of all objects so far, a few numbers each. Holds no images."""

    def __init__(
        self, model: SamModel, config: Config, eval_config: EvaluateConfig, rows: IO[str] | None, cases: Cases
    ) -> None:
        self._model, self._config, self._eval_config, self._rows, self._cases = model, config, eval_config, rows, cases
        self._columns: dict[str, list[Values]] = {}  # name of a column -> one array per image
        self._images = self._objects = self._small = self._crowds = 0
        self._failures: list[Failure] = []

    def evaluate_all(self, dataset: MaskDataset, verbose: bool) -> None:
        """Evaluate every image of the data set, or `max_images` of them; raise ValueError if none has an object."""
        self._record_failures(list(dataset.unmatched_label_files()))
        indices = self._indices(len(dataset))
        for index in progress_bar(indices, desc="val", unit="image", show=None if verbose else False):
            self._evaluate_example(dataset[index])
        if not self._objects:
            first = self._failures[0] if self._failures else None
            raise ValueError(
                f"no object to evaluate: {self._images} of {len(dataset)} images could be read, with {self._small} "
                f"objects below min_area={self._eval_config.min_area:g} and {self._crowds} crowds"
                + (f"; the first problem: {first.image}: {first.reason}" if first else "")
            )

    def _indices(self, count: int) -> list[int]:
        max_images = self._eval_config.max_images
        if max_images is None or max_images >= count:
            return list(range(count))
        chosen = np.random.default_rng(self._eval_config.seed).choice(count, max_images, replace=False)
        return sorted(int(index) for index in chosen)

    def _record_failures(self, failures: list[Failure]) -> None:
        for failure in failures:
            object_suffix = "" if failure.object is None else f", {failure.object}"
            logger.warning("skipped %s%s: %s", failure.image, object_suffix, failure.reason)
        self._failures += failures

    def _evaluate_example(self, example: Example) -> None:
        self._record_failures(example.failures)
        self._crowds += example.crowds
        if example.pixels is None:
            return
        self._images += 1
        height, width = example.pixels.shape[:2]
        areas = [int(rle.area(true_object.rle)) for true_object in example.objects]
        # At least one pixel even if min_area is 0: an empty mask can't be found.
        min_pixels = max(1.0, self._eval_config.min_area * height * width)
        objects = [true_object for true_object, area in zip(example.objects, areas, strict=True) if area >= min_pixels]
        self._small += len(areas) - len(objects)
        if not objects:
            return
        self._objects += len(objects)
        image = EncodedImage(example.pixels, str(example.path))
        scores = score_image(self._model, image, objects, self._eval_config, self._config)
        for name, values in scores.columns.items():
            self._columns.setdefault(name, []).append(values)
        main_ious = scores.columns.get("click_iou", scores.columns.get("box_iou"))
        if main_ious is not None:
            self._cases.add(example, objects, main_ious, scores)
        if self._rows is not None:
            self._write_rows(example, objects, scores)

    def _write_rows(self, example: Example, objects: list[GroundTruthObject], scores: ImageScores) -> None:
        assert self._rows is not None and example.pixels is not None
        image_area = example.pixels.shape[0] * example.pixels.shape[1]
        for index, true_object in enumerate(objects):
            row = {
                "image": example.name,
                "object": true_object.name,
                "area": int(rle.area(true_object.rle)) / image_area,
                **{name: float(values[index]) for name, values in scores.columns.items()},
                **scores.details[index],
            }
            self._rows.write(json.dumps(row, allow_nan=False) + "\n")

    def result(self, settings: dict[str, Any], output: Path | None) -> Evaluation:
        """Return the means and the correlation with their intervals, the counts and the failures."""
        measures: dict[str, Measure] = {}
        for name, values in self._columns.items():
            if name not in _REQUIRED_MEASURES or _REQUIRED_MEASURES[name] in self._eval_config.measures:
                measures[name] = self._measure(values)
        measures.pop("predicted_iou", None)
        if "correlation" in self._eval_config.measures:
            pairs = [
                np.stack([predicted, true], 1)
                for predicted, true in zip(self._columns["predicted_iou"], self._columns["click_iou"], strict=True)
            ]
            measures["iou_correlation"] = self._measure(pairs)
        return Evaluation(
            self._images,
            self._objects,
            self._small,
            self._crowds,
            tuple(self._failures),
            settings,
            output,
            **measures,
        )

    def _measure(self, images: list[Values]) -> Measure:
        values = np.concatenate(images)
        if values.ndim == 1:
            value, interval = float(values.mean()), bootstrap_interval(images, None, self._eval_config.seed)
        else:
            value, interval = _correlation(values), bootstrap_interval(images, _correlation, self._eval_config.seed)
        low, high = interval or (None, None)
        return Measure(value, low, high, len(values))


# Columns that are computed for other measures too -> the measure that must be chosen for them to be reported.
_REQUIRED_MEASURES = {"click_iou": "click", "oracle_iou": "click", "disc_iou": "click"}


def _correlation(pairs: Values) -> float:
    return spearman(pairs[:, 0], pairs[:, 1])
