"""What is measured, and how: the options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import _number, _switch, _whole

MEASURES = ("click", "box", "boundary", "correlation", "noc", "everything")


@dataclass(frozen=True)
class EvaluateConfig:
    """Checked options.

    measures: which of `MEASURES`, by their names in a list, or one text with commas; None for all. `click`: IoU of one
    click; `box`: IoU of a box; `boundary`: boundary F of the click's mask; `correlation`: of its predicted and true
    IoU; `noc`: number of clicks; `everything`: average recall of proposals. The last two take most of the time.
    min_area: leave out objects that cover a smaller share of their picture, in [0, 1).
    max_images: evaluate so many images, drawn by `seed`; None for all. seed: also of GrabCut and the bootstrap.
    baselines: measure a disc for `click` and `boundary`, and GrabCut for `box`, too.
    mask_feedback: for `noc`, give the model its mask before each further click, as SAM is trained; False: only the
        clicks, for models that don't know masks as prompts.
    points_stride: points per side of the grid for `everything`; None: as the model's options have it, 32.
    rows: write the values of each object as well.

    TypeError and ValueError for values that don't fit.
    """

    measures: Any = None
    min_area: float = 0.005
    max_images: int | None = None
    seed: int = 0
    baselines: bool = True
    mask_feedback: bool = True
    points_stride: int | None = None
    rows: bool = False

    def __post_init__(self) -> None:
        least = _number(0)("min_area", self.min_area)
        if least >= 1:
            raise ValueError(f"min_area is a share of the picture, from 0 to below 1, not {self.min_area!r}")
        most = None if self.max_images is None else _whole(1)("max_images", self.max_images)
        checked = {
            "measures": read_measures(self.measures),
            "min_area": least,
            "max_images": most,
            "seed": _whole(0)("seed", self.seed),
            "baselines": _switch("baselines", self.baselines),
            "mask_feedback": _switch("mask_feedback", self.mask_feedback),
            "points_stride": None if self.points_stride is None else _whole(1)("points_stride", self.points_stride),
            "rows": _switch("rows", self.rows),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def clicks(self) -> bool:
        """Whether the masks of one click are needed."""
        return not {"click", "boundary", "correlation", "noc"}.isdisjoint(self.measures)


def read_measures(measures: Any) -> tuple[str, ...]:
    """The measures named, each once, in a fixed order."""
    given = MEASURES if measures is None else measures.split(",") if isinstance(measures, str) else measures
    if not isinstance(given, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"measures must be a list of {', '.join(MEASURES)}, not {measures!r}")
    wanted = {name.strip().lower() for name in given}
    unknown = sorted(wanted - set(MEASURES))
    if unknown or not wanted:
        raise ValueError(
            f"measures={measures!r}: {', '.join(map(repr, unknown)) or 'none'}; accepted: {', '.join(MEASURES)}"
        )
    return tuple(name for name in MEASURES if name in wanted)
