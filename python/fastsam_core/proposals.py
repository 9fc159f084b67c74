"""Object proposals: the masks most likely to be whole objects, best first, as many as are asked for."""

from __future__ import annotations

from typing import Any

import torch

from .config import Config
from .everything.arguments import check_count
from .models.sam_model import SamModel
from .picture import Picture, Stopwatch
from .results import Results
from .segment import generate_records

# Below every score: proposals are ranked, not filtered.
_ALL = -1e30


def propose(
    model: SamModel, picture: Picture, n: int, config: Config, watch: Stopwatch, *, nms_thresh: float = 0.9
) -> Results:
    """At most `n` masks by the mean of predicted IoU and stability score, the highest first; that is their `conf`.

    As Kirillov et al., "Segment Anything" (2023), propose objects: nothing is filtered by quality, and of two masks
    only near-duplicates go, whose boxes have an IoU above `nms_thresh`. The grid and crops are those of `config`.
    """
    count = check_count("n", n)
    everything = config.updated({"conf_thres": _ALL, "stability_score_thresh": _ALL, "iou": nms_thresh})
    records = [
        record for record in generate_records(model, picture, everything, watch, config.verbose) if record["area"]
    ]
    ranked = sorted(records, key=_score, reverse=True)[:count]
    results = Results.from_dicts(picture.pixels, picture.path, ranked, device=model.device)
    if results.boxes is not None and ranked:
        rows = torch.as_tensor(results.boxes.data).clone()
        rows[:, 4] = torch.tensor([_score(record) for record in ranked], device=rows.device)
        results.boxes = type(results.boxes)(rows, results.orig_shape)
    return results


def _score(record: dict[str, Any]) -> float:
    return float(record["predicted_iou"] + record["stability_score"]) / 2
