"""Options of an evaluation: what to measure, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import option_parsers as parse
from ..formats._yaml import SPLITS

MEASURES = ("click", "box", "boundary", "correlation", "noc", "everything")


@dataclass(frozen=True)
class EvaluateConfig:
    """Validated options of an evaluation.

    measures: names from `MEASURES`, as a list or as one comma-separated string; None for all. `click`: IoU of the mask
        for one click; `box`: IoU of the mask for a box; `boundary`: boundary F of the click's mask; `correlation`: rank
        correlation of the click's predicted and true IoU; `noc`: number of clicks to reach an IoU; `everything`:
        average recall of proposals. The last two take most of the time.
    split: which images of a data.yaml, "train", "val" or "test"; without effect on other data.
    min_area: skip objects that cover a smaller fraction of their image, in [0, 1).
    max_images: number of images to evaluate, drawn at random with `seed`; None for all.
    seed: random seed of that draw, of GrabCut and of the bootstrap.
    baselines: also measure a disc for `click` and `boundary`, and GrabCut for `box`.
    mask_feedback: for `noc`, pass the model its previous mask along with each further click, as SAM is trained. False
        passes the clicks alone, for models that don't accept masks as prompts.
    points_stride: points per side of the grid for `everything`; None takes the predictor's option, by default 32.
    rows: also write the values of each object.

    Raises TypeError or ValueError for invalid values.
    """

    measures: Any = None
    split: str = "val"
    min_area: float = 0.005
    max_images: int | None = None
    seed: int = 0
    baselines: bool = True
    mask_feedback: bool = True
    points_stride: int | None = None
    rows: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r}; accepted: {', '.join(SPLITS)}")
        min_area = parse.number(0)("min_area", self.min_area)
        if min_area >= 1:
            raise ValueError(f"min_area must be a fraction of the image, from 0 to below 1, not {self.min_area!r}")
        max_images = None if self.max_images is None else parse.integer(1)("max_images", self.max_images)
        validated = {
            "measures": read_measures(self.measures),
            "min_area": min_area,
            "max_images": max_images,
            "seed": parse.integer(0)("seed", self.seed),
            "baselines": parse.boolean("baselines", self.baselines),
            "mask_feedback": parse.boolean("mask_feedback", self.mask_feedback),
            "points_stride": None
            if self.points_stride is None
            else parse.integer(1)("points_stride", self.points_stride),
            "rows": parse.boolean("rows", self.rows),
        }
        for name, value in validated.items():
            object.__setattr__(self, name, value)

    @property
    def needs_clicks(self) -> bool:
        """Whether any chosen measure needs the masks of one click."""
        return not {"click", "boundary", "correlation", "noc"}.isdisjoint(self.measures)


def read_measures(measures: Any) -> tuple[str, ...]:
    """Return the named measures, without duplicates, in the order of `MEASURES`.

    Names may be in any case. Raises TypeError for anything but a string or a collection of strings, ValueError for
    unknown names or none at all.
    """
    requested = MEASURES if measures is None else measures.split(",") if isinstance(measures, str) else measures
    if not isinstance(requested, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in requested):
        raise TypeError(f"measures must be a list of {', '.join(MEASURES)}, not {measures!r}")
    names = {name.strip().lower() for name in requested}
    unknown = sorted(names - set(MEASURES))
    if unknown or not names:
        raise ValueError(
            f"measures={measures!r}: {', '.join(map(repr, unknown)) or 'none'}; accepted: {', '.join(MEASURES)}"
        )
    return tuple(name for name in MEASURES if name in names)
