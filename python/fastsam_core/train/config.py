"""Settings that determine the result of a training run: sizes, steps, learning rate, prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .pool import MAX_PLANES
from .prompts import PLANE_SHARES


@dataclass(frozen=True)
class Phase:
    """A phase of `steps` steps on `batch` images each, whose long side has `size` pixels (a multiple of 16)."""

    size: int
    steps: int
    batch: int


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
        model: a name in `models.registry`, to train from scratch; else a checkpoint's name or path, to train further.
        train: "all", or "decoder" to freeze the image encoder.
        phases: run one after the other, usually with increasing size.
        prompts: prompts per image; a third of them are boxes, the others clicks.
        pool: number of images that the pool holds, from which batches are drawn.
        reuse: how often an image is drawn on average before a new one replaces it.
        learning_rate, final_learning_rate: linear warm-up to the first, then half a cosine down to the second, or
            no cosine if the first is lower.
        warmup_steps: steps of the warm-up.
        weight_decay: of AdamW, for parameters with more than one dimension.
        average_decay: decay of the exponential moving average of the weights, which is the result of the run.
        final_evenness, evenness_share: the `evenness` of `losses.WeightedTargets` rises from 0 to the first, which it
            reaches after the second, a fraction of the run.
        auxiliary, final_auxiliary: weight of the dense loss on the image embedding (`auxiliary.py`) at the start and
            at the end.
        mask_feedback: fraction of the prompts with a further click that also get the previous mask.
        min_area: smallest object to ask for, as a fraction of the image.
        plane_shares: relative frequencies of prompts for the regions of each plane of labels; () draws all regions
            with equal probability.
        background: number of clicks outside all objects for each click on one. They teach a low predicted IoU there.
            Use 0 for labels that leave objects out: then nothing is learned from views without an object, either.
        rounds: relative frequencies of steps with one round of prompts, two rounds, and so on.
        iou_weight: weight of the predicted IoU's error relative to the mask losses.
        precision: "float32" or "bfloat16" (autocast).
        minutes: time limit of the run; if the steps would take longer, the schedule follows the clock. 0 for none.
        seed: of all randomness.
    """

    model: str = "sam_nano"
    train: str = "all"
    phases: tuple[Phase, ...] = (Phase(256, 6000, 16), Phase(512, 2000, 8))
    prompts: int = 12
    pool: int = 512
    reuse: float = 4.0
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 150
    weight_decay: float = 0.02
    average_decay: float = 0.999
    final_evenness: float = 0.75
    evenness_share: float = 0.35
    auxiliary: float = 0.5
    final_auxiliary: float = 0.1
    mask_feedback: float = 0.6
    min_area: float = 0.003
    plane_shares: tuple[float, ...] = PLANE_SHARES
    background: float = 0.06
    rounds: tuple[float, ...] = (0.4, 0.25, 0.2, 0.15)
    iou_weight: float = 1.0
    precision: str = "float32"
    minutes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train not in ("all", "decoder"):
            raise ValueError(f"train is 'all' or 'decoder', not {self.train!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is 'float32' or 'bfloat16', not {self.precision!r}")
        if not self.phases:
            raise ValueError("a run has at least one phase")
        for phase in self.phases:
            if phase.size < 32 or phase.size % 16 or phase.steps < 1 or phase.batch < 1:
                raise ValueError(f"{phase}: the size is a multiple of 16 from 32, steps and batch are at least 1")
        for name, shares in (("plane_shares", self.plane_shares or (1.0,)), ("rounds", self.rounds)):
            if any(not 0 <= share < math.inf for share in shares) or not sum(shares):
                raise ValueError(
                    f"{name} must be finite and not negative, and at least one above 0; given: {getattr(self, name)!r}"
                )
        if len(self.plane_shares) > MAX_PLANES:
            raise ValueError(f"plane_shares has up to {MAX_PLANES} numbers, not {len(self.plane_shares)}")
        not_negative = ("min_area", "minutes", "background", "iou_weight", "learning_rate", "warmup_steps", "seed")
        for name, minimum in {"prompts": 3, "pool": 1, "reuse": 1, **dict.fromkeys(not_negative, 0)}.items():
            if not minimum <= getattr(self, name) < math.inf:  # also rejects NaN, which would spread to the weights
                raise ValueError(f"{name} is {minimum} or more, not {getattr(self, name)!r}")
        if self.seed >= 1 << 63:
            raise ValueError(f"seed is below 2**63, not {self.seed}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is from 0 to below 1, not {self.average_decay!r}")

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def size(self) -> int:
        """Size in pixels at which images are stored: the largest of all phases."""
        return max(phase.size for phase in self.phases)

    def phase_at(self, progress: float) -> int:
        """Return the index of the phase at `progress`, a fraction of the run."""
        cumulative_steps = 0
        for index, phase in enumerate(self.phases):
            cumulative_steps += phase.steps
            if progress * self.steps < cumulative_steps:
                return index
        return len(self.phases) - 1

    def learning_rate_at(self, step: int, progress: float) -> float:
        final_rate = min(self.final_learning_rate, self.learning_rate)
        rate = final_rate + (self.learning_rate - final_rate) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def evenness_at(self, progress: float) -> float:
        """Return the evenness at `progress`: a linear ramp from balanced to nearly plain cross-entropy.

        Training starts balanced until masks have begun to form; see `losses.WeightedTargets.losses`.
        """
        return self.final_evenness * min(1.0, progress / max(self.evenness_share, 1e-6))

    def auxiliary_at(self, progress: float) -> float:
        return self.auxiliary + (self.final_auxiliary - self.auxiliary) * min(1.0, progress)
