"""Result of an evaluation: its numbers, as a table and as the content of `val.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._log import format_count
from .datasets import Failure


@dataclass(frozen=True)
class Measure:
    """A mean over objects, or a correlation, with its 95 % interval by the bootstrap over images.

    value: NaN for a correlation of values that are all equal. low, high: the interval, None for fewer than two images
    with objects or if the statistic is NaN in all resamples. objects: number of objects measured.
    """

    value: float
    low: float | None
    high: float | None
    objects: int


# Field of `Evaluation` -> its title in the table, the field of its baseline if any, and the baseline's name.
_ROWS: dict[str, tuple[str, str | None, str]] = {
    "click_iou": ("one click, IoU, best of 3 by predicted IoU", "disc_iou", "disc"),
    "oracle_iou": ("one click, IoU, best of 3 by true IoU", None, ""),
    "box_iou": ("box, IoU", "grabcut_iou", "GrabCut"),
    "boundary_f": ("one click, boundary F", "disc_boundary_f", "disc"),
    "iou_correlation": ("one click, rank correlation of predicted and true IoU", None, ""),
    "noc85": ("clicks to an IoU of 0.85 (NoC@85)", None, ""),
    "noc90": ("clicks to an IoU of 0.90 (NoC@90)", None, ""),
    "ar100": ("everything, AR@100", None, ""),
    "ar1000": ("everything, AR@1000", None, ""),
}


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation. Measures that were not asked for are None. `print` shows a table.

    Attributes:
        images: number of images that could be used, with objects or without.
        objects: number of objects evaluated.
        small: number of objects left out because they cover less than `min_area` of their image, or no pixel.
        crowds: number of objects left out because they are marked as a crowd.
        failures: images, files and objects that could not be used.
        settings: options, model and data set, JSON-ready.
        output: the folder written, if any.
        click_iou: mean IoU of the mask for one click on the object's innermost pixel, best of three by predicted IoU.
        oracle_iou: the same, best of three by true IoU.
        box_iou: mean IoU of the single mask for the box of the object's outermost pixels.
        boundary_f: mean `boundary.boundary_f` of the click's mask.
        iou_correlation: Spearman's rank correlation of the click's predicted and true IoU, over all objects.
        noc85, noc90: mean number of clicks until the IoU reaches 0.85 or 0.90, counted as 20 if 20 are not enough.
        noc85_reached, noc90_reached: fraction of objects that reach it within 20 clicks.
        ar100, ar1000: average recall of that many proposals.
        disc_iou, disc_boundary_f, grabcut_iou: the same measures of the baselines.
    """

    images: int
    objects: int
    small: int
    crowds: int
    failures: tuple[Failure, ...]
    settings: Mapping[str, Any]
    output: Path | None = None
    click_iou: Measure | None = None
    oracle_iou: Measure | None = None
    box_iou: Measure | None = None
    boundary_f: Measure | None = None
    iou_correlation: Measure | None = None
    noc85: Measure | None = None
    noc85_reached: Measure | None = None
    noc90: Measure | None = None
    noc90_reached: Measure | None = None
    ar100: Measure | None = None
    ar1000: Measure | None = None
    disc_iou: Measure | None = None
    disc_boundary_f: Measure | None = None
    grabcut_iou: Measure | None = None

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures that are not None, by field name."""
        all_measures = {name: getattr(self, name) for name in _MEASURE_FIELDS}
        return {name: measure for name, measure in all_measures.items() if measure is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return settings, counts, measures and failures, JSON-ready. A NaN value becomes None."""
        measures = {name: asdict(measure) for name, measure in self.measures.items()}
        for measure in measures.values():
            if measure["value"] != measure["value"]:
                measure["value"] = None
        return {
            "settings": dict(self.settings),
            "images": self.images,
            "objects": self.objects,
            "left_out": {"small": self.small, "crowds": self.crowds},
            "measures": measures,
            "failures": [asdict(failure) for failure in self.failures],
        }

    def table(self) -> str:
        """Return a table of the measures, each with its interval and its baseline."""
        rows = [("", "model", "95 % interval", "baseline")]
        for name, (title, baseline, baseline_name) in _ROWS.items():
            measure = self.measures.get(name)
            if measure is None:
                continue
            interval = "" if measure.low is None else f"{_format_value(measure.low)} to {_format_value(measure.high)}"
            baseline_measure = self.measures.get(baseline or "")
            rows.append(
                (
                    title,
                    _format_value(measure.value),
                    interval,
                    f"{baseline_name} {_format_value(baseline_measure.value)}" if baseline_measure else "",
                )
            )
            reached = self.measures.get(f"{name}_reached")
            if reached is not None:
                reached_interval = (
                    "" if reached.low is None else f"{_format_percent(reached.low)} to {_format_percent(reached.high)}"
                )
                rows.append(
                    ("  objects that reach it in 20 clicks", _format_percent(reached.value), reached_interval, "")
                )
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._format_header(), *lines])

    def _format_header(self) -> str:
        min_percent = 100 * float(self.settings["min_area"])
        head = (
            f"{self.settings['model']} at {self.settings['imgsz']} pixels: {format_count(self.objects, 'object')} of "
            f"at least {min_percent:g} % of the image in {format_count(self.images, 'image')}; skipped: {self.small} "
            f"smaller, {format_count(self.crowds, 'crowd')}"
        )
        images = sum(failure.object is None for failure in self.failures)
        if self.failures:
            objects = len(self.failures) - images
            head += f"; could not be used: {format_count(images, 'image or file', 'images or files')}, "
            head += format_count(objects, "object")
        return head

    __str__ = table


_MEASURE_FIELDS = tuple(name for name, field in Evaluation.__dataclass_fields__.items() if "Measure" in str(field.type))


def _format_value(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}" if abs(value) < 1.0005 else f"{value:.2f}"


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
