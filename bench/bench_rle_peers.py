"""RLE of 200 masks of one large image, compared with pycocotools and faster-coco-eval in the layout they prefer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fastsam_core import rle

from .bench_rle import blobs
from .timing import RowCollector, interleaved_medians, require_package

COUNT = 200
MODULES = {"pycocotools": "pycocotools", "faster_coco_eval": "faster_coco_eval"}

DIFFERENCES = {"encode": "codes that differ", "decode": "pixels differ", "iou": "max abs difference of the outputs"}


@lru_cache
def masks() -> np.ndarray:
    """Return 200 masks as (H, W, 200) uint8, column-major, which the peers accept without a copy."""
    return np.asfortranarray(blobs(COUNT).transpose(1, 2, 0))


def peer_module(peer: str) -> Any:
    require_package(MODULES[peer])
    if peer == "pycocotools":
        from pycocotools import mask as module
    else:
        from faster_coco_eval.core import mask as module
    return module


@pytest.mark.parametrize("peer", list(MODULES))
@pytest.mark.parametrize("function", ["encode", "decode", "iou"])
def test_rle(rows: RowCollector, function: str, peer: str) -> None:
    theirs, dense = peer_module(peer), masks()
    encoded = rle.encode(dense)
    their_encoded = theirs.encode(dense)
    crowd = [0] * COUNT

    def make_call(module: Any, rles: Any) -> Callable[[], Any]:
        if function == "encode":
            return lambda: module.encode(dense)
        if function == "decode":
            return lambda: module.decode(rles)
        return lambda: module.iou(rles, rles, crowd)

    ours, peers = make_call(rle, encoded), make_call(theirs, their_encoded)
    our_output, their_output = ours(), peers()
    if function == "encode":
        difference = float(sum(a["counts"] != b["counts"] for a, b in zip(our_output, their_output, strict=True)))
    elif function == "decode":
        difference = float(not np.array_equal(our_output, their_output))
    else:
        difference = float(np.abs(our_output - their_output).max())
    del our_output, their_output
    rounds = rows.rounds(9 if function == "iou" else 5)
    seconds = interleaved_medians({"ours": ours, "peer": peers}, rounds)
    rows.add(
        f"rle_{function}/{peer}",
        (seconds["ours"], seconds["peer"]),
        rounds,
        difference=difference,
        tolerance=1e-12,
        difference_of=DIFFERENCES[function],
    )
