"""`evaluate`: how well a model segments the objects of a data set."""

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
from .._files import atomic_path, check_folder, write_text
from .._log import logger
from ..config import Config
from ..models.fingerprint import weights_hash
from ..models.sam_model import SamModel
from ..picture import Picture
from ..predictor import Predictor
from . import baselines, boundary
from .cases import Cases
from .image_scores import LIMIT, ImageScores, score_image
from .report import Evaluation, Measure
from .settings import EvaluateConfig
from .statistics import Values, interval, spearman
from .truth import DataSet, Example, Failure, TrueObject, open_data

RESULTS, ROWS, PICTURE = "val.json", "val.jsonl", "val.jpg"


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
    """Measure the model of `predictor` on a data set with true masks. The same call gives the same numbers.

    data: a COCO .json file, with `images` the folder of its images; or a folder with `images` and `masks`, a PNG for
        each image by the same name (object numbers, or 0 and 255 for one object); or a folder with `images` and
        `labels`, an .npz for each image by the same name with `labels` (H, W) and `segments`, a JSON list of
        `{label, isthing, iscrowd}`, of which things that are no crowds count; or a folder of YOLO's text files with
        polygons, in `labels` with `images` beside it, beside the images, or with `images` the folder of its images.
    imgsz, device: as of a call. Other options, and the type to compute in, are those of `predictor`.
    output: a folder for val.json (settings, numbers), val.jpg (best, median and worst cases) and, with `rows`,
        val.jsonl (a line per object); nothing is written where it is None.
    verbose: show a progress bar on a terminal.
    settings: the fields of `EvaluateConfig`.

    An image or object that can't be used is logged and is among the result's `failures`. ValueError for data in
    another form (with those that are accepted), without any object to evaluate, or values that don't fit; TypeError
    for values of the wrong type; FileNotFoundError where nothing is; PermissionError for a read-only `output`.
    """
    accepted = EvaluateConfig.__dataclass_fields__
    for name in settings:
        if name not in accepted:
            raise TypeError(f"unknown option {name!r} of val; accepted: {', '.join(accepted)}")
    chosen = EvaluateConfig(**settings)
    found = open_data(data, images)
    folder = None if output is None else Path(output)
    if folder is not None:
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f"output={os.fspath(folder)!r} is no folder")
        check_folder(folder)
    options = {"imgsz": imgsz, "device": device, "points_stride": chosen.points_stride}
    config = predictor.args.updated({key: value for key, value in options.items() if value is not None})
    with predictor._lock, ExitStack() as stack:
        model = predictor._ready(config)
        rows = None
        if folder is not None and chosen.rows:
            temporary = stack.enter_context(atomic_path(folder / ROWS))
            rows = stack.enter_context(open(temporary, "w", encoding="utf-8", newline="\n"))
        cases = Cases(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
        run = _Run(model, config, chosen, rows, cases)
        run.all(found, verbose)
        facts = {**_settings(model, config, chosen), "data": os.fspath(data)}
        if images is not None:
            facts["images"] = os.fspath(images)
        result = run.result(facts, folder)
        picture = None if folder is None else cases.picture()
    if folder is not None:
        # What an earlier run left here would seem to belong to this one's numbers.
        if picture is None:
            (folder / PICTURE).unlink(missing_ok=True)
        else:
            from ..plotting import write_image

            write_image(folder / PICTURE, picture)
        if not chosen.rows:
            (folder / ROWS).unlink(missing_ok=True)
        write_text(folder / RESULTS, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    return result


def _settings(model: SamModel, config: Config, chosen: EvaluateConfig) -> dict[str, Any]:
    """What the numbers depend on, JSON-ready."""
    facts: dict[str, Any] = {
        "version": __version__,
        "model": model.name,
        "weights": f"sha256:{weights_hash(model)}",
        "imgsz": model.image_size,
        "device": str(model.device),
        "judgement": asdict(model.judgement),
        "dtype": str(config.dtype or model.dtype).removeprefix("torch."),
        **asdict(chosen),
        "measures": list(chosen.measures),
        "noc_limit": LIMIT,
        "boundary_tolerance": boundary.TOLERANCE,
    }
    del facts["rows"]
    if "everything" in chosen.measures:
        options = config.generate_options(model)
        grids = options.pop("point_grids")
        # Proposals have their own thresholds.
        thresholds = "conf_thres", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"
        for key in ("points_batch_size", "stability_share", "highest_stability", *thresholds):
            del options[key]
        facts["everything"] = options | {
            "point_grids": None if grids is None else [np.asarray(grid).tolist() for grid in grids]
        }
    del facts["points_stride"]
    if chosen.baselines:
        facts["disc_radius"] = f"{baselines.DISC_RADIUS} * sqrt(width * height)"
        facts["grabcut"] = {"iterations": baselines.GRABCUT_ITERATIONS, "side": baselines.GRABCUT_SIDE}
    return facts


class _Run:
    """The values of the objects so far: a few numbers for each, and no picture."""

    def __init__(
        self, model: SamModel, config: Config, chosen: EvaluateConfig, rows: IO[str] | None, cases: Cases
    ) -> None:
        self._model, self._config, self._chosen, self._rows, self._cases = model, config, chosen, rows, cases
        self._columns: dict[str, list[Values]] = {}  # by column, an array per image
        self._images = self._objects = self._small = self._crowds = 0
        self._failures: list[Failure] = []

    def all(self, data: DataSet, verbose: bool) -> None:
        """Every image of the data set, or as many as are wanted."""
        from tqdm import tqdm

        self._fail(list(data.stray()))
        for index in tqdm(self._indices(len(data)), desc="val", unit="image", disable=None if verbose else True):
            self._one(data[index])
        if not self._objects:
            first = self._failures[0] if self._failures else None
            raise ValueError(
                f"no object to evaluate: {self._images} of {len(data)} images could be read, with {self._small} "
                f"objects below min_area={self._chosen.min_area:g} and {self._crowds} crowds"
                + (f"; the first problem: {first.image}: {first.reason}" if first else "")
            )

    def _indices(self, count: int) -> list[int]:
        most = self._chosen.max_images
        if most is None or most >= count:
            return list(range(count))
        drawn = np.random.default_rng(self._chosen.seed).choice(count, most, replace=False)
        return sorted(int(index) for index in drawn)

    def _fail(self, failures: list[Failure]) -> None:
        for failure in failures:
            what = "" if failure.object is None else f", {failure.object}"
            logger.warning("%s%s is left out: %s", failure.image, what, failure.reason)
        self._failures += failures

    def _one(self, example: Example) -> None:
        self._fail(example.failures)
        self._crowds += example.crowds
        if example.pixels is None:
            return
        self._images += 1
        height, width = example.pixels.shape[:2]
        areas = [int(rle.area(found.rle)) for found in example.objects]
        # One without a pixel has nothing to be found, however small an object may be.
        least = max(1.0, self._chosen.min_area * height * width)
        objects = [found for found, area in zip(example.objects, areas, strict=True) if area >= least]
        self._small += len(areas) - len(objects)
        if not objects:
            return
        self._objects += len(objects)
        picture = Picture(example.pixels, str(example.path))
        scores = score_image(self._model, picture, objects, self._chosen, self._config)
        for name, values in scores.columns.items():
            self._columns.setdefault(name, []).append(values)
        main = scores.columns.get("click_iou", scores.columns.get("box_iou"))
        if main is not None:
            self._cases.add(example, objects, main, scores)
        if self._rows is not None:
            self._write_rows(example, objects, scores)

    def _write_rows(self, example: Example, objects: list[TrueObject], scores: ImageScores) -> None:
        assert self._rows is not None and example.pixels is not None
        pixels = example.pixels.shape[0] * example.pixels.shape[1]
        for number, found in enumerate(objects):
            row = {
                "image": example.name,
                "object": found.name,
                "area": int(rle.area(found.rle)) / pixels,
                **{name: float(values[number]) for name, values in scores.columns.items()},
                **scores.details[number],
            }
            self._rows.write(json.dumps(row, allow_nan=False) + "\n")

    def result(self, settings: dict[str, Any], output: Path | None) -> Evaluation:
        """Means, correlation and their intervals."""
        measures: dict[str, Measure] = {}
        for name, values in self._columns.items():
            if name not in _column_needs or _column_needs[name] in self._chosen.measures:
                measures[name] = self._measure(values)
        measures.pop("predicted_iou", None)
        if "correlation" in self._chosen.measures:
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
        together = np.concatenate(images)
        if together.ndim == 1:
            value, between = float(together.mean()), interval(images, None, self._chosen.seed)
        else:
            value, between = _correlation(together), interval(images, _correlation, self._chosen.seed)
        low, high = between or (None, None)
        return Measure(value, low, high, len(together))


# Columns that come along with others, and the measure for which they are told.
_column_needs = {"click_iou": "click", "oracle_iou": "click", "disc_iou": "click"}


def _correlation(pairs: Values) -> float:
    return spearman(pairs[:, 0], pairs[:, 1])
