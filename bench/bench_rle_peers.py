"""RLE of 200 masks of one large image, compared with pycocotools and faster-coco-eval in the layout they prefer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fastsam_core import rle

from .bench_rle import blobs
from .interleave import Rows, medians, need

COUNT = 200
MODULES = {"pycocotools": "pycocotools", "faster_coco_eval": "faster_coco_eval"}

DIFFERENCES = {"encode": "codes that differ", "decode": "pixels differ", "iou": "max abs difference of the outputs"}


@lru_cache
def masks() -> np.ndarray:
    """Return 200 masks as (H, W, 200) uint8, column-major, which the peers accept without a copy."""
    return np.asfortranarray(blobs(COUNT).transpose(1, 2, 0))


def peer_module(peer: str) -> Any:
    need(MODULES[peer])
    if peer == "pycocotools":
        from pycocotools import mask as module
    else:
        from faster_coco_eval.core import mask as module
    return module


@pytest.mark.parametrize("peer", list(MODULES))
@pytest.mark.parametrize("function", ["encode", "decode", "iou"])
def test_rle(rows: Rows, function: str, peer: str) -> None:
    theirs, dense = peer_module(peer), masks()
    encoded = rle.encode(dense)
    their_encoded = theirs.encode(dense)
    crowd = [0] * COUNT

    def work(module: Any, codes: Any) -> Callable[[], Any]:
        if function == "encode":
            return lambda: module.encode(dense)
        if function == "decode":
            return lambda: module.decode(codes)
        return lambda: module.iou(codes, codes, crowd)

    ours, peers = work(rle, encoded), work(theirs, their_encoded)
    got, wanted = ours(), peers()
    if function == "encode":
        differing = float(sum(a["counts"] != b["counts"] for a, b in zip(got, wanted, strict=True)))
    elif function == "decode":
        differing = float(not np.array_equal(got, wanted))
    else:
        differing = float(np.abs(got - wanted).max())
    del got, wanted
    rounds = rows.rounds(9 if function == "iou" else 5)
    spent = medians({"ours": ours, "peer": peers}, rounds)
    rows.add(
        f"rle_{function}/{peer}",
        (spent["ours"], spent["peer"]),
        rounds,
        difference=differing,
        tolerance=1e-12,
        difference_of=DIFFERENCES[function],
    )
